//! Modes of 1.2 that other processes have asked for, and hold: each for as long as its connection lasts.
//!
//! 1.2 was started once for each mode, and each process was to be stopped by itself. The other end of this is in `holder`.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::{info, warn};

use super::{Daemon, follow, notices};
use crate::clock::Now;
use crate::config::{self, WatchMode};
use crate::control::Watched;
use crate::history::TextFiles;
use crate::log::counted;

impl Daemon {
    /// Watches in these modes too, for process `pid`. Those that are in force already are held by one more.
    pub(super) fn lease(
        &mut self,
        names: &[String],
        config: &Path,
        pid: u32,
        now: Now,
    ) -> Result<BTreeSet<WatchMode>, String> {
        if !config::is_legacy(&self.config_path) {
            return Err(format!(
                "portsentry runs already, with {}, where tcp.mode and udp.mode say in which modes",
                self.config_path.display()
            ));
        }
        if config != self.config_path {
            return Err(format!(
                "portsentry runs already, pid {}, and with {}: one daemon has one configuration",
                std::process::id(),
                self.config_path.display()
            ));
        }
        let places = self.clients.places();
        if self.clients.leases().count() >= places {
            return Err(format!(
                "portsentry runs already, pid {}, and {} beside it: end some of them",
                std::process::id(),
                counted(places, "process", "processes")
            ));
        }
        let asked: Option<BTreeSet<WatchMode>> = names
            .iter()
            .map(|name| WatchMode::from_name(name))
            .collect();
        let asked = asked.ok_or("this mode is not known")?;
        let running = self.engine.config().watch_modes().collect();
        let new: Vec<WatchMode> = asked.difference(&running).copied().collect();
        if !new.is_empty() {
            self.reload_with(&(&self.clients.leased() | &asked), now)?;
            let running = self.engine.config().watch_modes().collect();
            let waiting: Vec<&str> = asked.difference(&running).map(|mode| mode.name()).collect();
            if !waiting.is_empty() {
                self.end_modes_of_nobody(now);
                return Err(format!(
                    "portsentry runs already, pid {}, and has given up what mode {} takes: it waits for a restart of that one",
                    std::process::id(),
                    waiting.join(", ")
                ));
            }
            let mut text = TextFiles::of(&self.engine.config().history);
            if let Err(failures) = text.begin(new.iter().copied()) {
                failures.iter().for_each(|failure| warn!("{failure}"));
            }
        }
        info!("watching in mode {} for pid {pid}", names.join(", "));
        self.notify_of(&new);
        Ok(asked)
    }

    /// Process `pid` holds its lease no longer.
    pub(super) fn give_up_the_lease_of(&mut self, pid: u32, now: Now) {
        let gone = self.end_modes_of_nobody(now);
        if gone.is_empty() {
            info!("pid {pid} has ended: its modes go on for others");
        } else {
            info!(
                "pid {pid} has ended: {} is watched no more",
                gone.join(", ")
            );
        }
    }

    /// Modes that neither we nor a holder have are over; which.
    fn end_modes_of_nobody(&mut self, now: Now) -> Vec<&'static str> {
        let held = &self.own_modes | &self.clients.leased();
        let config = self.engine.config();
        let gone: Vec<&str> = config
            .watch_modes()
            .filter(|mode| !held.contains(mode))
            .map(WatchMode::name)
            .collect();
        if gone.is_empty() {
            return gone;
        }
        // The file is not read again: what an admin has changed in it since is none of who ends.
        let config = config.clone().in_modes(&held);
        match self.listeners.set(follow::listened_by(&config), now.mono) {
            Ok(report) => notices::listening(&report),
            Err(cause) => warn!("ports stay open that nobody asks for any more: {cause}"),
        }
        if let Err(cause) = self.lead_to_traps(&config) {
            warn!("ports stay traps that nobody asks for any more: {cause}");
        }
        if let Err(cause) = self.watch_packets(&config) {
            // They are counted as unwatched.
            warn!("packets go on being read that nobody asks for any more: {cause}");
        }
        self.engine.watch_by(config);
        gone
    }

    /// The modes in force, and who has asked for each.
    pub(super) fn watched(&self) -> Vec<Watched> {
        let holders = |mode: WatchMode| {
            let own = self.own_modes.contains(&mode).then(std::process::id);
            let leases = self.clients.leases();
            let leases = leases.filter(|(_, modes)| modes.contains(&mode));
            own.into_iter().chain(leases.map(|(pid, _)| pid)).collect()
        };
        let modes = self.engine.config().watch_modes();
        modes
            .map(|mode| Watched {
                mode: mode.name().to_owned(),
                holders: holders(mode),
            })
            .collect()
    }
}
