//! The figures we promise, measured on real packets between two network namespaces; `make bench` prints them as a table.
//!
//! These machines are noisy: what is compared is measured in the same run, and medians are what to quote.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use nix::unistd::Pid;
use portsentry::clock::Now;
use portsentry::history::{History, Record};
use portsentry::policy::{Ban, End, Origin, Reason};
use socket2::{Domain, Protocol, Socket, Type};

#[path = "../tests/net/lab/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests use more of the laboratory"
)]
mod lab;

use lab::{Daemon, Host, eventually};

/// Sources whose probes are timed, for each way to see packets.
const SOURCES: u8 = 200;

/// How long a source goes on sending after its probe: far longer than a ban takes.
const AFTERMATH: Duration = Duration::from_millis(30);

/// A service of the host that the datagrams go to, and a port that is a trap.
const SERVICE: u16 = 5000;
const TRAP: u16 = 23;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

fn main() {
    let mut rows = Vec::new();
    for method in ["packet", "ip"] {
        let times = probe_to_drop(method);
        let what =
            format!("probe sent to last datagram let through, capture.method = \"{method}\"");
        rows.push((
            format!("{what}, median of {SOURCES}"),
            micros(times[times.len() / 2]),
        ));
        rows.push((
            format!("{what}, p99"),
            micros(times[times.len() * 99 / 100]),
        ));
    }
    rows.push((
        "one `nft add element` as a process, median of 50, same run".to_owned(),
        micros(nft_process()),
    ));
    let idle = idle();
    rows.push((
        "start to ready, empty history".to_owned(),
        micros(idle.ready),
    ));
    rows.push((
        "resident memory, idle".to_owned(),
        format!("{} KiB", idle.resident),
    ));
    for bans in [10_000, 100_000] {
        let replay = replay(bans);
        rows.push((
            format!("start to {bans} bans replayed and in force"),
            micros(replay.ready),
        ));
        rows.push((
            format!("resident memory with {bans} bans"),
            format!("{} KiB", replay.resident),
        ));
    }
    let size = std::fs::metadata(env!("CARGO_BIN_EXE_portsentry"))
        .expect("cargo has built it")
        .len();
    rows.push((
        "size of the binary".to_owned(),
        format!("{} KiB", size / 1024),
    ));
    print(&rows);
}

/// From a source's only probe to the last of its datagrams that the host still receives, sorted.
fn probe_to_drop(method: &str) -> Vec<Duration> {
    let (host, stranger) = two_hosts();
    let daemon = Daemon::start(
        &host,
        &format!("detect.trigger = 1\ncapture.method = \"{method}\""),
    );
    // The scanner has a processor of its own, as another machine would: else each ban falls into its wait for ours.
    pin(daemon.pid(), 1);
    let epoch = Instant::now();
    let service = host.inside(service);
    let mut times: Vec<Duration> = (1..=SOURCES)
        .map(|n| {
            let probed = stranger.inside(|| {
                pin(Pid::from_raw(0), 0);
                attack(source(n), epoch)
            });
            let last = last_received(&service).expect("what was sent before the probe arrives");
            last.saturating_sub(probed)
        })
        .collect();
    let never_banned = times
        .iter()
        .filter(|time| **time > AFTERMATH * 9 / 10)
        .count();
    assert_eq!(
        never_banned, 0,
        "{never_banned} of {SOURCES} sources were not banned within {AFTERMATH:?}"
    );
    times.sort_unstable();
    times
}

/// Has a process (0: the calling thread) run on this processor alone.
fn pin(process: Pid, processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a small number");
    sched_setaffinity(process, &set).expect("this measurement needs two processors");
}

