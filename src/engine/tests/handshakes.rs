//! Where only a completed handshake has anybody banned.

use super::*;

const HANDSHAKE: &str = "detect.confirm = \"handshake\"\n";

fn connection(source: &str, port: u16) -> Probe {
    Probe {
        scan_type: ScanType::Connect,
        ..syn(source, HOST, port)
    }
}

fn datagram(source: &str, port: u16) -> Probe {
    Probe {
        protocol: Protocol::Udp,
        scan_type: ScanType::Udp,
        ..syn(source, HOST, port)
    }
}

#[test]
fn handshakes_alone_count_so_that_nobody_can_shorten_the_way_for_another() {
    let mut bench = Bench::new(HANDSHAKE);
    bench.probes(STRANGER, &[1, 2, 3, 4], NOW);
    bench.see(&[connection(STRANGER, 5), connection(STRANGER, 6)], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.unconfirmed, 4);
    assert_eq!(bench.engine.counters.scans, 0);
    let known = bench.engine.explain(STRANGER.parse().unwrap(), NOW);
    assert!(known.needs_handshake && known.bans.is_empty());
    assert_eq!(known.evidence.unwrap().probes.len(), 2);
    assert_eq!(known.unconfirmed.len(), 3, "the last packets are told too");
    bench.see(&[connection(STRANGER, 7)], NOW);
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn packets_displace_nobody_whose_handshakes_count() {
    let mut bench = Bench::new(HANDSHAKE);
    bench.see(&[connection(STRANGER, 5), connection(STRANGER, 6)], NOW);
    for host in 1..=200_000_u32 {
        let forged = std::net::Ipv4Addr::from(0x0b00_0000 + host).to_string();
        bench.see(&[syn(&forged, HOST, 1)], NOW);
    }
    bench.see(&[connection(STRANGER, 7)], NOW);
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn what_was_counted_by_other_rules_counts_no_more() {
    let mut bench = Bench::new("");
    bench.probes(STRANGER, &[1, 2], NOW);
    let config = config::parse(Path::new("test.toml"), HANDSHAKE).unwrap();
    bench.engine.reconfigure(config, IgnoreList::default(), NOW);
    bench.see(&[connection(STRANGER, 3)], NOW);
    assert!(bench.held().is_empty());
}

#[test]
fn a_scan_of_connections_is_told_as_one_though_each_came_with_a_syn() {
    for count in ["ports", "hits"] {
        let mut bench = Bench::new(&format!("{HANDSHAKE}detect.count = \"{count}\"\n"));
        for port in [1, 2, 3] {
            bench.see(
                &[syn(STRANGER, HOST, port), connection(STRANGER, port)],
                NOW,
            );
        }
        let ban = bench.engine.bans().get(STRANGER.parse().unwrap()).unwrap();
        assert_eq!(
            ban.reason.to_string(),
            format!("connect scan, 3 tcp {count}, last 3")
        );
    }
}

#[test]
fn what_can_be_forged_has_nobody_banned_however_much_there_is_of_it() {
    for response in ["ban", "command", "log"] {
        let mut bench = Bench::new(&format!(
            "{HANDSHAKE}detect.decoys = [7]\ncommand.run = \"true\"\n[tcp]\nresponse = \"{response}\"\n[udp]\nresponse = \"{response}\"\n"
        ));
        for n in 1..1000 {
            bench.see(&[syn(STRANGER, HOST, n), datagram(STRANGER, n)], NOW);
        }
        assert!(bench.held().is_empty());
        assert_eq!(bench.engine.counters.scans, 0);
        assert!(bench.engine.take_errands().is_empty());
        assert_eq!(bench.past(), []);
    }
}

#[test]
fn a_handshake_with_a_decoy_is_enough() {
    let mut bench = Bench::new(&format!("{HANDSHAKE}detect.decoys = [7]\n"));
    bench.probes(STRANGER, &[7], NOW);
    assert!(bench.held().is_empty());
    bench.see(&[connection(STRANGER, 7)], NOW);
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn what_a_trap_was_told_may_be_for_a_service_that_is_down_for_a_moment_or_has_just_come_up() {
    let mut bench = Bench::new(&format!("{HANDSHAKE}detect.trigger = 1\n"));
    bench.probes(STRANGER, &[22], NOW);
    bench.listening.clear();
    bench.see(&[connection(STRANGER, 22)], after(60));
    bench.listening = vec![80];
    bench.see(
        &[connection(STRANGER, 80), connection(STRANGER, HANDED_ON)],
        NOW,
    );
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.services, 4);
    bench.see(&[connection(STRANGER, 23)], NOW);
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn connections_count_by_the_mode_that_their_port_is_watched_in() {
    let mut bench = Bench::new(&format!(
        "{HANDSHAKE}detect.trigger = 1\n[tcp]\nmode = [\"advanced\", \"connect\"]\nports = [2000]\n"
    ));
    bench.see(
        &[
            connection("203.0.113.1", 23),
            connection("203.0.113.2", 2000),
        ],
        NOW,
    );
    bench.see(&[connection("203.0.113.3", 2001)], NOW);
    assert_eq!(bench.held(), ["203.0.113.1", "203.0.113.2"]);
    assert_eq!(bench.engine.counters.unwatched, 1);
}
