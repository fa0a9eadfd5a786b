//! What goes wrong, told once: in the log when it begins and every minute that it goes on, in `status` while it lasts.

use std::time::Duration;

use tracing::{error, warn};

use crate::clock::Mono;

/// What a complaint is about. Each kind has one place: a flood of one cannot hide another, nor fill the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// Bans of this responder that are not in force, or not lifted.
    Responder(&'static str),
    /// Somebody who takes away again what is put back.
    Fight,
    /// Ports that the kernel cannot be asked about.
    Services,
    /// Who is logged in, which cannot be found out.
    Logins,
    /// As many bans as may.
    Limit,
    /// As many new bans a second as may.
    Rate,
    /// Records that history has no room for.
    History,
    /// Programs of the admin's that failed, or could not be run.
    Programs,
    /// Programs that are not run for IPv6 sources.
    Ipv4Programs,
    /// Bans that end here and stay where a program put them.
    Leftovers,
}

/// How long a complaint stands after its last cause, and before it is logged again.
const STANDS: Duration = Duration::from_secs(60);

/// The complaints that stand.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    standing: Vec<Complaint>,
    /// What has been said for good.
    said: Vec<About>,
}

#[derive(Debug)]
struct Complaint {
    about: About,
    words: String,
    logged: Mono,
    last: Mono,
}

impl Complaints {
    /// Complains. The words are made, and logged, only where none have been for a minute.
    pub(super) fn add(&mut self, about: About, now: Mono, words: impl FnOnce() -> String) {
        let standing = self
            .standing
            .iter_mut()
            .find(|standing| standing.about == about);
        match standing {
            Some(standing) if now.since(standing.logged) < STANDS => standing.last = now,
            _ => {
                let words = words();
                error!("{words}");
                self.settle(about);
                self.standing.push(Complaint {
                    about,
                    words,
                    logged: now,
                    last: now,
                });
            }
        }
    }

    /// Says something that is as it is, once and for all.
    pub(super) fn once(&mut self, about: About, words: impl FnOnce() -> String) {
        if !self.said.contains(&about) {
            self.said.push(about);
            let words = words();
            warn!("{words}");
        }
    }

    /// This goes wrong no longer.
    pub(super) fn settle(&mut self, about: About) {
        self.standing.retain(|standing| standing.about != about);
    }

    /// What stands, in words.
    pub(super) fn list(&self, now: Mono) -> Vec<String> {
        self.list_of(now, |_| true)
    }

    /// What stands of some kinds, in words.
    pub(super) fn list_of(&self, now: Mono, is_asked_for: impl Fn(About) -> bool) -> Vec<String> {
        self.standing
            .iter()
            .filter(|complaint| now.since(complaint.last) < STANDS && is_asked_for(complaint.about))
            .map(|complaint| complaint.words.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_stands_for_a_minute_after_its_last_cause_and_beside_others() {
        let mut complaints = Complaints::default();
        let seconds = |n| Mono(0).later(Duration::from_secs(n));
        let mut made = 0;
        for n in 0..50 {
            complaints.add(About::Services, seconds(n), || {
                made += 1;
                format!("port {n}")
            });
            complaints.add(About::Rate, seconds(n), || "too fast".to_owned());
        }
        assert_eq!(made, 1);
        assert_eq!(complaints.list(seconds(100)), ["port 0", "too fast"]);
        complaints.settle(About::Rate);
        assert_eq!(complaints.list(seconds(108)), ["port 0"]);
        assert!(complaints.list(seconds(109)).is_empty());
        let mut said = 0;
        for _ in 0..3 {
            complaints.once(About::Ipv4Programs, || {
                said += 1;
                "it is so".to_owned()
            });
        }
        assert_eq!(said, 1);
        complaints.add(About::Services, seconds(60), || "again".to_owned());
        assert_eq!(complaints.list(seconds(61)), ["again"]);
    }
}
