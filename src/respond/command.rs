//! Running the admin's own programs: one at a time, with a time limit, on a thread of their own. What for, and what follows
//! from how they end, is the engine's business.
//!
//! What a program leaves in the background runs on, unless its time is over; the pipe that it inherited has no reader any more.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use crate::config::{CommandLine, WatchMode};
use crate::log::span;
use crate::sys;

pub use self::ipv4::knows_only_ipv4;
use self::output::{Output, printable};

mod ipv4;
mod output;

/// A program that is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// By which its end is told.
    pub id: u64,
    /// What, with its placeholders.
    pub line: CommandLine,
    /// `{source}`: the scanning address, never a prefix.
    pub source: IpAddr,
    /// `{port}`; 0 where there is none.
    pub port: u16,
    /// `{mode}`; `None`, and empty, where no scan is the cause.
    pub mode: Option<WatchMode>,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The job's.
    pub id: u64,
    /// The program as it was run, fit for a log.
    pub command: String,
    /// What went wrong, fit for a log; `None`: it ended with status 0.
    pub trouble: Option<String>,
}

/// The thread that runs programs, and the queue before it. Dropping it kills what runs.
///
/// Capabilities and no_new_privs are a thread's own: this one keeps those of the thread that started it. Start it before they
/// are given up, since the programs of an admin expect root's.
pub struct Runner {
    shared: Arc<Shared>,
}

/// What both threads see.
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Readable when programs have ended.
    rings: EventFd,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    ended: Vec<Ended>,
    /// Nothing runs on after this.
    stop_by: Option<Instant>,
    /// The thread has nothing more to do.
    is_over: bool,
}

impl State {
    fn is_to_stop(&self) -> bool {
        self.stop_by.is_some_and(|by| by <= Instant::now())
    }
}

impl Runner {
    /// Programs that may wait for their turn.
    pub const QUEUE: usize = 1024;

    /// Starts the thread, which inherits the caller's signal mask: block there what another thread is to receive. Programs
    /// begin with none blocked. One that runs longer than `limit` is killed with all of its process group.
    ///
    /// # Errors
    /// When the system has no thread or no eventfd left.
    pub fn start(limit: Duration) -> io::Result<Self> {
        sys::heed_children()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            rings: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let worker = Arc::clone(&shared);
        thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || worker.work(limit))?;
        Ok(Self { shared })
    }

    /// Queues a program; false where as many wait as may. Never waits.
    #[must_use]
    pub fn run(&self, job: Job) -> bool {
        let mut state = self.shared.lock();
        if state.queue.len() >= Self::QUEUE {
            return false;
        }
        state.queue.push_back(job);
        drop(state);
        self.shared.wake.notify_all();
        true
    }

    /// Becomes readable when programs have ended; [`ended`](Self::ended) makes it unreadable again.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.rings.as_fd()
    }

    /// Those that have ended since this was last asked, in their order.
    pub fn ended(&self) -> Vec<Ended> {
        // Nothing to read is fine; in this order, none is overlooked.
        let _ = self.shared.rings.read();
        std::mem::take(&mut self.shared.lock().ended)
    }

    /// Runs what is queued for as long as `patience`, then kills what still runs. Those that have ended meanwhile: whose turn
    /// has not come are not among them. Takes some seconds more at most, whatever a program does.
    #[must_use]
    pub fn stop(self, patience: Duration) -> Vec<Ended> {
        let mut state = self.shared.lock();
        state.stop_by = Some(Instant::now() + patience);
        self.shared.wake.notify_all();
        let runs = |state: &mut State| !state.is_over;
        // The thread may hang where nobody can help it: in an exec from a disk that does not answer.
        let most = patience + 3 * GRACE;
        drop(self.shared.wake.wait_timeout_while(state, most, runs));
        self.ended()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.lock().stop_by = Some(Instant::now());
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, limit: Duration) {
        // Killed, and not gone yet: the kernel keeps them while a disk does not answer.
        let mut undead: Vec<Child> = Vec::new();
        while let Some(job) = self.next() {
            undead.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            let command = printable(&shown(&job), COMMAND_SHOWN);
            let trouble = self.carry_out(&job, limit, &mut undead).err();
            self.lock().ended.push(Ended {
                id: job.id,
                command,
                trouble,
            });
            // It can only fail when the counter is at its end, and then the descriptor is readable anyway.
            let _ = self.rings.write(1);
        }
        self.lock().is_over = true;
        self.wake.notify_all();
    }

    /// Waits for a job; `None` when it is time to end.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.queue.is_empty() && state.stop_by.is_none();
        let mut state = self
            .wake
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.is_to_stop() {
            return None;
        }
        state.queue.pop_front()
    }

    /// Runs one program to its end; what went wrong.
    fn carry_out(&self, job: &Job, limit: Duration, undead: &mut Vec<Child>) -> Result<(), String> {
        let begun = Instant::now();
        let mut running = Running::start(job)?;
        let is_late = || begun.elapsed() >= limit;
        if running.watch(&|| is_late() || self.lock().is_to_stop()) {
            return running.outcome();
        }
        let why = if is_late() {
            format!("did not end within {}", span(limit))
        } else {
            "had not ended when portsentry stopped".to_owned()
        };
        let is_gone = running.kill();
        let end = if is_gone {
            "was killed"
        } else {
            "cannot be killed"
        };
        let words = running.output.after(&format!("{why}, and {end}"));
        if !is_gone {
            undead.push(running.child);
        }
        Err(words)
    }
}

