//! `portsentry explain`

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::history::{Told, write_row};
use super::{Asked, Client, Failure, ago, offline, print};
use crate::clock::Now;
use crate::control::{Explained, Line, Neighbours, Request, Seen};
use crate::history::{History as Store, Row};
use crate::log::span;

#[derive(Args)]
pub(super) struct Explain {
    /// The address
    address: IpAddr,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All that is known, as JSON tells it.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    known: Explained,
    /// The newest first.
    history: Vec<Told>,
}

/// Rows of history that are shown.
const ROWS: usize = 20;

impl Explain {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let address = self.address.to_canonical();
        let mut known = None;
        let asked = client.ask(&Request::Explain { address }, |line| {
            if let Line::Explained(it) = line {
                known = Some(*it);
            }
            Ok(())
        })?;
        let known = match (asked, known) {
            (Asked::Done, Some(known)) => known,
            (Asked::Failed(why), _) => return Err(Failure::from(why)),
            (Asked::NoDaemon(why) | Asked::CutOff(why), _) => {
                let hint = "what is over, and what history says still runs, is told by `portsentry history ADDRESS`";
                return Err(Failure::from(format!("{why}; {hint}")));
            }
            (Asked::Done, None) => {
                return Err(Failure::from(
                    "the daemon's answer makes no sense".to_owned(),
                ));
            }
        };
        let rows = match Store::open_read_only(&client.config.history.file)? {
            Some(history) => {
                offline::go_by(&history)?;
                history.of(Some(address), ROWS)?
            }
            None => Vec::new(),
        };
        if self.json {
            let now = Now::read().wall;
            let history = rows.iter().map(|row| Told::of(row, now)).collect();
            let told = Whole { known, history };
            return print(|out| {
                serde_json::to_writer_pretty(&mut *out, &told)?;
                writeln!(out)
            });
        }
        print(|out| write(out, &known, &rows))
    }
}

fn write(out: &mut dyn Write, known: &Explained, rows: &[Row]) -> io::Result<()> {
    let now = Now::read();
    writeln!(out, "{}", known.address)?;
    let is_forced = known.bans.iter().any(|ban| ban.origin == "forced");
    match &known.friend {
        Some(why) if is_forced => {
            writeln!(out, "  is banned all the same (ban --force), though {why}")?;
        }
        Some(why) => writeln!(out, "  is never banned: {why}")?,
        None => {}
    }
    for reason in &known.also {
        writeln!(out, "    and {reason}")?;
    }
    for ban in &known.bans {
        let left = ban.left.map_or("without an end".to_owned(), |left| {
            format!("{} left", seconds(left))
        });
        let holding = ban.responders.clone().unwrap_or_default();
        writeln!(
            out,
            "  is banned as {}{}, begun {}, {left}: {}",
            ban.source,
            ban.by
                .as_ref()
                .map_or(String::new(), |by| format!(" by {by}")),
            ago(ban.start, now),
            ban.reason
        )?;
        if ban.on_trial {
            writeln!(
                out,
                "    is undone then, unless it is confirmed: portsentry ban --confirm {}",
                ban.source
            )?;
        }
        match holding.as_slice() {
            [] => writeln!(out, "    but nothing holds it right now")?,
            holding => writeln!(out, "    held right now by {}", holding.join(", "))?,
        }
    }
    for missing in &known.missing {
        writeln!(out, "    {missing}")?;
    }
    let is_spared = known.friend.is_some() && known.bans.is_empty();
    if known.bans.is_empty() && !is_spared {
        let next = known.next.map_or("without an end".to_owned(), seconds);
        writeln!(
            out,
            "  is not banned; a ban would name {} and last {next}",
            known.source
        )?;
    }
    if known.past > 0 {
        writeln!(
            out,
            "  bans that are over and make the next one longer: {}",
            known.past
        )?;
    }
    for near in &known.neighbours {
        let Neighbours {
            prefix,
            banned,
            needed,
            ..
        } = near;
        write!(
            out,
            "  banned in {prefix}: {banned} of the {needed} that become one ban of it"
        )?;
        if near.may_be_banned {
            writeln!(out)?;
        } else {
            writeln!(out, ", but not all of it may be banned")?;
        }
    }
    if let Some(muted) = known.muted {
        writeln!(
            out,
            "  has been told of; its scans are not told again for {}",
            seconds(muted)
        )?;
    }
    let handshake = if known.needs_handshake {
        ", each a completed TCP handshake"
    } else {
        ""
    };
    if !is_spared || !known.probes.is_empty() {
        writeln!(
            out,
            "  probes that count: {} of the {} that make a scan{handshake}",
            known.probes.len(),
            known.trigger
        )?;
    }
    write_probes(out, &known.probes)?;
    for why in &known.too_many {
        writeln!(out, "  was not banned for them: {why}")?;
    }
    if !known.unconfirmed.is_empty() {
        writeln!(
            out,
            "  packets that do not count, for anybody may have sent them in its name, the last of them:"
        )?;
        write_probes(out, &known.unconfirmed)?;
    }
    if !known.spared.is_empty() {
        writeln!(
            out,
            "  packets to watched ports that were let be, for it is never banned, the last of them:"
        )?;
        write_probes(out, &known.spared)?;
    }
    if !rows.is_empty() {
        writeln!(out, "  history, the newest first:")?;
    }
    rows.iter().try_for_each(|row| {
        write!(out, "    ")?;
        write_row(out, row, now.wall)
    })
}

fn write_probes(out: &mut dyn Write, probes: &[Seen]) -> io::Result<()> {
    probes.iter().try_for_each(|seen| {
        writeln!(
            out,
            "    {} scan of {} port {}, {} ago",
            seen.scan,
            seen.protocol,
            seen.port,
            seconds(seen.ago)
        )
    })
}

fn seconds(n: u64) -> String {
    span(Duration::from_secs(n))
}
