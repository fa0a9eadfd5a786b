//! Bans in iptables, be it nft or legacy, with ipset and without: packets of banned sources are delivered to nobody, and what
//! others have there stays as it is.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::thread;

use crate::lab::{Bridge, Daemon, Host, Pair, Routed, at, eventually, send_syns};

/// For a daemon that bans by iptables alone.
const IPTABLES: &str = "ban.responders = [\"iptables\"]";

/// A scan is a single probe, from whomever.
const AT_ONCE: &str = "detect.trigger = 1\nban.rate = 100000";

/// What a host has.
#[derive(Clone, Copy, Debug)]
struct Variant {
    is_legacy: bool,
    has_ipset: bool,
}

/// Runs a test for each variant, all at a time.
fn everywhere(test: fn(Variant)) {
    thread::scope(|scope| {
        for (is_legacy, has_ipset) in [(false, true), (false, false), (true, true), (true, false)] {
            let variant = Variant {
                is_legacy,
                has_ipset,
            };
            scope.spawn(move || test(variant));
        }
    });
}

impl Variant {
    fn furnish(self, host: &mut Host) {
        if self.is_legacy {
            // It goes by the name that it is called by.
            host.see(
                "/usr/sbin/xtables-legacy-multi",
                "/usr/sbin/xtables-nft-multi",
            );
        }
        if !self.has_ipset {
            host.see("/dev/null", "/usr/sbin/ipset");
        }
        let version = host.run("iptables -V");
        assert_eq!(version.contains("(legacy)"), self.is_legacy, "{version}");
    }

    fn pair(self) -> Pair {
        let mut pair = Pair::new();
        self.furnish(&mut pair.host);
        pair
    }

    /// A host with rules and sets of somebody else's.
    fn host(self) -> Host {
        let mut host = Host::new("host");
        self.furnish(&mut host);
        furnish_with_rules(&host);
        host
    }

    /// Whom ours names in the kernel.
    fn ours(self, host: &Host) -> BTreeSet<String> {
        let mut ours = BTreeSet::new();
        for (family, length) in [("iptables", "/32"), ("ip6tables", "/128")] {
            let rules = host.run(&format!("{family} -w 30 -S"));
            let rules = rules
                .lines()
                .filter_map(|rule| rule.strip_prefix("-A PORTSENTRY -s "));
            let sources = rules.map(|rule| rule.split(' ').next().expect("a source"));
            ours.extend(sources.map(|it| it.strip_suffix(length).unwrap_or(it).to_owned()));
        }
        if self.has_ipset {
            let saved = host.run("ipset save");
            let elements = saved
                .lines()
                .filter_map(|line| line.strip_prefix("add PORTSENTRY-"));
            ours.extend(
                elements.map(|it| it.split(' ').nth(1).expect("a set, an element").to_owned()),
            );
        }
        ours
    }

    fn eventually_ours(self, host: &Host, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().copied().map(str::to_owned).collect();
        eventually(&format!("{self:?}: {wanted:?} are banned"), || {
            (self.ours(host) == wanted).then_some(())
        });
    }
}

fn furnish_with_rules(host: &Host) {
    for line in [
        "iptables -w 30 -N THEIRS",
        "iptables -w 30 -A INPUT -i lo -j ACCEPT",
        "iptables -w 30 -A FORWARD -j THEIRS",
        "iptables -w 30 -A THEIRS -s 203.0.113.99 -m comment --comment theirs -j DROP",
        "ip6tables -w 30 -A INPUT -s 2001:db8:99::/64 -j DROP",
        "iptables -w 30 -t nat -A POSTROUTING -s 203.0.113.98 -j MASQUERADE",
    ] {
        host.run(line);
    }
}

/// All rules but for ours, in the order in which they stand, and the names of sets that are not ours.
fn others(host: &Host) -> String {
    let programs = ["iptables-save", "ip6tables-save"].map(|program| host.run(program));
    let lines = programs.iter().flat_map(|saved| saved.lines());
    let others = lines.filter(|line| !line.starts_with('#') && !line.contains("PORTSENTRY"));
    // Without their counters.
    let others = others.map(|line| line.split(" [").next().expect("it begins"));
    others.map(|line| format!("{line}\n")).collect()
}

/// Counts the packets from now on that iptables lets through to this host, and that match.
fn count(host: &Host, what: &str) {
    host.nft("add table inet seen");
    host.nft("add chain inet seen delivered { type filter hook input priority 300; }");
    host.nft(&format!("add rule inet seen delivered {what} counter"));
}

/// How many [`count`] has counted.
fn counted(host: &Host) -> u64 {
    let listing = host.nft("list table inet seen");
    let mut words = listing.split_whitespace();
    words.find(|word| *word == "packets").expect("a counter");
    words
        .next()
        .and_then(|number| number.parse().ok())
        .expect("its number")
}