/// Sends datagrams without a pause, a probe among them; when the probe was sent.
fn attack(source: Ipv4Addr, epoch: Instant) -> Duration {
    let datagrams = UdpSocket::bind((source, 0)).expect("the address is ours");
    datagrams
        .connect((HOST, SERVICE))
        .expect("the host is on the cable");
    let send = || {
        let sent = u64::try_from(epoch.elapsed().as_nanos()).expect("less than 500 years");
        // Refused: the service is not up yet, or we are banned. Both are told by what arrives.
        let _ = datagrams.send(&sent.to_be_bytes());
    };
    let probe =
        Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket can be had");
    probe
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    probe
        .bind(&SocketAddr::from((source, 0)).into())
        .expect("the address is ours");
    (0..50).for_each(|_| send());
    let sent = epoch.elapsed();
    let _ = probe.connect(&SocketAddr::from((HOST, TRAP)).into());
    while epoch.elapsed() < sent + AFTERMATH {
        send();
    }
    sent
}

/// Where the datagrams arrive. They say themselves when they were sent, so nobody needs to wake up for them meanwhile.
fn service() -> UdpSocket {
    let socket =
        Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).expect("a socket can be had");
    setsockopt(&socket, RcvBufForce, &(64 << 20)).expect("root may");
    socket
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    socket
        .bind(&SocketAddr::from((HOST, SERVICE)).into())
        .expect("a fresh host's ports are free");
    socket.into()
}

/// When the last of the datagrams that have arrived was sent.
fn last_received(service: &UdpSocket) -> Option<Duration> {
    let mut bytes = [0; 8];
    std::iter::from_fn(|| {
        service
            .recv(&mut bytes)
            .ok()
            .map(|_| u64::from_be_bytes(bytes))
    })
    .max()
    .map(Duration::from_nanos)
}

/// The classic way to ban, for comparison: a process for each.
fn nft_process() -> Duration {
    let host = Host::new("host");
    host.nft("add table inet t { set s { type ipv4_addr; flags timeout; }; }");
    let mut times: Vec<Duration> = (1..=50)
        .map(|n| {
            let begin = Instant::now();
            host.inside(|| {
                let element = format!("add element inet t s {{ 10.0.0.{n} timeout 10m }}");
                let status = std::process::Command::new("nft").arg(element).status();
                assert!(
                    status.is_ok_and(|status| status.success()),
                    "nft adds an element"
                );
            });
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// How long a start took, and the memory after it in KiB.
struct Started {
    ready: Duration,
    resident: u64,
}

fn idle() -> Started {
    let host = Host::new("host");
    let daemon = Daemon::new(&host, "");
    start(daemon, 0)
}

fn replay(bans: u32) -> Started {
    let host = Host::new("host");
    let daemon = Daemon::new(&host, "");
    let now = Now::read();
    let records: Vec<Record> = (0..bans)
        .map(|n| {
            Record::Ban(Ban {
                source: IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + n)).into(),
                reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
                origin: Origin::Scan,
                start: now.wall,
                end: Some(End::after(Duration::from_secs(24 * 3600), now)),
            })
        })
        .collect();
    let mut history = History::open(&daemon.history()).expect("a history can be made");
    history.append(&records).expect("a history can be written");
    drop(history);
    start(daemon, u64::from(bans))
}

fn start(mut daemon: Daemon<'_>, bans: u64) -> Started {
    let begin = Instant::now();
    daemon.spawn();
    let ready = eventually("all bans are in force", || {
        let said = daemon.command(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&said.out).ok()?;
        let is_there = status["state"] == "enforcing" && status["enforced"] == bans;
        is_there.then(|| begin.elapsed())
    });
    Started {
        ready,
        resident: resident(&daemon),
    }
}

/// Resident memory of the daemon in KiB.
fn resident(daemon: &Daemon<'_>) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("every process has one");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number of kB")
}

fn two_hosts() -> (Host, Host) {
    let (host, stranger) = (Host::new("host"), Host::new("stranger"));
    host.cable(
        "eth0",
        &["10.78.0.1/16"],
        &stranger,
        "eth0",
        &["10.78.0.2/16"],
    );
    (1..=SOURCES).for_each(|n| stranger.ip(&format!("addr add {}/16 dev eth0", source(n))));
    (host, stranger)
}

fn source(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 1, n)
}

fn micros(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{} µs", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    }
}

fn print(rows: &[(String, String)]) {
    let width = rows
        .iter()
        .map(|(what, _)| what.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for (what, figure) in rows {
        writeln!(out, "{what:<width$}  {figure:>12}").expect("standard output is there");
    }
}
