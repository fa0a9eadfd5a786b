//! What others did to our bans, told late: what has happened since is newer.

use std::net::IpAddr;

use super::*;

const OTHER: &str = "203.0.113.8";

fn source(text: &str) -> Source {
    text.parse().unwrap()
}

/// An element as somebody puts it in, for ever.
fn element(text: &str) -> Held {
    Held {
        source: source(text),
        reason: None,
        clock: None,
    }
}

fn taken_out(sources: &[&str]) -> Meddling {
    Meddling {
        by: "nft pid 7".to_owned(),
        removed: sources.iter().map(|it| source(it)).collect(),
        ..Meddling::default()
    }
}

fn put_in(sources: &[&str]) -> Meddling {
    Meddling {
        by: "nft pid 8".to_owned(),
        added: sources.iter().map(|it| element(it)).collect(),
        ..Meddling::default()
    }
}

impl Bench {
    /// Others do this, and the engine hears of all of it at once.
    fn meddle(&mut self, all: Vec<Meddling>) {
        {
            let mut world = self.world.borrow_mut();
            for meddling in &all {
                for source in &meddling.removed {
                    world.held.remove(source);
                }
                for held in &meddling.added {
                    world.held.insert(held.source, None);
                }
            }
            world.noticed = all;
        }
        self.engine.notice(NOW);
    }

    fn listed(&self) -> Vec<String> {
        let mut all: Vec<String> = (self.engine.bans().iter())
            .map(|ban| ban.source.to_string())
            .collect();
        all.sort();
        all
    }
}

#[test]
fn who_is_taken_out_and_put_in_again_before_we_hear_of_it_is_banned() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order(OTHER).unwrap();
    bench.meddle(vec![taken_out(&[STRANGER]), put_in(&[STRANGER])]);
    assert_eq!(bench.listed(), bench.held());
    assert_eq!(bench.held(), [STRANGER, OTHER]);
}

#[test]
fn who_is_put_in_and_unbanned_before_we_hear_of_it_is_not_banned() {
    let mut bench = Bench::new("");
    bench.order(OTHER).unwrap();
    {
        let mut world = bench.world.borrow_mut();
        world.held.insert(source(STRANGER), None);
        world.noticed = vec![put_in(&[STRANGER])];
    }
    let unbanned = bench.engine.unban(source(STRANGER), "uid 0", NOW);
    assert_eq!(unbanned.lifted.len(), 1);
    bench.engine.notice(NOW);
    assert_eq!(bench.listed(), bench.held());
    assert_eq!(bench.held(), [OTHER]);
}

#[test]
fn who_is_taken_out_and_banned_before_we_hear_of_it_is_banned() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order(OTHER).unwrap();
    {
        let mut world = bench.world.borrow_mut();
        world.held.remove(&source(STRANGER));
        world.noticed = vec![taken_out(&[STRANGER])];
    }
    bench.order(STRANGER).unwrap();
    bench.engine.notice(NOW);
    assert_eq!(bench.listed(), bench.held());
    assert_eq!(bench.held(), [STRANGER, OTHER]);
}

