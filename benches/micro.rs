//! Single steps of a probe's trip, each many times over: bytes to a probe, a probe to a scan, a scan to a verdict, bans to a batch.
//!
//!     make bench-micro              time, which is noisy
//!     benches/instructions          instructions by callgrind, which are not: for comparing two versions

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use divan::Bencher;
use portsentry::clock::{Mono, Now, Wall};
use portsentry::config::{Config, Response};
use portsentry::detect::{Detector, Scan};
use portsentry::host::{Link, Services};
use portsentry::nft::{BanSet, Change, Comment, Element, TableName, Timeout};
use portsentry::policy::{Bans, judge};
use portsentry::probe::{self, Probe, Protocol};
use portsentry::source::Source;

fn main() {
    divan::main();
}

const NOW: Now = Now {
    mono: Mono(1_000_000),
    wall: Wall(1_800_000_000_000),
};

/// A SYN from 203.0.113.7 to port 23 of 192.0.2.1.
const SYN4: [u8; 40] =
    *b"\x45\x00\x00\x28\x00\x01\x00\x00\x40\x06\x00\x00\xcb\x00\x71\x07\xc0\x00\x02\x01\
    \x9c\x40\x00\x17\x00\x00\x00\x01\x00\x00\x00\x00\x50\x02\x04\x00\x00\x00\x00\x00";

/// The same from 2001:db8::7 to 2001:db8:1::1, behind a header of destination options.
const SYN6: [u8; 68] = *b"\x60\x00\x00\x00\x00\x1c\x3c\x40\
    \x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\
    \x20\x01\x0d\xb8\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\
    \x06\x00\x01\x04\x00\x00\x00\x00\
    \x9c\x40\x00\x17\x00\x00\x00\x01\x00\x00\x00\x00\x50\x02\x04\x00\x00\x00\x00\x00";

#[divan::bench]
fn parse_ipv4() -> Probe {
    parsed(black_box(&SYN4))
}

#[divan::bench]
fn parse_ipv6() -> Probe {
    parsed(black_box(&SYN6))
}

/// Each probe is of a source that was not seen before, and somebody is forgotten for it.
#[divan::bench]
fn observe_new_source(bencher: Bencher<'_, '_>) {
    let mut detector = Detector::new(&Config::default().detect);
    let probe = parsed(&SYN4);
    let mut number = 0;
    let mut next = || {
        number += 1;
        detector.observe(source(number), &probe, NOW.mono)
    };
    // Until the table is full.
    for _ in 0..1 << 17 {
        let _ = next();
    }
    bencher.bench_local(next);
}

/// All probes are of one source, which tries the same port again and again.
#[divan::bench]
fn observe_known_source(bencher: Bencher<'_, '_>) {
    let mut detector = Detector::new(&Config::default().detect);
    let probe = parsed(&SYN4);
    bencher.bench_local(|| detector.observe(source(1), black_box(&probe), NOW.mono));
}

#[divan::bench]
fn judge_scan(bencher: Bencher<'_, '_>) {
    let (scan, rules, bans) = (scan(), Config::default().ban, Bans::default());
    bencher.bench_local(|| judge(black_box(&scan), Response::Ban, &rules, &bans, NOW));
}

#[divan::bench(args = [1, 64, 1024])]
fn encode_batch(bencher: Bencher<'_, '_>, bans: u32) {
    let table = TableName::new("portsentry").expect("it is a good name");
    let elements: Vec<Element> = (0..bans).map(element).collect();
    let elements: Vec<&Element> = elements.iter().collect();
    bencher.bench_local(|| {
        let mut change = Change::new(&table);
        change.add_new(BanSet::ADDRESSES4, black_box(&elements));
        change.finish()
    });
}

/// Nobody listens, on a host with few links, and on one with many (0).
#[divan::bench(args = [2, 0])]
fn ask_for_a_service(bencher: Bencher<'_, '_>, links: u32) {
    let link = |index| Link {
        index,
        name: String::new(),
        loopback: false,
    };
    let links: Vec<Link> = (1..=links).map(link).collect();
    let mut services = Services::open().expect("the kernel can be asked");
    let trap = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    bencher.bench_local(|| services.bound(Protocol::Tcp, black_box(trap), &links).ok());
}

#[divan::bench]
fn ask_for_a_connection(bencher: Bencher<'_, '_>) {
    let mut services = Services::open().expect("the kernel can be asked");
    let trap = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let stranger = SocketAddr::from((Ipv4Addr::LOCALHOST, 2));
    bencher.bench_local(|| services.connected(&[(stranger, black_box(trap))]).ok());
}

fn parsed(packet: &[u8]) -> Probe {
    match probe::parse(packet) {
        Ok(probe) => probe,
        Err(_) => unreachable!("the packets above are probes"),
    }
}

fn scan() -> Scan {
    let mut settings = Config::default().detect;
    settings.trigger = 1;
    let probe = parsed(&SYN4);
    let scan = Detector::new(&settings).observe(probe.source.into(), &probe, NOW.mono);
    scan.expect("one probe is enough here")
}

fn element(n: u32) -> Element {
    let minutes = |n: u64| Duration::from_secs(n * 60);
    Element {
        key: source(n).address(),
        timeout: Some(Timeout::new(minutes(10), minutes(10))),
        comment: Comment::new("syn scan, 3 tcp ports, last 23"),
    }
}

/// Another source for each number.
fn source(n: u32) -> Source {
    Source::from(IpAddr::V4(Ipv4Addr::from(n.wrapping_mul(0x9e37_79b1))))
}
