//! Commands without a daemon: the same engine, opened for one request, under the same lock.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Failure, PATIENCE, say};
use crate::clock::Now;
use crate::command::{self, Outcome};
use crate::config::ignore::HostName;
use crate::config::{self, Config, ResponderKind};
use crate::control::{self, AskError, Lifted, Line, Listed, Request};
use crate::engine::{Engine, Errand};
use crate::guard::Guard;
use crate::history::lock::{self, Holder, LockError};
use crate::history::{self, History, Recorder, StateLock, TextFiles};
use crate::host::{Host, Names, Sessions, resolvers};
use crate::log::span;
use crate::policy::{Ban, Origin};
use crate::privilege;
use crate::respond::command::{Job, Runner};
use crate::respond::{self, Responders, Site};
use crate::source::Source;
use crate::traps::Traps;

/// How long a command waits for where names lead to.
const LOOKING_UP: Duration = Duration::from_secs(5);

/// The bans that still run by what history says.
pub(super) fn running(config: &Config) -> Result<Vec<Listed>, Failure> {
    let Some(history) = History::open_read_only(&config.history.file)? else {
        return Ok(Vec::new());
    };
    go_by(&history)?;
    let now = Now::read();
    Ok(all_active(&history, now)?
        .iter()
        .map(|ban| command::listed(ban, now))
        .collect())
}

/// Bans as the daemon would.
pub(super) fn ban(config: &Config, request: &Request) -> Result<Listed, Failure> {
    let mut outcomes = ban_all(config, std::slice::from_ref(request))?;
    let outcome = outcomes.pop();
    let outcome = outcome.unwrap_or_else(|| Err("nothing was banned".to_owned()));
    outcome.map_err(Failure::from)
}

/// Bans one after another; what became of each. They are in history when this returns.
pub(super) fn ban_all(
    config: &Config,
    requests: &[Request],
) -> Result<Vec<Result<Listed, String>>, Failure> {
    let one = |lines: Vec<Line>| {
        let mut banned = None;
        for line in lines {
            match line {
                Line::Listed(listed) => banned = Some(listed),
                Line::Failed(why) => return Err(why),
                _ => {}
            }
        }
        banned.ok_or_else(|| "nothing was banned".to_owned())
    };
    let replies = carry_out(config, requests)?;
    Ok(replies.into_iter().map(one).collect())
}

/// Unbans as the daemon would; gives back what failed.
pub(super) fn unban(
    config: &Config,
    request: &Request,
    lifted: &mut Vec<Lifted>,
) -> Result<Option<String>, Failure> {
    let mut failed = None;
    let replies = carry_out(config, std::slice::from_ref(request))?;
    for line in replies.into_iter().flatten() {
        match line {
            Line::Lifted(one) => lifted.push(one),
            Line::Failed(why) => failed = Some(why),
            _ => {}
        }
    }
    Ok(failed)
}

/// Carries out requests of one kind, with what each came to.
fn carry_out(config: &Config, requests: &[Request]) -> Result<Vec<Vec<Line>>, Failure> {
    privilege::require(privilege::Needs::default())?;
    let lock = lock(config)?;
    let history = match History::open(&config.history.file) {
        Ok(history) => history,
        Err(cause) => return Err(without_history(config, requests, &cause)),
    };
    go_by(&history)?;
    let now = Now::read();
    let bans = match requests {
        [Request::Unban { sources }] => {
            let addresses = sources
                .iter()
                .filter_map(|text| text.parse().ok())
                .map(Source::address);
            let running: Result<Vec<_>, _> = addresses
                .map(|address| history.running(now, address))
                .collect();
            let running = running?.concat();
            // With a forced ban's end, its source is let through again, and those of the others are not.
            if running.iter().any(|ban| ban.origin == Origin::Forced) {
                all_active(&history, now)?
            } else {
                running
            }
        }
        _ => all_active(&history, now)?,
    };
    let makes_ready = matches!(requests, [Request::Ban { .. }, ..]);
    let mut session = Session::begin(config, lock, history, bans, makes_ready)?;
    let replies = requests
        .iter()
        .map(|request| session.carry_out(request.clone()))
        .collect::<Result<_, _>>()?;
    session.end()?;
    Ok(replies)
}

