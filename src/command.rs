//! What a request that changes bans means to an engine, and how the outcome is told.
//!
//! The daemon carries out its clients' requests by it, and the command line its own when no daemon runs.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Now;
use crate::config::ignore::HostName;
use crate::control::{self, Line, MAX_IMPORT, Request, Why};
use crate::detect::Seen;
use crate::engine::explain::{Explanation, Standing};
use crate::engine::{Clearing, Engine, Order, Refusal, Unbanned};
use crate::guard::Named;
use crate::history::Seq;
use crate::policy::{Ban, Crowd, Reason, Uid};
use crate::source::{NotASource, Source};

/// What a request came to.
pub struct Outcome {
    /// It may be told when history has written up to this mark; `None`: at once.
    pub recorded: Option<Seq>,
    /// The reply, the result line last.
    pub lines: Vec<Line>,
}

/// Carries out a request to ban or to unban, for the one who is named `by`.
pub fn carry_out(engine: &mut Engine, request: Request, by: &str, now: Now) -> Outcome {
    let mut outcome = Outcome {
        recorded: None,
        lines: Vec::new(),
    };
    let done = match request {
        Request::Ban {
            source,
            seconds,
            ever,
            reason,
            force,
            revert,
        } => {
            let length = length(engine, seconds, ever);
            let reason = Reason::parse(reason.as_deref().unwrap_or("by hand"));
            parse(&source).and_then(|source| {
                let order = Order {
                    source,
                    length,
                    reason,
                    is_forced: force,
                    by: Uid::parse(by),
                };
                outcome.tell_of(engine, now, |engine| match revert {
                    None => engine.ban(order, now),
                    Some(trial) => engine.ban_for_now(order, Duration::from_secs(trial), now),
                })
            })
        }
        Request::Confirm { source } => parse(&source)
            .and_then(|source| outcome.tell_of(engine, now, |engine| engine.confirm(source, now))),
        Request::Import {
            sources,
            seconds,
            ever,
            reason,
        } => {
            let length = length(engine, seconds, ever);
            let reason = Reason::parse(reason.as_deref().unwrap_or("imported"));
            outcome.import(engine, &sources, length, &reason, by, now)
        }
        Request::Unban { .. } | Request::UnbanAll => {
            return match Unbanning::begin(engine, &request, by) {
                Ok(mut unbanning) => {
                    while !unbanning.go_on(engine, now) {}
                    unbanning.finish(engine)
                }
                Err(why) => Outcome {
                    lines: vec![Line::Failed(why)],
                    ..outcome
                },
            };
        }
        Request::Status
        | Request::List
        | Request::IgnoredNames
        | Request::Explain { .. }
        | Request::Reload
        | Request::ReadIgnore
        | Request::Lease { .. } => Err("this request changes no bans".to_owned()),
    };
    outcome
        .lines
        .push(done.map_or_else(Line::Failed, |()| Line::Done));
    outcome
}

/// A request to lift bans, which may be many: carried out a portion at a time.
pub struct Unbanning {
    left: Left,
    by: String,
    outcome: Outcome,
    failures: Vec<String>,
}

enum Left {
    Named(std::vec::IntoIter<Source>),
    All(Clearing),
}

/// Sources in a portion, each of which is looked for in every responder: some 2 ms.
const UNBANNED_AT_ONCE: usize = 16;

impl Unbanning {
    /// Begins with such a request, for the one who is named `by`.
    ///
    /// # Errors
    /// It names something else than sources, or is another request.
    pub fn begin(engine: &Engine, request: &Request, by: &str) -> Result<Self, String> {
        let left = match request {
            Request::Unban { sources } => {
                let sources: Result<Vec<Source>, String> =
                    sources.iter().map(|text| parse(text)).collect();
                Left::Named(sources?.into_iter())
            }
            Request::UnbanAll => Left::All(engine.begin_clearing()),
            _ => return Err("this request lifts no bans".to_owned()),
        };
        Ok(Self {
            left,
            by: by.to_owned(),
            outcome: Outcome {
                recorded: None,
                lines: Vec::new(),
            },
            failures: Vec::new(),
        })
    }

