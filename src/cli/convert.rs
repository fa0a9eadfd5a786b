//! `portsentry convert`: any configuration as a native file, on standard output.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, print, say};
use crate::config::{self, WatchMode};

/// What can be typed after `convert`.
#[derive(Args)]
pub(super) struct Convert {
    /// The file to convert instead of portsentry 1.2's
    file: Option<PathBuf>,

    /// The modes portsentry 1.2 is started in: tcp, udp, stcp, sudp, atcp, audp [default: as its init scripts say]
    #[arg(long, value_name = "MODE,...", value_delimiter = ',', value_parser = mode)]
    modes: Vec<WatchMode>,
}

impl Convert {
    /// Prints the configuration, and its warnings on standard error. `-c` is as good as a file.
    pub(super) fn run(&self, chosen: Option<&Path>) -> Result<(), Failure> {
        let file = self.file.as_deref().or(chosen);
        let file = file.map_or_else(config::legacy_path, Path::to_owned);
        let loaded = config::load_with(&file, &self.modes.iter().copied().collect())?;
        for warning in &loaded.warnings {
            say(warning);
        }
        let text = config::converted(&file, &loaded);
        print(|out| out.write_all(text.as_bytes()))
    }
}

fn mode(word: &str) -> Result<WatchMode, String> {
    let known = WatchMode::ALL.map(WatchMode::name).join(", ");
    WatchMode::from_name(word.trim_start_matches('-'))
        .ok_or_else(|| format!("there is no such mode; known: {known}"))
}
