//! Keeping the world and what we intend alike: all responders together, each at its post.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::eventfd::EventFd;

use super::post::{Happened, Post};
use crate::clock::{Mono, Now};
use crate::policy::{Ban, Bans};
use crate::respond::{
    Crew, Error, Held, Holdings, Meddling, Member, Responder, withdraw_clockless,
};
use crate::source::Source;

/// The responders, and what they are not to do yet.
pub(super) struct Agreement {
    posts: Vec<Post>,
    bell: Option<Arc<EventFd>>,
    /// Bans that are not to be made real yet, or by others: the responders have no part in them so far.
    held_back: HashSet<Source>,
    /// What has happened since somebody asked.
    happened: Vec<Happened>,
}

/// How long a command waits for responders that have threads of their own, all together.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a stop does.
const LAST_PATIENCE: Duration = Duration::from_secs(20);

impl Agreement {
    pub(super) fn new(crew: Crew) -> Self {
        Self {
            posts: crew.members.into_iter().map(Post::new).collect(),
            bell: crew.bell,
            held_back: HashSet::new(),
            happened: Vec::new(),
        }
    }

    /// Makes bans real. What fails is tried again.
    pub(super) fn ban(&mut self, bans: &[&Ban], now: Now) {
        for ban in bans {
            self.held_back.remove(&ban.source);
        }
        self.each(|post, told| post.ban(bans, false, now, told));
    }

    /// As [`ban`](Self::ban), for many of which most may be real already.
    pub(super) fn replay(&mut self, bans: &[&Ban], now: Now) {
        self.each(|post, told| post.ban(bans, true, now, told));
    }

    /// Makes bans real everywhere, or leaves everything as it was, with the bans that ran `before`. Those that a responder will
    /// never make real keep no others from it: they are left as they were, and given back with the reason.
    pub(super) fn ban_or_undo(
        &mut self,
        bans: &[&Ban],
        before: &Bans,
        now: Now,
    ) -> Result<Vec<(Source, String)>, String> {
        self.ban(bans, now);
        self.wait(now);
        let (mut refused, mut others) = (Vec::new(), Vec::new());
        for source in bans.iter().map(|ban| ban.source) {
            match self.refusal(source) {
                Some(words) => refused.push((source, words)),
                None => others.push(source),
            }
        }
        // Before anything is undone: who has that to do is busy again.
        let failure = (!others.is_empty()).then(|| self.obstacles(&others));
        let sources: Vec<Source> = refused.iter().map(|(source, _)| *source).collect();
        self.undo(&sources, before, now);
        match failure.flatten() {
            None => Ok(refused),
            Some(failure) => {
                self.undo(&others, before, now);
                Err(failure)
            }
        }
    }

    /// Why some responder will never make this ban real; `None`: none has said that.
    fn refusal(&self, source: Source) -> Option<String> {
        let mut refusals = self.posts.iter().filter_map(|post| post.refusal(source));
        refusals.next().map(str::to_owned)
    }

    /// Has these banned as they were `before`, or not at all. What cannot be undone is tried again, and told by what comes of that.
    fn undo(&mut self, sources: &[Source], before: &Bans, now: Now) {
        let known = sources.iter().filter_map(|source| before.get(*source));
        let known: Vec<&Ban> = known.collect();
        let is_new = |source: &Source| before.get(*source).is_none();
        let new: Vec<Source> = sources.iter().copied().filter(is_new).collect();
        if !known.is_empty() {
            self.ban(&known, now);
        }
        if !new.is_empty() {
            self.unban(&new, now);
        }
    }

    /// Lifts bans. What fails is tried again.
    pub(super) fn unban(&mut self, sources: &[Source], now: Now) {
        for source in sources {
            self.held_back.remove(source);
        }
        self.each(|post, told| post.unban(sources, now, told));
    }

    /// Lifts bans that are gone already from this one.
    pub(super) fn is_gone_from(&mut self, name: &str, sources: &[Source], now: Now) {
        for source in sources {
            self.held_back.remove(source);
        }
        self.each(|post, told| {
            if post.name == name {
                post.over(sources, now, told);
            } else {
                post.unban(sources, now, told);
            }
        });
    }

    /// Lifts all bans: these, and those that nobody here knows of. What fails is tried again; what nobody knows, as long as no other
    /// ban is made.
    pub(super) fn unban_all(&mut self, known: &[Source], now: Now) {
        self.held_back.clear();
        self.each(|post, told| post.unban_all(known, now, told));
    }