/// A program under way.
struct Running {
    child: Child,
    /// Readable when it has ended.
    ends: OwnedFd,
    output: Output,
}

/// How often it is looked whether time is up.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program may take to end when it is told to, and to be gone when it is killed.
const GRACE: Duration = Duration::from_secs(1);

impl Running {
    fn start(job: &Job) -> Result<Self, String> {
        let (mut child, output) = spawn(job).map_err(|cause| format!("cannot be run: {cause}"))?;
        match sys::pidfd_open(pid(&child)) {
            Ok(ends) => Ok(Self {
                child,
                ends,
                output: Output::of(output),
            }),
            Err(cause) => {
                let _ = killpg(pid(&child), Signal::SIGKILL);
                let _ = child.wait();
                Err(format!("was killed, for it cannot be watched: {cause}"))
            }
        }
    }

    /// Waits until the program ends, and takes what it says meanwhile; false: time was up before. What it leaves behind in the
    /// background, with the pipe open, is not waited for.
    fn watch(&mut self, is_time_up: &dyn Fn() -> bool) -> bool {
        loop {
            let mut fds = vec![PollFd::new(self.ends.as_fd(), PollFlags::POLLIN)];
            if let Some(pipe) = &self.output.pipe {
                fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
            }
            let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
            // A failure is a look too early.
            let _ = poll(&mut fds, timeout);
            let is_over = fds[0].any() == Some(true);
            self.output.take();
            if is_over {
                return true;
            }
            if is_time_up() {
                return false;
            }
        }
    }

    /// Ends the program and all of its group: first by asking. Whether the program is gone.
    fn kill(&mut self) -> bool {
        // Until it is waited for, its number is no other group's. Whoever is gone already needs no signal.
        let _ = killpg(pid(&self.child), Signal::SIGTERM);
        let asked = Instant::now();
        self.watch(&|| asked.elapsed() >= GRACE);
        let _ = killpg(pid(&self.child), Signal::SIGKILL);
        let killed = Instant::now();
        self.watch(&|| killed.elapsed() >= GRACE) && self.child.wait().is_ok()
    }

    /// What came of a program that has ended.
    fn outcome(mut self) -> Result<(), String> {
        let status = self.child.wait();
        let status = status.map_err(|cause| format!("ended, but nobody knows how: {cause}"))?;
        match words_for(status) {
            None => Ok(()),
            Some(words) => Err(self.output.after(&words)),
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("the kernel counts processes to 2²² at most"))
}

/// `None`: it says that all is well.
fn words_for(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        // What the shell says of a program that it does not find.
        (Some(127), _) => Some("exit status 127 (no such program)".to_owned()),
        (Some(code), _) => Some(format!("exit status {code}")),
        (None, Some(signal)) => Some(format!("killed by signal {signal}")),
        (None, None) => Some("ended in an unknown way".to_owned()),
    }
}

/// Starts the program in a process group of its own, with an environment of its own. All that it says comes out of the descriptor.
fn spawn(job: &Job) -> io::Result<(Child, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut words = match &job.line {
        CommandLine::Argv(words) => words.iter().map(|word| filled(word, job)).collect(),
        CommandLine::Shell(line) => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), filled(line, job)]
        }
    }
    .into_iter();
    let program = words
        .next()
        .ok_or_else(|| io::Error::other("it has no name"))?;
    let mut command = Command::new(program);
    command
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env("PORTSENTRY_SOURCE", job.source.to_string())
        .env("PORTSENTRY_PORT", job.port.to_string())
        .env("PORTSENTRY_MODE", mode(job))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write);
    sys::begin_afresh(&mut command);
    Ok((command.spawn()?, read))
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Characters of a command that are shown.
const COMMAND_SHOWN: usize = 1024;

/// `text` with its placeholders filled in. Addresses, numbers and mode names have no character that a shell would take amiss.
fn filled(text: &str, job: &Job) -> String {
    text.replace("{source}", &job.source.to_string())
        .replace("{port}", &job.port.to_string())
        .replace("{mode}", mode(job))
}

fn mode(job: &Job) -> &'static str {
    job.mode.map_or("", WatchMode::name)
}

/// The program as people would type it.
fn shown(job: &Job) -> String {
    match &job.line {
        CommandLine::Argv(words) => {
            let words: Vec<String> = words.iter().map(|word| filled(word, job)).collect();
            words.join(" ")
        }
        CommandLine::Shell(line) => filled(line, job),
    }
}

#[cfg(test)]
mod tests;
