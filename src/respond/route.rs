//! The route responder: a banned source is one that this host has no way to. Its packets still arrive; no answer leaves.
//!
//! It decides who may have a dead end, what to do where others have routes there too, and words what goes wrong. How routes
//! are made and found is `host`'s business. They neither end by themselves nor know why they are there.

mod survey;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use self::survey::{Landmark, Survey};
use super::failures::Failures;
use super::{Deed, Error, Held, HeldClock, Holdings, Prepared, Responder};
use crate::clock::Now;
use crate::config::{self, RouteKind};
use crate::host::{self, Course, DeadEnd, DeadEnds};
use crate::policy::Ban;
use crate::source::Source;

/// As in the configuration.
const NAME: &str = "route";

/// Why a route to a link-local address is none.
const LINK_LOCAL: &str =
    "packets to link-local addresses go by their link, whatever routes there are";

/// Bans as routes that lead nowhere.
pub struct Route {
    kernel: DeadEnds,
    kind: RouteKind,
    survey: Survey,
    /// Who had a route of ours when the kernel was last asked or told.
    held: HashSet<Source>,
    /// Whether some of these were found gone since somebody last asked.
    lost: bool,
}

impl Route {
    /// A responder for this configuration. Looks at nothing and changes nothing yet.
    #[must_use]
    pub fn new(settings: &config::Route) -> Self {
        Self {
            kernel: DeadEnds::new(settings.kind),
            kind: settings.kind,
            survey: Survey::default(),
            held: HashSet::new(),
            lost: false,
        }
    }

    /// Puts routes in, of one family, and looks whether they do what they are for.
    fn put(&mut self, mut sources: Vec<Source>, failures: &mut Failures) -> Result<(), Error> {
        let Some(like) = sources.first().map(|source| source.address()) else {
            return Ok(());
        };
        let landmarks = self.survey.of(like, &mut self.kernel).map_err(told)?;
        sources.retain(|source| {
            let landmark = landmarks.against(*source).map(|it| it.to_string());
            let obstacle =
                landmark.or_else(|| is_link_local(*source).then(|| LINK_LOCAL.to_owned()));
            let is_free = obstacle.is_none();
            if let Some(obstacle) = obstacle {
                failures.refuse(*source, obstacle);
            }
            is_free
        });
        self.add(&mut sources, failures)?;
        let addresses: Vec<IpAddr> = sources.iter().map(|source| source.address()).collect();
        let courses = self.kernel.look_up(&addresses);
        let courses = courses.map_err(|why| trouble(format!("cannot look at routes: {why}")))?;
        for (source, course) in sources.into_iter().zip(courses) {
            match course {
                Course::Nowhere => {}
                Course::By(passage) => failures.note(
                    source,
                    format!("packets to it still go by the route to {passage}, which comes first"),
                ),
                Course::Unknown(errno) => failures.note(
                    source,
                    format!(
                        "cannot look whether packets still go there: {}",
                        said(errno)
                    ),
                ),
            }
        }
        Ok(())
    }

    /// Adds routes, and leaves those in `sources` that are there.
    fn add(&mut self, sources: &mut Vec<Source>, failures: &mut Failures) -> Result<(), Error> {
        let answers = self.kernel.add(&nets(sources));
        let answers = answers.map_err(|why| trouble(format!("cannot add routes: {why}")))?;
        let answers: Vec<_> = sources.drain(..).zip(answers).collect();
        let is_known = |source| self.held.contains(source);
        if answers
            .iter()
            .any(|(source, answer)| *answer == Err(Errno::EEXIST) && !is_known(source))
        {
            self.held = self.listed()?;
        }
        for (source, answer) in answers {
            match answer {
                Ok(()) => {
                    self.held.insert(source);
                    sources.push(source);
                }
                Err(Errno::EEXIST) if self.held.contains(&source) => sources.push(source),
                Err(Errno::EEXIST) => failures.note(
                    source,
                    format!(
                        "another program's route to it has our metric, {}",
                        DeadEnds::METRIC6
                    ),
                ),
                Err(errno) => failures.note(source, said(errno)),
            }
        }
        Ok(())
    }

    /// Takes routes away.
    fn take(&mut self, sources: &[Source], failures: &mut Failures) -> Result<(), Error> {
        let answers = self.kernel.remove(&nets(sources));
        let answers = answers.map_err(|why| trouble(format!("cannot remove routes: {why}")))?;
        for (source, answer) in sources.iter().zip(answers) {
            match answer {
                Ok(()) => drop(self.held.remove(source)),
                Err(errno) => failures.note(*source, said(errno)),
            }
        }
        Ok(())
    }

    /// Gives those routes our kind that have another one: the configuration has changed.
    fn convert(&mut self, listed: &[DeadEnd]) -> Result<Prepared, Error> {
        let others = listed.iter().filter(|route| route.kind != self.kind);
        let mut others: Vec<Source> = others.map(|route| route.to.into()).collect();
        if others.is_empty() {
            return Ok(Prepared::Adopted);
        }
        let mut failures = Failures::new("change the kind of", others.len());
        self.take(&others, &mut failures)?;
        self.add(&mut others, &mut failures)?;
        failures.into_result(NAME)?;
        Ok(Prepared::Rebuilt)
    }

