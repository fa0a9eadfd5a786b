//! The state lock: one process at a time changes what is banned, daemon or command.
//!
//! It stands beside the history file, not in it, so that it outlives a damaged file and can be asked about by anyone.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{Error, file, judge};

/// The lock, held until this is dropped or the process ends in any manner. The file `<history file>.lock` stays.
///
/// Take it after the last fork: the file names the process that took it, and a forked child that drops its copy lets go
/// of it for all. Programs we run do not inherit it.
#[derive(Debug)]
pub struct StateLock {
    file: Flock<File>,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another portsentry holds {}: {holder}", .path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// Who has it.
        holder: Holder,
    },
    /// The directory is not fit for history.
    #[error(transparent)]
    Place(#[from] Error),
    /// The lock's file could not be made, read or locked.
    #[error("cannot {step} {}: {cause}", .path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// Who has the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process, as it wrote it down; `None` if it has not yet.
    pub pid: Option<u32>,
    /// The process's name; `None` where that cannot be read.
    pub name: Option<String>,
}

impl StateLock {
    /// How often a held lock is tried again, this long apart: somebody may only have asked [`holder`].
    const TRIES: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(20);

    /// Takes the lock that belongs to the history at `history_path`, creating its file and directory if need be.
    ///
    /// # Errors
    /// When another process has it, or the file cannot be made.
    pub fn acquire(history_path: &Path) -> Result<Self, LockError> {
        file::prepare_dir(history_path)?;
        let path = self::path(history_path);
        let failed = |step| {
            let path = path.clone();
            move |cause| LockError::File { step, path, cause }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
            .map_err(failed("open"))?;
        file::leave_to_owner_of_dir(&file, &path);
        for _ in 0..Self::TRIES {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut file) => {
                    write_pid(&mut file).map_err(failed("write to"))?;
                    return Ok(Self { file });
                }
                Err((returned, Errno::EWOULDBLOCK)) => file = returned,
                Err((_, errno)) => return Err(failed("lock")(errno.into())),
            }
            thread::sleep(Self::PAUSE);
        }
        let holder = Holder::read(&mut file);
        Err(LockError::Held { path, holder })
    }
}

impl Drop for StateLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// Who holds the lock of the history at `history_path`, without taking it; `None`: nobody.
///
/// # Errors
/// When the lock's file is there and cannot be read.
pub fn holder(history_path: &Path) -> Result<Option<Holder>, LockError> {
    let path = self::path(history_path);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&path);
    let failed = |step, cause| LockError::File {
        step,
        path: path.clone(),
        cause,
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(failed("open", cause)),
    };
    // A shared lock, so that two who ask do not take each other for a holder.
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, Errno::EWOULDBLOCK)) => Ok(Some(Holder::read(&mut file))),
        Err((_, errno)) => Err(failed("ask about", errno.into())),
    }
}

impl Holder {
    fn read(file: &mut File) -> Self {
        let mut text = String::new();
        let read = file
            .rewind()
            .and_then(|()| file.take(16).read_to_string(&mut text));
        let pid = read.ok().and_then(|_| text.trim_end().parse().ok());
        let name = pid.and_then(|pid: u32| fs::read(format!("/proc/{pid}/comm")).ok());
        let name = name.map(|name| name.trim_ascii_end().escape_ascii().to_string());
        Self { pid, name }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.name) {
            (Some(pid), Some(name)) => write!(f, "pid {pid} ({name})"),
            (Some(pid), None) => write!(f, "pid {pid}"),
            (None, _) => f.write_str("a process that is just starting or ending"),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The lock's file.
#[must_use]
pub fn path(history_path: &Path) -> PathBuf {
    judge::sibling(history_path, ".lock")
}
