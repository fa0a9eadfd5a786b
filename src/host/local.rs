//! The prefixes that are this host's own by a route (`ip route add local 198.51.100.0/24 dev lo`), without an address on a link.
//!
//! Facts only. When to ask is for `host`.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Error;
use super::facts::{ask, attributes};
use super::netlink::Conversation;
use super::routes::HEADER;

/// What can be kept, far beyond what hosts have: each address has such a route too.
const MAX_LOCAL: usize = 1 << 18;

// include/uapi/linux/rtnetlink.h
const RT_TABLE_LOCAL: u8 = 255;
const RTA_DST: u16 = 1;

/// All of them, those of single addresses too. Only the table `local` counts: elsewhere stand routes by which a proxy has packets
/// for everybody delivered here.
///
/// `kernel` must be strict: it then leaves out by itself what is not asked for.
pub(super) fn list(kernel: &mut Conversation) -> Result<Vec<IpNet>, Error> {
    let mut all = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let question = || {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RT_TABLE_LOCAL;
            message.header.kind = RouteType::Local;
            RouteNetlinkMessage::GetRoute(message)
        };
        all.extend(ask(kernel, "routes", MAX_LOCAL, question, read)?);
    }
    Ok(all)
}

/// Where a route leads that makes addresses our own. One for all addresses there are makes none so.
fn read(answer: &[u8]) -> Option<IpNet> {
    let header = RouteHeader::parse(answer).ok()?;
    let is_ours = header.kind == RouteType::Local && header.table == RT_TABLE_LOCAL;
    if !is_ours || header.destination_prefix_length == 0 {
        return None;
    }
    let (_, value) = attributes(answer, HEADER).find(|(kind, _)| *kind == RTA_DST)?;
    let address = match header.address_family {
        AddressFamily::Inet => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
        AddressFamily::Inet6 => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
        _ => return None,
    };
    let net = IpNet::new(address, header.destination_prefix_length).ok()?;
    Some(net.trunc())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Host;
    use super::super::tests::{follow, in_a_network, ip};

    #[test]
    fn what_a_route_makes_our_own_is_followed_and_what_a_proxy_takes_is_not() {
        in_a_network(|| {
            ip("route add local 198.51.100.0/24 dev lo");
            ip("route add local default dev lo table 100");
            ip("-6 route add local default dev lo table 100");
            let mut host = Host::open().unwrap();
            let owns = |host: &Host, text: &str| host.facts().is_own(text.parse().unwrap());
            assert!(owns(&host, "198.51.100.7"));
            assert!(!owns(&host, "203.0.113.7"));
            ip("-6 route add local 2001:db8:5::/64 dev lo");
            follow(&mut host, |facts| {
                facts.is_own("2001:db8:5::9".parse().unwrap())
            });
            assert!(!owns(&host, "2001:db8:6::9"));
            ip("route del local 198.51.100.0/24 dev lo");
            follow(&mut host, |facts| {
                !facts.is_own("198.51.100.7".parse().unwrap())
            });
        });
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = super::read(&bytes);
        }
    }
}
