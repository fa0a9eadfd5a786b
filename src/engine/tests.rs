//! The engine with a responder that keeps its bans in memory, and fails when told to.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::*;
use crate::clock::Wall;
use crate::config::ignore::IgnoreList;
use crate::config::{self, Config, ResponderKind};
use crate::history::{History, TextFiles};
use crate::host::{Address, Facts, Link};
use crate::policy::{Ban, End, Origin, Past, Reason};
use crate::probe::Protocol;
use crate::probe::ScanType;
use crate::respond::{
    self, Deed, Held, HeldClock, Holdings, Meddling, Prepared, Responder, Responders,
};

mod friends;
mod handshakes;
mod meddling;
mod outstanding;
mod rollup;
mod telling;
mod threads;

const NOW: Now = Now {
    mono: Mono(1_000_000),
    wall: Wall(1_800_000_000_000),
};
const HOST: &str = "192.0.2.1";
/// What comes from this port is an answer.
const ANSWERING: u16 = 123;
/// What comes to this port is handed on.
const HANDED_ON: u16 = 443;
/// What comes from this port was answered.
const CONNECTED: u16 = 50_000;
const STRANGER: &str = "203.0.113.7";

/// What a responder holds, and how it behaves; shared with the test.
#[derive(Default)]
struct World {
    held: BTreeMap<Source, Option<Duration>>,
    broken: bool,
    lost: bool,
    /// Who is let through.
    spared: Vec<String>,
    /// The table is not the one we made.
    gone: bool,
    transactions: usize,
    /// Its bans do not end by themselves.
    clockless: bool,
    /// It never bans this one.
    refuses: Option<Source>,
    /// It cannot ban anybody in there for the time being.
    fails_in: Option<Source>,
    /// What others have done that nobody has heard of yet.
    noticed: Vec<Meddling>,
}

struct Fake(Rc<RefCell<World>>);

impl Fake {
    fn act(&self, act: impl FnOnce(&mut World)) -> Result<(), respond::Error> {
        let mut world = self.0.borrow_mut();
        world.transactions += 1;
        if world.broken {
            let message = "out of order".to_owned();
            return Err(respond::Error::new("fake", message));
        }
        act(&mut world);
        Ok(())
    }
}

impl Responder for Fake {
    fn name(&self) -> &'static str {
        if self.0.borrow().clockless {
            "file"
        } else {
            "fake"
        }
    }
    fn prepare(&mut self) -> Result<Prepared, respond::Error> {
        let gone = std::mem::take(&mut self.0.borrow_mut().gone);
        self.act(|_| {})?;
        Ok(if gone {
            Prepared::Created
        } else {
            Prepared::Adopted
        })
    }
    fn ban(&mut self, bans: &[&Ban], now: Now) -> Result<(), respond::Error> {
        let refused = self.0.borrow().refuses;
        if let Some(source) = refused.filter(|it| bans.iter().any(|ban| ban.source == *it)) {
            return Err(respond::Error {
                sources: vec![source],
                refused: vec![source],
                ..respond::Error::new("fake", "it is in the way".to_owned())
            });
        }
        let fails_in = self.0.borrow().fails_in;
        let fails = |ban: &&&Ban| fails_in.is_some_and(|it| it.covers(ban.source.address()));
        let (failed, made): (Vec<&Ban>, Vec<&Ban>) = bans.iter().partition(fails);
        self.act(|world| {
            let made = made.iter().map(|ban| (ban.source, ban.left(now)));
            world.held.extend(made);
        })?;
        if failed.is_empty() {
            return Ok(());
        }
        Err(respond::Error {
            sources: failed.iter().map(|ban| ban.source).collect(),
            ..respond::Error::new("fake", "there is no room".to_owned())
        })
    }
    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), respond::Error> {
        // Who is held already stays as he is.
        let is_new = |ban: &&&Ban| !self.0.borrow().held.contains_key(&ban.source);
        let bans: Vec<&Ban> = bans.iter().filter(is_new).copied().collect();
        self.ban(&bans, now)
    }
    fn unban(&mut self, sources: &[Source]) -> Result<(), respond::Error> {
        self.act(|world| world.held.retain(|source, _| !sources.contains(source)))
    }
    fn find(&mut self, source: Source) -> Result<Option<Held>, respond::Error> {
        let is_held = self.0.borrow().held.contains_key(&source);
        Ok(is_held.then_some(Held {
            source,
            reason: None,
            clock: None,
        }))
    }
    fn unban_all(&mut self) -> Result<(), respond::Error> {
        self.act(|world| world.held.clear())
    }
    fn spare(&mut self, friends: &[IpNet]) -> Result<(), respond::Error> {
        if self.0.borrow().broken {
            let message = "out of order".to_owned();
            return Err(respond::Error::new("fake", message));
        }
        let mut spared: Vec<String> = friends.iter().map(ToString::to_string).collect();
        spared.sort();
        self.0.borrow_mut().spared = spared;
        Ok(())
    }
    fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().lost)
    }
    fn noticed(&mut self) -> Vec<Meddling> {
        std::mem::take(&mut self.0.borrow_mut().noticed)
    }
    fn holdings(&self) -> Option<Holdings> {
        None
    }
    fn withdraw(&mut self) -> Result<(), respond::Error> {
        self.act(|world| world.held.clear())
    }
    fn has_clock(&self) -> bool {
        !self.0.borrow().clockless
    }
    fn deed(&self, ban: &Ban, _: Now) -> Deed {
        Deed::Route(format!("fake add {}", ban.source))
    }
}

