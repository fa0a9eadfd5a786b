//! The local socket that commands talk to: requests, replies, their framing and limits, and the client's end.
//!
//! A request is one line of JSON. A reply is any number of lines of JSON, ended by a result line.
//! What a request means is the daemon's business.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::Counters;

mod server;

pub use server::{Client, Server, Step};

/// Bytes a request may have.
pub const MAX_REQUEST: usize = 1 << 20;

/// What a command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is: answered by one [`Status`].
    Status,
    /// Who is banned: answered by a [`Listed`] each.
    List,
    /// Ban a source: answered by a [`Listed`].
    Ban {
        /// An address or a prefix.
        source: String,
        /// Seconds; absent: as long as the configuration says for a first ban.
        seconds: Option<u64>,
        /// Without an end.
        ever: bool,
        /// Why, in the admin's words.
        reason: Option<String>,
    },
    /// Lift what covers these: answered by a [`Lifted`] each.
    Unban {
        /// Addresses or prefixes.
        sources: Vec<String>,
    },
    /// Lift every ban: answered by a [`Lifted`] each.
    UnbanAll,
    /// Read the configuration anew: answered by a [`Reloaded`].
    Reload,
}

/// One line of a reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// To `status`.
    Status(Box<Status>),
    /// To `list` and `ban`.
    Listed(Listed),
    /// To `unban`.
    Lifted(Lifted),
    /// To `reload`.
    Reloaded(Reloaded),
    /// The last line: it was done.
    Done,
    /// The last line: it was not done, or not all of it, and why.
    Failed(String),
}

/// How the daemon is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its process id.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// `replaying`, `enforcing`, `degraded`, `log-only`.
    pub state: State,
    /// Seconds since it became ready.
    pub uptime: u64,
    /// The configuration file.
    pub config: String,
    /// Bans that should be in force.
    pub intended: u64,
    /// Bans that the responders acknowledged.
    pub enforced: u64,
    /// For how many seconds the two have differed.
    pub differing_for: Option<u64>,
    /// Who makes bans real, the primary one first.
    pub responders: Vec<String>,
    /// How packets are seen.
    pub capture: CaptureStatus,
    /// What became of the probes.
    pub counters: Counters,
    /// What goes wrong at present.
    pub troubles: Vec<String>,
}

/// The daemon's state in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// History is being put back into the responders; detection is on already.
    Replaying,
    /// All is well.
    Enforcing,
    /// Something goes wrong: see the troubles.
    Degraded,
    /// The configuration says to log scans and to ban nobody.
    LogOnly,
}

/// How packets are seen, and what became of them before they were probes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStatus {
    /// `packet` or `ip`.
    pub method: String,
    /// Packets that the kernel filter let through.
    pub packets: u64,
    /// Packets that the kernel dropped because we were too slow.
    pub dropped: u64,
    /// Packets that were no probes, by why.
    pub skipped: Vec<(String, u64)>,
}

/// A running ban.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// An address or a prefix.
    pub source: String,
    /// Why.
    pub reason: String,
    /// `scan`, `command` or `adopted`.
    pub origin: String,
    /// When it began, in milliseconds since 1970.
    pub start: i64,
    /// Whole length in seconds; absent: permanent.
    pub length: Option<u64>,
    /// Seconds left; absent: permanent.
    pub left: Option<u64>,
    /// Whether it is permanent.
    pub permanent: bool,
}

/// What became of one address that was to be unbanned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// As it was asked for; absent where all were.
    pub asked: Option<String>,
    /// The ban that was lifted; absent: nothing covered the address.
    pub source: Option<String>,
    /// The ban as it was known; absent: it stood in the kernel alone.
    pub ban: Option<Listed>,
}

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys that have changed and take effect at a restart only.
    pub needs_restart: Vec<String>,
}

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no portsentry daemon is running (nobody listens on {0})")]
    NoDaemon(String),
    /// The socket may not be opened.
    #[error("cannot talk to the daemon on {0}: permission denied (only root may)")]
    NotAllowed(String),
    /// The daemon does not answer.
    #[error("the daemon does not answer within {} s", .0.as_secs())]
    Hung(Duration),
    /// Anything else.
    #[error("cannot talk to the daemon: {0}")]
    Io(#[from] io::Error),
    /// It answered something else.
    #[error("the daemon's answer makes no sense: {0}")]
    Garbled(#[from] serde_json::Error),
}

/// Asks the daemon, and hands each line of its answer to `each` as it comes, the result line included.
///
/// # Errors
/// There is no daemon, or it does not answer within `patience` a line.
pub fn ask(
    socket: &Path,
    request: &Request,
    patience: Duration,
    mut each: impl FnMut(Line) -> io::Result<()>,
) -> Result<(), AskError> {
    let name = || socket.display().to_string();
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoDaemon(name()),
        io::ErrorKind::PermissionDenied => AskError::NotAllowed(name()),
        _ => AskError::Io(error),
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let slow = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Hung(patience),
        _ => AskError::Io(error),
    };
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    stream.write_all(&text).map_err(slow)?;
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text).map_err(slow)? == 0 {
            return Err(AskError::Io(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it hung up in the middle of its answer",
            )));
        }
        let line: Line = serde_json::from_str(&text)?;
        let is_last = matches!(line, Line::Done | Line::Failed(_));
        each(line)?;
        if is_last {
            return Ok(());
        }
    }
}
