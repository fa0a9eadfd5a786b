//! `ban` and `unban`, with and without a daemon.

use nix::sys::signal::{Signal, kill};

use crate::lab::{Daemon, Host, Pair, Routed, at, eventually};

#[test]
fn an_unban_lifts_the_ban_everywhere_and_for_good() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    assert!(!stranger.reaches(at(Pair::HOST), 80));

    let said = daemon.ok(&["unban", Pair::STRANGER]);
    assert!(
        said.starts_with("10.77.0.2 unbanned (syn scan, 3 tcp ports, last 23; "),
        "{said}"
    );
    assert!(said.ends_with(" were left)\n"), "{said}");
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Pair::HOST), 80));
    let history = daemon.ok(&["history"]);
    assert!(
        history.contains("unban") && history.contains("uid 0"),
        "history knows who did it: {history}"
    );

    for end in [Daemon::stop, Daemon::kill9] {
        end(&mut daemon);
        daemon.restart();
        daemon.assert_nobody_is_banned();
    }
    assert!(stranger.reaches(at(Pair::HOST), 80));
}

#[test]
fn who_is_unbanned_starts_afresh() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.element("banned4", Pair::STRANGER);
    daemon.ok(&["unban", Pair::STRANGER]);
    let hits = daemon.counter("hits");
    stranger.knock(at(Pair::HOST), [24, 25]);
    daemon.has_counted("hits", hits + 2);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [26]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.timeout,
        Some(600),
        "a ban that was a mistake does not make the next one longer"
    );
}

#[test]
fn an_unban_needs_no_daemon() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&[
        "ban",
        Pair::STRANGER,
        "--for",
        "1h",
        "--reason",
        "a mistake",
    ]);
    daemon.ok(&["ban", "203.0.113.7"]);
    daemon.stop();
    let said = daemon.ok(&["unban", Pair::STRANGER]);
    assert!(
        said.starts_with("10.77.0.2 unbanned (a mistake; "),
        "{said}"
    );
    assert!(stranger.reaches(at(Pair::HOST), 80));
    daemon.restart();
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
    assert_eq!(host.elements("banned4").len(), 1);
}

#[test]
fn an_unban_needs_no_table() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    daemon.stop();
    host.nft("delete table inet portsentry");
    daemon.ok(&["unban", "203.0.113.7"]);
    daemon.restart();
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_ban_needs_no_daemon() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::new(host, "");
    assert_eq!(
        daemon.ok(&["ban", Pair::STRANGER, "--for", "1h"]),
        "10.77.0.2 banned for 1h: by hand\n"
    );
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    let list = daemon.ok(&["list"]);
    assert!(list.contains(Pair::STRANGER), "{list}");
    daemon.restart();
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    assert_eq!(host.elements("banned4").len(), 1);
}

#[test]
fn unban_all_lifts_all() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    assert_eq!(daemon.ok(&["unban", "--all"]), "nobody was banned\n");
    for source in ["203.0.113.7", "2001:db8::7", "2001:db8:5::/64"] {
        daemon.ok(&["ban", source]);
    }
    let said = daemon.ok(&["unban", "--all"]);
    assert_eq!(said.lines().count(), 3, "{said}");
    daemon.assert_nobody_is_banned();
    daemon.ok(&["ban", "203.0.113.7"]);
    daemon.stop();
    daemon.ok(&["unban", "--all"]);
    daemon.restart();
    daemon.assert_nobody_is_banned();
}

#[test]
fn an_address_whose_prefix_is_banned_is_freed_with_it() {
    let Routed { host, stranger, .. } = &Routed::new();
    let _service = host.serve(at(Routed::HOST6), 80);
    let daemon = Daemon::start(host, "");
    stranger.nmap("-6 -sS", "21-23", Routed::HOST6);
    daemon.element("banned6_64", Routed::STRANGER6_PREFIX);
    let said = daemon.ok(&["unban", Routed::STRANGER6]);
    assert!(
        said.starts_with("2001:db8:1::/64 unbanned, which covers 2001:db8:1::2 (syn scan"),
        "{said}"
    );
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    daemon.assert_nobody_is_banned();
}