    /// The time of bans is over. Responders with a clock know, the others are told. What fails is tried again.
    pub(super) fn end(&mut self, sources: &[Source], now: Now) {
        for source in sources {
            self.held_back.remove(source);
        }
        self.each(|post, told| post.end(sources, now, told));
    }

    /// Waits until what was ordered is done everywhere, but not for long.
    ///
    /// # Errors
    /// What was ordered for these may not be done.
    pub(super) fn done_for(&mut self, sources: &[Source], now: Now) -> Result<(), String> {
        self.wait(now);
        self.obstacles(sources).map_or(Ok(()), Err)
    }

    /// The same, for all that were to be lifted at once.
    ///
    /// # Errors
    /// Some of them, or others that nobody here knows of, may still hold.
    pub(super) fn is_cleared_of(&mut self, sources: &[Source], now: Now) -> Result<(), String> {
        self.wait(now);
        self.told_by(|post| post.obstacle_to_clearing(sources))
            .map_or(Ok(()), Err)
    }

    /// Whether this one, which was to be lifted, may hold somewhere still.
    pub(super) fn may_hold(&self, source: Source) -> bool {
        self.posts.iter().any(|post| post.may_hold(source))
    }

    /// What stands between these and what was ordered for them; `None`: nothing.
    fn obstacles(&self, sources: &[Source]) -> Option<String> {
        self.told_by(|post| post.obstacle(sources))
    }

    fn told_by(&self, obstacle: impl Fn(&Post) -> Option<String>) -> Option<String> {
        let obstacles: Vec<String> = self.posts.iter().filter_map(obstacle).collect();
        (!obstacles.is_empty()).then(|| obstacles.join("; "))
    }

    /// Lets these through from now on, whatever else holds.
    pub(super) fn spare(&mut self, friends: &[IpNet], now: Now) {
        self.each(|post, told| post.spare(friends, now, told));
    }

    /// Tries again what is outstanding and due.
    pub(super) fn retry(&mut self, bans: &Bans, now: Now) {
        self.each(|post, told| post.retry(bans, now, told));
    }

    /// Takes note of what threads have done since.
    pub(super) fn collect(&mut self, now: Now) {
        if let Some(bell) = &self.bell {
            // Nothing to read is fine; in this order, nothing is overlooked.
            let _ = bell.read();
        }
        self.each(|post, told| post.collect(now, told));
    }

    /// Begins to watch what others do to what the responders have made.
    pub(super) fn begin_watching(&mut self) {
        self.each(Post::begin_watching);
    }

    /// What others have done since, with whose post it was at.
    pub(super) fn noticed(&mut self) -> Vec<(&'static str, Meddling)> {
        let of = |post: &mut Post| {
            let name = post.name;
            post.noticed().into_iter().map(move |it| (name, it))
        };
        self.posts.iter_mut().flat_map(of).collect()
    }

    /// Looks whether what this one made still stands, and has it made anew where it does not.
    pub(super) fn look_at(&mut self, name: &str, now: Now) {
        self.look(|it| it == name, now);
    }

    /// All bans of this one are to be put back.
    pub(super) fn is_lost(&mut self, name: &'static str) {
        self.happened.push(Happened::Lost(name));
    }

    /// The bans of this one are not in force for the time being.
    pub(super) fn is_robbed(&mut self, name: &str, now: Now) {
        self.each(|post, _| {
            if post.name == name {
                post.is_robbed(now);
            }
        });
    }

    /// Looks for these where the look is cheap. Where one is missing that should be in force, all are to be put back.
    pub(super) fn look_for(&mut self, sources: &[Source]) {
        let mut robbed = Vec::new();
        for post in &mut self.posts {
            let is_missing = sources.iter().any(|source| post.lacks(*source));
            robbed.extend(is_missing.then_some(post.name));
        }
        for name in robbed {
            self.is_lost(name);
        }
    }

    /// What this one holds of this source right now.
    ///
    /// # Errors
    /// It cannot tell, or not at once.
    pub(super) fn find_at(&mut self, name: &str, source: Source) -> Result<Option<Held>, String> {
        let post = self.posts.iter_mut().find(|post| post.name == name);
        post.map_or_else(
            || Err("it is not there".to_owned()),
            |post| post.find(source),
        )
    }

