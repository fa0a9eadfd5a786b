//! 1.2's command line: `portsentry -atcp -audp`, by which init scripts, units and habit start it.
//!
//! They start one process a mode. Here one daemon has them all: a second process hands its mode to the first.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, PATIENCE};
use crate::config::{self, Config, WatchMode};
use crate::control::{self, AskError, Line, Request};
use crate::daemon::{self, Half};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flags {
    modes: BTreeSet<WatchMode>,
    config: Option<PathBuf>,
}

const USAGE: &str = "usage: portsentry [-tcp -udp -stcp -atcp -sudp -audp]";

/// How long a daemon that is just being started may take until it can be talked to.
const STARTING: Duration = Duration::from_secs(30);

impl Flags {
    /// The flags among `arguments`, which begin after the program's name; `None`: there are none, and it is the other
    /// command line.
    ///
    /// # Errors
    /// Something else stands beside them.
    pub(super) fn read(arguments: &[OsString]) -> Option<Result<Self, Failure>> {
        let mode = |argument: &OsStr| {
            let name = argument.to_str()?.strip_prefix('-')?;
            WatchMode::from_name(name)
        };
        let mut modes = arguments.iter().filter(|argument| is_like_a_mode(argument));
        modes.clone().next()?;
        if let Some(unknown) = modes.find(|argument| mode(argument).is_none()) {
            return Some(Err(Failure {
                message: format!("there is no mode {}\n{USAGE}", unknown.to_string_lossy()),
                status: super::USAGE,
            }));
        }
        let mut flags = Self {
            modes: BTreeSet::new(),
            config: None,
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if let Some(mode) = mode(argument) {
                flags.modes.insert(mode);
            } else if argument == "-c" || argument == "--config" {
                flags.config = rest.next().map(PathBuf::from);
                if flags.config.is_none() {
                    return Some(Err(Failure {
                        message: format!("-c needs the path of a configuration\n{USAGE}"),
                        status: super::USAGE,
                    }));
                }
            } else {
                return Some(Err(Failure {
                    message: format!(
                        "{} does not go with 1.2's flags; beside them stands at most -c FILE\n{USAGE}",
                        argument.to_string_lossy().escape_debug()
                    ),
                    status: super::USAGE,
                }));
            }
        }
        Some(Ok(flags))
    }

    /// Hands the modes to the daemon that runs, or becomes it.
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = self.config.unwrap_or_else(config::legacy_path);
        // The daemon works elsewhere.
        let path = std::path::absolute(&path).unwrap_or(path);
        let config = config::load_with(&path, &self.modes)?.config;
        if hand_over(&config, &path, &self.modes, Hung::IsAFailure)? {
            return Ok(());
        }
        match daemon::split().map_err(|cause| format!("cannot go into the background: {cause}"))? {
            Half::Daemon(starter) => {
                let status = daemon::run_in_background(&path, self.modes, starter);
                // Whoever waits has been told already.
                match status {
                    0 => Ok(()),
                    status => Err(Failure {
                        message: String::new(),
                        status,
                    }),
                }
            }
            Half::Front(Ok(())) => Ok(()),
            Half::Front(Err(failed)) => {
                // Two that were started at the same time: the other one is the daemon.
                let deadline = Instant::now() + STARTING;
                while failed.is_taken() && Instant::now() < deadline {
                    // Until it is ready, it listens and does not answer.
                    if hand_over(&config, &path, &self.modes, Hung::IsStarting)? {
                        return Ok(());
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                Err(Failure {
                    status: if failed.is_taken() { 1 } else { failed.status },
                    message: failed.message,
                })
            }
        }
    }
}

/// What a daemon is that does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hung {
    IsAFailure,
    IsStarting,
}

/// Whether it looks like one of the flags: `-xtcp`.
fn is_like_a_mode(argument: &OsStr) -> bool {
    let word = argument.to_str().and_then(|word| word.strip_prefix('-'));
    word.and_then(|word| {
        word.strip_suffix("tcp")
            .or_else(|| word.strip_suffix("udp"))
    })
    .is_some_and(|start| start.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// Hands the modes to the daemon that runs; false: there is none.
fn hand_over(
    config: &Config,
    path: &Path,
    modes: &BTreeSet<WatchMode>,
    hung: Hung,
) -> Result<bool, Failure> {
    let request = Request::AddModes {
        modes: modes.iter().map(|mode| mode.name().to_owned()).collect(),
        config: path.display().to_string(),
    };
    let mut refused = None;
    let asked = control::ask(&config.control.socket, &request, PATIENCE, |line| {
        if let Line::Failed(why) = line {
            refused = Some(why);
        }
        Ok(())
    });
    match (asked, refused) {
        (Ok(()), None) => Ok(true),
        (Ok(()), Some(why)) => Err(Failure::from(why)),
        (Err(AskError::NoDaemon(_)), _) => Ok(false),
        (Err(AskError::Hung(_)), _) if hung == Hung::IsStarting => Ok(false),
        (Err(error), _) => Err(Failure::from(error)),
    }
}
