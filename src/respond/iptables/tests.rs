//! With the real programs, each test in network namespaces of its own, one for each variant of iptables with and without
//! ipset. They need root, and the packages iptables and ipset.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::*;
use crate::config::Config;
use crate::policy::{End, Origin, Reason};
use crate::respond::HeldClock;

/// One of the four worlds: which iptables, and whether there is ipset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    suffix: &'static str,
    sets: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant {
        suffix: "-nft",
        sets: true,
    },
    Variant {
        suffix: "-nft",
        sets: false,
    },
    Variant {
        suffix: "-legacy",
        sets: true,
    },
    Variant {
        suffix: "-legacy",
        sets: false,
    },
];

const PROGRAMS: [&str; 4] = [
    "iptables",
    "iptables-restore",
    "ip6tables",
    "ip6tables-restore",
];

/// Programs to be found, and the responder that finds them.
struct Bench {
    variant: Variant,
    responder: Iptables,
    dir: TempDir,
}

impl Bench {
    /// A responder that has prepared what it needs.
    fn ready(variant: Variant) -> Self {
        let mut bench = Self::new(variant);
        assert_eq!(
            bench.responder.prepare().unwrap(),
            Prepared::Created,
            "{variant:?}"
        );
        bench
    }

    fn new(variant: Variant) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for program in PROGRAMS {
            let (name, rest) = program.split_once('-').unwrap_or((program, ""));
            let rest = if rest.is_empty() { "" } else { "-restore" };
            let real = format!("/usr/sbin/{name}{}{rest}", variant.suffix);
            assert!(fs::exists(&real).unwrap(), "this test needs {real}");
            symlink(real, dir.path().join(program)).unwrap();
        }
        if variant.sets {
            assert!(
                fs::exists("/usr/sbin/ipset").unwrap(),
                "this test needs ipset"
            );
            symlink("/usr/sbin/ipset", dir.path().join("ipset")).unwrap();
        }
        Self {
            variant,
            responder: responder(&dir, 1000),
            dir,
        }
    }

    /// Another one in the same world, as after a restart.
    fn restart(&mut self) {
        self.responder = responder(&self.dir, 1000);
    }

    /// Puts a script in the place of a program.
    fn replace(&self, program: &str, script: &str) {
        let path = self.dir.path().join(program);
        let _ = fs::remove_file(&path);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn remove(&self, program: &str) {
        fs::remove_file(self.dir.path().join(program)).unwrap();
    }

    /// Runs a program of this variant; what it prints.
    #[track_caller]
    fn run(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let mut command = Command::new(self.dir.path().join(name));
        if name != "ipset" {
            // The lock of iptables-legacy is one for all networks.
            command.args(["-w", "30"]);
        }
        let done = command.args(words).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{:?}: {line}: {said}", self.variant);
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The rules of our chain, in both families.
    fn rules(&self) -> Vec<String> {
        let all = self.run("iptables -S") + &self.run("ip6tables -S");
        let ours = all.lines().filter(|line| line.starts_with("-A PORTSENTRY"));
        ours.map(str::to_owned).collect()
    }

    /// All rules and sets that are not ours: tables, chains, policies.
    fn others(&self) -> String {
        let all = self.run("iptables -S") + &self.run("ip6tables -S");
        let others = all.lines().filter(|line| !line.contains("PORTSENTRY"));
        let sets = if self.variant.sets {
            self.run("ipset list -n")
        } else {
            String::new()
        };
        let sets = sets.lines().filter(|name| !name.starts_with("PORTSENTRY"));
        others.chain(sets).map(|line| format!("{line}\n")).collect()
    }

    fn ban(&mut self, sources: &[&str]) {
        let bans: Vec<Ban> = sources
            .iter()
            .map(|source| ban(source, Some(HOUR)))
            .collect();
        self.responder.ban(&refs(&bans), Now::read()).unwrap();
    }

    /// All that the world holds of ours, in order.
    fn held(&self) -> Vec<Held> {
        let mut held =
            self.responder.holdings().unwrap()(&crate::source::Sources::default()).unwrap();
        held.sort_by_key(|held| held.source);
        held
    }

    fn banned(&self) -> Vec<String> {
        self.held()
            .iter()
            .map(|held| held.source.to_string())
            .collect()
    }
}

const HOUR: u64 = 3600;

/// Of each family an address and a prefix, in their order.
const CROWD: [&str; 4] = [
    "192.0.2.1",
    "198.51.100.0/24",
    "2001:db8::1",
    "2001:db8:5::/64",
];

fn responder(dir: &TempDir, limit: u32) -> Iptables {
    let config = Config::default();
    let bans = config::BanRules {
        limit,
        ..config.ban
    };
    let tools = Tools::within(vec![dir.path().to_owned()], Duration::from_secs(30));
    Iptables::with(tools, &config.iptables, &bans)
}

fn ban(source: &str, seconds: Option<u64>) -> Ban {
    let now = Now::read();
    Ban {
        source: source.parse().unwrap(),
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: now.wall,
        end: seconds.map(|seconds| End::after(Duration::from_secs(seconds), now)),
    }
}

fn refs(bans: &[Ban]) -> Vec<&Ban> {
    bans.iter().collect()
}

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

/// Runs a test in each of the worlds, each in a network of its own.
fn everywhere(test: fn(Variant)) {
    for variant in VARIANTS {
        in_a_network(move || test(variant));
    }
}

fn in_a_network(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("tests of iptables need root");
            test();
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_ban_stands_until_it_is_lifted_and_nobody_elses_rules_change() {
    everywhere(|variant| {
        let mut bench = Bench::new(variant);
        for line in [
            "iptables -N THEIRS",
            "iptables -A INPUT -p tcp --dport 22 -j ACCEPT",
            "iptables -A INPUT -j THEIRS",
            "iptables -A THEIRS -s 203.0.113.9 -m comment --comment portsentry:\u{a0}not -j DROP",
            "ip6tables -A FORWARD -s 2001:db8:9::/64 -j REJECT",
            "iptables -P FORWARD DROP",
        ] {
            bench.run(line);
        }
        let before = bench.others();
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Created);
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        bench.ban(&CROWD);
        assert_eq!(bench.banned(), CROWD, "{variant:?}");
        for one in CROWD {
            let held = bench.responder.find(source(one)).unwrap().unwrap();
            assert_eq!(
                held.reason.unwrap().to_string(),
                "syn scan, 3 tcp ports, last 23"
            );
            let clock = held.clock.unwrap();
            assert_eq!(clock.length, HOUR * 1000, "{variant:?}");
            assert!((3_500_000..=3_600_000).contains(&clock.left), "{clock:?}");
        }
        assert_eq!(bench.responder.find(source("198.51.100.1")).unwrap(), None);
        assert_eq!(bench.others(), before);
        bench
            .responder
            .unban(&[source(CROWD[0]), source(CROWD[3]), source("192.0.2.77")])
            .unwrap();
        assert_eq!(bench.banned(), CROWD[1..3]);
        bench.responder.unban_all().unwrap();
        assert_eq!(bench.banned(), Vec::<String>::new());
        assert_eq!(bench.others(), before);
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        assert!(!bench.responder.take_lost());
        bench.ban(&CROWD);
        bench.responder.withdraw().unwrap();
        assert_eq!(bench.others(), before);
        assert!(!bench.run("iptables -S").contains("PORTSENTRY"));
        assert!(!bench.run("ip6tables -S").contains("PORTSENTRY"));
        if variant.sets {
            assert_eq!(bench.run("ipset list -n"), "");
        }
        bench.responder.withdraw().unwrap();
        bench
            .responder
            .unban(&[source(CROWD[0]), source(CROWD[2])])
            .unwrap();
        bench.responder.unban_all().unwrap();
        assert_eq!(bench.banned(), Vec::<String>::new());
        assert_eq!(bench.others(), before);
    });
}

#[test]
fn many_bans_are_one_rule_where_there_are_sets() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        let frame = bench.rules().len();
        let bans: Vec<Ban> = (0..300)
            .map(|n| ban(&format!("10.0.{}.{}", n / 200, n % 200), Some(HOUR)))
            .collect();
        bench.responder.replay(&refs(&bans), Now::read()).unwrap();
        bench.responder.replay(&refs(&bans), Now::read()).unwrap();
        let expected = if variant.sets { frame } else { frame + 300 };
        assert_eq!(bench.rules().len(), expected, "{variant:?}");
        assert_eq!(bench.held().len(), 300);
        assert_eq!(bench.responder.has_clock(), variant.sets);
    });
}