/// An engine, its world, and the directory of its history.
struct Bench {
    engine: Engine,
    world: Rc<RefCell<World>>,
    /// What a second responder holds, without a clock; it is there where a test asks for it.
    file: Rc<RefCell<World>>,
    listening: Vec<u16>,
    asked: usize,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(text: &str) -> Self {
        Self::of(config::parse(Path::new("test.toml"), text).unwrap())
    }

    /// With a second responder, which has no clock.
    fn with_file(text: &str) -> Self {
        Self::new(&format!(
            "ban.responders = [\"nftables\", \"hosts-deny\"]\n{text}"
        ))
    }

    fn of(mut config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        config.history.text = Some(dir.path().join("history.log"));
        let address = |ip: &str, on_link: &str| Address {
            ip: ip.parse().unwrap(),
            on_link: on_link.parse().unwrap(),
            link: 2,
        };
        let facts = Facts::new(
            vec![
                address(HOST, "192.0.2.0/24"),
                address("2001:db8:1::1", "2001:db8:1::/64"),
            ],
            vec![Link {
                index: 2,
                name: "eth0".to_owned(),
                loopback: false,
            }],
        );
        let (ignored, _) = config::ignore::read(&config.ignore).unwrap();
        let guard = Guard::new(&config, ignored, facts);
        let world = Rc::new(RefCell::new(World::default()));
        let file = Rc::new(RefCell::new(World {
            clockless: true,
            ..World::default()
        }));
        let mut responders: Vec<Box<dyn Responder>> = Vec::new();
        for (kind, world) in [
            (ResponderKind::Nftables, &world),
            (ResponderKind::HostsDeny, &file),
        ] {
            if config.ban.responders.contains(&kind) {
                responders.push(Box::new(Fake(Rc::clone(world))));
            }
        }
        let responders = Responders::of(responders).here();
        let history = History::open(&dir.path().join("history.db")).unwrap();
        let recorder = Recorder::start(history, TextFiles::of(&config.history)).unwrap();
        Self {
            engine: Engine::new(config, guard, responders, recorder),
            world,
            file,
            listening: vec![22],
            asked: 0,
            dir,
        }
    }

    fn probes(&mut self, source: &str, ports: &[u16], now: Now) {
        let probes: Vec<Probe> = ports.iter().map(|&port| syn(source, HOST, port)).collect();
        self.see(&probes, now);
    }

    fn see(&mut self, probes: &[Probe], now: Now) {
        let (listening, asked) = (&self.listening, &mut self.asked);
        let mut ask = |question: Question, probe: &Probe| match question {
            Question::IsService => {
                *asked += 1;
                Ok(listening.contains(&probe.port))
            }
            Question::IsRedirected => Ok(probe.port == HANDED_ON),
            Question::IsAnswer => Ok(probe.source_port == ANSWERING),
            Question::WasAnswered => Ok(probe.source_port == CONNECTED),
        };
        self.engine.probes(probes, now, &mut ask);
    }

    fn held(&self) -> Vec<String> {
        sources(&self.world)
    }

    fn in_file(&self) -> Vec<String> {
        sources(&self.file)
    }

    fn order(&mut self, source: &str) -> Result<Ban, Refusal> {
        let length = Some(Duration::from_secs(3600));
        let order = Order {
            source: source.parse().unwrap(),
            length,
            reason: Reason::parse("by hand"),
            is_forced: false,
            by: None,
        };
        self.engine.ban(order, NOW).map(|(ban, _)| ban)
    }

