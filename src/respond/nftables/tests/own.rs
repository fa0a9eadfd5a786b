//! A table that belongs to us alone, on kernels that have such.

use std::thread;

use super::*;
use crate::config::Own;
use crate::nft::{Line, Owner};

/// Whether this kernel has them, by its version.
fn is_new_enough() -> bool {
    let name = nix::sys::utsname::uname().expect("the kernel tells its version");
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map(|number| number.parse().expect("two numbers"));
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (6, 9)
}

fn responder_that(own: Own) -> Nftables {
    let mut config = config();
    config.nftables.own = own;
    responder(&config)
}

/// What nft says to somebody who may not.
fn refused(arguments: &str) {
    let said = run(Command::new("nft").args(arguments.split_whitespace()), "");
    let said = said.expect_err(arguments);
    assert!(said.contains("Operation not permitted"), "{said}");
}

fn nft(arguments: &str) {
    run(Command::new("nft").args(arguments.split_whitespace()), "").expect(arguments);
}

/// Ends the owner, and waits until the kernel has seen it go: between its fork and its exec, a child that another test
/// starts holds the socket too.
fn let_go(owner: Nftables) {
    let table = owner.table.clone();
    drop(owner);
    let mut line = Line::open().unwrap();
    eventually("the table belongs to nobody", || {
        let found = line.inspect(&table).unwrap().expect("it stays");
        !matches!(found.owner, Owner::Port(_))
    });
}

fn is_banned(nftables: &mut Nftables, source: &str) -> bool {
    find(nftables, source).is_some()
}

#[test]
fn an_owned_table_is_had_where_the_kernel_has_such() {
    enter_empty_network();
    let outcome = responder_that(Own::On).prepare();
    if is_new_enough() {
        assert_eq!(outcome.unwrap(), Prepared::Created);
        return;
    }
    let said = outcome.unwrap_err().to_string();
    assert!(
        said.contains("(Linux 6.9 does); set nftables.own"),
        "{said}"
    );
    let tables = run(Command::new("nft").args(["list", "tables"]), "").unwrap();
    assert_eq!(tables, "", "nothing is left");
}

#[test]
fn where_it_may_be_either_the_kernel_decides() {
    enter_empty_network();
    let mut nftables = responder_that(Own::Auto);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    if is_new_enough() {
        refused("add element inet portsentry banned4 { 192.0.2.9 }");
    } else {
        nft("add element inet portsentry banned4 { 192.0.2.9 }");
        assert!(is_banned(&mut nftables, "192.0.2.9"));
    }
    nftables.unban(&["192.0.2.9".parse().unwrap()]).unwrap();
    nftables.withdraw().unwrap();
    let tables = run(Command::new("nft").args(["list", "tables"]), "").unwrap();
    assert_eq!(tables, "");
}

#[test]
fn others_leave_what_is_ours_alone_until_we_are_gone() {
    enter_empty_network();
    let now = Now::read();
    let mut nftables = responder_that(Own::Auto);
    nftables.prepare().unwrap();
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    nft("flush ruleset");
    assert_eq!(is_banned(&mut nftables, "192.0.2.7"), is_new_enough());
    if !is_new_enough() {
        return;
    }
    for words in [
        "delete table inet portsentry",
        "flush set inet portsentry banned4",
        "delete element inet portsentry banned4 { 192.0.2.7 }",
        "flush chain inet portsentry prerouting",
    ] {
        refused(words);
    }
    for own in [Own::Off, Own::On] {
        let mut other = responder_that(own);
        for said in [other.prepare().map(drop), other.withdraw()] {
            let said = said.unwrap_err().to_string();
            assert!(said.contains("belongs to another program"), "{said}");
        }
    }
    nftables.unban(&["192.0.2.7".parse().unwrap()]).unwrap();
    nftables.ban(&[&ban("192.0.2.8", now)], now).unwrap();
    nftables.unban_all().unwrap();
    assert!(!is_banned(&mut nftables, "192.0.2.8"));
    nftables.ban(&[&ban("192.0.2.9", now)], now).unwrap();
    let_go(nftables);
    nft("add element inet portsentry banned4 { 192.0.2.10 }");

    // The next run takes it over as it is.
    let mut nftables = responder_that(Own::On);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    assert!(is_banned(&mut nftables, "192.0.2.9") && is_banned(&mut nftables, "192.0.2.10"));
    refused("delete element inet portsentry banned4 { 192.0.2.9 }");
}

#[test]
fn a_table_changes_hands_with_its_bans() {
    enter_empty_network();
    let now = Now::read();
    let mut plain = responder_that(Own::Off);
    plain.prepare().unwrap();
    plain.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    let before = listed_shape();

    let mut owned = responder_that(Own::Auto);
    let expected = if is_new_enough() {
        Prepared::Rebuilt
    } else {
        Prepared::Adopted
    };
    assert_eq!(owned.prepare().unwrap(), expected);
    assert!(is_banned(&mut owned, "192.0.2.7"));
    let_go(owned);

    assert_eq!(plain.prepare().unwrap(), expected);
    assert!(is_banned(&mut plain, "192.0.2.7"));
    assert_eq!(listed_shape(), before, "as if it had never been owned");
}

#[test]
fn whoever_comes_next_waits_for_a_child_that_still_holds_the_line_of_the_owner() {
    enter_empty_network();
    let now = Now::read();
    for own in [Own::Off, Own::Auto] {
        let mut owner = responder_that(Own::Auto);
        owner.prepare().unwrap();
        owner.ban(&[&ban("192.0.2.7", now)], now).unwrap();
        let copy = owner.line.copy();
        drop(owner);
        let child = thread::spawn(move || {
            thread::sleep(Duration::from_millis(60));
            drop(copy);
        });
        let mut next = responder_that(own);
        next.prepare().unwrap();
        child.join().unwrap();
        assert!(is_banned(&mut next, "192.0.2.7"));

        let copy = next.line.copy();
        drop(next);
        let child = thread::spawn(move || {
            thread::sleep(Duration::from_millis(60));
            drop(copy);
        });
        responder_that(own).withdraw().unwrap();
        child.join().unwrap();
        let tables = run(Command::new("nft").args(["list", "tables"]), "").unwrap();
        assert_eq!(tables, "");
    }
}
