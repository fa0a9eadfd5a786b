//! `import` and `export`.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::lab::{Daemon, Host, Pair, at, eventually};

/// A list of so many sources, each with others between that are not to be banned.
fn list_of(count: u32) -> String {
    let mut list = "# strangers\n".to_owned();
    for n in 0..count {
        list += &format!("11.{}.{}.{} # {n}\n", n >> 16, n >> 8 & 255, n & 255);
        match n % 1000 {
            100 => list += "127.0.0.1\n",
            200 => list += "192.0.2.0/24\n",
            300 => list += "example.org\n",
            400 => list += "11.0.0.0\n",
            500 => list += "0.0.0.0/5\n",
            _ => {}
        }
    }
    list
}

#[test]
fn a_long_list_is_banned_but_for_friends_and_nonsense() {
    let host = &Host::new("host");
    let mut daemon = Daemon::new(host, "");
    daemon.ignore("192.0.2.7\n");
    daemon.restart();
    fs::write(daemon.path("list"), list_of(10_000)).unwrap();
    let list = daemon.path("list").display().to_string();
    let said = daemon.command(&["import", "--for", "1d", "--reason", "theirs", &list]);
    assert_eq!(
        said.status, 1,
        "nonsense is told by the status too: {said:?}"
    );
    assert_eq!(
        said.out,
        "10051 lines read: 10000 sources banned, 0 bans prolonged\n  \
         10 not banned: neither an address nor a prefix\n  \
         30 not banned: friends, which are never banned\n  \
         10 not banned: banned already, about as long or longer\n"
    );
    for words in [
        "/list:305: not an IP address or prefix: \"example.org\"",
        "127.0.0.1 is never banned: ",
        "192.0.2.0/24 is never banned: it is ignored (",
        "… and so on",
    ] {
        assert!(said.err.contains(words), "{words} in {}", said.err);
    }
    assert!(said.err.lines().count() <= 21, "{}", said.err);
    let element = daemon.element("banned4", "11.0.39.15");
    assert_eq!(
        (element.timeout, element.comment.as_deref()),
        (Some(86_400), Some("theirs"))
    );
    let status = daemon.json("status");
    assert_eq!(
        (&status["state"], &status["enforced"]),
        (&json!("enforcing"), &json!(10_000))
    );

    daemon.kill9();
    daemon.restart();
    assert_eq!(daemon.json("status")["enforced"], 10_000);
    let again = daemon.command(&["import", "--for", "2h", "--json", &list]);
    let told: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(
        (&told["banned"], &told["prolonged"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(told["refused"]["banned-already"], 10_010, "{told}");
    let again: Value = serde_json::from_str(
        &daemon
            .command(&["import", "--for", "ever", "--json", &list])
            .out,
    )
    .unwrap();
    assert_eq!(again["prolonged"], 10_000, "{again}");
    assert_eq!(daemon.element("banned4", "11.0.39.15").timeout, None);
}

#[test]
fn what_is_exported_can_be_imported_elsewhere_with_and_without_a_daemon() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&[
        "ban",
        "203.0.113.7",
        "--for",
        "1h",
        "--reason",
        "tired of it",
    ]);
    daemon.ok(&["ban", "2001:db8:7::/64", "--for", "ever"]);
    daemon.ok(&["ban", "198.51.100.0/24", "--for", "1h"]);
    let exported = daemon.ok(&["export"]);
    assert!(
        exported.contains("2001:db8:7::/64 # for ever: by hand\n")
            && exported
                .lines()
                .any(|line| line.starts_with("203.0.113.7 # until 20")
                    && line.ends_with("Z: tired of it")),
        "{exported}"
    );

    let elsewhere = &Host::new("elsewhere");
    let mut other = Daemon::new(elsewhere, "");
    for alive in [false, true] {
        if alive {
            other.restart();
            other.ok(&["unban", "--all"]);
        }
        fs::write(other.path("list"), &exported).unwrap();
        let said = other.ok(&["import", &other.path("list").display().to_string()]);
        assert_eq!(said, "3 lines read: 3 sources banned, 0 bans prolonged\n");
        assert_eq!(elsewhere.elements("banned4_24").len(), 1);
        let mut sources: Vec<String> = other
            .ok(&["export"])
            .lines()
            .map(|line| line[..line.find(' ').unwrap()].to_owned())
            .collect();
        sources.sort_unstable();
        assert_eq!(
            sources,
            ["198.51.100.0/24", "2001:db8:7::/64", "203.0.113.7"]
        );
    }
    other.stop();
    other.restart();
    assert_eq!(other.banned().len(), 3);
}

#[test]
fn beyond_the_limit_nobody_is_banned_and_that_is_told() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "ban.limit = 3");
    daemon.ok(&["ban", "203.0.113.1", "--for", "1m"]);
    let list: String = (1..=5).map(|n| format!("203.0.113.{n}\n")).collect();
    fs::write(daemon.path("list"), list).unwrap();
    let said = daemon.command(&["import", &daemon.path("list").display().to_string()]);
    assert_eq!(
        (said.status, said.out.as_str()),
        (
            1,
            "5 lines read: 2 sources banned, 1 ban prolonged\n  2 not banned: beyond ban.limit\n"
        )
    );
    assert_eq!(daemon.banned().len(), 3);
}

