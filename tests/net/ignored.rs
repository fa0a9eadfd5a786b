//! Whom the kernel lets through whatever is banned: what the ignore lists name.

use crate::lab::{Daemon, Host, Pair, at, eventually};

/// A configuration that ignores the stranger, and what else a set may be asked to take.
fn ignoring_the_stranger() -> String {
    format!(
        "[ignore]\naddresses = [\"{}\", \"fd77::/64\", \"10.77.0.0/30\", \"240.0.0.0/4\"]\n",
        Pair::STRANGER
    )
}

/// What nft shows in a set, without blanks.
fn listed(host: &Host, set: &str) -> String {
    let listed = host.nft(&format!("list set inet portsentry {set}"));
    let elements = listed
        .split_once("elements = {")
        .and_then(|(_, rest)| rest.split_once('}'))
        .map_or("", |(elements, _)| elements);
    elements.split_whitespace().collect::<Vec<_>>().concat()
}

#[test]
fn a_friend_whom_somebody_bans_while_we_are_away_is_not_shut_out() {
    let Pair { host, stranger } = &Pair::new();
    let _services = [
        host.serve(at(Pair::HOST), 80),
        host.serve(at(Pair::HOST6), 80),
    ];
    let mut daemon = Daemon::start(host, &ignoring_the_stranger());
    assert_eq!(listed(host, "ignored4"), "10.77.0.0/30,240.0.0.0/4");
    assert_eq!(listed(host, "ignored6"), "fd77::/64");
    daemon.kill9();
    host.nft(&format!(
        "add element inet portsentry banned4 {{ {} }}; add element inet portsentry banned6_64 {{ fd77:: }}",
        Pair::STRANGER
    ));
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert!(stranger.reaches(at(Pair::HOST6), 80));
    let chain = host.nft("list chain inet portsentry prerouting");
    assert!(!chain.contains("@ignored4 counter packets 0 "), "{chain}");
    assert!(!chain.contains("@ignored6 counter packets 0 "), "{chain}");

    // It is the sets that do it.
    host.nft("flush set inet portsentry ignored4; flush set inet portsentry ignored6");
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(!stranger.reaches(at(Pair::HOST6), 80));

    daemon.restart();
    eventually("the friend is unbanned", || {
        host.elements("banned4").is_empty().then_some(())
    });
    assert_eq!(listed(host, "ignored4"), "10.77.0.0/30,240.0.0.0/4");
    assert!(stranger.reaches(at(Pair::HOST), 80));
}

#[test]
fn a_friend_of_ours_is_still_subject_to_the_firewall() {
    let Pair { host, stranger } = &Pair::new();
    let _services = [80, 81].map(|port| host.serve(at(Pair::HOST), port));
    let _daemon = Daemon::start(host, &ignoring_the_stranger());
    host.nft(
        "table inet fw { chain input { type filter hook input priority 0; tcp dport 80 drop; }; }",
    );
    host.nft(
        "table inet raw { chain pre { type filter hook prerouting priority -300; tcp dport 81 drop; }; }",
    );
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(!stranger.reaches(at(Pair::HOST), 81));
    host.nft("delete table inet fw; delete table inet raw");
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert!(stranger.reaches(at(Pair::HOST), 81));
}

#[test]
fn the_sets_follow_the_ignore_file() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "");
    let mut daemon = daemon;
    daemon.ignore("198.51.100.7\n2001:db8::/32\n");
    daemon.restart();
    assert_eq!(listed(host, "ignored4"), "198.51.100.7");
    assert_eq!(listed(host, "ignored6"), "2001:db8::/32");
    for (lines, four, six) in [
        ("198.51.100.0/24\n198.51.100.7\n", "198.51.100.0/24", ""),
        ("", "", ""),
        ("ff00::/8\n", "", "ff00::/8"),
    ] {
        daemon.ignore(lines);
        eventually("the sets follow", || {
            (listed(host, "ignored4") == four && listed(host, "ignored6") == six).then_some(())
        });
    }
    let thousands: String = (0..5000)
        .map(|i| format!("100.64.{}.{}\n", i / 100, i % 100 * 2))
        .collect();
    daemon.ignore(&thousands);
    eventually("thousands of lines are taken", || {
        (listed(host, "ignored4").split(',').count() == 5000).then_some(())
    });
    host.nft("flush ruleset");
    eventually("they are back after a flush", || {
        let there = host.try_nft("list table inet portsentry").status.success();
        (there && listed(host, "ignored4").split(',').count() == 5000).then_some(())
    });
    assert_eq!(daemon.command(&["status"]).status, 0);
}

#[test]
fn what_is_put_in_or_taken_out_by_hand_is_put_right_and_told() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, &ignoring_the_stranger());
    daemon.ok(&["ban", "203.0.113.7"]);
    for change in [
        "add element inet portsentry ignored4 { 203.0.113.7 }",
        "flush set inet portsentry ignored4",
    ] {
        host.nft(change);
        eventually("it is put right", || {
            (listed(host, "ignored4") == "10.77.0.0/30,240.0.0.0/4").then_some(())
        });
    }
    eventually("it is told, with the remedy", || {
        daemon.log().contains("into an ignore file").then_some(())
    });
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
    assert_eq!(daemon.command(&["status"]).status, 0);
}

#[test]
fn a_command_without_a_daemon_leaves_friends_alone() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, &ignoring_the_stranger());
    daemon.stop();
    daemon.ok(&["ban", "203.0.113.7"]);
    assert_eq!(listed(host, "ignored4"), "10.77.0.0/30,240.0.0.0/4");
    host.nft("flush chain inet portsentry prerouting");
    daemon.ok(&["ban", "203.0.113.8"]);
    assert_eq!(listed(host, "ignored4"), "10.77.0.0/30,240.0.0.0/4");
    assert_eq!(listed(host, "ignored6"), "fd77::/64");
}
