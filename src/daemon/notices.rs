//! 1.2's lines about the daemon itself: that it starts, what it watches, that it stops. Other people's log rules read them.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use tracing::{info, warn};

use super::Daemon;
use crate::config::{Config, Mode, Watch, WatchMode};
use crate::host::Services;
use crate::listen::{Port, Report};
use crate::log::alerts::protocol;
use crate::log::counted;
use crate::probe::Protocol;

/// Ports that get a line of their own.
const LINES: usize = 256;

pub(super) fn starting() {
    info!(
        "adminalert: PortSentry {} is starting.",
        env!("CARGO_PKG_VERSION")
    );
}

pub(super) fn stopping() {
    info!("securityalert: PortSentry is shutting down");
    info!("adminalert: PortSentry is shutting down");
}

/// What was odd about the configuration.
pub(super) fn warnings(warnings: &[String]) {
    for warning in warnings {
        warn!("{warning}");
    }
}

/// Which ports we listen on from now on, and which we cannot.
pub(super) fn listening(report: &Report) {
    let listening = report.listening.iter().map(|port| (*port, None));
    let skipped = report
        .skipped
        .iter()
        .map(|(port, cause)| (*port, Some(*cause)));
    let ports: BTreeMap<Port, Option<Errno>> = listening.chain(skipped).collect();
    each(ports, |((of, port), trouble)| {
        let of = protocol(of);
        info!("adminalert: Going into listen mode on {of} port: {port}");
        let Some(cause) = trouble else { return };
        warn!("adminalert: ERROR: could not bind {of} socket: {port}. Attempting to continue");
        if cause != Errno::EADDRINUSE {
            warn!("cannot listen on {of} port {port}: {}", cause.desc());
        }
    });
}

impl Daemon {
    /// Tells which ports these modes watch, and which they do not because something uses them.
    pub(super) fn notify_of(&mut self, modes: &[WatchMode]) {
        for mode in modes {
            let used = used_ports(&mut self.services, mode.protocol);
            let watch = watch_of(self.engine.config(), mode.protocol);
            match mode.mode {
                Mode::Stealth => stealth(watch, mode.protocol, &used),
                Mode::Advanced => advanced(watch, mode.protocol, &used),
                // The listeners tell of theirs.
                Mode::Connect => {}
            }
        }
        info!("adminalert: PortSentry is now active and listening.");
    }
}

fn watch_of(config: &Config, protocol: Protocol) -> &Watch {
    match protocol {
        Protocol::Tcp => &config.tcp,
        Protocol::Udp => &config.udp,
    }
}

fn used_ports(services: &mut Services, protocol: Protocol) -> BTreeSet<u16> {
    services.ports(protocol).unwrap_or_else(|cause| {
        warn!("{cause}");
        BTreeSet::new()
    })
}

fn stealth(watch: &Watch, of: Protocol, used: &BTreeSet<u16>) {
    let of = protocol(of);
    each(watch.ports.iter().cloned().flatten(), |port| {
        info!("adminalert: Going into stealth listen mode on {of} port: {port}");
        if used.contains(&port) {
            // It is watched from the moment that it is free; the words are older than that.
            warn!(
                "adminalert: ERROR: Socket {port} is in use and will not be monitored. Attempting to continue"
            );
        }
    });
}

fn advanced(watch: &Watch, of: Protocol, used: &BTreeSet<u16>) {
    info!(
        "adminalert: Advanced mode will monitor first {} ports",
        watch.below
    );
    let excluded: Vec<u16> = watch.exclude.iter().cloned().flatten().collect();
    each(excluded.iter().copied(), |port| {
        info!("adminalert: Advanced mode will manually exclude port: {port} ");
    });
    if excluded.is_empty() {
        info!("adminalert: Advanced mode will manually exclude no ports");
    }
    let of = protocol(of);
    let used = used.iter().filter(|port| u32::from(**port) < watch.below);
    let ignored: BTreeSet<u16> = used.copied().chain(excluded).collect();
    each(ignored, |port| {
        info!(
            "adminalert: Advanced Stealth scan detection mode activated. Ignored {of} port: {port}"
        );
    });
}

/// A line for each port, up to [`LINES`].
fn each<T>(ports: impl IntoIterator<Item = T>, line: impl Fn(T)) {
    let mut ports = ports.into_iter();
    ports.by_ref().take(LINES).for_each(line);
    let more = ports.count();
    if more > 0 {
        info!("… and {}", counted(more, "more port", "more ports"));
    }
}