#[test]
fn who_interrupts_an_import_is_told_what_was_taken() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "detect.trigger = 1");
    for alive in [false, true] {
        if alive {
            daemon.restart();
            daemon.ok(&["unban", "--all"]);
        }
        let mut import = daemon.program();
        import.args(["import", "--for", "1h", "-"]);
        let import = import
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut import = import.spawn().unwrap();
        let mut list = import.stdin.take().unwrap();
        for n in 0..3000_u32 {
            writeln!(list, "11.0.{}.{}", n >> 8, n & 255).unwrap();
        }
        list.flush().unwrap();
        eventually("the first batch is banned", || {
            host.element("banned4", "11.0.0.1")
        });
        if alive {
            // Others have their turn meanwhile.
            stranger.knock(at(Pair::HOST), [23]);
            daemon.element("banned4", Pair::STRANGER);
        }
        kill(
            Pid::from_raw(i32::try_from(import.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
        let status = eventually("the import ends", || import.try_wait().unwrap());
        let (mut out, mut err) = (String::new(), String::new());
        import
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        import
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(
            (status.code(), out.as_str(), err.as_str()),
            (
                Some(130),
                "2048 lines read: 2048 sources banned, 0 bans prolonged\n",
                "portsentry: interrupted by SIGINT: the rest of the list is not banned\n"
            )
        );
    }
    assert_eq!(daemon.json("status")["enforced"], 2049);
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.json("status")["enforced"], 2049);
}

/// Between two portions others have their turn: who asks how we are sees how far it is, and who scans is banned.
#[test]
fn while_thousands_are_unbanned_others_have_their_turn() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let address = |n| format!("11.0.{}.{}", n >> 8, n & 255);
    let all: Vec<String> = (0..20_000).map(address).collect();
    fs::write(daemon.path("list"), all.join("\n")).unwrap();
    let list = daemon.path("list").display().to_string();
    let mut words = vec!["unban"];
    words.extend(all[..4000].iter().map(String::as_str));
    for (words, lifted) in [(words, 4000), (vec!["unban", "--all"], 20_000)] {
        daemon.ok(&["import", &list]);
        assert_eq!(daemon.json("status")["enforced"], 20_000);
        let (said, seen) = thread::scope(|scope| {
            let unban = scope.spawn(|| daemon.ok(&words));
            let mut seen = Vec::new();
            while !unban.is_finished() {
                seen.push(daemon.json("status")["intended"].as_u64().unwrap());
            }
            (unban.join().unwrap(), seen)
        });
        assert_eq!(said.lines().count(), lifted);
        assert!(
            said.lines().all(|line| line.contains(" unbanned (")),
            "{said}"
        );
        let left = 20_000 - u64::try_from(lifted).unwrap();
        let amid = seen.iter().filter(|seen| (left + 1..20_000).contains(seen));
        assert!(amid.count() > 0, "{seen:?}");
        assert_eq!(daemon.json("status")["enforced"], left);
        assert_eq!(
            host.elements("banned4").len(),
            usize::try_from(left).unwrap()
        );
    }
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
}
