//! [`Facts`]: this host's addresses and links at one moment, and how the kernel is asked for them.
//!
//! Pure but for [`list`]. When to ask is for `host`; what to make of it for `guard`.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLA_HEADER_SIZE, NLM_F_DUMP, NlasIterator};
use netlink_packet_route::address::{AddressHeader, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::gateways::Gateway;
use super::netlink::{Answered, Conversation};
use super::{Error, NetlinkError};

/// This host's addresses, links and gateways at one moment. Equal when they would answer every question alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    addresses: Vec<Address>,
    links: Vec<Link>,
    /// Sorted.
    own: Vec<IpAddr>,
    /// Of these every address is the host's own.
    local: Vec<IpNet>,
    on_link: Vec<IpNet>,
    gateways: Vec<Gateway>,
}

/// One of this host's unicast addresses. Tentative IPv6 ones are among them: they will be used in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// What is reached directly through the link on its account, host bits cleared. On a point-to-point link that is
    /// the peer, and `ip` need not lie in it.
    pub on_link: IpNet,
    /// The index of the link that carries it.
    pub link: u32,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name; escaped where it is not UTF-8.
    pub name: String,
    /// Whether it is a loopback interface.
    pub loopback: bool,
}

/// What can be kept, far beyond what hosts have.
const MAX_ADDRESSES: usize = 1 << 18;
const MAX_LINKS: usize = 1 << 16;

/// A list that was interrupted is asked for this often. The last one is taken as it is: the change that interrupted
/// it has an event of its own, which makes for another list.
const ATTEMPTS: usize = 8;

// include/uapi/linux/if_addr.h and if_link.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;

/// Bytes of `struct ifaddrmsg` and `struct ifinfomsg`.
const ADDRESS_HEADER: usize = 8;
const LINK_HEADER: usize = 16;

impl Facts {
    /// Draws the conclusions from plain lists, in any order.
    #[must_use]
    pub fn new(mut addresses: Vec<Address>, mut links: Vec<Link>) -> Self {
        addresses.sort_unstable();
        addresses.dedup();
        links.sort_unstable();
        links.dedup();
        let mut own: Vec<IpAddr> = addresses.iter().map(|address| address.ip).collect();
        own.dedup();

        let is_loopback = |index| {
            links
                .binary_search_by_key(&index, |link: &Link| link.index)
                .is_ok_and(|at| links.get(at).is_some_and(|link| link.loopback))
        };
        let (loopback, others): (Vec<&Address>, Vec<&Address>) = addresses
            .iter()
            .partition(|address| is_loopback(address.link));
        // Every address of an IPv4 prefix on loopback is the host's own, not only the one that was set: all of
        // 127.0.0.0/8 (net/ipv4/fib_frontend.c, fib_add_ifaddr: RTN_LOCAL for the prefix if IFF_LOOPBACK).
        let local = loopback
            .iter()
            .map(|address| address.on_link)
            .filter(|net| net.addr().is_ipv4() && net.prefix_len() < net.max_prefix_len());
        // A full-length prefix says nobody is reached through it, unless it is a peer's.
        let on_link = others
            .iter()
            .filter(|address| address.on_link != IpNet::from(address.ip))
            .map(|address| address.on_link);
        Self {
            own,
            local: sorted(local),
            on_link: sorted(on_link),
            addresses,
            links,
            gateways: Vec::new(),
        }
    }

    /// The same where the kernel takes these prefixes for this host's own too.
    #[must_use]
    pub fn with_local(mut self, prefixes: Vec<IpNet>) -> Self {
        let (addresses, prefixes): (Vec<IpNet>, Vec<IpNet>) = prefixes
            .into_iter()
            .partition(|net| net.prefix_len() == net.max_prefix_len());
        self.own.extend(addresses.iter().map(IpNet::addr));
        self.own.sort_unstable();
        self.own.dedup();
        self.local = sorted(self.local.into_iter().chain(prefixes));
        self
    }

    /// The same with these gateways.
    #[must_use]
    pub fn with_gateways(self, gateways: Vec<Gateway>) -> Self {
        Self { gateways, ..self }
    }

    /// The routers that default routes lead to, of all routing tables.
    #[must_use]
    pub fn gateways(&self) -> &[Gateway] {
        &self.gateways
    }

    /// Whether a packet to `address` is for this host itself.
    #[must_use]
    pub fn is_own(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.own.binary_search(&address).is_ok()
            || self.local.iter().any(|net| net.contains(&address))
    }