#[test]
fn neighbour_discovery_passes_before_all_bans() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        bench.ban(&["2001:db8::/32"]);
        let rules = bench.run("ip6tables -S PORTSENTRY");
        let mut rules = rules.lines().skip(1);
        for kind in 133..=136 {
            assert_eq!(
                rules.next().unwrap(),
                format!(
                    "-A PORTSENTRY -p ipv6-icmp -m icmp6 --icmpv6-type {kind} -m comment --comment \"portsentry: neighbour discovery\" -j RETURN"
                )
            );
        }
        assert!(rules.next().unwrap().ends_with("-j DROP"));
    });
}

#[test]
fn a_second_ban_of_a_source_takes_the_first_ones_place() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        bench.ban(&CROWD);
        let again = CROWD.map(|source| Ban {
            reason: Reason::parse("tired of this one"),
            ..ban(source, None)
        });
        bench.responder.ban(&refs(&again), Now::read()).unwrap();
        assert_eq!(bench.banned(), CROWD, "{variant:?}");
        for held in bench.held() {
            assert_eq!(held.clock, None);
            assert_eq!(held.reason.unwrap().to_string(), "tired of this one");
        }
    });
}

#[test]
fn a_restart_adopts_what_stands_there() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        let friends = [
            "192.0.2.0/28".parse().unwrap(),
            "2001:db8:f::/48".parse().unwrap(),
        ];
        bench.responder.spare(&friends).unwrap();
        bench.ban(&CROWD);
        let before = (bench.rules(), bench.banned());
        bench.restart();
        assert_eq!(
            bench.responder.prepare().unwrap(),
            Prepared::Adopted,
            "{variant:?}"
        );
        assert!(!bench.responder.take_lost());
        assert_eq!((bench.rules(), bench.banned()), before);
    });
}

