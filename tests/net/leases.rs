//! One process for each mode, as 1.2 was started: each is there for its own, whatever befalls the others.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::lab::{Pair, Process, Sandbox, Syslog, eventually};

/// A host on which portsentry is started by 1.2's flags, over a configuration of 1.2's that logs and does nothing else.
struct Yard {
    // Before the hosts: its processes must end before their network does.
    sandbox: Sandbox,
    syslog: Syslog,
    net: Pair,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_portsentry");
const CONF: &str = "/etc/portsentry/portsentry.conf";
const SETTINGS: &str = r#"
TCP_PORTS="1,11,15,79,111"
UDP_PORTS="1,9,69,513,635"
ADVANCED_PORTS_TCP="1024"
ADVANCED_PORTS_UDP="1024"
IGNORE_FILE="/etc/portsentry/portsentry.ignore"
HISTORY_FILE="/var/lib/portsentry/portsentry.history"
BLOCKED_FILE="/var/lib/portsentry/portsentry.blocked"
BLOCK_UDP="0"
BLOCK_TCP="0"
"#;

impl Yard {
    fn new() -> Self {
        let net = Pair::new();
        let syslog = Syslog::new();
        let sandbox = Sandbox::new(&net.host, &syslog.path());
        sandbox.write("/etc/portsentry/portsentry.ignore", "");
        sandbox.write(CONF, SETTINGS);
        Self {
            sandbox,
            syslog,
            net,
        }
    }

    /// Runs portsentry until it ends or has gone into the background; its exit status and what it said.
    fn run(&self, words: &str) -> (i32, String) {
        let mut command = self.sandbox.command(PROGRAM);
        command.args(words.split_whitespace());
        let (status, said) = self.sandbox.run(command);
        (status.code().unwrap_or(-1), said)
    }

    /// Starts portsentry in these modes; the process that stays.
    fn start(&self, modes: &str) -> u32 {
        let before = self.alive();
        let (status, said) = self.run(modes);
        assert_eq!((status, said.as_str()), (0, ""), "portsentry {modes}");
        let new: Vec<u32> = self
            .alive()
            .into_iter()
            .filter(|pid| !before.contains(pid))
            .collect();
        assert_eq!(new.len(), 1, "one process stays of portsentry {modes}");
        new[0]
    }

    fn alive(&self) -> Vec<u32> {
        let processes = self.sandbox.processes("portsentry");
        let alive = processes
            .iter()
            .filter(|process| process.ended.is_none())
            .map(|process| process.pid);
        alive.collect()
    }

    /// Has a process end, and waits until it has; how it did, as `wait` has it.
    fn end(&self, signal: &str, pid: u32) -> i32 {
        self.sandbox.sh(&format!("kill -{signal} {pid}"));
        self.ends(pid)
    }

    fn ends(&self, pid: u32) -> i32 {
        eventually(&format!("process {pid} ends"), || {
            let processes = self.sandbox.processes("portsentry");
            let process = processes.iter().find(|process| process.pid == pid);
            process.and_then(|Process { ended, .. }| *ended)
        })
    }

    /// Starts portsentry with a configuration of its own, and waits until it is ready.
    fn run_native(&self) {
        self.sandbox.write("/etc/portsentry/portsentry.toml", "");
        self.sandbox.write("/etc/portsentry/ignore.list", "");
        self.sandbox
            .sh(&format!("setsid {PROGRAM} run >/run/log 2>&1 &"));
        eventually("it is ready", || self.status());
    }

    /// What the daemon says of itself, if there is one.
    fn status(&self) -> Option<Value> {
        let (status, said) = self.run("status --json");
        (status == 0).then(|| serde_json::from_str(&said).expect("--json prints JSON"))
    }

    /// Waits until `daemon` is the daemon and the modes are held by these processes.
    fn stands(&self, daemon: u32, modes: &[(&str, &[u32])]) {
        let modes: BTreeMap<String, Vec<u32>> = modes
            .iter()
            .map(|(mode, holders)| ((*mode).to_owned(), holders.to_vec()))
            .collect();
        let what = format!("process {daemon} is the daemon, with {modes:?}");
        eventually(&what, || {
            let status = self.status()?;
            let held: BTreeMap<String, Vec<u32>> = status["modes"]
                .as_array()?
                .iter()
                .map(|mode| {
                    let name = mode["mode"].as_str().expect("a mode has a name");
                    let holders: Vec<u32> = serde_json::from_value(mode["holders"].clone())
                        .expect("holders are processes");
                    (name.to_owned(), holders)
                })
                .collect();
            (status["pid"] == daemon && held == modes).then_some(())
        });
    }

