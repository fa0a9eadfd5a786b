//! `portsentry migrate`: what an old portsentry has left behind becomes timed bans.
//!
//! Bans come first, and only where one holds does what it replaces go.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Client, Failure, Output, ago, ban, offline, print, say};
use crate::clock::Now;
use crate::config::{self, Config, printable};
use crate::control::{Listed, Request};
use crate::log::{counted, span};
use crate::migrate::{Findings, Found, Old, Trace};
use crate::source::Source;

#[derive(Args)]
pub(super) struct Migrate {
    /// Ban whom the old portsentry shut out, and take away what it left; without this, only show it
    #[arg(long)]
    apply: bool,
    /// The old portsentry's configuration; then only the history and blocked files that it names are read [default:
    /// /etc/portsentry/portsentry.conf, if there is one, and the files that Debian's packages of 1.2 and 2.x have]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// The file that the old portsentry added its lines to
    #[arg(long, value_name = "FILE", default_value = "/etc/hosts.deny")]
    hosts_deny: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// The bans that run.
type Running = HashMap<Source, Listed>;

/// What is told, as JSON too.
#[derive(Serialize)]
struct Report {
    addresses: Vec<Told>,
    left_alone: Vec<Left>,
    troubles: Vec<String>,
}

/// One address.
#[derive(Serialize)]
struct Told {
    address: IpAddr,
    /// When the old portsentry last recorded it, in milliseconds since 1970.
    last_recorded: Option<i64>,
    /// Where it stands.
    traces: Vec<String>,
    /// Why it is never banned, if so.
    friend: Option<String>,
    #[serde(skip)]
    request: Request,
    /// What `--apply` came to.
    outcome: Option<Outcome>,
}

#[derive(Serialize)]
struct Outcome {
    banned: Option<Listed>,
    taken_away: Vec<String>,
    failure: Option<String>,
}

#[derive(Serialize)]
struct Left {
    what: String,
    why: &'static str,
}

impl Migrate {
    pub(super) fn run(&self, client: &Client, chosen: Option<&Path>) -> Result<(), Failure> {
        let config = client.good_config()?;
        let guard = offline::guard(config)?;
        let running: Running = (client.running(config).into_iter())
            .filter_map(|ban| Some((ban.source.parse().ok()?, ban)))
            .collect();
        let findings = Findings::look(self.old(chosen)?, &self.hosts_deny, |address| {
            let source = Source::from(address);
            let covering = config.ban.covering(source);
            config.command.ban.is_some() && covering.iter().any(|it| running.contains_key(it))
        });
        let plan = |(address, found): (&IpAddr, &Found)| {
            let friend = guard.friend(Source::from(*address));
            Told {
                address: *address,
                last_recorded: found.last.map(|seconds| seconds.saturating_mul(1000)),
                traces: found
                    .traces
                    .iter()
                    .map(|it| printable(&it.to_string()))
                    .collect(),
                friend: friend.map(|friend| printable(&friend.to_string())),
                request: request(*address, found, config, &running),
                outcome: None,
            }
        };
        let mut report = Report {
            addresses: findings.addresses.iter().map(plan).collect(),
            left_alone: (findings.left.iter())
                .map(|left| Left {
                    what: printable(&left.what),
                    why: left.why,
                })
                .collect(),
            troubles: findings.troubles.iter().map(|it| printable(it)).collect(),
        };
        if self.apply {
            let failures = report.apply(client, &findings);
            report.troubles.extend(failures);
        }
        report.print(self.output, config)?;
        if self.apply && report.has_failed() {
            return Err(Failure::from(
                "not everything could be done; what is left can be done again".to_owned(),
            ));
        }
        Ok(())
    }

    fn old(&self, chosen: Option<&Path>) -> Result<Old, String> {
        if let Some(file) = &self.from {
            return Old::by(file);
        }
        let file = chosen.filter(|file| config::is_legacy(file));
        let file = file.map_or_else(config::legacy_path, Path::to_owned);
        let packaged = Old::as_packaged();
        if !file.exists() {
            return Ok(packaged);
        }
        Ok(Old::by(&file)?.and(packaged))
    }
}

/// Asks for a ban from now on, which shortens none that runs.
fn request(address: IpAddr, found: &Found, config: &Config, running: &Running) -> Request {
    let same = running.get(&Source::from(address));
    let default = config.ban.duration.map(|length| length.as_secs());
    let left = same.map(|ban| ban.left);
    let seconds = match left {
        None => default,
        Some(left) => left.zip(default).map(|(left, default)| left.max(default)),
    };
    let kinds: BTreeSet<&str> = found.traces.iter().map(Trace::kind).collect();
    let kinds = kinds.into_iter().collect::<Vec<_>>().join(", ");
    Request::Ban {
        force: false,
        revert: None,
        source: address.to_string(),
        seconds,
        ever: seconds.is_none(),
        reason: Some(match same {
            Some(ban) => ban.reason.clone(),
            None => format!("left by an old portsentry: {kinds}"),
        }),
    }
}

impl Report {
    /// Bans, and takes away what is no longer needed; failures beside those of a single address.
    fn apply(&mut self, client: &Client, findings: &Findings) -> Vec<String> {
        let orders = self.addresses.iter().filter(|told| told.friend.is_none());
        let requests = orders.map(|told| (told.address, told.request.clone()));
        let mut outcomes = ban_all(client, requests.collect());
        let settled = self.addresses.iter().filter(|told| {
            told.friend.is_some() || matches!(outcomes.get(&told.address), Some(Ok(_)))
        });
        let mut taken = findings.take_away(&settled.map(|told| told.address).collect());
        for told in &mut self.addresses {
            let (banned, failure) = match outcomes.remove(&told.address) {
                None => (None, None),
                Some(Ok(banned)) => (Some(banned), None),
                Some(Err(why)) => (None, Some(printable(&why))),
            };
            let gone = taken.done.remove(&told.address).unwrap_or_default();
            told.outcome = Some(Outcome {
                banned,
                taken_away: gone.iter().map(|it| printable(it)).collect(),
                failure,
            });
        }
        taken.failures.iter().map(|it| printable(it)).collect()
    }

