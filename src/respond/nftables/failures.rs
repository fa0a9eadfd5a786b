//! What the kernel would not do of a call, element by element, as one sentence.

use std::fmt;

use nix::errno::Errno;

use super::{Entry, trouble};
use crate::nft::said;
use crate::respond::Error;
use crate::source::Source;

/// Failures that a message names; of more it gives the number.
const NAMED_FAILURES: usize = 3;

/// What became of the parts of a call that failed.
pub(super) struct Failures {
    what: &'static str,
    of: usize,
    count: usize,
    named: Vec<String>,
    pub(super) full: bool,
    sources: Vec<Source>,
}

impl Failures {
    pub(super) fn new(what: &'static str, of: usize) -> Self {
        Self {
            what,
            of,
            count: 0,
            named: Vec::new(),
            full: false,
            sources: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, source: Source, errno: Errno) {
        self.full |= errno == Errno::ENFILE;
        self.note(source, &said(errno));
    }

    pub(super) fn extend(&mut self, entries: &[Entry], errno: Errno) {
        for entry in entries {
            self.push(entry.source, errno);
        }
    }

    pub(super) fn note(&mut self, source: Source, words: &str) {
        self.count += 1;
        self.sources.push(source);
        if self.named.len() < NAMED_FAILURES {
            self.named.push(format!("{source}: {words}"));
        }
    }

    pub(super) fn into_result(self) -> Result<(), Error> {
        if self.count == 0 {
            return Ok(());
        }
        Err(Error {
            full: self.full,
            sources: self.sources.clone(),
            ..trouble(self.to_string())
        })
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} ", self.what)?;
        if self.of > 1 {
            write!(f, "{} of {}: ", self.count, self.of)?;
        }
        f.write_str(&self.named.join("; "))?;
        match self.count - self.named.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}
