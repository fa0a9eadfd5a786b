//! Whether what we intend is in force, and what stands in the way.

use super::{Engine, post};
use crate::clock::{Mono, Wall};
use crate::source::Source;

/// How a responder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its name.
    pub responder: &'static str,
    /// Our bans that are in force there.
    pub enforced: usize,
    /// Why it does not work here, or what went wrong last and is not mended; `None`: all is well.
    pub trouble: Option<String>,
}

/// Bans that were put back after somebody had taken them away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// When.
    pub at: Wall,
    /// Where.
    pub responder: &'static str,
    /// Who had taken them away, fit for a log.
    pub after: String,
}

impl Engine {
    /// How many bans are in force, as far as the responders acknowledged.
    #[must_use]
    pub fn enforced(&self) -> usize {
        self.bans.len().saturating_sub(self.world.missing())
    }

    /// Since when not every intended ban is in force, or not every lifted one is lifted.
    #[must_use]
    pub fn differs_since(&self) -> Option<Mono> {
        self.world.differs_since()
    }

    /// What went wrong within the last minute.
    #[must_use]
    pub fn troubles(&self, now: Mono) -> Vec<String> {
        let hung = self
            .world
            .posts()
            .iter()
            .filter_map(|post| post.is_hung(now));
        let complaints = self.complaints.list(now).into_iter();
        let names = self.guard.names.troubles();
        complaints.chain(hung).chain(names).collect()
    }

    /// How each responder is, the primary one first; `command` last, where a program bans.
    #[must_use]
    pub fn health(&self) -> Vec<Health> {
        let of = |post: &post::Post| Health {
            responder: post.name,
            enforced: if post.is_present() {
                self.bans.len().saturating_sub(post.missing())
            } else {
                0
            },
            trouble: post.trouble().map(str::to_owned),
        };
        let posts = self.world.posts().iter().map(of);
        posts.chain(self.programs_health()).collect()
    }

    /// When bans were last put back; `None`: they never had to be.
    #[must_use]
    pub fn last_repair(&self) -> Option<&Repair> {
        self.last_repair.as_ref()
    }

    /// Where the ban of this source is in force.
    #[must_use]
    pub fn standing(&self, source: Source) -> Vec<&'static str> {
        let programs = self.stands_by_program(source).then_some("command");
        self.world
            .standing(source)
            .into_iter()
            .chain(programs)
            .collect()
    }
}