    /// One of this host's own addresses that lies in `net`, if any does.
    #[must_use]
    pub fn own_within(&self, net: &IpNet) -> Option<IpAddr> {
        let first = self.own.partition_point(|own| *own < net.network());
        let own = self.own.get(first).copied();
        let local = || {
            let meets = |local: &&IpNet| local.contains(net) || net.contains(*local);
            let local = self.local.iter().find(meets)?;
            Some(local.network().max(net.network()))
        };
        own.filter(|own| net.contains(own)).or_else(local)
    }

    /// Every unicast address, sorted.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Every link, by index.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The prefixes that are reached directly, without a gateway, as far as they follow from addresses: each once,
    /// sorted. Point-to-point peers are among them, loopback is not.
    #[must_use]
    pub fn on_link(&self) -> &[IpNet] {
        &self.on_link
    }

    /// Whether `net` has a part in common with a prefix of [`on_link`](Self::on_link): a neighbour may live there.
    #[must_use]
    pub fn meets_link(&self, net: &IpNet) -> bool {
        self.on_link
            .iter()
            .any(|link| link.contains(net) || net.contains(link))
    }

    /// The index of the link of this name.
    #[must_use]
    pub fn index_of(&self, name: &str) -> Option<u32> {
        let link = self.links.iter().find(|link| link.name == name)?;
        Some(link.index)
    }

    /// The name of the link of this index.
    #[must_use]
    pub fn name_of(&self, index: u32) -> Option<&str> {
        let link = self.links.iter().find(|link| link.index == index)?;
        Some(&link.name)
    }
}

/// Asks the kernel for everything. What cannot be read in an answer is left out.
pub(super) fn list(kernel: &mut Conversation) -> Result<Facts, Error> {
    let question = || {
        let mut message = LinkMessage::default();
        // Statistics are most of an answer, and none of our business.
        message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
        RouteNetlinkMessage::GetLink(message)
    };
    let links = ask(kernel, "links", MAX_LINKS, question, read_link)?;
    let question = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let addresses = ask(kernel, "addresses", MAX_ADDRESSES, question, read_address)?;
    Ok(Facts::new(addresses, links))
}

/// Asks for one list, anew where it was interrupted. What `read` makes nothing of is left out.
pub(super) fn ask<T>(
    kernel: &mut Conversation,
    what: &'static str,
    limit: usize,
    question: impl Fn() -> RouteNetlinkMessage,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        found.clear();
        let answered = kernel
            .ask(question(), NLM_F_DUMP, |answer| {
                // One more than the limit is kept, to tell.
                if found.len() <= limit {
                    found.extend(read(answer));
                }
            })
            .map_err(|cause| Error::List { what, cause })?;
        if found.len() > limit {
            return Err(Error::TooMany { what, limit });
        }
        match answered {
            Answered::Whole => break,
            Answered::Interrupted => {}
            Answered::Refused(errno) => {
                let cause = NetlinkError::Refused(errno.into());
                return Err(Error::List { what, cause });
            }
        }
    }
    Ok(found)
}

/// Reads an address. Only two attributes count, and they are read here: a stricter reader may stumble over others
/// that a newer kernel adds.
fn read_address(answer: &[u8]) -> Option<Address> {
    let header = AddressHeader::parse(answer).ok()?;
    let [mut local, mut address] = [None; 2];
    for (kind, value) in attributes(answer, ADDRESS_HEADER) {
        let ip = match header.family {
            AddressFamily::Inet => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
            AddressFamily::Inet6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
            _ => None,
        };
        match kind {
            IFA_LOCAL => local = ip,
            IFA_ADDRESS => address = ip,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer and the prefix length is the peer's; otherwise both are the
    // same, or IFA_LOCAL is absent, as it always is for IPv6 without a peer (include/uapi/linux/if_addr.h).
    let ip = local.or(address)?;
    let reached = address.unwrap_or(ip);
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    Some(Address {
        ip,
        on_link: IpNet::new(reached, header.prefix_len).ok()?.trunc(),
        link: header.index,
    })
}

fn read_link(answer: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(answer).ok()?;
    let (_, name) = attributes(answer, LINK_HEADER).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(Link {
        index: header.index,
        name: match std::str::from_utf8(name) {
            Ok(name) => name.to_owned(),
            Err(_) => name.escape_ascii().to_string(),
        },
        loopback: header.flags.contains(LinkFlags::Loopback),
    })
}

/// The attributes behind a message's fixed part of `header` bytes, up to the first that cannot be read.
pub(super) fn attributes(answer: &[u8], header: usize) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(answer.get(header..).unwrap_or_default())
        .map_while(Result::ok)
        .filter_map(|attribute| {
            let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
            // `NlaBuffer::value` lends from itself, not from the message.
            Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..end)?))
        })
}

