//! `portsentry ban`

use std::time::Duration;

use clap::Args;

use super::{Asked, Client, Failure, offline, print};
use crate::control::{AskError, Line, Listed, Request};
use crate::log::span;
use crate::source::Source;

#[derive(Args)]
pub(super) struct Ban {
    /// An address, or a prefix such as 2001:db8::/64
    source: Source,
    /// How long: 2h, 30d, "1h 30m", or ever [default: ban.duration]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_length)]
    length: Option<Length>,
    /// Why, for the list, the history and the set's comment
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Ban a friend too, while this ban lasts: one that is ignored, a gateway, a name server, somebody who is logged in. Never this
    /// host's own addresses, loopback and the like
    #[arg(long)]
    force: bool,
    /// Undo the ban after this time, unless it is confirmed by then: for who might shut himself out. Needs the daemon
    #[arg(long, value_name = "TIME", value_parser = parse_trial)]
    revert: Option<Duration>,
    /// Keep a ban that was made with --revert; its time begins anew
    #[arg(long, conflicts_with_all = ["length", "reason", "force", "revert"])]
    confirm: bool,
}

/// Who has not confirmed by then has forgotten about it.
const LONGEST_TRIAL: Duration = Duration::from_secs(24 * 3600);

/// Longer is for ever, and must be said so.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// How long a ban is to last.
#[derive(Clone, Copy)]
pub(super) enum Length {
    Ever,
    For(Duration),
}

impl Length {
    /// In seconds, where there is an end.
    pub(super) fn seconds(self) -> Option<u64> {
        match self {
            Self::Ever => None,
            Self::For(length) => Some(length.as_secs()),
        }
    }
}

impl Ban {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let source = self.source.to_string();
        if self.confirm {
            let banned = match ask(client, &Request::Confirm { source })? {
                Some(outcome) => outcome?,
                None => return Err(Failure::from(NOTHING_WAITS.to_owned())),
            };
            return print(|out| writeln!(out, "{}", sentence(&banned)));
        }
        let request = Request::Ban {
            source,
            seconds: self.length.and_then(Length::seconds),
            ever: matches!(self.length, Some(Length::Ever)),
            reason: self.reason.clone(),
            force: self.force,
            revert: self.revert.map(|trial| trial.as_secs()),
        };
        let banned = match ask(client, &request)? {
            Some(outcome) => outcome?,
            None if self.revert.is_some() => {
                return Err(Failure::from(NOBODY_UNDOES.to_owned()));
            }
            None => offline::ban(client.good_config()?, &request)?,
        };
        let source = &banned.source;
        print(|out| {
            writeln!(out, "{}", sentence(&banned))?;
            if self.force {
                writeln!(
                    out,
                    "nothing spares {source} while that lasts, be it ignored, a gateway, a name server or logged in"
                )?;
            }
            if self.revert.is_some() {
                writeln!(
                    out,
                    "it is undone then, unless you confirm it: portsentry ban --confirm {source}"
                )?;
            }
            Ok(())
        })
    }
}

const NOBODY_UNDOES: &str =
    "no daemon is running: nobody would undo the ban, or hear that it is confirmed; start it first";
const NOTHING_WAITS: &str = "no daemon is running: nothing waits to be confirmed";

/// Has the daemon ban; `None`: there is no daemon.
pub(super) fn ask(
    client: &Client,
    request: &Request,
) -> Result<Option<Result<Listed, String>>, AskError> {
    let mut banned = None;
    let asked = client.ask(request, |line| {
        if let Line::Listed(listed) = line {
            banned = Some(listed);
        }
        Ok(())
    })?;
    Ok(match asked {
        Asked::Done => Some(
            banned.ok_or_else(|| "the daemon's answer makes no sense: no ban in it".to_owned()),
        ),
        Asked::Failed(why) | Asked::CutOff(why) => Some(Err(why)),
        Asked::NoDaemon(_) => None,
    })
}

pub(super) fn sentence(banned: &Listed) -> String {
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

pub(super) fn parse_length(text: &str) -> Result<Length, String> {
    if text == "ever" {
        return Ok(Length::Ever);
    }
    if text.contains('M') {
        return Err(
            "M could be minutes or months; write m or min for minutes, months for months"
                .to_owned(),
        );
    }
    let length = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it as 2h, 30d, \"1h 30m\" or ever"))?;
    if length < Duration::from_secs(1) {
        return Err("a ban lasts at least a second".to_owned());
    }
    if length > LONGEST {
        return Err("that is longer than 10 years; write ever".to_owned());
    }
    Ok(Length::For(length))
}

fn parse_trial(text: &str) -> Result<Duration, String> {
    match parse_length(text)? {
        Length::For(trial) if trial <= LONGEST_TRIAL => Ok(trial),
        _ => Err("that is longer than a day; write a time in which you will have confirmed it, such as 60s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_or_refused_with_what_to_write() {
        let read = |text: &str| match parse_length(text) {
            Ok(Length::Ever) => Ok(None),
            Ok(Length::For(length)) => Ok(Some(length.as_secs())),
            Err(why) => Err(why),
        };
        for (text, seconds) in [
            ("ever", None),
            ("1s", Some(1)),
            ("5m", Some(300)),
            ("1h 30m", Some(5400)),
            ("30d", Some(2_592_000)),
            ("10years", Some(315_576_000)),
        ] {
            assert_eq!(read(text), Ok(seconds), "{text}");
        }
        for (text, remedy) in [
            ("0s", "at least a second"),
            ("999ms", "at least a second"),
            ("5M", "write m or min for minutes"),
            ("11years", "write ever"),
            ("99999999999y", "write ever"),
            ("99999999999999999999999y", "or ever"),
            ("5 apples", "or ever"),
            ("5", "or ever"),
            ("", "or ever"),
            ("-1h", "or ever"),
        ] {
            let why = read(text).unwrap_err();
            assert!(why.contains(remedy), "{text}: {why}");
        }
    }
}
