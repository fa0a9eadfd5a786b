//! From the configuration to the table of traps.

use std::path::Path;

use tracing::warn;

use super::{Daemon, Token};
use crate::config::Config;
use crate::host::{Facts, Link, bridges};
use crate::listen::Listeners;
use crate::nft;
use crate::traps::{Error, Traps};

impl Daemon {
    /// Has connections to traps led to our listener as `config` says, or no more.
    pub(super) fn lead_to_traps(&mut self, config: &Config) -> Result<(), String> {
        let is_beside = |traps: &&mut Traps| traps.is_beside(&config.nftables.table);
        let here = self.traps.as_mut().filter(is_beside);
        match (wanted(config, &self.listeners), here) {
            (Some(wanted), Some(traps)) => traps.change(wanted).map_err(|why| why.to_string()),
            (Some(_), None) => {
                // One of another name is taken down when this one leads.
                let made = set_up(config, &self.listeners, self.host.facts());
                self.traps = made.map_err(|why| why.to_string())?;
                self.watch_traps();
                Ok(())
            }
            (None, _) => {
                self.traps = None;
                Ok(())
            }
        }
    }

    /// Watches what others do to the table of traps, if there is one.
    pub(super) fn watch_traps(&mut self) {
        let Some(traps) = &mut self.traps else { return };
        if let Err(cause) = traps.begin_watching() {
            warn!("{cause}; what others do to it is found by `portsentry status`");
        }
        let watched = self.traps.as_ref().and_then(Traps::watched);
        if let Some(Err(cause)) = watched.map(|fd| self.add(fd, Token::Traps)) {
            warn!("{cause}");
        }
    }
}

/// The table of traps, where the configuration wants one. What an earlier daemon may have left behind is gone then.
pub(super) fn set_up(
    config: &Config,
    listeners: &Listeners,
    facts: &Facts,
) -> Result<Option<Traps>, Error> {
    let table = &config.nftables.table;
    match wanted(config, listeners) {
        Some(wanted) => {
            warn_of_bridges(config, facts);
            Traps::set_up(table, wanted).map(Some)
        }
        None => {
            // It does nothing without a listener, and a host without nf_tables has none.
            let _ = Traps::clear_away(table);
            Ok(None)
        }
    }
}

/// From there nobody reaches a trap, so that nobody is banned.
fn warn_of_bridges(config: &Config, facts: &Facts) {
    let named = &config.capture.interfaces;
    let has_address = |link: &&Link| facts.addresses().iter().any(|it| it.link == link.index);
    let watched = facts.links().iter().filter(has_address);
    let watched = watched.map(|link| link.name.as_str());
    let watched = watched.filter(|name| named.is_empty() || named.contains(*name));
    let bridges = bridges::filtered(watched, Path::new("/"));
    if !bridges.is_empty() {
        warn!(
            "connections that come in by {} cannot be led to traps, so that who scans from there is not banned: br_netfilter has \
             them filtered on the bridge already (sysctl net.bridge.bridge-nf-call-iptables=0 and its ip6tables, where nothing needs them)",
            bridges.join(", ")
        );
    }
}

fn wanted(config: &Config, listeners: &Listeners) -> Option<nft::Traps> {
    let ports = config.has_traps().then(|| config.tcp.ranges());
    let ports = ports.filter(|ports| !ports.is_empty())?;
    let [ipv4, ipv6] = listeners.trap_ports();
    Some(nft::Traps {
        ports,
        interfaces: config.capture.interfaces.iter().cloned().collect(),
        ipv4,
        ipv6,
    })
}
