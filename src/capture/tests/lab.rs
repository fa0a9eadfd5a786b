//! Two namespaces with a link between them: `out` at the scanner's end, `in` at the host's, where the test's thread stands.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process::{Command, id};
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

pub(super) const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(super) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(super) const SCANNER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub(super) const SCANNER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Both namespaces live as long as this does, and no longer: the kernel takes down what nobody holds.
pub(super) struct Lab {
    host: File,
    scanner: File,
}

impl Lab {
    /// Moves the calling thread into the host's namespace, for good.
    pub(super) fn new() -> Self {
        let scanner = new_namespace();
        let host = new_namespace();
        let lab = Self { host, scanner };
        let peer = format!("/proc/{}/fd/{}", id(), lab.scanner.as_raw_fd());
        lab.run("ip link set lo up");
        lab.run(&format!(
            "ip link add in type veth peer name out netns {peer}"
        ));
        lab.address("in", &format!("{HOST_V4}/24"), &format!("{HOST_V6}/64"));
        lab.at_scanner(|| {
            lab.run("ip link set lo up");
            lab.address(
                "out",
                &format!("{SCANNER_V4}/24"),
                &format!("{SCANNER_V6}/64"),
            );
        });
        lab.until_it_answers();
        lab
    }

    /// Waits until the link has carried an answer by each family.
    pub(super) fn until_it_answers(&self) {
        self.until_answered(&HOST_V4.to_string());
        self.until_answered(&HOST_V6.to_string());
    }

    pub(super) fn address(&self, link: &str, v4: &str, v6: &str) {
        self.run(&format!("ip addr add {v4} dev {link}"));
        self.run(&format!("ip addr add {v6} dev {link} nodad"));
        self.run(&format!("ip link set {link} up"));
    }

    pub(super) fn interface(&self, name: &str) -> u32 {
        if_nametoindex(name).unwrap()
    }

    /// Runs a command of blank-separated words in the namespace where the thread stands; it must succeed.
    pub(super) fn run(&self, command: &str) {
        let output = start(command);
        assert!(
            output.status.success(),
            "{command}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub(super) fn run_at_scanner(&self, command: &str) {
        self.at_scanner(|| self.run(command));
    }

    /// Does something in the scanner's namespace. If it panics the thread stays there, and the test has failed.
    pub(super) fn at_scanner<T>(&self, work: impl FnOnce() -> T) -> T {
        setns(&self.scanner, CloneFlags::CLONE_NEWNET).unwrap();
        let result = work();
        setns(&self.host, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Sends to the host; `field` is the IPv4 header's flags and fragment offset.
    pub(super) fn send_v4(&self, protocol: u8, field: u16, payload: &[u8]) {
        let [high, low] = field.to_be_bytes();
        // The kernel fills in lengths, checksum and an identification of zero. Fragments of one packet share theirs.
        let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, high, low, 64, protocol, 0, 0];
        packet.extend(SCANNER_V4.octets());
        packet.extend(HOST_V4.octets());
        packet.extend(payload);
        self.send(Domain::IPV4, SocketAddr::from((HOST_V4, 0)), &packet);
    }

    pub(super) fn send_v6(&self, next: u8, payload: &[u8]) {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, high, low, next, 64];
        packet.extend(SCANNER_V6.octets());
        packet.extend(HOST_V6.octets());
        packet.extend(with_checksum(next, payload));
        self.send(Domain::IPV6, SocketAddr::from((HOST_V6, 0)), &packet);
    }

    fn send(&self, domain: Domain, dest: SocketAddr, packet: &[u8]) {
        self.at_scanner(|| {
            let socket = Socket::new(domain, Type::RAW, Some(libc::IPPROTO_RAW.into())).unwrap();
            socket.send_to(packet, &dest.into()).unwrap();
        });
    }

    fn until_answered(&self, address: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let ping = format!("ping -c1 -W1 {address}");
        while !self.at_scanner(|| start(&ping)).status.success() {
            assert!(Instant::now() < deadline, "{address} never answered");
        }
    }
}

/// `payload` with its transport header's checksum set, if that header stands in it whole: a raw IPv6 socket with a filter is only
/// handed packets whose checksum is right.
fn with_checksum(mut next: u8, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let mut at = 0;
    while let 0 | 44 | 60 = next {
        let len = if next == 44 { 0 } else { payload[at + 1] };
        next = payload[at];
        at += (usize::from(len) + 1) * 8;
    }
    let checksum_at = match next {
        6 => at + 16,
        17 => at + 6,
        _ => return payload,
    };
    if payload.len() < checksum_at + 2 {
        return payload;
    }
    let length = u16::try_from(payload.len() - at).unwrap();
    let sum: u32 =
        [SCANNER_V6, HOST_V6]
            .iter()
            .flat_map(Ipv6Addr::segments)
            .chain([length, next.into()])
            .chain(payload[at..].chunks(2).map(|pair| {
                u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])
            }))
            .map(u32::from)
            .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let checksum = !u16::try_from(folded).unwrap();
    payload[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
    payload
}

/// A namespace that the thread now stands in.
fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn start(command: &str) -> std::process::Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"))
}
