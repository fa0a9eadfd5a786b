//! What the program says on a host without network namespaces, without root and without a daemon: usage, `check`, and the
//! commands that find nobody to talk to.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory with a configuration in it.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let files = Self { dir };
        files.write("portsentry.toml", config);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("it lies in our directory"))
            .expect("the directory is ours");
        fs::write(path, text).expect("the directory is ours");
    }

    /// Runs `portsentry -c portsentry.toml ARGS` in the directory, so that files are named as they were typed.
    fn portsentry(&self, args: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portsentry"));
        command
            .current_dir(&self.dir)
            .args(["-c", "portsentry.toml"])
            .args(args);
        Said::from(command.output().expect("it was built with this test"))
    }
}

/// What a command printed, and its exit status.
#[derive(Debug)]
struct Said {
    status: i32,
    out: String,
    err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// A configuration whose files lie in the directory: no daemon of this host answers.
const APART: &str = "[ignore]\nfiles = [\"/dev/null\"]\n";

#[test]
fn help_and_version_go_to_standard_output() {
    let files = Files::new("");
    let said = files.portsentry(&["--version"]);
    assert_eq!(
        (said.status, said.out),
        (0, format!("portsentry {}\n", env!("CARGO_PKG_VERSION")))
    );
    let said = files.portsentry(&["--help"]);
    assert_eq!(said.status, 0);
    for command in [
        "run", "check", "convert", "status", "list", "ban", "unban", "history", "reload",
        "withdraw",
    ] {
        assert!(
            said.out.contains(&format!("\n  {command} ")),
            "{command}: {}",
            said.out
        );
        assert_eq!(
            files.portsentry(&[command, "--help"]).status,
            0,
            "{command}"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let files = Files::new("");
    for args in [
        &[] as &[&str],
        &["blck", "192.0.2.1"],
        &["ban"],
        &["ban", "example.org"],
        &["ban", "192.0.2.1", "--for", "5 apples"],
        &["ban", "192.0.2.1", "--for", "5M"],
        &["unban"],
        &["unban", "192.0.2.1/33"],
        &["unban", "--all", "192.0.2.1"],
        &["history", "-n", "-1"],
        &["status", "--xml"],
        &["reload", "now"],
        &["convert", "--modes", "atcp,tdp"],
    ] {
        let said = files.portsentry(args);
        assert_eq!(
            (said.status, said.out.as_str()),
            (2, ""),
            "{args:?}: {said:?}"
        );
    }
    let said = files.portsentry(&["unban", "nonsense"]);
    assert!(
        said.err
            .contains("not an IP address or prefix: \"nonsense\""),
        "{said:?}"
    );
}

#[test]
fn the_configuration_as_shipped_is_good() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/portsentry.toml");
    let said = Files::new("").portsentry(&["check", shipped]);
    assert_eq!(
        (said.status, said.out),
        (0, format!("{shipped}: no mistakes found\n")),
        "{}",
        said.err
    );
}

#[test]
fn an_empty_configuration_is_good() {
    let said = Files::new("").portsentry(&["check"]);
    assert_eq!(
        (said.status, said.out.as_str()),
        (0, "portsentry.toml: no mistakes found\n"),
        "{}",
        said.err
    );
}

#[test]
fn all_mistakes_are_told_at_once_with_their_place_and_the_nearest_name() {
    let files = Files::new(
        "\
[detect]
triger = 3
window = \"soon\"

[tcp]
mode = \"stelth\"
ports = [23, \"99-1\", 70000]

[bann]
duration = \"1h\"
",
    );
    let said = files.portsentry(&["check"]);
    assert_eq!((said.status, said.out.as_str()), (78, ""), "{said:?}");
    for words in [
        "portsentry.toml:2:1: ",
        "trigger",
        "portsentry.toml:3:10: ",
        "portsentry.toml:6:8: ",
        "stealth",
        "portsentry.toml:7:14: ",
        "portsentry.toml:7:22: ",
        "portsentry.toml:9:2: ",
        "did you mean [ban]?",
    ] {
        assert!(said.err.contains(words), "{words} in:\n{}", said.err);
    }
    assert!(
        said.err.contains("\n  triger = 3\n  ^~~~~~\n"),
        "the line and a mark under the place:\n{}",
        said.err
    );
}

#[test]
fn a_configuration_that_is_no_toml_is_told_with_its_place() {
    let said = Files::new("[detect\ntrigger = 3\n").portsentry(&["check"]);
    assert_eq!(said.status, 78, "{said:?}");
    assert!(said.err.contains("portsentry.toml:1:"), "{said:?}");
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    let said = Files::new("").portsentry(&["check", "nowhere.toml"]);
    assert_eq!(said.status, 78, "{said:?}");
    assert!(said.err.contains("nowhere.toml: "), "{said:?}");
}

#[test]
fn a_configuration_of_1_2_is_printed_as_a_native_one_with_what_it_could_not_keep() {
    let files = Files::new("");
    files.write(
        "old.conf",
        "IGNORE_FILE=\"/dev/null\"\nHISTORY_FILE=\"/tmp/h\"\nBLOCKED_FILE=\"/tmp/b\"\nSCAN_TRIGGER=\"2\"\n\
         ADVANCED_PORTS_TCP=\"1024\"\nBLOCK_TCP=\"1\"\nKILL_ROUTE=\"/sbin/route add $TARGET$ reject\"\nGONE=\"1\"\n",
    );
    let said = files.portsentry(&["convert", "old.conf", "--modes", "atcp"]);
    assert_eq!(said.status, 0, "{said:?}");
    let warning = "old.conf:8: an unknown key is ignored, as in 1.2: \"GONE\"";
    assert_eq!(said.err, format!("portsentry: {warning}\n"));
    for line in [
        "# Converted from old.conf by portsentry convert.\n",
        &format!("#  - {warning}\n"),
        "#  - ban.duration = \"1d\": 1.2 never let anybody in again; \"ever\" does as it did\n",
        "\ntrigger = 2\n",
    ] {
        assert!(said.out.contains(line), "{line}: {}", said.out);
    }
    files.write("new.toml", &said.out);
    let check = files.portsentry(&["check", "new.toml"]);
    assert_eq!((check.status, check.err.as_str()), (0, ""));
    let again = files.portsentry(&["convert", "new.toml"]);
    let settings = |text: &str| {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(settings(&again.out), settings(&said.out));

    let check = files.portsentry(&["check", "old.conf"]);
    assert_eq!(
        check.status, 78,
        "without modes it is tcp and udp: {check:?}"
    );
    assert!(check.err.contains("TCP_PORTS is missing"), "{check:?}");
    let said = files.portsentry(&["convert", "old.conf", "--modes", "tcp"]);
    assert_eq!((said.status, said.out.as_str()), (78, ""), "{said:?}");
    let said = files.portsentry(&["convert", "new.toml", "--modes", "tcp"]);
    assert_eq!((said.status, said.out.as_str()), (78, ""), "{said:?}");
}

#[test]
fn files_beside_the_main_one_are_read_after_it_and_checked_too() {
    let files = Files::new("[detect]\ntrigger = 3\n");
    files.write(
        "portsentry.toml.d/20-mine.toml",
        "[detect]\ntrigger = 300\n",
    );
    files.write("portsentry.toml.d/README", "not read");
    let said = files.portsentry(&["check"]);
    assert_eq!(said.status, 78, "{said:?}");
    assert!(
        said.err.contains("portsentry.toml.d/20-mine.toml:2:11: "),
        "{said:?}"
    );
    files.write("portsentry.toml.d/20-mine.toml", "[detect]\ntrigger = 30\n");
    assert_eq!(files.portsentry(&["check"]).status, 0);
}

#[test]
fn ignore_files_are_checked_too() {
    let files = Files::new("");
    let ignore = files.path("ignore.list").display().to_string();
    files.write(
        "portsentry.toml",
        &format!("[ignore]\nfiles = [{ignore:?}]\n"),
    );
    let said = files.portsentry(&["check"]);
    assert_eq!(said.status, 78, "a file that is named must exist: {said:?}");
    assert!(said.err.contains(&ignore), "{said:?}");
    files.write(
        "ignore.list",
        "192.0.2.1\n\nexample.org\n192.0.2.0/40 # too long\n",
    );
    let said = files.portsentry(&["check"]);
    assert_eq!(said.status, 78, "{said:?}");
    for place in [":3:1: ", ":4:1: "] {
        assert!(
            said.err.contains(&format!("{ignore}{place}")),
            "{place}: {said:?}"
        );
    }
    files.write("ignore.list", "192.0.2.1 # mine\n2001:db8::/32\n");
    assert_eq!(files.portsentry(&["check"]).status, 0);
}

#[test]
fn without_a_daemon_that_is_what_is_said() {
    let files = Files::new("");
    let [socket, history] =
        ["control.sock", "history.db"].map(|name| files.path(name).display().to_string());
    files.write(
        "portsentry.toml",
        &format!("{APART}[control]\nsocket = {socket:?}\n[history]\nfile = {history:?}\n"),
    );
    for command in ["status", "reload"] {
        let said = files.portsentry(&[command]);
        assert_eq!(said.status, 1, "{command}: {said:?}");
        assert_eq!(
            said.err,
            format!("portsentry: no portsentry daemon is running (nobody listens on {socket})\n")
        );
    }
    let said = files.portsentry(&["list"]);
    assert_eq!(
        (said.status, said.out.as_str()),
        (0, "nobody is banned\n"),
        "{said:?}"
    );
    assert!(said.err.contains("no daemon is running"), "{said:?}");
    let said = files.portsentry(&["list", "--json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&said.out).unwrap(),
        serde_json::json!([]),
        "{said:?}"
    );
    assert_eq!(files.portsentry(&["history"]).status, 0);
    assert!(!files.path("history.db").exists(), "reading makes no file");
}

#[test]
fn commands_that_work_without_a_daemon_want_a_good_configuration() {
    let files = Files::new("[detect]\ntriger = 3\n");
    for args in [&["list"] as &[&str], &["history"], &["withdraw"], &["run"]] {
        let said = files.portsentry(args);
        assert_eq!(
            (said.status, said.out.as_str()),
            (78, ""),
            "{args:?}: {said:?}"
        );
        assert!(
            said.err.contains("portsentry.toml:2:1: "),
            "{args:?}: {said:?}"
        );
    }
}
