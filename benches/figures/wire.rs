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
        let service = self.service();
        self.scanner.inside(|| {
            pin(SCANNER);
            let datagrams = Datagrams::new(address(n), &service);
            let probe = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
                .expect("a socket can be had");
            probe
                .set_nonblocking(true)
                .expect("a socket can be made non-blocking");
            probe
                .bind(&SocketAddr::from((address(n), 0)).into())
                .expect("the address is its own");
            // The two get to know each other's links.
            while !datagrams.arrives() {}
            (0..50).for_each(|_| {
                datagrams.arrives();
            });
            let begun = Instant::now();
            let _ = probe.connect(&SocketAddr::from((HOST, TRAP)).into());
            let mut last = Duration::ZERO;
            loop {
                let sent = begun.elapsed();
                if datagrams.arrives() {
                    last = sent;
                }
                if sent > last + SILENCE {
                    return last;
                }
                assert!(sent < LATEST, "{} is not banned in {LATEST:?}", address(n));
            }
        })
    }

    /// Where the host takes datagrams: at once, for a cable in one machine delivers what is sent before the sender goes on.
    pub(crate) fn service(&self) -> UdpSocket {
        let service = self
            .host
            .inside(|| UdpSocket::bind((HOST, SERVICE)).expect("a fresh host's ports are free"));
        service
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        service
    }
}

/// Datagrams from one of the scanner's addresses, each of which tells whether the host takes it.
pub(crate) struct Datagrams<'a> {
    from: UdpSocket,
    to: &'a UdpSocket,
}

impl<'a> Datagrams<'a> {
    /// On the scanner alone.
    pub(crate) fn new(source: Ipv4Addr, to: &'a UdpSocket) -> Self {
        let from = UdpSocket::bind((source, 0)).expect("the address is its own");
        from.connect((HOST, SERVICE))
            .expect("the host is on the cable");
        Self { from, to }
    }

    pub(crate) fn arrives(&self) -> bool {
        // Refused where somebody rejects: then it does not arrive.
        let _ = self.from.send(b"still here?");
        self.to.recv(&mut [0; 16]).is_ok()
    }
}

/// The scanner's address number `n` beside its first.
pub(crate) fn address(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 1, n)
}

/// SYNs to the trap, each from a source of its own: packets with their headers.
pub(crate) struct Flood {
    syn: Vec<u8>,
    /// Of the segment, if its source were 0.0.0.0.
    checksum: u16,
}

/// Where an IPv4 header has its source, and the TCP header behind it its checksum.
const SOURCE: std::ops::Range<usize> = 12..16;
const CHECKSUM: std::ops::Range<usize> = 36..38;

impl Flood {
    pub(crate) fn new() -> Self {
        let syn = ipv4_syn(Ipv4Addr::UNSPECIFIED, HOST, TRAP, 0);
        let checksum = syn.get(CHECKSUM).and_then(|bytes| bytes.try_into().ok());
        let checksum = u16::from_be_bytes(checksum.expect("a SYN has one"));
        Self { syn, checksum }
    }

    /// That of source number `n`.
    pub(crate) fn syn(&mut self, n: u32) -> &[u8] {
        let source = made_up(n);
        let [high, low] = [source.to_bits() >> 16, source.to_bits() & 0xffff];
        // RFC 1624: the ones' complement sum without its carries.
        let sum = u32::from(!self.checksum) + high + low;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !u16::try_from(sum).expect("its carries were added above");
        self.syn[SOURCE].copy_from_slice(&source.octets());
        self.syn[CHECKSUM].copy_from_slice(&sum.to_be_bytes());
        &self.syn
    }

    /// Sends for this long, so many a second or as fast as can be. How many it has sent, and for how long.
    pub(crate) fn send(
        mut self,
        from: &Host,
        a_second: Option<u32>,
        time: Duration,
    ) -> (u32, Duration) {
        from.inside(move || {
            pin(SCANNER);
            let socket = raw_socket();
            let begun = Instant::now();
            let mut sent = 0;
            while begun.elapsed() < time {
                let due = a_second.map(|rate| begun.elapsed().as_secs_f64() * f64::from(rate));
                if due.is_some_and(|due| f64::from(sent) > due) {
                    std::hint::spin_loop();
                    continue;
                }
                socket
                    .send(self.syn(sent))
                    .expect("the host is on the cable");
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

/// A source that does not exist, another one for each number below 16,777,216.
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
