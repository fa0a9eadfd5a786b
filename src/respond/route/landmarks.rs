//! [`Landmarks`]: what a dead end must not cut off, and what it could not cut off, from the routes of this host.
//!
//! Pure: it is handed the routes, and tells of one source at a time.

use std::fmt;
use std::net::IpAddr;

use crate::host::Passage;
use crate::source::Source;

/// The places on the way, by address.
pub(super) struct Landmarks(Vec<(IpAddr, u8, Landmark)>);

/// Why there cannot be a dead end for a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Landmark {
    /// A router of ours lives there.
    Gateway(IpAddr),
    /// It is, or has in it, an address of our own.
    Own(IpAddr),
    /// We are connected to all of this prefix.
    Connected(String),
    /// A narrower route would still lead there.
    Narrower(String),
    /// Packets go by the link that they name, and meet no route.
    LinkLocal,
}

impl Landmarks {
    /// Those that these routes show.
    pub(super) fn of(passages: &[Passage]) -> Self {
        let mut all = Vec::new();
        for passage in passages {
            let (first, length) = (passage.to.network(), passage.to.prefix_len());
            for gateway in &passage.gateways {
                let length = if gateway.is_ipv4() { 32 } else { 128 };
                all.push((*gateway, length, Landmark::Gateway(*gateway)));
            }
            if passage.is_own {
                all.push((first, length, Landmark::Own(first)));
            } else if passage.gateways.is_empty() {
                all.push((first, length, Landmark::Connected(passage.to_string())));
            } else if passage.is_in_main_table() {
                all.push((first, length, Landmark::Narrower(passage.to_string())));
            }
        }
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    /// What speaks most against a dead end for `source`; `None`: nothing.
    pub(super) fn against(&self, source: Source) -> Option<Landmark> {
        if is_link_local(source) {
            return Some(Landmark::LinkLocal);
        }
        let begin = self.0.partition_point(|(at, ..)| *at < source.address());
        self.0[begin..]
            .iter()
            .take_while(|(at, ..)| source.covers(*at))
            .filter(|(_, length, landmark)| match landmark {
                // Ours takes precedence over a route to the same prefix.
                Landmark::Narrower(_) => *length > source.prefix_len(),
                _ => *length >= source.prefix_len(),
            })
            .map(|(.., landmark)| landmark)
            .min()
            .cloned()
    }
}

fn is_link_local(source: Source) -> bool {
    match source.address() {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

impl fmt::Display for Landmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(gateway) => {
                write!(f, "a route would cut off the gateway {gateway}")
            }
            Self::Own(address) => {
                write!(f, "a route would cut off this host's own {address}")
            }
            Self::Connected(to) => {
                write!(
                    f,
                    "a route would cut off {to}, which this host is connected to"
                )
            }
            Self::Narrower(route) => {
                write!(
                    f,
                    "the narrower route to {route} would still lead there; ban less at a time"
                )
            }
            Self::LinkLocal => f.write_str(
                "packets to link-local addresses go by their link, whatever routes there are",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(to: &str, via: &[&str], is_own: bool, table: u32) -> Passage {
        Passage {
            to: to.parse().unwrap(),
            gateways: via.iter().map(|via| via.parse().unwrap()).collect(),
            is_own,
            table,
        }
    }

    #[test]
    fn a_source_that_holds_something_we_need_has_no_dead_end() {
        let landmarks = Landmarks::of(&[
            passage("0.0.0.0/0", &["192.0.2.1"], false, 254),
            passage("0.0.0.0/0", &["198.51.100.1", "198.51.100.9"], false, 7),
            passage("0.0.0.0/1", &[], false, 254),
            passage("192.0.2.0/24", &[], false, 254),
            passage("192.0.2.7/32", &[], true, 255),
            passage("10.9.0.2/32", &[], false, 254),
            passage("10.0.0.0/8", &["192.0.2.2"], false, 254),
            passage("10.8.0.0/16", &["192.0.2.3"], false, 7),
            passage("2001:db8:5::/48", &["fe80::1"], false, 254),
            passage("2001:db8::/64", &[], false, 254),
        ]);
        for (source, why) in [
            ("192.0.2.1", "cut off the gateway 192.0.2.1"),
            ("192.0.2.2", "cut off the gateway 192.0.2.2"),
            ("192.0.2.3", "cut off the gateway 192.0.2.3"),
            ("198.51.100.0/28", "cut off the gateway 198.51.100.1"),
            ("198.51.100.9", "cut off the gateway 198.51.100.9"),
            ("192.0.2.4/30", "cut off this host's own 192.0.2.7"),
            ("192.0.2.0/24", "cut off the gateway 192.0.2.1"),
            ("192.0.0.0/8", "cut off the gateway 192.0.2.1"),
            ("10.9.0.2", "cut off 10.9.0.2/32, which"),
            ("10.9.0.0/16", "cut off 10.9.0.2/32, which"),
            ("10.0.0.0/7", "cut off 10.9.0.2/32, which"),
            ("2001:db8::/64", "cut off 2001:db8::/64, which"),
            ("2001:db8::/32", "cut off 2001:db8::/64, which"),
            (
                "2001:db8:4::/46",
                "route to 2001:db8:5::/48 via fe80::1 would",
            ),
            ("fe80::1", "by their link"),
            ("fe80::2", "by their link"),
        ] {
            let found = landmarks.against(source.parse().unwrap());
            let said = found.map(|landmark| landmark.to_string());
            let said = said.unwrap_or_default();
            assert!(said.contains(why), "{source}: {said}");
        }
        for source in [
            "192.0.2.5",
            "192.0.2.128/25",
            "203.0.113.0/24",
            "10.8.0.0/24",
            "10.8.0.0/16",
            "2001:db8:5::/48",
            "2001:db8::7",
            "2001:db8:0:1::/64",
        ] {
            assert_eq!(landmarks.against(source.parse().unwrap()), None, "{source}");
        }
    }
}
