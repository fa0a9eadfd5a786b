//! `portsentry unban`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;

use super::{Asked, Client, Failure, ago, offline, print};
use crate::clock::Now;
use crate::config::Own;
use crate::control::{AskError, Lifted, Line, Request};
use crate::log::span;
use crate::respond;
use crate::source::Source;

#[derive(Args)]
pub(super) struct Unban {
    /// Addresses or prefixes
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    sources: Vec<Source>,
    /// Lift every ban
    #[arg(long)]
    all: bool,
}

impl Unban {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let request = if self.all {
            Request::UnbanAll
        } else {
            Request::Unban {
                sources: self.sources.iter().map(ToString::to_string).collect(),
            }
        };
        let mut lifted = Vec::new();
        let asked = client.ask(&request, |line| {
            if let Line::Lifted(one) = line {
                lifted.push(one);
            }
            Ok(())
        });
        let failed = match asked {
            Ok(Asked::Done) => None,
            Ok(Asked::Failed(why)) => Some(Failure::from(why)),
            Ok(Asked::NoDaemon(_)) => client
                .good_config()
                .and_then(|config| offline::unban(config, &request, &mut lifted))
                .map_or_else(Some, |failed| failed.map(Failure::from)),
            Ok(Asked::CutOff(why)) => Some(Failure::from(format!("{why}; {}", stop_first(client)))),
            // Who may not talk to the daemon may not change the kernel either.
            Err(error @ AskError::NotAllowed(_)) => return Err(Failure::from(error)),
            Err(error @ AskError::Hung(_)) => {
                Some(Failure::from(format!("{error}; {}", stop_first(client))))
            }
            Err(error) => Some(Failure::from(error)),
        };
        let now = Now::read();
        print(|out| {
            if self.all && lifted.is_empty() && failed.is_none() {
                writeln!(out, "nobody was banned")?;
            }
            lifted
                .iter()
                .try_for_each(|one| writeln!(out, "{}", sentence(one, now)))
        })?;
        match failed {
            None => Ok(()),
            Some(Failure { message, status }) => Err(Failure {
                message: format!("{message}\n{}", self.by_hand(client)),
                status,
            }),
        }
    }

    /// What frees the address when we cannot.
    fn by_hand(&self, client: &Client) -> String {
        let mut text = "this frees the address by hand (what is not there is no matter".to_owned();
        if client.spoilt.is_some() {
            text.push_str("; the names are those of the default configuration");
        }
        if client.config.nftables.own != Own::Off {
            text.push_str("; nft is refused as long as the daemon runs: end it first");
        }
        text.push_str("):");
        let covering = |source: &Source| client.config.ban.covering(*source);
        let covering: BTreeSet<Source> = self.sources.iter().flat_map(covering).collect();
        for kind in &client.config.ban.responders {
            for line in respond::by_hand(*kind, &client.config, &covering, self.all) {
                let _ = write!(text, "\n  {line}");
            }
        }
        text
    }
}

/// What is to be done about a daemon that hangs.
fn stop_first(client: &Client) -> String {
    // With a spoilt configuration nobody knows which lock is the daemon's.
    let how = match client.spoilt {
        None => offline::kill(&client.config),
        Some(_) => String::new(),
    };
    format!(
        "it still holds the ban in memory, and puts a deleted table back at its next ban: stop it first{how}, then try again"
    )
}

/// `203.0.113.7 unbanned (syn scan, 3 tcp ports, last 23; 2h ago; 22h were left)`
pub(super) fn sentence(one: &Lifted, now: Now) -> String {
    let Some(source) = &one.source else {
        return format!("{} is not banned", one.asked.as_deref().unwrap_or("it"));
    };
    let mut text = source.clone();
    let asked = one.asked.as_ref().filter(|asked| *asked != source);
    if one.stands {
        if let Some(asked) = asked {
            let _ = write!(text, ", which covers {asked},");
        }
        text.push_str(" may still be shut out");
        return text;
    }
    text.push_str(" unbanned");
    if let Some(asked) = asked {
        let _ = write!(text, ", which covers {asked}");
    }
    match &one.ban {
        None => text.push_str(" (found in the kernel alone)"),
        Some(ban) => {
            let left = match ban.left {
                Some(left) => format!("{} were left", span(Duration::from_secs(left))),
                None => "permanent".to_owned(),
            };
            let _ = write!(text, " ({}; {}; {left})", ban.reason, ago(ban.start, now));
        }
    }
    match one.within {
        0 => {}
        1 => text.push_str("; a ban within it goes on"),
        more => {
            let _ = write!(text, "; {more} bans within it go on");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_hold_still_is_not_told_as_unbanned() {
        let mut one = Lifted {
            asked: Some("203.0.113.7".to_owned()),
            source: Some("203.0.113.0/24".to_owned()),
            ban: None,
            within: 0,
            stands: false,
        };
        assert_eq!(
            sentence(&one, Now::read()),
            "203.0.113.0/24 unbanned, which covers 203.0.113.7 (found in the kernel alone)"
        );
        one.stands = true;
        assert_eq!(
            sentence(&one, Now::read()),
            "203.0.113.0/24, which covers 203.0.113.7, may still be shut out"
        );
    }
}