#[test]
fn no_packet_of_a_scanner_is_delivered_until_its_ban_ends() {
    everywhere(|variant| {
        let Pair { host, stranger } = &variant.pair();
        furnish_with_rules(host);
        let _service = host.serve(at(Pair::HOST), 80);
        let before = others(host);
        let daemon = Daemon::start(host, &format!("{IPTABLES}\nban.duration = \"6s\""));
        assert!(stranger.reaches(at(Pair::HOST), 80));
        stranger.nmap("-sS", "21-23", Pair::HOST);
        variant.eventually_ours(host, &[Pair::STRANGER]);
        assert_eq!(daemon.banned(), [Pair::STRANGER]);
        count(host, &format!("ip saddr {}", Pair::STRANGER));
        assert!(!stranger.reaches(at(Pair::HOST), 80));
        assert_eq!(counted(host), 0, "{variant:?}");
        assert_eq!(others(host), before, "{variant:?}");
        let log = daemon.log();
        let deed = if variant.has_ipset {
            format!("ipset add PORTSENTRY-4 {} timeout 6", Pair::STRANGER)
        } else {
            format!("iptables -A PORTSENTRY -s {} -j DROP", Pair::STRANGER)
        };
        let told = format!(
            "Host {} has been blocked via dropped route using command: \"{deed}\"",
            Pair::STRANGER
        );
        assert!(log.contains(&told), "{log}");
        variant.eventually_ours(host, &[]);
        eventually("its time is over", || {
            daemon.banned().is_empty().then_some(())
        });
        assert!(stranger.reaches(at(Pair::HOST), 80));
        assert_eq!(others(host), before, "{variant:?}");
    });
}

#[test]
fn hosts_and_containers_behind_are_kept_from_a_scanner_too() {
    everywhere(|variant| {
        let mut world = Bridge::new();
        variant.furnish(&mut world.host);
        let Bridge {
            host,
            container,
            stranger,
            ..
        } = &world;
        let _service = container.serve(at(Bridge::CONTAINER), 80);
        let daemon = Daemon::start(host, IPTABLES);
        assert!(stranger.reaches(at(Bridge::CONTAINER), 80));
        daemon.ok(&["ban", Bridge::STRANGER]);
        variant.eventually_ours(host, &[Bridge::STRANGER]);
        assert!(!stranger.reaches(at(Bridge::CONTAINER), 80), "{variant:?}");
        daemon.ok(&["unban", Bridge::STRANGER]);
        assert!(stranger.reaches(at(Bridge::CONTAINER), 80));
    });
}

#[test]
fn a_prefix_is_shut_out_and_its_neighbours_still_find_the_host() {
    everywhere(|variant| {
        let mut world = Routed::new();
        variant.furnish(&mut world.host);
        let Routed {
            host,
            router,
            stranger,
        } = &world;
        let _service = host.serve(at(Routed::HOST6), 80);
        let daemon = Daemon::start(host, IPTABLES);
        assert!(stranger.reaches(at(Routed::HOST6), 80));
        stranger.nmap("-6 -sS", "21-23", Routed::HOST6);
        variant.eventually_ours(host, &["2001:db8:1::/64"]);
        assert!(!stranger.reaches(at(Routed::HOST6), 80), "{variant:?}");
        assert!(router.reaches(at(Routed::HOST6), 80));
        daemon.ok(&["unban", Routed::STRANGER6]);
        assert!(stranger.reaches(at(Routed::HOST6), 80));

        daemon.ok(&["ban", "2001:db8:2::1"]);
        variant.eventually_ours(host, &["2001:db8:2::1"]);
        router.ip("-6 neigh flush dev in");
        assert!(!router.reaches(at(Routed::HOST6), 80), "{variant:?}");
        let neighbours = router.run("ip -6 neigh show 2001:db8:2::2");
        assert!(neighbours.contains("lladdr"), "{variant:?}: {neighbours}");
    });
}

#[test]
fn whoever_is_ignored_is_not_shut_out_by_a_wider_ban() {
    everywhere(|variant| {
        let Pair { host, stranger } = &variant.pair();
        let _service = host.serve(at(Pair::HOST), 80);
        let daemon = Daemon::start(host, IPTABLES);
        host.run("iptables -w 30 -A PORTSENTRY -s 10.77.0.0/24 -j DROP");
        assert!(!stranger.reaches(at(Pair::HOST), 80));
        daemon.ignore(Pair::STRANGER);
        eventually(&format!("{variant:?}: a friend gets through"), || {
            stranger.reaches(at(Pair::HOST), 80).then_some(())
        });
    });
}

