//! A responder with a thread of its own: what is told while it has not answered, and when it has.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::*;
use crate::respond::worker::Worker;
use crate::respond::{Crew, Hands, Member};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What the thread waits for before it does anything, and what it has done.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    is_open: bool,
    held: BTreeSet<String>,
    calls: usize,
    dies: bool,
    fails: bool,
    has_clock: bool,
    /// How often it was asked for a ban.
    asked: usize,
}

impl Gate {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.moved.notify_all();
    }

    fn held(&self) -> Vec<String> {
        self.state.lock().unwrap().held.iter().cloned().collect()
    }

    fn calls(&self) -> usize {
        self.state.lock().unwrap().calls
    }
}

struct Slow(Arc<Gate>);

impl Slow {
    fn act(&self, act: impl FnOnce(&mut State)) -> Result<(), respond::Error> {
        let state = self.0.state.lock().unwrap();
        let mut state = self.0.moved.wait_while(state, |it| !it.is_open).unwrap();
        state.calls += 1;
        if state.dies {
            drop(state);
            panic!("as the test wants it");
        }
        if state.fails {
            return Err(respond::Error::new("slow", "out of order".to_owned()));
        }
        act(&mut state);
        Ok(())
    }
}

impl Responder for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }
    fn prepare(&mut self) -> Result<Prepared, respond::Error> {
        Ok(Prepared::Adopted)
    }
    fn ban(&mut self, bans: &[&Ban], _: Now) -> Result<(), respond::Error> {
        let sources = bans.iter().map(|ban| ban.source.to_string());
        self.act(|state| state.held.extend(sources))
    }
    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), respond::Error> {
        self.ban(bans, now)
    }
    fn unban(&mut self, sources: &[Source]) -> Result<(), respond::Error> {
        self.act(|state| {
            for source in sources {
                state.held.remove(&source.to_string());
            }
        })
    }
    fn find(&mut self, source: Source) -> Result<Option<Held>, respond::Error> {
        self.act(|state| state.asked += 1)?;
        let is_held = self.0.held().contains(&source.to_string());
        Ok(is_held.then_some(Held {
            source,
            reason: None,
            clock: None,
        }))
    }
    fn unban_all(&mut self) -> Result<(), respond::Error> {
        self.act(|state| state.held.clear())
    }
    fn take_lost(&mut self) -> bool {
        false
    }
    fn holdings(&self) -> Option<Holdings> {
        None
    }
    fn withdraw(&mut self) -> Result<(), respond::Error> {
        self.unban_all()
    }
    fn has_clock(&self) -> bool {
        self.0.state.lock().unwrap().has_clock
    }
    fn deed(&self, ban: &Ban, _: Now) -> Deed {
        Deed::Wrappers(format!("slow: {}", ban.source))
    }
}

/// A bench whose world has a second member, on a thread.
fn bench() -> (Bench, Arc<Gate>) {
    let mut bench = Bench::new("");
    let gate = Arc::new(Gate::default());
    let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
    let worker = Worker::start(Box::new(Slow(Arc::clone(&gate))), &bell).unwrap();
    let member = |name, hands, has_clock| Member {
        name,
        hands,
        has_clock,
        absent: None,
    };
    let fake = Box::new(Fake(Rc::clone(&bench.world)));
    bench.engine.world = Agreement::new(Crew {
        members: vec![
            member("fake", Hands::Own(fake), true),
            member("slow", Hands::Thread(worker), false),
        ],
        bell: Some(bell),
    });
    (bench, gate)
}

/// Lets the engine hear what the thread has done, until `is_so`.
fn until(bench: &mut Bench, now: Now, is_so: impl Fn(&Engine) -> bool) {
    let begun = Instant::now();
    while !is_so(&bench.engine) {
        assert!(begun.elapsed() < Duration::from_secs(10));
        bench.engine.collect(now);
        std::thread::yield_now();
    }
}

fn stands_in(count: usize) -> impl Fn(&Engine) -> bool {
    move |engine| engine.standing(STRANGER.parse().unwrap()).len() == count
}