    /// The text file's lines once everything is written, from the host on.
    fn lines(self) -> Vec<String> {
        let recorder = self.engine.close(NOW);
        recorder.stop(Duration::from_secs(10)).unwrap();
        let text = fs::read_to_string(self.dir.path().join("history.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once("Host: "));
        lines.map(|(_, rest)| rest.to_owned()).collect()
    }

    /// What history holds once everything is written.
    fn past(self) -> Vec<(String, Option<&'static str>)> {
        let recorder = self.engine.close(NOW);
        recorder.stop(Duration::from_secs(10)).unwrap();
        let history = History::open_read_only(&self.dir.path().join("history.db"))
            .unwrap()
            .unwrap();
        let rows = history.of(None, 100).unwrap();
        rows.iter()
            .map(|row| {
                (
                    row.source.to_string(),
                    row.ended.as_ref().map(|ended| ended.how.name()),
                )
            })
            .collect()
    }
}

fn sources(world: &Rc<RefCell<World>>) -> Vec<String> {
    let world = world.borrow();
    world.held.keys().map(ToString::to_string).collect()
}

fn syn(source: &str, dest: &str, port: u16) -> Probe {
    Probe {
        source: source.parse().unwrap(),
        dest: dest.parse().unwrap(),
        protocol: Protocol::Tcp,
        source_port: 40_000,
        port,
        scan_type: ScanType::Syn,
        ip_options: false,
        odd_flags: 0,
    }
}

fn after(seconds: u64) -> Now {
    NOW.later(Duration::from_secs(seconds))
}

#[test]
fn who_was_answered_by_somebody_who_is_gone_is_no_scanner() {
    let mut bench = Bench::new("[detect]\ntrigger = 1\n");
    let mut probe = syn(STRANGER, HOST, 3);
    probe.source_port = CONNECTED;
    bench.see(&[probe], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.services, 1);
    bench.probes(STRANGER, &[3], after(599));
    assert!(bench.held().is_empty(), "it was served a moment ago");
    bench.probes(STRANGER, &[3], after(600));
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn ports_that_are_answered_from_elsewhere_bring_nobody_nearer_to_a_ban() {
    let mut bench = Bench::new("");
    let users = [1, 2, 3, 4].map(|port| Probe {
        source_port: CONNECTED,
        ..syn(STRANGER, HOST, port)
    });
    bench.see(&users, NOW);
    // Known by then, also where there is no connection.
    bench.probes(STRANGER, &[1, 2, 3, 4], NOW);
    bench.probes(STRANGER, &[21, 23], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.services, 8);
    bench.probes(STRANGER, &[25], NOW);
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn a_scan_is_banned_in_the_world_and_in_history() {
    let mut bench = Bench::new("");
    bench.probes(STRANGER, &[1, 2], NOW);
    assert!(bench.held().is_empty());
    bench.probes(STRANGER, &[3], NOW);
    assert_eq!(bench.held(), [STRANGER]);
    assert_eq!(bench.engine.bans().len(), 1);
    assert_eq!(bench.past(), [(STRANGER.to_owned(), None)]);
}

#[test]
fn all_bans_of_a_batch_are_one_transaction() {
    let mut bench = Bench::new("");
    let sources = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
    let probes: Vec<Probe> = sources
        .iter()
        .flat_map(|source| [1, 2, 3].map(|port| syn(source, HOST, port)))
        .collect();
    bench.see(&probes, NOW);
    assert_eq!(bench.held(), sources);
    assert_eq!(bench.world.borrow().transactions, 1);
}

#[test]
fn services_are_no_traps() {
    let mut bench = Bench::new("detect.count = \"hits\"");
    bench.probes(STRANGER, &[22; 1000], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(
        (bench.engine.counters.services, bench.asked),
        (1000, 1),
        "the answer is kept for a second"
    );
}

#[test]
fn what_is_handed_on_is_a_service_also_when_it_comes_late() {
    let mut bench = Bench::new("detect.trigger = 1");
    bench.probes(STRANGER, &[HANDED_ON], NOW);
    let mut late = syn("203.0.113.9", HOST, HANDED_ON);
    late.scan_type = ScanType::Fin;
    bench.see(&[late], after(300));
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.services, 2);
}

#[test]
fn the_clients_of_a_service_that_restarts_are_no_scanners() {
    let mut bench = Bench::new("detect.trigger = 1");
    bench.listening.push(80);
    bench.probes(STRANGER, &[80], NOW);
    bench.listening.clear();
    for seconds in [30, 31, 599] {
        bench.probes(STRANGER, &[80], after(seconds));
    }
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.services, 4);
    bench.probes(STRANGER, &[80], after(600));
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn a_service_that_has_just_started_spares_at_the_last_moment() {
    let mut bench = Bench::new("");
    bench.probes("203.0.113.9", &[80], NOW);
    bench.probes(STRANGER, &[78, 79], NOW);
    bench.listening.push(80);
    bench.probes(STRANGER, &[80], NOW.later(Duration::from_millis(500)));
    assert!(
        bench.held().is_empty(),
        "the kept \"nobody\" was asked again"
    );
    assert_eq!(bench.engine.counters.services, 1);
}

/// Nobody is there, and nobody was; of how many at a time that was asked.
#[derive(Default)]
struct NobodyWasThere(Vec<usize>);

impl Ask for NobodyWasThere {
    fn ask(&mut self, _: Question, _: &Probe) -> Result<bool, String> {
        Ok(false)
    }

    fn were_answered(&mut self, probes: &[Probe]) -> Result<Vec<bool>, String> {
        self.0.push(probes.len());
        Ok(vec![false; probes.len()])
    }
}

#[test]
fn who_was_answered_is_asked_of_all_scanners_of_a_batch_at_once() {
    let mut bench = Bench::new("[detect]\ntrigger = 1\n");
    let [a, b, c] = ["198.51.100.8", "198.51.100.9", "198.51.100.10"];
    let probes = [STRANGER, a, b, a, c].map(|source| syn(source, HOST, 23));
    let mut ask = NobodyWasThere::default();
    bench.engine.probes(&probes, NOW, &mut ask);
    // The second probe of one of them waits for what becomes of the first.
    assert_eq!(ask.0, [3, 1]);
    assert_eq!(bench.engine.counters.already_banned, 1);
    assert_eq!(bench.engine.counters.bans, 4);
}

#[test]
fn when_the_kernel_cannot_be_asked_nobody_is_banned() {
    let mut bench = Bench::new("");
    let probes = [1, 2, 3].map(|port| syn(STRANGER, HOST, port));
    bench
        .engine
        .probes(&probes, NOW, &mut |_: Question, _: &Probe| {
            Err("no sock_diag".to_owned())
        });
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.unanswered, 3);
    assert_eq!(
        bench.engine.troubles(NOW.mono),
        ["cannot tell traps from services, and probes from answers: no sock_diag"]
    );
}

#[test]
fn only_probes_to_this_host_count() {
    let mut bench = Bench::new("");
    bench.see(
        &[1, 2, 3].map(|port| syn(STRANGER, "192.0.2.99", port)),
        NOW,
    );
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.not_ours, 3);
}

#[test]
fn friends_are_never_banned() {
    let mut bench = Bench::new("ignore.addresses = [\"203.0.113.0/24\"]");
    for friend in [
        STRANGER,
        HOST,
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
    ] {
        bench.probes(friend, &[1, 2, 3], NOW);
    }
    assert!(bench.held().is_empty());
    let refusal = bench.order("203.0.113.0/25").unwrap_err().to_string();
    assert_eq!(
        refusal,
        "203.0.113.0/25 is never banned: it is ignored (203.0.113.0/24 in ignore.addresses)"
    );
    assert!(bench.order("0.0.0.0/0").is_err());
    assert!(bench.order("::/0").is_err());
    assert!(
        bench.order("192.0.0.0/16").is_err(),
        "it holds our own address"
    );
    assert!(bench.held().is_empty());
}

#[test]
fn an_ipv6_ban_is_a_prefix_unless_that_holds_a_friend_or_a_neighbour() {
    let mut bench = Bench::new("ignore.addresses = [\"2001:db8:2::1\"]");
    for source in ["2001:db8:1::7", "2001:db8:2::7", "2001:db8:3::7", "fe80::7"] {
        bench.see(
            &[1, 2, 3].map(|port| syn(source, "2001:db8:1::1", port)),
            NOW,
        );
    }
    assert_eq!(
        bench.held(),
        [
            "2001:db8:1::7",
            "2001:db8:2::7",
            "2001:db8:3::/64",
            "fe80::7"
        ]
    );
}

#[test]
fn addresses_that_stand_for_ipv4_ones_are_banned_alone_for_a_prefix_of_them_is_everybody() {
    let mut bench = Bench::new("ban.ipv6_rollup = [\"2 in /56\"]\nban.rollup_confirm = \"none\"");
    let mut all = [
        "64:ff9b::cb00:7107",
        "64:ff9b::cb00:7108",
        "64:ff9b:1:fffe::cb00:7107",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2001:0:4136:e378:8000:63bf:3fff:fdd3",
    ];
    for source in all {
        bench.see(
            &[1, 2, 3].map(|port| syn(source, "2001:db8:1::1", port)),
            NOW,
        );
    }
    let mut held = bench.held();
    held.sort_unstable();
    all.sort_unstable();
    assert_eq!(held, all);
}

#[test]
fn probes_of_one_prefix_add_up() {
    let mut bench = Bench::new("");
    let probes = [1, 2, 3].map(|n| syn(&format!("2001:db8:3::{n}"), "2001:db8:1::1", n));
    bench.see(&probes, NOW);
    assert_eq!(bench.held(), ["2001:db8:3::/64"]);
    bench.see(&[syn("2001:db8:3::99", "2001:db8:1::1", 9)], NOW);
    assert_eq!(bench.engine.counters.already_banned, 1);
}

#[test]
fn an_unban_reaches_memory_world_and_history() {
    let mut bench = Bench::new("");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let unbanned = bench
        .engine
        .unban(STRANGER.parse().unwrap(), "uid 0", after(60));
    assert_eq!(unbanned.lifted.len(), 1);
    assert_eq!(
        unbanned.lifted[0].ban.as_ref().unwrap().left(after(60)),
        Some(Duration::from_secs(540))
    );
    assert!(bench.held().is_empty());
    assert!(bench.engine.bans().is_empty());
    bench.probes(STRANGER, &[1, 2], after(61));
    assert!(bench.held().is_empty(), "it starts afresh");
    assert_eq!(bench.past(), [(STRANGER.to_owned(), Some("unban"))]);
}

#[test]
fn unban_of_an_address_lifts_the_prefix_that_covers_it() {
    let mut bench = Bench::new("");
    bench.order("2001:db8:3::/64").unwrap();
    bench.order("2001:db8:3::7").unwrap();
    bench.order("2001:db8:4::7").unwrap();
    let unbanned = bench
        .engine
        .unban("2001:db8:3::7".parse().unwrap(), "uid 0", NOW);
    assert_eq!(unbanned.lifted.len(), 2);
    assert_eq!(bench.held(), ["2001:db8:4::7"]);
}

#[test]
fn unban_finds_what_stands_in_the_world_alone() {
    let mut bench = Bench::new("");
    bench
        .world
        .borrow_mut()
        .held
        .insert(STRANGER.parse().unwrap(), None);
    let unbanned = bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    assert!(unbanned.lifted[0].ban.is_none());
    assert!(bench.held().is_empty());
}

#[test]
fn a_responder_that_fails_is_tried_again_until_all_is_in_force() {
    let mut bench = Bench::new("");
    bench.world.borrow_mut().broken = true;
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    assert_eq!((bench.engine.bans().len(), bench.engine.enforced()), (1, 0));
    assert_eq!(bench.engine.troubles(NOW.mono), ["fake: out of order"]);
    assert_eq!(bench.engine.next_deadline(), Some(after(1).mono));
    bench.engine.tick(after(1));
    assert_eq!(bench.engine.enforced(), 0);
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(3));
    assert_eq!(
        (bench.held(), bench.engine.enforced()),
        (vec![STRANGER.to_owned()], 1)
    );
    assert_eq!(bench.engine.differs_since(), None);
    assert!(bench.engine.troubles(NOW.mono).is_empty());
    assert_eq!(
        bench.world.borrow().held[&STRANGER.parse().unwrap()],
        Some(Duration::from_secs(597))
    );
}

#[test]
fn an_unban_that_fails_says_so_and_is_tried_again() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.world.borrow_mut().broken = true;
    let unbanned = bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    assert_eq!(unbanned.failures, ["fake: out of order"]);
    assert!(unbanned.lifted[0].stands);
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(1));
    assert!(bench.held().is_empty());
}