    /// Lifts some more. Whether that was all.
    pub fn go_on(&mut self, engine: &mut Engine, now: Now) -> bool {
        match &mut self.left {
            Left::Named(sources) => {
                for source in sources.by_ref().take(UNBANNED_AT_ONCE) {
                    let unbanned = engine.unban(source, &self.by, now);
                    let failures = self.outcome.tell(Some(source), unbanned, now);
                    self.failures.extend(failures);
                }
                sources.len() == 0
            }
            Left::All(clearing) => {
                let unbanned = engine.clear_some(clearing, &self.by, now);
                let failures = self.outcome.tell(None, unbanned, now);
                self.failures.extend(failures);
                clearing.is_over()
            }
        }
    }

    /// What came of it, when that was all.
    #[must_use]
    pub fn finish(self, engine: &Engine) -> Outcome {
        let mut outcome = self.outcome;
        if matches!(self.left, Left::All(_)) && !self.failures.is_empty() {
            for line in &mut outcome.lines {
                if let Line::Lifted(one) = line {
                    let source = one.source.as_deref().and_then(|it| it.parse().ok());
                    one.stands = source.is_some_and(|source| engine.may_hold(source));
                }
            }
        }
        let done = one_sentence(self.failures);
        outcome
            .lines
            .push(done.map_or_else(Line::Failed, |()| Line::Done));
        outcome
    }
}

impl Outcome {
    fn tell_of(
        &mut self,
        engine: &mut Engine,
        now: Now,
        ban: impl FnOnce(&mut Engine) -> Result<(Ban, Option<Seq>), Refusal>,
    ) -> Result<(), String> {
        let (ban, recorded) = ban(engine).map_err(|refusal| refusal.to_string())?;
        self.recorded = recorded;
        self.lines.push(Line::Listed(listed_by(engine, &ban, now)));
        Ok(())
    }

    fn import(
        &mut self,
        engine: &mut Engine,
        sources: &[String],
        length: Option<Duration>,
        reason: &Reason,
        by: &str,
        now: Now,
    ) -> Result<(), String> {
        if sources.len() > MAX_IMPORT {
            return Err(format!(
                "at most {MAX_IMPORT} sources are imported at a time"
            ));
        }
        let sources: Result<Vec<Source>, String> = sources.iter().map(|text| parse(text)).collect();
        let imported = engine.import(&sources?, length, reason, Uid::parse(by), now)?;
        self.recorded = imported.recorded;
        self.lines.push(Line::Imported(control::Imported {
            banned: count(imported.banned),
            prolonged: count(imported.prolonged),
            refused: imported.refused.iter().map(refused).collect(),
        }));
        Ok(())
    }

    /// Adds what was lifted to the reply; gives back what failed.
    fn tell(&mut self, asked: Option<Source>, unbanned: Unbanned, now: Now) -> Vec<String> {
        self.recorded = self.recorded.max(unbanned.recorded);
        let asked = asked.map(|source| source.to_string());
        if unbanned.lifted.is_empty() && unbanned.failures.is_empty() && asked.is_some() {
            self.lines.push(Line::Lifted(control::Lifted {
                asked: asked.clone(),
                source: None,
                ban: None,
                within: 0,
                stands: false,
            }));
        }
        for lifted in unbanned.lifted {
            self.lines.push(Line::Lifted(control::Lifted {
                asked: asked.clone(),
                source: Some(lifted.source.to_string()),
                ban: lifted.ban.as_ref().map(|ban| listed(ban, now)),
                within: lifted.within,
                stands: lifted.stands,
            }));
        }
        unbanned.failures
    }
}

/// A name in the ignore lists, as it is told.
#[must_use]
pub fn named((name, known): (&HostName, &Named)) -> control::Named {
    control::Named {
        name: name.to_string(),
        place: known.place.to_string(),
        addresses: known.addresses.iter().map(ToString::to_string).collect(),
        found_at: known.found_at.map(|at| at.0),
        failure: known.failure.clone(),
    }
}

