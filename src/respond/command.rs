//! Running the admin's own programs: one at a time, with a time limit, on a thread of their own. What for, and what follows
//! from how they end, is the engine's business.
//!
//! What a program leaves in the background runs on, unless its time is over; the pipe that it inherited has no reader any more.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::config::{CommandLine, WatchMode};
use crate::log::span;
use crate::sys;

pub use self::ipv4::knows_only_ipv4;
use super::program::{self, GRACE, Running, printable};

mod ipv4;

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
        let command = command(job).map_err(|cause| program::cannot_run(&cause))?;
        let mut running = Running::start(command, Stdio::null(), None)?;
        let is_late = || begun.elapsed() >= limit;
        if running.watch(&|| is_late() || self.lock().is_to_stop()) {
            return running.outcome().map(drop);
        }
        let why = if is_late() {
            format!("did not end within {}", span(limit))
        } else {
            "had not ended when portsentry stopped".to_owned()
        };
        let (words, left) = running.kill(&why);
        undead.extend(left);
        Err(words)
    }
}

/// The job's program, with an environment of its own.
fn command(job: &Job) -> io::Result<Command> {
    let mut words = match &job.line {
        CommandLine::Argv(words) => words.iter().map(|word| filled(word, job)).collect(),
        CommandLine::Shell(line) => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), filled(line, job)]
        }
    }
    .into_iter();
    let name = words
        .next()
        .ok_or_else(|| io::Error::other("it has no name"))?;
    let mut command = program::command(name);
    command
        .args(words)
        .env("PORTSENTRY_SOURCE", job.source.to_string())
        .env("PORTSENTRY_PORT", job.port.to_string())
        .env("PORTSENTRY_MODE", mode(job));
    Ok(command)
}

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
