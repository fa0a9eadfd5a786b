//! How the daemon is, for `portsentry status`.

use super::token::count;
use super::{Daemon, follow};
use crate::clock::Now;
use crate::command;
use crate::config::{Method, Response};
use crate::control::{CaptureStatus, Friends, Health, Repair, State, Status};
use crate::engine::{self, Counters};
use crate::probe::Skip;
use crate::traps::Traps;

impl Daemon {
    /// How we are. Looks at the kernel first: what somebody took away is put back by being asked about.
    pub(super) fn status(&mut self, now: Now) -> Status {
        if !self.is_replaying() {
            self.engine.verify(now);
        }
        self.engine.look_for_logins(false, now);
        self.engine.recorder().look();
        if let Some(traps) = &mut self.traps {
            traps.verify(now.mono);
        }
        let config = self.engine.config();
        let differing_for = self
            .engine
            .differs_since()
            .map(|since| now.mono.since(since).as_secs());
        let troubles = self.troubles(now);
        let mut watched = [&config.tcp, &config.udp]
            .into_iter()
            .filter(|watch| !watch.modes.is_empty());
        let health: Vec<Health> = self.engine.health().into_iter().map(told).collect();
        let state = if self.is_replaying() {
            State::Replaying
        } else if differing_for.is_some() || !troubles.is_empty() {
            State::Degraded
        } else if watched.all(|watch| watch.response == Response::Log) {
            State::LogOnly
        } else {
            State::Enforcing
        };
        let captured = self.capture.counters();
        let skipped = Skip::ALL
            .iter()
            .zip(captured.skips)
            .map(|(skip, count)| (skip.name().to_owned(), count));
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state,
            uptime: self
                .ready_at
                .map_or(0, |ready| now.mono.since(ready).as_secs()),
            config: self.config_path.display().to_string(),
            modes: self.watched(),
            intended: count(self.engine.bans().len()),
            enforced: count(self.engine.enforced()),
            differing_for,
            responders: health.iter().map(|it| it.responder.clone()).collect(),
            health,
            last_repair: self.engine.last_repair().map(|repair| Repair {
                at: repair.at.0,
                responder: repair.responder.to_owned(),
                after: repair.after.clone(),
            }),
            capture: CaptureStatus {
                method: match config.capture.method {
                    Method::Packet => "packet".to_owned(),
                    Method::Ip => "ip".to_owned(),
                },
                packets: captured.packets,
                dropped: captured.kernel_drops,
                skipped: skipped.collect(),
            },
            friends: self.friends(),
            // Who asks is not counted.
            callers: count(self.clients.count().saturating_sub(1)),
            counters: Counters {
                hung_up: self.clients.hung_up(),
                ..self.engine.counters
            },
            troubles,
        }
    }

    fn friends(&self) -> Friends {
        let guard = self.engine.guard();
        Friends {
            ignored: count(guard.ignored()),
            names: guard.names.iter().map(command::named).collect(),
            host: guard.of_this_host().map(ToString::to_string).collect(),
        }
    }

    fn troubles(&self, now: Now) -> Vec<String> {
        let mut troubles = self.engine.troubles(now.mono);
        troubles.extend(self.engine.recorder().trouble());
        troubles.extend(self.listeners.troubles());
        let gateways = self.host.gateways_trouble();
        troubles.extend(gateways.map(|cause| {
            format!(
                "the default gateways may have changed, and those known last are spared: {cause}"
            )
        }));
        troubles.extend(self.traps.as_ref().and_then(Traps::trouble));
        for name in follow::missing_interfaces(self.engine.config(), self.host.facts()) {
            troubles.push(format!(
                "capture.interfaces names {name}, which is not there: nothing is seen on it"
            ));
        }
        troubles
    }
}

fn told(health: engine::Health) -> Health {
    Health {
        responder: health.responder.to_owned(),
        enforced: count(health.enforced),
        trouble: health.trouble,
    }
}
