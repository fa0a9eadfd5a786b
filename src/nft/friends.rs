//! Whom our table lets through whatever is banned: two sets of intervals, `ignored4` and `ignored6`.
//!
//! Pure. The kernel keeps an interval as two edges: the first address in it, and the first behind it; one that reaches to the
//! last address of all has no second edge. Intervals may touch, but not overlap.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::element::Wire;
use super::shape::{Expr, Rule, SetShape, from_family};

/// `NFT_SET_INTERVAL`: elements are edges.
pub(super) const INTERVAL_FLAG: u32 = 4;

/// A set of those who are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FriendSet {
    /// `ignored4`
    Ipv4,
    /// `ignored6`
    Ipv6,
}

impl FriendSet {
    /// In their order.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// As it is called in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ignored4",
            Self::Ipv6 => "ignored6",
        }
    }

    /// The set of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// What it looks like. It has no size: what it holds is the admin's own, and the admin's to bound.
    #[must_use]
    pub fn shape(self) -> SetShape {
        SetShape {
            flags: INTERVAL_FLAG,
            size: 0,
            gc_interval: 0,
            ..SetShape::of_keys(self == Self::Ipv6)
        }
    }

    /// `ip saddr @ignored4 counter accept`. To accept ends our chain alone: chains of others, and ours of another hook, still
    /// have their say.
    pub(super) fn rule(self) -> Rule {
        let mut rule = from_family(self == Self::Ipv6);
        rule.push(Expr::Lookup(self.name().to_owned()));
        rule.extend([Expr::Counter, Expr::Accept]);
        rule
    }
}

/// Who is let through: intervals that do not overlap, in their order, IPv4 before IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Friends(Vec<Interval>);

/// From the first of its addresses up to, but without, the end; `None`: to the last address there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Interval {
    first: IpAddr,
    end: Option<IpAddr>,
}

impl Friends {
    /// The first `most` of these when the widest come first, and how many that leaves out. They come in any order, however
    /// they overlap.
    #[must_use]
    pub fn new(nets: &[IpNet], most: usize) -> (Self, usize) {
        let mut nets = IpNet::aggregate(&nets.to_vec());
        let left_out = nets.len().saturating_sub(most);
        if left_out > 0 {
            nets.sort_by_key(|net| Reverse(net.max_prefix_len() - net.prefix_len()));
            nets.truncate(most);
        }
        nets.sort();
        let interval = |net: IpNet| Interval {
            first: net.network(),
            end: behind(net.broadcast()),
        };
        (Self(nets.into_iter().map(interval).collect()), left_out)
    }

    /// Those intervals that are not among the others.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let others: HashSet<&Interval> = others.0.iter().collect();
        let is_left = |interval: &&Interval| !others.contains(interval);
        Self(self.0.iter().filter(is_left).copied().collect())
    }

    /// Those that these edges stand for, as found: in any order, `true` for an interval's end.
    pub(super) fn from_edges(mut edges: Vec<(IpAddr, bool)>) -> Self {
        // Where one ends and the next begins, the end comes first.
        edges.sort_by_key(|(key, is_end)| (*key, !is_end));
        let mut intervals: Vec<Interval> = Vec::new();
        let mut is_open = false;
        for (key, is_end) in edges {
            let last = intervals
                .last_mut()
                .filter(|last| is_open && last.first.is_ipv4() == key.is_ipv4());
            if let Some(last) = last {
                last.end = Some(key);
            }
            // An end without a beginning says nothing: nft puts one before the first interval.
            if !is_end {
                intervals.push(Interval {
                    first: key,
                    end: None,
                });
            }
            is_open = !is_end;
        }
        Self(intervals)
    }

    /// Their edges in this set, in their order: an interval's two stand together, and one that is open comes last, as some
    /// kernels want it.
    pub(super) fn edges(&self, set: FriendSet) -> impl Iterator<Item = Wire> {
        let is_here = move |it: &&Interval| it.first.is_ipv6() == (set == FriendSet::Ipv6);
        self.0.iter().filter(is_here).flat_map(|interval| {
            let first = Wire::first(interval.first, interval.end.is_none());
            std::iter::once(first).chain(interval.end.map(Wire::end))
        })
    }
}

