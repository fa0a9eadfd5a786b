//! A busy server: what the host still gets done while it is watched.
//!
//! One packet in twenty is a probe, of a source that never comes again. The server and whoever watches share one processor.
//! What the host does for a packet besides is next to nothing here: it has no firewall, and a cable in one machine has no card and
//! no driver. So whatever is done for each packet shows as much as it ever can; beside it stands the same on a host that
//! has a firewall, as most have that are watched.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Run;
use crate::contender::{Contender, Task};
use crate::lab::packets::ipv4_syn;
use crate::lab::{Daemon, Host};
use crate::table::{Of, Side, Table, Unit};
use crate::wire::{Cable, HOST, MEASURED, SCANNER, TRAP, made_up, on, pin, raw_socket};

/// How long each is measured at a time.
const TIME: Duration = Duration::from_secs(1);

/// How often each has its turn in a round: what is looked for is small beside the noise.
const TURNS: usize = 2;

/// A server that has not answered after so long does not answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// A service among the ports that would be traps without it, as a web server's are.
const WEB: u16 = 80;

/// Beyond all traps.
const DATAGRAMS: u16 = 5000;

/// What the rule of anybody who bans by nftables costs, however few there are: one look into a set.
const RULE: &str = "table inet one {
    set banned { type ipv4_addr; flags timeout; }
    chain prerouting { type filter hook prerouting priority -310; ip saddr @banned drop; }
}";

/// A stateful firewall as they are mostly written.
const FIREWALL: &str = "table inet firewall {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iif lo accept
        meta l4proto { icmp, icmpv6 } accept
        tcp dport { 22, 80, 443 } accept
        udp dport 5000 accept
    }
}";

/// Who watches meanwhile.
#[derive(Clone, Copy)]
enum Watcher {
    Nobody,
    /// Nobody, but packets are looked up in a set.
    Rule,
    /// Ours as installed, by this method.
    Ours(&'static str),
    Peer(Contender),
}

impl Watcher {
    fn name(self) -> String {
        match self {
            Self::Nobody => "nobody watches".to_owned(),
            Self::Rule => "nobody watches, one nft rule with a set".to_owned(),
            Self::Ours(method) => format!("portsentry, capture.method {method}"),
            Self::Peer(contender) => contender.name().to_owned(),
        }
    }

    fn side(self) -> Side {
        match self {
            Self::Nobody | Self::Rule => Side::Floor,
            Self::Ours(_) => Side::Ours,
            Self::Peer(_) => Side::Peer,
        }
    }

    fn during<T: Send>(self, host: &Host, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Nobody => work(),
            Self::Rule => {
                host.nft(RULE);
                work()
            }
            Self::Ours(method) => {
                let config = format!("capture.method = \"{method}\"");
                let _daemon = on(MEASURED, || Daemon::start(host, &config));
                work()
            }
            Self::Peer(contender) => {
                let _running = on(MEASURED, || contender.start(host, Task::Ban));
                work()
            }
        }
    }
}

pub(crate) fn busy(run: &Run) -> Vec<Table> {
    let mut connections = Table::new(
        "busy server: connections to port 80 begun, answered and closed a second",
        Unit::Rate,
    );
    let mut datagrams = Table::new("busy server: datagrams taken a second", Unit::Rate);
    let mut behind_firewall = Table::new(
        "busy server that has a stateful firewall: datagrams taken a second",
        Unit::Rate,
    );
    let (peers, missing) = Contender::there(&[Contender::Nft], run);
    let mut watchers = vec![
        Watcher::Nobody,
        Watcher::Rule,
        Watcher::Ours("packet"),
        Watcher::Ours("ip"),
    ];
    watchers.extend(peers.into_iter().map(Watcher::Peer));
    for _ in 0..run.rounds * run.size(TURNS, 1) {
        for watcher in &watchers {
            let cable = Cable::new(0);
            let rate = watcher.during(&cable.host, || serve_connections(&cable));
            connections.add(&watcher.name(), watcher.side(), vec![rate]);
            let cable = Cable::new(0);
            let rate = watcher.during(&cable.host, || serve_datagrams(&cable));
            datagrams.add(&watcher.name(), watcher.side(), vec![rate]);
            let cable = Cable::new(0);
            cable.host.nft(FIREWALL);
            let rate = watcher.during(&cable.host, || serve_datagrams(&cable));
            behind_firewall.add(&watcher.name(), watcher.side(), vec![rate]);
        }
    }
    for table in [&mut connections, &mut datagrams, &mut behind_firewall] {
        missing.iter().for_each(|words| table.note(words));
        table.aim(Of::Median, 0.97, Side::Floor);
    }
    vec![connections, datagrams, behind_firewall]
}

