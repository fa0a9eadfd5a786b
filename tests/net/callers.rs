//! Those who fill the control socket, or hang on to it: nobody else has to wait for them.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::lab::{Daemon, Host, Pair, Said, at, eventually};

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

/// Descriptors that are open.
fn descriptors(daemon: &Daemon<'_>) -> usize {
    let path = format!("/proc/{}/fd", daemon.pid());
    fs::read_dir(path).expect("the daemon runs").count()
}

/// How many files the daemon may have open from now on.
fn limit_descriptors(daemon: &Daemon<'_>, host: &Host, limit: usize) {
    host.run(&format!(
        "prlimit --pid {} --nofile={limit}:20000",
        daemon.pid()
    ));
}

fn ban_many(daemon: &Daemon<'_>, count: u32) {
    let list: String = (0..count)
        .map(|n| format!("11.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let path = daemon.path("list");
    fs::write(&path, list).expect("the directory is ours");
    daemon.ok(&["import", &path.display().to_string()]);
}

/// What an admin does works, and so does what the daemon is for.
fn works(daemon: &Daemon<'_>, stranger: &Host) {
    for words in [
        &["status"][..],
        &["ban", "203.0.113.7"],
        &["unban", "203.0.113.7"],
    ] {
        eventually(&format!("{words:?} is answered"), || {
            (daemon.command(words).status == 0).then_some(())
        });
    }
    stranger.knock(at(Pair::HOST), [21, 22, 23]);
    daemon.element("banned4", Pair::STRANGER);
    eventually("it is unbanned", || {
        (daemon.command(&["unban", Pair::STRANGER]).status == 0).then_some(())
    });
}

/// Lines of the log with these words.
fn told(daemon: &Daemon<'_>, words: &str) -> u64 {
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains(words));
    u64::try_from(lines.count()).expect("a log of this size is not to be had")
}

const HUNG_UP: &str = "hung up on, who neither asked nor read";

#[test]
fn a_crowd_that_asks_for_nothing_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let (before, open) = (daemon.resident(), descriptors(&daemon));
    let half = [b"{\"command\":".as_slice(), &[b' '; 60_000]].concat();
    for words in [b"".as_slice(), b"{", &half] {
        let callers = crowd(&daemon, words);
        works(&daemon, stranger);
        assert!(descriptors(&daemon) <= open + 64);
        assert!(
            daemon.resident() < before + 16 * 1024,
            "no request is kept whole"
        );
        drop(callers);
    }
    let hung_up = daemon.counter("hung_up");
    assert!(hung_up >= 2 * (CROWD as u64 - 64), "{hung_up}");
    let status = daemon.ok(&["status"]);
    assert!(status.contains(HUNG_UP), "{status}");
    let lines = told(&daemon, "hung up on ");
    let up = daemon.json("status")["uptime"].as_u64().unwrap();
    assert!(lines >= 1 && lines <= up + 2, "{lines} lines in {up} s");
    eventually("all of them are forgotten", || {
        (descriptors(&daemon) <= open + 1).then_some(())
    });
    eventually("status counts those who are there", || {
        (daemon.json("status")["callers"] == 0).then_some(())
    });
}

#[test]
fn a_crowd_that_never_ends_its_line_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = &Daemon::start(host, "");
    let (before, open) = (daemon.resident(), descriptors(daemon));
    let is_over = &AtomicBool::new(false);
    let mut callers = crowd(daemon, b"{\"command\":\"");
    thread::scope(|scope| {
        scope.spawn(|| {
            callers.retain(|it| it.set_nonblocking(true).is_ok());
            while !is_over.load(Ordering::Relaxed) && !callers.is_empty() {
                // Until it is hung up on.
                callers.retain_mut(|it| match it.write(&[b'x'; 64 * 1024]) {
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                    Ok(_) => true,
                });
            }
        });
        let ends = Ends(is_over);
        works(daemon, stranger);
        // Each may have said as much as the longest request has, in a vector that doubles.
        let most = before + 64 * 512 + 16 * 1024;
        assert!(daemon.resident() < most, "{} kB", daemon.resident());
        assert!(descriptors(daemon) <= open + 64);
        drop(ends);
    });
    works(daemon, stranger);
    eventually("all of them are forgotten", || {
        (descriptors(daemon) <= open + 1).then_some(())
    });
}