#[test]
fn a_hook_that_is_moved_or_gone_is_put_back_at_the_head() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        bench.ban(&CROWD);
        let before = bench.run("iptables -S") + &bench.run("ip6tables -S");
        for lines in [
            &["iptables -D INPUT -j PORTSENTRY"][..],
            &["ip6tables -D FORWARD -j PORTSENTRY"],
            &["iptables -F INPUT", "iptables -F FORWARD"],
            &[
                "iptables -A INPUT -j PORTSENTRY",
                "ip6tables -I FORWARD -j PORTSENTRY",
            ],
        ] {
            lines.iter().for_each(|line| drop(bench.run(line)));
            assert_eq!(
                bench.responder.prepare().unwrap(),
                Prepared::Rebuilt,
                "{variant:?} {lines:?}"
            );
            assert_eq!(
                bench.run("iptables -S") + &bench.run("ip6tables -S"),
                before
            );
            assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        }
        bench.run("iptables -I INPUT -p tcp --dport 22 -j ACCEPT");
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Rebuilt);
        let rules = bench.run("iptables -S INPUT");
        assert_eq!(rules.lines().nth(1).unwrap(), "-A INPUT -j PORTSENTRY");
        assert!(rules.contains("--dport 22 -j ACCEPT"));
    });
}

