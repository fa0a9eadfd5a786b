//! Thousands of packets at once: what is lost of them, what is written about them, and whether a scanner is found after them.

use std::net::Ipv4Addr;

use super::SYN;
use crate::bench::{Bench, HISTORY, HOST, STRANGER, address};
use crate::case::Case;
use crate::eventually;
use crate::packets::send_syns;

const PACKETS: u32 = 5000;

/// More lines than ours writes about one host in the time that a case has, and fewer than the original has packets queued.
const MANY_LINES: usize = 400;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("a flood from thousands of sources", |bench| {
            bench.hear_any_source();
            bench.start("-atcp", "");
            let first = u32::from(Ipv4Addr::new(10, 88, 0, 1));
            flood(bench, (first..first + PACKETS).map(Ipv4Addr::from));
            scan_until_found(bench);
            let lost = lost(bench);
            bench.report(&format!(
                "a scanner is found afterwards\nlost: {}",
                lost > 0
            ));
        })
        .sees("a scanner is found afterwards\nlost: true")
        .but_ours(
            "there is room for a flood until it is looked at",
            "a scanner is found afterwards\nlost: false",
        ),
        Case::new("a flood from one source", |bench| {
            bench.start("-atcp", "");
            flood(bench, (0..PACKETS).map(|_| address(STRANGER)));
            bench.everything_is_judged();
            let lines = bench.log().lines().count();
            let records = bench.history().lines().count();
            bench.report(&format!(
                "many lines are logged: {}\nrecords: {records}",
                lines > MANY_LINES
            ));
        })
        .sees("many lines are logged: true\nrecords: 1")
        .but_ours(
            "who is blocked is told of a few times a second",
            "many lines are logged: false\nrecords: 1",
        ),
    ]
}

fn flood(bench: &Bench, sources: impl Iterator<Item = Ipv4Addr> + Send) {
    send_syns(&bench.stranger, sources, address(HOST), 11);
}

/// Has the stranger scan until it is recorded. While the flood lasts, its probe may be lost, or spared for too many bans a second.
fn scan_until_found(bench: &Bench) {
    let record = format!("/{STRANGER} Port: 15 TCP Blocked");
    let told = format!("{SYN} from host: {STRANGER}/");
    eventually("the scanner is found", || {
        bench.nmap("-sS", "15");
        (bench.log().contains(&told) && bench.read(HISTORY).contains(&record)).then_some(())
    });
}

/// How many packets the host's raw sockets had no room for.
fn lost(bench: &Bench) -> u64 {
    let sockets = bench.sh("cat /proc/net/raw");
    let drops = sockets
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().last());
    drops
        .map(|drops| drops.parse::<u64>().expect("the last column is a number"))
        .sum()
}
