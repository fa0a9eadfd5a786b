//! The routers that default routes lead to, in whatever routing table.
//!
//! Facts only. When to ask is for `host`.

use std::net::IpAddr;

use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Error;
use super::dead_ends::{NEXTHOP, RTA_MULTIPATH, gateway, nexthops};
use super::facts::{ask, attributes};
use super::netlink::Conversation;
use super::routes::HEADER;

/// A router that a default route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// Its address; of another family than the route's where that says `via inet6`.
    pub address: IpAddr,
    /// The index of the link that it is reached through; 0: the route does not tell.
    pub link: u32,
}

/// Default routes that can be kept, far beyond what hosts have.
const MAX_DEFAULTS: usize = 4096;

// include/uapi/linux/rtnetlink.h
const RTA_OIF: u16 = 4;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

const RTN_LOCAL: u8 = 2;

/// Bytes of `struct nlmsghdr`, and where its type, the length of the destination's prefix and the route's own type stand in a
/// message about a route.
const MESSAGE: usize = 16;
const MESSAGE_TYPE: usize = 4;
const DST_LEN: usize = MESSAGE + 1;
const TYPE: usize = MESSAGE + 7;

/// All of them, each once for each of its links.
///
/// `kernel` must be strict: it then leaves out by itself the routes that lead nowhere, of which ours are many.
pub(super) fn list(kernel: &mut Conversation) -> Result<Vec<Gateway>, Error> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let question = || {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.kind = RouteType::Unicast;
            RouteNetlinkMessage::GetRoute(message)
        };
        let found = ask(kernel, "routes", MAX_DEFAULTS, question, read)?;
        all.extend(found.into_iter().flatten());
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Whether what the kernel tells of a change may be about a default route, about one that makes addresses our own, or about
/// something else than routes.
pub(super) fn may_concern(event: &[u8]) -> bool {
    let length = event.first_chunk().map(|it| u32::from_ne_bytes(*it));
    let kind = event.get(MESSAGE_TYPE..).and_then(<[u8]>::first_chunk);
    let kind = kind.map(|it| u16::from_ne_bytes(*it));
    let is_alone = length.and_then(|it| usize::try_from(it).ok()) == Some(event.len());
    let is_route = matches!(kind, Some(RTM_NEWROUTE | RTM_DELROUTE));
    let is_local = event.get(TYPE) == Some(&RTN_LOCAL);
    let is_default = event.get(DST_LEN).is_none_or(|length| *length == 0);
    !(is_alone && is_route) || is_default || is_local
}

/// The routers of a route, if it is a default one that leads somewhere.
fn read(answer: &[u8]) -> Option<Vec<Gateway>> {
    let header = RouteHeader::parse(answer).ok()?;
    if header.destination_prefix_length != 0 || header.kind != RouteType::Unicast {
        return None;
    }
    let mut found = Vec::new();
    let (mut address, mut link) = (None, 0);
    for (kind, value) in attributes(answer, HEADER) {
        match kind {
            RTA_OIF => link = index(value),
            RTA_MULTIPATH => found.extend(nexthops(value).filter_map(hop)),
            _ => address = gateway(kind, value).or(address),
        }
    }
    found.extend(address.map(|address| Gateway { address, link }));
    Some(found)
}

/// One of several next hops.
fn hop(bytes: &[u8]) -> Option<Gateway> {
    let address = attributes(bytes, NEXTHOP).find_map(|(kind, value)| gateway(kind, value))?;
    Some(Gateway {
        address,
        // Behind the length, the flags and the weight of `struct rtnexthop`.
        link: bytes.get(4..).map_or(0, index),
    })
}

fn index(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |it| u32::from_ne_bytes(*it))
}

#[cfg(test)]
mod tests {
    use netlink_sys::constants::NETLINK_ROUTE;
    use nix::net::if_::if_nametoindex;
    use proptest::prelude::*;

    use super::super::tests::{in_a_network, ip};
    use super::*;

    #[test]
    fn the_gateways_of_all_default_routes_are_found_and_no_others() {
        in_a_network(|| {
            for link in ["v0", "v1"] {
                ip(&format!("link add {link} type veth peer name {link}p"));
                ip(&format!("link set {link} up"));
                ip(&format!("link set {link}p up"));
            }
            ip("addr add 10.9.0.1/24 dev v0");
            ip("addr add 10.8.0.1/24 dev v1");
            ip("addr add 2001:db8::1/64 dev v0 nodad");
            ip("route add default via 10.9.0.2");
            ip("route add default metric 7 nexthop via 10.9.0.3 nexthop via 10.8.0.4");
            ip("route add default via inet6 2001:db8::5 dev v0 metric 8");
            ip("route add default via 10.8.0.6 table 100");
            ip("route add default dev v1 metric 9");
            ip("route add unreachable default metric 100");
            ip("route add 192.0.2.0/24 via 10.9.0.7");
            ip("route add 2001:db8:7::/48 via 2001:db8::7");
            ip("-6 route add default via fe80::8 dev v1");
            ip("-6 route add default metric 7 nexthop via 2001:db8::9 nexthop via 2001:db8::a");
            let [v0, v1] = ["v0", "v1"].map(|name| if_nametoindex(name).unwrap());
            let mut expected = [
                ("10.9.0.2", v0),
                ("10.9.0.3", v0),
                ("10.8.0.4", v1),
                ("2001:db8::5", v0),
                ("10.8.0.6", v1),
                ("fe80::8", v1),
                ("2001:db8::9", v0),
                ("2001:db8::a", v0),
            ]
            .map(|(address, link)| Gateway {
                address: address.parse().unwrap(),
                link,
            });
            expected.sort_unstable();
            let mut kernel = Conversation::strict(NETLINK_ROUTE);
            assert_eq!(list(&mut kernel).unwrap(), expected);
        });
    }

    #[test]
    fn a_change_of_another_route_does_not_concern_us() {
        let event = |kind: u16, dst_len: u8| {
            let mut bytes = Vec::from(28_u32.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend([2, dst_len, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
            bytes
        };
        for (kind, dst_len, concerns) in [
            (RTM_NEWROUTE, 32, false),
            (RTM_DELROUTE, 1, false),
            (RTM_NEWROUTE, 0, true),
            (RTM_DELROUTE, 0, true),
            // A link, an address.
            (16, 32, true),
            (20, 32, true),
        ] {
            assert_eq!(may_concern(&event(kind, dst_len)), concerns, "{kind}");
        }
        let mut local = event(RTM_NEWROUTE, 24);
        local[TYPE] = RTN_LOCAL;
        assert!(may_concern(&local));
        let mut two = event(RTM_NEWROUTE, 32);
        two.extend(event(RTM_NEWROUTE, 0));
        assert!(may_concern(&two));
        assert!(may_concern(&[]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = may_concern(&bytes);
            let _ = read(&bytes);
            for (to, from) in bytes.iter_mut().zip([2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]) {
                *to = from;
            }
            let _ = read(&bytes);
        }
    }
}
