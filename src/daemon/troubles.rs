//! [`Troubles`]: how the log hears of history's.

use std::time::Duration;

use tracing::{error, info};

use crate::clock::Mono;

/// What history complains of, for the log: when it begins, changes and ends, and no more than a line a second.
#[derive(Default)]
pub(super) struct Troubles {
    told: Option<String>,
    at: Option<Mono>,
    /// Whether there is something else to be told by now.
    is_behind: bool,
}

impl Troubles {
    pub(super) fn tell(&mut self, trouble: Option<String>, now: Mono) {
        self.is_behind = trouble != self.told;
        let is_early = self.at.is_some_and(|at| now < at.later(A_SECOND));
        if !self.is_behind || is_early {
            return;
        }
        match &trouble {
            Some(words) => error!("history: {words}"),
            None => info!("history: all is written again"),
        }
        self.told = trouble;
        self.at = Some(now);
        self.is_behind = false;
    }

    /// When there is something to be told; `None`: nothing is.
    pub(super) fn next_deadline(&self) -> Option<Mono> {
        let at = self.at.filter(|_| self.is_behind)?;
        Some(at.later(A_SECOND))
    }
}

const A_SECOND: Duration = Duration::from_secs(1);
