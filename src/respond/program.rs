//! Programs under way: started with nothing of ours, listened to, and ended with all of their group when time is up. Which ones,
//! and what follows from how they end, is for others.
//!
//! What a program leaves in the background runs on, unless its time is over; the pipe that it inherited has no reader any more.

mod output;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};

use self::output::Output;
pub(super) use self::output::printable;
use crate::sys;

/// Where programs are looked for, by us and by themselves.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program under way.
pub(super) struct Running {
    child: Child,
    /// Readable when it has ended.
    ends: OwnedFd,
    /// What it says to people.
    words: Output,
    /// Its standard output, where that is for us.
    answer: Option<Output>,
}

/// How often it is looked whether time is up.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program may take to end when it is told to, and to be gone when it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Bytes of what a program says to people that are kept.
const WORDS: usize = 4096;

/// A program with an environment of its own, to be [started](Running::start).
pub(super) fn command(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .current_dir("/");
    command
}

/// Why a program is not under way.
pub(super) fn cannot_run(cause: &io::Error) -> String {
    format!("cannot be run: {cause}")
}

impl Running {
    /// Starts the program in a process group of its own. With `answer`, as many bytes of its standard output are kept apart
    /// from what it says to people.
    pub(super) fn start(
        command: Command,
        stdin: Stdio,
        answer: Option<usize>,
    ) -> Result<Self, String> {
        let spawned = spawn(command, stdin, answer).map_err(|cause| cannot_run(&cause))?;
        let (mut child, words, answer) = spawned;
        match sys::pidfd_open(pid(&child)) {
            Ok(ends) => Ok(Self {
                child,
                ends,
                words,
                answer,
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
    pub(super) fn watch(&mut self, is_time_up: &dyn Fn() -> bool) -> bool {
        loop {
            let outputs = [Some(&self.words), self.answer.as_ref()];
            let pipes = outputs.into_iter().flatten();
            let pipes = pipes.filter_map(|output| output.pipe.as_ref());
            let mut fds = vec![PollFd::new(self.ends.as_fd(), PollFlags::POLLIN)];
            fds.extend(pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
            let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
            // A failure is a look too early.
            let _ = poll(&mut fds, timeout);
            let is_over = fds[0].any() == Some(true);
            self.words.take();
            self.answer.as_mut().map(Output::take);
            if is_over {
                return true;
            }
            if is_time_up() {
                return false;
            }
        }
    }

    /// Ends the program and all of its group: first by asking. Says so, after `why`, and gives it back where it is not gone:
    /// the kernel keeps it while a disk does not answer.
    pub(super) fn kill(mut self, why: &str) -> (String, Option<Child>) {
        // Until it is waited for, its number is no other group's. Whoever is gone already needs no signal.
        let _ = killpg(pid(&self.child), Signal::SIGTERM);
        let asked = Instant::now();
        self.watch(&|| asked.elapsed() >= GRACE);
        let _ = killpg(pid(&self.child), Signal::SIGKILL);
        let killed = Instant::now();
        if self.watch(&|| killed.elapsed() >= GRACE) && self.child.wait().is_ok() {
            (self.words.after(&format!("{why}, and was killed")), None)
        } else {
            let words = self.words.after(&format!("{why}, and cannot be killed"));
            (words, Some(self.child))
        }
    }

    /// What came of a program that has ended: its answer, if it was to give one.
    pub(super) fn outcome(mut self) -> Result<Vec<u8>, String> {
        let status = self.child.wait();
        let status = status.map_err(|cause| format!("ended, but nobody knows how: {cause}"))?;
        if let Some(words) = words_for(status) {
            return Err(self.words.after(&words));
        }
        match self.answer.map(Output::whole) {
            Some(None) => Err("says more than can be listened to".to_owned()),
            answer => Ok(answer.flatten().unwrap_or_default()),
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

fn spawn(
    mut command: Command,
    stdin: Stdio,
    answer: Option<usize>,
) -> io::Result<(Child, Output, Option<Output>)> {
    let (words, write) = pipe()?;
    let words = Output::of(words, WORDS);
    let (answer, stdout) = match answer {
        None => (None, write.try_clone()?),
        Some(most) => {
            let (answer, stdout) = pipe()?;
            (Some(Output::of(answer, most)), stdout)
        }
    };
    command
        .process_group(0)
        .stdin(stdin)
        .stdout(stdout)
        .stderr(write);
    sys::begin_afresh(&mut command);
    Ok((command.spawn()?, words, answer))
}

/// Both ends of a pipe, of which ours never keeps us waiting.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}
