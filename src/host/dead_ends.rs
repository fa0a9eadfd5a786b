//! [`DeadEnds`]: routes of our own that lead nowhere, and what a look at the kernel's other routes tells about them.
//!
//! Ours carry a protocol number that nobody else uses: by that they are found again, and no other route is ever touched. Who
//! is to have one is for the caller.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::constants::NETLINK_ROUTE;
use nix::errno::Errno;

use super::facts::{ask, attributes};
use super::netlink::{Answered, Conversation};
use super::routes::{HEADER, MAX_ROUTES, RTA_DST, RTA_GATEWAY, address, attribute};
use super::{Error, NetlinkError};
use crate::config::RouteKind;

/// The kernel, asked about dead ends. Sees the network namespace of the thread that first asks.
pub struct DeadEnds {
    kernel: Conversation,
    kind: RouteKind,
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadEnd {
    /// Who cannot be reached.
    pub to: IpNet,
    /// What becomes of packets.
    pub kind: RouteKind,
}

/// A route that leads somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Where.
    pub to: IpNet,
    /// The routers that packets are handed to; empty: those on the route are reached directly.
    pub gateways: Vec<IpAddr>,
    /// Whether it leads to this host itself.
    pub is_own: bool,
    /// The number of its table.
    pub table: u32,
}

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nowhere.
    Nowhere,
    /// Out, or to ourselves, by this route.
    By(Passage),
    /// The kernel would not tell.
    Unknown(Errno),
}

/// The table that `ip route` shows.
const TABLE_MAIN: u32 = 254;

// include/uapi/linux/rtnetlink.h
pub(super) const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

/// Bytes of `struct rtnexthop`, which begins with its length, attributes included.
pub(super) const NEXTHOP: usize = 8;

/// Bytes of the family before the address in `RTA_VIA`.
const VIA_FAMILY: usize = 2;

impl DeadEnds {
    /// Our routes' protocol: the letter p. It is unassigned in the kernel's include/uapi/linux/rtnetlink.h (up to 6.18) and in
    /// iproute2's rt_protos, and programs that are known to have chosen a number of their own stay off it (Calico: 80, OVN:
    /// 84, FRR: 191 to 198).
    pub const PROTOCOL: u8 = 112;

    /// The metric of our IPv6 routes, where lower ones win: the lowest there is, for 0 means 1024. For IPv4 it is 0, and of
    /// routes of the same metric the newest wins.
    pub const METRIC6: u32 = 1;

    /// Asks nothing yet. Routes that are added will be of this kind.
    #[must_use]
    pub fn new(kind: RouteKind) -> Self {
        Self {
            kernel: Conversation::strict(NETLINK_ROUTE),
            kind,
        }
    }

    /// Makes sure that the kernel lets us change routes.
    ///
    /// # Errors
    /// When it does not.
    pub fn try_change(&mut self) -> Result<(), NetlinkError> {
        // Nobody can have a route of ours there.
        let nowhere = IpNet::from(IpAddr::from([0, 0, 0, 0]));
        match self.remove(&[nowhere])?.as_slice() {
            [Err(errno)] => Err(NetlinkError::Refused((*errno).into())),
            _ => Ok(()),
        }
    }

