//! The daemon: the event loop, signals, reload, shutdown. It decides nothing about packets.
//!
//! One thread waits for everything that can happen, and hands it to the engine with the time. When nothing happens it sleeps:
//! there is no periodic wake-up.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use tracing::{error, info, warn};

use crate::capture::{Capture, Watched};
use crate::clock::{Mono, Now};
use crate::config::{self, Complaints, Config, Method, OnStop, Response};
use crate::control::{CaptureStatus, Reloaded, Server, State, Status};
use crate::engine::Engine;
use crate::history::StateLock;
use crate::host::{self, Facts, FileWatch, Host, Services};
use crate::log;
use crate::probe::{Probe, Protocol, Skip};

mod clients;
mod start;

pub use start::Error;

/// Everything the loop waits for and works with.
struct Daemon {
    config_path: PathBuf,
    engine: Engine,
    capture: Capture,
    /// Reused from batch to batch.
    probes: Vec<Probe>,
    host: Host,
    services: Services,
    ignore_watch: FileWatch,
    signals: SignalFd,
    epoll: Epoll,
    server: Server,
    clients: clients::Clients,
    /// While history is being put back.
    replay: Option<start::Replay>,
    /// While the kernel's bans are being listed.
    adoption: Option<start::Adoption>,
    /// Since when history is back; `None`: not yet.
    ready_at: Option<Mono>,
    /// How often history had to begin a new file.
    renewals: u64,
    stopping: bool,
    /// Held as long as we run.
    _lock: StateLock,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Host,
    Ignore,
    History,
    Adoption,
    Control,
    Capture(usize),
    Client(u64),
}

/// Events taken from the kernel at a time.
const EVENTS: usize = 32;

/// Runs the daemon in the foreground until it is told to stop.
///
/// # Errors
/// It could not start, or lost something that it cannot go on without. Bans stay in the kernel then.
pub fn run(config_path: &Path) -> Result<(), Error> {
    log::start();
    let mut daemon = Daemon::start(config_path)?;
    daemon.watch_all()?;
    daemon.go()?;
    daemon.stop();
    Ok(())
}