#[test]
fn an_ordered_ban_that_fails_leaves_nothing() {
    let mut bench = Bench::new("");
    bench.world.borrow_mut().broken = true;
    assert_eq!(
        bench.order(STRANGER).unwrap_err().to_string(),
        "203.0.113.7 is not banned: fake: out of order"
    );
    assert!(bench.engine.bans().is_empty());
    assert_eq!(bench.past(), []);
}

#[test]
fn what_somebody_took_away_is_put_back_with_the_next_ban() {
    let mut bench = Bench::new("");
    bench.order("203.0.113.1").unwrap();
    {
        let mut world = bench.world.borrow_mut();
        world.held.clear();
        world.lost = true;
    }
    bench.probes(STRANGER, &[1, 2, 3], after(60));
    assert_eq!(bench.held(), ["203.0.113.1", STRANGER]);
    assert_eq!(bench.engine.counters.repairs, 1);
}

#[test]
fn replay_keeps_the_time_left_and_ends_the_bans_of_friends() {
    let mut bench = Bench::new("ignore.addresses = [\"203.0.113.9\"]");
    let ban = |source: &str| Ban {
        source: source.parse().unwrap(),
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: NOW.wall,
        end: Some(End::after(Duration::from_secs(240), NOW)),
    };
    bench
        .engine
        .replay(vec![ban(STRANGER), ban("203.0.113.9")], NOW);
    assert_eq!(bench.held(), [STRANGER]);
    assert_eq!(
        bench.world.borrow().held[&STRANGER.parse().unwrap()],
        Some(Duration::from_secs(240))
    );
    bench.engine.tick(after(240));
    assert!(bench.engine.bans().is_empty());
}

