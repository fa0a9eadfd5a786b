//! Those who fill the control socket: nobody else has to wait for them.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::lab::{Daemon, Pair, at, eventually};

const CROWD: usize = 1_000;

/// So many callers, each of which has said this.
fn crowd(daemon: &Daemon<'_>, words: &[u8]) -> Vec<UnixStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("everybody may ask");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("everybody may raise the soft limit");
    let socket = daemon.path("control.sock");
    let call = |_| {
        let mut stream = UnixStream::connect(&socket).expect("the daemon listens");
        // It may have been hung up on by now.
        let _ = stream.write_all(words);
        stream
    };
    (0..CROWD).map(call).collect()
}

/// Kilobytes that are resident.
fn resident(daemon: &Daemon<'_>) -> u64 {
    let path = format!("/proc/{}/status", daemon.pid());
    let status = fs::read_to_string(path).expect("the daemon runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.and_then(|number| number.parse().ok());
    number.expect("the kernel tells it")
}

/// Descriptors that are open.
fn descriptors(daemon: &Daemon<'_>) -> usize {
    let path = format!("/proc/{}/fd", daemon.pid());
    fs::read_dir(path).expect("the daemon runs").count()
}

/// While they all sit there. At once, that is, but for a busy machine: then a command may lose its patience before the daemon has had
/// its turns.
fn is_answered(daemon: &Daemon<'_>, command: &[&str]) {
    eventually("a command is answered", || {
        (daemon.command(command).status == 0).then_some(())
    });
}

#[test]
fn a_crowd_that_asks_for_nothing_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let (before, open) = (resident(&daemon), descriptors(&daemon));
    let half = [b"{\"command\":".as_slice(), &[b' '; 60_000]].concat();
    for words in [b"".as_slice(), b"{", &half] {
        let callers = crowd(&daemon, words);
        for words in [
            ["status"].as_slice(),
            &["ban", "203.0.113.7"],
            &["unban", "203.0.113.7"],
        ] {
            is_answered(&daemon, words);
        }
        assert!(descriptors(&daemon) <= open + 64);
        assert!(
            resident(&daemon) < before + 16 * 1024,
            "no request is kept whole"
        );
        drop(callers);
    }
    let hung_up = daemon.counter("hung_up");
    assert!(hung_up >= 2 * (CROWD as u64 - 64), "{hung_up}");
    let status = daemon.ok(&["status"]);
    let words = "hung up on, who neither asked nor read";
    assert!(status.contains(words), "{status}");
    stranger.knock(at(Pair::HOST), [21, 22, 23]);
    daemon.element("banned4", Pair::STRANGER);
    eventually("all of them are forgotten", || {
        (descriptors(&daemon) <= open + 1).then_some(())
    });
}

#[test]
fn a_crowd_that_asks_and_never_reads_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let list: String = (0..20_000)
        .map(|n| format!("11.0.{}.{}\n", n >> 8, n & 255))
        .collect();
    fs::write(daemon.path("list"), list).unwrap();
    daemon.ok(&["import", daemon.path("list").to_str().unwrap()]);
    let (before, open) = (resident(&daemon), descriptors(&daemon));
    let callers = crowd(&daemon, b"{\"command\":\"list\"}\n");
    is_answered(&daemon, &["status"]);
    eventually("as many wait as may", || {
        (daemon.counter("hung_up") >= CROWD as u64 - 64).then_some(())
    });
    // What waits for each, and what is taken for a moment to make it.
    assert!(
        resident(&daemon) < before + 64 * 1024,
        "replies are made as they are read"
    );
    stranger.knock(at(Pair::HOST), [21, 22, 23]);
    daemon.element("banned4", Pair::STRANGER);
    assert_eq!(daemon.ok(&["unban", Pair::STRANGER]).lines().count(), 1);
    assert_eq!(daemon.banned().len(), 20_000, "who reads gets all of it");
    eventually("those that do not are hung up on in time", || {
        (descriptors(&daemon) <= open + 1).then_some(())
    });
    drop(callers);
}