#[test]
fn a_ban_does_not_wait_for_it_and_is_in_force_there_when_it_says_so() {
    let (mut bench, gate) = bench();
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    assert_eq!(bench.held(), [STRANGER]);
    let stranger = STRANGER.parse().unwrap();
    assert_eq!(bench.engine.standing(stranger), ["fake"]);
    assert_eq!(bench.engine.health()[1].enforced, 0);
    gate.set(|state| state.is_open = true);
    until(&mut bench, NOW, stands_in(2));
    assert_eq!(gate.held(), [STRANGER]);
    assert_eq!(bench.engine.health()[1].enforced, 1);
    assert!(bench.engine.untold.is_empty());
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn one_that_hangs_is_told_of() {
    let (mut bench, gate) = bench();
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    assert!(bench.engine.troubles(after(10).mono).is_empty());
    assert_eq!(
        bench.engine.troubles(after(20).mono),
        ["slow has not answered for 20s: what it was told since may not be done"]
    );
    gate.set(|state| state.is_open = true);
    until(&mut bench, after(20), stands_in(2));
    assert!(bench.engine.troubles(after(20).mono).is_empty());
}

#[test]
fn what_comes_while_it_is_busy_is_one_piece_of_work() {
    let (mut bench, gate) = bench();
    for n in 1..=200 {
        bench.probes(&format!("203.0.113.{n}"), &[1, 2, 3], NOW);
    }
    bench
        .engine
        .unban("203.0.113.200".parse().unwrap(), "uid 0", NOW);
    gate.set(|state| state.is_open = true);
    until(&mut bench, NOW, |engine| engine.health()[1].enforced == 199);
    assert_eq!(gate.held().len(), 199);
    assert!(gate.calls() <= 3, "{} calls", gate.calls());
}

#[test]
fn an_unban_says_what_is_not_done_yet_and_is_done_all_the_same() {
    let (mut bench, gate) = bench();
    gate.set(|state| state.is_open = true);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    until(&mut bench, NOW, stands_in(2));
    gate.set(|state| state.is_open = false);
    let stranger = STRANGER.parse().unwrap();
    let unbanned = bench.engine.unban(stranger, "uid 0", NOW);
    assert_eq!(
        unbanned.failures,
        ["slow has not answered yet, and is waited for"]
    );
    assert!(bench.held().is_empty());
    gate.set(|state| state.is_open = true);
    let begun = Instant::now();
    while !gate.held().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        bench.engine.collect(NOW);
        std::thread::yield_now();
    }
    let again = bench.engine.unban(stranger, "uid 0", NOW);
    assert!(again.failures.is_empty() && again.lifted.is_empty());
}

#[test]
fn an_ordered_ban_is_one_when_it_holds_everywhere_and_none_where_it_fails() {
    let (mut bench, gate) = bench();
    gate.set(|state| (state.is_open, state.fails) = (true, true));
    let refusal = bench.order(STRANGER).unwrap_err().to_string();
    assert!(refusal.ends_with("slow: out of order"), "{refusal}");
    assert!(bench.held().is_empty() && bench.engine.bans().is_empty());
    gate.set(|state| state.fails = false);
    bench.order(STRANGER).unwrap();
    assert_eq!(gate.held(), [STRANGER]);
}

#[test]
fn the_end_of_a_ban_overtakes_its_beginning() {
    let (mut bench, gate) = bench();
    bench.probes("203.0.113.9", &[1, 2, 3], NOW);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.engine.tick(after(600));
    assert!(bench.engine.bans().is_empty());
    gate.set(|state| state.is_open = true);
    until(&mut bench, NOW, |engine| {
        engine.health()[1].trouble.is_none()
    });
    bench.engine.withdraw_clockless(NOW).unwrap();
    until(&mut bench, NOW, |engine| {
        !engine.world.is_pending(STRANGER.parse().unwrap())
    });
    assert!(gate.held().is_empty());
}

#[test]
fn a_thread_that_dies_is_a_trouble_and_no_success() {
    let (mut bench, gate) = bench();
    gate.set(|state| (state.is_open, state.dies) = (true, true));
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    until(&mut bench, NOW, |engine| {
        engine.health()[1].trouble.is_some()
    });
    let health = bench.engine.health();
    assert!(
        health[1].trouble.as_ref().unwrap().contains("has died"),
        "{health:?}"
    );
    assert_eq!((health[0].enforced, health[1].enforced), (1, 0));
    assert!(bench.engine.differs_since().is_some());
}

#[test]
fn one_that_hangs_is_not_waited_for_again_and_again() {
    let (mut bench, gate) = bench();
    for n in 1..=9 {
        bench.probes(&format!("203.0.113.{n}"), &[1, 2, 3], NOW);
    }
    for n in 1..=9 {
        let source = format!("203.0.113.{n}").parse().unwrap();
        let unbanned = bench.engine.unban(source, "uid 0", NOW);
        assert_eq!(unbanned.lifted.len(), 1);
        assert!(!unbanned.failures.is_empty());
        let nobody = format!("198.51.100.{n}").parse().unwrap();
        let unbanned = bench.engine.unban(nobody, "uid 0", NOW);
        assert!(unbanned.lifted.is_empty() && !unbanned.failures.is_empty());
    }
    gate.set(|state| state.is_open = true);
    let begun = Instant::now();
    let stranger = STRANGER.parse().unwrap();
    while !bench
        .engine
        .unban(stranger, "uid 0", NOW)
        .failures
        .is_empty()
    {
        assert!(begun.elapsed() < Duration::from_secs(10));
        bench.engine.collect(NOW);
        std::thread::yield_now();
    }
    assert!(gate.held().is_empty());
    let asked = gate.state.lock().unwrap().asked;
    assert!(asked <= 6, "{asked} times");
}

#[test]
fn what_was_lifted_while_it_was_busy_is_lifted_before_a_stop() {
    let (mut bench, gate) = bench();
    gate.set(|state| state.has_clock = true);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.probes("203.0.113.9", &[1, 2, 3], NOW);
    bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    gate.set(|state| state.is_open = true);
    bench.engine.withdraw_clockless(NOW).unwrap();
    assert_eq!(gate.held(), ["203.0.113.9"]);
}
