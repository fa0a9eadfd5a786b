//! The table and its sets, as an admin reads them and as others change them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::lab::{Daemon, Host, Pair, at, eventually};

const AS_TEXT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nft/portsentry.nft");

/// A listing with what differs from run to run made the same: `expires 9m59s12ms`, `packets 3 bytes 120`.
fn timeless(listing: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in listing.split_inclusive([' ', '\n']) {
        let (bare, blank) = word.split_at(word.trim_end().len());
        let changes = ["expires ", "packets ", "bytes "]
            .iter()
            .any(|before| words.last().is_some_and(|last| last == before));
        words.push(if changes {
            format!("…{blank}")
        } else {
            format!("{bare}{blank}")
        });
    }
    words.concat()
}

#[test]
fn the_sets_read_as_an_admin_would_write_them() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    daemon.ok(&[
        "ban",
        "2001:db8::7",
        "--for",
        "2h",
        "--reason",
        "tired of this one",
    ]);
    daemon.ok(&["ban", "2001:db8:5::/64", "--for", "ever"]);
    for (set, kind, element) in [
        (
            "banned4",
            "ipv4_addr",
            "10.77.0.2 timeout 10m expires … comment \"syn scan, 3 tcp ports, last 23\"",
        ),
        (
            "banned6",
            "ipv6_addr",
            "2001:db8::7 timeout 2h expires … comment \"tired of this one\"",
        ),
        // The key alone does not tell a prefix, so the comment does.
        (
            "banned6_64",
            "ipv6_addr",
            "2001:db8:5:: comment \"2001:db8:5::/64 by hand\"",
        ),
    ] {
        assert_eq!(
            timeless(&host.nft(&format!("list set inet portsentry {set}"))),
            format!(
                "\
table inet portsentry {{
\tset {set} {{
\t\ttype {kind}
\t\tsize 262143
\t\tflags timeout
\t\tgc-interval 10s
\t\telements = {{ {element} }}
\t}}
}}
"
            )
        );
    }
    let table = timeless(&host.nft("list table inet portsentry"));
    for line in [
        "\tcomment \"portsentry format 2\"\n",
        "\t\tip saddr @banned4 counter packets … bytes … drop\n",
        "\t\tip6 saddr @banned6 counter packets … bytes … drop\n",
        "@banned6_64 counter packets … bytes … drop\n",
    ] {
        assert!(table.contains(line), "{line} in:\n{table}");
    }
}

#[test]
fn the_rule_counts_what_it_drops() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", Pair::STRANGER]);
    stranger.hping3(7, "--udp -p 9", Pair::HOST);
    let chain = host.nft("list chain inet portsentry prerouting");
    assert!(
        chain.contains("ip saddr @banned4 counter packets 7 "),
        "{chain}"
    );
}

#[test]
fn the_table_as_text_is_the_table_the_daemon_makes() {
    let (by_text, by_daemon) = (&Host::new("text"), &Host::new("daemon"));
    for _ in 0..3 {
        by_text.run(&format!("nft -f {AS_TEXT}"));
    }
    let _daemon = Daemon::start(by_daemon, "");
    assert_eq!(
        by_text.nft("list table inet portsentry"),
        by_daemon.nft("list table inet portsentry")
    );
    // What the listing does not show, and the daemon would rebuild the table for.
    let daemon = Daemon::start(by_text, "");
    assert!(
        daemon
            .log()
            .contains("found what its bans need in place, and keeps it"),
        "{}",
        daemon.log()
    );
}