#[test]
fn every_ban_that_covers_the_address_is_lifted() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    for alive in [true, false] {
        daemon.ok(&["ban", "2001:db8::7"]);
        daemon.ok(&["ban", "2001:db8::/64"]);
        if !alive {
            daemon.stop();
        }
        let said = daemon.ok(&["unban", "2001:db8::7"]);
        assert!(
            said.contains("2001:db8::7 unbanned (")
                && said.contains("2001:db8::/64 unbanned, which covers"),
            "{said}"
        );
        assert_eq!(host.elements("banned6"), []);
        assert_eq!(host.elements("banned6_64"), []);
    }
}

#[test]
fn what_stands_in_the_kernel_alone_can_be_lifted() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    host.nft("add element inet portsentry banned4 { 203.0.113.9 }");
    let said = daemon.ok(&["unban", "203.0.113.9"]);
    assert!(said.starts_with("203.0.113.9 unbanned ("), "{said}");
    assert_eq!(host.elements("banned4"), []);
    daemon.stop();
    host.nft("add element inet portsentry banned4 { 203.0.113.9 }");
    let said = daemon.ok(&["unban", "203.0.113.9"]);
    assert_eq!(said, "203.0.113.9 unbanned (found in the kernel alone)\n");
    assert_eq!(host.elements("banned4"), []);
    host.nft("add element inet portsentry banned6_64 { 2001:db8:9:: }");
    let said = daemon.ok(&["unban", "2001:db8:9::1"]);
    assert!(said.starts_with("2001:db8:9::/64 unbanned"), "{said}");
    assert_eq!(host.elements("banned6_64"), []);
}

#[test]
fn an_address_that_is_not_banned_is_no_failure() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    for _ in 0..2 {
        assert_eq!(
            daemon.ok(&["unban", "203.0.113.7"]),
            "203.0.113.7 is not banned\n"
        );
        if daemon.command(&["status"]).status == 0 {
            daemon.stop();
        }
    }
}

#[test]
fn nonsense_is_a_usage_error() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    for args in [
        &["unban", "nonsense"] as &[&str],
        &["unban", "203.0.113.256"],
        &["unban"],
        &["unban", "--all", "203.0.113.7"],
        &["ban", "203.0.113.0/33"],
        &["ban", "203.0.113.7", "--for", "soon"],
        &["ban", "203.0.113.7", "--for", "0s"],
        &["ban", "203.0.113.7", "--for", "5M"],
        &["ban", "203.0.113.7", "--for", "11years"],
    ] {
        let said = daemon.command(args);
        assert_eq!(
            (said.status, said.out.as_str()),
            (2, ""),
            "{args:?}: {said:?}"
        );
        assert!(!said.err.is_empty());
    }
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_ban_by_hand_lasts_as_long_as_it_was_asked_for() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    for (args, said, timeout) in [
        (
            &["ban", "203.0.113.7"] as &[&str],
            "203.0.113.7 banned for 10m: by hand\n",
            Some(600),
        ),
        (
            &["ban", "203.0.113.7", "--for", "1h 30m"],
            "203.0.113.7 banned for 1h 30m: by hand\n",
            Some(5400),
        ),
        (
            &["ban", "203.0.113.7", "--for", "ever"],
            "203.0.113.7 banned for ever: by hand\n",
            None,
        ),
        (
            &[
                "ban",
                "203.0.113.7",
                "--for",
                "30d",
                "--reason",
                "a \"bad\" one",
            ],
            "203.0.113.7 banned for 30d: a ?bad? one\n",
            Some(2_592_000),
        ),
    ] {
        assert_eq!(daemon.ok(args), said);
        assert_eq!(
            host.element("banned4", "203.0.113.7").unwrap().timeout,
            timeout,
            "{args:?}"
        );
    }
    assert_eq!(
        daemon.banned(),
        ["203.0.113.7"],
        "each took the place of the one before"
    );
    assert_eq!(host.elements("banned4").len(), 1);
}

#[test]
fn a_ban_that_runs_out_is_gone_everywhere() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", Pair::STRANGER, "--for", "2s"]);
    eventually("it runs out", || daemon.banned().is_empty().then_some(()));
    eventually("in the kernel too", || {
        stranger.reaches(at(Pair::HOST), 80).then_some(())
    });
    assert_eq!(daemon.json("status")["intended"], 0);
}