    /// Scans ports of both protocols, and waits until those are told that are to be; the others must not be.
    fn notices(&self, tcp: bool, udp: bool) {
        let before = self.syslog.texts().len();
        for (how, port) in [("-sU", "9"), ("-sS", "11"), ("-sU", "69"), ("-sS", "15")] {
            self.net.stranger.nmap(how, port, Pair::HOST);
        }
        let tells = |of: &str, port: u16| {
            let end = format!("10.77.0.2/10.77.0.2 to {of} port: {port}");
            let texts = self.syslog.texts();
            texts[before..].iter().any(|text| text.ends_with(&end))
        };
        eventually("what is watched is told of", || {
            let tcp = !tcp || tells("TCP", 15);
            let udp = !udp || tells("UDP", 69);
            (tcp && udp).then_some(())
        });
        assert_eq!((tells("TCP", 11), tells("UDP", 9)), (tcp, udp));
    }

    fn has_said(&self, words: &str) {
        eventually(&format!("the log has \"{words}\""), || {
            let texts = self.syslog.texts();
            texts.iter().any(|text| text.contains(words)).then_some(())
        });
    }
}

impl Drop for Yard {
    #[expect(
        clippy::print_stderr,
        reason = "the test's own output, shown when it fails"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log:\n{}", self.syslog.texts().join("\n"));
        }
    }
}

#[test]
fn a_process_that_ends_takes_its_mode_with_it_and_no_other() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let audp = yard.start("-audp");
    yard.stands(atcp, &[("atcp", &[atcp]), ("audp", &[audp])]);
    let (_, said) = yard.run("status");
    let line = format!("  modes     atcp, audp (pid {audp})\n");
    assert!(said.contains(&line), "{said}");
    yard.notices(true, true);
    let blocked = yard
        .sandbox
        .read("/var/lib/portsentry/portsentry.blocked.audp");
    assert!(blocked.contains("Port: 9 UDP Blocked"), "{blocked}");

    assert_eq!(yard.end("TERM", audp), 0);
    yard.stands(atcp, &[("atcp", &[atcp])]);
    yard.notices(true, false);

    let audp = yard.start("-audp");
    yard.stands(atcp, &[("atcp", &[atcp]), ("audp", &[audp])]);
    yard.notices(true, true);

    yard.end("KILL", audp);
    yard.stands(atcp, &[("atcp", &[atcp])]);
}

#[test]
fn when_the_daemon_is_stopped_who_is_left_takes_its_place() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let audp = yard.start("-audp");
    assert_eq!(yard.end("TERM", atcp), 0);
    yard.stands(audp, &[("audp", &[audp])]);
    yard.notices(false, true);

    let atcp = yard.start("-atcp");
    yard.stands(audp, &[("atcp", &[atcp]), ("audp", &[audp])]);
    yard.notices(true, true);

    // And back again.
    assert_eq!(yard.end("TERM", audp), 0);
    yard.stands(atcp, &[("atcp", &[atcp])]);
    yard.notices(true, false);
}

#[test]
fn when_the_daemon_is_killed_one_takes_its_place_and_the_others_join() {
    let yard = Yard::new();
    let tcp = yard.start("-tcp");
    let audp = yard.start("-audp");
    let atcp = yard.start("-atcp");
    yard.stands(
        tcp,
        &[("tcp", &[tcp]), ("atcp", &[atcp]), ("audp", &[audp])],
    );
    yard.run("ban 203.0.113.7");
    yard.end("KILL", tcp);
    let daemon = eventually("somebody is the daemon", || {
        let pid = yard.status()?["pid"].as_u64()?;
        u32::try_from(pid).ok()
    });
    assert!([audp, atcp].contains(&daemon), "{daemon}");
    yard.stands(daemon, &[("atcp", &[atcp]), ("audp", &[audp])]);
    yard.notices(true, true);
    let (_, bans) = yard.run("list");
    assert!(bans.contains("203.0.113.7"), "{bans}");
}

#[test]
fn when_all_are_told_to_stop_none_takes_anothers_place() {
    let yard = Yard::new();
    let all = ["-atcp", "-audp", "-stcp"].map(|mode| yard.start(mode));
    let starts = |yard: &Yard| {
        let texts = yard.syslog.texts();
        let active = texts
            .iter()
            .filter(|text| text.ends_with("is now active and listening."));
        active.count()
    };
    eventually("each has said that it is there", || {
        (starts(&yard) == 3).then_some(())
    });
    yard.sandbox
        .sh(&format!("kill {} {} {}", all[0], all[1], all[2]));
    assert_eq!(all.map(|pid| yard.ends(pid)), [0, 0, 0]);
    assert_eq!(starts(&yard), 3, "nobody has begun to watch");
    assert!(yard.status().is_none());
}