/// The state lock. Another command that has it is waited for.
fn lock(config: &Config) -> Result<StateLock, LockError> {
    let begin = Instant::now();
    loop {
        match StateLock::acquire(&config.history.file) {
            Err(LockError::Held { .. }) if begin.elapsed() < PATIENCE => {}
            taken => return taken,
        }
    }
}

/// Who has the state lock, and its file; `None`: nobody, as far as can be seen.
pub(super) fn holder(config: &Config) -> Option<(PathBuf, Holder)> {
    let holder = lock::holder(&config.history.file).ok().flatten()?;
    Some((lock::path(&config.history.file), holder))
}

/// An engine for as long as a command runs.
pub(super) struct Session {
    engine: Engine,
    by: String,
    _lock: StateLock,
}

impl Session {
    /// One that bans.
    pub(super) fn of(config: &Config) -> Result<Self, Failure> {
        privilege::require(privilege::Needs::default())?;
        let lock = lock(config)?;
        let history = History::open(&config.history.file)?;
        go_by(&history)?;
        let bans = all_active(&history, Now::read())?;
        Self::begin(config, lock, history, bans, true)
    }

    /// `makes_ready`: what bans need is made where it is not there.
    fn begin(
        config: &Config,
        lock: StateLock,
        history: History,
        bans: Vec<Ban>,
        makes_ready: bool,
    ) -> Result<Self, Failure> {
        let mut guard = guard(config)?;
        let mut responders = Responders::configured(config)?;
        if makes_ready {
            look_names_up(&mut guard)?;
            responders.prepare()?;
        } else {
            responders.are_free()?;
        }
        let cannot_start = |error| Failure::from(format!("cannot write history: {error}"));
        let recorder = Recorder::start(history, TextFiles::default()).map_err(cannot_start)?;
        let mut engine = Engine::new(config.clone(), guard, responders.here(), recorder);
        engine.know(bans);
        Ok(Self {
            engine,
            by: format!("uid {}", nix::unistd::getuid()),
            _lock: lock,
        })
    }

    /// Carries out a request; what the daemon would reply.
    pub(super) fn carry_out(&mut self, request: Request) -> Result<Vec<Line>, Failure> {
        let Outcome { mut lines, .. } =
            command::carry_out(&mut self.engine, request, &self.by, Now::read());
        if let Some(failure) = run_programs(&mut self.engine)? {
            lines.pop();
            lines.push(Line::Failed(failure));
        }
        Ok(lines)
    }

    /// Ends it. What was done is in history when this returns.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        self.engine.finish_repair(Now::read());
        let recorder = self.engine.close(Now::read());
        recorder
            .stop(LAST_WORDS)
            .map_err(|unwritten| Failure::from(unwritten.to_string()))
    }
}

/// Who is never banned, as a daemon would know it now.
pub(super) fn guard(config: &Config) -> Result<Guard, Failure> {
    let (ignored, _) = config::ignore::read(&config.ignore)?;
    let mut guard = Guard::new(config, ignored, Host::open()?.facts().clone());
    guard.resolvers_changed(resolvers::read());
    if let Some(history) = History::open_read_only(&config.history.file)? {
        for (name, addresses) in history.names()? {
            guard.names.remember(&name, addresses);
        }
    }
    if guard.spares_logins() {
        match Sessions::new().look(true) {
            Ok(logins) => {
                guard.logins_changed(logins.unwrap_or_default().to_vec());
            }
            Err(cause) => say(&format!("{cause}; nobody is spared for being logged in")),
        }
    }
    Ok(guard)
}

