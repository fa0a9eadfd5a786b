//! Following who is a friend of this host beside its addresses and gateways: its name servers, and who is logged in.

use std::path::{Path, PathBuf};

use tracing::error;

use super::{Daemon, Error, LOGINS_AFTER, Token};
use crate::clock::Now;
use crate::host::{self, FileWatch, resolvers, sessions};

impl Daemon {
    /// Something has happened where name servers and sessions are written down.
    pub(super) fn surroundings_move(&mut self, now: Now) {
        if !self.surroundings.changed() {
            return;
        }
        // Directories may have come, and links may point elsewhere: watch anew, and read after that.
        let watched = watch().map_err(Error::from).and_then(|watch| {
            self.add(watch.fd(), Token::Surroundings)?;
            self.surroundings = watch;
            Ok(())
        });
        if let Err(cause) = watched {
            error!(
                "name servers and logins are not followed any more, but looked up before a ban: {cause}"
            );
        }
        let resolvers = resolvers::read();
        if self.resolvers != resolvers {
            self.resolvers.clone_from(&resolvers);
            self.engine.resolvers_changed(resolvers, now);
        }
        // A session's file is written several times as it begins.
        let soon = now.mono.later(LOGINS_AFTER);
        self.later.logins.get_or_insert(soon);
    }
}

/// As often as directories are looked for again that came while the others were put under watch.
const LOOKS: usize = 8;

/// Watches the files that name the name servers, and logind's directory.
pub(super) fn watch() -> Result<FileWatch, host::Error> {
    let sessions = Path::new(sessions::DIR);
    let mut files = what_is_there();
    let mut looks = 1;
    loop {
        let (mut watch, _) = FileWatch::open(&files)?;
        watch.add_dir(sessions);
        let there_now = what_is_there();
        // Who makes and deletes directories all the time will be heard.
        if files == there_now || looks == LOOKS {
            return Ok(watch);
        }
        files = there_now;
        looks += 1;
    }
}

/// The files, or what can be watched on the way to them.
fn what_is_there() -> Vec<PathBuf> {
    resolvers::FILES
        .iter()
        .map(Path::new)
        .chain([Path::new(sessions::DIR)])
        .filter_map(what_may_come)
        .map(Path::to_owned)
        .collect()
}

/// Of a path, as much as can be watched: up to the first part that is not there.
fn what_may_come(path: &Path) -> Option<&Path> {
    let is_watchable = |it: &&Path| it.parent().is_some_and(Path::is_dir);
    path.ancestors().find(is_watchable)
}
