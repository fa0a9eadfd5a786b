//! One responder, what it is to do, and how far it is behind. What it could not do is tried again until it is done.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use ipnet::IpNet;

use crate::clock::{Mono, Now};
use crate::log::span;
use crate::policy::{Ban, Bans};
use crate::respond::worker::{Begun, Orders, Report, UnderWay};
use crate::respond::{Deed, Error, Hands, Held, Holdings, Meddling, Member};
use crate::source::Source;

mod repair;

pub(super) use repair::PORTION;
use repair::Repair;

/// A responder at its post.
pub(super) struct Post {
    pub(super) name: &'static str,
    hands: Hands,
    has_clock: bool,
    /// Why it does not work here: then nothing is expected of it, until it is found to.
    absent: Option<String>,
    /// What it is to do when it is done with what is under way.
    next: Next,
    under_way: Option<(Doing, UnderWay)>,
    /// Bans that it could not make real yet.
    unenforced: HashSet<Source>,
    /// Bans that it will never make real.
    refused: HashSet<Source>,
    /// Bans that are lifted here and that it could not lift yet.
    unlifted: HashSet<Source>,
    /// Whether it could not see to what its bans need, or could not lift what nobody here knows.
    is_unsound: bool,
    is_not_clear: bool,
    /// Whether somebody has taken everything away, and it is not put back yet.
    is_robbed: bool,
    /// What is done of putting everything back, where that takes long.
    repair: Option<Repair>,
    /// Who is to be let through, for when it has to be told again.
    friends: Vec<IpNet>,
    /// When to try again what is outstanding.
    retry_at: Option<Mono>,
    pause: Duration,
    /// Since when something has been outstanding, and what went wrong last.
    differs_since: Option<Mono>,
    trouble: Option<String>,
    /// What went wrong last, mended or not.
    last_words: Option<String>,
}

