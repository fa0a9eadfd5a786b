//! All that is known of one address: for whoever asks why it is banned, or why not.

use std::net::IpAddr;
use std::time::Duration;

use super::{About, Engine};
use crate::clock::Now;
use crate::detect::{Detector, Evidence, Seen};
use crate::guard::Friend;
use crate::policy::{Ban, Crowd, Past, length_of_next};
use crate::source::Source;

/// What is known of an address.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// What a ban of it would name.
    pub source: Source,
    /// Why it is never banned, if so.
    pub friends: Vec<Friend>,
    /// The bans that cover it.
    pub bans: Vec<Standing>,
    /// Its probes that still count; `None`: there are none.
    pub evidence: Option<Evidence>,
    /// Where they make a scan, and nobody is banned for it: of what there are too many.
    pub too_many: Vec<String>,
    /// Whether completed handshakes alone count.
    pub needs_handshake: bool,
    /// Then: its last packets that do not count, because anybody may have sent them in its name.
    pub unconfirmed: Vec<Seen>,
    /// Its last packets to watched ports that nobody has looked further into, because it is a friend.
    pub spared: Vec<Seen>,
    /// Bans that are over and count towards the length of the next.
    pub past: Option<Past>,
    /// How long the next ban would last; `None`: for ever.
    pub next_length: Option<Duration>,
    /// The prefixes around it in which neighbours are banned that may become one ban, and whether all of each may be banned.
    pub crowds: Vec<(Crowd, bool)>,
}

/// A ban, and where it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The ban, as we intend it.
    pub ban: Ban,
    /// Whether it is undone unless it is confirmed.
    pub is_provisional: bool,
    /// Each responder, and whether its world holds the ban right now; an error where it could not be asked.
    pub looked_up: Vec<(&'static str, Result<bool, String>)>,
}

impl Engine {
    /// What is known of `address`. The responders are asked, so that this is no guess.
    pub fn explain(&mut self, address: IpAddr, now: Now) -> Explanation {
        self.look_for_logins(false, now);
        let source = self.guard.source_of(address);
        let bans: Vec<Ban> = self.bans.covering(address).cloned().collect();
        let bans = bans.into_iter().map(|ban| Standing {
            looked_up: self.world.look_up(ban.source),
            is_provisional: self.provisional.contains_key(&ban.source),
            ban,
        });
        let bans: Vec<Standing> = bans.collect();
        let past = self.bans.past(source);
        let last_of = |detector: &Detector, source| {
            let evidence = detector.evidence(source, now.mono);
            evidence.map_or_else(Vec::new, |evidence| evidence.probes)
        };
        let evidence = self.detector.evidence(source, now.mono);
        let is_scan = |it: &Evidence| it.probes.len() >= usize::from(self.config.detect.trigger);
        let too_many = if bans.is_empty() && evidence.as_ref().is_some_and(is_scan) {
            let is_bound = |about| matches!(about, About::Limit | About::Rate);
            self.complaints.list_of(now.mono, is_bound)
        } else {
            Vec::new()
        };
        let crowds = self.bans.crowds(source).filter(|crowd| crowd.count > 0);
        let crowds = crowds.map(|crowd| (crowd, self.guard.may_be_wide(crowd.prefix)));
        Explanation {
            crowds: crowds.collect(),
            source,
            friends: self.guard.reasons(Source::from(address)),
            bans,
            evidence,
            too_many,
            needs_handshake: self.config.has_traps(),
            unconfirmed: last_of(&self.unconfirmed, source),
            spared: last_of(&self.spared, Source::from(address)),
            past,
            next_length: length_of_next(&self.config.ban, past, now),
        }
    }
}
