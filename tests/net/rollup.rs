//! Many banned neighbours that become one ban.

use std::fs;

use crate::lab::{Daemon, Host, Routed, at, eventually};

/// Three handshakes from parts of a /56 become one ban of it.
const SOON: &str = "tcp.mode = \"connect\"\ntcp.ports = [23]\nudp.mode = \"off\"\ndetect.trigger = 1\n\
    ban.ipv6_rollup = [\"3 in /56\"]\n";
const WIDE: &str = "2001:db8:1::/56";
const PREFIX: &str = "2001:db8:1::";

/// The stranger sends from the `n`-th /64 of its /56 from now on; its address there.
fn moves(
    Routed {
        router, stranger, ..
    }: &Routed,
    n: u8,
) -> String {
    let address = format!("2001:db8:1:{n:x}::2");
    router.ip(&format!(
        "-6 route replace {PREFIX}/56 via {} dev out",
        Routed::STRANGER6
    ));
    stranger.ip(&format!("-6 addr replace {address}/64 dev eth0 nodad"));
    stranger.ip(&format!(
        "-6 route replace default via 2001:db8:1::1 src {address}"
    ));
    address
}

/// It connects to a trap from each of these.
fn scans(world: &Routed, daemon: &Daemon<'_>, parts: impl IntoIterator<Item = u8>) {
    for n in parts {
        let address = moves(world, n);
        world.stranger.knock(at(Routed::HOST6), [23]);
        let prefix = address.strip_suffix("2").expect("it ends so");
        daemon.element("banned6_64", prefix);
    }
}

fn parts(host: &Host) -> usize {
    host.elements("banned6_64").len()
}

#[test]
fn handshakes_from_all_over_a_prefix_shut_it_out_until_a_part_is_unbanned() {
    let world = &Routed::new();
    let Routed { host, stranger, .. } = world;
    let _service = host.serve(at(Routed::HOST6), 80);
    let daemon = Daemon::start(host, SOON);
    scans(world, &daemon, [1, 2]);
    moves(world, 9);
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    assert!(
        !host
            .nft("list table inet portsentry")
            .contains("banned6_56")
    );

    scans(world, &daemon, [3]);
    let element = daemon.element("banned6_56", PREFIX);
    let told = "2001:db8:1::/56 roll-up of 3 bans, last 2001:db8:1:3::/64";
    assert_eq!(element.comment.as_deref(), Some(told));
    assert_eq!(element.timeout, Some(600));
    assert_eq!(parts(host), 3, "they stay");
    moves(world, 9);
    assert!(
        !stranger.reaches(at(Routed::HOST6), 80),
        "it has never scanned"
    );
    let said = daemon.ok(&["explain", "2001:db8:1:9::2"]);
    assert!(said.contains("is banned as 2001:db8:1::/56"), "{said}");
    assert!(
        said.contains("banned in 2001:db8:1::/56: 3 of the 3 that become one ban"),
        "{said}"
    );
    let said = daemon.ok(&["status"]);
    assert!(said.contains("became one ban: 1\n"), "{said}");
    let log = daemon.log();
    let told = "2001:db8:1::/56 banned for 10m: roll-up of 3 bans, last 2001:db8:1:3::/64";
    assert!(log.contains(told), "{log}");

    let said = daemon.ok(&["unban", "2001:db8:1:2::2"]);
    assert!(said.contains("; 2 bans within it go on"), "{said}");
    assert!(stranger.reaches(at(Routed::HOST6), 80));
    assert_eq!(parts(host), 2);
    moves(world, 1);
    assert!(
        !stranger.reaches(at(Routed::HOST6), 80),
        "banned for itself"
    );
    let said = daemon.ok(&["history", "2001:db8:1:2::2"]);
    assert!(
        said.contains("2001:db8:1::/56  banned for 10m: roll-up of 3"),
        "{said}"
    );
    assert!(said.contains("unban by uid 0"), "{said}");
}

#[test]
fn a_roll_up_and_its_lifting_outlive_restarts() {
    let world = &Routed::new();
    let host = &world.host;
    let mut daemon = Daemon::start(host, SOON);
    scans(world, &daemon, [1, 2, 3]);
    daemon.element("banned6_56", PREFIX);
    // Its set, which the default table lacks, is kept as long as it holds a ban.
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.element("banned6_56", PREFIX).timeout, Some(600));
    assert_eq!(daemon.banned().len(), 4);
    daemon.kill9();
    // As after a reboot.
    host.nft("delete table inet portsentry");
    daemon.restart();
    assert_eq!(daemon.element("banned6_56", PREFIX).timeout, Some(600));
    assert_eq!(parts(host), 3);

    daemon.ok(&["unban", WIDE]);
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.banned().len(), 3);
    scans(world, &daemon, [4, 5]);
    assert_eq!(
        daemon.banned().len(),
        5,
        "those before the unban count no more"
    );
    scans(world, &daemon, [6]);
    daemon.element("banned6_56", PREFIX);
}

#[test]
fn packets_that_may_be_forged_roll_nothing_up() {
    let world = &Routed::new();
    let Routed { host, stranger, .. } = world;
    let daemon = Daemon::start(
        host,
        "detect.trigger = 1\nban.ipv6_rollup = [\"2 in /56\"]\n",
    );
    for n in [1, 2, 3] {
        moves(world, n);
        stranger.knock(at(Routed::HOST6), [23]);
        daemon.element("banned6_64", &format!("2001:db8:1:{n:x}::"));
    }
    assert_eq!(daemon.banned().len(), 3);
    assert_eq!(daemon.counter("rolled_up"), 0);
}

#[test]
fn every_responder_can_ban_what_was_rolled_up() {
    let world = &Routed::new();
    let host = &world.host;
    let mut daemon = Daemon::new(host, "");
    let file = daemon.path("hosts.deny");
    fs::write(&file, "").expect("the directory is ours");
    let responders = "ban.responders = [\"nftables\", \"iptables\", \"route\", \"hosts-deny\"]";
    daemon.configure(&format!("{SOON}{responders}\nhosts-deny.file = {file:?}\n"));
    daemon.restart();
    scans(world, &daemon, [1, 2, 3]);
    let text = || fs::read_to_string(&file).expect("it is there");
    let stands = || {
        [
            host.element("banned6_56", PREFIX).is_some(),
            host.run("ipset list PORTSENTRY-n6").contains(WIDE),
            host.run("ip -6 route show proto 112").contains(WIDE),
            text().contains("ALL: [2001:db8:1::]/56\n"),
        ]
    };
    eventually("it stands in all of them", || {
        (stands() == [true; 4]).then_some(())
    });
    daemon.ok(&["unban", WIDE]);
    eventually("it stands in none of them", || {
        (stands() == [false; 4]).then_some(())
    });
    assert_eq!(parts(host), 3);
    assert!(text().contains("ALL: [2001:db8:1:3::]/64\n"));
}
