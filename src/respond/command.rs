//! Running the admin's own programs: one at a time, with a time limit, on a thread of their own. What for, and what follows
//! from how they end, is the engine's business.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
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

/// The thread that runs programs, and the queue before it. It keeps the rights of the thread that started it: start it before
/// they are given up, since the programs of an admin expect root's.
pub struct Runner {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
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
}

impl Runner {
    /// Programs that may wait for their turn.
    pub const QUEUE: usize = 1024;

    /// Starts the thread. A program that runs longer than `limit` is killed with all that it started.
    ///
    /// # Errors
    /// When the system has no thread or no eventfd left.
    pub fn start(limit: Duration) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            rings: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let worker = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("command".to_owned())
            .spawn(move || worker.work(limit))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
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
        self.shared.wake.notify_one();
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

    /// Runs what is queued for as long as `patience`, then kills what still runs. Those that have ended meanwhile.
    pub fn stop(mut self, patience: Duration) -> Vec<Ended> {
        self.shared.lock().stop_by = Some(Instant::now() + patience);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in there leaves nothing to be told.
            let _ = thread.join();
        }
        self.ended()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.shared.lock().stop_by = Some(Instant::now());
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, limit: Duration) {
        while let Some(job) = self.next() {
            let command = printable(&shown(&job), COMMAND_SHOWN);
            let trouble = self.carry_out(&job, limit).err();
            self.lock().ended.push(Ended {
                id: job.id,
                command,
                trouble,
            });
            // It can only fail when the counter is at its end, and then the descriptor is readable anyway.
            let _ = self.rings.write(1);
        }
    }

    /// Waits for a job; `None` when it is time to end.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| state.queue.is_empty() && state.stop_by.is_none();
        let mut state = self
            .wake
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stop_by.is_some_and(|by| by <= Instant::now()) {
            return None;
        }
        state.queue.pop_front()
    }

    /// Runs one program to its end; what went wrong.
    fn carry_out(&self, job: &Job, limit: Duration) -> Result<(), String> {
        let begun = Instant::now();
        let (mut child, output) = spawn(job).map_err(|cause| format!("cannot be run: {cause}"))?;
        let mut output = Output::of(output);
        let out_of_time = || {
            let stop_by = self.lock().stop_by;
            begun.elapsed() >= limit || stop_by.is_some_and(|by| by <= Instant::now())
        };
        let in_time = watch(&child, &mut output, &out_of_time);
        if !in_time {
            kill(&child, &mut output);
        }
        let status = child.wait().map_err(|cause| format!("is lost: {cause}"))?;
        output.take();
        let words = if in_time {
            match ended(status) {
                None => return Ok(()),
                Some(words) => words,
            }
        } else {
            format!("did not end within {}, and was killed", span(limit))
        };
        Err(match output.last_words() {
            None => words,
            Some(said) => format!("{words}: {said}"),
        })
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
    let child = Command::new(program)
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
        .stderr(write)
        .spawn()?;
    Ok((child, read))
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often it is looked whether time is up.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(1);

/// Waits until the program ends, and takes what it says meanwhile; false: time was up before. What it leaves behind in the
/// background, with the pipe open, is not waited for.
fn watch(child: &Child, output: &mut Output, out_of_time: &dyn Fn() -> bool) -> bool {
    let Ok(ends) = sys::pidfd_open(pid(child)) else {
        return false;
    };
    loop {
        let mut fds = vec![PollFd::new(ends.as_fd(), PollFlags::POLLIN)];
        if let Some(pipe) = &output.pipe {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
        // A failure is a look too early.
        let _ = poll(&mut fds, timeout);
        let is_over = fds[0].any() == Some(true);
        output.take();
        if is_over {
            return true;
        }
        if out_of_time() {
            return false;
        }
    }
}

/// Ends the program and all of its group: first by asking.
fn kill(child: &Child, output: &mut Output) {
    let asked = Instant::now();
    // Whoever is gone already needs no signal.
    let _ = killpg(pid(child), Signal::SIGTERM);
    watch(child, output, &|| asked.elapsed() >= GRACE);
    let _ = killpg(pid(child), Signal::SIGKILL);
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or_default())
}

fn ended(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        // What the shell says of a program that it does not find.
        (Some(127), _) => Some("exit status 127 (no such program)".to_owned()),
        (Some(code), _) => Some(format!("exit status {code}")),
        (None, Some(signal)) => Some(format!("killed by signal {signal}")),
        (None, None) => Some("ended in an unknown way".to_owned()),
    }
}

/// The last of what a program says.
struct Output {
    /// `None`: nobody has the other end any more.
    pipe: Option<std::fs::File>,
    tail: VecDeque<u8>,
}

/// Bytes of output that are kept.
const KEPT: usize = 4096;

/// Characters of a command and of its output that are shown.
const COMMAND_SHOWN: usize = 1024;
const OUTPUT_SHOWN: usize = 512;

impl Output {
    fn of(pipe: OwnedFd) -> Self {
        Self {
            pipe: Some(pipe.into()),
            tail: VecDeque::new(),
        }
    }

    /// Takes what is there, up to a bound: whoever talks without end is not listened to without end.
    fn take(&mut self) {
        let mut bytes = [0; KEPT];
        for _ in 0..16 {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    self.tail.extend(&bytes[..length]);
                    let excess = self.tail.len().saturating_sub(KEPT);
                    self.tail.drain(..excess);
                }
                Err(_) => return,
            }
        }
    }

    fn last_words(&mut self) -> Option<String> {
        let text = String::from_utf8_lossy(self.tail.make_contiguous()).into_owned();
        let text = text.trim();
        let skipped = text.chars().count().saturating_sub(OUTPUT_SHOWN);
        let last: String = text.chars().skip(skipped).collect();
        (!last.is_empty()).then(|| printable(&last, OUTPUT_SHOWN))
    }
}

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

/// Fit for a log: control characters escaped, and not too long.
fn printable(text: &str, most: usize) -> String {
    let mut printable = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == most {
            printable.push('…');
            break;
        }
        if c.is_control() {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

#[cfg(test)]
mod tests;