#[test]
fn several_that_are_started_at_once_share_one_daemon() {
    let yard = Yard::new();
    yard.sandbox.sh(&format!(
        "for mode in atcp audp stcp; do {PROGRAM} -$mode & done; wait"
    ));
    let status = yard.status().expect("one of them is the daemon");
    let modes = status["modes"].as_array().expect("modes are a list");
    assert_eq!(modes.len(), 3, "{status}");
    assert_eq!(yard.alive().len(), 3);
    yard.notices(true, true);
}

#[test]
fn a_mode_that_runs_already_is_held_by_one_more() {
    let yard = Yard::new();
    let both = yard.start("-atcp -audp");
    // As a script does that restarts, and does not wait for the end.
    let atcp = yard.start("-atcp");
    yard.stands(both, &[("atcp", &[both, atcp]), ("audp", &[both])]);
    yard.end("TERM", both);
    yard.stands(atcp, &[("atcp", &[atcp])]);
    yard.notices(true, false);
}

#[test]
fn a_reload_keeps_what_is_held() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let udp = yard.start("-udp");
    yard.stands(atcp, &[("atcp", &[atcp]), ("udp", &[udp])]);
    assert_eq!(yard.run("reload").0, 0);
    yard.stands(atcp, &[("atcp", &[atcp]), ("udp", &[udp])]);
    // A hang-up reloads, and ends nobody.
    yard.sandbox.sh(&format!("kill -HUP {atcp} {udp}"));
    yard.stands(atcp, &[("atcp", &[atcp]), ("udp", &[udp])]);
    // What a holder could not go on with is refused as a whole.
    yard.sandbox
        .write(CONF, SETTINGS.replace("UDP_PORTS=\"1", "#UDP_PORTS=\"1"));
    let (status, said) = yard.run("reload");
    assert!(status == 1 && said.contains("UDP_PORTS"), "{said}");
    yard.stands(atcp, &[("atcp", &[atcp]), ("udp", &[udp])]);
    // After a restart nobody watches for it: it ends, and says why.
    yard.end("TERM", atcp);
    let atcp = yard.start("-atcp");
    assert_eq!(yard.ends(udp) >> 8, 78);
    yard.has_said("UDP_PORTS");
    yard.stands(atcp, &[("atcp", &[atcp])]);
}

#[test]
fn a_mode_that_the_daemon_cannot_take_up_is_refused() {
    let yard = Yard::new();
    yard.sandbox.sh(&format!(
        "setpriv --inh-caps -net_bind_service --bounding-set -net_bind_service {PROGRAM} -atcp"
    ));
    let atcp = yard.alive()[0];
    yard.stands(atcp, &[("atcp", &[atcp])]);
    let (status, said) = yard.run("-tcp -audp");
    assert!(
        status == 1 && said.contains("has given up what mode tcp takes"),
        "{status}: {said}"
    );
    yard.stands(atcp, &[("atcp", &[atcp])]);
    yard.notices(true, false);
    assert_eq!(yard.alive(), [atcp]);
}

#[test]
fn a_daemon_with_a_native_configuration_watches_for_nobody_else() {
    let yard = Yard::new();
    yard.run_native();
    let (status, said) = yard.run("-atcp");
    assert!(
        status == 1 && said.contains("where tcp.mode and udp.mode say in which modes"),
        "{status}: {said}"
    );
    let native = yard.alive()[0];
    yard.end("TERM", native);
    // Whoever held something under another daemon finds this one in its place.
    let daemon = yard.start("-atcp");
    let holder = yard.start("-audp");
    // It must not take the place first.
    yard.sandbox.sh(&format!("kill -STOP {holder}"));
    yard.end("TERM", daemon);
    yard.run_native();
    yard.sandbox.sh(&format!("kill -CONT {holder}"));
    assert_eq!(yard.ends(holder) >> 8, 1);
    yard.has_said("where tcp.mode and udp.mode say in which modes");
}