#[test]
fn adoption_takes_over_what_is_unknown_but_nothing_that_was_lifted_meanwhile() {
    let mut bench = Bench::new("");
    bench.order("203.0.113.1").unwrap();
    let _ = bench.engine.begin_listing();
    bench
        .engine
        .unban("203.0.113.1".parse().unwrap(), "uid 0", NOW);
    let held = |source: &str, clock| Held {
        source: source.parse().unwrap(),
        reason: None,
        clock,
    };
    let clock = Some(HeldClock {
        length: 600_000,
        left: 120_000,
    });
    let found = vec![
        held("203.0.113.1", clock),
        held("203.0.113.2", clock),
        held("203.0.113.3", None),
        held(HOST, None),
    ];
    bench
        .world
        .borrow_mut()
        .held
        .extend(found.iter().map(|held| (held.source, None)));
    bench.engine.adopt(found, NOW);
    let adopted = bench
        .engine
        .bans()
        .get("203.0.113.2".parse().unwrap())
        .unwrap();
    assert_eq!(
        (adopted.length(), adopted.left(NOW)),
        (
            Some(Duration::from_secs(600)),
            Some(Duration::from_secs(120))
        )
    );
    assert_eq!(
        bench
            .engine
            .bans()
            .get("203.0.113.3".parse().unwrap())
            .unwrap()
            .end,
        None
    );
    assert_eq!(bench.engine.bans().len(), 2);
    assert!(
        !bench.held().contains(&HOST.to_owned()),
        "our own address is taken out of the set"
    );
}

#[test]
fn who_becomes_a_friend_is_unbanned() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    let config = config::parse(
        Path::new("test.toml"),
        "ignore.addresses = [\"203.0.113.0/24\"]",
    )
    .unwrap();
    let (ignored, _) = config::ignore::read(&config.ignore).unwrap();
    bench.engine.reconfigure(config, ignored, NOW);
    assert!(bench.held().is_empty());
    assert_eq!(bench.past(), [(STRANGER.to_owned(), Some("ignored"))]);
}

#[test]
fn bans_that_history_had_no_room_for_are_written_when_it_has() {
    let mut bench = Bench::new("detect.trigger = 1\nban.rate = 1000000\n");
    let path = bench.dir.path().join("history.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let stranger = |n: u32| std::net::Ipv4Addr::from(0xcb00_0000 + n).to_string();
    let probes: Vec<Probe> = (0..80_000).map(|n| syn(&stranger(n), HOST, 3)).collect();
    for batch in probes.chunks(1000) {
        bench.see(batch, NOW);
    }
    assert_eq!(bench.held().len(), 80_000);
    assert!(bench.engine.counters.unrecorded > 0);
    let last = stranger(79_999).parse().unwrap();
    assert!(bench.engine.unrecorded.contains(&last));
    bench
        .engine
        .unban(stranger(79_998).parse().unwrap(), "uid 0", NOW);
    bench.engine.record_what_is_missing();
    assert!(!bench.engine.unrecorded.is_empty(), "there is no room yet");
    other.execute_batch("ROLLBACK").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !bench.engine.unrecorded.is_empty() {
        assert!(Instant::now() < deadline, "waited for history in vain");
        std::thread::sleep(Duration::from_millis(10));
        bench.engine.record_what_is_missing();
    }
    let recorder = bench.engine.close(NOW);
    recorder.stop(Duration::from_secs(60)).unwrap();
    let history = History::open_read_only(&path).unwrap().unwrap();
    assert_eq!(history.count_active(NOW.wall).unwrap(), 79_999);
}

#[test]
fn log_only_writes_history_once_and_bans_nobody() {
    let mut bench = Bench::new("tcp.response = \"log\"");
    bench.probes(
        STRANGER,
        &(1..=99).filter(|port| *port != 22).collect::<Vec<_>>(),
        NOW,
    );
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.logged, 1);
    assert_eq!(bench.past(), [(STRANGER.to_owned(), None)]);
}

#[test]
fn the_kernel_is_asked_nothing_about_who_is_known_to_scan() {
    let mut bench = Bench::new("tcp.response = \"log\"");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let asked = bench.asked;
    bench.probes(STRANGER, &[4, 5, 6], after(5));
    assert_eq!((bench.asked, bench.engine.counters.hits), (asked, 6));
}

