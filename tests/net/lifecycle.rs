//! Starting, stopping, reloading, and refusing to start.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::time::Duration;

use crate::lab::{Daemon, Host, Pair, at, eventually};

#[test]
fn a_second_daemon_says_who_holds_the_lock() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 1, "{said:?}");
    let holder = format!("history.db.lock: pid {} (portsentry)", daemon.pid());
    assert!(
        said.err.contains("another portsentry holds ") && said.err.contains(&holder),
        "{said:?}"
    );
    daemon.ok(&["status"]);
}

#[test]
fn a_missing_capability_is_named_and_how_to_give_it() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "");
    for (dropped, named) in [
        ("-net_raw", "CAP_NET_RAW is missing"),
        ("-net_admin", "CAP_NET_ADMIN is missing"),
        (
            "-net_admin,-net_raw",
            "CAP_NET_ADMIN and CAP_NET_RAW are missing",
        ),
    ] {
        let said = daemon.run_through(
            "setpriv",
            &["--inh-caps", dropped, "--bounding-set", dropped],
        );
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains(named), "{said:?}");
        assert!(
            said.err.contains("setcap cap_net_admin,cap_net_raw+ep"),
            "{said:?}"
        );
    }
    assert_eq!(host.nft("list ruleset"), "");
}

#[test]
fn a_running_daemon_has_no_more_rights_than_it_needs() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    // CAP_NET_ADMIN is number 12, CAP_NET_RAW number 13.
    for line in [
        "CapPrm:\t0000000000003000",
        "CapEff:\t0000000000003000",
        "CapBnd:\t0000000000003000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    daemon.ok(&["ban", "203.0.113.7"]);
    daemon.ok(&["reload"]);
}

/// A history that a daemon refuses: it says why, and how to move the file aside; the file and the kernel's bans stay.
fn refused_history(spoil: impl FnOnce(&std::path::Path), why: &str) {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", Pair::STRANGER]);
    daemon.stop();
    spoil(&daemon.history());
    let bytes = || fs::read(daemon.history()).expect("the file is there");
    let before = bytes();
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains(why), "{said:?}");
    let history = daemon.history().display().to_string();
    let remedy = said
        .err
        .lines()
        .find_map(|line| line.split_once("to start with an empty one: "));
    let (_, remedy) = remedy.unwrap_or_else(|| panic!("it says what to type: {said:?}"));
    assert!(remedy.contains(&format!("mv -- '{history}' ")), "{remedy}");
    assert!(bytes() == before, "the file is untouched");
    assert!(
        host.element("banned4", Pair::STRANGER).is_some(),
        "the kernel's bans stand"
    );
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    // What it says to type helps: the next start adopts what the kernel holds.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", remedy]);
    assert!(shell.status().expect("sh is there").success());
    daemon.restart();
    eventually("the kernel's ban is adopted", || {
        (daemon.banned() == [Pair::STRANGER]).then_some(())
    });
}

#[test]
fn a_damaged_history_is_refused_and_left_as_it_is() {
    refused_history(
        |path| {
            let mut bytes = fs::read(path).unwrap();
            let half = bytes.len() / 2;
            bytes.truncate(half);
            bytes[100..half].fill(0xa5);
            fs::write(path, bytes).unwrap();
        },
        "it is damaged",
    );
}

#[test]
fn a_file_that_is_no_history_is_refused_and_left_as_it_is() {
    refused_history(
        |path| fs::write(path, "my shopping list\n").unwrap(),
        "it is not an SQLite file",
    );
}

#[test]
fn a_newer_history_is_refused_and_left_as_it_is() {
    refused_history(
        |path| {
            let newer = rusqlite::Connection::open(path).unwrap();
            newer
                .execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE);")
                .unwrap();
        },
        "a newer portsentry wrote it",
    );
}

