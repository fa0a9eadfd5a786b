//! Rules of iptables that shut out a single address: found with `iptables-save`, deleted one by one in the same words.
//!
//! Known are the shapes that configurations of 1.2 make: a rule of INPUT that drops or refuses all from one address, and beside it
//! one that logs. Programs are run, because iptables has no interface but its own programs.

use std::collections::HashMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output, Stdio};

/// A rule of INPUT, as often as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whom it is about.
    pub address: IpAddr,
    /// How often it stands there. 1.2 forgets whom it has blocked, and adds the same again.
    pub times: usize,
    /// Whether it only logs.
    pub logs: bool,
    program: &'static str,
    /// What follows `-A INPUT`.
    words: Vec<String>,
}

/// Programs that list rules. Each belongs to one that changes them, of the same name without the end.
const BOTH: [&str; 2] = ["iptables-nft-save", "iptables-legacy-save"];
/// The one that is there where the kinds have no programs of their own.
const PLAIN: &str = "iptables-save";

/// Seconds that iptables may wait for another iptables.
const WAIT: &str = "10";

/// Lists the rules of both kinds of iptables. What could not be asked is told, a sentence each.
#[must_use]
pub fn list() -> (Vec<Rule>, Vec<String>) {
    list_by(|program| run(program, &[]))
}

fn list_by(run: impl Fn(&str) -> io::Result<Output>) -> (Vec<Rule>, Vec<String>) {
    let (mut rules, mut troubles) = (Vec::new(), Vec::new());
    let mut missing = 0;
    for program in BOTH.into_iter().chain([PLAIN]) {
        if program == PLAIN && missing < BOTH.len() {
            break;
        }
        match run(program) {
            Ok(output) if output.status.success() => {
                let changes = program.strip_suffix("-save").unwrap_or(program);
                rules.extend(read(changes, &output.stdout));
            }
            Ok(output) => troubles.push(format!("{program} failed: {}", last_words(&output))),
            Err(cause) if cause.kind() == ErrorKind::NotFound => missing += 1,
            Err(cause) => troubles.push(format!("cannot run {program}: {cause}")),
        }
    }
    if missing > BOTH.len() {
        troubles.push(format!(
            "there is no {PLAIN}: rules of iptables, if there are any, were not looked for"
        ));
    }
    (rules, troubles)
}

impl Rule {
    /// Deletes it as often as it stands there; one that is not there is no error.
    ///
    /// # Errors
    /// What iptables said.
    pub fn remove(&self) -> Result<(), String> {
        for _ in 0..self.times {
            let mut arguments = vec!["-w", WAIT, "-D", "INPUT"];
            arguments.extend(self.words.iter().map(String::as_str));
            let output = run(self.program, &arguments)
                .map_err(|cause| format!("cannot run {}: {cause}", self.program))?;
            if output.status.success() {
                continue;
            }
            // iptables says the same of a rule that is gone and of one that it does not know again.
            let (rules, troubles) = list();
            let same = |it: &Rule| it.program == self.program && it.words == self.words;
            if troubles.is_empty() && !rules.iter().any(same) {
                return Ok(());
            }
            return Err(last_words(&output));
        }
        Ok(())
    }
}

/// As it would be typed, but for how often.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -A INPUT", self.program)?;
        self.words.iter().try_for_each(|word| {
            let plain = |char: char| char.is_ascii_alphanumeric() || "-_./:,=+%@".contains(char);
            if !word.is_empty() && word.chars().all(plain) {
                write!(f, " {word}")
            } else {
                write!(f, " '{word}'")
            }
        })
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<Output> {
    // A shell that is not a login shell may not have these.
    let more = "/usr/local/sbin:/usr/sbin:/sbin";
    let path = match env::var_os("PATH") {
        Some(mut path) => {
            path.push(":");
            path.push(more);
            path
        }
        None => OsString::from(more),
    };
    Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
}

/// What a program said when it failed, in one line.
fn last_words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| !line.trim().is_empty());
    line.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())
}

/// The rules in what `iptables-save` prints.
fn read(program: &'static str, text: &[u8]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    let mut in_filter = false;
    let lines = text.split(|&byte| byte == b'\n');
    // What is not UTF-8 is in nobody's configuration.
    for line in lines.filter_map(|line| std::str::from_utf8(line).ok()) {
        if let Some(table) = line.strip_prefix('*') {
            in_filter = table == "filter";
        }
        let Some(words) = line
            .strip_prefix("-A INPUT ")
            .filter(|_| in_filter)
            .and_then(words)
        else {
            continue;
        };
        if let Some(rule) = places.get(&words).and_then(|&place| rules.get_mut(place)) {
            rule.times += 1;
        } else if let Some((address, logs)) = meaning(&words) {
            places.insert(words.clone(), rules.len());
            rules.push(Rule {
                address,
                times: 1,
                logs,
                program,
                words,
            });
        }
    }
    rules
}

