//! The daemon: the event loop, signals, shutdown. It decides nothing about packets.
//!
//! One thread waits for everything that can happen, and hands it to the engine with the time. When nothing happens it sleeps:
//! there is no periodic wake-up.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use tracing::{error, info, warn};

use crate::capture::Capture;
use crate::clock::{Leap, Mono, Now, WallClock};
use crate::config::{OnStop, WatchMode};
use crate::control::{Caller, Server};
use crate::engine::Engine;
use crate::history::StateLock;
use crate::host::{Closings, FileWatch, Flows, Host, Resolver, Services};
use crate::listen::Listeners;
use crate::log;
use crate::probe::Probe;
use crate::traps::Traps;

mod background;
mod clients;
mod errands;
mod follow;
mod friends;
mod holder;
mod kernel;
mod leases;
mod notices;
mod replay;
mod start;
mod status;
mod token;
mod traps;
mod troubles;

pub use background::{Failed, Half, Starter, split};
use errands::Errands;
pub use holder::run_in_background;
use kernel::Kernel;
pub use start::Error;
use token::{Token, count};
use troubles::Troubles;

/// Everything the loop waits for and works with.
struct Daemon {
    config_path: PathBuf,
    /// Those that we were started in by 1.2's flags; empty where the configuration says.
    modes: BTreeSet<WatchMode>,
    /// Those that are in force for our own sake; others are leased.
    own_modes: BTreeSet<WatchMode>,
    /// Who waits for us to be ready.
    starter: Option<Starter>,
    engine: Engine,
    capture: Capture,
    listeners: Listeners,
    /// Where handshakes are asked for.
    traps: Option<Traps>,
    /// Reused from batch to batch.
    probes: Vec<Probe>,
    host: Host,
    services: Services,
    flows: Flows,
    /// `None`: the kernel does not tell.
    closings: Option<Closings>,
    ignore_watch: FileWatch,
    /// What tells of name servers and of logins.
    surroundings: FileWatch,
    resolvers: Vec<Resolver>,
    errands: Errands,
    signals: SignalFd,
    epoll: Epoll,
    server: Server,
    clients: clients::Clients,
    /// While history is being read.
    replay: Option<replay::Replay>,
    /// While the kernel's bans are being listed.
    adoption: Option<start::Adoption>,
    /// Since when all bans of history are back; `None`: not yet.
    ready_at: Option<Mono>,
    wall_clock: WallClock,
    /// How often history had to begin a new file.
    renewals: u64,
    /// When so many records are written, history may have grown too long.
    shorten_at: u64,
    /// What history has complained of.
    history_troubles: Troubles,
    /// What is put off.
    later: Later,
    stopping: bool,
    /// Held as long as we run.
    _lock: StateLock,
}

/// When to do what is put off; `None`: there is nothing of the kind.
#[derive(Clone, Copy, Default)]
struct Later {
    accept: Option<Mono>,
    host: Option<Mono>,
    listing: Option<Mono>,
    logins: Option<Mono>,
    look: Option<Mono>,
    prune: Option<Mono>,
}

/// How long the control socket is left alone after a failure.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);
/// How long after a failure this host's addresses are listed again.
const HOST_AGAIN: Duration = Duration::from_secs(5);
/// How long after something has happened to sessions it is looked who is logged in.
const LOGINS_AFTER: Duration = Duration::from_millis(200);
/// How long after a failure the kernel's bans are listed again.
const LISTING_AGAIN: Duration = Duration::from_secs(60);
/// How often it is looked, while somebody is banned, whether bans are in force: for what nobody tells.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// How often what is beyond `ban.memory` is dropped.
const PRUNE_AGAIN: Duration = Duration::from_secs(24 * 3600);

/// Rows of history about what is over, at most: some 150 MB.
const MOST_OVER: u64 = 1_000_000;
/// After so many new records that is looked at again, which takes a walk through an index.
const SHORTEN_AGAIN: u64 = 65_536;