/// What has happened at a post that others should hear of.
#[derive(Debug)]
pub(super) enum Happened {
    /// This ban is in force there.
    InForce(Source, Deed),
    /// This one could not be made real yet.
    NotInForce(Source),
    /// Something went wrong.
    Trouble(&'static str, String),
    /// What is intended and what is in force agree again.
    Agrees(&'static str),
    /// What its bans need was gone or changed, or bans were: all are to be put back.
    Lost(&'static str),
}

/// Orders that wait for the responder to be free.
#[derive(Default)]
struct Next {
    look: bool,
    spare: bool,
    clear: bool,
    /// Whom that lifts, as far as is known.
    cleared: Vec<Source>,
    lift: HashSet<Source>,
    put: HashMap<Source, Ban>,
    is_replay: bool,
}

/// What is under way.
#[derive(Default)]
struct Doing {
    /// Since when; `None`: it was done at once.
    since: Option<Mono>,
    look: bool,
    clear: bool,
    cleared: Vec<Source>,
    lift: Vec<Source>,
    put: Vec<Source>,
}

/// How long after a failure a responder is tried again: at first, and at most. It doubles in between.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a thread may be at a piece of work before somebody is told.
const HUNG: Duration = Duration::from_secs(15);

impl Post {
    pub(super) fn new(member: Member) -> Self {
        Self {
            name: member.name,
            hands: member.hands,
            has_clock: member.has_clock,
            absent: member.absent,
            next: Next::default(),
            under_way: None,
            unenforced: HashSet::new(),
            refused: HashSet::new(),
            unlifted: HashSet::new(),
            is_unsound: false,
            is_not_clear: false,
            is_robbed: false,
            repair: None,
            friends: Vec::new(),
            retry_at: None,
            pause: FIRST_PAUSE,
            differs_since: None,
            trouble: None,
            last_words: None,
        }
    }

    /// Makes bans real. `is_replay`: most may be so already, and nobody is told.
    pub(super) fn ban(
        &mut self,
        bans: &[&Ban],
        is_replay: bool,
        now: Now,
        told: &mut Vec<Happened>,
    ) {
        if bans.is_empty() || self.absent.is_some() {
            return;
        }
        if matches!(self.hands, Hands::Own(_)) {
            let orders = Orders {
                is_replay,
                ..Orders::default()
            };
            return self.put_at_once(bans, orders, now, told);
        }
        self.next.is_replay = is_replay && (self.next.is_replay || self.next.put.is_empty());
        for ban in bans {
            self.next.lift.remove(&ban.source);
            self.next.put.insert(ban.source, (*ban).clone());
        }
        self.go_on(now, told);
    }

    /// Puts back what its bans need, and these. Whoever calls puts back the others that should stand, if there are any.
    fn restore(&mut self, bans: &[&Ban], now: Now, told: &mut Vec<Happened>) {
        if self.absent.is_some() {
            return self.look(now, told);
        }
        if let Hands::Thread(_) = self.hands {
            // It has looked, or it would not be known that anything is lost.
            return self.ban(bans, true, now, told);
        }
        let orders = Orders {
            look: true,
            is_replay: true,
            is_all: true,
            ..Orders::default()
        };
        self.put_at_once(bans, orders, now, told);
    }

    fn put_at_once<'a>(
        &mut self,
        bans: &[&'a Ban],
        orders: Orders<'a>,
        now: Now,
        told: &mut Vec<Happened>,
    ) {
        let doing = Doing {
            look: orders.look,
            put: bans.iter().map(|ban| ban.source).collect(),
            ..Doing::default()
        };
        let put = bans.iter().map(|ban| Cow::Borrowed(*ban)).collect();
        self.begin(doing, Orders { put, ..orders }, now, told);
    }

    /// Lifts bans.
    pub(super) fn unban(&mut self, sources: &[Source], now: Now, told: &mut Vec<Happened>) {
        if sources.is_empty() || self.absent.is_some() {
            return;
        }
        for source in sources {
            self.next.put.remove(source);
            self.next.lift.insert(*source);
        }
        self.go_on(now, told);
    }

    /// The time of these bans is over: it lifts them, unless they end by themselves.
    pub(super) fn end(&mut self, sources: &[Source], now: Now, told: &mut Vec<Happened>) {
        if !self.has_clock {
            return self.unban(sources, now, told);
        }
        self.over(sources, now, told);
    }

    /// These bans are gone there.
    pub(super) fn over(&mut self, sources: &[Source], now: Now, told: &mut Vec<Happened>) {
        for source in sources {
            self.next.put.remove(source);
            self.unenforced.remove(source);
            self.refused.remove(source);
        }
        self.settle(now, told);
    }

    /// Lifts all: these, and what nobody here knows of.
    pub(super) fn unban_all(&mut self, known: &[Source], now: Now, told: &mut Vec<Happened>) {
        if self.absent.is_some() {
            return;
        }
        self.repair = None;
        let mut cleared = std::mem::take(&mut self.next.cleared);
        cleared.extend(known);
        cleared.extend(&self.next.lift);
        self.next = Next {
            clear: true,
            cleared,
            look: self.next.look,
            spare: self.next.spare,
            ..Next::default()
        };
        self.go_on(now, told);
    }

    /// Looks whether what its bans need stands, and makes it anew where it does not.
    pub(super) fn look(&mut self, now: Now, told: &mut Vec<Happened>) {
        self.next.look = true;
        self.go_on(now, told);
    }

    /// Lets these through from now on.
    pub(super) fn spare(&mut self, friends: &[IpNet], now: Now, told: &mut Vec<Happened>) {
        self.friends = friends.to_vec();
        self.next.spare = true;
        if self.absent.is_none() {
            self.go_on(now, told);
        }
    }

    /// Tries again what is outstanding, if that is due.
    pub(super) fn retry(&mut self, bans: &Bans, now: Now, told: &mut Vec<Happened>) {
        if self.retry_at.take_if(|at| *at <= now.mono).is_none() {
            return;
        }
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        let Next { lift, put, .. } = &self.next;
        let is_ordered = |source: &Source| lift.contains(source) || put.contains_key(source);
        let again = |source: &&Source| !is_ordered(source);
        let lift_again: Vec<Source> = (self.unlifted.iter())
            .filter(again)
            .filter(|source| bans.get(**source).is_none())
            .copied()
            .collect();
        let put_again: Vec<Ban> = (self.unenforced.iter())
            .filter(again)
            .filter_map(|source| bans.get(*source).cloned())
            .collect();
        // What is neither is settled by what was ordered since.
        self.unlifted.retain(|source| bans.get(*source).is_none());
        self.unenforced.retain(|source| bans.get(*source).is_some());
        self.next.look |= self.is_unsound;
        self.next.spare |= self.is_unsound;
        self.next.clear |= self.is_not_clear && bans.is_empty();
        self.next.lift.extend(lift_again);
        let put_again = put_again.into_iter().map(|ban| (ban.source, ban));
        self.next.put.extend(put_again);
        self.next.is_replay = false;
        self.go_on(now, told);
        self.settle(now, told);
    }

    /// Takes note of what its thread has done since.
    pub(super) fn collect(&mut self, now: Now, told: &mut Vec<Happened>) {
        self.hear(now, told, |under_way| under_way.finish());
    }

    /// Waits for its thread to do what was ordered, as long as `patience`.
    pub(super) fn wait(&mut self, patience: Duration, now: Now, told: &mut Vec<Happened>) {
        if self.hands.is_stuck() {
            return self.collect(now, told);
        }
        self.finish(patience, now, told);
        if self.under_way.is_some() {
            self.hands.give_up();
        }
    }

    /// The same, also where somebody has waited in vain.
    pub(super) fn finish(&mut self, patience: Duration, now: Now, told: &mut Vec<Happened>) {
        // What is under way, and what waits behind it.
        for _ in 0..2 {
            self.hear(now, told, |under_way| under_way.wait(patience / 2));
        }
    }

    /// Asks it for a ban, thread or not, and waits for the answer as long as `patience`; `None`: there is none.
    pub(super) fn ask(
        &mut self,
        patience: Duration,
        source: Source,
    ) -> Option<Result<Option<Held>, Error>> {
        if self.hands.is_stuck() {
            return None;
        }
        self.hands.ask(patience, move |it| it.find(source))
    }

    fn hear(
        &mut self,
        now: Now,
        told: &mut Vec<Happened>,
        listen: impl FnOnce(UnderWay) -> Result<Option<Report>, UnderWay>,
    ) {
        let Some((doing, under_way)) = self.under_way.take() else {
            return;
        };
        match listen(under_way) {
            Err(under_way) => self.under_way = Some((doing, under_way)),
            Ok(report) => {
                let report = report.unwrap_or_else(|| self.without_a_thread(&doing));
                self.done(doing, report, now, told);
                self.go_on(now, told);
            }
        }
    }

    /// What has become of work whose thread has died.
    fn without_a_thread(&self, doing: &Doing) -> Report {
        Report {
            is_unsound: true,
            unenforced: doing.put.clone(),
            unlifted: doing.lift.clone(),
            is_not_clear: doing.clear,
            errors: vec![Error::new(
                self.name,
                "its thread has died: restart portsentry, and report this".to_owned(),
            )],
            has_clock: self.has_clock,
            ..Report::default()
        }
    }

    /// Begins what is to be done next, if it is free to.
    fn go_on(&mut self, now: Now, told: &mut Vec<Happened>) {
        if self.under_way.is_some() {
            return;
        }
        let Next {
            look,
            spare,
            clear,
            cleared,
            lift,
            put,
            is_replay,
        } = std::mem::take(&mut self.next);
        let orders = Orders {
            look,
            spare: spare.then(|| self.friends.clone()),
            clear,
            lift: lift.into_iter().collect(),
            put: put.into_values().map(Cow::Owned).collect(),
            is_replay,
            is_all: false,
        };
        if orders.is_empty() {
            return;
        }
        let doing = Doing {
            since: None,
            look,
            clear,
            cleared,
            lift: orders.lift.clone(),
            put: orders.put.iter().map(|ban| ban.source).collect(),
        };
        self.begin(doing, orders, now, told);
    }

    fn begin(&mut self, doing: Doing, orders: Orders<'_>, now: Now, told: &mut Vec<Happened>) {
        match self.hands.begin(orders, now) {
            Begun::Done(report) => {
                self.done(doing, report, now, told);
                // What follows from that.
                self.go_on(now, told);
            }
            Begun::UnderWay(under_way) => {
                let since = Some(now.mono);
                self.under_way = Some((Doing { since, ..doing }, under_way));
            }
        }
    }

    fn done(&mut self, doing: Doing, report: Report, now: Now, told: &mut Vec<Happened>) {
        self.has_clock = report.has_clock;
        if doing.look {
            self.is_unsound = false;
            self.is_robbed = false;
            if self.absent.is_some() {
                self.absent = report.is_unsound.then(|| sentence(&report.errors));
                if self.absent.is_some() {
                    return;
                }
                // What it holds from earlier nobody has kept up: it may be over, or lifted.
                (self.next.clear, self.next.spare) = (true, true);
                told.push(Happened::Lost(self.name));
            }
        }
        self.is_unsound |= report.is_unsound;
        self.is_not_clear = report.is_not_clear || self.is_not_clear && !doing.clear;
        if doing.clear {
            self.unenforced.clear();
            self.refused.clear();
            if report.is_not_clear {
                // One by one, then: all others can be tried again only while nobody is banned.
                self.unlifted.extend(doing.cleared);
            } else {
                self.unlifted.clear();
            }
        }
        for source in doing.lift.iter().chain(&doing.put) {
            self.unenforced.remove(source);
            self.refused.remove(source);
            self.unlifted.remove(source);
        }
        self.unlifted.extend(report.unlifted);
        self.unenforced.extend(&report.unenforced);
        for source in report.errors.iter().flat_map(|error| &error.refused) {
            self.unenforced.remove(source);
            self.refused.insert(*source);
        }
        let in_force = |(source, deed)| Happened::InForce(source, deed);
        told.extend(report.deeds.into_iter().map(in_force));
        told.extend(report.unenforced.into_iter().map(Happened::NotInForce));
        if report.made_anew || report.lost {
            told.push(Happened::Lost(self.name));
        }
        if !report.errors.is_empty() {
            let words = sentence(&report.errors);
            told.push(Happened::Trouble(self.name, words.clone()));
            self.last_words = Some(words.clone());
            if self.is_behind() {
                self.trouble = Some(words);
                self.differs_since.get_or_insert(now.mono);
                // Not later, if something is to be tried already: others may go on failing for ever.
                self.retry_at.get_or_insert(now.mono.later(self.pause));
            }
        }
        self.settle(now, told);
    }

    /// Notes that nothing is outstanding any more, where that is so.
    fn settle(&mut self, now: Now, told: &mut Vec<Happened>) {
        if self.is_behind() {
            self.retry_at.get_or_insert(now.mono.later(self.pause));
        } else if self.repair.is_some() {
            // It does not agree yet, and nothing is to be tried again.
        } else if self.differs_since.take().is_some() {
            self.retry_at = None;
            self.pause = FIRST_PAUSE;
            self.trouble = None;
            told.push(Happened::Agrees(self.name));
        }
    }

    fn is_behind(&self) -> bool {
        self.is_unsound
            || self.is_not_clear
            || self.is_robbed
            || !self.unenforced.is_empty()
            || !self.unlifted.is_empty()
    }

    /// Whether it works here at all.
    pub(super) fn is_present(&self) -> bool {
        self.absent.is_none()
    }

    /// Whether this ban is on its way.
    pub(super) fn is_pending(&self, source: Source) -> bool {
        let is_under_way = |(doing, _): &(Doing, UnderWay)| doing.put.contains(&source);
        self.next.put.contains_key(&source) || self.under_way.as_ref().is_some_and(is_under_way)
    }

    /// Whether it will never make this ban real, or is not there to.
    pub(super) fn refuses(&self, source: Source) -> bool {
        !self.is_present() || self.refused.contains(&source)
    }

    /// Why it will never make this ban real; `None`: it has not said that.
    pub(super) fn refusal(&self, source: Source) -> Option<&str> {
        let is_refused = self.refused.contains(&source);
        self.last_words.as_deref().filter(|_| is_refused)
    }

    /// Whether this ban is in force there, as far as the responder said.
    pub(super) fn enforces(&self, source: Source) -> bool {
        self.is_present()
            && !self.is_robbed
            && !self.unenforced.contains(&source)
            && !self.refused.contains(&source)
            && !self.is_pending(source)
    }

    /// Those that it could not make real.
    pub(super) fn not_in_force(&self) -> impl Iterator<Item = Source> {
        self.unenforced.iter().chain(&self.refused).copied()
    }

    /// Nothing of it is in force for the time being.
    pub(super) fn is_robbed(&mut self, now: Now) {
        self.is_robbed = true;
        self.repair = None;
        self.differs_since.get_or_insert(now.mono);
    }

    /// Whether the responder says that this ban is not there, which should be. Only one that needs no thread is asked.
    pub(super) fn lacks(&mut self, source: Source) -> bool {
        if !self.enforces(source) || self.is_repairing() {
            return false;
        }
        matches!(self.find(source), Ok(None))
    }

    /// What it holds of this source right now.
    ///
    /// # Errors
    /// It cannot tell; one that has a thread would take its time.
    pub(super) fn find(&mut self, source: Source) -> Result<Option<Held>, String> {
        match &mut self.hands {
            Hands::Own(responder) => responder.find(source).map_err(|error| error.to_string()),
            Hands::Thread(_) => Err("it takes its time".to_owned()),
        }
    }

    /// What becomes readable when others have done something there; `None`: that is not watched.
    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        match &self.hands {
            Hands::Own(responder) => responder.watched(),
            Hands::Thread(_) => None,
        }
    }

    /// Begins to watch what others do there, where that can be told at once.
    pub(super) fn begin_watching(&mut self, told: &mut Vec<Happened>) {
        if let Hands::Own(responder) = &mut self.hands {
            if let Err(error) = responder.begin_watching() {
                told.push(Happened::Trouble(self.name, error.to_string()));
            }
        }
    }

    /// What others have done there.
    pub(super) fn noticed(&mut self) -> Vec<Meddling> {
        match &mut self.hands {
            Hands::Own(responder) => responder.noticed(),
            Hands::Thread(_) => Vec::new(),
        }
    }

    /// Bans that are not in force there, or not known to be.
    pub(super) fn missing(&self) -> usize {
        if self.is_robbed {
            return usize::MAX;
        }
        let under_way = self
            .under_way
            .as_ref()
            .map_or(0, |(doing, _)| doing.put.len());
        let waiting = self.next.put.len() + under_way + self.left_to_repair();
        self.unenforced.len() + self.refused.len() + waiting
    }

    /// Whether a ban that it was to lift may hold there still.
    pub(super) fn may_hold(&self, source: Source) -> bool {
        self.under_way.is_some() || self.unlifted.contains(&source)
    }

    /// What stands between these and what was ordered for them; `None`: nothing.
    pub(super) fn obstacle(&self, sources: &[Source]) -> Option<String> {
        let is_stuck = |source| self.unlifted.contains(source) || self.unenforced.contains(source);
        let is_refused = |source| self.refused.contains(source);
        if self.under_way.is_some() {
            Some(format!(
                "{} has not answered yet, and is waited for",
                self.name
            ))
        } else if sources.iter().any(is_stuck) {
            self.trouble.clone()
        } else if sources.iter().any(is_refused) {
            self.last_words.clone()
        } else {
            None
        }
    }

    /// The same for all that were to be lifted at once.
    pub(super) fn obstacle_to_clearing(&self, sources: &[Source]) -> Option<String> {
        let is_stuck = || self.trouble.clone().filter(|_| self.is_not_clear);
        self.obstacle(sources).or_else(is_stuck)
    }

    /// Why nothing is known of what is under way, if it has been for too long.
    pub(super) fn is_hung(&self, now: Mono) -> Option<String> {
        let (doing, _) = self.under_way.as_ref()?;
        let length = now.since(doing.since?);
        (length >= HUNG).then(|| {
            format!(
                "{} has not answered for {}: what it was told since may not be done",
                self.name,
                span(length)
            )
        })
    }

    /// Why it does not work here, or what went wrong last and is not mended.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.absent.as_deref().or(self.trouble.as_deref())
    }

    pub(super) fn differs_since(&self) -> Option<Mono> {
        self.differs_since
    }

    pub(super) fn retry_at(&self) -> Option<Mono> {
        self.retry_at
    }

    pub(super) fn holdings(&self) -> Option<Holdings> {
        self.hands.holdings().filter(|_| self.is_present())
    }

    /// The responder itself, for what is neither bans nor their ends.
    pub(super) fn hands(&mut self) -> &mut Hands {
        &mut self.hands
    }
}

/// Failures as one sentence.
fn sentence(failures: &[Error]) -> String {
    let words: Vec<String> = failures.iter().map(ToString::to_string).collect();
    words.join("; ")
}