/// Whom a rule is about, and whether it only logs; `None` for one that does anything else.
fn meaning(words: &[String]) -> Option<(IpAddr, bool)> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let ["-s", source, rest @ ..] = words.as_slice() else {
        return None;
    };
    let address: Ipv4Addr = source.strip_suffix("/32").unwrap_or(source).parse().ok()?;
    let rest = match rest {
        ["-m", "limit", "--limit", _, "--limit-burst", _, rest @ ..]
        | ["-m", "limit", "--limit", _, rest @ ..]
            if rest.starts_with(&["-j", "LOG"]) =>
        {
            rest
        }
        _ => rest,
    };
    let logs = match rest {
        ["-j", "DROP"] | ["-j", "REJECT"] | ["-j", "REJECT", "--reject-with", _] => false,
        ["-j", "LOG", options @ ..] => {
            let known = |option: &[&str]| matches!(option, ["--log-prefix" | "--log-level", _]);
            if !options.chunks(2).all(known) {
                return None;
            }
            true
        }
        _ => return None,
    };
    Some((address.into(), logs))
}

/// The words of a line as `iptables-save` writes them: quotes around some, a backslash before a quote or another one.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().push(chars.next()?),
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use proptest::prelude::*;

    use super::*;

    const SAVED: &str = r#"# Generated by iptables-save v1.8.9 (nf_tables)
*raw
:INPUT ACCEPT [0:0]
-A INPUT -s 192.0.2.1/32 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -s 192.0.2.1/32 -m limit --limit 3/min -j LOG --log-prefix "Portsentry: \"dropping\": " --log-level 7
-A INPUT -s 192.0.2.1/32 -j DROP
-A INPUT -s 192.0.2.2/32 -j REJECT --reject-with icmp-port-unreachable
-A INPUT -s 192.0.2.1/32 -j DROP
-A INPUT -s 192.0.2.0/24 -j DROP
-A INPUT -s 192.0.2.3/32 -j ACCEPT
-A INPUT -s 192.0.2.3/32 -p tcp -j DROP
-A INPUT -s 192.0.2.3/32 -i eth0 -j DROP
-A INPUT ! -s 192.0.2.3/32 -j DROP
-A INPUT -s 192.0.2.3/32 -d 192.0.2.9/32 -j DROP
-A INPUT -s 192.0.2.3/32 -m limit --limit 3/min -j DROP
-A INPUT -s 192.0.2.3/32 -m comment --comment mine -j DROP
-A FORWARD -s 192.0.2.3/32 -j DROP
COMMIT
"#;

    #[test]
    fn rules_are_found_with_their_number_and_others_are_not() {
        let found: Vec<(String, usize, bool)> = read("iptables-nft", SAVED.as_bytes())
            .iter()
            .map(|rule| (rule.to_string(), rule.times, rule.logs))
            .collect();
        let expected = [
            (
                "iptables-nft -A INPUT -s 192.0.2.1/32 -m limit --limit 3/min -j LOG --log-prefix 'Portsentry: \"dropping\": ' --log-level 7",
                1,
                true,
            ),
            ("iptables-nft -A INPUT -s 192.0.2.1/32 -j DROP", 2, false),
            (
                "iptables-nft -A INPUT -s 192.0.2.2/32 -j REJECT --reject-with icmp-port-unreachable",
                1,
                false,
            ),
        ];
        assert_eq!(
            found,
            expected.map(|(rule, times, logs)| (rule.to_owned(), times, logs))
        );
    }

    #[test]
    fn programs_that_are_not_there_or_fail_are_told() {
        let output = |status: i32, err: &str| Output {
            status: ExitStatus::from_raw(status << 8),
            stdout: SAVED.into(),
            stderr: err.into(),
        };
        let (rules, troubles) = list_by(|_| Err(ErrorKind::NotFound.into()));
        assert_eq!((rules.len(), troubles.len()), (0, 1));
        assert!(
            troubles[0].starts_with("there is no iptables-save: "),
            "{troubles:?}"
        );

        let only = |there: &'static str| {
            move |program: &str| match program {
                program if program == there => Ok(output(0, "")),
                _ => Err(ErrorKind::NotFound.into()),
            }
        };
        for there in ["iptables-nft-save", "iptables-legacy-save", "iptables-save"] {
            let (rules, troubles) = list_by(only(there));
            assert_eq!((rules.len(), troubles), (3, Vec::new()), "{there}");
            assert_eq!(format!("{}-save", rules[0].program), there);
        }

        let (rules, troubles) = list_by(|_| Ok(output(4, "\nnot allowed\nat all\n")));
        assert_eq!(rules, []);
        assert_eq!(
            troubles,
            [
                "iptables-nft-save failed: not allowed",
                "iptables-legacy-save failed: not allowed"
            ]
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            parts in proptest::collection::vec(prop::sample::select(vec![
                "*filter\n", "-A INPUT ", "-s ", "192.0.2.1/32 ", "-j ", "DROP", "LOG ", "--log-prefix ", "\"", "\\", "\n", "é",
                "-m limit --limit ", "1/s ",
            ]), 0..20),
            text in ".{0,100}",
        ) {
            read("iptables", format!("*filter\n{}", parts.concat()).as_bytes());
            read("iptables", format!("*filter\n-A INPUT {text}").as_bytes());
        }
    }
}
