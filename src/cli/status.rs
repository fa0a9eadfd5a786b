//! `portsentry status`

use super::{Asked, Client, Failure, Output, ago, ignore, print};
use crate::clock::Now;
use crate::config::ResponderKind;
use crate::control::{Line, Request, State, Status, Watched};
use crate::log::{counted, span};
use std::time::Duration;

/// Intended and enforced bans may differ this long before it is a failure.
const GRACE: Duration = Duration::from_secs(2);

/// Of gateways, name servers and logins, so many are printed.
const FRIENDS: usize = 10;

/// Prints how the daemon is. Fails when there is none, or when not all bans are in force.
pub(super) fn run(client: &Client, output: Output) -> Result<(), Failure> {
    let mut status = None;
    let asked = client.ask(&Request::Status, |line| {
        if let Line::Status(answer) = line {
            status = Some(*answer);
        }
        Ok(())
    })?;
    match (asked, status) {
        (Asked::Done, Some(status)) => {
            print_status(&status, output)?;
            let lacks_bans = status.state != State::Replaying
                && status
                    .differing_for
                    .is_some_and(|seconds| seconds >= GRACE.as_secs());
            let quietly = Failure {
                message: String::new(),
                status: 1,
            };
            if lacks_bans { Err(quietly) } else { Ok(()) }
        }
        (Asked::Done, None) => Err(Failure::from(
            "the daemon's answer makes no sense: no status in it".to_owned(),
        )),
        (Asked::Failed(why) | Asked::NoDaemon(why) | Asked::CutOff(why), _) => {
            Err(Failure::from(why))
        }
    }
}

fn print_status(status: &Status, output: Output) -> Result<(), Failure> {
    if output.json {
        return print(|out| {
            serde_json::to_writer_pretty(&mut *out, status)?;
            writeln!(out)
        });
    }
    let Status {
        counters: n,
        capture,
        ..
    } = status;
    print(|out| {
        let up = span(Duration::from_secs(status.uptime));
        writeln!(
            out,
            "portsentry {} is {}, pid {}, up {up}",
            status.version,
            state(status.state),
            status.pid
        )?;
        writeln!(out, "  config    {}", status.config)?;
        let modes: Vec<String> = status.modes.iter().map(|it| mode(it, status.pid)).collect();
        writeln!(out, "  modes     {}", modes.join(", "))?;
        writeln!(
            out,
            "  bans      {} in force of {} intended, through {}",
            status.enforced,
            status.intended,
            status.responders.join(", ")
        )?;
        let is_alone = status.health.len() == 1;
        for health in &status.health {
            let gap = ResponderKind::from_name(&health.responder).and_then(ResponderKind::gap);
            let words = health.trouble.as_deref().or(gap);
            if is_alone && words.is_none() {
                continue;
            }
            write!(
                out,
                "            {}: {} in force",
                health.responder, health.enforced
            )?;
            match words {
                Some(words) => writeln!(out, ": {words}")?,
                None => writeln!(out)?,
            }
        }
        if let Some(repair) = &status.last_repair {
            writeln!(
                out,
                "            put back so far: {}; the last time {}, after {} had taken bans away from {}",
                n.repairs,
                ago(repair.at, Now::read()),
                repair.after,
                repair.responder
            )?;
        }
        if let Some(seconds) = status.differing_for {
            writeln!(
                out,
                "            they have differed for {}",
                span(Duration::from_secs(seconds))
            )?;
        }
        writeln!(
            out,
            "  capture   {} sockets: {} looked at, {} lost",
            capture.method,
            counted(capture.packets, "packet", "packets"),
            capture.dropped
        )?;
        writeln!(
            out,
            "  probes    {}: {} on traps, {} on services",
            n.probes,
            counted(n.hits, "hit", "hits"),
            n.services
        )?;
        writeln!(
            out,
            "            not counted: {} to other hosts, {} to unwatched ports, {} from banned, {} from ignored sources",
            n.not_ours, n.unwatched, n.already_banned, n.ignored
        )?;
        let friends = &status.friends;
        writeln!(
            out,
            "  friends   {} in the ignore lists, and:",
            counted(friends.ignored, "entry", "entries")
        )?;
        for name in &friends.names {
            let whereabouts = ignore::whereabouts(name, Now::read());
            writeln!(out, "            {} {whereabouts}", name.name)?;
        }
        for friend in friends.host.iter().take(FRIENDS) {
            writeln!(out, "            {friend}")?;
        }
        if let more @ 1.. = friends.host.len().saturating_sub(FRIENDS) {
            writeln!(out, "            … and {more} more (--json)")?;
        }
        let spared = n.logged + n.spared_limit + n.spared_rate + n.spared_logins;
        writeln!(
            out,
            "  scans     {}: {} banned, {spared} spared",
            n.scans, n.bans
        )?;
        if n.unconfirmed > 0 {
            writeln!(
                out,
                "            unconfirmed, for want of a TCP handshake: {} for nothing",
                counted(
                    n.unconfirmed,
                    "packet to traps, which counts",
                    "packets to traps, which count"
                )
            )?;
        }
        if n.rolled_up > 0 {
            writeln!(
                out,
                "            so many neighbours banned that they became one ban: {}",
                n.rolled_up
            )?;
        }
        if n.hung_up > 0 || status.callers > 0 {
            writeln!(
                out,
                "  callers   {} at the control socket, and so far {} hung up on, who neither asked nor read",
                status.callers, n.hung_up
            )?;
        }
        for trouble in &status.troubles {
            writeln!(out, "  trouble   {trouble}")?;
        }
        Ok(())
    })
}

/// `audp (pid 4711)`; who has asked for it is not told of the daemon alone.
fn mode(watched: &Watched, daemon: u32) -> String {
    let Watched { mode, holders } = watched;
    if holders == &[daemon] {
        return mode.clone();
    }
    let holders: Vec<String> = holders.iter().map(u32::to_string).collect();
    format!("{mode} (pid {})", holders.join(", "))
}

fn state(state: State) -> &'static str {
    match state {
        State::Replaying => "replaying its history",
        State::Enforcing => "enforcing",
        State::Degraded => "degraded",
        State::LogOnly => "logging only",
    }
}
