//! From nothing to a running daemon, in the one order that leaves nothing half done: what may fail comes before what must be undone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tracing::{info, warn};

use super::replay::Replay;
use super::{Daemon, Errands, Later, Troubles, clients::Clients, follow, friends, notices, traps};
use crate::capture::{self, Capture};
use crate::clock::{Now, WallClock};
use crate::config::{self, Complaints, Config, Loaded, Mode, WatchMode};
use crate::control::{AskError, Server};
use crate::engine::Engine;
use crate::guard::Guard;
use crate::history::lock::LockError;
use crate::history::{self, History, Recorder, StateLock, TextFiles};
use crate::host::{self, Closings, Flows, Host, Services, resolvers, sessions};
use crate::listen::{self, Listeners};
use crate::log::{counted, span};
use crate::privilege::{self, Needs, User};
use crate::respond::{self, Held, Holdings, Prepared, Readiness, Responders, Site};
use crate::source::{Source, Sources};
use crate::sys;

/// Why the daemon does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration or an ignore file has mistakes.
    #[error("{0}")]
    Config(#[from] Complaints),
    /// Capabilities are missing.
    #[error("{0}")]
    Privilege(#[from] privilege::Missing),
    /// Capabilities could not be given up.
    #[error("{0}")]
    Drop(#[from] privilege::Error),
    /// The daemon would not be able to write its history.
    #[error(
        "{dir}, the directory of history.file, is not for {user} to write to, who this daemon is when it has given up root's rights; \
         chown {user} {dir}, or name its owner in daemon.user"
    )]
    State {
        /// The directory.
        dir: String,
        /// Who the daemon is to be.
        user: privilege::User,
    },
    /// Another portsentry runs.
    #[error("{0}")]
    Lock(#[from] LockError),
    /// The history cannot be used.
    #[error("{0}")]
    History(#[from] history::Error),
    /// A responder cannot work here.
    #[error("{0}")]
    Respond(#[from] respond::Error),
    /// Packets cannot be seen.
    #[error("{0}")]
    Capture(#[from] capture::Error),
    /// Ports cannot be listened on.
    #[error("{0}")]
    Listen(#[from] listen::Error),
    /// Connections cannot be led to traps.
    #[error("{0}")]
    Traps(#[from] crate::traps::Error),
    /// This host cannot be known.
    #[error("{0}")]
    Host(#[from] host::Error),
    /// The control socket cannot be made.
    #[error("cannot listen for commands on {path}: {source}")]
    Control {
        /// The socket's path.
        path: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// The daemon that runs does not watch for us.
    #[error("{0}")]
    Ask(#[from] AskError),
    /// The kernel refuses what the event loop needs.
    #[error("cannot {step}: {source}")]
    Loop {
        /// Which.
        step: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    /// The exit status of a daemon that ends because of this.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            _ => 1,
        }
    }

    pub(super) fn event_loop(step: &'static str) -> impl Fn(nix::Error) -> Self {
        move |source| Self::Loop {
            step,
            source: source.into(),
        }
    }

    pub(super) fn thread(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Loop { step, source }
    }
}

/// The world being listed on another thread, for what it holds and history lacks.
pub(super) struct Adoption {
    /// Readable when the list is there.
    pub(super) done: EventFd,
    result: mpsc::Receiver<Result<Vec<Held>, respond::Error>>,
}

impl Adoption {
    fn begin(jobs: Vec<Holdings>, known: Vec<Source>) -> Result<Option<Self>, Error> {
        if jobs.is_empty() {
            return Ok(None);
        }
        let step = "list what the kernel holds";
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let done = EventFd::from_flags(flags).map_err(Error::event_loop(step))?;
        let ring = done
            .as_fd()
            .try_clone_to_owned()
            .map_err(Error::thread(step))?;
        let (send, result) = mpsc::channel();
        let work = move || {
            let known = Sources::new(known);
            let mut held = Vec::new();
            let listed = jobs
                .into_iter()
                .try_for_each(|job| job(&known).map(|found| held.extend(found)));
            // The daemon may have stopped meanwhile: then nobody wants to know.
            let _ = send.send(listed.map(|()| held));
            let _ = nix::unistd::write(&ring, &1_u64.to_ne_bytes());
        };
        thread::Builder::new()
            .name("adopt".to_owned())
            .spawn(work)
            .map_err(Error::thread(step))?;
        Ok(Some(Self { done, result }))
    }

    /// What was found. Called when `done` is readable.
    pub(super) fn finish(self) -> Result<Vec<Held>, respond::Error> {
        self.result.try_recv().unwrap_or_else(|_| Ok(Vec::new()))
    }
}

impl Daemon {
    /// Starts everything up to the point where bans are put back and packets are seen.
    ///
    /// In these modes, where the configuration is one of 1.2.
    pub(super) fn start(config_path: &Path, modes: BTreeSet<WatchMode>) -> Result<Self, Error> {
        let Loaded { config, warnings } = config::load_with(config_path, &modes)?;
        let (ignored, passed_over) = config::ignore::read(&config.ignore)?;
        let needs = needs_of(config_path, &config);
        privilege::require(needs)?;
        let user = config.daemon.user.as_deref().map(User::named).transpose()?;
        let lock = StateLock::acquire(&config.history.file)?;
        see_that_it_can_write(&config, user.as_ref())?;
        // Not before: who finds the lock taken may try again and again.
        notices::warnings(&warnings);
        follow::tell(&passed_over);
        let mut history = History::open(&config.history.file)?;
        if let Some(behind) = history.last_moment()?.and_then(Now::have_passed) {
            warn!(
                "the clock is {} behind history's last entry: going by that until it has caught up",
                span(behind)
            );
        }
        let signals = block_signals().map_err(Error::event_loop("receive signals"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(Error::event_loop("wait for events"))?;
        let host = Host::open()?;
        let services = Services::open()?;
        let server = Server::bind(&config.control.socket).map_err(|source| Error::Control {
            path: config.control.socket.display().to_string(),
            source,
        })?;
        let ignore_watch = follow::watch(&config)?;
        let surroundings = friends::watch()?;
        let resolvers = resolvers::read();

        let mut responders = Responders::configured(&config)?;
        for Readiness { name, prepared } in responders.prepare()? {
            match prepared {
                Ok(prepared) => info!("{name}: {}", words_for(prepared)),
                Err(why) => warn!("{why}; going on without {name}, which is optional"),
            }
        }
        take_down_what_is_not_used(&mut history, &config)?;
        let capture = Capture::open(capture::Settings {
            method: config.capture.method,
            interfaces: follow::interfaces_of(&config, host.facts()),
            watched: follow::watched_by(&config),
        })?;
        let closings = Closings::open(config.udp.span());
        let closings = closings.map_err(|cause| {
            warn!("{cause}: the kernel does not tell which UDP ports programs let go of, and late answers to those count as probes");
        });
        let settings = follow::listened_by(&config);
        let (listeners, report) = Listeners::open(settings, Now::read().mono)?;
        notices::listening(&report);
        let traps = traps::set_up(&config, &listeners, host.facts())?;
        let reader = History::open_read_only(&config.history.file)?;
        let mut errands = Errands::start(&config).map_err(Error::thread("run programs"))?;
        if let Some(user) = &user {
            user.embody()?;
        }
        privilege::drop_to_needed(needs)?;
        if let Some(user) = &user {
            see_that_they_can_go_on(&mut responders, user)?;
        }
        let crew = responders
            .on_threads()
            .map_err(Error::thread("give responders threads"))?;
        errands
            .start_names(&config)
            .map_err(Error::thread("find names"))?;

        let now = Now::read();
        let mut text = TextFiles::of(&config.history);
        if let Err(failures) = text.begin(config.watch_modes()) {
            failures.iter().for_each(|failure| warn!("{failure}"));
        }
        let names = history.names()?;
        let is_listed = |name: &str| ignored.names().keys().any(|it| it.as_str() == name);
        for name in names.keys().filter(|name| !is_listed(name)) {
            history.forget_name(name)?;
        }
        let recorder = Recorder::start(history, text).map_err(Error::thread("write history"))?;
        let mut guard = Guard::new(&config, ignored, host.facts().clone());
        guard.resolvers_changed(resolvers.clone());
        let mut engine = Engine::new(config, guard, crew, recorder);
        engine.find_logins_by(Box::new(sessions::finder()));
        engine.remember_names(names);
        engine.spare_friends(now);
        engine.logins_changed(now);
        let rules = &engine.config().ban;
        let replay = Replay::start(reader, rules).map_err(Error::thread("read history"))?;

        Ok(Self {
            config_path: config_path.to_owned(),
            modes,
            own_modes: engine.config().watch_modes().collect(),
            starter: None,
            engine,
            capture,
            listeners,
            traps,
            probes: Vec::with_capacity(capture::BATCH),
            host,
            services,
            flows: Flows::open(),
            closings: closings.ok(),
            ignore_watch,
            surroundings,
            resolvers,
            errands,
            signals,
            epoll,
            server,
            clients: Clients::new(),
            replay: Some(replay),
            adoption: None,
            ready_at: None,
            wall_clock: WallClock::at(now),
            renewals: 0,
            shorten_at: 0,
            history_troubles: Troubles::default(),
            later: Later::default(),
            stopping: false,
            _lock: lock,
        })
    }

    /// Bans are back: list what else the kernel holds, and tell who started us that we are ready.
    pub(super) fn ready(&mut self, now: Now) -> Result<(), Error> {
        self.ready_at = Some(now.mono);
        self.begin_watching(now)?;
        self.list_the_world()?;
        self.prune(now);
        for name in follow::missing_interfaces(self.engine.config(), self.host.facts()) {
            warn!("capture.interfaces names {name}, which is not there: nothing is seen on it");
        }
        info!(
            "ready: {} in force from history",
            counted(self.engine.bans().len(), "ban", "bans")
        );
        let modes: Vec<WatchMode> = self.engine.config().watch_modes().collect();
        self.notify_of(&modes);
        if let Some(starter) = self.starter.take() {
            starter
                .ready()
                .map_err(Error::thread("go into the background"))?;
        }
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!("cannot tell the service manager that we are ready: {error}");
        }
        // Where that fails, it stays in memory.
        let _ = sys::let_go_of_code();
        Ok(())
    }
}

impl Daemon {
    /// Has the kernel's bans listed on another thread, for those that history lacks.
    pub(super) fn list_the_world(&mut self) -> Result<(), Error> {
        let (jobs, known) = self.engine.begin_listing();
        self.adoption = Adoption::begin(jobs, known)?;
        match &self.adoption {
            Some(adoption) => self.add(adoption.done.as_fd(), super::Token::Adoption),
            None => Ok(()),
        }
    }
}

/// Looks whether history can still be written when root's rights are given up.
fn see_that_it_can_write(config: &Config, user: Option<&User>) -> Result<(), Error> {
    let Some(dir) = config.history.file.parent() else {
        return Ok(());
    };
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let user = user.cloned().unwrap_or_else(User::current);
    match fs::metadata(dir) {
        Ok(metadata) if !user.may_write(&metadata) => Err(Error::State {
            dir: dir.display().to_string(),
            user,
        }),
        // What else is wrong with it is told by who opens the file.
        _ => Ok(()),
    }
}

/// Looks whether responders that root has made ready can be kept so by who this daemon is now, rather than at the first ban.
fn see_that_they_can_go_on(responders: &mut Responders, user: &User) -> Result<(), respond::Error> {
    for Readiness { name, prepared } in responders.prepare()? {
        if let Err(why) = prepared {
            warn!("as {user}, {why}; going on without {name}, which is optional");
        }
    }
    Ok(())
}

/// What the daemon has to do with this configuration. With one of 1.2, another process may hand it connect mode later: what that
/// takes is kept where it is there.
fn needs_of(path: &Path, config: &Config) -> Needs {
    let listens = |watch: WatchMode| watch.mode == Mode::Connect;
    let listening = Needs { low_ports: true };
    let may_listen = || config::is_legacy(path) && privilege::missing(listening).is_empty();
    Needs {
        low_ports: config.watch_modes().any(listens) || may_listen(),
    }
}

/// What an earlier configuration had its responders put up, and this one does not use, is taken down. What cannot be is tried
/// again at the next start.
pub(super) fn take_down_what_is_not_used(
    history: &mut History,
    config: &Config,
) -> Result<(), Error> {
    let remembered = history.sites()?;
    let mut sites = Site::of(config);
    for site in &remembered {
        if sites.contains(site) {
            continue;
        }
        match site.withdraw(config) {
            Ok(()) => info!("{site} is not used any more: nothing of ours is left there"),
            Err(failure) => {
                warn!("{site} is not used any more, but what was put up there stays: {failure}");
                sites.push(site.clone());
            }
        }
    }
    // To write is to wait for the disk, twice where the log is new.
    if sites.len() == remembered.len() && sites.iter().all(|site| remembered.contains(site)) {
        return Ok(());
    }
    Ok(history.remember_sites(&sites)?)
}

pub(super) fn block_signals() -> nix::Result<SignalFd> {
    let mask = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn words_for(prepared: Prepared) -> &'static str {
    match prepared {
        Prepared::Created => "made anew what its bans need",
        Prepared::Adopted => "found what its bans need in place, and keeps it",
        Prepared::Rebuilt => {
            "found what its bans need in another shape, and rebuilt it with the bans that were in it"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the log is that whatever is written to history goes to.
    fn written(path: &Path) -> u64 {
        let log = path.with_file_name("history.db-wal");
        fs::metadata(log).map_or(0, |metadata| metadata.len())
    }

    #[test]
    fn a_start_with_the_responders_of_the_last_one_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        let mut history = History::open(&path).unwrap();
        let config = Config::default();
        let before = written(&path);
        take_down_what_is_not_used(&mut history, &config).unwrap();
        assert_eq!(history.sites().unwrap(), Site::of(&config));
        let first = written(&path);
        assert!(
            first > before,
            "the first start writes down where its bans are"
        );
        take_down_what_is_not_used(&mut history, &config).unwrap();
        assert_eq!(written(&path), first);
        assert_eq!(history.sites().unwrap(), Site::of(&config));
    }

    #[test]
    fn a_start_with_one_responder_fewer_forgets_where_that_ones_bans_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.db");
        let mut history = History::open(&path).unwrap();
        let config = Config::default();
        let gone = Site {
            responder: "a later version's".to_owned(),
            place: String::new(),
        };
        let mut sites = Site::of(&config);
        sites.push(gone);
        history.remember_sites(&sites).unwrap();
        take_down_what_is_not_used(&mut history, &config).unwrap();
        assert_eq!(history.sites().unwrap(), Site::of(&config));
    }
}
