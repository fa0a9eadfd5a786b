//! What responders could not do yet: it is done when they can, and nothing that was decided since is undone by it.

use super::*;
use crate::respond::{Crew, Hands, Member};

/// A bench whose one responder is optional and does not work, and is found to hold a ban when it does.
fn with_an_absent_one(text: &str) -> Bench {
    let mut bench = Bench::new(text);
    let fake = Fake(Rc::clone(&bench.world));
    let file = Fake(Rc::clone(&bench.file));
    let member = |name, fake, has_clock, absent| Member {
        name,
        hands: Hands::Own(Box::new(fake)),
        has_clock,
        absent,
    };
    bench.engine.world = Agreement::new(Crew {
        members: vec![
            member("fake", fake, true, None),
            member("file", file, false, Some("out of order".to_owned())),
        ],
        bell: None,
    });
    bench.file.borrow_mut().broken = true;
    bench
}

#[test]
fn what_an_absent_responder_held_from_earlier_does_not_stay_when_it_is_back() {
    let mut bench = with_an_absent_one("");
    let over: Source = "203.0.113.66".parse().unwrap();
    bench.file.borrow_mut().held.insert(over, None);
    bench.order(STRANGER).unwrap();
    bench.engine.reconcile(after(60));
    assert_eq!(bench.in_file(), ["203.0.113.66"]);
    bench.file.borrow_mut().broken = false;
    bench.engine.reconcile(after(120));
    assert_eq!(bench.in_file(), [STRANGER]);
}

#[test]
fn a_responder_that_is_back_lets_friends_through_before_it_bans() {
    let mut bench = with_an_absent_one("ignore.addresses = [\"198.51.100.9\"]");
    bench.engine.spare_friends(NOW);
    bench.order(STRANGER).unwrap();
    bench.engine.reconcile(after(60));
    bench.file.borrow_mut().broken = false;
    bench.engine.reconcile(after(120));
    assert_eq!(bench.in_file(), [STRANGER]);
    assert_eq!(bench.file.borrow().spared, ["198.51.100.9/32"]);
}

#[test]
fn what_is_outstanding_is_tried_again_however_often_something_else_fails() {
    let mut bench = Bench::new("");
    bench.world.borrow_mut().broken = true;
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.world.borrow_mut().broken = false;
    bench.world.borrow_mut().fails_in = Some("198.51.100.0/24".parse().unwrap());
    for n in 1..20_u64 {
        let now = NOW.later(Duration::from_millis(500 * n));
        bench.probes(&format!("198.51.100.{n}"), &[1, 2, 3], now);
        bench.engine.tick(now);
    }
    assert_eq!(bench.held(), [STRANGER]);
}

#[test]
fn what_could_not_be_lifted_with_all_the_others_is_lifted_though_somebody_is_banned_since() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.order("203.0.113.8").unwrap();
    bench.world.borrow_mut().broken = true;
    let unbanned = bench.engine.unban_all("uid 0", NOW);
    assert_eq!(unbanned.failures, ["fake: out of order"]);
    bench.probes("198.51.100.9", &[1, 2, 3], NOW);
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(60));
    assert_eq!(bench.held(), ["198.51.100.9", STRANGER]);
}

#[test]
fn a_clearing_that_failed_once_is_no_failure_of_later_commands() {
    let mut bench = Bench::new("");
    bench.order(STRANGER).unwrap();
    bench.world.borrow_mut().broken = true;
    bench.probes("198.51.100.9", &[1, 2, 3], NOW);
    let unbanned = bench.engine.unban_all("uid 0", NOW);
    assert_eq!(unbanned.failures, ["fake: out of order"]);
    bench.probes("198.51.100.9", &[1, 2, 3], NOW);
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(60));
    bench.order("203.0.113.8").unwrap();
    let other = "203.0.113.8".parse().unwrap();
    let unbanned = bench.engine.unban(other, "uid 0", NOW);
    assert!(unbanned.failures.is_empty(), "{unbanned:?}");
    assert_eq!(bench.held(), ["198.51.100.9"]);
}
