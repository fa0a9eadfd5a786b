//! Floods from sources that are made up: memory stays bounded, the log readable, the loop alive, and a scanner among them is found.

use std::net::Ipv4Addr;

use crate::lab::{Daemon, Pair, eventually, send_syns};

const DEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// So many strangers, none of whom exists.
fn crowd(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..=count).map(|n| Ipv4Addr::from(0x0b00_0000 + n * 7))
}

#[test]
fn who_scans_amid_a_flood_is_found_and_nobody_else_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21,22", Pair::HOST);
    send_syns(stranger, crowd(200_000), DEST, 25);
    stranger.nmap("-sS", "23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    let resident = daemon.resident();
    assert!(resident < 48 << 10, "{resident} kB");
    let lines = daemon.log().lines().count();
    assert!(lines < 40, "{lines} lines: {}", daemon.log());
}

#[test]
fn beyond_the_rate_and_the_limit_scanners_are_counted_and_not_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(
        host,
        "detect.trigger = 1\nban.rate = 500\nban.limit = 2000\n",
    );
    let mut sources = crowd(u32::MAX / 8);
    eventually("the limit is reached, and the rate", || {
        send_syns(stranger, sources.by_ref().take(5000), DEST, 23);
        (daemon.counter("spared_limit") > 0 && daemon.counter("spared_rate") > 0).then_some(())
    });
    let status = daemon.command(&["status"]);
    assert!(
        status.out.contains("2000 in force of 2000 intended"),
        "{status:?}"
    );
    assert!(
        status.out.contains("ban.limit of 2000 bans is reached"),
        "{status:?}"
    );
    assert_eq!(host.elements("banned4").len(), 2000);
    eventually("who scans when there is room again is banned", || {
        daemon.ok(&["unban", "--all"]);
        stranger.nmap("-sS", "23", Pair::HOST);
        host.element("banned4", Pair::STRANGER)
    });
    let log = daemon.log();
    let alarms = log
        .lines()
        .filter(|line| line.contains("attackalert"))
        .count();
    assert!(log.contains("more alarms within a second"), "{log}");
    assert!(alarms < 2 * 2000, "{alarms} lines");
}
