//! Whether a program of the admin's can do anything with an IPv6 address, told from its words alone.
//!
//! Both mistakes are possible, and not equally bad. A program that is run in vain may end with status 0 all the same
//! (`iptables … ; logger …`), and then a ban is told that does not hold; one that is left out is left out with a word in the log.
//! So one IPv4 program in a line is enough, unless something in the line is about IPv6.

use crate::config::CommandLine;

/// Whether the line runs a program that takes IPv4 addresses alone (`iptables`, `route`, `ipchains`, `ipfwadm`, `ip -4`), and has
/// nothing for IPv6 beside it. `ip route` knows both. What only mentions such a program (`logger -t iptables`) does not run it.
#[must_use]
pub fn knows_only_ipv4(line: &CommandLine) -> bool {
    let line = match line {
        CommandLine::Argv(words) => words.join(" "),
        CommandLine::Shell(line) => line.clone(),
    };
    let mut commands = line.split(|c| ";&|()`\n".contains(c)).map(words);
    !line.contains(IPV6_PATTERN)
        && !commands.clone().flatten().any(is_about_ipv6)
        && commands.any(|words| is_for_ipv4(&words))
}

/// What a shell's `case` tells IPv6 addresses by.
const IPV6_PATTERN: &str = "*:*";

/// Words before the program that do not change which one it is.
const KEYWORDS: [&str; 9] = [
    "if", "then", "elif", "else", "while", "until", "do", "!", "{",
];

/// Programs that run what is named somewhere behind them.
const RUNNERS: [&str; 18] = [
    "sudo", "doas", "env", "exec", "command", "time", "timeout", "nice", "ionice", "nohup",
    "setsid", "flock", "xargs", "ip", "busybox", "sh", "bash", "dash",
];

/// The words of one command; quotes are looked through.
fn words(command: &str) -> Vec<&str> {
    command
        .split(|c: char| c.is_whitespace() || c == '"' || c == '\'')
        .filter(|word| !word.is_empty())
        .collect()
}

fn is_about_ipv6(word: &str) -> bool {
    ["-6", "--ipv6", "inet6", "--inet6"].contains(&word) || name(word).starts_with("ip6tables")
}

fn is_for_ipv4(words: &[&str]) -> bool {
    let is_before = |word: &&&str| KEYWORDS.contains(word) || is_assignment(word);
    let begin = words.iter().take_while(is_before).count();
    let Some((program, rest)) = words[begin..].split_first() else {
        return false;
    };
    match name(program) {
        // Its `route` is not the program of that name, but `ip netns exec … iptables` is.
        "ip" => rest.iter().any(|word| *word == "-4" || is_iptables(word)),
        runner if RUNNERS.contains(&runner) => is_for_ipv4_behind(rest),
        _ => is_ipv4_program(program),
    }
}

/// The same for what stands behind a runner: the first program there that is known decides.
fn is_for_ipv4_behind(words: &[&str]) -> bool {
    let known = |word: &&str| name(word) == "ip" || is_ipv4_program(word);
    let first = words.iter().position(known);
    first.is_some_and(|first| is_for_ipv4(&words[first..]))
}

fn is_ipv4_program(word: &str) -> bool {
    is_iptables(word) || ["route", "ipchains", "ipfwadm"].contains(&name(word))
}

/// `iptables`, `iptables-nft`, `iptables-legacy`, `iptables-restore` …
fn is_iptables(word: &str) -> bool {
    let name = name(word);
    name == "iptables" || name.starts_with("iptables-")
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// A program without its directory.
fn name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_knows_ipv4_alone_is_told_by_its_words() {
        for line in [
            "/sbin/iptables -I INPUT -s {source} -j DROP",
            "/sbin/iptables -I INPUT -s {source} -j DROP && /sbin/iptables -I INPUT -s {source} -j LOG",
            "iptables -I INPUT -s {source} -j DROP; logger banned {source}",
            "iptables-legacy -A x -s {source}",
            "/usr/sbin/iptables-nft -A x -s {source}",
            "/sbin/route add -host {source} gw 10.0.0.99",
            "/sbin/route add -host {source} reject",
            "/sbin/ipchains -I input -s {source} -j DENY -l",
            "/sbin/ipfwadm -I -i deny -S {source} -o",
            "(sudo iptables -A x -s {source})",
            "sudo -u root iptables -A x -s {source}",
            "timeout 5 /sbin/route add -host {source} reject",
            "if ! iptables -C x -s {source}; then iptables -A x -s {source}; fi",
            "IPT=1 iptables -A x -s {source}",
            "echo x | sh -c 'iptables -A x -s {source}'",
            "iptables -A x -m comment --comment 'a;b' -s {source}",
            "ip -4 route add blackhole {source}",
            "ip netns exec lan iptables -A x -s {source}",
        ] {
            let shell = CommandLine::Shell(line.to_owned());
            assert!(knows_only_ipv4(&shell), "{line}");
        }
    }

    #[test]
    fn what_may_know_ipv6_is_not_held_back() {
        for line in [
            "",
            "/usr/local/bin/block {source}",
            "/usr/local/bin/block iptables {source}",
            "ip route add blackhole {source}",
            "sudo ip route add blackhole {source}",
            "/sbin/ip -6 route add blackhole {source}",
            "case {source} in *:*) ip6tables -A x;; *) iptables -A x;; esac",
            "case {source} in *:*) nft -f x;; *) iptables -A x;; esac",
            "iptables -A x -s {source} || ip6tables -A x -s {source}",
            "for t in iptables ip6tables; do $t -A x -s {source}; done",
            "route -A inet6 add {source}/128 reject",
            "/etc/iptables/up {source}",
            "logger -t iptables 'scan from {source}'",
            "echo {source} >> /var/log/route",
            "nft add element inet f s '{ {source} }'",
            "ufw insert 1 deny from {source}",
        ] {
            let shell = CommandLine::Shell(line.to_owned());
            assert!(!knows_only_ipv4(&shell), "{line}");
        }
    }

    #[test]
    fn words_are_told_as_lines_are() {
        let argv = |words: &[&str]| {
            CommandLine::Argv(words.iter().map(|word| (*word).to_owned()).collect())
        };
        let iptables = ["/sbin/iptables", "-I", "INPUT", "-s", "{source}"];
        assert!(knows_only_ipv4(&argv(&iptables)));
        assert!(knows_only_ipv4(&argv(&[
            "sh",
            "-c",
            "true; route add {source}"
        ])));
        assert!(!knows_only_ipv4(&argv(&[
            "/usr/bin/notify",
            "iptables",
            "{source}"
        ])));
        assert!(!knows_only_ipv4(&argv(&[
            "/sbin/ip",
            "route",
            "add",
            "blackhole",
            "{source}"
        ])));
    }
}