impl Daemon {
    fn go(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.stopping {
            let now = Now::read();
            if let Some(replay) = &mut self.replay {
                if replay.step(&mut self.engine, now)? {
                    self.ready(now)?;
                }
            }
            let count = match self.epoll.wait(&mut events, self.timeout(now)) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::event_loop("wait for events")(errno)),
            };
            let now = Now::read();
            for event in &events[..count] {
                self.handle(Token::of(event.data()), now)?;
            }
            self.engine.tick(now);
            self.clients.drop_idle(now.mono);
        }
        Ok(())
    }

    /// Until when the loop may sleep: not at all during replay, for ever when nothing is due.
    fn timeout(&self, now: Now) -> EpollTimeout {
        if self.replay.is_some() {
            return EpollTimeout::ZERO;
        }
        let due = [self.engine.next_deadline(), self.clients.next_deadline()];
        let Some(due) = due.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        EpollTimeout::try_from(due.since(now.mono)).unwrap_or(EpollTimeout::MAX)
    }

    fn handle(&mut self, token: Token, now: Now) -> Result<(), Error> {
        match token {
            Token::Capture(which) => self.packets(which, now),
            Token::Client(id) => self.client_moves(id, now),
            Token::Control => self.accept(now)?,
            Token::History => {
                self.engine.recorder().settle();
                let renewals = self.engine.recorder().renewals();
                if std::mem::replace(&mut self.renewals, renewals) != renewals {
                    self.engine.record_anew(now);
                }
                self.history_moves(now);
            }
            Token::Adoption => self.adopt(now),
            Token::Host => self.host_moves(now)?,
            Token::Ignore => self.ignore_moves(now),
            Token::Signal => self.signal(now),
        }
        Ok(())
    }

    /// One batch of packets from one socket; what is left makes the socket readable again.
    fn packets(&mut self, which: usize, now: Now) {
        self.probes.clear();
        if let Err(cause) = self.capture.read(which, &mut self.probes) {
            // A socket reports what befell it once, an interface that went down for instance, and goes on.
            warn!("reading packets: {cause}");
        }
        let services = &mut self.services;
        let mut ask = |protocol: Protocol, at: SocketAddr| {
            services
                .bound(protocol, at)
                .map_err(|error| error.to_string())
        };
        self.engine.probes(&self.probes, now, &mut ask);
    }

    fn accept(&mut self, now: Now) -> Result<(), Error> {
        loop {
            match self.server.accept() {
                Ok(Some(client)) if !self.clients.has_room() => drop(client),
                Ok(Some(client)) => {
                    let id = self.clients.add(client, now.mono);
                    let fd = self.clients.fd(id).expect("it was added the line above");
                    let event = EpollEvent::new(CLIENT_FLAGS, Token::Client(id).data());
                    self.epoll
                        .add(fd, event)
                        .map_err(Error::event_loop("watch a command's connection"))?;
                }
                Ok(None) => break,
                Err(cause) => {
                    warn!("a command could not connect: {cause}");
                    break;
                }
            }
        }
        Ok(())
    }

    fn adopt(&mut self, now: Now) {
        let Some(adoption) = self.adoption.take() else {
            return;
        };
        // The descriptor is closed with it, which takes it out of the epoll set.
        match adoption.finish() {
            Ok(held) => self.engine.adopt(held, now),
            Err(cause) => {
                warn!("bans that the kernel holds and history lacks could not be adopted: {cause}")
            }
        }
    }

    fn host_moves(&mut self, now: Now) -> Result<(), Error> {
        let Some(facts) = self.host.changed()?.cloned() else {
            return Ok(());
        };
        self.capture
            .set_interfaces(interfaces_of(self.engine.config(), &facts))?;
        self.engine.host_changed(facts, now);
        Ok(())
    }

    fn ignore_moves(&mut self, now: Now) {
        if !self.ignore_watch.changed() {
            return;
        }
        match config::ignore::read(&self.engine.config().ignore) {
            Ok(ignored) => {
                info!("the ignore files have changed: {} entries", ignored.len());
                self.engine.ignore_changed(ignored, now);
            }
            Err(complaints) => error!(
                "the ignore files have changed, and the last good list stays in force:\n{complaints}"
            ),
        }
    }

    fn signal(&mut self, now: Now) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            match Signal::try_from(number) {
                Ok(Signal::SIGHUP) => {
                    if let Err(why) = self.reload(now) {
                        error!("the configuration was not read again, nothing has changed:\n{why}");
                    }
                }
                Ok(signal) => {
                    info!("stopping on {signal}");
                    self.stopping = true;
                }
                Err(_) => {}
            }
        }
    }

    /// Reads the configuration again. What has mistakes changes nothing.
    fn reload(&mut self, now: Now) -> Result<Reloaded, String> {
        let words = |complaints: Complaints| complaints.to_string();
        let new = config::load(&self.config_path).map_err(words)?;
        let ignored = config::ignore::read(&new.ignore).map_err(words)?;
        let old = self.engine.config();
        let needs_restart = config::needs_restart(old, &new);
        let new = new.with_restart_keys_of(old);
        let files: Vec<PathBuf> = new
            .ignore
            .files
            .iter()
            .map(|file| file.path.clone())
            .collect();
        let ignore_watch = watch_files(&files).map_err(|error| error.to_string())?;
        self.add(ignore_watch.fd(), Token::Ignore)
            .map_err(|error| error.to_string())?;
        self.capture
            .set_watched(watched_by(&new))
            .map_err(|error| error.to_string())?;
        let interfaces = interfaces_of(&new, self.host.facts());
        self.capture
            .set_interfaces(interfaces)
            .map_err(|error| error.to_string())?;
        self.ignore_watch = ignore_watch;
        self.engine.reconfigure(new, ignored, now);
        info!("the configuration was read again");
        for key in &needs_restart {
            warn!("{key} has changed, which takes effect at a restart");
        }
        Ok(Reloaded {
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        })
    }

    fn status(&self, now: Now) -> Status {
        let config = self.engine.config();
        let differing_for = self
            .engine
            .differs_since()
            .map(|since| now.mono.since(since).as_secs());
        let mut troubles: Vec<String> = self
            .engine
            .trouble(now.mono)
            .map(str::to_owned)
            .into_iter()
            .collect();
        troubles.extend(self.engine.recorder().trouble());
        let watched = [&config.tcp, &config.udp]
            .into_iter()
            .filter(|watch| !watch.modes.is_empty());
        let state = if self.replay.is_some() {
            State::Replaying
        } else if differing_for.is_some() || !troubles.is_empty() {
            State::Degraded
        } else if watched.clone().all(|watch| watch.response == Response::Log) {
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
            intended: count(self.engine.bans().len()),
            enforced: count(self.engine.enforced()),
            differing_for,
            responders: self
                .engine
                .responder_names()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            capture: CaptureStatus {
                method: match config.capture.method {
                    Method::Packet => "packet".to_owned(),
                    Method::Ip => "ip".to_owned(),
                },
                packets: captured.packets,
                dropped: captured.kernel_drops,
                skipped: skipped.collect(),
            },
            counters: self.engine.counters,
            troubles,
        }
    }

    fn watch_all(&self) -> Result<(), Error> {
        for (which, fd) in self.capture.fds().enumerate() {
            self.add(fd, Token::Capture(which))?;
        }
        self.add(self.host.fd(), Token::Host)?;
        self.add(self.ignore_watch.fd(), Token::Ignore)?;
        self.add(self.engine.recorder().fd(), Token::History)?;
        self.add(self.signals.as_fd(), Token::Signal)?;
        self.add(self.server.as_fd(), Token::Control)
    }

    fn add(&self, fd: BorrowedFd<'_>, token: Token) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token.data());
        self.epoll
            .add(fd, event)
            .map_err(Error::event_loop("watch a descriptor"))
    }

    /// Leaves the kernel as the configuration says, and history written.
    fn stop(self) {
        let on_stop = self.engine.config().ban.on_stop;
        let (mut responders, recorder) = self.engine.close();
        if on_stop == OnStop::Remove {
            for failure in responders.withdraw() {
                error!("{failure}");
            }
        }
        if let Err(cause) = recorder.stop(LAST_WORDS) {
            error!("history: {cause}");
        }
        info!("stopped");
    }
}

