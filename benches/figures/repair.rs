//! What `nft flush ruleset` costs: how long until who is banned is shut out again, and what comes in meanwhile.
//!
//! The source that is watched has the ban that ends first, which is put back last: when it is out, all are.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use crate::Run;
use crate::lab::Daemon;
use crate::table::{Side, Table, Unit};
use crate::wire::{Cable, HOST, MEASURED, SCANNER, SERVICE, on, pin, service};

/// After this long without a datagram let through, all is as it was.
const SILENCE: Duration = Duration::from_millis(500);

/// A repair that takes longer has failed.
const LATEST: Duration = Duration::from_secs(60);

pub(crate) fn repair(run: &Run) -> Vec<Table> {
    let mut times = Table::new(
        "flush ruleset: until all bans are in force again",
        Unit::Time,
    );
    let mut packets = Table::new(
        "flush ruleset: datagrams of a banned source let through meanwhile",
        Unit::Count,
    );
    for _ in 0..run.rounds {
        for bans in [1, 10_000, 200_000] {
            let (time, count) = flush(bans);
            let who = format!("portsentry, {bans} banned");
            times.add(&who, Side::Ours, vec![time.as_secs_f64()]);
            packets.add(&who, Side::Ours, vec![f64::from(count)]);
        }
    }
    vec![times, packets]
}

fn flush(bans: u32) -> (Duration, u32) {
    let cable = Cable::new(0);
    let daemon = on(MEASURED, || {
        Daemon::start(&cable.host, "ban.limit = 300000\n")
    });
    let mut list = String::new();
    for n in 1..bans {
        let _ = writeln!(list, "{}", Ipv4Addr::from(0x0b00_0000 + n));
    }
    let path = daemon.path("list");
    fs::write(&path, list).expect("the directory is ours");
    daemon.ok(&["import", "--for", "2h", &path.display().to_string()]);
    daemon.ok(&["ban", "10.78.0.2", "--for", "1h"]);
    let taken = cable.host.inside(service);
    let mut flush = cable.host.command("nft");
    flush.args(["flush", "ruleset"]);
    cable.scanner.inside(|| {
        pin(SCANNER);
        let datagrams = UdpSocket::bind(("10.78.0.2", 0)).expect("the address is its own");
        datagrams
            .connect((HOST, SERVICE))
            .expect("the host is on the cable");
        let mut flush = flush.spawn().expect("ip is there");
        let begun = Instant::now();
        let mut let_through: Option<(Duration, Duration, u32)> = None;
        let is_over = |let_through: Option<(Duration, Duration, u32)>, now| match let_through {
            Some((_, last, _)) => now > last + SILENCE,
            // The flush was over before the next one was sent.
            None => now > SILENCE * 6,
        };
        let mut now = Duration::ZERO;
        while !is_over(let_through, now) {
            // Refused where nobody listens: then it does not arrive.
            let _ = datagrams.send(b"still here?");
            now = begun.elapsed();
            if taken.recv(&mut [0; 16]).is_ok() {
                let (first, _, count) = let_through.unwrap_or((now, now, 0));
                let_through = Some((first, now, count + 1));
            }
            assert!(now < LATEST, "bans are not back in {LATEST:?}");
        }
        let done = flush.wait().expect("it is our child");
        assert!(done.success(), "{done}");
        let (first, last, count) = let_through.unwrap_or_default();
        (last - first, count)
    })
}