#[test]
fn one_transaction_of_somebody_elses_does_not_pass_the_limit() {
    let mut bench = Bench::new("ban.limit = 3");
    let many: Vec<String> = (1..=5).map(|n| format!("203.0.113.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    bench.meddle(vec![put_in(&many)]);
    assert_eq!(bench.engine.bans().len(), 3);
}

#[test]
fn what_somebody_takes_out_while_the_world_is_listed_is_not_adopted() {
    let mut bench = Bench::new("");
    assert!(bench.engine.begin_listing().0.is_empty());
    bench.meddle(vec![taken_out(&[STRANGER])]);
    bench.engine.adopt(vec![element(STRANGER)], NOW);
    assert_eq!(bench.listed(), bench.held());
}

#[test]
fn what_a_reloaded_table_brings_back_is_told() {
    let mut bench = Bench::new("");
    bench.order(OTHER).unwrap();
    bench.meddle(vec![Meddling {
        is_frame: true,
        is_emptied: true,
        ..put_in(&[STRANGER, OTHER])
    }]);
    assert_eq!(bench.listed(), bench.held());
    // With the time that we know of.
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(bench.world.borrow().held[&source(OTHER)], hour);
}

#[test]
fn a_ban_without_an_end_is_missed_too() {
    let mut bench = Bench::new("[ban]\nduration = \"ever\"\nmax = \"ever\"");
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.world.borrow_mut().held.clear();
    bench.engine.reconcile(after(60));
    assert_eq!(bench.held(), [STRANGER]);
    assert_eq!(bench.engine.bans().next_end(), None);
}

#[test]
fn who_is_taken_out_beside_other_changes_is_unbanned() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order(OTHER).unwrap();
    bench.meddle(vec![Meddling {
        is_frame: true,
        ..taken_out(&[STRANGER])
    }]);
    assert_eq!(bench.listed(), bench.held());
    assert_eq!(bench.held(), [OTHER]);
}

const SCANNER: &str = "198.51.100.9";

fn three_banned() -> Bench {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order(OTHER).unwrap();
    bench
}

#[test]
fn a_flush_is_one_though_somebody_was_banned_before_we_heard_of_it() {
    let mut bench = three_banned();
    {
        let mut world = bench.world.borrow_mut();
        world.held.clear();
        world.noticed = vec![taken_out(&[STRANGER, OTHER])];
    }
    bench.probes(SCANNER, &[1, 2, 3], NOW);
    bench.engine.notice(NOW);
    assert_eq!(bench.held(), [SCANNER, STRANGER, OTHER]);
    assert_eq!(bench.listed(), bench.held());
}

#[test]
fn a_flush_is_one_though_the_kernel_has_just_ended_a_ban_that_we_are_about_to() {
    let mut bench = three_banned();
    bench.probes(SCANNER, &[1, 2, 3], NOW);
    let end = bench.engine.bans().next_end().unwrap();
    let almost = Now {
        mono: Mono(end.0 - 5),
        ..NOW
    };
    {
        let mut world = bench.world.borrow_mut();
        world.held.clear();
        world.noticed = vec![taken_out(&[STRANGER, OTHER])];
    }
    bench.engine.notice(almost);
    assert!(
        bench.held().contains(&STRANGER.to_owned()),
        "{:?}",
        bench.held()
    );
    assert!(bench.held().contains(&OTHER.to_owned()));
}

#[test]
fn a_flush_is_one_though_a_ban_was_not_in_force() {
    let mut bench = three_banned();
    bench.world.borrow_mut().broken = true;
    bench.probes(SCANNER, &[1, 2, 3], NOW);
    {
        let mut world = bench.world.borrow_mut();
        world.broken = false;
        world.held.clear();
        world.noticed = vec![taken_out(&[STRANGER, OTHER])];
    }
    bench.engine.notice(NOW);
    assert_eq!(bench.held(), [SCANNER, STRANGER, OTHER]);
}

/// More bans than are put back at once, all of them in force.
fn many_banned() -> Bench {
    let mut bench = Bench::new("");
    let ban = |n: u32| Ban {
        source: IpAddr::from((0x0b00_0000 + n).to_be_bytes()).into(),
        reason: Reason::parse("test"),
        origin: Origin::Command,
        by: None,
        start: NOW.wall,
        end: Some(End::after(Duration::from_secs(3600 + u64::from(n)), NOW)),
    };
    let bans: Vec<Ban> = (0..MANY).map(ban).collect();
    let held = bans.iter().map(|ban| (ban.source, ban.left(NOW)));
    bench.world.borrow_mut().held.extend(held);
    bench.engine.know(bans);
    bench
}

/// Two portions and a half.
const MANY: u32 = 40_000;

fn flushed() -> Meddling {
    Meddling {
        is_frame: true,
        is_emptied: true,
        ..taken_out(&[])
    }
}

impl Bench {
    fn flush(&mut self) {
        self.world.borrow_mut().held.clear();
        self.meddle(vec![flushed()]);
    }

    fn count(&self) -> usize {
        self.world.borrow().held.len()
    }

    /// Whether those are in force that should be, and no others.
    fn agrees(&self) -> bool {
        let world = self.world.borrow();
        let bans = self.engine.bans();
        bans.len() == world.held.len() && bans.iter().all(|it| world.held.contains_key(&it.source))
    }
}

#[test]
fn many_bans_are_put_back_a_portion_at_a_time_those_first_that_last_longest() {
    let mut bench = many_banned();
    bench.flush();
    assert_eq!((bench.count(), bench.engine.enforced()), (PORTION, PORTION));
    let last = source("11.0.156.63");
    assert!(bench.world.borrow().held.contains_key(&last));
    assert!(bench.engine.differs_since().is_some());
    assert!(
        bench.engine.standing(last).is_empty(),
        "nobody can tell yet"
    );
    assert!(bench.engine.next_deadline() <= Some(NOW.mono), "it goes on");

    // Others have their turn, and are not put off.
    bench.order(STRANGER).unwrap();
    assert!(bench.held().contains(&STRANGER.to_owned()));
    let gone = source("11.0.0.1");
    bench.engine.unban(gone, "uid 0", NOW);
    bench.engine.reconcile(NOW);
    bench.engine.tick(NOW);
    assert_eq!(bench.count(), 2 * PORTION + 1);
    bench.engine.tick(NOW);
    assert!(bench.agrees());
    assert_eq!(bench.engine.bans().len(), MANY as usize);
    assert!(bench.engine.differs_since().is_none());
    assert_eq!(bench.engine.standing(last), ["fake"]);
    assert_eq!(bench.engine.counters.repairs, 1);
}

#[test]
fn what_is_taken_away_while_many_are_put_back_is_put_back_too() {
    let mut bench = many_banned();
    bench.flush();
    // A flush of what was there by then, and no unban.
    let held: Vec<Source> = bench.world.borrow().held.keys().copied().collect();
    bench.world.borrow_mut().held.clear();
    bench.meddle(vec![Meddling {
        removed: held,
        ..taken_out(&[])
    }]);
    for _ in 0..2 {
        bench.engine.tick(NOW);
    }
    assert_eq!((bench.count(), bench.agrees()), (40_000, true));
    // A single one is an unban.
    bench.flush();
    bench.meddle(vec![taken_out(&["11.0.156.63"])]);
    bench.engine.finish_repair(NOW);
    assert_eq!((bench.count(), bench.agrees()), (39_999, true));
}

#[test]
fn what_is_put_back_a_portion_at_a_time_is_so_before_a_stop_and_not_after_all_was_lifted() {
    let mut bench = many_banned();
    bench.flush();
    bench.engine.withdraw_clockless(NOW).unwrap();
    assert_eq!(bench.count(), MANY as usize);

    bench.flush();
    bench.engine.unban_all("uid 0", NOW);
    assert_eq!(bench.engine.next_deadline(), None);
    bench.engine.tick(NOW);
    assert_eq!((bench.count(), bench.engine.bans().len()), (0, 0));
}

#[test]
fn who_takes_many_bans_away_again_and_again_is_not_outdone_by_portions() {
    let mut bench = many_banned();
    for _ in 0..20 {
        bench.flush();
    }
    assert_eq!((bench.count(), bench.engine.enforced()), (0, 0));
    bench.engine.tick(NOW);
    // Nor by those who ask how it is.
    bench.world.borrow_mut().gone = true;
    bench.engine.verify(NOW);
    bench.engine.reconcile(NOW);
    assert_eq!((bench.count(), bench.engine.enforced()), (0, 0), "it waits");
    assert!(bench.engine.differs_since().is_some());
    bench.engine.tick(after(30));
    bench.engine.finish_repair(after(30));
    assert_eq!(bench.count(), MANY as usize);
}

#[test]
fn who_disputes_who_is_let_through_does_not_keep_bans_from_being_put_back() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order(OTHER).unwrap();
    let friends = || Meddling {
        is_frame: true,
        ..taken_out(&[])
    };
    for _ in 0..20 {
        bench.meddle(vec![friends()]);
    }
    let troubles = bench.engine.troubles(NOW.mono);
    assert!(
        troubles.concat().contains("who is let through"),
        "{troubles:?}"
    );
    assert!(bench.engine.differs_since().is_some());
    bench.flush();
    assert_eq!(bench.held(), [STRANGER, OTHER]);
    bench.engine.tick(after(30));
    assert!(bench.engine.differs_since().is_none());
}