#[test]
fn a_reload_puts_changes_into_force() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\ntrigger = 64\n");
    stranger.knock(at(Pair::HOST), 21..=24);
    daemon.has_counted("hits", 4);
    daemon.assert_nobody_is_banned();
    daemon.configure("[detect]\ntrigger = 2\n[tcp]\nbelow = 3000\n");
    assert_eq!(daemon.ok(&["reload"]), "the configuration was read again\n");
    stranger.knock(at(Pair::HOST), [2001, 2002]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 2 tcp ports, last 2002")
    );
}

#[test]
fn a_reload_names_what_waits_for_a_restart() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.configure("[capture]\nmethod = \"ip\"\n[ban]\nduration = \"1h\"\n");
    let said = daemon.ok(&["reload"]);
    assert!(
        said.contains("these changes wait for a restart: capture.method"),
        "{said}"
    );
    assert_eq!(daemon.json("status")["capture"]["method"], "packet");
    assert_eq!(
        daemon.ok(&["ban", "203.0.113.7"]),
        "203.0.113.7 banned for 1h: by hand\n"
    );
}

#[test]
fn a_reload_of_mistakes_changes_nothing() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\ntrigger = 2\n");
    daemon.configure("[detect]\ntriger = 5\n[ban]\nduration = \"soon\"\n");
    let said = daemon.command(&["reload"]);
    assert_eq!(said.status, 1, "{said:?}");
    for words in [
        "nothing has changed",
        "test.toml:2:1",
        "trigger",
        "test.toml:4:",
    ] {
        assert!(said.err.contains(words), "{words}: {said:?}");
    }
    daemon.hang_up();
    eventually("it complains in its log too", || {
        daemon.log().contains("test.toml:2:1").then_some(())
    });
    // Commands still reach it, though its configuration is spoilt.
    daemon.ok(&["status"]);
    stranger.knock(at(Pair::HOST), [21, 22]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_hang_up_reloads() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "192.0.2.7"]);
    daemon.configure("[ignore]\naddresses = [\"192.0.2.0/24\"]\n");
    daemon.hang_up();
    eventually("who is ignored now is unbanned", || {
        daemon.banned().is_empty().then_some(())
    });
    daemon.assert_nobody_is_banned();
    assert!(
        daemon
            .log()
            .contains("192.0.2.7 unbanned: it is ignored now"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_stop_is_clean() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    assert!(daemon.stop().success());
    assert!(!daemon.path("control.sock").exists(), "the socket is gone");
    let said = daemon.command(&["status"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("no portsentry daemon is running"),
        "{said:?}"
    );
}

#[test]
fn only_root_may_talk_to_the_daemon() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    fs::set_permissions(daemon.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = [
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "ncat",
        "-U",
    ];
    let output = host
        .command("setpriv")
        .args(nobody)
        .arg(daemon.path("control.sock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(
        !output.status.success() && said.contains("permission denied"),
        "{said}"
    );
}

#[test]
fn started_by_root_it_becomes_whom_the_configuration_names() {
    let pair = Pair::new();
    let mut daemon = Daemon::new(&pair.host, "");
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let uid = nobody.uid.as_raw();
    chown(daemon.path(""), Some(uid), None).expect("this test needs root");
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("chown root") && said.err.contains("daemon.user"),
        "{said:?}"
    );

    daemon.configure("[daemon]\nuser = \"nobody\"\n");
    daemon.restart();
    let process = fs::metadata(format!("/proc/{}/task/{}", daemon.pid(), daemon.pid())).unwrap();
    assert_eq!(process.uid(), uid);
    pair.stranger.knock(at(Pair::HOST), [1, 2, 3]);
    daemon.element("banned4", Pair::STRANGER);
    eventually("the line of text is there", || {
        let text = fs::read_to_string(daemon.path("history.log")).ok()?;
        text.contains(Pair::STRANGER).then_some(())
    });
    daemon.hang_up();
    assert!(daemon.stop().success());
    // What it left is as good as new.
    daemon.restart();
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
}

#[test]
fn a_configuration_with_mistakes_stops_the_start() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "[tcp]\nmod = \"advanced\"\n[detect]\ntrigger = 0\n");
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 78, "{said:?}");
    assert!(
        said.err.contains("test.toml:2:1") && said.err.contains("test.toml:4:"),
        "all at once: {said:?}"
    );
    assert_eq!(host.nft("list ruleset"), "", "the firewall is as it was");
    assert!(!daemon.history().exists());
}