#[test]
fn bans_that_somebody_takes_away_are_noticed() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        let all = CROWD.map(|source| ban(source, Some(HOUR)));
        let rules = ["iptables -F PORTSENTRY", "iptables -F", "ip6tables -F"];
        let sets = [
            "ipset flush PORTSENTRY-4",
            "ipset del PORTSENTRY-n6 2001:db8:5::/64",
            "iptables -F",
        ];
        for line in if variant.sets { sets } else { rules } {
            bench.responder.ban(&refs(&all), Now::read()).unwrap();
            assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
            assert!(!bench.responder.take_lost());
            bench.run(line);
            let prepared = bench.responder.prepare().unwrap();
            let is_noticed = bench.responder.take_lost() || prepared != Prepared::Adopted;
            assert!(is_noticed, "{variant:?}: {line}");
            bench.responder.replay(&refs(&all), Now::read()).unwrap();
            assert_eq!(bench.banned(), CROWD);
        }
        for program in ["iptables", "ip6tables"] {
            bench.run(&format!("{program} -F"));
            bench.run(&format!("{program} -X"));
        }
        if variant.sets {
            bench.run("ipset destroy");
        }
        // Nobody has looked in between.
        bench.responder.ban(&refs(&all), Now::read()).unwrap();
        assert!(bench.responder.take_lost(), "{variant:?}");
        assert_eq!(bench.banned(), CROWD);
        assert!(bench.run("iptables -S").contains("-A INPUT -j PORTSENTRY"));
    });
}

#[test]
fn whoever_is_ignored_goes_on_before_all_bans() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        bench.ban(&CROWD);
        let nets = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpNet>>()
        };
        let passing = |bench: &Bench| {
            let rules = bench.rules();
            let first = rules
                .iter()
                .position(|rule| rule.ends_with("DROP"))
                .unwrap();
            let pass = rules[..first]
                .iter()
                .filter(|rule| rule.contains("ignored"));
            pass.map(|rule| rule.split(' ').nth(3).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        for (friends, expected) in [
            (
                nets(&["192.0.2.0/28", "203.0.113.5/32", "192.0.2.3/32"]),
                &["192.0.2.0/28", "203.0.113.5/32"][..],
            ),
            (nets(&["0.0.0.0/0"]), &["0.0.0.0/1", "128.0.0.0/1"]),
            (nets(&["::ffff:192.0.2.8/125"]), &["192.0.2.8/29"]),
            (nets(&["192.0.2.7/32"]), &["192.0.2.7/32"]),
            (nets(&[]), &[]),
        ] {
            bench.responder.spare(&friends).unwrap();
            assert_eq!(passing(&bench), expected, "{variant:?}");
            assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
            assert_eq!(bench.banned(), CROWD);
        }
    });
}

#[test]
fn rules_of_others_in_our_chain_stay() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        let theirs = [
            "-A PORTSENTRY -s 203.0.113.1/32 -j DROP",
            "-A PORTSENTRY -s 203.0.113.2/32 -m comment --comment \"portsentry: mine\" -j DROP",
            "-A PORTSENTRY ! -s 203.0.113.3/32 -j RETURN",
        ];
        for line in theirs {
            bench.run(&format!(
                "iptables {}",
                line.replace("\"portsentry: mine\"", "portsentry:mine")
            ));
        }
        let is_theirs = |bench: &Bench| {
            bench
                .rules()
                .iter()
                .filter(|rule| rule.contains("203.0.113"))
                .count()
        };
        bench.ban(&CROWD);
        assert_eq!(bench.banned(), CROWD, "{variant:?}");
        bench.responder.unban_all().unwrap();
        assert_eq!(is_theirs(&bench), 3);
        bench.ban(&CROWD);
        let said = bench.responder.withdraw().unwrap_err().to_string();
        assert!(
            said.contains("has rules that are not portsentry's"),
            "{said}"
        );
        assert_eq!(is_theirs(&bench), 3);
        assert_eq!(bench.rules().len(), 3, "{:?}", bench.rules());
        assert!(!bench.run("iptables -S INPUT").contains("PORTSENTRY"));
    });
}