    /// All of ours.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn list(&mut self) -> Result<Vec<DeadEnd>, Error> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let question = || {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                message.header.protocol = RouteProtocol::Other(DeadEnds::PROTOCOL);
                RouteNetlinkMessage::GetRoute(message)
            };
            let read = |answer: &[u8]| read_ours(answer, family);
            all.extend(ask(&mut self.kernel, "routes", MAX_ROUTES, question, read)?);
        }
        Ok(all)
    }

    /// All routes of all tables that lead somewhere, of the family of `like`.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn passages(&mut self, like: IpAddr) -> Result<Vec<Passage>, Error> {
        let family = family_of(like);
        let mut all = Vec::new();
        for kind in [RouteType::Local, RouteType::Unicast] {
            let question = || {
                let mut message = RouteMessage::default();
                message.header.address_family = family;
                message.header.kind = kind;
                RouteNetlinkMessage::GetRoute(message)
            };
            let read = |answer: &[u8]| read_passage(answer, family);
            all.extend(ask(&mut self.kernel, "routes", MAX_ROUTES, question, read)?);
        }
        Ok(all)
    }

    /// Makes a dead end of each of these; what the kernel said to each, in their order. Routes of others to the same prefix
    /// stay, behind ours. `EEXIST` where ours is there, or, for IPv6, another's that cannot be told from it.
    ///
    /// # Errors
    /// When the kernel did not answer: some may be there now.
    pub fn add(&mut self, nets: &[IpNet]) -> Result<Vec<Result<(), Errno>>, NetlinkError> {
        let kind = match self.kind {
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Prohibit => RouteType::Prohibit,
        };
        let questions = nets.iter().map(|net| {
            let mut message = message(*net);
            message.header.kind = kind;
            message.header.scope = RouteScope::Universe;
            if matches!(net, IpNet::V6(_)) {
                let metric = RouteAttribute::Priority(Self::METRIC6);
                message.attributes.push(metric);
            }
            RouteNetlinkMessage::NewRoute(message)
        });
        let flags = NLM_F_ACK | NLM_F_CREATE;
        let answered = self.kernel.ask_many(questions, flags, |_, _| {})?;
        Ok(answered.into_iter().map(Answered::into_result).collect())
    }

    /// Takes ours away, of whatever kind; what the kernel said to each, in their order. What is not there is no error.
    ///
    /// # Errors
    /// When the kernel did not answer: some may be gone.
    pub fn remove(&mut self, nets: &[IpNet]) -> Result<Vec<Result<(), Errno>>, NetlinkError> {
        let questions = nets.iter().map(|net| {
            let mut message = message(*net);
            // Any: the scope follows from the rest.
            message.header.scope = RouteScope::NoWhere;
            RouteNetlinkMessage::DelRoute(message)
        });
        let answered = self.kernel.ask_many(questions, NLM_F_ACK, |_, _| {})?;
        let gone = |answered: Answered| match answered.into_result() {
            Err(Errno::ESRCH) => Ok(()),
            result => result,
        };
        Ok(answered.into_iter().map(gone).collect())
    }

    /// Where packets of this host's own to each of these go, in their order.
    ///
    /// # Errors
    /// When the kernel did not answer.
    pub fn look_up(&mut self, addresses: &[IpAddr]) -> Result<Vec<Course>, NetlinkError> {
        let questions = addresses.iter().map(|address| {
            let mut message = message(IpNet::from(*address));
            message.header.table = RouteHeader::RT_TABLE_UNSPEC;
            message.header.protocol = RouteProtocol::Unspec;
            message.header.flags = match address {
                IpAddr::V4(_) => RouteFlags::FibMatch | RouteFlags::LookupTable,
                // Here the table is told in any case.
                IpAddr::V6(_) => RouteFlags::FibMatch,
            };
            RouteNetlinkMessage::GetRoute(message)
        });
        let mut found = vec![None; addresses.len()];
        let answered = self.kernel.ask_many(questions, 0, |number, answer| {
            if let (Some(found), Some(address)) = (found.get_mut(number), addresses.get(number)) {
                *found = read_passage(answer, family_of(*address));
            }
        })?;
        let course = |(answered, passage): (Answered, Option<Passage>)| match answered.into_result()
        {
            Ok(()) => passage.map_or(Course::Nowhere, Course::By),
            // What a route of each kind leads to, and none at all.
            Err(Errno::EHOSTUNREACH | Errno::EINVAL | Errno::EACCES | Errno::ENETUNREACH) => {
                Course::Nowhere
            }
            Err(errno) => Course::Unknown(errno),
        };
        Ok(answered.into_iter().zip(found).map(course).collect())
    }
}

impl Passage {
    /// Whether it stands where ours do.
    #[must_use]
    pub fn is_in_main_table(&self) -> bool {
        self.table == TABLE_MAIN
    }
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to)?;
        if let Some(gateway) = self.gateways.first() {
            write!(f, " via {gateway}")?;
        }
        if !self.is_in_main_table() {
            write!(f, " in table {}", self.table)?;
        }
        Ok(())
    }
}