#[test]
fn a_file_where_the_socket_should_be_stops_the_start_and_stays() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "");
    let socket = daemon.path("control.sock");
    fs::write(&socket, "dear diary").unwrap();
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err
            .contains(&format!("{}: what is there is no socket", socket.display())),
        "{said:?}"
    );
    assert_eq!(fs::read_to_string(&socket).unwrap(), "dear diary");
}

/// The TCP ports that are listened on. Who knocks at one of ours is hung up on at once, and may take that for a failure.
fn tcp_ports(host: &Host) -> Vec<u16> {
    let sockets = host.run("ss -Htln");
    let ends = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    let mut ports: Vec<u16> = ends
        .map(|end| {
            let (_, port) = end.rsplit_once(':').expect("an address and a port");
            port.parse().expect("a number")
        })
        .collect();
    ports.sort_unstable();
    ports
}

#[test]
fn connect_mode_on_low_ports_waits_for_a_restart_and_nothing_is_lost_meanwhile() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, "");
    let listen = "[tcp]\nmode = [\"advanced\", \"connect\"]\nports = [7]\n";
    daemon.configure(listen);
    let said = daemon.ok(&["reload"]);
    assert!(said.contains("wait for a restart: tcp.mode"), "{said}");
    assert_eq!(tcp_ports(host), [0; 0]);
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    daemon.stop();
    daemon.restart();
    assert_eq!(tcp_ports(host), [7]);
    // What was there at the start may be reloaded at will.
    assert!(!daemon.ok(&["reload"]).contains("restart"));
}

#[test]
fn ports_that_cannot_be_had_are_told_in_status_with_the_reason() {
    let host = &Pair::new().host;
    let service = host.serve(at(Pair::HOST), 2009);
    let daemon = Daemon::start(host, "");
    // High ports take no right that was given up.
    daemon.configure("[tcp]\nmode = \"connect\"\nports = [\"2007-2010\"]\n");
    assert_eq!(daemon.ok(&["reload"]), "the configuration was read again\n");
    assert_eq!(tcp_ports(host), [2007, 2008, 2009, 2010]);
    let troubles = || daemon.json("status")["troubles"].clone();
    let in_use = "tcp 2009 not listened on: in use by other programs; taken up when nobody has used it for ten minutes";
    assert_eq!(troubles(), serde_json::json!([in_use]));
    daemon.configure("[tcp]\nmode = \"connect\"\nports = [\"5-7\", \"2007-2010\"]\n");
    daemon.ok(&["reload"]);
    let denied = "tcp 5-7 not listened on: permission denied; restart portsentry with CAP_NET_BIND_SERVICE, \
                  and see that SELinux or AppArmor lets it";
    assert_eq!(troubles(), serde_json::json!([in_use, denied]));
    // What nobody uses is taken up as soon as it can be had.
    host.inside(|| fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "6"))
        .expect("a namespace's own setting");
    eventually("they are listened on", || {
        (tcp_ports(host) == [6, 7, 2007, 2008, 2009, 2010]).then_some(())
    });
    drop(service);
    let free = "tcp 2009 not listened on: free again, and left to its service for ten minutes; a reload takes it now";
    eventually("that is told", || {
        let troubles = troubles();
        let mut troubles = troubles.as_array().expect("a list").iter();
        troubles.any(|trouble| trouble == free).then_some(())
    });
    daemon.ok(&["reload"]);
    assert_eq!(tcp_ports(host), [6, 7, 2007, 2008, 2009, 2010]);
    daemon.configure("");
    daemon.ok(&["reload"]);
    assert_eq!(troubles(), serde_json::json!([]));
}

