//! What adds up to a scan, and what a scan leads to, as configured.

use std::time::{Duration, Instant};

use crate::lab::{Daemon, Pair, at, eventually};

#[test]
fn two_ports_are_no_scan_and_a_third_is() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.knock(at(Pair::HOST), [21, 22, 21, 22]);
    daemon.has_counted("hits", 4);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [23]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn hits_count_where_hits_are_to_be_counted() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\ncount = \"hits\"\ntrigger = 4\n");
    stranger.knock(at(Pair::HOST), [21, 21, 21]);
    daemon.has_counted("hits", 3);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [21]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 4 tcp hits, last 21")
    );
}

#[test]
fn probes_further_apart_than_the_window_do_not_add_up() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\nwindow = \"1s\"\n");
    for ports in [[21, 22], [23, 24]] {
        stranger.knock(at(Pair::HOST), ports);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(1100) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    daemon.has_counted("hits", 4);
    daemon.assert_nobody_is_banned();
}

#[test]
fn one_packet_to_a_decoy_is_enough() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[detect]\ntrigger = 64\ndecoys = [23]\n");
    stranger.knock(at(Pair::HOST), [22]);
    daemon.has_counted("hits", 1);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [23]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert!(element.comment.unwrap().ends_with("last 23"));
}

#[test]
fn tcp_and_udp_of_one_source_add_up() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.knock(at(Pair::HOST), [21, 22]);
    stranger.datagrams(at(Pair::HOST), [23]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("mixed scan, 3 ports, last 23")
    );
}

#[test]
fn stealth_mode_watches_its_ports_and_no_others() {
    let Pair { host, stranger } = &Pair::new();
    let config = "[tcp]\nmode = \"stealth\"\nports = [23, \"8080-8081\"]\n[udp]\nmode = \"off\"\n";
    let daemon = Daemon::start(host, config);
    stranger.knock(at(Pair::HOST), [21, 22, 25, 79, 80, 443, 8079, 8082]);
    stranger.datagrams(at(Pair::HOST), [21, 22, 25, 23, 8080]);
    stranger.knock(at(Pair::HOST), [23, 8080]);
    daemon.has_counted("hits", 2);
    assert_eq!(daemon.counter("hits"), 2);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [8081]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert_eq!(
        element.comment.as_deref(),
        Some("syn scan, 3 tcp ports, last 8081")
    );
}

#[test]
fn excluded_ports_and_those_from_below_on_are_no_traps() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[tcp]\nbelow = 100\nexclude = [\"21-22\"]\n");
    stranger.knock(at(Pair::HOST), [21, 22, 100, 101, 113, 443, 1024]);
    stranger.knock(at(Pair::HOST), [23, 99]);
    daemon.has_counted("hits", 2);
    assert_eq!(daemon.counter("hits"), 2);
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_scan_that_is_only_to_be_logged_bans_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(
        host,
        "[tcp]\nresponse = \"log\"\n[udp]\nresponse = \"log\"\n",
    );
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("logged", 1);
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert!(
        daemon
            .log()
            .contains("attackalert: Ignoring TCP response per configuration file setting."),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.json("status")["state"], "log-only");
    let history = daemon.ok(&["history"]);
    assert!(
        history.contains(Pair::STRANGER) && history.contains("syn scan, 3 tcp ports, last 23"),
        "{history}"
    );
}

#[test]
fn a_named_interface_is_watched_and_others_are_not() {
    let Pair { host, stranger } = &Pair::new();
    host.cable(
        "eth1",
        &["10.78.0.1/24"],
        stranger,
        "eth1",
        &["10.78.0.2/24"],
    );
    let daemon = Daemon::start(host, "[capture]\ninterfaces = [\"eth1\"]\n");
    stranger.nmap("-sS", "21-30", Pair::HOST);
    stranger.nmap("-sS", "21-23", "10.78.0.1");
    daemon.element("banned4", "10.78.0.2");
    assert_eq!(daemon.banned(), ["10.78.0.2"]);
}

#[test]
fn a_second_ban_lasts_longer() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[ban]\nduration = \"2s\"\nescalate = 2\n");
    for length in [2, 4] {
        stranger.knock(at(Pair::HOST), 21..=23);
        let list = eventually("the stranger is banned", || {
            Some(daemon.json("list")).filter(|list| !list[0].is_null())
        });
        assert_eq!(list[0]["length"], length, "{list}");
        eventually("the ban ends", || daemon.banned().is_empty().then_some(()));
    }
    let _service = host.serve(at(Pair::HOST), 80);
    eventually("it ends in the kernel too", || {
        stranger.reaches(at(Pair::HOST), 80).then_some(())
    });
}

#[test]
fn scanners_beyond_the_limit_are_spared() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "[ban]\nlimit = 1\n");
    daemon.ok(&["ban", "203.0.113.7"]);
    let said = daemon.command(&["ban", "203.0.113.8"]);
    assert_eq!(said.status, 1);
    assert!(
        said.err
            .contains("the limit of 1 ban (ban.limit) is reached"),
        "{said:?}"
    );
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.has_counted("spared_limit", 1);
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
    assert_eq!(host.elements("banned4").len(), 1);
    assert!(
        daemon.log().contains("ban.limit of 1 ban is reached"),
        "{}",
        daemon.log()
    );
}
