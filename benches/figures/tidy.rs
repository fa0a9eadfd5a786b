//! Nothing stays: who measures is a process of its own, and when it has ended, however it did, the hosts of the laboratory go with
//! all that runs on them, and the files. One that takes too long is ended.

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::machine;

/// Tells the process that measures where its files go.
const FILES: &str = "PORTSENTRY_BENCH_FILES";

/// Whether this process is to measure; else it is the one to call [`supervise`].
pub(crate) fn is_to_measure() -> bool {
    let Some(files) = env::var_os(FILES) else {
        return false;
    };
    tempfile::env::override_temp_dir(Path::new(&files)).expect("nobody has made a file before");
    // What the supervisor waits for would be kept from all programs that are started here.
    signals().thread_unblock().expect("a thread's own signals");
    true
}

/// Has another process measure, with the same arguments, and takes down what it leaves.
pub(crate) fn supervise(at_most: Duration) -> ExitCode {
    sweep();
    signals().thread_block().expect("a thread's own signals");
    let came = SignalFd::new(&signals()).expect("a descriptor can be had");
    let files = TempDir::with_prefix("portsentry-bench-").expect("there is room");
    machine::come_first_ourselves();
    let program = env::current_exe().expect("the kernel knows it");
    let mut child = Command::new(program)
        .args(env::args_os().skip(1))
        .env(FILES, files.path())
        .spawn()
        .expect("it is this program");
    let is_done = wait(&mut child, &came, at_most);
    sweep();
    machine::step_back();
    if is_done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether it has ended by itself, and well.
#[expect(clippy::print_stderr, reason = "the last word of a run")]
fn wait(child: &mut Child, came: &SignalFd, at_most: Duration) -> bool {
    let begun = Instant::now();
    loop {
        let left = at_most.saturating_sub(begun.elapsed());
        let left = PollTimeout::try_from(left).expect("it is less than weeks");
        let mut waiting = [PollFd::new(came.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut waiting, left).unwrap_or(0);
        // To read would wait where nothing came.
        let signal = (ready > 0).then(|| came.read_signal().ok().flatten());
        let signal = signal.flatten();
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status.success();
        }
        let signal = signal.map(|signal| i32::try_from(signal.ssi_signo));
        let signal = signal
            .and_then(Result::ok)
            .and_then(|number| Signal::try_from(number).ok());
        if signal == Some(Signal::SIGCHLD) {
            continue;
        }
        match signal {
            Some(_) => eprintln!("interrupted: taking down what was put up"),
            None => eprintln!("this takes more than {} s: given up", at_most.as_secs()),
        }
        let _ = child.kill();
        let _ = child.wait();
        return false;
    }
}

fn signals() -> SigSet {
    [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ]
    .into_iter()
    .collect()
}

/// Takes down hosts of processes that are gone, and ends what runs on them.
fn sweep() {
    let Ok(hosts) = fs::read_dir("/run/netns") else {
        return;
    };
    for host in hosts.filter_map(Result::ok) {
        let name = host.file_name();
        let Some(name) = name.to_str() else { continue };
        // As the laboratory names them.
        let owner = name
            .strip_prefix("pst-")
            .and_then(|rest| rest.split('-').next());
        let owner = owner.and_then(|owner| owner.parse::<u32>().ok());
        let is_orphan =
            owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists());
        if !is_orphan {
            continue;
        }
        let output = Command::new("ip").args(["netns", "pids", name]).output();
        let pids = output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "del", name]).status();
    }
}
