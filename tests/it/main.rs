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
        self.portsentry_by("portsentry.toml", args)
    }

    /// The same with another configuration.
    fn portsentry_by(&self, config: &str, args: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portsentry"));
        command
            .current_dir(&self.dir)
            .args(["-c", config])
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
        "run", "check", "convert", "migrate", "status", "list", "ban", "import", "export", "unban",
        "ignore", "history", "reload", "withdraw",
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
        &["ignore"],
        &["ignore", "add"],
        &["ignore", "add", "localhost"],
        &["ignore", "add", "192.0.2.1/33"],
        &["ignore", "add", "0.0.0.0/0"],
        &["ignore", "add", "10.9.2"],
        &["ignore", "add", "192.0.2.1", "192.0.2.2"],
        &["ignore", "add", "192.0.2.1", "--remark", "two\nlines"],
        &["ignore", "remove", "::/0"],
        &["history", "-n", "-1"],
        &["import"],
        &["import", "--for", "5M", "list"],
        &["export", "list"],
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
        "IGNORE_FILE=\"/dev/null\"\nHISTORY_FILE=\"/srv/h\"\nBLOCKED_FILE=\"/srv/b\"\nSCAN_TRIGGER=\"2\"\n\
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
fn a_user_that_is_not_there_is_told_before_a_start_is_refused() {
    let said = Files::new("daemon.user = \"no-such-user\"\n").portsentry(&["check"]);
    assert_eq!(
        (said.status, said.out.as_str(), said.err.as_str()),
        (
            0,
            "portsentry.toml: no mistakes found, but see the warnings\n",
            "portsentry: daemon.user names no-such-user, and there is no such user; create it, or name another\n"
        )
    );
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
        "192.0.2.1\n\nlocalhost\n192.0.2.0/40 # too long\n",
    );
    let said = files.portsentry(&["check"]);
    assert_eq!(said.status, 78, "{said:?}");
    for place in [":3:1: ", ":4:1: "] {
        assert!(
            said.err.contains(&format!("{ignore}{place}")),
            "{place}: {said:?}"
        );
    }
    files.write(
        "ignore.list",
        "192.0.2.1 # mine\n2001:db8::/32\noffice.example.net\n",
    );
    assert_eq!(files.portsentry(&["check"]).status, 0);
}

#[test]
fn ignore_files_are_edited_without_a_daemon() {
    let files = Files::new("");
    let [list, more, socket, history] = ["ignore.list", "more.list", "control.sock", "history.db"]
        .map(|name| files.path(name).display().to_string());
    files.write(
        "portsentry.toml",
        &format!(
            "[ignore]\nfiles = [{list:?}, {more:?}]\naddresses = [\"198.51.100.0/24\"]\n\
             [control]\nsocket = {socket:?}\n[history]\nfile = {history:?}\n"
        ),
    );
    files.write("more.list", "# theirs\n192.0.2.7\n203.0.113.0/24 # net\n");
    let ignore = |args: &[&str]| {
        let said = files.portsentry(&[&["ignore"], args].concat());
        assert_eq!(said.status, 0, "{args:?}: {said:?}");
        said.out
    };
    let text = |name: &str| fs::read_to_string(files.path(name)).expect("it is there");

    let said = files.portsentry(&["ignore", "add", "2001:db8::1"]);
    assert_eq!(
        (said.out, said.err),
        (
            format!("2001:db8::1 is ignored by {list}:1\n"),
            "portsentry: no daemon is running: its next start reads this\n".to_owned()
        ),
        "a file that is not there is made"
    );
    assert_eq!(
        ignore(&["add", "10.9.0.9/24", "--remark", "the lab"]),
        format!("10.9.0.0/24 is ignored by {list}:2\n")
    );
    assert_eq!(text("ignore.list"), "2001:db8::1\n10.9.0.0/24  # the lab\n");
    for (again, by) in [
        ("10.9.0.0/24", format!("{list}:2")),
        ("10.9.0.3", format!("10.9.0.0/24 in {list}:2")),
        ("::ffff:192.0.2.7", format!("{more}:2")),
        (
            "198.51.100.1",
            "198.51.100.0/24 in ignore.addresses".to_owned(),
        ),
    ] {
        let said = ignore(&["add", again]);
        assert!(
            said.ends_with(&format!(" is ignored already by {by}\n")),
            "{said}"
        );
    }
    assert_eq!(
        text("ignore.list").lines().count(),
        2,
        "nothing is added twice"
    );

    let listed = ignore(&["list"]);
    for (source, place) in [
        ("10.9.0.0/24", format!("{list}:2")),
        ("192.0.2.7", format!("{more}:2")),
        ("198.51.100.0/24", "ignore.addresses".to_owned()),
    ] {
        let row = listed.lines().find(|row| row.starts_with(source));
        assert!(row.is_some_and(|row| row.ends_with(&place)), "{listed}");
    }
    let json: serde_json::Value = serde_json::from_str(&ignore(&["list", "--json"])).unwrap();
    assert_eq!(
        json[0],
        serde_json::json!({"source": "10.9.0.0/24", "file": list, "line": 2})
    );
    assert_eq!(
        json[2],
        serde_json::json!({"source": "198.51.100.0/24", "key": "ignore.addresses"})
    );

    assert_eq!(
        ignore(&["remove", "192.0.2.7"]),
        format!("192.0.2.7 is taken out of {more}:2\n")
    );
    assert_eq!(text("more.list"), "# theirs\n203.0.113.0/24 # net\n");
    assert_eq!(
        ignore(&["remove", "10.9.0.3"]),
        format!(
            "10.9.0.3 stands in no ignore file\n10.9.0.3 is still ignored by 10.9.0.0/24 in {list}:2\n"
        )
    );
    assert_eq!(
        fs::read_dir(files.path("")).unwrap().count(),
        3,
        "nothing is left behind"
    );
}

