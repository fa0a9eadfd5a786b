//! What follows from a scan: a ban, or the decision to spare, each with its reason.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::{Mono, Now, Wall};
use crate::config::{BanRules, Response, WatchMode};
use crate::detect::Scan;
use crate::probe::Probe;
use crate::source::Source;

mod bans;
mod reason;
mod rollup;

pub use bans::{Bans, Past, Place, most_past};
pub use reason::{Reason, Summary, Unit};
pub use rollup::{Crowd, MAX_FORGIVEN, roll_up};

/// What to do about a scan.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ban its source.
    Ban(Ban),
    /// Do not, and why.
    Spare(Spare),
}

/// Why a scan leads to no ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spare {
    /// The configuration says not to ban for scans of this protocol.
    LogOnly,
    /// As many bans run as may.
    Limit,
    /// As many scans were acted on within this second as may be: a flood fills neither the kernel nor the log.
    Rate,
}

/// What follows from `scan`, whose source is no friend, is not banned, and whose port is a trap.
pub fn judge(scan: &Scan, response: Response, rules: &BanRules, bans: &Bans, now: Now) -> Verdict {
    if let Some(spare) = spare_any(response, rules, bans, now) {
        return Verdict::Spare(spare);
    }
    let length = length_of_next(rules, bans.past(scan.source), now);
    Verdict::Ban(Ban {
        source: scan.source,
        reason: Reason::Scan(scan.summary),
        origin: Origin::Scan,
        by: None,
        start: now.wall,
        end: length.map(|length| End::after(length, now)),
    })
}

/// Why whatever scan there is leads to no ban now; `None`: it does.
#[must_use]
pub fn spare_any(response: Response, rules: &BanRules, bans: &Bans, now: Now) -> Option<Spare> {
    if bans.begun_within_a_second(now.mono) >= rules.rate {
        return Some(Spare::Rate);
    }
    if response != Response::Ban {
        return Some(Spare::LogOnly);
    }
    let limit = usize::try_from(rules.limit).unwrap_or(usize::MAX);
    (bans.len() >= limit).then_some(Spare::Limit)
}

/// The first ban's length, times `escalate` for each ban before it that is remembered, up to `max`; `None`: for ever.
#[must_use]
pub fn length_of_next(rules: &BanRules, past: Option<Past>, now: Now) -> Option<Duration> {
    let first = rules.duration?;
    let remembered = past.filter(|past| {
        rules
            .memory
            .is_none_or(|memory| now.wall.since(past.last_end) <= memory)
    });
    let factor = rules
        .escalate
        .saturating_pow(remembered.map_or(0, |past| past.count));
    let length = first.checked_mul(factor).unwrap_or(FAR);
    Some(length.min(rules.max.unwrap_or(FAR)))
}

/// No ban with an end lasts longer: ten years, well below what a kernel timeout may be (2^63 ms).
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A source that is shut out, why, since when and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Whom.
    pub source: Source,
    /// Why.
    pub reason: Reason,
    /// Who decided it.
    pub origin: Origin,
    /// Who ordered it; `None`: nobody did, or that is not known.
    pub by: Option<Uid>,
    /// When it began.
    pub start: Wall,
    /// When and by which clock it ends; `None`: never.
    pub end: Option<End>,
}

/// The probe that made somebody a scanner, and the mode that saw it: what log, text lines and commands tell of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The last of the scan's probes.
    pub probe: Probe,
    /// By which its port is watched.
    pub mode: WatchMode,
}

/// The end of a ban, on both clocks: the engine and the kernel go by `mono`, history and people by `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Within this run.
    pub mono: Mono,
    /// Across runs.
    pub wall: Wall,
}

/// Who decided a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Our own detection.
    Scan,
    /// `portsentry ban`.
    Command,
    /// Many bans of neighbours became one.
    RollUp,
    /// `portsentry ban --force`: it holds though its source is a friend.
    Forced,
    /// Found in the kernel: somebody added it there with `nft`, or we died before history had it.
    Adopted,
}

/// The number of a user, in as little room as there can be: a million bans have one. Kept as its complement, for 2^32-1 is
/// nobody's (chown(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uid(NonZeroU32);

impl Uid {
    /// Reads what [`Display`](fmt::Display) writes: `uid 0`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number: u32 = text.strip_prefix("uid ")?.parse().ok()?;
        NonZeroU32::new(!number).map(Self)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", !self.0.get())
    }
}

impl Ban {
    /// The time left, at least a millisecond while the ban runs; `None` for a ban without an end.
    #[must_use]
    pub fn left(&self, now: Now) -> Option<Duration> {
        self.end.map(|end| end.mono.since(now.mono))
    }

    /// Whether it ends later than `other`, if at all.
    #[must_use]
    pub fn outlasts(&self, other: &Self) -> bool {
        match (self.end, other.end) {
            (Some(end), Some(other)) => end.mono > other.mono,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// The whole length, from start to end; `None` for a ban without an end.
    #[must_use]
    pub fn length(&self) -> Option<Duration> {
        self.end.map(|end| end.wall.since(self.start))
    }
}

impl End {
    /// The end of something that begins at `now` and lasts `length`.
    #[must_use]
    pub fn after(length: Duration, now: Now) -> Self {
        let end = now.later(length.min(FAR));
        Self {
            mono: end.mono,
            wall: end.wall,
        }
    }
}

impl Origin {
    /// The word that history keeps: `scan`, `command`, `forced`, `rollup`, `adopted`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::Command => "command",
            Self::RollUp => "rollup",
            Self::Forced => "forced",
            Self::Adopted => "adopted",
        }
    }

