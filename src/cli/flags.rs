//! 1.2's command line: `portsentry -atcp -audp`, by which init scripts, units and habit start it.
//!
//! They start one process a mode. Here one of them is the daemon, and watches for all.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::Failure;
use crate::config::{self, WatchMode};
use crate::daemon::{self, Half};

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flags {
    modes: BTreeSet<WatchMode>,
    config: Option<PathBuf>,
}

const USAGE: &str = "usage: portsentry [-tcp -udp -stcp -atcp -sudp -audp]";

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

    /// Has these modes watched in the background.
    pub(super) fn run(self) -> Result<(), Failure> {
        let path = self.config.unwrap_or_else(config::legacy_path);
        // What goes on in the background works elsewhere.
        let path = std::path::absolute(&path).unwrap_or(path);
        config::load_with(&path, &self.modes)?;
        let half =
            daemon::split().map_err(|cause| format!("cannot go into the background: {cause}"))?;
        let (status, message) = match half {
            Half::Front(Ok(())) => (0, String::new()),
            Half::Front(Err(failed)) => (failed.status, failed.message),
            // Whoever waits is told by it.
            Half::Background(starter) => {
                let status = daemon::run_in_background(&path, &self.modes, starter);
                (status, String::new())
            }
        };
        match status {
            0 => Ok(()),
            _ => Err(Failure { message, status }),
        }
    }
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