#[test]
fn loading_the_text_under_a_running_daemon_keeps_the_bans() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    host.run(&format!("nft -f {AS_TEXT}"));
    assert!(host.element("banned4", "203.0.113.7").is_some());
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    let host = &Host::new("host");
    host.nft("add table inet portsentry");
    host.nft("add set inet portsentry mine { type ipv4_addr; }");
    let before = host.nft("list ruleset");
    let daemon = Daemon::new(host, "");
    let said = daemon.run_to_its_end();
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("nft delete table inet portsentry"),
        "says what to type: {said:?}"
    );
    assert_eq!(host.nft("list ruleset"), before);
    let said = daemon.command(&["withdraw"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert_eq!(host.nft("list ruleset"), before);
}

#[test]
fn a_table_of_ours_in_another_shape_is_rebuilt_with_its_bans() {
    let host = &Host::new("host");
    host.nft("add table inet portsentry { comment \"portsentry format 2\"; }");
    host.nft("add set inet portsentry banned4 { type ipv4_addr; flags timeout; }");
    host.nft("add element inet portsentry banned4 { 203.0.113.7 timeout 10m comment \"before\", 203.0.113.8 }");
    let daemon = Daemon::start(host, "");
    assert!(
        daemon
            .log()
            .contains("rebuilt it with the bans that were in it"),
        "{}",
        daemon.log()
    );
    let element = host.element("banned4", "203.0.113.7").unwrap();
    assert_eq!(
        (element.timeout, element.comment.as_deref()),
        (Some(600), Some("before"))
    );
    assert_eq!(
        host.element("banned4", "203.0.113.8").unwrap().timeout,
        None
    );
    eventually("both are adopted", || {
        (daemon.banned() == ["203.0.113.7", "203.0.113.8"]).then_some(())
    });
    assert!(
        host.nft("list chain inet portsentry prerouting")
            .contains("ip saddr @banned4 counter")
    );
}

#[test]
fn a_table_that_is_deleted_while_we_run_is_back_with_the_next_ban() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, "");
    daemon.ok(&["ban", "203.0.113.7"]);
    host.nft("delete table inet portsentry");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    let list = daemon.banned();
    assert!(list.contains(&"203.0.113.7".to_owned()), "{list:?}");
    eventually("the ban from before is back in force", || {
        host.element("banned4", "203.0.113.7")
    });
}

#[test]
fn another_name_hook_and_priority_are_obeyed() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(
        host,
        "[nftables]\ntable = \"scanners\"\nhook = \"input\"\npriority = -5\n",
    );
    daemon.ok(&["ban", Pair::STRANGER]);
    let table = host.nft("list table inet scanners");
    assert!(
        table.contains("type filter hook input priority filter - 5"),
        "{table}"
    );
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(!host.try_nft("list table inet portsentry").status.success());
}

#[test]
fn prefixes_of_the_configured_length_are_banned() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "[ban]\nipv4_prefix = 24\nipv6_prefix = 56\n");
    daemon.ok(&["ban", "203.0.113.0/24"]);
    daemon.ok(&["ban", "2001:db8:1:ff00::/56"]);
    assert!(host.element("banned4_24", "203.0.113.0").is_some());
    assert!(host.element("banned6_56", "2001:db8:1:ff00::").is_some());
    daemon.ok(&["ban", "203.0.112.0/22"]);
    assert!(
        host.element("banned4_22", "203.0.112.0").is_some(),
        "an admin's own may have any length"
    );
    let said = daemon.command(&["ban", "204.0.0.0/6"]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("/8 is the widest"), "{said:?}");
}

#[test]
fn a_ban_cuts_connections_that_are_open() {
    let Pair { host, stranger } = &Pair::new();
    let listener = host.inside(|| TcpListener::bind((Pair::HOST, 80))).unwrap();
    let daemon = Daemon::start(host, "");
    let mut outside = stranger.connect(at(Pair::HOST), 80).unwrap();
    let (mut inside, _) = listener.accept().unwrap();
    inside
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = [0; 8];
    outside.write_all(b"before").unwrap();
    assert_eq!(inside.read(&mut buffer).unwrap(), 6);
    daemon.ok(&["ban", Pair::STRANGER]);
    outside.write_all(b"after").unwrap();
    assert_eq!(
        inside.read(&mut buffer).unwrap_err().kind(),
        ErrorKind::WouldBlock,
        "nothing arrives"
    );
}

#[test]
fn bans_that_are_not_in_force_are_told_and_made_up_for() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    // In one go: between two the daemon would make its own again.
    host.nft(
        "delete table inet portsentry; add table inet portsentry { comment \"somebody else's\"; }",
    );
    stranger.nmap("-sS", "21-23", Pair::HOST);
    let said = eventually("status fails", || {
        Some(daemon.command(&["status"])).filter(|said| said.status != 0)
    });
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.out.contains(" is degraded, "), "{said:?}");
    assert!(said.out.contains("0 in force of 1 intended"), "{said:?}");
    assert!(
        said.out.contains("nft delete table inet portsentry"),
        "{said:?}"
    );
    host.nft("delete table inet portsentry");
    daemon.element("banned4", Pair::STRANGER);
    eventually("status is content again", || {
        (daemon.command(&["status"]).status == 0).then_some(())
    });
    let complaints = daemon
        .log()
        .lines()
        .filter(|line| line.contains("ERROR"))
        .count();
    assert!(
        complaints <= 2,
        "the same complaint is not repeated: {}",
        daemon.log()
    );
}
