//! What connection tracking knows of a packet: does it answer a flow that was opened here, or behind us? Is it handed on?
//!
//! Asked of ctnetlink (net/netfilter/nf_conntrack_netlink.c), one flow at a time. Where connections are not tracked, nothing
//! answers anything.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NetlinkSerializable};
use nix::errno::Errno;

use super::netlink::{Answered, Conversation};
use super::{Error, NetlinkError};
use crate::probe::Protocol;

/// Looks up flows in the default zone. Sees the network namespace of the thread that asks first.
pub struct Flows {
    kernel: Conversation,
}

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`
const GET: u16 = 1 << 8 | 1;

/// `NETLINK_NETFILTER`
const NETLINK_NETFILTER: isize = 12;

/// Bytes of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;

// Attributes of include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;
/// What of an attribute's type is the type.
const TYPE: u16 = 0x3fff;

impl Flows {
    /// Ready to ask. The socket is opened at the first question.
    #[must_use]
    pub fn open() -> Self {
        Self {
            kernel: Conversation::new(NETLINK_NETFILTER),
        }
    }

    /// Whether a packet `from` somebody `to` us answers traffic of this host, or of a host behind it whose address is
    /// translated. A packet that nobody asked for has a flow of its own by the time we ask, in which it comes first.
    ///
    /// # Errors
    /// The kernel cannot be asked: without CAP_NET_ADMIN, for instance.
    pub fn is_answer(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<bool, Error> {
        self.ask(protocol, from, to, says_the_same)
    }

    /// Whether a packet `from` somebody `to` us is handed on to another address or port (DNAT, a published container port, a
    /// redirect): then it is answered from there. It has a flow by the time we ask, for it was handed on before we saw it.
    ///
    /// # Errors
    /// As [`is_answer`](Self::is_answer)'s.
    pub fn is_redirected(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<bool, Error> {
        let from_us = Tuple::new(protocol, to, from);
        self.ask(protocol, from, to, |reply, packet| {
            // The flow that the packet began, not one that it answers.
            !says_the_same(reply, packet) && !comes_from_the_same(reply, from_us.bytes())
        })
    }

    /// Whether a connection `from` somebody that was accepted here, on `at`, was handed on to there from another address or port.
    ///
    /// # Errors
    /// As [`is_answer`](Self::is_answer)'s.
    pub fn was_redirected(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        at: SocketAddr,
    ) -> Result<bool, Error> {
        let packet = Tuple::new(protocol, from, at);
        let question = Question {
            of: from.ip(),
            direction: TUPLE_REPLY,
            tuple: &Tuple::new(protocol, at, from),
        };
        self.find(question, |flow| {
            let began = attribute(flow, TUPLE_ORIG);
            began.is_some_and(|began| !says_the_same(began, packet.bytes()))
        })
    }

    /// Whether the flow of this packet, if there is one, has a reply direction that `is_it`: that, and the packet's own.
    fn ask(
        &mut self,
        protocol: Protocol,
        from: SocketAddr,
        to: SocketAddr,
        is_it: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<bool, Error> {
        let tuple = Tuple::new(protocol, from, to);
        let question = Question {
            of: from.ip(),
            direction: TUPLE_ORIG,
            tuple: &tuple,
        };
        self.find(question, |flow| {
            attribute(flow, TUPLE_REPLY).is_some_and(|reply| is_it(reply, tuple.bytes()))
        })
    }

    /// Whether there is such a flow, and `is_it` says so of its attributes.
    fn find(
        &mut self,
        question: Question<'_>,
        is_it: impl Fn(&[u8]) -> bool,
    ) -> Result<bool, Error> {
        let mut found = false;
        // The kernel marks its answer as one of several (ctnetlink_fill_info): only an acknowledgement ends it.
        let answered = self.kernel.ask(question, NLM_F_ACK, |answer| {
            let attributes = answer.get(FAMILY_HEADER..).unwrap_or_default();
            found = is_it(attributes);
        });
        match answered.map_err(Error::Flows)? {
            // Nobody knows the flow (ENOENT), or nobody tracks any: the kernel has no ctnetlink (nfnetlink_rcv_msg).
            Answered::Refused(Errno::ENOENT | Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(false),
            // Short of memory, say: who is not known to be no answer may be one.
            Answered::Refused(errno) => Err(Error::Flows(NetlinkError::Refused(errno.into()))),
            Answered::Whole | Answered::Interrupted => Ok(found),
        }
    }
}

/// "What do you know of this flow?"
struct Question<'a> {
    of: IpAddr,
    direction: u16,
    tuple: &'a Tuple,
}

impl NetlinkSerializable for Question<'_> {
    fn message_type(&self) -> u16 {
        GET
    }

    fn buffer_len(&self) -> usize {
        FAMILY_HEADER + ATTRIBUTE_HEADER + self.tuple.bytes().len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let family = if self.of.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        let tuple = self.tuple.bytes();
        let (header, attributes) = buffer.split_at_mut(FAMILY_HEADER);
        header.copy_from_slice(&[u8::try_from(family).expect("2 or 10"), 0, 0, 0]);
        let (header, value) = attributes.split_at_mut(ATTRIBUTE_HEADER);
        header.copy_from_slice(&attribute_header(self.direction | NESTED, tuple.len()));
        value.copy_from_slice(tuple);
    }
}

/// A flow in one direction, as ctnetlink writes it.
struct Tuple {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl Tuple {
    /// Two groups: two IPv6 addresses in the one, three numbers of up to four bytes in the other.
    const ROOM: usize = 7 * ATTRIBUTE_HEADER + 2 * 16 + 3 * 4;

    fn new(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Self {
        let mut tuple = Self {
            bytes: [0; Self::ROOM],
            length: 0,
        };
        tuple.group(TUPLE_IP, |tuple| match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                tuple.put(IP_V4_SRC, &from.octets());
                tuple.put(IP_V4_DST, &to.octets());
            }
            (from, to) => {
                tuple.put(IP_V6_SRC, &in_v6(from));
                tuple.put(IP_V6_DST, &in_v6(to));
            }
        });
        let number = match protocol {
            Protocol::Tcp => libc::IPPROTO_TCP,
            Protocol::Udp => libc::IPPROTO_UDP,
        };
        tuple.group(TUPLE_PROTO, |tuple| {
            tuple.put(PROTO_NUM, &[u8::try_from(number).expect("6 or 17")]);
            tuple.put(PROTO_SRC_PORT, &from.port().to_be_bytes());
            tuple.put(PROTO_DST_PORT, &to.port().to_be_bytes());
        });
        tuple
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Appends an attribute that consists of those that `members` appends.
    fn group(&mut self, kind: u16, members: impl FnOnce(&mut Self)) {
        let header = self.length;
        self.length += ATTRIBUTE_HEADER;
        members(self);
        let length = self.length - header - ATTRIBUTE_HEADER;
        self.bytes[header..header + ATTRIBUTE_HEADER]
            .copy_from_slice(&attribute_header(kind | NESTED, length));
    }

    /// Appends an attribute; its value is padded to 4 bytes.
    fn put(&mut self, kind: u16, value: &[u8]) {
        let (header, rest) = self.bytes[self.length..].split_at_mut(ATTRIBUTE_HEADER);
        header.copy_from_slice(&attribute_header(kind, value.len()));
        rest[..value.len()].copy_from_slice(value);
        self.length += ATTRIBUTE_HEADER + value.len().next_multiple_of(4);
    }
}

/// Length and type, in the host's byte order, of an attribute whose value is so long.
fn attribute_header(kind: u16, length: usize) -> [u8; ATTRIBUTE_HEADER] {
    let length = u16::try_from(ATTRIBUTE_HEADER + length).expect("a tuple is far below 64 KiB");
    let ([a, b], [c, d]) = (length.to_ne_bytes(), kind.to_ne_bytes());
    [a, b, c, d]
}

fn in_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Whether two tuples name the same addresses and ports; the kernel's may hold more, in another order.
fn says_the_same(theirs: &[u8], ours: &[u8]) -> bool {
    let addresses = [IP_V4_SRC, IP_V4_DST, IP_V6_SRC, IP_V6_DST];
    has_the_same(TUPLE_IP, &addresses, theirs, ours)
        && has_the_same(
            TUPLE_PROTO,
            &[PROTO_NUM, PROTO_SRC_PORT, PROTO_DST_PORT],
            theirs,
            ours,
        )
}

/// Whether two tuples name the same sender.
fn comes_from_the_same(theirs: &[u8], ours: &[u8]) -> bool {
    has_the_same(TUPLE_IP, &[IP_V4_SRC, IP_V6_SRC], theirs, ours)
        && has_the_same(TUPLE_PROTO, &[PROTO_NUM, PROTO_SRC_PORT], theirs, ours)
}

fn has_the_same(part: u16, fields: &[u16], theirs: &[u8], ours: &[u8]) -> bool {
    match (attribute(theirs, part), attribute(ours, part)) {
        (Some(theirs), Some(ours)) => fields
            .iter()
            .all(|field| attribute(theirs, *field) == attribute(ours, *field)),
        _ => false,
    }
}

/// The value of the first attribute of that type.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((header, _)) = bytes.split_first_chunk::<ATTRIBUTE_HEADER>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) & TYPE == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};
    use proptest::prelude::*;

    use super::*;

    /// A namespace in which connections are tracked, if wanted.
    fn alone(tracked: bool) {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "lo"]);
        if tracked {
            let rules = "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }";
            run("nft", &[rules]);
        }
    }

    fn run(program: &str, args: &[&str]) {
        let status = Command::new(program).args(args).status().unwrap();
        assert!(status.success(), "{program} {args:?}");
    }

    fn exchange(client: &str, server: &str) -> (SocketAddr, SocketAddr) {
        let server = UdpSocket::bind((server, 0)).unwrap();
        let client = UdpSocket::bind((client, 0)).unwrap();
        client.send_to(b"?", server.local_addr().unwrap()).unwrap();
        (client.local_addr().unwrap(), server.local_addr().unwrap())
    }

    #[test]
    fn what_we_asked_for_is_an_answer_also_when_the_socket_is_gone_and_a_question_is_none() {
        alone(true);
        for (us, them) in [("192.0.2.1", "127.0.0.1"), ("::1", "::1")] {
            let (client, server) = exchange(us, them);
            let mut flows = Flows::open();
            assert!(
                flows.is_answer(Protocol::Udp, server, client).unwrap(),
                "{them} answers {us}"
            );
            assert!(
                !flows.is_answer(Protocol::Udp, client, server).unwrap(),
                "{us} came first"
            );
            assert!(!flows.is_answer(Protocol::Tcp, server, client).unwrap());
            let other = SocketAddr::new(server.ip(), server.port() ^ 1);
            assert!(!flows.is_answer(Protocol::Udp, other, client).unwrap());
        }
    }

    #[test]
    fn where_nothing_is_tracked_nothing_is_an_answer() {
        alone(false);
        let (client, server) = exchange("192.0.2.1", "127.0.0.1");
        assert!(
            !Flows::open()
                .is_answer(Protocol::Udp, server, client)
                .unwrap()
        );
    }

    proptest! {
        #[test]
        fn whatever_the_kernel_says_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let ours = Tuple::new(Protocol::Udp, "[2001:db8::1]:53".parse().unwrap(), "192.0.2.2:123".parse().unwrap());
            prop_assert!(says_the_same(ours.bytes(), ours.bytes()));
            let _ = says_the_same(&bytes, ours.bytes());
        }
    }
}