/// How long a stop waits for history to be written.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Watches ignore files, and says which of them cannot be watched.
fn watch_files(files: &[PathBuf]) -> Result<FileWatch, host::Error> {
    let (watch, unwatched) = FileWatch::open(files)?;
    for path in unwatched {
        warn!(
            "{}: its directory cannot be watched, so that an edit takes effect at a reload only",
            path.display()
        );
    }
    Ok(watch)
}

/// Edge-triggered: a client that sends nothing and takes nothing does not keep the loop awake.
const CLIENT_FLAGS: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLET);

/// The indexes of the interfaces that the configuration names, those that exist; `None`: all but loopback.
fn interfaces_of(config: &Config, facts: &Facts) -> Option<Vec<u32>> {
    let names = &config.capture.interfaces;
    (!names.is_empty()).then(|| {
        names
            .iter()
            .filter_map(|name| facts.index_of(name))
            .collect()
    })
}

/// The ports that the kernel filter is to let through.
fn watched_by(config: &Config) -> Watched {
    Watched {
        tcp: config.tcp.span(),
        udp: config.udp.span(),
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl Token {
    /// What epoll keeps beside the descriptor: the kind in the low byte, its number above.
    fn data(self) -> u64 {
        match self {
            Self::Signal => 0,
            Self::Host => 1,
            Self::Ignore => 2,
            Self::History => 3,
            Self::Adoption => 4,
            Self::Control => 5,
            Self::Capture(which) => count(which) << 8 | 6,
            Self::Client(id) => id << 8 | 7,
        }
    }

    fn of(data: u64) -> Self {
        match data & 0xff {
            0 => Self::Signal,
            1 => Self::Host,
            2 => Self::Ignore,
            3 => Self::History,
            4 => Self::Adoption,
            5 => Self::Control,
            6 => Self::Capture(usize::try_from(data >> 8).unwrap_or(usize::MAX)),
            _ => Self::Client(data >> 8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        use Token::{Adoption, Capture, Client, Control, History, Host, Ignore, Signal};
        for token in [
            Signal,
            Host,
            Ignore,
            History,
            Adoption,
            Control,
            Capture(3),
            Client(0),
            Client(1 << 40),
        ] {
            assert_eq!(Token::of(token.data()), token);
        }
    }
}
