//! portsentry in a booted Debian: a real systemd starts it, a real journal hears it, a real nmap scans it from outside.
//!
//!     make distro                                    all of it, on Debian 12 and 13 (as root)
//!     cargo test --test distro -- debian13           one of them, or by the words of a test's name
//!
//! `tests/distro/roots` makes the roots under target/distro. The program is the one that was built here: it runs on a Debian that is no
//! older than this host. Each test boots its own copy by systemd-nspawn, in namespaces of
//! its own; of this host nothing is touched but a cgroup that is gone with the test. Tests that need no Debian are in tests/net.

/// A Debian that is booted, and a stranger on the other end of its cable.
mod machine;

/// Hosts as network namespaces.
#[path = "../net/lab/host.rs"]
#[expect(dead_code, reason = "the tests in tests/net use the rest of it")]
mod host;

/// Hosts on a cable.
#[path = "../net/lab/worlds.rs"]
#[expect(dead_code, reason = "the tests in tests/net use the rest of it")]
mod worlds;

/// Started by 1.2's own units, with 1.2's own configuration.
mod original;

/// Started by our unit, in its sandbox.
mod unit;

/// What reloads, reboots and commands do to bans.
mod bans;

/// firewalld and ufw beside it.
mod firewalls;

/// Logged in through sshd.
mod logins;

/// Installed from our package, and removed again.
mod package;

/// Our RPM, by itself and in place of an old one.
mod rpm;

/// Installed by `make install`.
mod tarball;

/// With what a container may do.
mod container;

/// What memory a process takes.
mod memory;

/// What it takes, and how long.
mod figures;

/// Installed from our package where sysvinit starts it.
mod sysvinit;

/// Our package in place of Debian's own portsentry 1.2.
mod upgrade;

/// What responders need beyond what our unit gives.
mod rights;

/// What scripts of admins' call.
mod helpers;

/// Our package in place of portsentry 2.0.7.
mod upgrade_2;

use std::thread;
use std::time::{Duration, Instant};

use host::Host;

/// How long anything may take before a test gives up. Far more than it takes: a boot is done in a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes each of these functions, which take a [`Release`](machine::Release), a test on every Debian.
macro_rules! on_each_debian {
    ($($test:ident),+ $(,)?) => {
        mod debian12 {
            $(#[test] fn $test() { super::$test(crate::machine::Release::Debian12); })+
        }
        mod debian13 {
            $(#[test] fn $test() { super::$test(crate::machine::Release::Debian13); })+
        }
    };
}
pub(crate) use on_each_debian;

/// Waits until `condition` gives something.
///
/// # Panics
/// When it does not in time; then `what` says what was waited for.
pub(crate) fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition)
        .unwrap_or_else(|| panic!("waited {} s in vain: {what}", PATIENCE.as_secs()))
}

/// Waits until `condition` gives something, or until the time is up.
pub(crate) fn within<T>(time: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if begin.elapsed() >= time {
            return None;
        }
        thread::sleep(Duration::from_millis(50));
    }
}
