//! What `KILL_ROUTE` and `KILL_RUN_CMD` come to: a plain block that a set in the kernel does better, or a command that
//! stays the admin's own.
//!
//! A block is plain if nothing would be lost: it keeps one address from this host, and does nothing else but log.

use super::super::LogRate;

/// Whom 1.2 fills in: the scanning address …
pub(super) const TARGET: &str = "$TARGET$";
/// … the port …
pub(super) const PORT: &str = "$PORT$";
/// … and the mode.
pub(super) const MODE: &str = "$MODE$";

/// A command that keeps an address from this host and does nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// What of the dropped packets it has the kernel log.
    pub(super) log: Option<LogRate>,
}

/// What one of several commands in a line does.
enum Part {
    Drops,
    Logs(LogRate),
}

impl Block {
    /// What `line` does, if it is a plain block, or several commands of which each is one or logs.
    pub(super) fn of(line: &str) -> Option<Self> {
        let mut drops = false;
        let mut log = None;
        for command in commands(line)? {
            match part(&command)? {
                Part::Drops => drops = true,
                Part::Logs(rate) => log = log.or(Some(rate)),
            }
        }
        drops.then_some(Self { log })
    }
}

/// The text with our placeholders for those of 1.2.
pub(super) fn filled_in(text: &str) -> String {
    text.replace(TARGET, "{source}")
        .replace(PORT, "{port}")
        .replace(MODE, "{mode}")
}

/// The words of each command in `line`, as far as a shell does nothing with them but to join them by `&&` or `;`.
fn commands(line: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        if let Some(length) = redirection(rest).filter(|_| word.is_none()) {
            rest = &rest[length..];
            continue;
        }
        let mut taken = char.len_utf8();
        let mut end_command = false;
        match char {
            ' ' | '\t' => {}
            ';' => end_command = true,
            '&' if rest.starts_with("&&") => {
                taken = 2;
                end_command = true;
            }
            '\'' => {
                let inner = rest[1..].split_once('\'')?.0;
                word.get_or_insert_default().push_str(inner);
                rest = &rest[inner.len() + 2..];
                continue;
            }
            '$' if rest.starts_with(TARGET) => {
                word.get_or_insert_default().push_str(TARGET);
                rest = &rest[TARGET.len()..];
                continue;
            }
            _ if char.is_ascii_alphanumeric() || "-_./:,=+%@".contains(char) => {
                word.get_or_insert_default().push(char);
                rest = &rest[taken..];
                continue;
            }
            _ => return None,
        }
        commands.last_mut()?.extend(word.take());
        if end_command {
            commands.push(Vec::new());
        }
        rest = &rest[taken..];
    }
    commands.last_mut()?.extend(word);
    if commands.len() > 1
        && commands.last().is_some_and(Vec::is_empty)
        && line.trim().ends_with(';')
    {
        commands.pop();
    }
    Some(commands)
}

/// How long a redirection is that only silences a command.
fn redirection(text: &str) -> Option<usize> {
    let stream = text.trim_start_matches(['1', '2', '&']);
    let target = stream
        .strip_prefix('>')
        .filter(|_| text.len() <= stream.len() + 1)?;
    let rest = ["/dev/null", "&1"]
        .into_iter()
        .find_map(|silent| target.trim_start_matches(' ').strip_prefix(silent))?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\t', ';', '&']);
    ends.then(|| text.len() - rest.len())
}

/// What one command does, if that is all it does.
fn part(words: &[String]) -> Option<Part> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (program, arguments) = words.split_first()?;
    let drops = match program.rsplit('/').next()? {
        "iptables" | "iptables-nft" | "iptables-legacy" => return iptables(arguments),
        "route" => matches!(
            arguments,
            ["add", "-host", TARGET, "reject"] | ["add", TARGET, "reject"]
        ),
        "ip" => match arguments {
            [
                "route" | "ro" | "r",
                "add",
                "blackhole" | "unreachable" | "prohibit",
                target,
            ] => is_target(target),
            _ => false,
        },
        "nft" | "nftables" => nft(arguments),
        _ => false,
    };
    drops.then_some(Part::Drops)
}