#[test]
fn an_ipv4_address_in_ipv6_clothes_is_the_ipv4_address() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    assert_eq!(
        daemon.ok(&["ban", "::ffff:203.0.113.7"]),
        "203.0.113.7 banned for 10m: by hand\n"
    );
    assert!(host.element("banned4", "203.0.113.7").is_some());
    daemon.ok(&["unban", "::ffff:203.0.113.7/128"]);
    daemon.assert_nobody_is_banned();
}

#[test]
fn lists_and_history_read_well() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    assert_eq!(daemon.ok(&["list"]), "nobody is banned\n");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    let list = daemon.ok(&["list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert!(
        lines[0].starts_with("SOURCE ") && lines[0].ends_with("REASON"),
        "{list}"
    );
    assert!(
        lines[1].starts_with("10.77.0.2 ") && lines[1].contains(" of 10m"),
        "{list}"
    );
    assert!(
        lines[1].ends_with("syn scan, 3 tcp ports, last 23"),
        "{list}"
    );
    let status = daemon.json("status");
    assert_eq!(
        (&status["intended"], &status["enforced"]),
        (&1.into(), &1.into()),
        "{status}"
    );
    assert_eq!(status["state"], "enforcing");
    assert_eq!(status["pid"], daemon.pid().as_raw());
    assert_eq!(status["responders"], serde_json::json!(["nftables"]));
    assert_eq!(status["capture"]["method"], "packet");
    let history = daemon.ok(&["history", Pair::STRANGER]);
    assert!(
        history.contains("syn scan, 3 tcp ports, last 23"),
        "{history}"
    );
    let text = std::fs::read_to_string(daemon.path("history.log")).unwrap();
    assert!(
        text.contains(Pair::STRANGER) && text.contains("Port: 23 TCP"),
        "1.2's line: {text}"
    );
}

/// Types the `nft delete element` lines that a failed unban gave.
fn type_what_it_says(host: &Host, said: &str) {
    let lines = said
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("nft delete element "));
    let script = lines.collect::<Vec<_>>().join("; ");
    assert!(!script.is_empty(), "it says what to type: {said}");
    let mut shell = host.command("sh");
    let output = shell.args(["-c", &script]).output().expect("sh is there");
    assert!(output.status.success(), "{script}: {output:?}");
}

#[test]
fn a_daemon_that_hangs_does_not_keep_an_admin_locked_out() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "2001:db8::7"]);
    daemon.ok(&["ban", "2001:db8::/64"]);
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    let said = daemon.command(&["unban", "2001:db8::7"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("does not answer within 2 s"), "{said:?}");
    assert!(
        said.err
            .contains(&format!("stop it first (kill -9 {})", daemon.pid())),
        "it would put the ban back: {said:?}"
    );
    type_what_it_says(host, &said.err);
    assert_eq!(
        (host.elements("banned6"), host.elements("banned6_64")),
        (vec![], vec![])
    );
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    eventually("it finds out when it goes on", || {
        daemon.banned().is_empty().then_some(())
    });
}

#[test]
fn a_daemon_that_hangs_is_not_taken_for_one_that_bans_nobody() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    kill(daemon.pid(), Signal::SIGSTOP).unwrap();
    for args in [&["list"] as &[&str], &["list", "--json"]] {
        let said = daemon.command(args);
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains("does not answer within 2 s"), "{said:?}");
    }
    kill(daemon.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
}

#[test]
fn a_text_file_that_takes_no_lines_is_no_failure_of_a_command() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    let text = daemon.path("history.log");
    std::fs::remove_file(&text).expect("it is ours");
    std::fs::create_dir(&text).expect("the directory is ours");
    stranger.knock(at(Pair::HOST), 21..=23);
    eventually("its trouble is told", || {
        let troubles = daemon.json("status")["troubles"].to_string();
        troubles.contains("history.log").then_some(())
    });
    for args in [["ban", "203.0.113.7"], ["unban", "203.0.113.7"]] {
        let said = daemon.command(&args);
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    }
}

