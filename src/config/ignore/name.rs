//! [`HostName`]: a name in an ignore list, which stands for the addresses that it leads to.

use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;

use super::line::prefix;

/// The full name of a host, in small letters: `office.example.net`. Nothing that could be read as an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Arc<str>);

/// Whom an entry of an ignore list names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// An address or prefix; never of length 0, without host bits.
    Net(IpNet),
    /// Whoever a name leads to.
    Name(HostName),
}

/// The longest name of the DNS, and the longest part of one.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

impl HostName {
    /// Reads a name of at least two parts. `None`: it is none, or one that would be looked for in other domains than it says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.chars().all(is_plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let (rest, last) = text.rsplit_once('.')?;
        // inet_aton(3), and with it the resolver, takes `10.0x7f` for an address.
        let is_top = last.len() > 1 && last.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_name = text.len() <= MAX_NAME && is_top && is_label(last);
        (is_name && rest.split('.').all(is_label)).then(|| Self(text.to_ascii_lowercase().into()))
    }

    /// As it is looked up.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Whom {
    /// What an admin wrote.
    ///
    /// # Errors
    /// Cause and remedy: it is no address, prefix or name, or would ignore everybody.
    pub fn parse(text: &str) -> Result<Self, String> {
        match HostName::parse(text) {
            Some(name) => Ok(Self::Name(name)),
            None => prefix(text).map(Self::Net),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_name_is_one_and_what_may_be_an_address_is_none() {
        for name in [
            "office.example.net",
            "a_b-1.xn--bcher-kva.example",
            "192.0.2.7.example.net",
            "deadbeef.cafe",
        ] {
            assert_eq!(HostName::parse(name).unwrap().as_str(), name);
        }
        let capital = HostName::parse("Office.Example.NET").unwrap();
        assert_eq!(capital.to_string(), "office.example.net");
        for text in [
            "",
            "localhost",
            "office.example.net.",
            ".example.net",
            "office..net",
            "-x.example.net",
            "x-.example.net",
            "10.0.0.l",
            "10.9.2",
            "10.0x7f",
            "192.0.2.7",
            "2001:db8::1",
            "office.example.net/24",
            "b\u{fc}ro.example.net",
            "two.example.net names.example.net",
            "x.example\u{1b}",
        ] {
            assert_eq!(HostName::parse(text), None, "{text}");
        }
        assert!(HostName::parse(&format!("{}.net", "x".repeat(64))).is_none());
        assert!(HostName::parse(&format!("{}net", "x.".repeat(130))).is_none());
    }

    proptest! {
        #[test]
        fn no_address_is_a_name(address in any::<[u8; 4]>(), other in any::<[u8; 16]>()) {
            for address in [IpAddr::from(address), IpAddr::from(other)] {
                let net = IpNet::from(address);
                prop_assert_eq!(HostName::parse(&address.to_string()), None);
                prop_assert_eq!(Whom::parse(&address.to_string()).ok(), prefix(&net.to_string()).ok().map(Whom::Net));
            }
        }
    }
}