/// What names a route of ours, whatever its kind.
fn message(net: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(net.addr()),
        destination_prefix_length: net.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(DeadEnds::PROTOCOL),
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(attribute(net.addr()))];
    message
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Reads a route, if it is ours.
fn read_ours(answer: &[u8], family: AddressFamily) -> Option<DeadEnd> {
    let (header, to) = read_header(answer, family)?;
    let is_ours = header.protocol == RouteProtocol::Other(DeadEnds::PROTOCOL) && header.tos == 0;
    if !is_ours || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let kind = match header.kind {
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Prohibit => RouteKind::Prohibit,
        _ => return None,
    };
    Some(DeadEnd { to, kind })
}

/// Reads a route, if it leads somewhere.
fn read_passage(answer: &[u8], family: AddressFamily) -> Option<Passage> {
    let (header, to) = read_header(answer, family)?;
    if !matches!(header.kind, RouteType::Local | RouteType::Unicast) {
        return None;
    }
    let mut passage = Passage {
        to,
        gateways: Vec::new(),
        is_own: header.kind == RouteType::Local,
        table: header.table.into(),
    };
    for (kind, value) in attributes(answer, HEADER) {
        match kind {
            RTA_TABLE => passage.table = u32::from_ne_bytes(value.try_into().ok()?),
            RTA_MULTIPATH => {
                let gateways = nexthops(value).flat_map(|nexthop| attributes(nexthop, NEXTHOP));
                let gateways = gateways.filter_map(|(kind, value)| gateway(kind, value));
                passage.gateways.extend(gateways);
            }
            _ => passage.gateways.extend(gateway(kind, value)),
        }
    }
    Some(passage)
}

/// The fixed part of a route of this family, and where it leads.
fn read_header(answer: &[u8], family: AddressFamily) -> Option<(RouteHeader, IpNet)> {
    let header = RouteHeader::parse(answer).ok()?;
    if header.address_family != family {
        return None;
    }
    let any: IpAddr = match family {
        AddressFamily::Inet => [0; 4].into(),
        _ => [0; 16].into(),
    };
    let to = attributes(answer, HEADER)
        .find(|(kind, _)| *kind == RTA_DST)
        .map_or(Some(any), |(_, value)| address(value))?;
    let to = IpNet::new(to, header.destination_prefix_length).ok()?;
    Some((header, to))
}

pub(super) fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        RTA_GATEWAY => address(value),
        RTA_VIA => address(value.get(VIA_FAMILY..)?),
        _ => None,
    }
}