#[test]
fn rules_become_elements_when_ipset_comes_and_rules_when_it_goes() {
    for suffix in ["-nft", "-legacy"] {
        in_a_network(|| {
            let mut bench = Bench::ready(Variant {
                suffix,
                sets: false,
            });
            bench.ban(&CROWD);
            let gone = ban("192.0.2.66", Some(0));
            bench.responder.ban(&[&gone], Now::read()).unwrap();
            symlink("/usr/sbin/ipset", bench.dir.path().join("ipset")).unwrap();
            bench.restart();
            assert_eq!(bench.responder.prepare().unwrap(), Prepared::Rebuilt);
            assert_eq!(bench.banned(), CROWD);
            assert_eq!(bench.rules().len(), 4 + 4);
            assert!(bench.responder.has_clock());
            bench.remove("ipset");
            bench.restart();
            assert_eq!(
                bench.responder.prepare().unwrap(),
                Prepared::Rebuilt,
                "all bans are to be put back"
            );
            bench.ban(&CROWD);
            assert_eq!(bench.banned(), CROWD);
            assert_eq!(bench.rules().len(), 4 + 4);
        });
    }
}

#[test]
fn an_element_ends_by_itself() {
    in_a_network(|| {
        let mut bench = Bench::ready(VARIANTS[0]);
        let bans = ["192.0.2.1", "2001:db8:5::/64"].map(|source| ban(source, Some(1)));
        bench.responder.ban(&refs(&bans), Now::read()).unwrap();
        assert_eq!(bench.banned().len(), 2);
        let begun = std::time::Instant::now();
        while !bench.banned().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
            thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        assert!(!bench.responder.take_lost(), "it was its time");
    });
}

#[test]
fn a_ban_longer_than_a_timeout_is_put_in_again_in_time() {
    in_a_network(|| {
        let mut bench = Bench::ready(VARIANTS[0]);
        let length = 60 * 24 * HOUR;
        bench
            .responder
            .ban(&[&ban("192.0.2.1", Some(length))], Now::read())
            .unwrap();
        let clock = bench.held().remove(0).clock.unwrap();
        assert_eq!(clock.length, length * 1000);
        assert!(clock.left > (length - 60) * 1000, "{clock:?}");
        let timeout = |bench: &Bench| {
            let saved = bench.run("ipset save PORTSENTRY-4");
            let line = saved
                .lines()
                .find(|line| line.starts_with("add"))
                .unwrap()
                .to_owned();
            line.split(' ').nth(4).unwrap().parse::<u64>().unwrap()
        };
        assert!((LONGEST - 60..=LONGEST).contains(&timeout(&bench)));
        bench.run("ipset -exist add PORTSENTRY-4 192.0.2.1 timeout 100000");
        bench.responder.prepare().unwrap();
        assert!(timeout(&bench) <= 100_000, "it is not due");
        bench
            .responder
            .long
            .get_mut(&source("192.0.2.1"))
            .unwrap()
            .1 = Mono(0);
        bench.responder.prepare().unwrap();
        assert!((LONGEST - 60..=LONGEST).contains(&timeout(&bench)));
        assert!(bench.responder.long[&source("192.0.2.1")].1 > Mono(0));
        bench.responder.unban(&[source("192.0.2.1")]).unwrap();
        assert!(bench.responder.long.is_empty());
    });
}

#[test]
fn a_full_set_is_told_and_what_stands_in_it_is_brought_up_to_date() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[0]);
        bench.responder = responder(&bench.dir, 2);
        bench.responder.prepare().unwrap();
        let crowd: Vec<Ban> = (1..=4)
            .map(|n| ban(&format!("192.0.2.{n}"), Some(HOUR)))
            .collect();
        bench.responder.ban(&refs(&crowd), Now::read()).unwrap();
        let others =
            ["192.0.2.4", "192.0.2.7", "192.0.2.1", "2001:db8::1"].map(|source| ban(source, None));
        let error = bench
            .responder
            .ban(&refs(&others), Now::read())
            .unwrap_err();
        assert!(error.full, "{error}");
        assert_eq!(error.sources, [source("192.0.2.7")], "{error}");
        assert!(error.to_string().contains("Hash is full"), "{error}");
        let held = bench.held();
        let for_ever: Vec<String> = held
            .iter()
            .filter(|held| held.clock.is_none())
            .map(|held| held.source.to_string())
            .collect();
        assert_eq!(for_ever, ["192.0.2.1", "192.0.2.4", "2001:db8::1"]);
    });
}