#[test]
fn an_unban_lifts_with_and_without_a_daemon() {
    everywhere(|variant| {
        let host = &variant.host();
        let before = others(host);
        let mut daemon = Daemon::start(host, IPTABLES);
        for source in ["203.0.113.7", "198.51.100.0/24", "2001:db8:5::/64"] {
            daemon.ok(&["ban", source, "--for", "1h"]);
        }
        let all = ["203.0.113.7", "198.51.100.0/24", "2001:db8:5::/64"];
        variant.eventually_ours(host, &all);
        daemon.ok(&["unban", "203.0.113.7"]);
        variant.eventually_ours(host, &all[1..]);
        daemon.kill9();
        variant.eventually_ours(host, &all[1..]);
        daemon.ok(&["unban", "2001:db8:5::1"]);
        variant.eventually_ours(host, &all[1..2]);
        daemon.ok(&["ban", "203.0.113.9", "--for", "1h"]);
        variant.eventually_ours(host, &["203.0.113.9", "198.51.100.0/24"]);
        daemon.ok(&["unban", "--all"]);
        variant.eventually_ours(host, &[]);
        assert_eq!(others(host), before, "{variant:?}");
    });
}

#[test]
fn a_stop_keeps_what_ends_by_itself_and_the_next_start_puts_back_the_rest() {
    everywhere(|variant| {
        let host = &variant.host();
        let before = others(host);
        let all = ["203.0.113.7", "2001:db8:5::/64"];
        let mut daemon = Daemon::start(host, IPTABLES);
        daemon.ok(&["ban", all[0], "--for", "1h"]);
        daemon.ok(&["ban", all[1], "--for", "ever"]);
        assert!(daemon.stop().success());
        variant.eventually_ours(host, if variant.has_ipset { &all } else { &[] });
        daemon.restart();
        variant.eventually_ours(host, &all);
        assert_eq!(daemon.banned(), [all[1], all[0]]);
        daemon.kill9();
        daemon.ok(&["withdraw", "--clockless"]);
        variant.eventually_ours(host, if variant.has_ipset { &all } else { &[] });
        daemon.ok(&["withdraw"]);
        for program in ["iptables-save", "ip6tables-save"] {
            assert!(!host.run(program).contains("PORTSENTRY"), "{variant:?}");
        }
        if variant.has_ipset {
            assert_eq!(host.run("ipset save"), "");
        }
        assert_eq!(others(host), before, "{variant:?}");
    });
}

#[test]
fn a_crash_amid_a_thousand_bans_leaves_what_is_known_and_nothing_else() {
    everywhere(|variant| {
        let Pair { host, stranger } = &variant.pair();
        furnish_with_rules(host);
        let before = others(host);
        let mut daemon = Daemon::start(host, &format!("{IPTABLES}\n{AT_ONCE}"));
        // Answered when it is in history; how many of the others are is a matter of luck.
        daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
        let crowd: Vec<Ipv4Addr> = (1..=1000)
            .map(|n| Ipv4Addr::from(0xc612_0000 + n))
            .collect();
        for some in crowd.chunks(100) {
            let sources = some.iter().copied();
            send_syns(stranger, sources, Ipv4Addr::new(10, 77, 0, 1), 23);
        }
        eventually("some are banned", || {
            (variant.ours(host).len() > 1).then_some(())
        });
        daemon.kill9();
        let held = variant.ours(host);
        daemon.configure(&format!("{IPTABLES}\n{AT_ONCE}\ntcp.mode = \"off\""));
        daemon.restart();
        eventually("the world and the list agree", || {
            let known: BTreeSet<String> = daemon.banned().into_iter().collect();
            (variant.ours(host) == known && known.is_superset(&held)).then_some(())
        });
        let known = variant.ours(host);
        assert!(known.contains("203.0.113.7"), "{variant:?}: {known:?}");
        daemon.ok(&["unban", "--all"]);
        variant.eventually_ours(host, &[]);
        assert_eq!(others(host), before, "{variant:?}");
    });
}

#[test]
fn two_hundred_at_once_are_banned_and_let_in_again() {
    everywhere(|variant| {
        let Pair { host, stranger } = &variant.pair();
        let config = format!("{IPTABLES}\n{AT_ONCE}\nban.duration = \"10s\"");
        let daemon = Daemon::start(host, &config);
        let crowd: Vec<Ipv4Addr> = (1..=200).map(|n| Ipv4Addr::from(0xc612_0000 + n)).collect();
        let all: BTreeSet<String> = crowd.iter().map(ToString::to_string).collect();
        send_syns(stranger, crowd, Ipv4Addr::new(10, 77, 0, 1), 23);
        eventually(&format!("{variant:?}: all are banned"), || {
            (variant.ours(host) == all).then_some(())
        });
        variant.eventually_ours(host, &[]);
        eventually("nobody is listed", || {
            daemon.banned().is_empty().then_some(())
        });
    });
}