/// A rule of INPUT that drops what comes from the target, or logs some of it.
fn iptables(arguments: &[&str]) -> Option<Part> {
    let mut arguments = arguments.iter().copied().peekable();
    let (mut input, mut source, mut jump) = (false, false, None);
    let (mut limited, mut limit) = (false, None);
    while let Some(option) = arguments.next() {
        match option {
            "-w" | "--wait" => {
                arguments.next_if(|seconds| seconds.bytes().all(|byte| byte.is_ascii_digit()));
            }
            "-t" | "--table" if arguments.next() == Some("filter") => {}
            "-I" | "--insert" if arguments.next() == Some("INPUT") => {
                input = true;
                arguments.next_if_eq(&"1");
            }
            "-s" | "--source" | "--src" if arguments.next().is_some_and(is_target) => source = true,
            "-j" | "--jump" if jump.is_none() => jump = arguments.next(),
            "-m" | "--match" if arguments.next() == Some("limit") => limited = true,
            "--limit" if limited => limit = Some(rate(arguments.next()?)?),
            "--limit-burst" if limited => drop(arguments.next()?.parse::<u32>().ok()?),
            "--log-level" | "--log-prefix" if jump == Some("LOG") => drop(arguments.next()?),
            _ => return None,
        }
    }
    match jump.filter(|_| input && source)? {
        "DROP" | "REJECT" if !limited => Some(Part::Drops),
        "LOG" => Some(Part::Logs(limit?)),
        _ => None,
    }
}

/// iptables' rates: any beginning of a unit's name will do.
fn rate(text: &str) -> Option<LogRate> {
    let (packets, unit) = text.split_once('/')?;
    let unit = unit.to_ascii_lowercase();
    LogRate::new(packets, |name| !unit.is_empty() && name.starts_with(&unit))
}

/// A rule at the head of an input chain that drops what comes from the target. One at its end is no such block: what the rules
/// before it let in, the administrator perhaps, it does not shut out.
fn nft(arguments: &[&str]) -> bool {
    let rule = match arguments {
        ["insert", "rule", "ip" | "inet", _, chain, rule @ ..]
        | ["insert", "rule", _, chain, rule @ ..]
            if chain.eq_ignore_ascii_case("input") =>
        {
            rule
        }
        _ => return false,
    };
    match rule {
        ["ip", "saddr", target, "drop" | "reject"]
        | ["ip", "saddr", target, "counter", "drop" | "reject"] => is_target(target),
        _ => false,
    }
}