#[test]
fn a_set_that_is_too_small_is_replaced_with_what_stands_in_it() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[0]);
        bench.responder = responder(&bench.dir, 2);
        bench.responder.prepare().unwrap();
        bench.ban(&CROWD);
        bench.responder = responder(&bench.dir, 500);
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        assert_eq!(bench.banned(), CROWD);
        assert!(
            bench
                .run("ipset list -t PORTSENTRY-4")
                .contains("maxelem 1000")
        );
        assert_eq!(bench.run("ipset list -n").lines().count(), 4);
        bench.responder = responder(&bench.dir, 2);
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
        assert!(
            bench
                .run("ipset list -t PORTSENTRY-4")
                .contains("maxelem 1000")
        );
    });
}

#[test]
fn a_set_of_somebody_elses_is_left_alone() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[0]);
        bench.run("ipset create PORTSENTRY-4 hash:ip");
        let before = bench.run("ipset save");
        let said = bench.responder.prepare().unwrap_err().to_string();
        assert!(
            said.starts_with("iptables: the set PORTSENTRY-4 is not as portsentry makes it"),
            "{said}"
        );
        assert!(said.contains("ipset destroy PORTSENTRY-4"), "{said}");
        assert_eq!(bench.run("ipset save"), before);
        assert!(!bench.run("iptables -S").contains("PORTSENTRY"));
    });
}

#[test]
fn an_element_that_an_admin_adds_is_a_ban() {
    in_a_network(|| {
        let bench = Bench::ready(VARIANTS[0]);
        bench.run("ipset add PORTSENTRY-4 192.0.2.1 timeout 60");
        bench.run("ipset add PORTSENTRY-4 192.0.2.2");
        bench.run("ipset add PORTSENTRY-n4 198.51.100.0/24 comment mine");
        bench.run("ipset add PORTSENTRY-n4 198.51.100.5 nomatch");
        let held = bench.held();
        assert_eq!(
            bench.banned(),
            ["192.0.2.1", "192.0.2.2", "198.51.100.0/24"]
        );
        assert!(
            matches!(held[0].clock, Some(HeldClock { length, left }) if length == left && left <= 60_000)
        );
        assert_eq!((held[1].clock, &held[1].reason), (None, &None));
        assert_eq!(held[2].reason, Some(Reason::Text("mine".into())));
    });
}

#[test]
fn without_ip6tables_ipv4_is_banned_and_ipv6_is_refused_until_it_is_there() {
    everywhere(|variant| {
        let mut bench = Bench::new(variant);
        let restore = fs::read_link(bench.dir.path().join("ip6tables-restore")).unwrap();
        bench.remove("ip6tables-restore");
        assert_eq!(bench.responder.prepare().unwrap(), Prepared::Created);
        let bans = CROWD.map(|source| ban(source, Some(HOUR)));
        let error = bench.responder.ban(&refs(&bans), Now::read()).unwrap_err();
        assert_eq!(error.sources, [source(CROWD[2]), source(CROWD[3])]);
        assert_eq!(error.refused, error.sources);
        let said = error.to_string();
        assert!(
            said.starts_with(
                "iptables: cannot ban 2 of 4: 2001:db8::1: there is no program ip6tables"
            ),
            "{said}"
        );
        assert!(said.contains("install Debian's package iptables"), "{said}");
        assert_eq!(bench.banned(), CROWD[..2]);
        bench.responder.unban(&CROWD.map(source)).unwrap();
        bench
            .responder
            .spare(&["2001:db8::/32".parse().unwrap()])
            .unwrap();
        assert_eq!(bench.responder.find(source(CROWD[2])).unwrap(), None);
        bench.responder.unban_all().unwrap();
        bench.responder.withdraw().unwrap();
        bench.responder.prepare().unwrap();
        symlink(restore, bench.dir.path().join("ip6tables-restore")).unwrap();
        bench.responder.prepare().unwrap();
        assert!(bench.responder.take_lost(), "they are to be put back");
        bench.responder.ban(&refs(&bans), Now::read()).unwrap();
        assert_eq!(bench.banned(), CROWD);
    });
}