    /// The origin of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Scan,
            Self::Command,
            Self::Forced,
            Self::RollUp,
            Self::Adopted,
        ]
        .into_iter()
        .find(|origin| origin.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::detect::Detector;
    use crate::probe::{Protocol, ScanType};

    const NOW: Now = Now {
        mono: Mono(5_000),
        wall: Wall(1_800_000_000_000),
    };

    #[test]
    fn a_user_is_read_as_it_is_written_and_takes_no_room_in_a_ban() {
        for text in ["uid 0", "uid 1000", "uid 4294967294"] {
            let read = Uid::parse(text).map(|uid| uid.to_string());
            assert_eq!(read.as_deref(), Some(text));
        }
        for text in ["uid 4294967295", "uid", "uid -1", "0", "nft pid 7", ""] {
            assert_eq!(Uid::parse(text), None, "{text}");
        }
        assert_eq!(size_of::<Option<Uid>>(), 4);
    }

    fn rules() -> BanRules {
        Config::default().ban
    }

    fn scan() -> Scan {
        let probe = Probe {
            source: "203.0.113.7".parse().unwrap(),
            dest: "192.0.2.1".parse().unwrap(),
            protocol: Protocol::Tcp,
            source_port: 40_000,
            port: 23,
            scan_type: ScanType::Syn,
            ip_options: false,
            odd_flags: 0,
        };
        let mut settings = Config::default().detect;
        settings.trigger = 1;
        Detector::new(&settings)
            .observe(probe.source.into(), &probe, NOW.mono)
            .unwrap()
    }

    fn banned(verdict: Verdict) -> Ban {
        match verdict {
            Verdict::Ban(ban) => ban,
            Verdict::Spare(why) => panic!("spared: {why:?}"),
        }
    }

    fn minutes(n: u64) -> Duration {
        Duration::from_secs(60 * n)
    }

    #[test]
    fn a_first_scan_is_banned_for_the_duration() {
        let ban = banned(judge(
            &scan(),
            Response::Ban,
            &rules(),
            &Bans::default(),
            NOW,
        ));
        assert_eq!(ban.length(), Some(minutes(10)));
        assert_eq!(ban.left(NOW.later(minutes(4))), Some(minutes(6)));
        assert_eq!(ban.reason.to_string(), "syn scan, 1 tcp port, last 23");
    }

    #[test]
    fn each_repeat_lasts_longer_up_to_the_maximum() {
        let lengths = [
            (0, minutes(10)),
            (1, minutes(40)),
            (2, minutes(160)),
            (60, minutes(30 * 24 * 60)),
        ];
        for (count, length) in lengths {
            let mut bans = Bans::default();
            bans.remember(
                scan().source,
                Past {
                    count,
                    last_end: NOW.wall,
                },
            );
            assert_eq!(
                banned(judge(&scan(), Response::Ban, &rules(), &bans, NOW)).length(),
                Some(length)
            );
        }
    }

    #[test]
    fn what_is_beyond_memory_is_forgiven() {
        let mut bans = Bans::default();
        bans.remember(
            scan().source,
            Past {
                count: 3,
                last_end: NOW.wall,
            },
        );
        let later = NOW.later(rules().memory.unwrap() + minutes(1));
        assert_eq!(
            banned(judge(&scan(), Response::Ban, &rules(), &bans, later)).length(),
            Some(minutes(10))
        );
    }

    #[test]
    fn a_duration_of_ever_has_no_end() {
        let rules = BanRules {
            duration: None,
            ..rules()
        };
        assert_eq!(
            banned(judge(&scan(), Response::Ban, &rules, &Bans::default(), NOW)).end,
            None
        );
    }

    #[test]
    fn limits_spare() {
        let mut bans = Bans::default();
        bans.insert(banned(judge(&scan(), Response::Ban, &rules(), &bans, NOW)));
        bans.count_new(NOW.mono);
        let full = BanRules {
            limit: 1,
            ..rules()
        };
        assert_eq!(
            judge(&scan(), Response::Ban, &full, &bans, NOW),
            Verdict::Spare(Spare::Limit)
        );
        let slow = BanRules { rate: 1, ..rules() };
        assert_eq!(
            judge(&scan(), Response::Ban, &slow, &bans, NOW),
            Verdict::Spare(Spare::Rate)
        );
        assert_eq!(
            judge(&scan(), Response::Log, &slow, &bans, NOW),
            Verdict::Spare(Spare::Rate),
            "a flood does not fill the log either"
        );
        let next = NOW.later(Duration::from_secs(1));
        banned(judge(&scan(), Response::Ban, &slow, &bans, next));
    }

    #[test]
    fn log_means_log() {
        let verdict = judge(&scan(), Response::Log, &rules(), &Bans::default(), NOW);
        assert_eq!(verdict, Verdict::Spare(Spare::LogOnly));
    }
}