fn is_target(word: &str) -> bool {
    word == TARGET || word.strip_prefix(TARGET) == Some("/32")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn plain_blocks_are_known() {
        for line in [
            "/sbin/iptables -I INPUT -s $TARGET$ -j DROP",
            "/usr/local/sbin/iptables -I INPUT -s $TARGET$ -j DROP",
            "iptables -w -I INPUT --source $TARGET$/32 --jump REJECT",
            "iptables-nft -w 5 -t filter --insert INPUT 1 --src '$TARGET$' -j DROP",
            "/usr/sbin/iptables-legacy -I INPUT -s $TARGET$ -j DROP > /dev/null 2>&1",
            "iptables -I INPUT -s $TARGET$ -j DROP;",
            "iptables -I INPUT -s $TARGET$ -j DROP 2>/dev/null; route add $TARGET$ reject &> /dev/null",
            "/sbin/route add -host $TARGET$ reject",
            "route add $TARGET$ reject",
            "/sbin/ip route add blackhole $TARGET$",
            "ip route add unreachable $TARGET$/32",
            "ip route add prohibit $TARGET$ && iptables -I INPUT -s $TARGET$ -j DROP",
            "nftables insert rule ip filter input ip saddr $TARGET$ drop",
            "/usr/sbin/nft insert rule inet filter INPUT ip saddr $TARGET$ counter drop",
            "nft insert rule filter input ip saddr $TARGET$ drop",
        ] {
            assert_eq!(Block::of(line), Some(Block { log: None }), "{line}");
        }
    }

    #[test]
    fn a_block_that_logs_is_known_with_its_rate() {
        for (limit, packets, seconds) in [
            ("3/minute", 3, 60),
            ("5/s", 5, 1),
            ("10/Hour", 10, 3600),
            ("1/day", 1, 86_400),
        ] {
            for level in ["DEBUG", "debug", "7"] {
                let line = format!(
                    "/sbin/iptables -I INPUT -s $TARGET$ -j DROP && /sbin/iptables -I INPUT -s $TARGET$ -m limit \
                     --limit {limit} --limit-burst 5 -j LOG --log-level {level} --log-prefix 'Portsentry: dropping: '"
                );
                let rate = LogRate {
                    packets,
                    per: Duration::from_secs(seconds),
                };
                assert_eq!(Block::of(&line), Some(Block { log: Some(rate) }), "{line}");
            }
        }
    }

    #[test]
    fn everything_else_stays_the_admins() {
        for line in [
            "",
            ";",
            "&& iptables -I INPUT -s $TARGET$ -j DROP",
            "iptables -I INPUT -s $TARGET$ -j DROP && ",
            "/sbin/route add $TARGET$ 333.444.555.666",
            "/sbin/route add -host $TARGET$ gw 333.444.555.666",
            "/usr/sbin/route add $TARGET$ 333.444.555.666 1",
            "/usr/etc/route add $TARGET$ 127.0.0.1 1",
            "route add -net $TARGET$ -netmask 255.255.255.255 127.0.0.1 -blackhole",
            "/sbin/route add -host -blackhole $TARGET$ 127.0.0.1",
            "/usr/sbin/route add net $TARGET$ netmask 255.255.255.0 127.0.0.1",
            "/sbin/ipfwadm -I -i deny -S $TARGET$ -o",
            "/sbin/ipfwadm -I -i deny -S $TARGET$",
            "/sbin/ipchains -I input -s $TARGET$ -j DENY -l",
            "/sbin/ipchains -I input -s $TARGET$ -j DENY",
            "/sbin/ipfw add 1 deny all from $TARGET$:255.255.255.255 to any",
            "/bin/echo 'block in log on external_interface from $TARGET$/32 to any' | /sbin/ipf -f -",
            "/some/path/here/script $TARGET$ $PORT$ $MODE$",
            "iptables -I INPUT -s $TARGET$ -j LOG",
            "iptables -I INPUT -s $TARGET$ -m limit --limit 3/minute -j LOG",
            "iptables -I INPUT -s $TARGET$ -j DROP && iptables -I INPUT -s $TARGET$ -j LOG",
            "iptables -I INPUT -s $TARGET$ -j ACCEPT",
            "iptables -I INPUT ! -s $TARGET$ -j DROP",
            "iptables -I INPUT -s $TARGET$/24 -j DROP",
            "iptables -I INPUT -s $TARGET$ -p tcp -j DROP",
            "iptables -I INPUT -s $TARGET$ -p tcp --dport $PORT$ -j DROP",
            "iptables -I INPUT -i eth0 -s $TARGET$ -j DROP",
            "iptables -I INPUT 3 -s $TARGET$ -j DROP",
            "iptables -I FORWARD -s $TARGET$ -j DROP",
            "iptables -D INPUT -s $TARGET$ -j DROP",
            "iptables -t raw -I INPUT -s $TARGET$ -j DROP",
            "iptables -I INPUT -s $TARGET$ -m limit --limit 3/minute -j DROP",
            "iptables -I INPUT -s $TARGET$ -j portsentry",
            "iptables -I INPUT -s 192.0.2.1 -j DROP",
            "iptables -I INPUT -s $TARGET$ -j DROP | cat",
            "iptables -I INPUT -s $TARGET$ -j DROP & sleep 1",
            "iptables -I INPUT -s $TARGET$ -j DROP || true",
            "iptables -I INPUT -s $TARGET$ -j DROP && mail -s scan root",
            "iptables -I INPUT -s $TARGET$ -j DROP >/etc/motd",
            "iptables -I INPUT -s $TARGET$ -j DROP >/dev/null/x",
            "iptables -I INPUT -s $TARGET$ -j DROP &",
            "iptables -I INPUT -s `echo $TARGET$` -j DROP",
            "iptables -I INPUT -s 'x$TARGET$ -j DROP",
            "FOO=1 iptables -I INPUT -s $TARGET$ -j DROP",
            "ip route add blackhole $TARGET$ table 5",
            "ip route add $TARGET$ via 127.0.0.1",
            "nft add element inet filter bad { $TARGET$ }",
            "/sbin/iptables -A INPUT -s $TARGET$ -j DROP",
            "nft add rule inet filter input ip saddr $TARGET$ drop",
            "nft insert rule inet filter forward ip saddr $TARGET$ drop",
            "nft insert rule inet filter input ip daddr $TARGET$ drop",
        ] {
            assert_eq!(Block::of(line), None, "{line}");
        }
    }
}