#[test]
fn what_is_not_there_is_named_with_its_remedy() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[1]);
        PROGRAMS.iter().for_each(|program| bench.remove(program));
        let said = bench.responder.prepare().unwrap_err().to_string();
        assert!(
            said.starts_with(
                "iptables: there is no program iptables with its iptables-restore in /"
            ),
            "{said}"
        );
        assert!(
            said.ends_with(
                "install Debian's package iptables, or take \"nftables\" in ban.responders"
            ),
            "{said}"
        );
        bench.responder.withdraw().unwrap();
        for program in PROGRAMS {
            let (name, rest) = program.split_once('-').unwrap_or((program, ""));
            let rest = if rest.is_empty() { "" } else { "-restore" };
            let variant = bench.dir.path().join(format!("{name}-legacy{rest}"));
            symlink(format!("/usr/sbin/{name}-legacy{rest}"), variant).unwrap();
        }
        assert_eq!(
            bench.responder.prepare().unwrap(),
            Prepared::Created,
            "a variant is as good"
        );
    });
}

#[test]
fn it_is_known_before_a_start_which_iptables_only_root_can_use() {
    for suffix in ["-nft", "-legacy"] {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        // As Debian's alternatives have them: by a name that says nothing, through links, to one program for all of a kind.
        let program = place(&format!("xtables{suffix}-multi"));
        fs::copy("/bin/true", &program).unwrap();
        for name in ["iptables", "iptables-restore"] {
            symlink(&program, place(&format!("to-{name}"))).unwrap();
            symlink(place(&format!("to-{name}")), place(name)).unwrap();
        }
        let why = Tools::within(vec![dir.path().to_owned()], Duration::from_secs(1)).why_root();
        if suffix == "-nft" {
            assert_eq!(why, None);
        } else {
            let why = why.unwrap();
            assert!(
                why.contains("/iptables is iptables-legacy (it needs"),
                "{why}"
            );
            assert!(why.contains("leave daemon.user out"), "{why}");
        }
    }
}

#[test]
fn what_a_program_says_is_told_with_its_remedy() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[1]);
        for (script, remedy) in [
            (
                "echo 'Fatal: can'\\''t open lock file /run/xtables.lock: Permission denied' >&2; exit 4",
                "(it needs CAP_NET_ADMIN",
            ),
            (
                "echo 'iptables v1.8.9 (legacy): can'\\''t initialize iptables table `filter'\\'': Table does not exist (do you need to insmod?)' >&2; exit 3",
                "load the module ip_tables",
            ),
            (
                "echo \"chain \\`X' in table \\`filter' is incompatible, use 'nft' tool.\" >&2; exit 1",
                "take \"nftables\" in ban.responders",
            ),
            (
                "printf 'odd \\033[2J words' >&2; exit 1",
                "exit status 1: odd \\u{1b}[2J words",
            ),
        ] {
            bench.replace("iptables", script);
            let said = bench.responder.prepare().unwrap_err().to_string();
            assert!(said.contains(remedy), "{said}");
            assert!(said.contains("/iptables exit status"), "{said}");
        }
    });
}

