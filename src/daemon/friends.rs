//! Following who is a friend of this host beside its addresses and gateways: its name servers, and who is logged in.

use std::path::{Path, PathBuf};

use tracing::error;

use super::{Daemon, Error, LOGINS_AFTER, Token};
use crate::clock::Now;
use crate::host::sessions::{self, Sources};
use crate::host::{self, FileWatch, resolvers};

impl Daemon {
    /// Something has happened where name servers and logins are written down.
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

/// Watches the files that name the name servers, and those that tell of logins.
pub(super) fn watch() -> Result<FileWatch, host::Error> {
    let mut there = what_is_there();
    let mut looks = 1;
    loop {
        let (mut watch, _) = FileWatch::open(&there.files)?;
        for dir in &there.dirs {
            watch.add_dir(dir);
        }
        let there_now = what_is_there();
        // Who makes and deletes directories all the time will be heard.
        if there == there_now || looks == LOOKS {
            return Ok(watch);
        }
        there = there_now;
        looks += 1;
    }
}

/// The files, or what can be watched on the way to them.
fn what_is_there() -> Sources {
    let Sources { files, dirs } = sessions::sources();
    let files = resolvers::FILES
        .iter()
        .map(Path::new)
        .chain(files.iter().chain(&dirs).map(PathBuf::as_path))
        .filter_map(what_may_come)
        .map(Path::to_owned)
        .collect();
    Sources { files, dirs }
}

/// Of a path, as much as can be watched: up to the first part that is not there.
fn what_may_come(path: &Path) -> Option<&Path> {
    let is_watchable = |it: &&Path| it.parent().is_some_and(Path::is_dir);
    path.ancestors().find(is_watchable)
}