/// An unban without a daemon that fails: the status, why, and what it says to type frees the address.
fn refused_unban(spoil: impl FnOnce(&Daemon<'_>), status: i32, why: &str) {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    daemon.stop();
    spoil(&daemon);
    let said = daemon.command(&["unban", "203.0.113.7"]);
    assert_eq!((said.status, said.out.as_str()), (status, ""), "{said:?}");
    assert!(said.err.contains(why), "{said:?}");
    type_what_it_says(host, &said.err);
    assert_eq!(host.elements("banned4"), []);
    let said = daemon.command(&["unban", "--all"]);
    assert_eq!((said.status, said.out.as_str()), (status, ""), "{said:?}");
    assert!(
        said.err.contains("\n  nft delete table inet portsentry"),
        "{said:?}"
    );
}

#[test]
fn a_spoilt_configuration_does_not_keep_an_admin_locked_out() {
    refused_unban(
        |daemon| daemon.configure("[detect]\ntriger = 5\n"),
        78,
        "did you mean \"trigger\"?",
    );
}

#[test]
fn a_damaged_history_does_not_keep_an_admin_locked_out() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    for source in ["203.0.113.7", "203.0.113.8", "2001:db8:9::/64"] {
        daemon.ok(&["ban", source]);
    }
    daemon.stop();
    std::fs::write(daemon.history(), "my shopping list\n").unwrap();
    for (lift, left) in [("203.0.113.7", 1), ("2001:db8:9::1", 1), ("--all", 0)] {
        let said = daemon.command(&["unban", lift]);
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains("it is not an SQLite file"), "{said:?}");
        assert!(
            said.err.contains("lifted in the kernel all the same"),
            "{said:?}"
        );
        assert_eq!(host.elements("banned4").len(), left, "after unban {lift}");
    }
    assert_eq!(host.elements("banned6_64"), []);
}

#[test]
fn what_is_not_in_history_is_named() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    assert_eq!(daemon.ok(&["history"]), "nothing has happened yet\n");
    daemon.ok(&["ban", "203.0.113.7"]);
    assert_eq!(
        daemon.ok(&["history", "203.0.113.8"]),
        "nothing is known of 203.0.113.8\n"
    );
}

#[test]
fn the_skipped_packets_are_told_by_name() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    let status = daemon.json("status");
    let skipped = status["capture"]["skipped"].as_object();
    assert!(
        skipped.is_some_and(|by_name| by_name.values().all(serde_json::Value::is_u64)),
        "{status}"
    );
}

#[test]
fn a_withdrawal_asks_the_socket_too() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    // Another history file has another lock.
    let history = daemon.path("other.db");
    daemon.configure(&format!("[history]\nfile = {history:?}\n"));
    let said = daemon.command(&["withdraw"]);
    assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
    assert!(
        said.err.contains("stop it first") && said.err.contains(&format!("pid {},", daemon.pid())),
        "{said:?}"
    );
    assert!(host.element("banned4", "203.0.113.7").is_some());
}

#[test]
fn commands_wait_for_whoever_is_about_to_let_go_of_the_lock() {
    let host = &Host::new("host");
    let mut daemon = Daemon::new(host, "");
    let mut holder = host
        .command("flock")
        .arg(daemon.path("history.db.lock"))
        .args(["sleep", "1"])
        .spawn()
        .expect("flock is there");
    eventually("the lock is taken", || {
        let mut flock = host.command("flock");
        flock.args(["-n"]).arg(daemon.path("history.db.lock"));
        let taken = flock.arg("true").status().expect("flock is there");
        (!taken.success()).then_some(())
    });
    let mut many: Vec<_> = (1..=4)
        .map(|n| {
            let mut ban = daemon.program();
            ban.args(["ban", &format!("203.0.113.{n}")]);
            ban.spawn().expect("ip is there")
        })
        .collect();
    for ban in &mut many {
        assert!(ban.wait().expect("it is our child").success());
    }
    holder.wait().expect("it is our child");
    assert_eq!(daemon.banned().len(), 4);

    // A daemon that has just been started is waited for too.
    daemon.spawn();
    eventually("it has the lock", || {
        let holder = std::fs::read_to_string(daemon.path("history.db.lock")).ok()?;
        (!holder.is_empty()).then_some(())
    });
    daemon.ok(&["unban", "203.0.113.1"]);
}

#[test]
fn a_daemon_whose_socket_is_gone_is_not_told_to_be_none() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    std::fs::remove_file(daemon.path("control.sock")).expect("the directory is ours");
    let holder = format!("pid {} (portsentry) holds ", daemon.pid());
    for (command, status) in [("status", 1), ("list", 0)] {
        let said = daemon.command(&[command]);
        assert_eq!(said.status, status, "{said:?}");
        assert!(said.err.contains(&holder), "{said:?}");
        assert!(said.err.contains("stop it and start it again"), "{said:?}");
    }
    let said = daemon.command(&["unban", "203.0.113.7"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err
            .contains("nft delete element inet portsentry banned4"),
        "{said:?}"
    );
}

