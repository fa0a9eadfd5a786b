//! Going into the background as 1.2 did: whoever started us waits until we are ready, or hears why we are not.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, chdir, dup2_stderr, dup2_stdin, dup2_stdout, pipe2, setsid};

use crate::sys;

/// Which half of the process this is.
pub enum Half {
    /// The one that goes on in the background, and reports to the other.
    Background(Starter),
    /// The one that was started; what it says and how it ends.
    Front(Result<(), Failed>),
}

/// Why nothing goes on in the background.
#[derive(Debug)]
pub struct Failed {
    /// What it said; empty where it just went away.
    pub message: String,
    /// The exit status that it asks for.
    pub status: u8,
}

/// Whoever started us, and waits.
pub struct Starter(std::fs::File);

/// The first byte of a report: it is ready, or the exit status of what went wrong.
const READY: u8 = 0;

/// Splits the process in two. Called before any thread is started.
///
/// # Errors
/// The kernel refuses; then there is still one process.
pub fn split() -> io::Result<Half> {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match sys::fork()? {
        ForkResult::Child => {
            drop(read);
            settle()?;
            Ok(Half::Background(Starter(write.into())))
        }
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Half::Front(wait(read)))
        }
    }
}

/// Takes leave of terminal, directory and the caller's file mode mask.
fn settle() -> io::Result<()> {
    setsid()?;
    chdir("/")?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    Ok(())
}

fn wait(read: OwnedFd) -> Result<(), Failed> {
    let mut report = Vec::new();
    // What cannot be read says as much as nothing.
    let _ = std::fs::File::from(read).read_to_end(&mut report);
    match report.split_first() {
        Some((&READY, _)) => Ok(()),
        Some((&status, message)) => Err(Failed {
            message: String::from_utf8_lossy(message).into_owned(),
            status,
        }),
        None => Err(Failed {
            message: String::new(),
            status: 1,
        }),
    }
}

impl Starter {
    /// Lets them go: we are ready. From here on nothing is read from or written to where we were started.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened.
    pub fn ready(mut self) -> io::Result<()> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(null.as_fd())?;
        dup2_stdout(null.as_fd())?;
        dup2_stderr(null.as_fd())?;
        // They may have been killed meanwhile.
        let _ = self.0.write_all(&[READY]);
        Ok(())
    }

    /// Lets them go: we end, with this exit status.
    pub fn failed(mut self, message: &str, status: u8) {
        let _ = self.0.write_all(&[status.max(1)]);
        let _ = self.0.write_all(message.as_bytes());
    }
}
