//! Many banned neighbours become one ban of the prefix that they share.
//!
//! How many there are in each prefix is kept up with every ban that begins and ends, so that nobody ever counts them. Their own
//! bans stay as they are: the wide one lies over them. Which prefixes must not be banned is the caller's to know.

use std::collections::HashMap;
use std::time::Duration;

use super::{Ban, Bans, End, Origin, Reason, length_of_next};
use crate::clock::{Now, Wall};
use crate::config::{BanRules, Confirm, RollUp};
use crate::source::Source;

/// What follows from the ban of `part`, which has just begun: the ban of the widest prefix around it that has enough of them, and
/// that `may` be banned. It lasts as long as any source's ban would, and longer each time; but never for ever: most who live there
/// have never scanned.
#[must_use]
pub fn roll_up(
    part: Source,
    rules: &BanRules,
    bans: &Bans,
    may: impl Fn(Source) -> bool,
    now: Now,
) -> Option<Ban> {
    if bans.len() >= usize::try_from(rules.limit).unwrap_or(usize::MAX) {
        return None;
    }
    let is_due = |crowd: &Crowd| crowd.count >= crowd.needed && may(crowd.prefix);
    let Crowd { prefix, count, .. } = bans.crowds(part).find(is_due)?;
    let is_covered = |ban: &Ban| ban.source.prefix_len() <= prefix.prefix_len();
    if bans.covering(prefix.address()).any(is_covered) {
        return None;
    }
    let length = length_of_next(rules, bans.past(prefix), now).unwrap_or(A_DAY);
    Some(Ban {
        source: prefix,
        reason: Reason::parse(&format!("roll-up of {count} bans, last {part}")),
        origin: Origin::RollUp,
        by: None,
        start: now.wall,
        end: Some(End::after(length, now)),
    })
}

const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// The bans in one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// The prefix.
    pub prefix: Source,
    /// How many of them count.
    pub count: u32,
    /// How many become one ban.
    pub needed: u32,
}

/// How many bans there are in each prefix that may become one. At most one entry for each ban and each length.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    ipv4: Vec<RollUp>,
    ipv6: Vec<RollUp>,
    needs_handshake: bool,
    counts: HashMap<Source, u32>,
    /// Prefixes whose wide ban somebody has lifted, and when: what was banned in them until then does not count.
    forgiven: HashMap<Source, Wall>,
}

/// Prefixes that are remembered as forgiven at most. One beyond may be rolled up again by the next ban in it.
pub const MAX_FORGIVEN: usize = 10_000;

