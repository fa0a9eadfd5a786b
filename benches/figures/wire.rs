//! The cable between a scanner and the host, who sends what, and how fast. The scanner has a processor of its own, as another
//! machine would; whoever is measured has the other.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};

use crate::lab::Host;
use crate::lab::packets::ipv4_syn;

/// Who sends, and who is measured.
pub(crate) const SCANNER: usize = 0;
pub(crate) const MEASURED: usize = 1;

/// A port of the host that is a trap, and one where datagrams are taken.
pub(crate) const TRAP: u16 = 23;
pub(crate) const SERVICE: u16 = 5000;

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// After this long without a datagram let through, a source is banned.
const SILENCE: Duration = Duration::from_millis(5);

/// A source that is not banned after so long will not be.
const LATEST: Duration = Duration::from_secs(20);

/// A host, and a scanner that is its gateway too: what the host answers to sources that are made up goes there and ends there.
pub(crate) struct Cable {
    pub(crate) host: Host,
    pub(crate) scanner: Host,
}

impl Cable {
    /// `own`: how many addresses the scanner has beside its first.
    pub(crate) fn new(own: u8) -> Self {
        let (host, scanner) = (Host::new("host"), Host::new("scanner"));
        host.cable(
            "eth0",
            &["10.78.0.1/16"],
            &scanner,
            "eth0",
            &["10.78.0.2/16"],
        );
        host.ip("route add default via 10.78.0.2");
        (1..=own).for_each(|n| scanner.ip(&format!("addr add {}/16 dev eth0", address(n))));
        Self { host, scanner }
    }

    /// From a source's only probe to the last of its datagrams that the host still takes.
    pub(crate) fn time_to_ban(&self, n: u8) -> Duration {
        let taken = self.host.inside(service);
        self.scanner.inside(|| {
            pin(SCANNER);
            let datagrams = UdpSocket::bind((address(n), 0)).expect("the address is its own");
            datagrams
                .connect((HOST, SERVICE))
                .expect("the host is on the cable");
            let arrives = || {
                // Refused where somebody rejects: then it does not arrive.
                let _ = datagrams.send(b"still here?");
                taken.recv(&mut [0; 16]).is_ok()
            };
            let probe = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
                .expect("a socket can be had");
            probe
                .set_nonblocking(true)
                .expect("a socket can be made non-blocking");
            probe
                .bind(&SocketAddr::from((address(n), 0)).into())
                .expect("the address is its own");
            // The two get to know each other's links.
            while !arrives() {}
            (0..50).for_each(|_| {
                arrives();
            });
            let begun = Instant::now();
            let _ = probe.connect(&SocketAddr::from((HOST, TRAP)).into());
            let mut last = Duration::ZERO;
            loop {
                let sent = begun.elapsed();
                if arrives() {
                    last = sent;
                }
                if sent > last + SILENCE {
                    return last;
                }
                assert!(sent < LATEST, "{} is not banned in {LATEST:?}", address(n));
            }
        })
    }
}

/// The scanner's address number `n` beside its first.
fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 1, n)
}

/// Where the datagrams arrive: at once, for a cable in one machine delivers what is sent before the sender goes on.
pub(crate) fn service() -> UdpSocket {
    let socket = UdpSocket::bind((HOST, SERVICE)).expect("a fresh host's ports are free");
    socket
        .set_nonblocking(true)
        .expect("a socket can be made non-blocking");
    socket
}

/// SYNs to the trap, each from a source of its own.
pub(crate) struct Flood(Vec<Vec<u8>>);

impl Flood {
    pub(crate) fn new(sources: u32) -> Self {
        Self(
            (0..sources)
                .map(|n| ipv4_syn(made_up(n), HOST, TRAP, 0))
                .collect(),
        )
    }

    /// Sends for this long, so many a second or as fast as can be, and no more than there are. How many it has sent, and for how
    /// long.
    pub(crate) fn send(
        &self,
        from: &Host,
        a_second: Option<u32>,
        time: Duration,
    ) -> (u32, Duration) {
        from.inside(|| {
            pin(SCANNER);
            let socket = raw_socket();
            let begun = Instant::now();
            let mut sent = 0;
            for packet in &self.0 {
                if let Some(rate) = a_second {
                    while f64::from(sent) > begun.elapsed().as_secs_f64() * f64::from(rate) {
                        std::hint::spin_loop();
                    }
                }
                if begun.elapsed() >= time {
                    break;
                }
                socket.send(packet).expect("the host is on the cable");
                sent += 1;
            }
            (sent, begun.elapsed())
        })
    }
}

/// Sends packets with their IPv4 headers to the host.
pub(crate) fn raw_socket() -> Socket {
    // IPPROTO_RAW: the packet has its header with it (raw(7)).
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("root may");
    socket
        .connect(&SocketAddrV4::new(HOST, 0).into())
        .expect("the host is on the cable");
    socket
}

/// A source that does not exist, another one for each number.
pub(crate) fn made_up(n: u32) -> Ipv4Addr {
    // An odd factor permutes the numbers of 24 bits.
    Ipv4Addr::from(0x0b00_0000 | (n.wrapping_mul(0x009e_3779) & 0x00ff_ffff))
}

/// Does this on one processor alone; the programs that it starts stay there too.
pub(crate) fn on<T: Send>(processor: usize, job: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let work = scope.spawn(|| {
            pin(processor);
            job()
        });
        work.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has the calling thread run on this processor alone.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).expect("a small number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("the figures take two processors");
}
