//! `portsentry ban`

use std::time::Duration;

use clap::Args;

use super::{Asked, Client, Failure, offline, parse_source, print};
use crate::control::{Line, Listed, Request};
use crate::log::span;
use crate::source::Source;

#[derive(Args)]
pub(super) struct Ban {
    /// An address, or a prefix such as 2001:db8::/64
    #[arg(value_parser = parse_source)]
    source: Source,
    /// How long: 2h, 30d, "1h 30m", or ever [default: ban.duration]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_length)]
    length: Option<Length>,
    /// Why, for the list, the history and the set's comment
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// How long a ban is to last.
#[derive(Clone, Copy)]
enum Length {
    Ever,
    For(Duration),
}

impl Ban {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let request = Request::Ban {
            source: self.source.to_string(),
            seconds: match self.length {
                Some(Length::For(length)) => Some(length.as_secs()),
                _ => None,
            },
            ever: matches!(self.length, Some(Length::Ever)),
            reason: self.reason.clone(),
        };
        let mut banned = None;
        let asked = client.ask(&request, |line| {
            if let Line::Listed(listed) = line {
                banned = Some(listed);
            }
            Ok(())
        })?;
        match asked {
            Asked::Done => {}
            Asked::Failed(why) => return Err(Failure::from(why)),
            Asked::NoDaemon(_) => banned = Some(offline::ban(client.good_config()?, &request)?),
        }
        match banned {
            Some(banned) => print(|out| writeln!(out, "{}", sentence(&banned))),
            None => Err(Failure::from(
                "the daemon's answer makes no sense: no ban in it".to_owned(),
            )),
        }
    }
}

fn sentence(banned: &Listed) -> String {
    match banned.length {
        Some(length) => format!(
            "{} banned for {}: {}",
            banned.source,
            span(Duration::from_secs(length)),
            banned.reason
        ),
        None => format!("{} banned for ever: {}", banned.source, banned.reason),
    }
}

fn parse_length(text: &str) -> Result<Length, String> {
    if text == "ever" {
        return Ok(Length::Ever);
    }
    let length = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it as 2h, 30d, \"1h 30m\" or ever"))?;
    if length < Duration::from_secs(1) {
        return Err("a ban lasts at least a second".to_owned());
    }
    Ok(Length::For(length))
}