impl Neighbours {
    /// Counts by these rules from now on.
    pub(super) fn follow<'a>(&mut self, rules: &BanRules, running: impl Iterator<Item = &'a Ban>) {
        self.ipv4.clone_from(&rules.ipv4_rollup);
        self.ipv6.clone_from(&rules.ipv6_rollup);
        self.needs_handshake = rules.rollup_confirm == Confirm::Handshake;
        self.count_anew(running);
    }

    /// A ban has begun.
    pub(super) fn add(&mut self, ban: &Ban) {
        for length in self.lengths_for(ban) {
            *self.counts.entry(prefix(ban, length)).or_default() += 1;
        }
    }

    /// A ban is over.
    pub(super) fn remove(&mut self, ban: &Ban) {
        for length in self.lengths_for(ban) {
            let prefix = prefix(ban, length);
            if let Some(count) = self.counts.get_mut(&prefix) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&prefix);
                }
            }
        }
    }

    /// What was banned in these prefixes, each until that time, counts no more, neither in them nor in wider ones.
    pub(super) fn forgive<'a>(
        &mut self,
        lifted: &[(Source, Wall)],
        running: impl Iterator<Item = &'a Ban>,
    ) {
        let is_within =
            |ban: &&Ban| (lifted.iter()).any(|(prefix, _)| prefix.covers(ban.source.address()));
        let within: Vec<&Ban> = running.filter(is_within).collect();
        within.iter().for_each(|ban| self.remove(ban));
        for (prefix, at) in lifted {
            if self.forgiven.len() < MAX_FORGIVEN || self.forgiven.contains_key(prefix) {
                self.forgiven.insert(*prefix, *at);
            }
        }
        within.iter().for_each(|ban| self.add(ban));
    }

    /// The wall clock has moved by so many milliseconds, and with it most of the bans that run. Those for ever stay where they
    /// were, and may be on the other side now of what was forgiven: so all are counted anew.
    pub(super) fn clock_moved<'a>(&mut self, by: i64, running: impl Iterator<Item = &'a Ban>) {
        if self.forgiven.is_empty() {
            return;
        }
        for at in self.forgiven.values_mut() {
            at.0 = at.0.saturating_add(by);
        }
        self.count_anew(running);
    }

    /// Drops what was forgiven before that moment: bans that run since then count again, as they would after a restart. So all are
    /// counted anew, or each would be taken off when it ends without ever having been added.
    pub(super) fn forget_before<'a>(
        &mut self,
        moment: Wall,
        running: impl Iterator<Item = &'a Ban>,
    ) {
        let before = self.forgiven.len();
        self.forgiven.retain(|_, at| *at >= moment);
        if self.forgiven.len() < before {
            self.count_anew(running);
        }
    }

    fn count_anew<'a>(&mut self, running: impl Iterator<Item = &'a Ban>) {
        self.counts.clear();
        running.for_each(|ban| self.add(ban));
    }

    /// The prefixes that `source` lies in, the widest first.
    pub(super) fn crowds(&self, source: Source) -> impl Iterator<Item = Crowd> {
        let wider = move |step: &&RollUp| step.prefix_len < source.prefix_len();
        self.steps(source)
            .iter()
            .rev()
            .filter(wider)
            .map(move |step| {
                let prefix = Source::prefix(source.address(), step.prefix_len);
                Crowd {
                    prefix,
                    count: self.counts.get(&prefix).copied().unwrap_or(0),
                    needed: step.count,
                }
            })
    }

    /// All prefixes that have as many as it takes.
    #[cfg(test)]
    pub(super) fn crowded(&self) -> impl Iterator<Item = Source> {
        let is_crowded = |(prefix, count): &(&Source, &u32)| {
            let mut steps = self.steps(**prefix).iter();
            steps.any(|it| it.prefix_len == prefix.prefix_len() && **count >= it.count)
        };
        self.counts
            .iter()
            .filter(is_crowded)
            .map(|(prefix, _)| *prefix)
    }

    /// The lengths of those prefixes for which this ban counts: one that we have made ourselves, for what nobody can have forged, and
    /// that is not forgiven.
    fn lengths_for(&self, ban: &Ban) -> Vec<u8> {
        let Reason::Scan(summary) = ban.reason else {
            return Vec::new();
        };
        if ban.origin != Origin::Scan || self.needs_handshake && !summary.is_confirmed() {
            return Vec::new();
        }
        let counts_for = |length: &u8| {
            let forgiven = self.forgiven.get(&prefix(ban, *length));
            forgiven.is_none_or(|at| ban.start > *at)
        };
        let lengths = self.steps(ban.source).iter().map(|step| step.prefix_len);
        let wider = lengths.filter(|length| *length < ban.source.prefix_len());
        wider.take_while(counts_for).collect()
    }

    /// How many prefixes there are entries for.
    #[cfg(test)]
    pub(super) fn counted(&self) -> usize {
        self.counts.len()
    }

    fn steps(&self, source: Source) -> &[RollUp] {
        if source.address().is_ipv4() {
            &self.ipv4
        } else {
            &self.ipv6
        }
    }
}