#[test]
fn history_lines_stay_where_everybody_may_write_and_bans_are_remembered_elsewhere() {
    let yard = Yard::new();
    yard.sandbox
        .sh("mkdir -m 1777 /run/open && touch /etc/precious && ln -s /etc/precious /run/open/blocked.audp");
    let settings = SETTINGS
        .replace(
            "/var/lib/portsentry/portsentry.history",
            "/run/open/history",
        )
        .replace(
            "/var/lib/portsentry/portsentry.blocked",
            "/run/open/blocked",
        );
    yard.sandbox.write(CONF, settings);
    yard.sandbox.write("/etc/precious", "mine\n");
    yard.start("-atcp -audp");
    yard.has_said("everybody may write to /run/open");
    yard.notices(true, true);
    eventually("the scan is written down", || {
        let history = yard.sandbox.read("/run/open/history");
        history.contains("Port: 9 UDP Blocked").then_some(())
    });
    assert_eq!(yard.sandbox.read("/etc/precious"), "mine\n");
    yard.sandbox
        .sh("test -e /var/lib/portsentry/history.db && test ! -e /run/open/history.db");
    assert!(yard.run("history").1.contains(Pair::STRANGER));
}

/// As a holder asks for it, and is answered; held for as long as it is kept.
fn lease(yard: &Yard, mode: &str) -> UnixStream {
    let socket = yard.sandbox.path("/run/portsentry/control.sock");
    let mut stream = UnixStream::connect(socket).expect("the daemon listens");
    writeln!(
        stream,
        "{{\"command\":\"lease\",\"modes\":[\"{mode}\"],\"config\":\"{CONF}\"}}"
    )
    .expect("the daemon reads");
    let mut answer = String::new();
    BufReader::new(&stream)
        .read_line(&mut answer)
        .expect("the daemon answers");
    assert_eq!(answer, "\"done\"\n");
    stream
}

#[test]
fn the_65th_lease_is_refused_until_a_holder_ends() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let mut held: Vec<UnixStream> = (0..64).map(|_| lease(&yard, "audp")).collect();
    let (status, said) = yard.run("-audp");
    let words = format!(
        "portsentry runs already, pid {atcp}, and 64 processes beside it: end some of them"
    );
    assert!(status == 1 && said.contains(&words), "{status}: {said}");
    // They cost commands nothing, and a crowd costs them nothing.
    let socket = yard.sandbox.path("/run/portsentry/control.sock");
    let crowd: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(&socket).expect("the daemon listens"))
        .collect();
    let holders = |yard: &Yard| {
        let status = yard.status()?;
        let modes = status["modes"].as_array()?.clone();
        let audp = modes.into_iter().find(|mode| mode["mode"] == "audp")?;
        Some(audp["holders"].as_array()?.len())
    };
    assert_eq!(holders(&yard), Some(64));
    drop(crowd);
    held.pop();
    eventually("one is gone", || (holders(&yard) == Some(63)).then_some(()));
    let audp = yard.start("-audp");
    held.clear();
    yard.stands(atcp, &[("atcp", &[atcp]), ("audp", &[audp])]);
    yard.notices(true, true);
}

#[test]
fn a_holder_that_is_stopped_keeps_its_mode_and_one_that_is_killed_does_not() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let audp = yard.start("-audp");
    // It has nothing to do but to be there.
    yard.sandbox.sh(&format!("kill -STOP {audp}"));
    yard.notices(true, true);
    yard.stands(atcp, &[("atcp", &[atcp]), ("audp", &[audp])]);
    yard.end("KILL", audp);
    yard.stands(atcp, &[("atcp", &[atcp])]);
    yard.notices(true, false);
}

#[test]
fn a_daemon_that_hung_for_a_while_catches_up_with_its_holders() {
    let yard = Yard::new();
    let atcp = yard.start("-atcp");
    let audp = yard.start("-audp");
    yard.sandbox.sh(&format!("kill -STOP {atcp}"));
    yard.end("KILL", audp);
    // One that starts meanwhile waits, and asks again.
    yard.sandbox.sh(&format!(
        "setsid {PROGRAM} -stcp >/run/late 2>&1 & sleep 3; kill -CONT {atcp}"
    ));
    let stcp = eventually("it holds its mode", || {
        let status = yard.status()?;
        let modes = status["modes"].as_array()?.clone();
        let stcp = modes.into_iter().find(|mode| mode["mode"] == "stcp")?;
        u32::try_from(stcp["holders"][0].as_u64()?).ok()
    });
    yard.stands(atcp, &[("atcp", &[atcp]), ("stcp", &[stcp])]);
    assert_eq!(yard.sandbox.read("/run/late"), "");
}
