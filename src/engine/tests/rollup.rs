//! Many banned neighbours that become one ban.

use super::*;
use crate::engine::explain::Explanation;

/// Two of a /56 become one ban, or four of a /48; packets count.
const SOON: &str = "detect.trigger = 1\nban.ipv6_rollup = [\"2 in /56\", \"4 in /48\"]\nban.rollup_confirm = \"none\"\n";
const HOST6: &str = "2001:db8:1::1";
const WIDE: &str = "2001:db8:2::/56";

impl Bench {
    /// Each of these scans, one after the other.
    fn scans(&mut self, sources: &[&str], now: Now) {
        for source in sources {
            self.see(&[syn(source, HOST6, 23)], now);
        }
    }

    fn explained(&mut self, address: &str, now: Now) -> Explanation {
        self.engine.explain(address.parse().unwrap(), now)
    }

    fn length_of(&self, source: &str) -> Option<Duration> {
        self.engine.bans().get(source.parse().unwrap())?.length()
    }
}

#[test]
fn neighbours_become_one_ban_over_their_own() {
    let mut bench = Bench::new(SOON);
    bench.scans(&["2001:db8:2:1::9"], NOW);
    let explained = bench.explained("2001:db8:2:2::9", NOW);
    let (crowd, may) = explained.crowds[1];
    assert_eq!((crowd.prefix.to_string().as_str(), crowd.count), (WIDE, 1));
    assert!(may);
    bench.scans(&["2001:db8:2:2::9"], NOW);
    let all = [WIDE, "2001:db8:2:1::/64", "2001:db8:2:2::/64"];
    assert_eq!(bench.held(), all);
    assert_eq!(bench.length_of(WIDE), Some(Duration::from_secs(600)));
    // Who sends from a third part of it is shut out already.
    bench.scans(&["2001:db8:2:3::9"], NOW);
    assert_eq!(bench.engine.counters.already_banned, 1);
    assert_eq!(bench.engine.counters.rolled_up, 1);
    let explained = bench.explained("2001:db8:2:3::9", NOW);
    let reasons = explained.bans.iter().map(|it| it.ban.reason.to_string());
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        ["roll-up of 2 bans, last 2001:db8:2:2::/64"]
    );
    let past = bench.past();
    assert_eq!(past.first(), Some(&(WIDE.to_owned(), None)), "history");
}

#[test]
fn a_roll_up_comes_after_its_parts_and_fails_alone() {
    let mut bench = Bench::new(SOON);
    bench.world.borrow_mut().refuses = Some(WIDE.parse().unwrap());
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], NOW);
    let parts = ["2001:db8:2:1::/64", "2001:db8:2:2::/64"];
    assert_eq!(bench.held(), parts);
    assert_eq!(
        bench.engine.bans().len(),
        2,
        "what nobody can do is given up"
    );
}

#[test]
fn never_a_prefix_with_a_friend_or_on_a_link() {
    for (ignored, sources) in [
        ("2001:db8:2:ff::1", ["2001:db8:2:1::9", "2001:db8:2:2::9"]),
        // 2001:db8:1::/64 is a link of ours.
        ("192.0.2.77", ["2001:db8:1:1::9", "2001:db8:1:2::9"]),
    ] {
        let mut bench = Bench::new(&format!("{SOON}ignore.addresses = [\"{ignored}\"]\n"));
        bench.scans(&sources, NOW);
        assert_eq!(bench.held().len(), 2, "{ignored}");
        let explained = bench.explained(sources[0], NOW);
        assert!(explained.crowds.iter().all(|(_, may)| !may), "{ignored}");
    }
}

#[test]
fn who_becomes_a_friend_ends_the_roll_up_alone() {
    let mut bench = Bench::new(SOON);
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], NOW);
    let friend = config::Ignore {
        files: Vec::new(),
        addresses: vec![config::ignore::Whom::Net(
            "2001:db8:2:ff::1/128".parse().unwrap(),
        )],
        ..Config::default().ignore
    };
    let (ignored, _) = config::ignore::read(&friend).unwrap();
    bench.engine.ignore_changed(ignored, NOW);
    assert_eq!(bench.held(), ["2001:db8:2:1::/64", "2001:db8:2:2::/64"]);
}

#[test]
fn a_new_link_in_it_ends_the_roll_up_too() {
    let mut bench = Bench::new(SOON);
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], NOW);
    let ours = Address {
        ip: "192.0.2.1".parse().unwrap(),
        on_link: "2001:db8:2:ff::/64".parse().unwrap(),
        link: 2,
    };
    bench
        .engine
        .host_changed(Facts::new(vec![ours], Vec::new()), NOW);
    assert_eq!(bench.held(), ["2001:db8:2:1::/64", "2001:db8:2:2::/64"]);
}

