//! What the table of traps looks like: the set of ports, and the chain that leads TCP connections to them to our listener, where
//! nobody else takes them.
//!
//! Pure. The work is done by `tproxy`: it gives a packet to a listening socket as it is, so that nothing is translated, no
//! connection needs to be tracked for it (a `redirect` would turn that on for the whole host, and have a flood fill the table of
//! connections), and the socket knows to which address and port its visitor came. Where no transparent socket of that address and
//! port listens, the packet goes its usual way: what a daemon that crashed has left behind does nothing.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use nftnl::set::SetKey;

use super::element::Wire;
use super::friends::INTERVAL_FLAG;
use super::shape::{ChainShape, Expr, HOOK_PREROUTING, POLICY_ACCEPT, Rule, SetShape, of_family};

/// The comment that makes a table of traps ours.
pub const TRAP_MARK: &str = "portsentry format 1 of traps";

/// As the set of ports is called.
pub(super) const PORT_SET: &str = "ports";

/// After the DNAT of others (-100): what they hand on is for somebody else by then, or for the port that it is handed to.
const PRIORITY: i32 = -50;

/// nft's number of the type of ports.
const INET_SERVICE: u32 = 13;

/// The number of the loopback interface, in every network namespace.
const LOOPBACK: u32 = 1;

/// `RTN_LOCAL`: an address of this host's own.
const OWN: u32 = 2;

/// Bytes that an interface's name takes.
const NAME_LEN: usize = 16;

/// Which connections are led where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traps {
    /// Ports, in their order, not overlapping.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The names of the interfaces that they come in by; empty: all but loopback.
    pub interfaces: Vec<String>,
    /// The port of the listener at 127.0.0.1; `None`: there is none, here and below.
    pub ipv4: Option<u16>,
    /// The port of the listener at ::1.
    pub ipv6: Option<u16>,
}

impl Traps {
    pub(super) fn set(&self) -> SetShape {
        SetShape {
            key_type: PortKey::TYPE,
            key_len: PortKey::LEN,
            flags: INTERVAL_FLAG,
            ..SetShape::of_keys(false)
        }
    }

    /// The edges of the ranges; where ranges touch, they are one.
    pub(super) fn edges(&self) -> impl Iterator<Item = Wire> {
        let mut ranges: Vec<(u16, Option<u16>)> = Vec::new();
        for range in &self.ports {
            let behind = range.end().checked_add(1);
            match ranges.last_mut() {
                Some((_, end)) if *end == Some(*range.start()) => *end = behind,
                _ => ranges.push((*range.start(), behind)),
            }
        }
        ranges.into_iter().flat_map(|(first, behind)| {
            std::iter::once(Wire::first(first, behind.is_none())).chain(behind.map(Wire::end))
        })
    }

    pub(super) fn chain(&self) -> ChainShape {
        ChainShape {
            name: "prerouting".to_owned(),
            hook: HOOK_PREROUTING,
            priority: PRIORITY,
            kind: "filter".to_owned(),
            policy: POLICY_ACCEPT,
        }
    }

    /// What a socket takes passes: a service's, however short it has been there, and connections that are open or of which
    /// something remains (`wildcard` would not know those that are in TIME_WAIT, which a new connection may follow). What
    /// nobody takes goes to the listener of its family, if it is for this host itself.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let ways = self.ways_in();
        let passes = ways.iter().map(|way| {
            let passes = vec![
                Expr::Socket,
                Expr::AtMost(vec![1]),
                Expr::Counter,
                Expr::Accept,
            ];
            [way.clone(), to_traps(), passes].concat()
        });
        let led = ways.iter().flat_map(|way| {
            self.listeners().map(|listener| {
                let [family, is_family] = of_family(listener.is_ipv6());
                let own = vec![Expr::DestType, Expr::Equal(OWN.to_ne_bytes().to_vec())];
                let is_led = vec![family, is_family, Expr::Lead(listener), Expr::Counter];
                [way.clone(), to_traps(), own, is_led].concat()
            })
        });
        passes.chain(led).collect()
    }

    fn listeners(&self) -> impl Iterator<Item = SocketAddr> {
        let ipv4 = self.ipv4.map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let ipv6 = self.ipv6.map(|port| (Ipv6Addr::LOCALHOST, port).into());
        [ipv4, ipv6].into_iter().flatten()
    }

    /// By which interfaces a packet may come.
    fn ways_in(&self) -> Vec<Rule> {
        if self.interfaces.is_empty() {
            let loopback = LOOPBACK.to_ne_bytes().to_vec();
            return vec![vec![Expr::Interface, Expr::Differs(loopback)]];
        }
        let named = |name: &String| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(NAME_LEN, 0);
            vec![Expr::InterfaceName, Expr::Equal(bytes)]
        };
        self.interfaces.iter().map(named).collect()
    }
}

/// `tcp dport @ports`
fn to_traps() -> Rule {
    let tcp = u8::try_from(libc::IPPROTO_TCP).expect("6");
    vec![
        Expr::Transport,
        Expr::Equal(vec![tcp]),
        Expr::DestPort,
        Expr::Lookup(PORT_SET.to_owned()),
    ]
}

/// A port as a set's key.
pub(super) struct PortKey;

impl SetKey for PortKey {
    const TYPE: u32 = INET_SERVICE;
    const LEN: u32 = 2;

    /// Keys of ours are written by `ffi`, from [`Wire`].
    fn data(&self) -> Box<[u8]> {
        Box::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(ports: &[RangeInclusive<u16>]) -> Vec<Wire> {
        let traps = Traps {
            ports: ports.to_vec(),
            interfaces: Vec::new(),
            ipv4: None,
            ipv6: None,
        };
        traps.edges().collect()
    }

    #[test]
    fn ranges_that_touch_are_one_and_the_last_port_has_nothing_behind_it() {
        let (first, end) = (
            |port: u16| Wire::first(port, false),
            |port: u16| Wire::end(port),
        );
        assert_eq!(
            edges(&[1..=22, 23..=23, 25..=112]),
            [first(1), end(24), first(25), end(113)]
        );
        assert_eq!(
            edges(&[1..=1, 60_000..=65_535])[2],
            Wire::first(60_000, true)
        );
        assert_eq!(edges(&[]), []);
    }
}
