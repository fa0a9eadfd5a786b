//! [`Friend`], the reasons for never banning somebody, and [`HostFriends`], those that follow from facts about this host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::HostFact;
use crate::host::{Facts, Login, LoginBy, Resolver};
use crate::source::Source;

/// Why a source is never banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Friend {
    /// No host of its own: unspecified, loopback, multicast, broadcast.
    Special,
    /// One of this host's own addresses.
    Own(IpAddr),
    /// In an ignore list, and where that says so.
    Ignored(String),
    /// Where a name in an ignore list leads to.
    Named {
        /// The name.
        name: String,
        /// Its address.
        address: IpAddr,
        /// Where it is written.
        place: String,
    },
    /// A router that a default route leads to.
    Gateway {
        /// Its address.
        address: IpAddr,
        /// The name of the link that it is on, where that is known.
        link: Option<String>,
    },
    /// A name server.
    Resolver {
        /// Its address.
        address: IpAddr,
        /// The file that names it.
        file: PathBuf,
    },
    /// Somebody who is logged in.
    Login(Login),
}

/// Single addresses that are never banned because of what they are to this host.
#[derive(Debug, Default)]
pub(super) struct HostFriends(BTreeMap<IpAddr, Vec<Friend>>);

impl Friend {
    /// Whether not even an admin who insists may ban it: that would cut off this host from itself, or nobody in particular.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        matches!(self, Self::Special | Self::Own(_))
    }
}

impl HostFriends {
    /// The gateways and name servers, as far as the configuration has them spared.
    pub(super) fn of(facts: &Facts, resolvers: &[Resolver], spared: &BTreeSet<HostFact>) -> Self {
        let mut friends = Self::default();
        if spared.contains(&HostFact::Gateways) {
            for gateway in facts.gateways() {
                let address = gateway.address.to_canonical();
                let link = facts.name_of(gateway.link).map(str::to_owned);
                friends.add(address, Friend::Gateway { address, link });
            }
        }
        if spared.contains(&HostFact::Resolvers) {
            for resolver in resolvers {
                let address = resolver.address.to_canonical();
                let file = resolver.file.clone();
                friends.add(address, Friend::Resolver { address, file });
            }
        }
        friends
    }

    /// Those from where somebody is logged in, as far as the configuration has them spared.
    pub(super) fn logged_in(logins: &[Login], spared: &BTreeSet<HostFact>) -> Self {
        let mut friends = Self::default();
        if spared.contains(&HostFact::Ssh) {
            for login in logins {
                friends.add(login.from.to_canonical(), Friend::Login(login.clone()));
            }
        }
        friends
    }

    fn add(&mut self, address: IpAddr, friend: Friend) {
        let reasons = self.0.entry(address).or_default();
        if !reasons.contains(&friend) {
            reasons.push(friend);
        }
    }

    /// Those that `source` is or holds, each with all that it is.
    pub(super) fn within(&self, source: Source) -> impl Iterator<Item = &Friend> {
        let net = source.net();
        let found = self.0.range(net.network()..=net.broadcast());
        found.flat_map(|(_, friends)| friends)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Friend> {
        self.0.values().flatten()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }
}

impl fmt::Display for Friend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special => f.write_str(
                "it is no host's own address (unspecified, loopback, multicast or broadcast)",
            ),
            Self::Own(address) => write!(f, "{address} is this host's own address"),
            Self::Ignored(place) => write!(f, "it is ignored ({place})"),
            Self::Named {
                name,
                address,
                place,
            } => write!(f, "it is ignored ({name} in {place}, which is {address})"),
            Self::Gateway { address, link } => {
                write!(f, "{address} is the default gateway")?;
                link.iter().try_for_each(|link| write!(f, " (dev {link})"))
            }
            Self::Resolver { address, file } => {
                write!(f, "{address} is a name server in {}", file.display())
            }
            Self::Login(Login { from, by }) => match by {
                LoginBy::Session { id, user } => {
                    write!(f, "{user} is logged in from {from} (session {id})")
                }
                LoginBy::Connection { port } => {
                    write!(
                        f,
                        "somebody is logged in from {from} (over SSH, to port {port})"
                    )
                }
            },
        }
    }
}