/// What is known of an address, as it is told.
#[must_use]
pub fn explained(
    address: IpAddr,
    known: &Explanation,
    trigger: u16,
    now: Now,
) -> control::Explained {
    let mut missing = Vec::new();
    let mut bans = Vec::new();
    for standing in &known.bans {
        let Standing { ban, looked_up, .. } = standing;
        let mut told = listed(ban, now);
        told.on_trial = standing.is_provisional;
        let mut holding = Vec::new();
        for (name, held) in looked_up {
            match held {
                Ok(true) => holding.push((*name).to_owned()),
                Ok(false) => missing.push(format!("{name} does not hold {}", ban.source)),
                Err(cause) => missing.push(format!("{name} cannot be asked: {cause}")),
            }
        }
        told.responders = Some(holding);
        bans.push(told);
    }
    let evidence = known.evidence.as_ref();
    let probes = evidence.map_or(&[][..], |it| &it.probes);
    control::Explained {
        address: address.to_string(),
        source: known.source.to_string(),
        friend: known.friends.first().map(ToString::to_string),
        also: (known.friends.iter().skip(1))
            .map(ToString::to_string)
            .collect(),
        bans,
        missing,
        probes: probes.iter().map(|it| seen(it, now)).collect(),
        trigger: u64::from(trigger),
        too_many: known.too_many.clone(),
        needs_handshake: known.needs_handshake,
        unconfirmed: known.unconfirmed.iter().map(|it| seen(it, now)).collect(),
        spared: known.spared.iter().map(|it| seen(it, now)).collect(),
        muted: evidence
            .and_then(|it| it.muted_until)
            .map(|until| until.since(now.mono).as_secs()),
        past: known.past.map_or(0, |past| past.count),
        next: known.next_length.map(|length| length.as_secs()),
        neighbours: known.crowds.iter().map(neighbours).collect(),
    }
}

fn seen(seen: &Seen, now: Now) -> control::Seen {
    control::Seen {
        ago: now.mono.since(seen.at).as_secs(),
        protocol: seen.protocol.to_string(),
        port: seen.port,
        scan: seen.scan_type.to_string(),
    }
}

fn neighbours((crowd, may_be_banned): &(Crowd, bool)) -> control::Neighbours {
    control::Neighbours {
        prefix: crowd.prefix.to_string(),
        banned: crowd.count,
        needed: crowd.needed,
        may_be_banned: *may_be_banned,
    }
}

/// A ban as it is told, with where it is in force.
#[must_use]
pub fn listed_by(engine: &Engine, ban: &Ban, now: Now) -> control::Listed {
    let standing = engine.standing(ban.source).into_iter();
    control::Listed {
        responders: Some(standing.map(str::to_owned).collect()),
        on_trial: engine.is_provisional(ban.source),
        ..listed(ban, now)
    }
}

/// A ban as it is told.
#[must_use]
pub fn listed(ban: &Ban, now: Now) -> control::Listed {
    control::Listed {
        source: ban.source.to_string(),
        reason: ban.reason.to_string(),
        origin: ban.origin.name().to_owned(),
        by: ban.by.map(|uid| uid.to_string()),
        start: ban.start.0,
        length: ban.length().map(|length| length.as_secs()),
        left: ban.left(now).map(|left| left.as_secs()),
        permanent: ban.end.is_none(),
        on_trial: false,
        responders: None,
    }
}

/// How long a ban is to last; `None`: for ever.
fn length(engine: &Engine, seconds: Option<u64>, ever: bool) -> Option<Duration> {
    let default = engine.config().ban.duration;
    seconds
        .map(Duration::from_secs)
        .or(default)
        .filter(|_| !ever)
}

fn refused(refusal: &Refusal) -> control::Refused {
    let (source, why) = match refusal {
        Refusal::Friend(source, _) => (source, Why::Friend),
        Refusal::BannedAlready(source) | Refusal::Banned(source) => (source, Why::BannedAlready),
        Refusal::Limit(source, _) => (source, Why::Limit),
        // An import confirms nothing.
        Refusal::Failed(source, _) | Refusal::NotProvisional(source) => (source, Why::Responder),
    };
    control::Refused {
        source: source.to_string(),
        why,
        words: refusal.to_string(),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn parse(text: &str) -> Result<Source, String> {
    text.parse().map_err(|error: NotASource| error.to_string())
}

fn one_sentence(failures: Vec<String>) -> Result<(), String> {
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("\n"))
    }
}
