//! [`Routes`]: routes to single hosts that somebody has set by hand, and taking one away.
//!
//! Only what `ip route add` and `route add -host` leave in the main table: a route that refuses (unreachable, blackhole,
//! prohibit) or leads to a gateway. What they are for is for the caller.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::constants::NETLINK_ROUTE;
use nix::errno::Errno;

use super::facts::{ask, attributes};
use super::netlink::{Answered, Conversation};
use super::{Error, NetlinkError};

/// The kernel, asked for routes. Sees the network namespace of the thread that first asks.
pub struct Routes {
    kernel: Conversation,
}

/// A route to one address, set by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRoute {
    /// Where it leads.
    pub address: IpAddr,
    /// How.
    pub way: Way,
    /// Its priority; 0 where it has none.
    metric: u32,
}

/// What becomes of packets on a [`HostRoute`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Refused, and the sender is told: what `route add -host … reject` makes.
    Unreachable,
    /// Dropped.
    Blackhole,
    /// Refused as forbidden.
    Prohibit,
    /// Handed to this host.
    Via(IpAddr),
}

/// What can be kept, far beyond what hosts have.
pub(super) const MAX_ROUTES: usize = 1 << 20;

// include/uapi/linux/rtnetlink.h
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

/// Bytes of `struct rtmsg`.
pub(super) const HEADER: usize = 12;

impl Routes {
    /// Asks nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            kernel: Conversation::new(NETLINK_ROUTE),
        }
    }

    /// Every such route, each once.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn list(&mut self) -> Result<Vec<HostRoute>, Error> {
        let question = || RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let mut routes = ask(&mut self.kernel, "routes", MAX_ROUTES, question, read)?;
        routes.sort_unstable();
        routes.dedup();
        Ok(routes)
    }

    /// Takes a route away; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's, if it refuses.
    pub fn remove(&mut self, route: &HostRoute) -> Result<(), NetlinkError> {
        let question = RouteNetlinkMessage::DelRoute(route.message());
        match self.kernel.ask(question, NLM_F_ACK, |_| {})? {
            Answered::Whole | Answered::Interrupted | Answered::Refused(Errno::ESRCH) => Ok(()),
            Answered::Refused(errno) => Err(NetlinkError::Refused(errno.into())),
        }
    }
}

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl HostRoute {
    /// What names this route and no other one.
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let (family, length) = match self.address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header = RouteHeader {
            address_family: family,
            destination_prefix_length: length,
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Boot,
            // Any: the scope follows from the rest.
            scope: RouteScope::NoWhere,
            kind: match self.way {
                Way::Unreachable => RouteType::Unreachable,
                Way::Blackhole => RouteType::BlackHole,
                Way::Prohibit => RouteType::Prohibit,
                Way::Via(_) => RouteType::Unicast,
            },
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Destination(attribute(self.address))];
        if let Way::Via(gateway) = self.way {
            let gateway = RouteAttribute::Gateway(attribute(gateway));
            message.attributes.push(gateway);
        }
        if self.metric != 0 {
            let metric = RouteAttribute::Priority(self.metric);
            message.attributes.push(metric);
        }
        message
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable => f.write_str("unreachable"),
            Self::Blackhole => f.write_str("blackhole"),
            Self::Prohibit => f.write_str("prohibit"),
            Self::Via(gateway) => write!(f, "via {gateway}"),
        }
    }
}

pub(super) fn attribute(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// Reads a route, if it is one to a single host, set by hand in the main table.
fn read(answer: &[u8]) -> Option<HostRoute> {
    let header = RouteHeader::parse(answer).ok()?;
    let by_hand = header.protocol == RouteProtocol::Boot && header.tos == 0;
    if !by_hand || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let length = match header.address_family {
        AddressFamily::Inet => 32,
        AddressFamily::Inet6 => 128,
        _ => return None,
    };
    if header.destination_prefix_length != length || header.source_prefix_length != 0 {
        return None;
    }
    let (mut destination, mut gateway, mut metric) = (None, None, 0);
    for (kind, value) in attributes(answer, HEADER) {
        match kind {
            RTA_DST => destination = address(value),
            RTA_GATEWAY => gateway = address(value),
            RTA_PRIORITY => metric = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    let way = match (header.kind, gateway) {
        (RouteType::Unreachable, _) => Way::Unreachable,
        (RouteType::BlackHole, _) => Way::Blackhole,
        (RouteType::Prohibit, _) => Way::Prohibit,
        (RouteType::Unicast, Some(gateway)) => Way::Via(gateway),
        _ => return None,
    };
    Some(HostRoute {
        address: destination?,
        way,
        metric,
    })
}

pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
    use nix::sched::{CloneFlags, unshare};
    use proptest::prelude::*;

    use super::*;

    fn route(address: &str, way: Way, metric: u32) -> HostRoute {
        HostRoute {
            address: address.parse().unwrap(),
            way,
            metric,
        }
    }

    /// `struct rtmsg` and a destination, as `ip route add unreachable 192.0.2.7` leads to.
    fn answer(change: impl Fn(&mut [u8])) -> Vec<u8> {
        let mut bytes = vec![2, 32, 0, 0, 254, 3, 0, 7, 0, 0, 0, 0];
        bytes.extend([8, 0, 1, 0, 192, 0, 2, 7]);
        change(&mut bytes);
        bytes
    }

    #[test]
    fn a_route_of_others_is_none() {
        let plain = route("192.0.2.7", Way::Unreachable, 0);
        assert_eq!(read(&answer(|_| {})), Some(plain));
        let mut with_metric = answer(|_| {});
        with_metric.extend([8, 0, 6, 0]);
        with_metric.extend(5_u32.to_ne_bytes());
        assert_eq!(read(&with_metric), Some(HostRoute { metric: 5, ..plain }));
        for (what, at, value) in [
            ("of a prefix", 1, 24),
            ("in a table of its own", 4, 5),
            ("of a routing daemon", 5, 186),
            ("of the kernel", 5, 2),
            ("without a gateway", 7, 1),
            ("to ourselves", 7, 2),
        ] {
            assert_eq!(read(&answer(|bytes| bytes[at] = value)), None, "{what}");
        }
    }

    #[test]
    fn what_was_found_is_taken_away_and_nothing_else() {
        let in_a_namespace = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("the tests run as root");
            let mut routes = Routes::new();
            let ours = [
                route("192.0.2.7", Way::Unreachable, 0),
                route("192.0.2.7", Way::Blackhole, 7),
                route("192.0.2.8", Way::Prohibit, 0),
                // The kernel's own choice for IPv6.
                route("2001:db8::7", Way::Unreachable, 1024),
            ];
            for route in &ours {
                let mut message = route.message();
                message.header.scope = RouteScope::Universe;
                let question = RouteNetlinkMessage::NewRoute(message);
                let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
                let answered = routes.kernel.ask(question, flags, |_| {}).unwrap();
                assert_eq!(answered, Answered::Whole);
            }
            assert_eq!(routes.list().unwrap(), ours);
            for gone in [1, 1, 2, 3, 4] {
                routes.remove(&ours[gone - 1]).unwrap();
                assert_eq!(routes.list().unwrap(), ours[gone..]);
            }
        };
        thread::spawn(in_a_namespace).join().unwrap();
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
            let mut bytes = bytes;
            for (to, from) in bytes.iter_mut().zip(answer(|_| {})) {
                *to = from;
            }
            let _ = read(&bytes);
        }
    }
}
