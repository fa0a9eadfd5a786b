//! The hosts-deny responder: bans as lines of `/etc/hosts.deny`, for services that ask tcp_wrappers.
//!
//! It decides when the file is changed, and words what goes wrong. What a line looks like is `text`'s business, and how a file
//! that others edit too is replaced is `file`'s. The lines do not end by themselves.

#[cfg(test)]
mod tests;
mod text;

use std::collections::HashSet;

use super::{Deed, Error, Held, Holdings, Prepared, Responder};
use crate::clock::Now;
use crate::config;
use crate::policy::Ban;
use crate::rewrite::{Rules, SharedFile};
use crate::source::Source;
use text::{Mark, Template, Text};

/// As in the configuration.
const NAME: &str = "hosts-deny";

/// Each connection to a service behind tcp_wrappers has the file read from the start, and each ban here: so it is kept short, and
/// nobody waits long for another editor.
const RULES: Rules = Rules {
    key: "hosts-deny.file",
    limit: 4 << 20,
    tries: 5,
};

/// Bans as lines in the file that tcp_wrappers reads. Each call is one rewrite of it, or none; the file is read each time,
/// for it is others' as well.
#[derive(Clone)]
pub struct HostsDeny {
    file: SharedFile,
    template: Template,
}

impl HostsDeny {
    /// A responder for this configuration. Looks at nothing and changes nothing yet.
    ///
    /// # Errors
    /// When no ban could be written by that line, or no file has that path.
    pub fn open(settings: &config::HostsDeny) -> Result<Self, Error> {
        let template = Template::new(&settings.line).map_err(|why| {
            trouble(format!(
                "hosts-deny.line cannot be \"{}\": {why}",
                settings.line.escape_default()
            ))
        })?;
        let file = SharedFile::new(&settings.file, RULES).map_err(trouble)?;
        Ok(Self { file, template })
    }

    /// One rewrite.
    fn edit(&self, mut change: impl FnMut(&mut Text<'_>)) -> Result<(), Error> {
        self.file
            .edit(|bytes| {
                let mut text = Text::parse(bytes, &self.template);
                change(&mut text);
                text.to_bytes()
            })
            .map_err(trouble)
    }

    fn held(&self) -> Result<Vec<Held>, Error> {
        let bytes = self.file.read().map_err(trouble)?;
        // The kernel tells how much is left of what it holds; a file must be asked with the time.
        let wall = Now::read().wall;
        let text = Text::parse(&bytes, &self.template);
        Ok(text
            .marks()
            .map(|mark| mark.note.held(mark.source, wall))
            .collect())
    }
}

impl Responder for HostsDeny {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Looks whether the file can be edited. One that is not there is made with the first ban.
    fn prepare(&mut self) -> Result<Prepared, Error> {
        self.file.check().map_err(trouble)?;
        Ok(Prepared::Adopted)
    }

    fn ban(&mut self, bans: &[&Ban], _now: Now) -> Result<(), Error> {
        let mut without_room = Vec::new();
        self.edit(|text| without_room = text.put(bans, &self.template, RULES.limit))?;
        if without_room.is_empty() {
            return Ok(());
        }
        let message = format!(
            "cannot ban {} of {}: {}",
            without_room.len(),
            bans.len(),
            self.file.too_big()
        );
        Err(Error {
            full: true,
            sources: without_room,
            ..trouble(message)
        })
    }

    fn replay(&mut self, bans: &[&Ban], now: Now) -> Result<(), Error> {
        self.ban(bans, now)
    }

    fn unban(&mut self, sources: &[Source]) -> Result<(), Error> {
        let sources: HashSet<Source> = sources.iter().copied().collect();
        self.edit(|text| text.take(&sources))
    }

    fn find(&mut self, source: Source) -> Result<Option<Held>, Error> {
        let found = self.held()?.into_iter().find(|held| held.source == source);
        Ok(found)
    }

    fn unban_all(&mut self) -> Result<(), Error> {
        self.edit(|text| text.clear())
    }

    /// Who takes a line of ours out of the file by hand means it: it comes back with the next start.
    fn take_lost(&mut self) -> bool {
        false
    }

    fn holdings(&self) -> Option<Holdings> {
        let responder = self.clone();
        Some(Box::new(move |_| responder.held()))
    }

    /// A file that was made for the first ban stays, empty.
    fn withdraw(&mut self) -> Result<(), Error> {
        self.unban_all()
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn deed(&self, ban: &Ban, _now: Now) -> Deed {
        Deed::Wrappers(self.template.line(ban.source))
    }
}

/// Whether a line of the file, without its end, is our mark: the line below it is ours too.
pub(crate) fn is_mark(line: &[u8]) -> bool {
    Mark::parse(line).is_some()
}

fn trouble(message: String) -> Error {
    Error::new(NAME, message)
}