    /// What becomes readable when others may have done something, one for each responder that watches.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.posts.iter().filter_map(Post::watched)
    }

    /// Looks whether what the responders made still stands, and has it made anew where it does not: those that `which` names.
    /// Those with threads are not waited for.
    pub(super) fn look(&mut self, which: impl Fn(&str) -> bool, now: Now) {
        self.each(|post, told| {
            if which(post.name) {
                post.look(now, told);
            }
        });
    }

    /// Waits for what is under way, but not for long.
    pub(super) fn wait(&mut self, now: Now) {
        let posts = u32::try_from(self.posts.len()).unwrap_or(u32::MAX).max(1);
        self.each(|post, told| post.wait(PATIENCE / posts, now, told));
    }

    /// Puts all bans back where they were lost, and what they need: those first that last longest. Many are only begun with.
    pub(super) fn make_good(&mut self, name: &str, bans: &Bans, now: Now) {
        self.with_due(|post, is_due, told| {
            if post.name == name {
                post.repair(bans, is_due, now, told);
            }
        });
    }

    /// Puts some more back, where that was only begun.
    pub(super) fn go_on_making_good(&mut self, bans: &Bans, now: Now) {
        self.with_due(|post, is_due, told| post.go_on_repairing(bans, is_due, now, told));
    }

    /// Whether there are more to be put back.
    pub(super) fn is_making_good(&self) -> bool {
        self.posts.iter().any(Post::is_repairing)
    }

    /// The same, at this one.
    pub(super) fn is_making_good_at(&self, name: &str) -> bool {
        let mut posts = self.posts.iter();
        posts.any(|post| post.name == name && post.is_repairing())
    }

    /// Those that this one does not enforce, as far as it said.
    pub(super) fn not_in_force_at(&self, name: &str) -> HashSet<Source> {
        let posts = self.posts.iter().filter(|post| post.name == name);
        let missing = posts.flat_map(Post::not_in_force);
        missing.chain(self.held_back.iter().copied()).collect()
    }

    /// Makes bans real as they are by us, at this one.
    pub(super) fn ban_at(&mut self, name: &str, bans: &[&Ban], now: Now) {
        self.each(|post, told| {
            if post.name == name {
                post.ban(bans, false, now, told);
            }
        });
    }

    fn not_held_back<'a>(&self, bans: &'a Bans) -> Vec<&'a Ban> {
        let is_due = |ban: &&Ban| !self.held_back.contains(&ban.source);
        bans.iter().filter(is_due).collect()
    }

    /// Works with the responders of these names from now on, in this order: those at their posts already, and `new` ones, which
    /// are given all bans and friends. Who is not named is let go when it has done what it is at; what it has put up stays.
    pub(super) fn change(
        &mut self,
        names: &[&str],
        new: Vec<Member>,
        bans: &Bans,
        friends: &[IpNet],
        now: Now,
    ) {
        let place = |name| names.iter().position(|it| *it == name);
        let bans = self.not_held_back(bans);
        let mut posts: Vec<Post> = new.into_iter().map(Post::new).collect();
        for post in &mut posts {
            post.spare(friends, now, &mut self.happened);
            post.ban(&bans, true, now, &mut self.happened);
        }
        for mut post in std::mem::take(&mut self.posts) {
            if place(post.name).is_some() {
                posts.push(post);
            } else {
                // The next job comes after what it is at.
                let _ = post.hands().ask(LAST_PATIENCE, |_| ());
            }
        }
        posts.sort_by_key(|post| place(post.name));
        self.posts = posts;
    }

    /// The bell for the threads of further responders; `None`: there are no threads here.
    pub(super) fn bell(&self) -> Option<Arc<EventFd>> {
        self.bell.clone()
    }

    /// What has happened since this was last asked.
    pub(super) fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// Whether some responder holds exactly this source.
    pub(super) fn hold(&mut self, source: Source) -> Result<bool, String> {
        let mut failure = None;
        for post in self.posts.iter_mut().filter(|post| post.is_present()) {
            match post.ask(PATIENCE, source) {
                Some(Ok(Some(_))) => return Ok(true),
                Some(Ok(None)) => {}
                Some(Err(error)) => failure = Some(error.to_string()),
                None => failure = Some(format!("{} does not answer", post.name)),
            }
        }
        failure.map_or(Ok(false), Err)
    }

    /// Each responder, and whether it holds exactly this source right now.
    pub(super) fn look_up(&mut self, source: Source) -> Vec<(&'static str, Result<bool, String>)> {
        let ask = |post: &mut Post| {
            let found = post.ask(PATIENCE, source);
            let found = found.ok_or_else(|| "it does not answer".to_owned());
            let held = found.and_then(|found| found.map_err(|error| error.to_string()));
            (post.name, held.map(|held| held.is_some()))
        };
        let present = self.posts.iter_mut().filter(|post| post.is_present());
        present.map(ask).collect()
    }

    /// Leaves no trace in the world; what failed.
    pub(super) fn withdraw(&mut self) -> Result<(), String> {
        self.ask_all(|responder| responder.withdraw())
    }

    /// Leaves nothing that would never end by itself; what failed. What was ordered of the others is done.
    pub(super) fn withdraw_clockless(&mut self, now: Now) -> Result<(), String> {
        self.each(|post, told| post.finish(LAST_PATIENCE, now, told));
        self.ask_all(withdraw_clockless)
    }

    /// One after another: what is under way comes first.
    fn ask_all(&mut self, what: fn(&mut dyn Responder) -> Result<(), Error>) -> Result<(), String> {
        let mut failures = Vec::new();
        for post in self.posts.iter_mut().filter(|post| post.is_present()) {
            match post.hands().ask(LAST_PATIENCE, what) {
                Some(Ok(())) => {}
                Some(Err(error)) => failures.push(error.to_string()),
                None => failures.push(format!("{} does not answer", post.name)),
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures.join("; "))
        }
    }

    pub(super) fn holdings(&self) -> Vec<Holdings> {
        self.posts.iter().filter_map(Post::holdings).collect()
    }

    /// The responders, the primary one first.
    pub(super) fn posts(&self) -> &[Post] {
        &self.posts
    }

    /// Whether anybody makes bans real but the admin's programs.
    pub(super) fn has_responders(&self) -> bool {
        self.posts.iter().any(Post::is_present)
    }

    /// A ban that is not to be made real yet.
    pub(super) fn hold_back(&mut self, source: Source) {
        self.held_back.insert(source);
    }

    /// A ban that was held back, and is real now or none any more.
    pub(super) fn let_go(&mut self, source: Source) {
        self.held_back.remove(&source);
    }

    /// Whether some responder still has to say whether this ban is in force.
    pub(super) fn is_pending(&self, source: Source) -> bool {
        self.posts.iter().any(|post| post.is_pending(source))
    }

    /// Whether this ban is in force wherever it can be.
    pub(super) fn is_in_force(&self, source: Source) -> bool {
        let mut able = self.posts.iter().filter(|post| !post.refuses(source));
        able.all(|post| post.enforces(source))
    }

    /// Whether nobody will ever make this ban real.
    pub(super) fn is_refused(&self, source: Source) -> bool {
        self.posts.iter().all(|post| post.refuses(source))
    }

    /// Where this ban is in force.
    pub(super) fn standing(&self, source: Source) -> Vec<&'static str> {
        if self.held_back.contains(&source) {
            return Vec::new();
        }
        let stands = |post: &&Post| post.enforces(source) && !post.is_repairing();
        let stands = self.posts.iter().filter(stands);
        stands.map(|post| post.name).collect()
    }

    /// How many of our bans are not in force where they should be first of all.
    pub(super) fn missing(&self) -> usize {
        let primary = self.posts.iter().find(|post| post.is_present());
        primary
            .map_or(0, Post::missing)
            .saturating_add(self.held_back.len())
    }

    pub(super) fn differs_since(&self) -> Option<Mono> {
        self.posts.iter().filter_map(Post::differs_since).min()
    }

    pub(super) fn retry_at(&self) -> Option<Mono> {
        self.posts.iter().filter_map(Post::retry_at).min()
    }

    /// Becomes readable when a thread has done something; `None`: there are no threads.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.bell.as_ref().map(|bell| bell.as_fd())
    }

    /// [`each`](Self::each), told what says of a ban whether it is to be made real.
    fn with_due(
        &mut self,
        mut call: impl FnMut(&mut Post, &dyn Fn(&Ban) -> bool, &mut Vec<Happened>),
    ) {
        let held_back = &self.held_back;
        let is_due = |ban: &Ban| !held_back.contains(&ban.source);
        for post in &mut self.posts {
            call(post, &is_due, &mut self.happened);
        }
    }

    fn each(&mut self, mut call: impl FnMut(&mut Post, &mut Vec<Happened>)) {
        for post in &mut self.posts {
            call(post, &mut self.happened);
        }
    }
}
