//! A crowd: more sources than can be remembered, all made up, as fast as can be sent; and among them scanners that do exist. What
//! is resident then, what was lost, and how soon the scanners are banned.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;
use socket2::Socket;

use crate::Run;
use crate::contender::resident;
use crate::lab::Daemon;
use crate::lab::packets::ipv4_syn;
use crate::table::{Side, Table, Unit};
use crate::wire::{Cable, Datagrams, Flood, HOST, MEASURED, SCANNER, address, on, pin, raw_socket};

/// As many as there are addresses in 11.0.0.0/8, each with one probe, if the machine can send so many in time.
const SOURCES: u32 = 1 << 24;
const TIME: Duration = Duration::from_secs(200);

/// They come after equal portions of all sources.
const SCANNERS: u8 = 40;

/// Of those that are made up, so many come between two datagrams of the scanner's.
const BETWEEN: u32 = 16;

/// What makes a scan, as configured by default.
const PORTS: [u16; 3] = [21, 22, 23];

/// A scanner that is not banned after so long was overlooked.
const LATEST: Duration = Duration::from_secs(1);

pub(crate) fn crowd(run: &Run) -> Vec<Table> {
    let sources = run.size(SOURCES, SOURCES / 64);
    let title = format!("crowd: {sources} made-up sources as fast as can be sent");
    let mut memory = Table::new(format!("{title}: resident then"), Unit::Bytes);
    let mut sent = Table::new("the same: probes sent a second", Unit::Rate);
    let mut lost = Table::new("the same: probes lost", Unit::Count);
    let mut found = Table::new(
        "the same: from a scanner's third probe to the last of its datagrams that the host still takes",
        Unit::Time,
    );
    let mut overlooked = Table::new("the same: scanners of 40 that were not banned", Unit::Count);
    for method in ["packet", "ip"] {
        let who = format!("portsentry, capture.method {method}");
        // One run has no time for both, and they differ in nothing that is looked for here.
        let sources = if method == "packet" {
            sources
        } else {
            sources / 8
        };
        let cable = Cable::new(SCANNERS);
        let config = format!("capture.method = \"{method}\"");
        let daemon = on(MEASURED, || Daemon::start(&cable.host, &config));
        let service = cable.service();
        let came = cable.scanner.inside(|| send(sources, &service));
        let status = daemon.json("status");
        let dropped = status.pointer("/capture/dropped").and_then(Value::as_f64);
        let pid: Pid = daemon.pid();
        memory.add(&who, Side::Ours, vec![resident(pid)]);
        sent.add(
            &who,
            Side::Ours,
            vec![f64::from(came.sent) / came.time.as_secs_f64()],
        );
        lost.add(
            &who,
            Side::Ours,
            vec![dropped.expect("status counts what was dropped")],
        );
        memory.note(format!("{who}: {} sources", came.sent));
        overlooked.add(&who, Side::Ours, vec![f64::from(came.overlooked)]);
        if !came.times.is_empty() {
            found.add(&who, Side::Ours, came.times);
        }
    }
    overlooked.limit(0.0);
    vec![memory, sent, lost, found, overlooked]
}

/// What came of it.
struct Came {
    sent: u32,
    time: Duration,
    times: Vec<f64>,
    overlooked: u32,
}

fn send(sources: u32, service: &UdpSocket) -> Came {
    pin(SCANNER);
    let (raw, mut flood) = (raw_socket(), Flood::new());
    let send = |raw: &Socket, packet: &[u8]| {
        raw.send(packet).expect("the host is on the cable");
    };
    let mut came = Came {
        sent: 0,
        time: Duration::ZERO,
        times: Vec::new(),
        overlooked: 0,
    };
    let begun = Instant::now();
    let every = sources / u32::from(SCANNERS);
    let mut number = 0;
    for scanner in 1..=SCANNERS {
        let end = u32::from(scanner) * every;
        let time = TIME * u32::from(scanner) / u32::from(SCANNERS);
        while number < end && begun.elapsed() < time {
            send(&raw, flood.syn(number));
            number += 1;
        }
        let source: Ipv4Addr = address(scanner);
        let datagrams = Datagrams::new(source, service);
        while !datagrams.arrives() {}
        for port in PORTS {
            send(&raw, &ipv4_syn(source, HOST, port, 0));
        }
        let probed = Instant::now();
        let mut last = Duration::ZERO;
        // The crowd goes on meanwhile.
        let is_banned = loop {
            let at = probed.elapsed();
            if datagrams.arrives() {
                last = at;
            } else if at > last + SILENCE {
                break true;
            }
            if at > LATEST {
                break false;
            }
            for _ in 0..BETWEEN {
                send(&raw, flood.syn(number % SOURCES));
                number += 1;
            }
        };
        if is_banned {
            came.times.push(last.as_secs_f64());
        } else {
            came.overlooked += 1;
        }
    }
    came.time = begun.elapsed();
    came.sent = number;
    came
}

/// After this long without a datagram let through, a source is banned.
const SILENCE: Duration = Duration::from_millis(5);
