//! `[tcp]` and `[udp]`: which ports are traps, in which modes, and what a scan of them leads to.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::probe::Protocol;

/// `[tcp]`, `[udp]`: which ports are traps, and what a scan of them leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The modes in force; empty: off.
    pub modes: BTreeSet<Mode>,
    /// `stealth`, `connect`: the watched ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// `advanced`: every port below this, up to 65536.
    pub below: u32,
    /// `advanced`: but not these.
    pub exclude: Vec<RangeInclusive<u16>>,
    /// What a scan leads to.
    pub response: Response,
}

impl Watch {
    /// Whether `port` is a trap of that mode as far as the configuration goes.
    #[must_use]
    pub fn watches_by(&self, mode: Mode, port: u16) -> bool {
        self.modes.contains(&mode)
            && match mode {
                Mode::Stealth | Mode::Connect => listed(&self.ports, port),
                Mode::Advanced => u32::from(port) < self.below && !listed(&self.exclude, port),
            }
    }

    /// Whether `port` is a trap of any mode.
    #[must_use]
    pub fn watches(&self, port: u16) -> bool {
        [Mode::Stealth, Mode::Advanced, Mode::Connect]
            .into_iter()
            .any(|mode| self.watches_by(mode, port))
    }

    /// The ports that are traps of any mode, but for port 0, in ranges that neither touch nor overlap.
    #[must_use]
    pub fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (1..=u16::MAX).filter(|&port| self.watches(port)) {
            match ranges.last_mut() {
                Some(last) if last.end().checked_add(1) == Some(port) => {
                    *last = *last.start()..=port;
                }
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }

    /// The least range that holds all ports watched by their packets; `None` where none is. Decoys lie within it: they
    /// count only where they are watched.
    #[must_use]
    pub fn span(&self) -> Option<RangeInclusive<u16>> {
        let has = |mode| self.modes.contains(&mode);
        let named = self.ports.iter().filter(|_| has(Mode::Stealth));
        let below = if has(Mode::Advanced) { self.below } else { 0 };
        let mut open = (0..below)
            .filter_map(|port| u16::try_from(port).ok())
            .filter(|&port| !listed(&self.exclude, port));
        let ends: Vec<u16> = named
            .flat_map(|range| [*range.start(), *range.end()])
            .chain(open.next())
            .chain(open.next_back())
            .collect();
        Some(*ends.iter().min()?..=*ends.iter().max()?)
    }
}

fn listed(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(&port))
}

/// `tcp.mode`, `udp.mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Every port below `below` that nothing listens on.
    Advanced,
    /// The ports in `ports`, by packets that arrive for them.
    Stealth,
    /// The ports in `ports`, by listening on them.
    Connect,
}

/// A mode of one protocol: what one of 1.2's flags asks for, and what its commands and files know as the mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchMode {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Which of the three.
    pub mode: Mode,
}

impl WatchMode {
    /// All six, in the order of 1.2's usage line.
    pub const ALL: [Self; 6] = [
        Self::new(Protocol::Tcp, Mode::Connect),
        Self::new(Protocol::Udp, Mode::Connect),
        Self::new(Protocol::Tcp, Mode::Stealth),
        Self::new(Protocol::Tcp, Mode::Advanced),
        Self::new(Protocol::Udp, Mode::Stealth),
        Self::new(Protocol::Udp, Mode::Advanced),
    ];

    /// The mode of that protocol.
    #[must_use]
    pub const fn new(protocol: Protocol, mode: Mode) -> Self {
        Self { protocol, mode }
    }

    /// 1.2's word: `tcp`, `udp`, `stcp`, `sudp`, `atcp`, `audp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.protocol, self.mode) {
            (Protocol::Tcp, Mode::Connect) => "tcp",
            (Protocol::Udp, Mode::Connect) => "udp",
            (Protocol::Tcp, Mode::Stealth) => "stcp",
            (Protocol::Udp, Mode::Stealth) => "sudp",
            (Protocol::Tcp, Mode::Advanced) => "atcp",
            (Protocol::Udp, Mode::Advanced) => "audp",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// `tcp.response`, `udp.response`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// The source is banned.
    Ban,
    /// The scan is logged and kept in history, nobody is banned.
    Log,
    /// As [`Log`](Self::Log), and `command.run` is told.
    Command,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::parse;

    #[test]
    fn the_span_holds_all_watched_ports_and_no_more() {
        for (text, span) in [
            ("", Some(0..=1023)),
            ("tcp.mode = \"off\"", None),
            ("tcp.exclude = [\"0-9\", \"1000-1023\"]", Some(10..=999)),
            (
                "tcp.mode = \"stealth\"\ntcp.ports = [7, \"80-90\"]",
                Some(7..=90),
            ),
            (
                "tcp.mode = [\"advanced\", \"stealth\"]\ntcp.ports = [65535]",
                Some(0..=65535),
            ),
            ("tcp.below = 65536", Some(0..=65535)),
            ("tcp.below = 9\ntcp.exclude = [\"0-7\"]", Some(8..=8)),
        ] {
            let config = parse(Path::new("/p.toml"), text).unwrap();
            assert_eq!(config.tcp.span(), span, "{text}");
        }
    }
}