/// Callers taken in at a time: far fewer than may talk to us at once, so that each is heard before it has to make room.
const CALLERS: usize = 16;

/// Events taken from the kernel at a time.
const EVENTS: usize = 32;

/// Runs the daemon in the foreground until it is told to stop.
///
/// # Errors
/// It could not start, or lost something that it cannot go on without. Bans stay in the kernel then.
pub fn run(config_path: &Path) -> Result<(), Error> {
    log::start(log::Sink::Foreground);
    notices::starting();
    let outcome = Daemon::start(config_path, BTreeSet::new()).and_then(|mut daemon| {
        daemon.go()?;
        daemon.stop();
        Ok(())
    });
    if let Err(failure) = &outcome {
        // While a unit waits to be started again, `systemctl status` shows this, and not the log. A line's end would end the message.
        let why = failure.to_string().replace('\n', "; ");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&why)]);
    }
    outcome
}

impl Daemon {
    fn go(&mut self) -> Result<(), Error> {
        self.watch_all()?;
        self.replay_first(Now::read())?;
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.stopping {
            let now = Now::read();
            let count = match self.epoll.wait(&mut events, self.timeout(now)) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(Error::event_loop("wait for events")(errno)),
            };
            let now = Now::read();
            self.follow_the_clock(now);
            for event in &events[..count] {
                self.handle(Token::of(event.data()), now)?;
            }
            self.engine.tick(now);
            self.run_errands(now);
            self.clients.drop_idle(now.mono);
            self.history_moves(now);
            self.next_turn(now)?;
            self.catch_up(now)?;
        }
        Ok(())
    }

    /// Until when the loop may sleep: for ever when nothing is due.
    fn timeout(&self, now: Now) -> EpollTimeout {
        let Later {
            accept,
            host,
            listing,
            logins,
            look,
            prune,
        } = self.later;
        let due = [
            self.engine.next_deadline(),
            self.listeners.next_deadline(),
            self.traps.as_ref().and_then(Traps::next_deadline),
            self.clients.next_deadline(),
            self.history_troubles.next_deadline(),
            accept,
            host,
            listing,
            logins,
            look,
            prune,
        ];
        let Some(due) = due.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        EpollTimeout::try_from(due.since(now.mono)).unwrap_or(EpollTimeout::MAX)
    }

    fn handle(&mut self, token: Token, now: Now) -> Result<(), Error> {
        match token {
            Token::Capture(which) => self.packets(which, now),
            Token::Listen => self.visitors(now),
            Token::Client(id) => self.client_moves(id, now)?,
            Token::Control => self.accept(now)?,
            Token::History => self.history_tells(now),
            Token::Replay => self.replay_some(now)?,
            Token::Adoption => self.adopt(now),
            Token::Program => self.programs_ended(now),
            Token::Name => self.names_found(now),
            Token::Responder => self.engine.collect(now),
            Token::Meddling => self.engine.notice(now),
            Token::Traps => {
                if let Some(traps) = &mut self.traps {
                    traps.notice(now.mono);
                }
            }
            Token::Host => self.host_moves(now),
            Token::Ignore => self.ignore_moves(now),
            Token::Surroundings => self.surroundings_move(now),
            Token::Closings => self.heed_closings(now),
            Token::Signal => self.signal(now),
        }
        Ok(())
    }

    fn history_tells(&mut self, now: Now) {
        let recorder = self.engine.recorder();
        let written = recorder.settle();
        if written.0 >= self.shorten_at {
            self.shorten(now);
        }
        let recorder = self.engine.recorder();
        let (renewals, trouble) = (recorder.renewals(), recorder.trouble());
        if std::mem::replace(&mut self.renewals, renewals) != renewals {
            self.engine.record_anew(now);
        }
        self.history_troubles.tell(trouble, now.mono);
        self.engine.record_what_is_missing();
    }

    /// Bans end when they would have, whatever becomes of the wall clock. While history is read, it says how.
    fn follow_the_clock(&mut self, now: Now) {
        if self.is_replaying() {
            return;
        }
        if let Some(Leap { before, by }) = self.wall_clock.leap(now) {
            self.engine.clock_moved(before, by, now);
        }
    }

    /// One batch of packets from one socket; what is left makes the socket readable again.
    fn packets(&mut self, which: usize, now: Now) {
        self.probes.clear();
        if let Err(cause) = self.capture.read(which, &mut self.probes) {
            // A socket reports what befell it once, an interface that went down for instance, and goes on.
            warn!("reading packets: {cause}");
        }
        self.heed_closings(now);
        self.judge(now);
    }

    /// One batch of those who came to the ports that we listen on; if there are more, the descriptor stays readable.
    fn visitors(&mut self, now: Now) {
        self.probes.clear();
        self.listeners.read(&mut self.probes, now.mono);
        self.judge(now);
    }

    /// Programs have let go of ports. Asked before packets are judged, for those may be the answers that they did not wait for.
    fn heed_closings(&mut self, now: Now) {
        if let Some(closings) = &mut self.closings {
            self.engine.udp_ports_left(closings.take(), now);
        }
    }

    fn judge(&mut self, now: Now) {
        let mut kernel = Kernel {
            services: &mut self.services,
            flows: &mut self.flows,
            links: self.host.facts().links(),
        };
        self.engine.probes(&self.probes, now, &mut kernel);
    }

    fn accept(&mut self, now: Now) -> Result<(), Error> {
        for _ in 0..CALLERS {
            if !self.clients.may_come() {
                return Ok(());
            }
            match self.server.accept() {
                Ok(Caller::Client(client)) => {
                    self.clients.make_room();
                    let id = self.clients.add(client, now.mono);
                    let fd = self.clients.fd(id).expect("it was added the line above");
                    let event = EpollEvent::new(CLIENT_FLAGS, Token::Client(id).data());
                    if let Err(cause) = self.epoll.add(fd, event) {
                        warn!("a command could not connect: {cause}");
                        self.clients.remove(id);
                    }
                }
                Ok(Caller::Stranger) => {}
                Ok(Caller::Nobody) => return Ok(()),
                // For want of descriptors, say: the next may have one of these.
                Err(_) if self.clients.hang_up_on_one() => {}
                // They are listened to first.
                Err(_) if self.clients.count() > 0 => return Ok(()),
                Err(cause) => {
                    // The socket stays readable: do not look at it for a while.
                    warn!(
                        "commands cannot connect for a moment: {cause} (for more open files raise LimitNOFILE in the unit)"
                    );
                    let step = "leave the control socket alone";
                    self.epoll
                        .delete(self.server.as_fd())
                        .map_err(Error::event_loop(step))?;
                    self.later.accept = Some(now.mono.later(ACCEPT_AGAIN));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Does what was put off until now.
    fn catch_up(&mut self, now: Now) -> Result<(), Error> {
        let is_due = |at: &mut Option<Mono>| at.take_if(|at| *at <= now.mono).is_some();
        if is_due(&mut self.later.accept) {
            self.add(self.server.as_fd(), Token::Control)?;
            self.accept(now)?;
        }
        if is_due(&mut self.later.host) {
            self.host_moves(now);
        }
        if is_due(&mut self.later.listing) {
            self.list_the_world()?;
        }
        if is_due(&mut self.later.logins) {
            self.engine.logins_changed(now);
        }
        if is_due(&mut self.later.look) && !self.engine.bans().is_empty() {
            self.engine.reconcile(now);
            self.engine.recorder().look();
        }
        if self.later.look.is_none() && self.ready_at.is_some() && !self.engine.bans().is_empty() {
            self.later.look = Some(now.mono.later(LOOK_AGAIN));
        }
        if is_due(&mut self.later.prune) {
            self.prune(now);
        }
        if self
            .listeners
            .next_deadline()
            .is_some_and(|at| at <= now.mono)
        {
            notices::listening(&self.listeners.retry(now.mono));
        }
        if let Some(traps) = &mut self.traps {
            traps.tick(now.mono);
        }
        let told = self.history_troubles.next_deadline();
        if told.is_some_and(|at| at <= now.mono) {
            let trouble = self.engine.recorder().trouble();
            self.history_troubles.tell(trouble, now.mono);
        }
        Ok(())
    }

    /// Forgets what is beyond `ban.memory`, now and once a day.
    fn prune(&mut self, now: Now) {
        if let Some(memory) = self.engine.config().ban.memory {
            let before = now.wall.earlier(memory);
            self.engine.recorder().prune(before);
            self.engine.forget_before(before);
        }
        self.shorten(now);
        self.later.prune = Some(now.mono.later(PRUNE_AGAIN));
    }

    /// Sees to it that history does not grow without bound, however many records strangers cause.
    fn shorten(&mut self, now: Now) {
        let recorder = self.engine.recorder();
        recorder.shorten(MOST_OVER + count(self.engine.bans().len()), now.wall);
        self.shorten_at = recorder.written().0 + SHORTEN_AGAIN;
    }

    fn adopt(&mut self, now: Now) {
        let Some(adoption) = self.adoption.take() else {
            return;
        };
        // The descriptor is closed with it, which takes it out of the epoll set.
        match adoption.finish() {
            Ok(held) => self.engine.adopt(held, now),
            Err(cause) => {
                warn!("the kernel's bans could not be listed, and are in a minute: {cause}");
                self.later.listing = Some(now.mono.later(LISTING_AGAIN));
            }
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

    fn watch_all(&mut self) -> Result<(), Error> {
        self.watch_traps();
        for (which, fd) in self.capture.fds().enumerate() {
            self.add(fd, Token::Capture(which))?;
        }
        self.add(self.listeners.fd(), Token::Listen)?;
        self.add(self.host.fd(), Token::Host)?;
        self.add(self.ignore_watch.fd(), Token::Ignore)?;
        self.add(self.surroundings.fd(), Token::Surroundings)?;
        if let Some(closings) = &self.closings {
            self.add(closings.fd(), Token::Closings)?;
        }
        self.add(self.engine.recorder().fd(), Token::History)?;
        if let Some(replay) = &self.replay {
            self.add(replay.fd(), Token::Replay)?;
        }
        self.watch_errands()?;
        if let Some(fd) = self.engine.responders_fd() {
            self.add(fd, Token::Responder)?;
        }
        self.add(self.signals.as_fd(), Token::Signal)?;
        self.add(self.server.as_fd(), Token::Control)
    }

    /// Watches what others do to what the responders have made.
    fn begin_watching(&mut self, now: Now) -> Result<(), Error> {
        self.engine.begin_watching(now);
        let mut watched = self.engine.watched();
        watched.try_for_each(|fd| self.add(fd, Token::Meddling))
    }

    fn add(&self, fd: BorrowedFd<'_>, token: Token) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token.data());
        self.epoll
            .add(fd, event)
            .map_err(Error::event_loop("watch a descriptor"))
    }

    /// Leaves the kernel as the configuration says, nothing that only we would end, and history written.
    fn stop(mut self) {
        self.end_errands();
        self.traps = None;
        self.engine.release_waiting(Now::read());
        let withdrawn = match self.engine.config().ban.on_stop {
            OnStop::Remove => self.engine.withdraw(),
            OnStop::Keep => self.engine.withdraw_clockless(Now::read()),
        };
        if let Err(failure) = withdrawn {
            error!("{failure}");
        }
        if let Err(cause) = self.engine.close(Now::read()).stop(LAST_WORDS) {
            error!("history: {cause}");
        }
        info!("stopped");
        notices::stopping();
    }
}

/// How long a stop waits for history to be written.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Edge-triggered: a client that sends nothing and takes nothing does not keep the loop awake.
const CLIENT_FLAGS: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLET);