/// Finds out where the names in the ignore lists lead to. What takes longer than we wait is told, as is what is not found.
fn look_names_up(guard: &mut Guard) -> Result<(), Failure> {
    let mut due = guard.names.take_due(Now::read().mono);
    if due.is_empty() {
        return Ok(());
    }
    let failed = |cause| Failure::from(format!("cannot look names up: {cause}"));
    let names = Names::start().map_err(failed)?;
    for name in &due {
        names.seek(name.as_str());
    }
    let deadline = Instant::now() + LOOKING_UP;
    while !due.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let ready = poll(&mut [PollFd::new(names.fd(), PollFlags::POLLIN)], timeout);
        if ready.is_ok_and(|count| count == 0) {
            break;
        }
        for (name, whereabouts) in names.found() {
            due.retain(|it| it.as_str() != name);
            if let Some(name) = HostName::parse(&name) {
                guard.names.answered(&name, whereabouts, Now::read());
            }
        }
    }
    for name in due {
        say(&format!(
            "{name} takes too long to be looked up; what was known of it last counts"
        ));
    }
    guard.names.troubles().for_each(|trouble| say(&trouble));
    Ok(())
}

/// Runs the admin's programs that go with a ban or its end, to their end; what failed.
fn run_programs(engine: &mut Engine) -> Result<Option<String>, Failure> {
    let jobs: Vec<Job> = engine
        .take_errands()
        .into_iter()
        .filter_map(|errand| match errand {
            Errand::Run(job) => Some(job),
            Errand::Name(_) | Errand::Whereabouts(_) => None,
        })
        .collect();
    if jobs.is_empty() {
        return Ok(None);
    }
    let timeout = engine.config().command.timeout;
    let runner = Runner::start(timeout)
        .map_err(|cause| Failure::from(format!("cannot run programs: {cause}")))?;
    let count = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let mut failures: Vec<String> = jobs
        .into_iter()
        .filter(|job| !runner.run(job.clone()))
        .map(|job| format!("too many programs at once: none was run for {}", job.source))
        .collect();
    for ended in runner.stop(timeout.saturating_mul(count)) {
        engine.ended(&ended, Now::read());
        let failure = |trouble| format!("{}: {trouble}", ended.command);
        failures.extend(ended.trouble.as_ref().map(failure));
    }
    Ok((!failures.is_empty()).then(|| failures.join("\n")))
}

/// Who is locked out on a day when history is spoilt is let in all the same; the failure says what that leaves undone.
fn without_history(config: &Config, requests: &[Request], cause: &history::Error) -> Failure {
    let lift = |mut responders: Responders| match requests {
        [Request::Unban { sources }] => {
            let sources = sources
                .iter()
                .filter_map(|text| text.parse::<Source>().ok());
            let covering: Vec<Source> = sources
                .flat_map(|source| config.ban.covering(source))
                .collect();
            responders.unban(&covering)
        }
        _ => responders.unban_all(),
    };
    if matches!(requests, [Request::Ban { .. }, ..]) {
        return Failure::from(cause.to_string());
    }
    let failures = Responders::configured(config).map_or_else(|error| vec![error], lift);
    let kernel = match failures.first() {
        None => {
            "lifted in the kernel all the same; a history put back later may bring the ban back"
                .to_owned()
        }
        Some(failure) => failure.to_string(),
    };
    Failure::from(format!("{cause}\n{kernel}"))
}

/// Has time go on from history's last entry, where the clock is behind it, as the daemon does: what is over by that would run again
/// otherwise, and what is recorded would have the next start believe the clock.
pub(super) fn go_by(history: &History) -> Result<(), history::Error> {
    if let Some(behind) = history.last_moment()?.and_then(Now::have_passed) {
        say(&format!(
            "the clock is {} behind history's last entry: going by that",
            span(behind)
        ));
    }
    Ok(())
}

/// How long history may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(10);

