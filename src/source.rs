//! Whom a ban names: an address, or a prefix of addresses.
//!
//! The smallest word that detection, policy, the responders and history share.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// An address, or a prefix with its host bits cleared. Written without `/32` or `/128` where it is one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpNet);

/// Sources to look up in, in as little room as there can be.
#[derive(Clone, Debug, Default)]
pub struct Sources(Vec<Source>);

/// The text is neither an address nor a prefix.
#[derive(Debug, thiserror::Error)]
#[error("not an IP address or prefix: \"{}\"", .0.escape_default())]
pub struct NotASource(String);

impl Source {
    /// The prefix of `length` bits that `address` lies in; the address alone for a length beyond its bits.
    #[must_use]
    pub fn prefix(address: IpAddr, length: u8) -> Self {
        IpNet::new(address, length).map_or_else(|_| Self::from(address), Self::from)
    }

    /// The address, where this is a single one; otherwise the first of the prefix.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0.addr()
    }

    /// How many leading bits count: 32 or 128 for a single address.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether this is one address.
    #[must_use]
    pub fn is_address(self) -> bool {
        self.0.prefix_len() == self.0.max_prefix_len()
    }

    /// Whether `address` is this source or lies in it.
    #[must_use]
    pub fn covers(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// The same as an `ipnet` value, host bits cleared.
    #[must_use]
    pub fn net(self) -> IpNet {
        self.0
    }
}

/// An IPv4 address that arrives in IPv6 clothes (`::ffff:192.0.2.1`) is the IPv4 address.
impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }
}

/// So is a prefix of such addresses: `::ffff:192.0.2.0/120` is `192.0.2.0/24`.
impl From<IpNet> for Source {
    fn from(net: IpNet) -> Self {
        Self(unmapped(net.trunc()))
    }
}

impl FromStr for Source {
    type Err = NotASource;

    fn from_str(text: &str) -> Result<Self, NotASource> {
        text.parse::<IpAddr>()
            .map(Self::from)
            .or_else(|_| text.parse::<IpNet>().map(Self::from))
            .map_err(|_| NotASource(text.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_address() {
            self.0.addr().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

impl Sources {
    /// These. A million take a tenth of a second: not for the event loop.
    #[must_use]
    pub fn new(mut sources: Vec<Source>) -> Self {
        sources.sort_unstable();
        Self(sources)
    }

    /// Whether exactly this one is among them.
    #[must_use]
    pub fn contains(&self, source: Source) -> bool {
        self.0.binary_search(&source).is_ok()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Source> {
        self.0.iter().copied()
    }
}

/// `::ffff:192.0.2.0/120` as `192.0.2.0/24`: packets of these carry the IPv4 address. Shorter than 96 bits it is no such.
#[must_use]
pub fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(net6) = net else { return net };
    let Some(address) = net6.addr().to_ipv4_mapped() else {
        return net;
    };
    net6.prefix_len()
        .checked_sub(96)
        .and_then(|length| Ipv4Net::new(address, length).ok())
        .map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_addresses_and_prefixes() {
        for (typed, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("192.0.2.7/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7/128", "192.0.2.7"),
            ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.7/95", "::fffe:0:0/95"),
            ("2001:db8::5", "2001:db8::5"),
            ("2001:db8::5/64", "2001:db8::/64"),
        ] {
            assert_eq!(
                typed.parse::<Source>().unwrap().to_string(),
                shown,
                "{typed}"
            );
        }
    }

    #[test]
    fn nonsense_is_named_and_escaped() {
        let error = "10.0.0.\u{1b}[2J"
            .parse::<Source>()
            .unwrap_err()
            .to_string();
        assert_eq!(error, "not an IP address or prefix: \"10.0.0.\\u{1b}[2J\"");
        assert!("10.9.2".parse::<Source>().is_err());
        assert!("192.0.2.7/33".parse::<Source>().is_err());
    }

    #[test]
    fn a_prefix_covers_its_addresses_alone() {
        let prefix = Source::prefix("2001:db8::5".parse().unwrap(), 64);
        assert!(prefix.covers("2001:db8::ffff".parse().unwrap()));
        assert!(!prefix.covers("2001:db8:0:1::1".parse().unwrap()));
        assert!(!prefix.covers("192.0.2.1".parse().unwrap()));
    }
}