/// The next address; `None` behind the last.
fn behind(last: IpAddr) -> Option<IpAddr> {
    match last {
        IpAddr::V4(last) => u32::from(last)
            .checked_add(1)
            .map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(last) => u128::from(last)
            .checked_add(1)
            .map(|next| Ipv6Addr::from(next).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::element::Key;
    use super::*;

    fn friends(nets: &[&str]) -> Friends {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        Friends::new(&nets, usize::MAX).0
    }

    fn address(edge: &Wire) -> IpAddr {
        match edge.key {
            Key::Address(address) => address,
            Key::Port(port) => panic!("port {port} is no friend"),
        }
    }

    fn edges(friends: &Friends) -> Vec<String> {
        let words = |edge: Wire| {
            let end = if edge.is_end { " end" } else { "" };
            format!("{}{end}", address(&edge))
        };
        let all = FriendSet::ALL
            .into_iter()
            .flat_map(|set| friends.edges(set));
        all.map(words).collect()
    }

    #[test]
    fn prefixes_that_overlap_become_one_interval() {
        for (nets, expected) in [
            (&[][..], &[][..]),
            (
                &[
                    "198.51.100.7/32",
                    "192.0.2.0/24",
                    "192.0.2.9/32",
                    "192.0.2.0/24",
                ],
                &[
                    "192.0.2.0",
                    "192.0.3.0 end",
                    "198.51.100.7",
                    "198.51.100.8 end",
                ],
            ),
            (
                &["10.0.0.0/9", "10.128.0.0/9"],
                &["10.0.0.0", "11.0.0.0 end"],
            ),
            (
                &["10.0.1.0/24", "10.0.2.0/24"],
                &["10.0.1.0", "10.0.2.0 end", "10.0.2.0", "10.0.3.0 end"],
            ),
            (&["255.255.255.255/32"], &["255.255.255.255"]),
            (&["0.0.0.0/0", "::/0", "192.0.2.0/24"], &["0.0.0.0", "::"]),
            (
                &["ff00::/8", "2001:db8::/32", "240.0.0.0/4"],
                &["240.0.0.0", "2001:db8::", "2001:db9:: end", "ff00::"],
            ),
        ] {
            assert_eq!(edges(&friends(nets)), expected, "{nets:?}");
        }
    }

    #[test]
    fn of_too_many_the_widest_stay() {
        let nets = [
            "192.0.2.7/32",
            "2001:db8::/32",
            "10.0.0.0/8",
            "198.51.100.0/24",
        ];
        let nets = nets.map(|net| net.parse().unwrap());
        let (kept, left_out) = Friends::new(&nets, 2);
        assert_eq!(
            (kept, left_out),
            (friends(&["10.0.0.0/8", "2001:db8::/32"]), 2)
        );
    }

    #[test]
    fn what_is_written_reads_back_in_whatever_order() {
        for nets in [
            &[][..],
            &["10.0.1.0/24", "10.0.2.0/24", "192.0.2.7/32"],
            &["0.0.0.0/0"],
            &["240.0.0.0/4", "::/64"],
            &["2001:db8::/32", "fe80::/10", "ff00::/8", "0.0.0.0/8"],
        ] {
            let friends = friends(nets);
            let mut found: Vec<(IpAddr, bool)> = FriendSet::ALL
                .into_iter()
                .flat_map(|set| friends.edges(set))
                .map(|edge| (address(&edge), edge.is_end))
                .collect();
            found.reverse();
            found.push(("0.0.0.0".parse().unwrap(), true));
            found.push(("::".parse().unwrap(), true));
            assert_eq!(Friends::from_edges(found), friends, "{nets:?}");
        }
    }
}