    fn has_failed(&self) -> bool {
        let failed = |told: &Told| {
            let outcome = told.outcome.as_ref();
            outcome.is_some_and(|outcome| outcome.failure.is_some())
        };
        !self.troubles.is_empty() || self.addresses.iter().any(failed)
    }

    fn print(&self, output: Output, config: &Config) -> Result<(), Failure> {
        if output.json {
            return print(|out| {
                serde_json::to_writer_pretty(&mut *out, self)?;
                writeln!(out)
            });
        }
        let now = Now::read();
        print(|out| {
            self.addresses
                .iter()
                .try_for_each(|told| told.print(out, now))?;
            if !self.left_alone.is_empty() {
                writeln!(out, "left alone:")?;
            }
            for left in &self.left_alone {
                writeln!(out, "  {} ({})", left.what, left.why)?;
            }
            self.conclude(out, config)
        })?;
        self.troubles.iter().for_each(|trouble| say(trouble));
        Ok(())
    }

    fn conclude(&self, out: &mut dyn Write, config: &Config) -> io::Result<()> {
        if self.addresses.is_empty() {
            return writeln!(
                out,
                "nothing to do: nothing here is known to be an old portsentry's"
            );
        }
        if self.addresses.iter().all(|told| told.outcome.is_some()) {
            return Ok(());
        }
        let friends = self
            .addresses
            .iter()
            .filter(|told| told.friend.is_some())
            .count();
        let length = match config.ban.duration {
            Some(length) => format!("for {}", span(length)),
            None => "for ever".to_owned(),
        };
        writeln!(
            out,
            "nothing was changed; --apply bans {} of {} {length} and takes away what is not left alone",
            self.addresses.len() - friends,
            counted(self.addresses.len(), "address", "addresses"),
        )
    }
}

impl Told {
    fn print(&self, out: &mut dyn Write, now: Now) -> io::Result<()> {
        match &self.outcome {
            None => self.print_plan(out, now),
            Some(outcome) => {
                match (&outcome.banned, &outcome.failure, &self.friend) {
                    (Some(banned), _, _) => writeln!(out, "{}", ban::sentence(banned))?,
                    (None, Some(why), _) => writeln!(out, "{why}; nothing of it is taken away")?,
                    (None, None, friend) => writeln!(
                        out,
                        "{} is never banned: {}",
                        self.address,
                        friend.as_deref().unwrap_or_default()
                    )?,
                }
                let mut gone = outcome.taken_away.iter();
                gone.try_for_each(|trace| writeln!(out, "  taken away: {trace}"))
            }
        }
    }

    fn print_plan(&self, out: &mut dyn Write, now: Now) -> io::Result<()> {
        let when = match self.last_recorded {
            Some(millis) => format!("last recorded {}", ago(millis, now)),
            None => "recorded without a time".to_owned(),
        };
        writeln!(out, "{}, {when}", self.address)?;
        for trace in &self.traces {
            writeln!(out, "  {trace}")?;
        }
        match &self.friend {
            Some(friend) => writeln!(out, "  will not be banned: {friend}"),
            None => Ok(()),
        }
    }
}

/// Bans one after another, through the daemon or, from where there is none, without it.
fn ban_all(
    client: &Client,
    orders: Vec<(IpAddr, Request)>,
) -> BTreeMap<IpAddr, Result<Listed, String>> {
    let mut outcomes = BTreeMap::new();
    let mut orders = orders.into_iter().peekable();
    while let Some((address, request)) = orders.peek() {
        match ban::ask(client, request) {
            Ok(Some(outcome)) => {
                outcomes.insert(*address, outcome);
                orders.next();
            }
            Ok(None) => {
                let (addresses, requests): (Vec<IpAddr>, Vec<Request>) = orders.unzip();
                match client
                    .good_config()
                    .and_then(|config| offline::ban_all(config, &requests))
                {
                    Ok(done) => outcomes.extend(addresses.into_iter().zip(done)),
                    Err(failure) => fail(&mut outcomes, addresses, &failure.message),
                }
                break;
            }
            // It would be the same with each, after as long a wait.
            Err(error) => {
                let addresses = orders.map(|(address, _)| address);
                fail(&mut outcomes, addresses.collect(), &error.to_string());
                break;
            }
        }
    }
    outcomes
}

fn fail(
    outcomes: &mut BTreeMap<IpAddr, Result<Listed, String>>,
    addresses: Vec<IpAddr>,
    why: &str,
) {
    for address in addresses {
        outcomes.insert(address, Err(format!("{address} is not banned: {why}")));
    }
}