/// The parts of `RTA_MULTIPATH`, up to the first that cannot be read.
pub(super) fn nexthops(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = bytes
            .first_chunk()
            .map(|length| u16::from_ne_bytes(*length));
        let length = usize::from(length?);
        let nexthop = bytes.get(..length).filter(|_| length >= NEXTHOP)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(nexthop)
    })
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::super::tests::{in_a_network, ip};
    use super::*;

    fn passage(to: &str, gateways: &[&str], is_own: bool, table: u32) -> Passage {
        Passage {
            to: to.parse().unwrap(),
            gateways: gateways.iter().map(|it| it.parse().unwrap()).collect(),
            is_own,
            table,
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn every_way_out_is_listed_with_all_of_its_gateways() {
        in_a_network(|| {
            ip("link add v0 type veth peer name v1");
            ip("link set v0 up");
            ip("link set v1 up");
            ip("addr add 10.9.0.1/24 dev v0");
            ip("addr add 2001:db8::1/64 dev v0 nodad");
            ip("route add default via 10.9.0.2");
            ip("route add 192.0.2.0/24 nexthop via 10.9.0.3 nexthop via 10.9.0.4");
            ip("route add 198.51.100.0/24 via inet6 2001:db8::5");
            ip("route add 203.0.113.0/24 via 10.9.0.6 table 1000");
            ip("route add unreachable 203.0.113.7");
            ip("route add 2001:db8:7::/48 nexthop via 2001:db8::3 nexthop via 2001:db8::4");
            let mut kernel = DeadEnds::new(RouteKind::Unreachable);
            let v4 = kernel.passages([0, 0, 0, 0].into()).unwrap();
            for wanted in [
                passage("0.0.0.0/0", &["10.9.0.2"], false, 254),
                passage("10.9.0.0/24", &[], false, 254),
                passage("192.0.2.0/24", &["10.9.0.3", "10.9.0.4"], false, 254),
                passage("198.51.100.0/24", &["2001:db8::5"], false, 254),
                passage("203.0.113.0/24", &["10.9.0.6"], false, 1000),
                passage("10.9.0.1/32", &[], true, 255),
                passage("127.0.0.0/8", &[], true, 255),
            ] {
                assert!(v4.contains(&wanted), "{wanted:?} in {v4:#?}");
            }
            assert_eq!(v4.len(), 8, "and 127.0.0.1: {v4:#?}");
            // IPv6 holds a way out for dead until its link has found its other end.
            let deadline = Instant::now() + Duration::from_secs(20);
            let v6 = loop {
                let v6 = kernel.passages(IpAddr::from([0; 16])).unwrap();
                if v6.iter().flat_map(|it| &it.gateways).count() == 2 {
                    break v6;
                }
                assert!(Instant::now() < deadline, "{v6:#?}");
                thread::sleep(Duration::from_millis(10));
            };
            assert!(v6.contains(&passage("2001:db8::/64", &[], false, 254)));
            assert!(v6.contains(&passage("2001:db8::1/128", &[], true, 255)));
        });
    }

    #[test]
    fn each_question_of_many_has_its_own_answer() {
        in_a_network(|| {
            let mut kernel = DeadEnds::new(RouteKind::Prohibit);
            kernel.try_change().unwrap();
            let wrong = IpNet::new([192, 0, 2, 7].into(), 24).unwrap();
            let mut nets = vec![wrong; 200];
            nets[100] = net("192.0.2.7/32");
            nets[150] = net("2001:db8::/64");
            let answers = kernel.add(&nets).unwrap();
            let done = answers.iter().filter(|answer| answer.is_ok());
            assert_eq!((done.count(), answers.len()), (2, 200));
            assert!(answers[100].is_ok() && answers[150].is_ok());
            assert_eq!(answers[0], Err(Errno::EINVAL), "host bits are set");
            let listed = kernel.list().unwrap();
            let nets: Vec<IpNet> = listed.iter().map(|route| route.to).collect();
            assert_eq!(nets, [net("192.0.2.7/32"), net("2001:db8::/64")]);
            ip("route add 198.51.100.0/24 dev lo");
            let addresses = ["198.51.100.9", "192.0.2.7", "2001:db8::9", "203.0.113.7"];
            let addresses = addresses.map(|address| address.parse().unwrap());
            let out = Course::By(passage("198.51.100.0/24", &[], false, 254));
            let nowhere = || Course::Nowhere;
            assert_eq!(
                kernel.look_up(&addresses).unwrap(),
                [out, nowhere(), nowhere(), nowhere()]
            );
            assert_eq!(kernel.add(&nets).unwrap(), [Err(Errno::EEXIST); 2]);
            assert_eq!(kernel.remove(&nets).unwrap(), [Ok(()); 2]);
            assert_eq!(kernel.remove(&nets).unwrap(), [Ok(()); 2]);
            assert_eq!(kernel.list().unwrap(), []);
        });
    }

    /// `struct rtmsg`, a destination, and two next hops with a gateway each.
    fn answer() -> Vec<u8> {
        let mut bytes = vec![2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        bytes.extend([8, 0, 1, 0, 192, 0, 2, 0]);
        bytes.extend([36, 0, 9, 0]);
        for last in [3, 4] {
            bytes.extend([16, 0, 0, 0, 2, 0, 0, 0, 8, 0, 5, 0, 10, 9, 0, last]);
        }
        bytes
    }

    #[test]
    fn next_hops_are_read_up_to_the_first_that_makes_no_sense() {
        let read = |bytes: &[u8]| read_passage(bytes, AddressFamily::Inet).unwrap();
        let both = passage("192.0.2.0/24", &["10.9.0.3", "10.9.0.4"], false, 254);
        assert_eq!(read(&answer()), both);
        for length in [0, 7, 255] {
            let mut bytes = answer();
            bytes[40] = length;
            assert_eq!(read(&bytes).gateways, both.gateways[..1], "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            at in 0_usize..64,
        ) {
            for (to, from) in bytes.iter_mut().take(at).zip(answer()) {
                *to = from;
            }
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let _ = read_ours(&bytes, family);
                let _ = read_passage(&bytes, family);
            }
        }
    }
}
