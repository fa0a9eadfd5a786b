//! What a ban costs in each responder, and what banned packets cost there.
//!
//! Bans are timed in this process, with no daemon around it. Packets come from one banned source, as fast as one processor can send
//! them over a cable of this machine and the same one drops them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use portsentry::clock::Now;
use portsentry::config::{Config, ResponderKind};
use portsentry::policy::{Ban, End, Origin, Reason};
use portsentry::respond::{Responder, Responders};
use portsentry::source::Source;

use crate::Run;
use crate::lab::{Host, Pair};
use crate::table::{Side, Table, Unit};
use crate::wire::{SCANNER, pin};

/// How often single bans are timed a round.
const SINGLES: u32 = 50;

/// How long packets are sent.
const FLOOD: Duration = Duration::from_secs(1);

pub(crate) fn responders(run: &Run) -> Vec<Table> {
    let kinds = ResponderKind::ALL.iter().copied();
    let kinds: Vec<ResponderKind> = kinds
        .filter(|kind| *kind != ResponderKind::Command)
        .collect();
    let mut times = ["1 ban", "1 unban", "1000 bans in one go"]
        .map(|what| Table::new(format!("responders: {what}"), Unit::Time));
    let bans = run.size([0, 1_000, 100_000], [0, 100, 1_000]);
    let mut packets = bans.map(|others| {
        let what =
            format!("responders: packets dropped a second, of one source banned beside {others}");
        Table::new(what, Unit::Rate)
    });
    for round in 0..run.rounds {
        for kind in &kinds {
            for (table, round) in times.iter_mut().zip(time(*kind)) {
                table.add(kind.name(), Side::Ours, round);
            }
        }
        // Slow to set up, and the least noisy of all.
        if round > 0 {
            continue;
        }
        packets[0].add(
            "nobody is banned or listens",
            Side::Floor,
            vec![flood(None, 0)],
        );
        let drops = |kind: &&ResponderKind| **kind != ResponderKind::HostsDeny;
        for kind in kinds.iter().filter(drops) {
            for (table, others) in packets.iter_mut().zip(bans) {
                table.add(kind.name(), Side::Ours, vec![flood(Some(*kind), others)]);
            }
        }
    }
    times.into_iter().chain(packets).collect()
}

/// Single bans, their unbans, and a thousand bans at once; in seconds.
fn time(kind: ResponderKind) -> [Vec<f64>; 3] {
    let host = Host::new("host");
    host.inside(|| {
        with(kind, |responder| {
            let bans: Vec<Ban> = (0..SINGLES).map(|n| ban(source(n))).collect();
            let single = |one| timed(|| responder.ban(&[one], Now::read()).expect("it bans"));
            let singles = bans.iter().map(single).collect();
            let unban = |one: &Ban| timed(|| responder.unban(&[one.source]).expect("it unbans"));
            let unbans = bans.iter().map(unban).collect();
            let bans: Vec<Ban> = (0..1000).map(|n| ban(source(1000 + n))).collect();
            let bans: Vec<&Ban> = bans.iter().collect();
            let thousand = timed(|| responder.ban(&bans, Now::read()).expect("it bans"));
            [singles, unbans, vec![thousand]]
        })
    })
}

/// Packets a second from a source that is banned beside `others`; `None`: by nobody.
fn flood(kind: Option<ResponderKind>, others: u32) -> f64 {
    let Pair { host, stranger } = &Pair::new();
    if let Some(kind) = kind {
        host.inside(|| {
            with(kind, |responder| {
                let bans: Vec<Ban> = (0..others).map(|n| ban(source(n))).collect();
                let stranger = ban(Pair::STRANGER.parse().expect("it is an address"));
                let all: Vec<&Ban> = bans.iter().chain([&stranger]).collect();
                for some in all.chunks(10_000) {
                    responder.replay(some, Now::read()).expect("it bans");
                }
            });
        });
    }
    stranger.inside(|| {
        pin(SCANNER);
        let socket = UdpSocket::bind(SocketAddr::new(
            Pair::STRANGER.parse().expect("it is an address"),
            0,
        ))
        .expect("it has this address");
        let host: IpAddr = Pair::HOST.parse().expect("it is an address");
        let to = SocketAddr::new(host, 9);
        let begun = Instant::now();
        let mut sent = 0_u32;
        while begun.elapsed() < FLOOD {
            for _ in 0..64 {
                // Whoever has no room, or is told that nobody listens, sends the next.
                sent += u32::from(socket.send_to(&[0; 18], to).is_ok());
            }
        }
        f64::from(sent) / begun.elapsed().as_secs_f64()
    })
}

/// A responder of this kind, ready; what it has put up goes with the namespace.
fn with<T>(kind: ResponderKind, work: impl FnOnce(&mut dyn Responder) -> T) -> T {
    let directory = tempfile::tempdir().expect("there is room");
    let mut config = Config::default();
    config.hosts_deny.file = directory.path().join("hosts.deny");
    let mut responders = Responders::of_kinds(&[kind], &config).expect("it works here");
    responders.prepare().expect("it works here");
    let mut work = Some(work);
    let mut done = None;
    responders.for_each(|responder| done = work.take().map(|work| work(responder)));
    done.expect("there is one")
}

/// A ban as scans lead to, for an hour.
pub(crate) fn ban(source: Source) -> Ban {
    let now = Now::read();
    Ban {
        source,
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: now.wall,
        end: Some(End::after(Duration::from_secs(3600), now)),
    }
}

fn source(n: u32) -> Source {
    Source::from(IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n)))
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}
