//! [`Claim`]s to the files that this process has connections to, so that it never closes one that SQLite has locked.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Error;
use super::judge::{Found, judge_start, refused, unreadable};

/// Which file this is, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for Identity {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// Files that this process has connections to, once for each. Locks of files are the process's (POSIX): to close any descriptor
/// of such a file takes away those of its connections. Another program would then think itself alone with it, and delete at its end
/// the `-wal` that we write to.
static OPEN: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

/// A place among those that are [`OPEN`]: to be dropped after the connection.
pub(super) struct Claim {
    identity: Identity,
    /// Symbolic links resolved: the name beside which SQLite puts its `-wal` and `-shm`.
    pub(super) path: PathBuf,
    /// For looking at the header; `None`: an earlier connection's claim has one.
    file: Option<File>,
}

impl Claim {
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        let identity = Identity::of(path).map_err(|cause| unreadable(path, cause))?;
        let mut open = open_files();
        let file = if open.contains(&identity) {
            None
        } else {
            Some(File::open(path).map_err(|cause| unreadable(path, cause))?)
        };
        open.push(identity);
        Ok(Self {
            identity,
            path: path.to_owned(),
            file,
        })
    }

    /// Whether there is another file at the path by now, or none.
    pub(super) fn is_void(&self) -> bool {
        Identity::of(&self.path).map_or(true, |identity| identity != self.identity)
    }

    /// Looks whether the file still begins as a history does.
    pub(super) fn check(&self) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        match judge_start(file, &self.path)? {
            Found::History { .. } => Ok(()),
            Found::Nothing | Found::Empty => {
                Err(refused(&self.path, "it has been emptied".to_owned()))
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut open = open_files();
        if let Some(place) = open.iter().position(|it| *it == self.identity) {
            open.swap_remove(place);
        }
    }
}

/// Whether this process has a connection to the file at the path.
pub(super) fn is_open(path: &Path) -> bool {
    Identity::of(path).is_ok_and(|identity| open_files().contains(&identity))
}

fn open_files() -> MutexGuard<'static, Vec<Identity>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}
