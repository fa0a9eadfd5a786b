//! Where responders put bans up: remembered from run to run, so that what a changed configuration no longer uses is taken down.

use std::fmt;

use super::{Error, Responders};
use crate::config::{Config, ResponderKind};

/// Where the bans of one responder stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The responder's name.
    pub responder: String,
    /// Its table, chain or file; empty where there is one place for all.
    pub place: String,
}

impl Site {
    /// Those that this configuration uses. Programs have none.
    #[must_use]
    pub fn of(config: &Config) -> Vec<Self> {
        let kinds = config.ban.responders.iter();
        kinds
            .filter_map(|kind| Self::of_kind(*kind, config))
            .collect()
    }

    fn of_kind(kind: ResponderKind, config: &Config) -> Option<Self> {
        let place = match kind {
            ResponderKind::Nftables => config.nftables.table.clone(),
            ResponderKind::Iptables => config.iptables.chain.clone(),
            ResponderKind::Route => String::new(),
            ResponderKind::HostsDeny => config.hosts_deny.file.to_str()?.to_owned(),
            ResponderKind::Command => return None,
        };
        Some(Self {
            responder: kind.name().to_owned(),
            place,
        })
    }

    /// Takes down what was put up here. Nothing is no error.
    ///
    /// # Errors
    /// Something of ours may still be there.
    pub fn withdraw(&self, config: &Config) -> Result<(), Error> {
        let mut config = config.clone();
        let Some(kind) = ResponderKind::from_name(&self.responder) else {
            return Ok(()); // A later version's: this one cannot have put anything up there.
        };
        match kind {
            ResponderKind::Nftables => config.nftables.table.clone_from(&self.place),
            ResponderKind::Iptables => config.iptables.chain.clone_from(&self.place),
            ResponderKind::Route => {}
            ResponderKind::HostsDeny => config.hosts_deny.file = (&self.place).into(),
            ResponderKind::Command => return Ok(()),
        }
        let mut responders = Responders::of_kinds(&[kind], &config)?;
        responders.withdraw().into_iter().next().map_or(Ok(()), Err)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { responder, place } = self;
        write!(f, "{responder}")?;
        if place.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", place.escape_default())
    }
}