#[test]
fn what_another_program_flushes_is_put_back_when_status_is_asked() {
    everywhere(|variant| {
        let host = &variant.host();
        let daemon = Daemon::start(host, IPTABLES);
        let all = ["203.0.113.7", "203.0.113.8", "2001:db8:5::/64"];
        for source in all {
            daemon.ok(&["ban", source, "--for", "1h"]);
        }
        variant.eventually_ours(host, &all);
        let flushes = [
            "iptables -w 30 -F",
            "ip6tables -w 30 -F PORTSENTRY",
            "iptables -w 30 -D INPUT -j PORTSENTRY",
            "ipset flush",
        ];
        let some = if variant.has_ipset { 4 } else { 3 };
        for flush in &flushes[..some] {
            host.run(flush);
            let before = others(host);
            daemon.ok(&["status"]);
            variant.eventually_ours(host, &all);
            eventually(
                &format!("{variant:?}: the hook is back after {flush}"),
                || {
                    let rules = host.run("iptables -w 30 -S INPUT");
                    (rules.lines().nth(1) == Some("-A INPUT -j PORTSENTRY")).then_some(())
                },
            );
            assert_eq!(others(host), before, "{variant:?}");
        }
        let log = daemon.log();
        assert!(log.contains("putting 3 back"), "{variant:?}: {log}");
    });
}

#[test]
fn the_responder_proves_that_it_bans_and_is_taken_down_when_it_is_no_longer_used() {
    everywhere(|variant| {
        let host = &variant.host();
        let before = others(host);
        let mut daemon = Daemon::start(host, IPTABLES);
        let said = daemon.ok(&["test-responders"]);
        assert_eq!(
            said.matches("banned, found, lifted, gone").count(),
            2,
            "{said}"
        );
        daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
        variant.eventually_ours(host, &["203.0.113.7"]);
        daemon.kill9();
        daemon.configure("iptables.chain = \"ANOTHER\"\nban.responders = [\"iptables\"]");
        daemon.restart();
        eventually(&format!("{variant:?}: the first chain is gone"), || {
            (!host.run("iptables-save").contains("PORTSENTRY")).then_some(())
        });
        assert!(host.run("iptables-save").contains("-A INPUT -j ANOTHER"));
        daemon.kill9();
        daemon.configure("");
        daemon.restart();
        eventually(&format!("{variant:?}: nothing is left"), || {
            (others(host) == before && !host.run("iptables-save").contains("ANOTHER")).then_some(())
        });
        assert_eq!(daemon.banned(), ["203.0.113.7"]);
    });
}

#[test]
fn without_iptables_the_start_is_refused_with_the_remedy_unless_it_is_optional() {
    let mut host = Host::new("host");
    host.see("/dev/null", "/usr/sbin/xtables-nft-multi");
    host.see("/dev/null", "/usr/sbin/xtables-legacy-multi");
    let mut daemon = Daemon::new(&host, IPTABLES);
    let said = daemon.run_to_its_end();
    assert_ne!(said.status, 0);
    let remedy = "install Debian's package iptables, or take \"nftables\" in ban.responders";
    assert!(said.err.contains(remedy), "{said:?}");
    daemon.configure("ban.responders = [\"nftables\", \"iptables\"]\niptables.optional = true");
    daemon.restart();
    daemon.ok(&["ban", "203.0.113.7"]);
    assert_eq!(daemon.banned(), ["203.0.113.7"]);
    assert!(daemon.log().contains(remedy));
}

/// Root could have made all ready: only the first ban would fail.
#[test]
fn who_may_not_have_the_lock_of_iptables_legacy_learns_it_at_the_start() {
    everywhere(|variant| {
        let pair = variant.pair();
        let mut daemon = Daemon::new(
            &pair.host,
            &format!("{IPTABLES}\n{AT_ONCE}\ndaemon.user = \"nobody\""),
        );
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        chown(daemon.path(""), Some(nobody.uid.as_raw()), None).expect("this test needs root");
        if variant.is_legacy {
            let said = daemon.run_to_its_end();
            assert_ne!(said.status, 0, "{variant:?}");
            for word in ["xtables.lock", "leave daemon.user out", "iptables-nft"] {
                assert!(said.err.contains(word), "{variant:?}: {word} in {said:?}");
            }
            return;
        }
        daemon.restart();
        pair.stranger.knock(at(Pair::HOST), [23]);
        variant.eventually_ours(&pair.host, &[Pair::STRANGER]);
    });
}