/// What an admin sees of a daemon that changes only when the configuration does.
fn face(daemon: &Daemon<'_>) -> Vec<serde_json::Value> {
    let status = daemon.json("status");
    let keys = [
        "state",
        "modes",
        "responders",
        "health",
        "intended",
        "enforced",
        "troubles",
    ];
    keys.map(|key| status[key].clone()).to_vec()
}

/// A reload that fails once the daemon has begun to go by the new configuration, which differs in these lines, and in whom it
/// ignores, what it watches and by whom it bans.
fn fails_half_way(lines: &str, why: &str, spoil: impl FnOnce(&Host, &Daemon<'_>)) {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(
        host,
        "tcp.mode = [\"advanced\", \"connect\"]\ntcp.ports = [2000]\n",
    );
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    let before = face(&daemon);
    spoil(host, &daemon);
    fs::write(daemon.path("other.list"), "203.0.113.0/24\n").expect("the directory is ours");
    daemon.configure(&format!(
        "ban.responders = [\"nftables\", \"route\", \"hosts-deny\"]\nhosts-deny.file = {:?}\n\
         ignore.addresses = [\"10.77.0.0/24\"]\nignore.files = [{:?}]\ncapture.interfaces = [\"lo\"]\n\
         detect.trigger = 9\nudp.mode = \"off\"\ntcp.mode = [\"advanced\", \"connect\"]\ntcp.below = 10\n{lines}\n",
        daemon.path("no/hosts.deny"),
        daemon.path("other.list"),
    ));
    let said = daemon.command(&["reload"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("nothing has changed"), "{said:?}");
    assert!(said.err.contains(why), "{said:?}");

    assert_eq!(face(&daemon), before);
    assert!(!daemon.log().contains("cannot be gone by any more"));
    assert_eq!(host.run("ip route show proto 112"), "");
    assert!(
        host.element("banned4", "203.0.113.7").is_some(),
        "whom the other list names is no friend"
    );
    assert_eq!(tcp_ports(host), [2000]);
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    daemon.ignore(&format!("{}\n", Pair::STRANGER));
    eventually("the old list is the one that is followed", || {
        (daemon.banned() == ["203.0.113.7"]).then_some(())
    });
    // What was wrong is put right: all of it takes effect.
    fs::create_dir(daemon.path("no")).expect("the directory is ours");
    fs::write(daemon.path("no/hosts.deny"), "").expect("the directory is ours");
    daemon.configure("tcp.mode = \"connect\"\ntcp.ports = [3000]\n");
    daemon.ok(&["reload"]);
    assert_eq!(tcp_ports(host), [3000]);
}

#[test]
fn a_reload_that_fails_at_a_responder_leaves_everything_as_it_was() {
    fails_half_way("tcp.ports = [3000]", "no/hosts.deny", |_, _| {});
}

#[test]
fn a_reload_that_wants_more_ports_than_there_can_be_leaves_everything_as_it_was() {
    let few = |host: &Host, daemon: &Daemon<'_>| {
        let mut prlimit = host.command("prlimit");
        prlimit.arg(format!("--pid={}", daemon.pid()));
        assert!(
            prlimit
                .arg("--nofile=1024:1024")
                .status()
                .unwrap()
                .success()
        );
    };
    fails_half_way(
        "tcp.ports = [\"2000-4000\"]",
        "cannot listen on 2001 ports",
        few,
    );
}

/// How often any of its threads went to sleep, and so was woken.
fn sleeps(daemon: &Daemon<'_>) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("the daemon runs");
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
    let count = |status: String| -> u64 {
        let line = |line: &str| {
            line.strip_prefix("voluntary_ctxt_switches:")?
                .trim()
                .parse()
                .ok()
        };
        status.lines().find_map(line).expect("it is counted")
    };
    statuses.map(count).sum()
}

#[test]
fn nothing_wakes_a_daemon_that_bans_nobody() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    eventually("it sleeps for five seconds", || {
        let before = sleeps(&daemon);
        std::thread::sleep(Duration::from_secs(5));
        (sleeps(&daemon) == before).then_some(())
    });
}