fn sorted(nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> = nets.collect();
    nets.sort_unstable();
    nets.dedup();
    nets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(ip: &str, on_link: &str, link: u32) -> Address {
        Address {
            ip: ip.parse().unwrap(),
            on_link: on_link.parse().unwrap(),
            link,
        }
    }

    fn facts() -> Facts {
        let link = |index, name: &str, loopback| Link {
            index,
            name: name.to_owned(),
            loopback,
        };
        Facts::new(
            vec![
                address("192.0.2.7", "192.0.2.0/24", 2),
                address("2001:db8::7", "2001:db8::/64", 2),
                address("2001:db8::8", "2001:db8::/64", 2),
                address("10.0.0.1", "10.0.0.2/32", 3),
                address("203.0.113.5", "203.0.113.5/32", 2),
                address("127.0.0.1", "127.0.0.0/8", 1),
                address("::1", "::1/128", 1),
            ],
            vec![link(2, "eth0", false), link(1, "lo", true)],
        )
    }

    #[test]
    fn own_is_what_packets_to_this_host_are_sent_to() {
        let facts = facts();
        for (ip, own) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.2.8", false),
            ("192.0.2.255", false),
            ("2001:db8::8", true),
            ("2001:db8::9", false),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("127.9.9.9", true),
            ("::1", true),
            ("0.0.0.0", false),
        ] {
            assert_eq!(facts.is_own(ip.parse().unwrap()), own, "{ip}");
        }
    }

    #[test]
    fn a_prefix_that_is_local_by_a_route_is_own_and_so_is_what_meets_it() {
        let local = ["198.51.100.0/25", "2001:db8:5::/64", "203.0.113.99/32"];
        let facts = facts().with_local(local.map(|net| net.parse().unwrap()).to_vec());
        for (ip, own) in [
            ("198.51.100.7", true),
            ("198.51.100.200", false),
            ("2001:db8:5::99", true),
            ("203.0.113.99", true),
            ("203.0.113.98", false),
        ] {
            assert_eq!(facts.is_own(ip.parse().unwrap()), own, "{ip}");
        }
        for (net, own) in [
            ("198.51.100.64/26", Some("198.51.100.64")),
            ("198.51.0.0/16", Some("198.51.100.0")),
            ("198.51.100.128/25", None),
            ("203.0.113.96/30", Some("203.0.113.99")),
            ("2001:db8:5::/48", Some("2001:db8:5::")),
            ("2001:db8:6::/64", None),
            ("192.0.2.0/24", Some("192.0.2.7")),
            ("192.0.2.8/29", None),
        ] {
            let found = facts.own_within(&net.parse().unwrap());
            assert_eq!(found, own.map(|own| own.parse().unwrap()), "{net}");
        }
    }

    #[test]
    fn neighbours_live_on_the_link_and_not_behind_it() {
        let facts = facts();
        for (net, meets) in [
            ("2001:db8::/64", true),
            ("2001:db8::/48", true),
            ("2001:db8::5/128", true),
            ("2001:db8:1::/64", false),
            ("192.0.2.128/25", true),
            ("10.0.0.2/32", true),
            ("10.0.0.1/32", false),
            ("203.0.113.5/32", false),
            ("127.0.0.0/8", false),
        ] {
            assert_eq!(facts.meets_link(&net.parse().unwrap()), meets, "{net}");
        }
    }

    #[test]
    fn order_and_repetition_make_no_other_facts() {
        let facts = facts();
        let mut addresses = facts.addresses().to_vec();
        addresses.reverse();
        addresses.extend(facts.addresses());
        assert_eq!(Facts::new(addresses, facts.links().to_vec()), facts);
        assert_ne!(Facts::new(Vec::new(), facts.links().to_vec()), facts);
    }

    #[test]
    fn links_have_a_name_and_a_number() {
        let facts = facts();
        assert_eq!(facts.index_of("eth0"), Some(2));
        assert_eq!(facts.index_of("eth9"), None);
        assert_eq!(facts.name_of(1), Some("lo"));
    }

    #[test]
    fn a_peer_is_not_own() {
        // ip addr add 10.0.0.1 peer 10.0.0.2/30
        let mut bytes = vec![2, 30, 0x80, 0, 3, 0, 0, 0];
        bytes.extend([8, 0, 1, 0, 10, 0, 0, 2]);
        bytes.extend([8, 0, 2, 0, 10, 0, 0, 1]);
        assert_eq!(
            read_address(&bytes),
            Some(address("10.0.0.1", "10.0.0.0/30", 3))
        );
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..100),
            family in prop::sample::select(vec![2_u8, 10, 0, 255]),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = family;
            }
            let _ = read_address(&bytes);
            let _ = read_link(&bytes);
        }
    }
}
