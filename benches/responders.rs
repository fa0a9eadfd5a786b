//! What a ban costs in each responder, and what banned packets cost there; `make bench` prints it as a table.
//!
//! Bans are timed in this process, with no daemon around it. Packets come from one banned source, as fast as one processor can send
//! them over a cable of this machine and the same one drops them.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use portsentry::clock::Now;
use portsentry::config::{Config, ResponderKind};
use portsentry::policy::{Ban, End, Origin, Reason};
use portsentry::respond::{Responder, Responders};
use portsentry::source::Source;

#[path = "../tests/net/lab/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests use more of the laboratory"
)]
mod lab;

use lab::{Host, Pair};

/// How often single bans are timed, and thousands.
const SINGLES: u32 = 200;
const THOUSANDS: u32 = 5;

/// How long packets are sent.
const FLOOD: Duration = Duration::from_secs(1);

fn main() {
    let kinds: Vec<ResponderKind> = ResponderKind::ALL
        .iter()
        .copied()
        .filter(|kind| *kind != ResponderKind::Command)
        .collect();
    let mut rows = vec![["responder", "1 ban", "1,000 bans", "1 unban"].map(str::to_owned)];
    for kind in &kinds {
        rows.push(time(*kind));
    }
    print(&rows);
    let mut rows = vec![
        [
            "packets a second, one banned source",
            "0 bans",
            "1,000",
            "100,000",
        ]
        .map(str::to_owned),
    ];
    let none = flood(None, 0);
    rows.push([
        "nothing banned, nobody listens".to_owned(),
        rate(none),
        String::new(),
        String::new(),
    ]);
    for kind in kinds
        .iter()
        .filter(|kind| **kind != ResponderKind::HostsDeny)
    {
        let [none, some, many] = [0, 1_000, 100_000].map(|others| rate(flood(Some(*kind), others)));
        rows.push([kind.name().to_owned(), none, some, many]);
    }
    print(&rows);
}

/// The medians of single bans, of a thousand at once, and of single unbans.
fn time(kind: ResponderKind) -> [String; 4] {
    let host = Host::new("host");
    let [single, thousand, unban] = host.inside(|| {
        with(kind, |responder| {
            let bans: Vec<Ban> = (0..SINGLES).map(|n| ban(source(n))).collect();
            let single = median(
                bans.iter()
                    .map(|one| timed(|| responder.ban(&[one], Now::read()).expect("it bans"))),
            );
            let unban = median(
                bans.iter()
                    .map(|one| timed(|| responder.unban(&[one.source]).expect("it unbans"))),
            );
            let thousand = median((1..=THOUSANDS).map(|round| {
                let bans: Vec<Ban> = (0..1000).map(|n| ban(source(round * 1000 + n))).collect();
                let bans: Vec<&Ban> = bans.iter().collect();
                timed(|| responder.ban(&bans, Now::read()).expect("it bans"))
            }));
            [single, thousand, unban]
        })
    });
    [
        kind.name().to_owned(),
        span(single),
        span(thousand),
        span(unban),
    ]
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
        let mut processor = CpuSet::new();
        processor.set(0).expect("there is one");
        sched_setaffinity(Pid::from_raw(0), &processor).expect("it may be chosen");
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

fn ban(source: Source) -> Ban {
    let now = Now::read();
    Ban {
        source,
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        start: now.wall,
        end: Some(End::after(Duration::from_secs(3600), now)),
    }
}

fn source(n: u32) -> Source {
    Source::from(IpAddr::V4(Ipv4Addr::from(0xc612_0000 + n)))
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn span(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.0} ms", time.as_secs_f64() * 1000.0)
    }
}

fn rate(rate: f64) -> String {
    format!("{:.0} k", rate / 1000.0)
}

fn print(rows: &[[String; 4]]) {
    let mut out = std::io::stdout().lock();
    for [what, one, two, three] in rows {
        writeln!(out, "{what:<40}{one:>12}{two:>12}{three:>12}").expect("standard output is there");
    }
    writeln!(out).expect("standard output is there");
}