#[test]
fn without_sets_in_the_kernel_bans_are_rules() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[0]);
        bench.replace(
            "ipset",
            "echo 'ipset v7.17: Kernel error received: Invalid argument' >&2; exit 1",
        );
        bench.responder.prepare().unwrap();
        assert!(!bench.responder.has_clock());
        bench.ban(&CROWD);
        assert_eq!(bench.banned(), CROWD);
        assert_eq!(bench.rules().len(), 4 + 4);
    });
}

#[test]
fn a_program_that_hangs_is_killed_with_its_group() {
    in_a_network(|| {
        let mut bench = Bench::new(VARIANTS[1]);
        let left = bench.dir.path().join("left");
        bench.replace(
            "iptables",
            &format!("sleep 1000 & echo $! > {}; wait", left.display()),
        );
        let tools = Tools::within(vec![bench.dir.path().to_owned()], Duration::from_secs(5));
        let config = Config::default();
        bench.responder = Iptables::with(tools, &config.iptables, &config.ban);
        let said = bench.responder.prepare().unwrap_err().to_string();
        assert!(
            said.contains("/iptables did not end within 5s, and was killed"),
            "{said}"
        );
        let left = fs::read_to_string(left).unwrap();
        let status = PathBuf::from(format!("/proc/{}/stat", left.trim()));
        let is_gone = || fs::read_to_string(&status).map_or(true, |stat| stat.contains(") Z "));
        let begun = std::time::Instant::now();
        while !is_gone() {
            let patience = Duration::from_secs(30);
            assert!(begun.elapsed() < patience, "what it started is not gone");
            thread::sleep(Duration::from_millis(10));
        }
    });
}

#[test]
fn everybody_is_not_banned() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        let bans = ["0.0.0.0/0", "::/0", "192.0.2.1"].map(|source| ban(source, None));
        let error = bench.responder.ban(&refs(&bans), Now::read()).unwrap_err();
        assert_eq!(error.refused.len(), 2, "{error}");
        assert_eq!(bench.banned(), ["192.0.2.1"]);
    });
}

#[test]
fn the_log_has_the_command_that_would_do_the_same() {
    everywhere(|variant| {
        let bench = Bench::ready(variant);
        let bans = ["192.0.2.1", "2001:db8:5::/64"].map(|source| ban(source, Some(600)));
        // Read after both bans, so that what is left of each is no more than the whole.
        let now = Now::read();
        let deeds = bans.map(|ban| bench.responder.deed(&ban, now));
        let lines = if variant.sets {
            [
                "ipset add PORTSENTRY-4 192.0.2.1 timeout 600",
                "ipset add PORTSENTRY-n6 2001:db8:5::/64 timeout 600",
            ]
        } else {
            [
                "iptables -A PORTSENTRY -s 192.0.2.1 -j DROP",
                "ip6tables -A PORTSENTRY -s 2001:db8:5::/64 -j DROP",
            ]
        };
        assert_eq!(deeds, lines.map(|line| Deed::Route(line.to_owned())));
        for line in lines {
            bench.run(line);
        }
    });
}

#[test]
fn what_an_admin_is_told_to_type_lifts_a_ban() {
    everywhere(|variant| {
        let mut bench = Bench::ready(variant);
        bench.ban(&CROWD);
        let path = format!("{}:/usr/bin:/bin", bench.dir.path().display());
        let type_in = |line: &str| {
            let mut shell = Command::new("/bin/sh");
            let done = shell
                .args(["-c", line])
                .env("PATH", &path)
                .output()
                .unwrap();
            assert!(done.status.success(), "{variant:?}: {line}: {done:?}");
        };
        for lifted in 0..CROWD.len() {
            let line = line_by_hand("PORTSENTRY", source(CROWD[lifted]), variant.sets);
            type_in(&line);
            assert_eq!(bench.banned(), CROWD[lifted + 1..], "{variant:?}: {line}");
        }
        bench.ban(&CROWD);
        for line in by_hand("PORTSENTRY", &BTreeSet::new(), true) {
            type_in(&line);
        }
        assert_eq!(bench.rules(), Vec::<String>::new());
    });
}
