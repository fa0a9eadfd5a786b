//! What others do while all is put back and nobody listens.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// So many that most are put back while nobody listens.
const MANY: u32 = 10_000;

/// All of these in place, and others listened to.
fn watching(bans: &[Ban], now: Now) -> Nftables {
    let mut nftables = prepared();
    nftables.ban(&refs(bans), now).unwrap();
    nftables.begin_watching().unwrap();
    nftables
}

fn put_back(nftables: &mut Nftables, bans: &[Ban], now: Now) {
    let (prepared, put) = nftables.restore(&refs(bans), now);
    prepared.unwrap();
    put.unwrap();
}

/// How many of these stand.
fn standing(nftables: &mut Nftables, bans: &[Ban]) -> usize {
    let stands = |ban: &&Ban| nftables.find(ban.source).unwrap().is_some();
    bans.iter().filter(stands).count()
}

/// Whether there is something to be heard without anybody doing any more.
fn rings(nftables: &Nftables) -> bool {
    let fd = nftables.watched().unwrap();
    let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn all_is_put_back_whatever_was_taken_away() {
    let now = Now::read();
    let mut bans = many(MANY, now);
    bans.push(ban("198.51.0.0/18", now));
    let mut nftables = watching(&bans, now);
    for damage in [
        "flush ruleset",
        "delete table inet portsentry",
        "flush set inet portsentry banned4",
        "delete chain inet portsentry prerouting\ndelete set inet portsentry banned6",
        "delete element inet portsentry banned4 { 10.0.0.8 }",
    ] {
        load(damage);
        assert!(!nftables.hear().is_empty(), "{damage}");
        put_back(&mut nftables, &bans, now);
        assert_eq!(standing(&mut nftables, &bans), bans.len(), "{damage}");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted, "{damage}");
        assert!(!nftables.take_lost() && !rings(&nftables), "{damage}");
        assert!(nftables.hear().is_empty(), "{damage}");
    }
    load("delete element inet portsentry banned4 { 10.0.0.8 }");
    assert_eq!(nftables.hear().last().unwrap().removed.len(), 1);
}

#[test]
fn what_others_add_while_all_is_put_back_is_not_missed() {
    let now = Now::read();
    let bans = many(MANY, now);
    let mut nftables = watching(&bans, now);
    let is_over = AtomicBool::new(false);
    let added = Mutex::new(BTreeSet::new());
    let mut told = BTreeSet::new();
    let mut was_deaf = false;
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..250 {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let source: Source = format!("192.0.2.{n}").parse().unwrap();
                load(&format!(
                    "add element inet portsentry banned4 {{ {source} timeout 1h }}"
                ));
                added.lock().unwrap().insert(source);
            }
        });
        for _ in 0..20 {
            put_back(&mut nftables, &bans, now);
            for meddling in nftables.hear() {
                was_deaf |= meddling.by == "somebody";
                assert!(!meddling.is_frame && !meddling.is_emptied, "{meddling:?}");
                told.extend(meddling.added.iter().map(|held| held.source));
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let heard = nftables.hear();
    told.extend(heard.iter().flat_map(|it| &it.added).map(|it| it.source));
    assert!(was_deaf, "something was done while nobody listened");
    let added = added.into_inner().unwrap();
    let missed: Vec<&Source> = added.difference(&told).collect();
    assert!(missed.is_empty(), "{missed:?} of {}", added.len());
}

#[test]
fn what_was_taken_away_while_nobody_listened_rings() {
    let now = Now::read();
    let bans = many(MANY, now);
    let mut nftables = watching(&bans, now);
    nftables.events.as_mut().unwrap().pause().unwrap();
    let before = nftables.line.changes_of_others();
    let mut failures = Failures::new("ban", bans.len());
    let entries = nftables.entries(&refs(&bans), now, &mut failures);
    load("table inet other {}");
    nftables.listen_again(before, &entries, &failures, now);
    assert!(!rings(&nftables), "that was nothing to us");

    nftables.events.as_mut().unwrap().pause().unwrap();
    let before = nftables.line.changes_of_others();
    load("delete element inet portsentry banned4 { 10.0.0.8 }");
    load("delete element inet portsentry banned4 { 10.0.0.10 }");
    load("add element inet portsentry banned4 { 10.0.0.10 timeout 5h }");
    load("add element inet portsentry ignored4 { 192.0.2.1 }");
    nftables.listen_again(before, &entries, &failures, now);
    assert!(rings(&nftables));
    let heard = nftables.hear();
    let [meddling] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert_eq!(meddling.removed, ["10.0.0.8".parse().unwrap()]);
    let added: Vec<String> = meddling
        .added
        .iter()
        .map(|it| it.source.to_string())
        .collect();
    assert_eq!(added, ["10.0.0.10"]);
    assert_eq!(meddling.by, "somebody");
    assert!(!meddling.is_emptied);
    assert!(!rings(&nftables) && nftables.hear().is_empty());

    // A set that was flushed when the first of them were in.
    let some: String = bans[..600]
        .iter()
        .filter(|ban| ban.source.address().is_ipv4())
        .map(|ban| format!("{}, ", ban.source.address()))
        .collect();
    put_back(&mut nftables, &bans, now);
    nftables.hear();
    nftables.events.as_mut().unwrap().pause().unwrap();
    let before = nftables.line.changes_of_others();
    load(&format!(
        "delete element inet portsentry banned4 {{ {some} }}\nadd element inet portsentry banned4 {{ 192.0.2.9 }}"
    ));
    nftables.listen_again(before, &entries, &failures, now);
    let heard = nftables.hear();
    let [meddling] = heard.as_slice() else {
        panic!("{heard:?}");
    };
    assert!(meddling.is_emptied && !meddling.is_frame && meddling.removed.is_empty());
    assert!(
        meddling
            .added
            .iter()
            .any(|it| it.source.to_string() == "192.0.2.9")
    );

    for damage in ["flush ruleset", "delete table inet portsentry"] {
        nftables.events.as_mut().unwrap().pause().unwrap();
        let before = nftables.line.changes_of_others();
        load(damage);
        nftables.listen_again(before, &entries, &failures, now);
        let heard = nftables.hear();
        assert!(heard[0].is_frame && heard[0].is_emptied, "{damage}");
        put_back(&mut nftables, &bans, now);
        assert!(nftables.hear().is_empty());
    }
}

#[test]
fn a_flush_in_the_middle_of_a_repair_is_repaired() {
    let now = Now::read();
    let bans = many(MANY, now);
    let mut nftables = watching(&bans, now);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..40 {
                load("flush ruleset");
                thread::sleep(Duration::from_millis(n));
            }
            is_over.store(true, Ordering::Release);
        });
        eventually("all are back", || {
            let is_over = is_over.load(Ordering::Acquire);
            let is_robbed = nftables.hear().iter().any(|it| it.is_emptied);
            if is_robbed | nftables.take_lost() {
                // What fails in the middle is tried again.
                let _ = nftables.restore(&refs(&bans), now);
                return false;
            }
            is_over
        });
    });
    assert_eq!(standing(&mut nftables, &bans), bans.len());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
}