/// Says so when it is dropped: when the test fails, too.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_with_how_long_it_may_be() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let mut stream = UnixStream::connect(daemon.path("control.sock")).unwrap();
    // It is hung up on before it has said all of it.
    let _ = stream.write_all(&[b'x'; 1 << 20]);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let words = "{\"failed\":\"a request is 262144 bytes long at most\"}\n";
    assert_eq!(answer, words);
    // As many words as xargs puts into a line.
    let mut addresses = vec!["unban".to_owned()];
    addresses.extend((0..6_000).map(|n| format!("2001:db8::7:{n:x}")));
    let words: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let Said { out, err, .. } = daemon.command(&words);
    assert_eq!(out.lines().count(), 6_000, "{err}");
}

#[test]
fn a_crowd_that_asks_and_never_reads_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    ban_many(&daemon, 20_000);
    let (before, open) = (daemon.resident(), descriptors(&daemon));
    let mut callers = crowd(&daemon, b"{\"command\":\"list\"}\n");
    eventually("as many wait as may", || {
        let Said { status, out, .. } = daemon.command(&["status", "--json"]);
        let status: Value = (status == 0).then(|| serde_json::from_str(&out).unwrap())?;
        (status["counters"]["hung_up"].as_u64()? >= CROWD as u64 - 64).then_some(())
    });
    // What waits for each, and what is taken for a moment to make it.
    assert!(
        daemon.resident() < before + 64 * 1024,
        "replies are made as they are read"
    );
    works(&daemon, stranger);
    eventually("who reads gets all of it", || {
        let Said { status, out, .. } = daemon.command(&["list"]);
        (status == 0 && out.lines().count() == 1 + 20_000).then_some(())
    });
    eventually("those that do not are hung up on in time", || {
        // Who goes on talking reads no more for that.
        for caller in &mut callers {
            let _ = caller.write(b" ");
        }
        (descriptors(&daemon) <= open + 1).then_some(())
    });
    let status = daemon.ok(&["status"]);
    assert!(status.contains(HUNG_UP), "{status}");
}

#[test]
fn a_crowd_that_may_have_all_descriptors_keeps_nobody_from_being_answered() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let open = descriptors(&daemon);
    // Fewer than places.
    limit_descriptors(&daemon, host, open + 4);
    let callers = crowd(&daemon, b"{");
    works(&daemon, stranger);
    assert_eq!(told(&daemon, "commands cannot connect"), 0);
    drop(callers);
    // None: what is limited is their numbers, and some low ones may have become free.
    let begin = Instant::now();
    limit_descriptors(&daemon, host, 3);
    let Said { status, err, .. } = daemon.command(&["status"]);
    assert!(
        status == 1 && err.contains("the daemon does not answer within 2 s"),
        "{err}"
    );
    let lines = told(&daemon, "commands cannot connect for a moment");
    let seconds = begin.elapsed().as_secs();
    assert!(
        lines >= 1 && lines <= seconds + 2,
        "{lines} lines in {seconds} s"
    );
    assert!(daemon.log().contains("raise LimitNOFILE in the unit"));
    stranger.knock(at(Pair::HOST), [21, 22, 23]);
    eventually("scanners are banned", || {
        host.element("banned4", Pair::STRANGER)
    });
    limit_descriptors(&daemon, host, 1024);
    eventually("commands are answered again, without a restart", || {
        (daemon.command(&["status"]).status == 0).then_some(())
    });
    daemon.ok(&["unban", Pair::STRANGER]);
    works(&daemon, stranger);
}