#[test]
fn explain_tells_probes_bans_where_they_stand_and_why_nobody_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "ignore.addresses = [\"203.0.113.7\"]");
    let explain = |address: &str| daemon.ok(&["explain", address]);
    let said = explain("203.0.113.7");
    assert!(said.contains("is never banned: it is ignored"), "{said}");
    assert_eq!(
        said.lines().count(),
        2,
        "what follows for others does not for it: {said}"
    );

    stranger.nmap("-sS", "21,22", Pair::HOST);
    daemon.has_counted("hits", 2);
    let said = explain(Pair::STRANGER);
    assert!(
        said.contains("a ban would name 10.77.0.2 and last 10m"),
        "{said}"
    );
    assert!(said.contains("probes that count: 2 of the 3"), "{said}");
    assert!(said.contains("scan of tcp port 21, "), "{said}");

    stranger.nmap("-sS", "23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    let said = explain(Pair::STRANGER);
    assert!(said.contains("is banned as 10.77.0.2, begun "), "{said}");
    assert!(said.contains("held right now by nftables"), "{said}");
    assert!(
        said.contains("banned for 10m: syn scan, 3 tcp ports"),
        "{said}"
    );

    let told: serde_json::Value =
        serde_json::from_str(&daemon.ok(&["explain", "--json", Pair::STRANGER])).expect("JSON");
    assert_eq!(
        told["bans"][0]["responders"],
        serde_json::json!(["nftables"])
    );
    assert_eq!(told["history"], daemon.json("history"));
    daemon.ok(&["unban", Pair::STRANGER]);
    let said = explain(Pair::STRANGER);
    assert!(said.contains("is not banned;"), "{said}");
    assert!(said.contains("unban by uid 0"), "{said}");
}

#[test]
fn who_ordered_a_ban_is_told_over_a_restart_too() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    let is_told = |daemon: &Daemon<'_>, address: &str| {
        let said = daemon.ok(&["explain", address]);
        let words = format!("is banned as {address} by uid 0, begun ");
        assert!(said.contains(&words), "{said}");
        assert!(said.contains(" banned for 1h by uid 0: by hand"), "{said}");
        let banned = daemon.json("list");
        let all = banned.as_array().expect("it is a list");
        assert!(all.iter().all(|ban| ban["by"] == "uid 0"), "{banned}");
        assert_eq!(daemon.json("history")[0]["banned_by"], "uid 0");
    };
    is_told(&daemon, "203.0.113.7");
    let log = daemon.log();
    assert!(
        log.contains("203.0.113.7 banned for 1h by uid 0: by hand"),
        "{log}"
    );
    daemon.stop();
    daemon.ok(&["ban", "203.0.113.8", "--for", "1h"]);
    daemon.restart();
    for address in ["203.0.113.7", "203.0.113.8"] {
        is_told(&daemon, address);
    }
}

#[test]
fn explain_tells_what_a_friend_has_sent() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "ignore.addresses = [\"10.77.0.0/24\"]");
    stranger.nmap("-sS", "21-25", Pair::HOST);
    daemon.has_counted("ignored", 5);
    let said = daemon.ok(&["explain", Pair::STRANGER]);
    let words = "packets to watched ports that were let be, for it is never banned, the last of them:\n    syn scan of tcp port 2";
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("probes that count"), "{said}");
    let said = daemon.ok(&["explain", Pair::OTHER]);
    assert!(!said.contains("were let be"), "{said}");
}

#[test]
fn explain_tells_that_there_are_too_many_bans() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "ban.limit = 1");
    daemon.ok(&["ban", "203.0.113.7"]);
    stranger.knock(at(Pair::HOST), [21, 22, 23]);
    daemon.has_counted("spared_limit", 1);
    let said = daemon.ok(&["explain", Pair::STRANGER]);
    let words = "  was not banned for them: ban.limit of 1 ban is reached: scanners are spared\n";
    assert!(said.contains(words), "{said}");
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
    let said = daemon.ok(&["explain", "203.0.113.7"]);
    assert!(!said.contains("was not banned"), "{said}");
}
