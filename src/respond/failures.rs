//! [`Failures`]: what became of the parts of a call that failed, as one error.

use super::Error;
use crate::source::Source;

/// The sources that a call could not serve, each with the reason.
pub(super) struct Failures {
    what: &'static str,
    of: usize,
    sources: Vec<Source>,
    refused: Vec<Source>,
    full: bool,
    /// Of the first [`NAMED`] of them.
    words: Vec<String>,
}

/// Failures that a message names; of more it gives the number.
const NAMED: usize = 3;

impl Failures {
    /// None so far, of a call that is to do `what` (`ban`) for this many.
    pub(super) fn new(what: &'static str, of: usize) -> Self {
        Self {
            what,
            of,
            sources: Vec::new(),
            refused: Vec::new(),
            full: false,
            words: Vec::new(),
        }
    }

    pub(super) fn note(&mut self, source: Source, words: String) {
        self.sources.push(source);
        if self.words.len() < NAMED {
            self.words.push(format!("{source}: {words}"));
        }
    }

    /// As [`note`](Self::note), where trying again would come to the same.
    pub(super) fn refuse(&mut self, source: Source, words: String) {
        self.refused.push(source);
        self.note(source, words);
    }

    /// As [`note`](Self::note), where there is no room for it, and may be later.
    pub(super) fn overflow(&mut self, source: Source, words: String) {
        self.full = true;
        self.note(source, words);
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Whether something had no room.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// `Ok` where there were none.
    pub(super) fn into_result(self, responder: &'static str) -> Result<(), Error> {
        let (what, failed) = (self.what, self.sources.len());
        if failed == 0 {
            return Ok(());
        }
        let mut message = format!("cannot {what} ");
        if self.of > 1 {
            message += &format!("{failed} of {}: ", self.of);
        }
        message += &self.words.join("; ");
        if failed > self.words.len() {
            message += &format!("; and {} more", failed - self.words.len());
        }
        Err(Error {
            sources: self.sources,
            refused: self.refused,
            full: self.full,
            ..Error::new(responder, message)
        })
    }
}