#[test]
fn an_unban_of_a_part_lifts_the_roll_up_for_good() {
    let mut bench = Bench::new(SOON);
    let sources = ["2001:db8:2:1::9", "2001:db8:2:2::9"];
    bench.scans(&sources, NOW);
    let unbanned = bench
        .engine
        .unban("2001:db8:2:1::9".parse().unwrap(), "uid 0", after(1));
    let lifted: Vec<(String, u64)> = unbanned
        .lifted
        .iter()
        .map(|it| (it.source.to_string(), it.within))
        .collect();
    assert!(lifted.contains(&(WIDE.to_owned(), 1)), "{lifted:?}");
    assert_eq!(bench.held(), ["2001:db8:2:2::/64"], "the others stay");
    // One more is one that counts, and no second.
    bench.scans(&["2001:db8:2:3::9"], after(2));
    assert_eq!(bench.held(), ["2001:db8:2:2::/64", "2001:db8:2:3::/64"]);
    bench.scans(&["2001:db8:2:4::9"], after(3));
    assert_eq!(bench.held()[0], WIDE);
}

#[test]
fn a_roll_up_that_runs_out_leaves_what_still_runs_and_comes_again_for_longer() {
    let mut bench = Bench::new(SOON);
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], NOW);
    // Ordered bans are no neighbours, and end when they are said to.
    bench.order("2001:db8:2:3::/64").unwrap();
    bench.engine.tick(after(600));
    assert_eq!(bench.engine.bans().len(), 1);
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], after(601));
    assert_eq!(bench.length_of(WIDE), Some(Duration::from_secs(2400)));
}

#[test]
fn replay_counts_and_what_was_lifted_before_stays_forgiven() {
    let part = |n: u8, start: Wall| Ban {
        source: format!("2001:db8:2:{n:x}::/64").parse().unwrap(),
        reason: Reason::parse("syn scan, 1 tcp port, last 23"),
        origin: Origin::Scan,
        by: None,
        start,
        end: Some(End::after(Duration::from_secs(3600), NOW)),
    };
    let earlier = |seconds: i64| Wall(NOW.wall.0 - 1000 * seconds);
    let prefix: Source = WIDE.parse().unwrap();
    let mut bench = Bench::new(SOON);
    bench
        .engine
        .replay(vec![part(1, earlier(9)), part(2, earlier(8))], NOW);
    assert_eq!(bench.held().len(), 2, "replay itself rolls nothing up");
    assert_eq!(bench.engine.bans().crowded(), [prefix]);
    bench.engine.forgive(&[(prefix, earlier(8))]);
    assert!(bench.engine.bans().crowded().is_empty());
    bench.scans(&["2001:db8:2:3::9"], after(1));
    assert_eq!(bench.held().len(), 3);
    bench.scans(&["2001:db8:2:4::9"], after(1));
    assert_eq!(bench.held()[0], WIDE);
}

#[test]
fn a_roll_up_that_history_has_is_put_back_unless_its_prefix_is_guarded_by_now() {
    for (prefix, is_back) in [(WIDE, true), ("2001:db8:1::/56", false)] {
        let mut bench = Bench::new(SOON);
        let wide = Ban {
            source: prefix.parse().unwrap(),
            reason: Reason::parse("roll-up of 2 bans, last 2001:db8:2:2::/64"),
            origin: Origin::RollUp,
            by: None,
            start: NOW.wall,
            end: Some(End::after(Duration::from_secs(3600), NOW)),
        };
        bench.engine.replay(vec![wide], NOW);
        assert_eq!(bench.held().contains(&prefix.to_owned()), is_back);
    }
}

#[test]
fn packets_alone_roll_nothing_up_by_default() {
    let text = SOON.replace("ban.rollup_confirm = \"none\"\n", "");
    let mut bench = Bench::new(&format!(
        "{text}tcp.mode = [\"stealth\", \"connect\"]\ntcp.ports = [23]\n"
    ));
    let sources = ["2001:db8:2:1::9", "2001:db8:2:2::9"];
    bench.scans(&sources, NOW);
    assert_eq!(
        bench.held().len(),
        2,
        "whoever forges them bans nobody else"
    );
    bench.engine.unban_all("uid 0", NOW);
    for source in sources {
        let handshake = Probe {
            scan_type: ScanType::Connect,
            ..syn(source, HOST6, 23)
        };
        bench.see(&[handshake], after(1));
    }
    assert_eq!(bench.held().len(), 3);
}

#[test]
fn where_programs_ban_nothing_is_rolled_up() {
    let mut bench = Bench::new(&format!(
        "{SOON}ban.responders = [\"nftables\", \"command\"]\ncommand.ban = [\"true\"]\n"
    ));
    bench.scans(&["2001:db8:2:1::9", "2001:db8:2:2::9"], NOW);
    assert_eq!(bench.held(), ["2001:db8:2:1::9", "2001:db8:2:2::9"]);
}

#[test]
fn other_rules_by_a_reload_hold_for_the_bans_there_are() {
    let mut bench = Bench::new(SOON);
    bench.scans(&["2001:db8:2:1::9"], NOW);
    let mut config = bench.engine.config().clone();
    config.ban.ipv6_rollup = vec![config::RollUp {
        count: 2,
        prefix_len: 60,
    }];
    let (ignored, _) = config::ignore::read(&config.ignore).unwrap();
    bench.engine.reconfigure(config, ignored, NOW);
    bench.scans(&["2001:db8:2:2::9"], NOW);
    assert_eq!(bench.held()[0], "2001:db8:2::/60");
}