fn prefix(ban: &Ban, length: u8) -> Source {
    Source::prefix(ban.source.address(), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Mono;
    use crate::config::Config;

    const NOW: Now = Now {
        mono: Mono(5_000),
        wall: Wall(1_800_000_000_000),
    };
    const HANDSHAKES: &str = "connect scan, 3 tcp ports, last 23";
    const PACKETS: &str = "syn scan, 3 tcp ports, last 23";

    /// Four bans in a /56, or eight in a /48, or three in an IPv4 /24.
    fn rules() -> BanRules {
        let step = |count, prefix_len| RollUp { count, prefix_len };
        BanRules {
            ipv4_rollup: vec![step(3, 24)],
            ipv6_rollup: vec![step(4, 56), step(8, 48)],
            ..Config::default().ban
        }
    }

    fn bans_by(rules: &BanRules) -> Bans {
        let mut bans = Bans::default();
        bans.go_by(rules);
        bans
    }

    fn part(source: &str, reason: &str) -> Ban {
        Ban {
            source: source.parse().unwrap(),
            reason: Reason::parse(reason),
            origin: Origin::Scan,
            by: None,
            start: NOW.wall,
            end: Some(End::after(Duration::from_secs(600), NOW)),
        }
    }

    /// Bans it, and then what follows from that.
    fn ban(bans: &mut Bans, rules: &BanRules, part: Ban) -> Option<Ban> {
        let source = part.source;
        bans.insert(part);
        let wide = roll_up(source, rules, bans, |_| true, NOW);
        if let Some(wide) = &wide {
            bans.insert(wide.clone());
        }
        wide
    }

    /// As [`ban`], of the `n`-th /64 of 2001:db8::/48: 256 of them are in one /56.
    fn ban64(bans: &mut Bans, rules: &BanRules, n: u16) -> Option<String> {
        let source = format!("2001:db8:0:{n:x}::/64");
        ban(bans, rules, part(&source, HANDSHAKES)).map(|wide| wide.source.to_string())
    }

    #[test]
    fn enough_neighbours_become_one_ban() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        for n in 0..3 {
            assert_eq!(ban64(&mut bans, &rules, n), None);
        }
        let wide = ban(&mut bans, &rules, part("2001:db8:0:ff::/64", HANDSHAKES)).unwrap();
        assert_eq!(wide.source.to_string(), "2001:db8::/56");
        let why = "roll-up of 4 bans, last 2001:db8:0:ff::/64";
        assert_eq!(
            (wide.reason.to_string().as_str(), wide.origin),
            (why, Origin::RollUp)
        );
        assert_eq!(wide.length(), rules.duration);
        assert_eq!(bans.len(), 5, "its parts stay");
    }

    #[test]
    fn those_of_several_prefixes_add_up_to_a_wider_one() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        let mut wide = Vec::new();
        for n in [0, 1, 2, 3, 0x100, 0x101, 0x102, 0x103, 0x104] {
            wide.extend(ban64(&mut bans, &rules, n));
        }
        // The eighth would be the fourth of a second /56 too: the wider ban takes its place.
        assert_eq!(wide, ["2001:db8::/56", "2001:db8::/48"]);
    }

    #[test]
    fn a_prefix_that_may_not_be_banned_gives_way_to_a_narrower_one() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        for n in [0, 1, 2, 0x100, 0x101, 0x102, 0x200] {
            assert_eq!(ban64(&mut bans, &rules, n), None);
        }
        let last = part("2001:db8:0:3::/64", HANDSHAKES);
        bans.insert(last.clone());
        let may = |prefix: Source| prefix.prefix_len() == 56;
        let wide = roll_up(last.source, &rules, &bans, may, NOW).unwrap();
        assert_eq!(wide.source.to_string(), "2001:db8::/56");
        assert_eq!(roll_up(last.source, &rules, &bans, |_| false, NOW), None);
    }

    #[test]
    fn a_clock_that_moves_leaves_no_count_behind_of_bans_that_end_after_it() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        bans.forgive(&[("198.51.100.0/24".parse().unwrap(), NOW.wall)]);
        let for_ever = Ban {
            start: NOW.later(Duration::from_secs(1)).wall,
            end: None,
            ..part("198.51.100.7", HANDSHAKES)
        };
        bans.insert(for_ever.clone());
        bans.clock_moved(3_600_000);
        bans.remove(for_ever.source);
        assert_eq!(
            bans.crowds(for_ever.source).map(|it| it.count).sum::<u32>(),
            0
        );
    }

    #[test]
    fn what_is_forgiven_no_more_is_taken_off_as_often_as_it_was_counted() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        let old: Source = "198.51.100.7".parse().unwrap();
        bans.insert(part("198.51.100.7", HANDSHAKES));
        bans.forgive(&[("198.51.100.0/24".parse().unwrap(), NOW.wall)]);
        let later = NOW.later(Duration::from_secs(1)).wall;
        let new = |n: u8| Ban {
            start: later,
            ..part(&format!("198.51.100.{n}"), HANDSHAKES)
        };
        bans.insert(new(8));
        bans.forget_before(later);
        bans.remove(old);
        assert_eq!(bans.crowds(old).map(|it| it.count).sum::<u32>(), 1);
        bans.insert(new(9));
        let last = ban(&mut bans, &rules, new(10));
        assert_eq!(last.unwrap().source.to_string(), "198.51.100.0/24");
    }

    #[test]
    fn what_may_be_forged_or_was_asked_for_does_not_count() {
        let strict = rules();
        let lax = BanRules {
            rollup_confirm: Confirm::None,
            ..rules()
        };
        let of = |origin: Origin, reason: &str, n: u8| Ban {
            origin,
            ..part(&format!("198.51.100.{n}"), reason)
        };
        for (rules, origin, reason, is_counted) in [
            (&strict, Origin::Scan, HANDSHAKES, true),
            (&strict, Origin::Scan, PACKETS, false),
            (
                &strict,
                Origin::Scan,
                "connect scan, 3 udp ports, last 53",
                false,
            ),
            (
                &strict,
                Origin::Scan,
                "mixed scan, 3 tcp ports, last 23",
                false,
            ),
            (&lax, Origin::Scan, PACKETS, true),
            (&lax, Origin::Command, "by hand", false),
            (&lax, Origin::Command, HANDSHAKES, false),
            (&lax, Origin::Adopted, HANDSHAKES, false),
        ] {
            let mut bans = bans_by(rules);
            let wide = (1..=3).filter_map(|n| ban(&mut bans, rules, of(origin, reason, n)));
            assert_eq!(wide.count() == 1, is_counted, "{} {reason}", origin.name());
        }
    }

    #[test]
    fn only_bans_that_run_count() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        for n in 0..3 {
            ban64(&mut bans, &rules, n);
        }
        bans.remove("2001:db8::/64".parse().unwrap());
        assert_eq!(ban64(&mut bans, &rules, 3), None, "one was lifted");
        // The same one again is no other one.
        assert_eq!(ban64(&mut bans, &rules, 3), None);
        let later = NOW.later(Duration::from_secs(600));
        assert_eq!(bans.expire(later).len(), 3);
        assert_eq!(ban64(&mut bans, &rules, 4), None, "the others have ended");
        assert!(
            bans.crowds("2001:db8::/64".parse().unwrap())
                .all(|it| it.count == 1)
        );
    }

    #[test]
    fn a_prefix_escalates_as_a_source_does_but_never_to_ever() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        let past = super::super::Past {
            count: 2,
            last_end: NOW.wall,
        };
        bans.remember("198.51.100.0/24".parse().unwrap(), past);
        let wide = (1..=3).find_map(|n| {
            ban(
                &mut bans,
                &rules,
                part(&format!("198.51.100.{n}"), HANDSHAKES),
            )
        });
        let minutes = |n: u64| Some(Duration::from_secs(60 * n));
        assert_eq!(wide.unwrap().length(), minutes(160));

        let for_ever = BanRules {
            duration: None,
            max: None,
            ..rules
        };
        let mut bans = bans_by(&for_ever);
        let wide = (1..=3).find_map(|n| {
            ban(
                &mut bans,
                &for_ever,
                part(&format!("198.51.100.{n}"), HANDSHAKES),
            )
        });
        assert_eq!(wide.unwrap().length(), Some(A_DAY));
    }

    #[test]
    fn who_lifts_a_roll_up_has_its_parts_count_no_more() {
        let rules = rules();
        let mut bans = bans_by(&rules);
        let prefix: Source = "2001:db8::/56".parse().unwrap();
        for n in 0..4 {
            ban64(&mut bans, &rules, n);
        }
        bans.remove(prefix).unwrap();
        assert_eq!(bans.crowded(), [prefix]);
        bans.forgive(&[(prefix, NOW.wall)]);
        assert!(bans.crowded().is_empty());
        // Those of a later moment count, and the ends of the old ones change nothing.
        let later = |n: u16| Ban {
            start: Wall(NOW.wall.0 + 1),
            ..part(&format!("2001:db8:0:{n:x}::/64"), HANDSHAKES)
        };
        for n in 10..13 {
            assert_eq!(ban(&mut bans, &rules, later(n)), None);
        }
        bans.remove("2001:db8::/64".parse().unwrap());
        assert_eq!(ban(&mut bans, &rules, later(13)).unwrap().source, prefix);
    }

    #[test]
    fn a_flood_of_bans_leaves_nothing_behind() {
        let rules = BanRules {
            rollup_confirm: Confirm::None,
            limit: 1_000_000,
            ..rules()
        };
        let mut bans = bans_by(&rules);
        let address = |n: u32| format!("2001:db8:{:x}:{:x}::/64", n >> 2, n & 3);
        for n in 0..50_000 {
            bans.insert(part(&address(n), PACKETS));
        }
        assert_eq!(bans.counted(), 2 * 50_000 / 4);
        for n in 0..50_000 {
            bans.remove(address(n).parse().unwrap());
        }
        assert_eq!(bans.counted(), 0);
    }

    #[test]
    fn at_the_limit_nothing_is_rolled_up() {
        let rules = BanRules {
            limit: 4,
            ..rules()
        };
        let mut bans = bans_by(&rules);
        assert_eq!((0..4).find_map(|n| ban64(&mut bans, &rules, n)), None);
        assert_eq!(bans.crowded().len(), 1);
    }

    #[test]
    fn other_rules_count_anew() {
        let mut bans = bans_by(&rules());
        for n in 0..3 {
            ban64(&mut bans, &rules(), n);
        }
        let stricter = BanRules {
            ipv6_rollup: vec![RollUp {
                count: 3,
                prefix_len: 60,
            }],
            ..rules()
        };
        bans.go_by(&stricter);
        assert_eq!(bans.crowded(), ["2001:db8::/60".parse().unwrap()]);
    }
}