#[test]
fn the_ignore_files_of_1_2_are_read_and_edited_as_they_are() {
    let files = Files::new("");
    let [main, kept] = ["portsentry.ignore", "portsentry.ignore.static"]
        .map(|name| files.path(name).display().to_string());
    let history = files.path("history").display().to_string();
    files.write(
        "portsentry.conf",
        &format!("IGNORE_FILE={main:?}\nHISTORY_FILE={history:?}\nBLOCKED_FILE={history:?}\nSCAN_TRIGGER=\"0\"\n"),
    );
    files.write("portsentry.modes", "atcp\n");
    files.write("portsentry.conf.d/socket.toml", &{
        let socket = files.path("control.sock").display().to_string();
        format!("control.socket = {socket:?}\n")
    });
    files.write(
        "portsentry.ignore",
        "127.0.0.1/32\n10.9.0.2/33\n10.9.2 # copy\n",
    );
    let run = |args: &[&str]| files.portsentry_by("portsentry.conf", args);

    let said = run(&["check"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(
        said.err.contains(&format!("{main}:2:1: passed over: ")),
        "{said:?}"
    );

    files.write("portsentry.ignore.static", "10.9.2 # copy\n");
    let said = run(&["ignore", "add", "2001:db8::/32"]);
    assert_eq!(
        (said.status, said.out),
        (0, format!("2001:db8::/32 is ignored by {kept}:2\n")),
        "{}",
        said.err
    );
    let said = run(&["ignore", "remove", "10.9.0.2"]);
    assert_eq!(
        said.out,
        format!("10.9.0.2 is taken out of {main}:3\n10.9.0.2 is taken out of {kept}:1\n")
    );
}

#[test]
fn an_ignore_file_with_mistakes_is_not_edited() {
    let files = Files::new("");
    let list = files.path("ignore.list").display().to_string();
    files.write(
        "portsentry.toml",
        &format!("[ignore]\nfiles = [{list:?}]\n"),
    );
    let text = "192.0.2.7\nlocalhost\n";
    files.write("ignore.list", text);
    for args in [&["add", "192.0.2.1"], &["remove", "192.0.2.7"]] {
        let said = files.portsentry(&[&["ignore"], &args[..]].concat());
        assert_eq!((said.status, said.out.as_str()), (78, ""), "{said:?}");
        assert!(said.err.contains(&format!("{list}:2:1: ")), "{said:?}");
        assert_eq!(fs::read_to_string(files.path("ignore.list")).unwrap(), text);
    }
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
    assert!(
        said.err.contains("no portsentry daemon is running"),
        "{said:?}"
    );
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