#[test]
fn a_list_may_be_looked_at_for_as_long_as_one_likes() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "");
    ban_many(&daemon, 20_000);
    let open = descriptors(&daemon);
    let mut list = daemon.program();
    let mut list = list.arg("list").stdout(Stdio::piped()).spawn().unwrap();
    let mut pager = list.stdout.take().unwrap();
    pager.read_exact(&mut [0; 1]).unwrap();
    eventually("the daemon has told all of it", || {
        (descriptors(&daemon) <= open).then_some(())
    });
    assert_eq!(daemon.counter("hung_up"), 0);
    let mut rest = String::new();
    pager.read_to_string(&mut rest).unwrap();
    assert!(list.wait().unwrap().success());
    assert_eq!(rest.lines().count(), 1 + 20_000);
}

#[test]
fn who_is_not_root_is_told_so() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let everybodys = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    };
    everybodys(daemon.path("").as_path());
    let program = daemon.path("portsentry");
    fs::copy(env!("CARGO_BIN_EXE_portsentry"), &program).unwrap();
    let nobody = |words: &[&str]| {
        let mut command = host.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg(&program).arg("-c").arg(daemon.config());
        let Said { status, err, .. } = Said::from(command.args(words).output().unwrap());
        assert_eq!(status, 1, "{words:?}: {err}");
        err
    };
    for words in [&["status"][..], &["ban", "203.0.113.7"], &["list"]] {
        let err = nobody(words);
        assert!(err.contains("permission denied (only root may)"), "{err}");
    }
    // Whoever may open the socket may still not ask.
    everybodys(&daemon.path("control.sock"));
    for words in [&["status"][..], &["ban", "203.0.113.7"], &["list"]] {
        let err = nobody(words);
        assert!(err.contains("the daemon talks to root alone"), "{err}");
    }
    daemon.assert_nobody_is_banned();
}

#[test]
fn nobody_waits_long_at_the_door_of_a_daemon_that_hangs() {
    let Pair { host, stranger } = &Pair::new();
    // What the kernel keeps at the door, in this namespace.
    host.run("sysctl -q -w net.core.somaxconn=8");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "2s"]);
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let callers: Vec<_> = (0..9)
        .map(|_| UnixStream::connect(daemon.path("control.sock")).unwrap())
        .collect();
    let Said { status, err, .. } = daemon.command(&["status"]);
    assert!(
        status == 1 && err.contains("the daemon does not answer within 2 s"),
        "{err}"
    );
    let Said { status, err, .. } = daemon.command(&["unban", "203.0.113.7"]);
    assert!(
        status == 1 && err.contains("nft delete element inet portsentry banned4"),
        "{err}"
    );
    eventually("a ban ends when it would have", || {
        host.element("banned4", "203.0.113.7")
            .is_none()
            .then_some(())
    });
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    eventually("commands are answered again", || {
        (daemon.command(&["status"]).status == 0).then_some(())
    });
    daemon.assert_nobody_is_banned();
    works(&daemon, stranger);
    drop(callers);
}

#[test]
fn a_daemon_whose_socket_somebody_has_removed_is_not_taken_for_none() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    fs::remove_file(daemon.path("control.sock")).unwrap();
    for words in [
        &["unban", "203.0.113.7"][..],
        &["ban", "203.0.113.8"],
        &["status"],
        &["reload"],
        &["ignore", "add", "203.0.113.9"],
    ] {
        let Said { status, err, .. } = daemon.command(words);
        let pid = format!("pid {} ", daemon.pid());
        let why = "its socket is gone; stop it and start it again";
        assert!(
            status == 1 && err.contains(&pid) && err.contains(why),
            "{words:?}: {err}"
        );
    }
    let listed = daemon.command(&["list"]);
    assert_eq!(listed.status, 0, "{}", listed.err);
    assert!(listed.out.contains("203.0.113.7"), "{}", listed.out);
    let elements = host.elements("banned4");
    assert_eq!(elements.len(), 1, "nothing has changed");
}