fn all_active(history: &History, now: Now) -> Result<Vec<Ban>, history::Error> {
    let (beginning, _) = history.beginning(now.wall)?;
    let mut cursor = Some(beginning);
    let mut all = Vec::new();
    while let Some(from) = cursor {
        let slice = history.active(now, from, 10_000)?;
        all.extend(slice.bans);
        cursor = slice.next;
    }
    Ok(all)
}

/// Takes down what the responders made, or of that only what would never end by itself. A running daemon would put it back, so there must be none.
pub(super) fn withdraw(config: &Config, clockless: bool) -> Result<(), Failure> {
    privilege::require(privilege::Needs::default())?;
    // The lock belongs to the history file: a daemon that was started with another one does not hold it.
    if let Some(daemon) = daemon(config)? {
        return Err(Failure::from(format!(
            "{daemon} is running and would put everything back; stop it first"
        )));
    }
    let _lock = lock(config)?;
    let mut responders = Responders::configured(config)?;
    let (mut failures, what) = if clockless {
        let what = "what would never end by itself is taken down";
        (responders.withdraw_clockless(), what)
    } else {
        let mut failures = responders.withdraw();
        failures.extend(withdraw_unused(config));
        (failures, "taken down")
    };
    if let Err(why) = Traps::clear_away(&config.nftables.table) {
        // Where there is no nf_tables, there are no traps either.
        if config.has_traps() || config.ban.uses(ResponderKind::Nftables) {
            failures.push(respond::Error::new("traps", why.to_string()));
        }
    }
    if failures.is_empty() {
        return super::print(|out| {
            writeln!(
                out,
                "{what}; history stays, and the next start puts its bans back"
            )
        });
    }
    Err(Failure::from(
        failures
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n"),
    ))
}

/// Takes down what an earlier configuration has put up, as far as history knows; what failed.
fn withdraw_unused(config: &Config) -> Vec<respond::Error> {
    let history = History::open_read_only(&config.history.file).ok().flatten();
    let remembered = history.and_then(|history| history.sites().ok());
    let used = Site::of(config);
    let unused = remembered.into_iter().flatten();
    unused
        .filter(|site| !used.contains(site))
        .filter_map(|site| site.withdraw(config).err())
        .collect()
}

/// The daemon that answers on the control socket, in words; `None`: nobody does.
fn daemon(config: &Config) -> Result<Option<String>, Failure> {
    let mut daemon = "a daemon".to_owned();
    let asked = control::ask(&config.control.socket, &Request::Status, PATIENCE, |line| {
        if let Line::Status(status) = line {
            daemon = format!("a daemon, pid {},", status.pid);
        }
        Ok(())
    });
    match asked {
        Ok(()) => Ok(Some(daemon)),
        Err(AskError::NoDaemon(_)) => Ok(None),
        Err(error @ AskError::Hung(_)) => Err(Failure::from(format!(
            "{error}, and would put everything back; stop it first{}",
            kill(config)
        ))),
        Err(error) => Err(Failure::from(error)),
    }
}

/// What ends who holds the state lock, in brackets; empty where nobody is known to.
pub(super) fn kill(config: &Config) -> String {
    let holder = lock::holder(&config.history.file).ok().flatten();
    let pid = holder.and_then(|holder| holder.pid);
    pid.map_or_else(String::new, |pid| format!(" (kill -9 {pid})"))
}

impl From<history::Error> for Failure {
    fn from(error: history::Error) -> Self {
        Self::from(error.to_string())
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        Self::from(error.to_string())
    }
}

impl From<respond::Error> for Failure {
    fn from(error: respond::Error) -> Self {
        Self::from(error.to_string())
    }
}

impl From<crate::host::Error> for Failure {
    fn from(error: crate::host::Error) -> Self {
        Self::from(error.to_string())
    }
}

impl From<privilege::Missing> for Failure {
    fn from(missing: privilege::Missing) -> Self {
        Self::from(missing.to_string())
    }
}
