//! Nothing stays: hosts of the laboratory with all that runs on them, and files, go also when the run is interrupted or takes too
//! long. Those of an earlier run that was killed go at the start.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::machine;

/// Where all files of this run are. Gone on drop.
pub(crate) struct Traces {
    _files: TempDir,
}

impl Drop for Traces {
    fn drop(&mut self) {
        machine::step_back();
    }
}

/// Called before any other thread is there: programs that are started take signals as they always do, our threads leave them to
/// one of their own.
pub(crate) fn leave_no_trace(at_most: Duration) -> Traces {
    sweep(false);
    machine::come_first_ourselves();
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().expect("a thread's own signals");
    let files = TempDir::with_prefix("portsentry-bench-").expect("there is room");
    tempfile::env::override_temp_dir(files.path()).expect("nobody has made a file before");
    let place = files.path().to_owned();
    thread::spawn(move || {
        let came = SignalFd::new(&signals).expect("a descriptor can be had");
        let patience = PollTimeout::try_from(at_most).expect("it is less than weeks");
        let mut waiting = [PollFd::new(came.as_fd(), PollFlags::POLLIN)];
        let is_signal = poll(&mut waiting, patience).is_ok_and(|ready| ready > 0);
        end(is_signal, at_most, &place);
    });
    Traces { _files: files }
}

#[expect(clippy::print_stderr, reason = "the last word of a run")]
fn end(is_signal: bool, at_most: Duration, files: &Path) -> ! {
    if is_signal {
        eprintln!("interrupted: taking down what was put up");
    } else {
        eprintln!("this takes more than {} s: given up", at_most.as_secs());
    }
    // Twice: whoever measures goes on until the process ends.
    sweep(true);
    sweep(true);
    let _ = fs::remove_dir_all(files);
    machine::step_back();
    std::process::exit(1);
}

/// Takes down hosts that nobody needs any more, and ends what runs on them; `ours`: those of this process, too.
fn sweep(ours: bool) {
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
        let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok()) else {
            continue;
        };
        let is_ours = owner == std::process::id();
        if (is_ours && !ours) || (!is_ours && Path::new("/proc").join(owner.to_string()).exists()) {
            continue;
        }
        let output = Command::new("ip").args(["netns", "pids", name]).output();
        let pids = output.map_or(String::new(), |output| {
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            // Threads of this process are on hosts too.
            if u32::try_from(pid) != Ok(std::process::id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip").args(["netns", "del", name]).status();
    }
}