    /// Takes away those routes that would cut off what came to be needed after they were made.
    fn give_way(&mut self) -> Result<(), Error> {
        self.survey = Survey::default();
        let mut in_the_way = Vec::new();
        for like in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
            let is_like = |source: &&Source| source.address().is_ipv4() == like.is_ipv4();
            if !self.held.iter().any(|source| is_like(&source)) {
                continue;
            }
            let landmarks = self.survey.of(like, &mut self.kernel).map_err(told)?;
            for source in self.held.iter().filter(is_like) {
                match landmarks.against(*source) {
                    None | Some(Landmark::Narrower(..)) => {}
                    Some(landmark) => {
                        tracing::warn!("route: taken away from {source}: {landmark}");
                        in_the_way.push(*source);
                    }
                }
            }
        }
        if in_the_way.is_empty() {
            return Ok(());
        }
        // Trying to put them back tells what is in the way, once more and to the right one.
        self.lost = true;
        let mut failures = Failures::new("remove the routes of", in_the_way.len());
        self.take(&in_the_way, &mut failures)?;
        failures.into_result(NAME)
    }

    fn listed(&mut self) -> Result<HashSet<Source>, Error> {
        let listed = list(&mut self.kernel)?;
        Ok(listed.into_iter().map(|route| route.to.into()).collect())
    }
}

impl Responder for Route {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare(&mut self) -> Result<Prepared, Error> {
        self.kernel.try_change().map_err(|why| {
            trouble(format!(
                "routes cannot be changed: {why}; portsentry needs CAP_NET_ADMIN"
            ))
        })?;
        let listed = list(&mut self.kernel)?;
        let standing: HashSet<Source> = listed.iter().map(|route| route.to.into()).collect();
        self.lost |= !self.held.is_subset(&standing);
        self.held = standing;
        let prepared = self.convert(&listed)?;
        self.give_way()?;
        Ok(prepared)
    }

    fn ban(&mut self, bans: &[&Ban], _now: Now) -> Result<(), Error> {
        let sources = bans.iter().map(|ban| ban.source);
        let (v4, v6) = sources.partition(|source: &Source| source.address().is_ipv4());
        let mut failures = Failures::new("ban", bans.len());
        let results = [self.put(v4, &mut failures), self.put(v6, &mut failures)];
        results.into_iter().collect::<Result<(), Error>>()?;
        failures.into_result(NAME)
    }

    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        self.ban(bans, now)
    }

    fn unban(&mut self, sources: &[Source]) -> Result<(), Error> {
        let mut failures = Failures::new("unban", sources.len());
        self.take(sources, &mut failures)?;
        failures.into_result(NAME)
    }

    fn find(&mut self, source: Source) -> Result<Option<Held>, Error> {
        Ok(self.listed()?.contains(&source).then(|| held(source)))
    }

    fn unban_all(&mut self) -> Result<(), Error> {
        let all: Vec<Source> = self.listed()?.into_iter().collect();
        self.unban(&all)
    }

    fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    fn holdings(&self) -> Option<Holdings> {
        let kind = self.kind;
        Some(Box::new(move |_| {
            let listed = list(&mut DeadEnds::new(kind))?;
            Ok(listed.iter().map(|route| held(route.to.into())).collect())
        }))
    }

    fn withdraw(&mut self) -> Result<(), Error> {
        self.unban_all()
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn deed(&self, ban: &Ban, _now: Now) -> Deed {
        let kind = match self.kind {
            RouteKind::Unreachable => "unreachable",
            RouteKind::Blackhole => "blackhole",
            RouteKind::Prohibit => "prohibit",
        };
        let metric = match ban.source.net() {
            IpNet::V4(_) => String::new(),
            IpNet::V6(_) => format!(" metric {}", DeadEnds::METRIC6),
        };
        Deed::Route(format!(
            "ip route add {kind} {} proto {}{metric}",
            ban.source,
            DeadEnds::PROTOCOL
        ))
    }
}

/// A ban that stands as a route. It tells neither reason nor end: what history, which does, has no ban for is over.
fn held(source: Source) -> Held {
    Held {
        source,
        reason: None,
        clock: Some(HeldClock { length: 0, left: 0 }),
    }
}

fn list(kernel: &mut DeadEnds) -> Result<Vec<DeadEnd>, Error> {
    kernel.list().map_err(told)
}

fn told(why: host::Error) -> Error {
    trouble(why.to_string())
}

fn is_link_local(source: Source) -> bool {
    match source.address() {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn nets(sources: &[Source]) -> Vec<IpNet> {
    sources.iter().map(|source| source.net()).collect()
}

fn said(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

fn trouble(message: String) -> Error {
    Error::new(NAME, message)
}
