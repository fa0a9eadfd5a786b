//! The laboratory: hosts out of network namespaces, cables between them, and patience.

mod clock;
mod daemon;
mod disk;
mod host;
mod name_server;
pub(crate) mod packets;
mod sandbox;
mod surroundings;
mod syslog;
mod worlds;

use std::time::{Duration, Instant};

pub(crate) use clock::Clock;
pub(crate) use daemon::{Daemon, Said};
pub(crate) use disk::Disk;
pub(crate) use host::{Element, Host, Service};
pub(crate) use name_server::{Mood, NameServer};
pub(crate) use packets::{
    DEST_OPTIONS, FRAGMENT, Flood, NO_NEXT, TCP, dest_options, fragment, send_ipv6, send_syns,
    send_tcp, tcp_syn,
};
pub(crate) use sandbox::{Process, Sandbox};
pub(crate) use surroundings::Surroundings;
pub(crate) use syslog::Syslog;
pub(crate) use worlds::{Bridge, Pair, Routed, at};

/// How long anything may take before a test gives up. Far more than it takes: many tests share few processors.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something.
///
/// # Panics
/// When it does not within 30 seconds; then `what` says what was waited for.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "waited {} s in vain: {what}",
            PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