/// Each takes about five packets of the client's; so every fourth is followed by a probe.
fn serve_connections(cable: &Cable) -> f64 {
    let listener = cable
        .host
        .inside(|| TcpListener::bind((HOST, WEB)).expect("a fresh host's ports are free"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(MEASURED);
            while !stop.load(Ordering::Relaxed) {
                let Ok((mut client, _)) = listener.accept() else {
                    continue;
                };
                if client.read(&mut [0; 16]).is_ok() {
                    let _ = client.write_all(b"welcome\n");
                    // The client hangs up.
                    let _ = client.read(&mut [0; 16]);
                }
            }
        });
        let rate = cable.scanner.inside(|| {
            pin(SCANNER);
            let raw = raw_socket();
            let begun = Instant::now();
            let mut done = 0;
            while begun.elapsed() < TIME {
                done += u32::from(visit());
                if done % 4 == 0 {
                    send_probe(&raw, done);
                }
            }
            f64::from(done) / begun.elapsed().as_secs_f64()
        });
        stop.store(true, Ordering::Relaxed);
        // The server may wait for somebody: the last one, who does not rely on it.
        cable.scanner.inside(visit);
        rate
    })
}

/// One connection from its beginning to its end.
fn visit() -> bool {
    let socket =
        Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket can be had");
    // Leaves nothing behind that would use up the ports.
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("any socket may");
    socket
        .set_read_timeout(Some(PATIENCE))
        .expect("any socket may");
    if socket
        .connect_timeout(&SocketAddr::from((HOST, WEB)).into(), PATIENCE)
        .is_err()
    {
        return false;
    }
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"hello\n").is_ok() && stream.read(&mut [0; 16]).is_ok()
}

/// As many datagrams as can be sent, one packet in twenty a probe.
fn serve_datagrams(cable: &Cable) -> f64 {
    let service = cable.host.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
            .expect("a socket can be had");
        setsockopt(&socket, RcvBufForce, &(4 << 20)).expect("root may");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("any socket may");
        socket
            .bind(&SocketAddr::from((HOST, DATAGRAMS)).into())
            .expect("a fresh host's ports are free");
        socket
    });
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(MEASURED);
            let fd = service.as_raw_fd();
            let mut taken = 0;
            // It ends when nothing has come for a while.
            while !taken_one(fd, taken > 0) {
                taken += 1;
            }
            taken
        });
        let time = cable.scanner.inside(|| {
            pin(SCANNER);
            let raw = raw_socket();
            let client = std::net::UdpSocket::bind(("0.0.0.0", 0)).expect("some port is free");
            client
                .connect((HOST, DATAGRAMS))
                .expect("the host is on the cable");
            let begun = Instant::now();
            let mut number = 0;
            while begun.elapsed() < TIME {
                for _ in 0..19 {
                    let _ = client.send(b"a question");
                }
                number += 1;
                send_probe(&raw, number);
            }
            begun.elapsed()
        });
        let taken: u32 = server.join().expect("it does not panic");
        f64::from(taken) / time.as_secs_f64()
    })
}

/// Takes a datagram; whether none came.
fn taken_one(fd: RawFd, has_begun: bool) -> bool {
    loop {
        let taken = nix::sys::socket::recv(fd, &mut [0; 16], nix::sys::socket::MsgFlags::empty());
        if taken.is_ok() || has_begun {
            return taken.is_err();
        }
    }
}

fn send_probe(raw: &Socket, number: u32) {
    raw.send(&ipv4_syn(made_up(number), HOST, TRAP, 0))
        .expect("the host is on the cable");
}
