//! The programs that read 1.2's log and history today: they are run as they are, with their own rule files, on what the
//! implementation under test has written.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tempfile::NamedTempFile;

use crate::bench::target;

/// Whom fail2ban's stock filter finds in this history: `fail2ban-regex`, an address a line.
pub(crate) fn fail2ban(history: &str) -> String {
    let mut file = NamedTempFile::new().expect("a temporary file can be made");
    file.write_all(history.as_bytes())
        .expect("the file is ours");
    let fail2ban = target().join("fail2ban");
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-B")
        .arg(fail2ban.join("usr/bin/fail2ban-regex"))
        .arg("-c")
        .arg(fail2ban.join("etc/fail2ban"))
        .args(["-o", "id"])
        .arg(file.path())
        .arg("portsentry")
        .env("PYTHONPATH", fail2ban.join("usr/lib/python3/dist-packages"));
    filter(command, "")
}

/// Which history file fail2ban's stock jail reads.
pub(crate) fn fail2ban_reads() -> String {
    let jails = read("fail2ban/etc/fail2ban/jail.conf");
    let jail = jails
        .split_once("\n[portsentry]\n")
        .expect("it has a jail for portsentry")
        .1;
    let path = jail
        .lines()
        .find_map(|line| line.strip_prefix("logpath"))
        .expect("the jail has a path");
    path.trim_start_matches([' ', '=']).to_owned()
}

/// What logwatch reports of these log lines.
pub(crate) fn logwatch(log: &str) -> String {
    let share = target().join("logwatch/usr/share/logwatch");
    let mut command = Command::new("perl");
    command
        .arg("-I")
        .arg(share.join("lib"))
        .arg(share.join("scripts/services/portsentry"))
        .env("LOGWATCH_NUMERIC", "1");
    filter(command, log)
}

/// The rules of prelude-lml that match these log lines: the first that does, by its id and what it takes for what.
pub(crate) fn prelude(log: &str) -> String {
    let rules = read("prelude/etc/prelude-lml/ruleset/portsentry.rules");
    let rules: Vec<(String, String)> = rules
        .split("\nregex=")
        .skip(1)
        .map(|rule| {
            let (pattern, rest) = rule
                .split_once("; \\\n")
                .expect("a rule begins with its pattern");
            let id = rest
                .split_once(" id=")
                .and_then(|(_, id)| id.split_once(';'));
            (
                id.expect("a rule has an id").0.to_owned(),
                pattern.to_owned(),
            )
        })
        .collect();
    let mut found = String::new();
    for line in log.lines() {
        let rule = rules
            .iter()
            .find(|(_, pattern)| !grep(pattern, line).is_empty());
        if let Some((id, _)) = rule {
            found.push_str(id);
            found.push('\n');
        }
    }
    found
}

/// What Wazuh's decoders of portsentry's log take out of these lines. They are no Debian package; these are their patterns,
/// for the program named portsentry, in the notation of `grep -P`.
pub(crate) fn wazuh(log: &str) -> String {
    let mut found = grep(
        r"attackalert: Connect from host: \K\S+/\S+ to \S+ port: \d+$",
        log,
    );
    found.push_str(&grep(
        r"Host: \K\S+(?= is already blocked\. Ignoring$)",
        log,
    ));
    found
}

/// What of these lines matches: `grep -oP`.
fn grep(pattern: &str, text: &str) -> String {
    let mut command = Command::new("grep");
    command.args(["-oP", pattern]);
    filter(command, text)
}

fn read(path: &str) -> String {
    let path = target().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; tests/compliance/fetch gets it",
            path.display()
        )
    })
}

/// Runs a program on a text; what it printed. It may find nothing, and say so by its exit status.
fn filter(mut command: Command, text: &str) -> String {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut input = child.stdin.take().expect("it was asked for");
    input
        .write_all(text.as_bytes())
        .expect("it reads its input");
    drop(input);
    let output = child.wait_with_output().expect("it is our child");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.is_empty(), "{command:?} complains: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