#[test]
fn the_limit_spares_and_says_so() {
    let mut bench = Bench::new("ban.limit = 1");
    bench.probes("203.0.113.1", &[1, 2, 3], NOW);
    bench.probes("203.0.113.2", &[1, 2, 3], NOW);
    assert_eq!(bench.held(), ["203.0.113.1"]);
    assert_eq!(bench.engine.counters.spared_limit, 1);
    assert!(matches!(
        bench.order("203.0.113.3"),
        Err(Refusal::Limit(..))
    ));
    assert!(
        bench.order("203.0.113.1").is_ok(),
        "a new end for one that is banned is no new ban"
    );
}

fn ban_of(source: &str) -> Ban {
    Ban {
        source: source.parse().unwrap(),
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: NOW.wall,
        end: Some(End::after(Duration::from_secs(240), NOW)),
    }
}

#[test]
fn what_is_decided_during_replay_is_newer_than_history() {
    let mut bench = Bench::new("");
    bench
        .engine
        .unban("203.0.113.1".parse().unwrap(), "uid 0", NOW);
    bench.order("203.0.113.2").unwrap();
    let bans = ["203.0.113.1", "203.0.113.2", "203.0.113.3"].map(ban_of);
    bench.engine.replay(bans.to_vec(), NOW);
    assert_eq!(bench.held(), ["203.0.113.2", "203.0.113.3"]);
    let ordered = bench.engine.bans().get("203.0.113.2".parse().unwrap());
    assert_eq!(ordered.unwrap().origin, Origin::Command);
}

#[test]
fn a_scan_during_replay_shortens_no_ban() {
    let mut bench = Bench::new("ban.duration = \"2m\"\n");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let minutes = |bench: &Bench| {
        let ban = bench.engine.bans().get(STRANGER.parse().unwrap()).unwrap();
        ban.left(NOW).unwrap().as_secs() / 60
    };
    assert_eq!(minutes(&bench), 2);
    bench.engine.replay(vec![ban_of(STRANGER)], NOW);
    assert_eq!(minutes(&bench), 4);
    let in_force = bench.world.borrow().held[&STRANGER.parse().unwrap()];
    assert_eq!(in_force, Some(Duration::from_secs(240)));
    assert_eq!(bench.engine.bans().len(), 1);
    let mut shorter = ban_of(STRANGER);
    shorter.end = Some(End::after(Duration::from_secs(60), NOW));
    bench.engine.replay(vec![shorter], NOW);
    assert_eq!(minutes(&bench), 4);
}

#[test]
fn a_scan_before_its_past_is_read_escalates_all_the_same() {
    let mut bench = Bench::new("");
    let earlier = Ban {
        start: Wall(NOW.wall.0 - 1000),
        ..ban_of("203.0.113.8")
    };
    bench.engine.replay(vec![earlier], NOW);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let past = Past {
        count: 2,
        last_end: Wall(NOW.wall.0 - 60_000),
    };
    let sources = [STRANGER, "203.0.113.8"].map(|it| it.parse().unwrap());
    bench
        .engine
        .remember(sources.map(|source| (source, past)).to_vec(), after(60));
    let left = |source: Source| bench.engine.bans().get(source).unwrap().left(NOW);
    let first = Config::default().ban.duration.unwrap();
    let escalate = Config::default().ban.escalate;
    assert_eq!(left(sources[0]), Some(first * escalate * escalate));
    assert_eq!(
        left(sources[1]),
        ban_of("203.0.113.8").left(NOW),
        "it was put back as it was"
    );
    let held = bench.world.borrow().held[&sources[0]];
    let minute = Duration::from_secs(60);
    assert_eq!(held, Some(first * escalate * escalate - minute));
}

#[test]
fn unban_all_lifts_what_stands_in_the_world_alone_and_makes_a_listing_stale() {
    let mut bench = Bench::new("");
    bench.order("203.0.113.1").unwrap();
    let unknown: Source = "203.0.113.9".parse().unwrap();
    bench.world.borrow_mut().held.insert(unknown, None);
    let _ = bench.engine.begin_listing();
    let unbanned = bench.engine.unban_all("uid 0", NOW);
    assert_eq!(unbanned.lifted.len(), 1);
    assert!(bench.held().is_empty());
    bench.engine.adopt(
        vec![Held {
            source: unknown,
            reason: None,
            clock: None,
        }],
        NOW,
    );
    assert!(bench.engine.bans().is_empty());
}

#[test]
fn an_old_unban_that_failed_does_not_lift_a_new_ban() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.world.borrow_mut().broken = true;
    bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    bench.world.borrow_mut().broken = false;
    bench.probes(STRANGER, &[1, 2, 3], NOW.later(Duration::from_millis(500)));
    bench.engine.tick(after(1));
    bench.engine.tick(after(3));
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn failures_are_tried_again_at_growing_intervals() {
    let mut bench = Bench::new("");
    bench.world.borrow_mut().broken = true;
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let mut now = NOW;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let next = bench.engine.next_deadline().unwrap();
        let pause = next.since(now.mono);
        pauses.push(pause.as_secs());
        now = now.later(pause);
        bench.engine.tick(now);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
}

#[test]
fn what_somebody_took_away_is_put_back_when_asked_about() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.engine.verify(NOW);
    assert_eq!(bench.engine.counters.repairs, 0);
    {
        let mut world = bench.world.borrow_mut();
        world.held.clear();
        world.gone = true;
    }
    bench.engine.verify(NOW);
    assert_eq!(bench.held(), [STRANGER]);
    assert_eq!(bench.engine.counters.repairs, 1);
}

