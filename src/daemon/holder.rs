//! A process that was started with 1.2's flags: it is the daemon, or has the one that runs watch in its modes.
//!
//! Whoever starts a process for each mode stops and restarts each by itself, in any order. So each is there for its own modes: while
//! another process is the daemon it holds a lease, and when that one is gone it becomes the daemon, unless somebody else has. Between two
//! who both would, the state lock decides. What cannot be watched ends its process, so that nobody takes it for protection.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use tracing::{error, info};

use super::{Daemon, Error, Starter, notices, start};
use crate::clock::Now;
use crate::config::{self, WatchMode};
use crate::control::{AskError, Lease};
use crate::history::lock::LockError;
use crate::log;

/// How long a daemon may take to answer before it counts as not there yet.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one may take until it answers, from its start, or from the end of the one before it.
const STARTING: Duration = Duration::from_secs(30);

/// How long a holder whose daemon has ended leaves the place to others: to who is being restarted, or to nobody, where all of us
/// are being stopped and it is the next to be told.
const MOMENT: Duration = Duration::from_millis(500);

/// How long until it is tried again.
const STEP: Duration = Duration::from_millis(100);

/// Watches in these modes in the background until told to stop. `starter` hears how the start went. The exit status.
#[must_use]
pub fn run_in_background(config_path: &Path, modes: &BTreeSet<WatchMode>, starter: Starter) -> u8 {
    log::start(log::Sink::Syslog);
    notices::starting();
    let mut starter = Some(starter);
    let Err(failure) = watch(config_path, modes, &mut starter) else {
        return 0;
    };
    error!("{failure}");
    let status = failure.exit_status();
    if let Some(starter) = starter {
        starter.failed(&failure.to_string(), status);
    }
    status
}

/// By another's hands or by our own, until told to stop.
fn watch(
    config_path: &Path,
    modes: &BTreeSet<WatchMode>,
    starter: &mut Option<Starter>,
) -> Result<(), Error> {
    let signals = start::block_signals().map_err(Error::event_loop("receive signals"))?;
    // Since when there is no daemon for us, and for how long we would rather not be it.
    let (mut since, mut moment) = (Now::read().mono, Duration::ZERO);
    loop {
        let alone = Now::read().mono.since(since);
        let trouble = match take_lease(config_path, modes) {
            Ok(lease) => {
                let names: Vec<&str> = modes.iter().map(|mode| mode.name()).collect();
                info!(
                    "pid {} watches in mode {}",
                    lease.daemon(),
                    names.join(", ")
                );
                if let Some(starter) = starter.take() {
                    starter
                        .ready()
                        .map_err(Error::thread("go into the background"))?;
                }
                if hold(&lease, &signals)? == Woken::Told {
                    break;
                }
                info!("pid {} has ended", lease.daemon());
                (since, moment) = (Now::read().mono, MOMENT);
                continue;
            }
            Err(Error::Ask(AskError::NoDaemon(_))) if alone >= moment => {
                match be_the_daemon(config_path, modes, starter) {
                    // It is just starting or ending; or a command changes bans.
                    Err(held @ Error::Lock(LockError::Held { .. })) => held,
                    outcome => return outcome,
                }
            }
            // One that ends hangs up.
            Err(
                passing @ Error::Ask(
                    AskError::NoDaemon(_)
                    | AskError::Hung(_)
                    | AskError::Unheard(_)
                    | AskError::HungUp(_)
                    | AskError::Io(_),
                ),
            ) => passing,
            Err(failure) => return Err(failure),
        };
        if alone >= STARTING {
            return Err(trouble);
        }
        if wait(&signals, None, Some(STEP))? == Woken::Told {
            break;
        }
    }
    notices::stopping();
    Ok(())
}

/// Asks the daemon that runs. The configuration says where, and may have changed since the last time.
fn take_lease(config_path: &Path, modes: &BTreeSet<WatchMode>) -> Result<Lease, Error> {
    let config = config::load_with(config_path, modes)?.config;
    let names = modes.iter().map(|mode| mode.name());
    Ok(Lease::take(
        &config.control.socket,
        names,
        config_path,
        PATIENCE,
    )?)
}

fn be_the_daemon(
    config_path: &Path,
    modes: &BTreeSet<WatchMode>,
    starter: &mut Option<Starter>,
) -> Result<(), Error> {
    let mut daemon = Daemon::start(config_path, modes.clone())?;
    daemon.starter = starter.take();
    let outcome = daemon.go();
    *starter = daemon.starter.take();
    outcome.map(|()| daemon.stop())
}

/// What a wait has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Woken {
    /// We are told to stop.
    Told,
    /// The lease is over, or the time.
    Over,
}

/// Sleeps until the lease is over, which is when its daemon ends.
fn hold(lease: &Lease, signals: &SignalFd) -> Result<Woken, Error> {
    wait(signals, Some(lease.as_fd()), None)
}

fn wait(
    signals: &SignalFd,
    lease: Option<BorrowedFd<'_>>,
    at_most: Option<Duration>,
) -> Result<Woken, Error> {
    let timeout = at_most.map_or(PollTimeout::NONE, |time| {
        PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
    });
    let of_interest = [Some(signals.as_fd()), lease];
    let mut fds: Vec<PollFd<'_>> = of_interest
        .into_iter()
        .flatten()
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    loop {
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(Error::event_loop("wait for the daemon")(errno)),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            // As with 1.2, a hang-up is for nobody: the daemon reads its configuration again by one of its own.
            let number = i32::try_from(signal.ssi_signo).unwrap_or_default();
            if Signal::try_from(number) != Ok(Signal::SIGHUP) {
                return Ok(Woken::Told);
            }
        }
        let is_over = fds.get(1).is_some_and(|lease| lease.any() == Some(true));
        if is_over || at_most.is_some() {
            return Ok(Woken::Over);
        }
    }
}