#[test]
fn a_flood_in_log_only_mode_is_bounded_by_the_rate() {
    let mut bench = Bench::new("tcp.response = \"log\"\ndetect.trigger = 1\nban.rate = 10");
    for n in 1..=100 {
        bench.probes(&format!("203.0.113.{n}"), &[1], NOW);
    }
    assert_eq!(bench.engine.counters.logged, 10);
    assert_eq!(bench.engine.counters.spared_rate, 90);
    assert_eq!(bench.past().len(), 10);
}

#[test]
fn answers_to_our_own_questions_are_no_evidence() {
    let mut bench = Bench::new("detect.trigger = 1");
    let answer = Probe {
        protocol: Protocol::Udp,
        scan_type: ScanType::Udp,
        source_port: ANSWERING,
        ..syn(STRANGER, HOST, 215)
    };
    bench.see(&[answer; 3], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.answers, 3);
    bench.see(
        &[Probe {
            source_port: 40_000,
            ..answer
        }],
        NOW,
    );
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn bans_whose_time_is_over_are_lifted_where_there_is_no_clock_in_one_go() {
    let mut bench = Bench::with_file("");
    bench.probes("203.0.113.1", &[1, 2, 3], NOW);
    bench.probes("203.0.113.2", &[1, 2, 3], NOW);
    assert_eq!(bench.in_file(), ["203.0.113.1", "203.0.113.2"]);
    let before = (
        bench.world.borrow().transactions,
        bench.file.borrow().transactions,
    );
    bench.engine.tick(after(599));
    assert_eq!(bench.in_file().len(), 2);
    bench.engine.tick(after(600));
    assert!(bench.in_file().is_empty());
    let since = (
        bench.world.borrow().transactions - before.0,
        bench.file.borrow().transactions - before.1,
    );
    assert_eq!(since, (0, 1), "the kernel ends them by itself");
    assert_eq!(bench.engine.differs_since(), None);
}

#[test]
fn an_end_that_fails_where_there_is_no_clock_is_tried_again() {
    let mut bench = Bench::with_file("");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.file.borrow_mut().broken = true;
    bench.engine.tick(after(600));
    assert_eq!(bench.in_file(), [STRANGER]);
    assert_eq!(
        bench.engine.troubles(after(600).mono),
        ["fake: out of order"]
    );
    assert!(bench.engine.differs_since().is_some());
    bench.file.borrow_mut().broken = false;
    bench.engine.tick(after(601));
    assert!(bench.in_file().is_empty());
    assert_eq!(bench.engine.differs_since(), None);
}

#[test]
fn an_end_that_failed_does_not_lift_a_new_ban_of_the_same_source() {
    let mut bench = Bench::with_file("");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.file.borrow_mut().broken = true;
    bench.engine.tick(after(600));
    bench.file.borrow_mut().broken = false;
    bench.probes(
        STRANGER,
        &[1, 2, 3],
        after(600).later(Duration::from_millis(500)),
    );
    bench.engine.tick(after(601));
    bench.engine.tick(after(603));
    assert_eq!(bench.in_file(), [STRANGER]);
}

#[test]
fn of_two_responders_one_that_fails_does_not_keep_the_other_from_banning() {
    for broken_is_first in [true, false] {
        let mut bench = Bench::with_file("");
        let (broken, sound) = if broken_is_first {
            (Rc::clone(&bench.world), Rc::clone(&bench.file))
        } else {
            (Rc::clone(&bench.file), Rc::clone(&bench.world))
        };
        broken.borrow_mut().broken = true;
        bench.probes(STRANGER, &[1, 2, 3], NOW);
        assert_eq!(sources(&sound), [STRANGER]);
        let is_in_force_first_of_all = !broken_is_first;
        assert_eq!(
            bench.engine.enforced(),
            usize::from(is_in_force_first_of_all)
        );
        assert!(bench.engine.differs_since().is_some());
        let stranger = STRANGER.parse().unwrap();
        let sound_name = if broken_is_first { "file" } else { "fake" };
        assert_eq!(bench.engine.standing(stranger), [sound_name]);
        for health in bench.engine.health() {
            let is_sound = health.responder == sound_name;
            assert_eq!(health.enforced, usize::from(is_sound), "{health:?}");
            assert_eq!(health.trouble.is_none(), is_sound, "{health:?}");
        }
        bench.engine.tick(after(1));
        assert_eq!(sources(&sound), [STRANGER]);
        broken.borrow_mut().broken = false;
        bench.engine.tick(after(3));
        assert_eq!(sources(&broken), [STRANGER]);
        assert_eq!(bench.engine.enforced(), 1);
        let unbanned = bench
            .engine
            .unban(STRANGER.parse().unwrap(), "uid 0", after(4));
        assert!(unbanned.failures.is_empty());
        assert!(bench.held().is_empty() && bench.in_file().is_empty());
    }
}

#[test]
fn what_one_responder_refuses_for_good_is_no_trouble_where_another_bans() {
    let stranger = STRANGER.parse().unwrap();
    let mut bench = Bench::with_file("");
    bench.file.borrow_mut().refuses = Some(stranger);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    assert_eq!(bench.engine.standing(stranger), ["fake"]);
    assert_eq!(bench.engine.differs_since(), None);
    assert_eq!(
        bench.engine.next_deadline(),
        Some(after(600).mono),
        "no retry"
    );
    assert!(bench.engine.untold.is_empty());
    let refusal = bench.order(STRANGER).unwrap_err().to_string();
    assert!(refusal.ends_with("it is in the way"), "{refusal}");
    assert_eq!(bench.held(), [STRANGER], "as it was before");

    bench.world.borrow_mut().refuses = Some("203.0.113.8".parse().unwrap());
    bench.file.borrow_mut().refuses = bench.world.borrow().refuses;
    bench.probes("203.0.113.8", &[1, 2, 3], NOW);
    assert_eq!(
        bench.engine.bans().len(),
        1,
        "a ban that nobody makes real is none"
    );
    assert!(bench.engine.troubles(NOW.mono)[0].contains("it is in the way"));
}

#[test]
fn what_somebody_took_away_is_found_also_where_another_responder_fails() {
    for broken_is_first in [true, false] {
        let mut bench = Bench::with_file("");
        let (broken, robbed) = if broken_is_first {
            (Rc::clone(&bench.world), Rc::clone(&bench.file))
        } else {
            (Rc::clone(&bench.file), Rc::clone(&bench.world))
        };
        bench.order(STRANGER).unwrap();
        broken.borrow_mut().broken = true;
        {
            let mut robbed = robbed.borrow_mut();
            robbed.held.clear();
            robbed.gone = true;
        }
        bench.engine.verify(NOW);
        assert_eq!(sources(&robbed), [STRANGER]);
        assert_eq!(bench.engine.counters.repairs, 1);
        assert_eq!(bench.engine.troubles(NOW.mono).len(), 1);
    }
}

#[test]
fn at_a_stop_what_has_no_clock_is_withdrawn_and_the_next_start_puts_it_back() {
    let mut bench = Bench::with_file("");
    bench.order(STRANGER).unwrap();
    bench.engine.withdraw_clockless(NOW).unwrap();
    assert_eq!(bench.held(), [STRANGER]);
    assert!(bench.in_file().is_empty());
    let kept = bench.engine.bans().iter().cloned().collect();
    let mut next = Bench::with_file("");
    next.engine.replay(kept, after(60));
    assert_eq!(next.in_file(), [STRANGER]);
    assert_eq!(bench.past(), [(STRANGER.to_owned(), None)]);
}

#[test]
fn what_nobody_ended_while_we_did_not_run_ends_and_is_not_adopted() {
    let mut bench = Bench::with_file("");
    let _ = bench.engine.begin_listing();
    let held = |source: &str, left| Held {
        source: source.parse().unwrap(),
        reason: None,
        clock: Some(HeldClock {
            length: 600_000,
            left,
        }),
    };
    let found = vec![
        held("203.0.113.1", 0),
        held("203.0.113.2", 60_000),
        held("203.0.113.3", 0),
        held("203.0.113.3", 60_000),
    ];
    bench
        .file
        .borrow_mut()
        .held
        .extend(found.iter().map(|held| (held.source, None)));
    bench.engine.adopt(found, NOW);
    assert_eq!(bench.in_file(), ["203.0.113.2", "203.0.113.3"]);
    assert_eq!(bench.engine.bans().len(), 2);
    assert_eq!(bench.engine.counters.adopted, 2);
    assert_eq!(bench.past().len(), 2, "what is over is no new ban");
}

#[test]
fn what_two_responders_hold_is_adopted_once() {
    let mut bench = Bench::with_file("");
    let _ = bench.engine.begin_listing();
    let held = Held {
        source: STRANGER.parse().unwrap(),
        reason: None,
        clock: None,
    };
    bench.engine.adopt(vec![held.clone(), held], NOW);
    assert_eq!(bench.engine.counters.adopted, 1);
    assert_eq!(bench.past().len(), 1);
}

#[test]
fn a_ban_that_ended_while_the_world_was_listed_is_not_adopted() {
    let mut bench = Bench::with_file("");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let _ = bench.engine.begin_listing();
    bench.engine.tick(after(600));
    let held = Held {
        source: STRANGER.parse().unwrap(),
        reason: None,
        clock: Some(HeldClock {
            length: 600_000,
            left: 1_000,
        }),
    };
    bench.engine.adopt(vec![held], after(600));
    assert!(bench.engine.bans().is_empty());
}

#[test]
fn all_are_lifted_a_portion_at_a_time_and_who_comes_meanwhile_too() {
    let mut bench = Bench::new("");
    let many: Vec<Source> = (0..600_u16)
        .map(|n| format!("198.51.{}.{}", n / 256, n % 256).parse().unwrap())
        .collect();
    for is_broken in [false, true] {
        let reason = Reason::parse("by hand");
        let hour = Some(Duration::from_secs(3600));
        bench
            .engine
            .import(&many, hour, &reason, None, NOW)
            .unwrap();
        let mut clearing = bench.engine.begin_clearing();
        let mut unbanned = bench.engine.clear_some(&mut clearing, "uid 0", NOW).lifted;
        assert!(!clearing.is_over() && !unbanned.is_empty());
        assert_eq!(bench.held().len(), many.len() - unbanned.len());
        bench.order(STRANGER).unwrap();
        bench.world.borrow_mut().broken = is_broken;
        let mut failures = Vec::new();
        while !clearing.is_over() {
            let some = bench.engine.clear_some(&mut clearing, "uid 0", NOW);
            unbanned.extend(some.lifted);
            failures.extend(some.failures);
        }
        assert_eq!(unbanned.len(), many.len() + 1);
        assert!(bench.engine.bans().is_empty());
        let stand = unbanned.iter().map(|it| it.source);
        let stand: Vec<Source> = stand.filter(|it| bench.engine.may_hold(*it)).collect();
        assert!(
            bench
                .held()
                .iter()
                .all(|it| stand.contains(&it.parse().unwrap()))
        );
        assert_eq!(
            (failures.is_empty(), stand.is_empty()),
            (!is_broken, !is_broken)
        );
    }
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(1));
    assert!(bench.held().is_empty());
}
