//! [`Names`]: what an address is called, looked up on a thread of its own, for logs.
//!
//! Whoever scans us may own the answer: it is cleaned, and its look-up may take as long as the system's resolver lets it
//! (ten seconds and more). Meanwhile other look-ups wait, so whoever asks goes on without a name when his patience ends.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// The thread that looks names up. It does not keep the process from ending.
pub struct Names {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    rings: EventFd,
}

#[derive(Default)]
struct State {
    /// Those still to be looked up, and the one that is just being.
    asked: VecDeque<IpAddr>,
    answers: Vec<(IpAddr, Option<String>)>,
    is_over: bool,
}

impl Names {
    /// Addresses that may wait.
    pub const QUEUE: usize = 256;

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or no eventfd left.
    pub fn start() -> io::Result<Self> {
        Self::with(|address| dns_lookup::lookup_addr(&address).ok())
    }

    fn with(look_up: impl Fn(IpAddr) -> Option<String> + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            rings: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let worker = Arc::clone(&shared);
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || worker.work(look_up))?;
        Ok(Self { shared })
    }

    /// Asks for a name; one that is being looked up already is looked up once. False: too many wait. Never waits itself.
    pub fn ask(&self, address: IpAddr) -> bool {
        let mut state = self.shared.lock();
        if state.asked.contains(&address) {
            return true;
        }
        if state.asked.len() >= Self::QUEUE {
            return false;
        }
        state.asked.push_back(address);
        drop(state);
        self.shared.wake.notify_one();
        true
    }

    /// Becomes readable when there are answers; [`answers`](Self::answers) makes it unreadable again.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.shared.rings.as_fd()
    }

    /// What has been found out since this was last asked; `None`: it has no name, or none that can be told.
    pub fn answers(&self) -> Vec<(IpAddr, Option<String>)> {
        // Nothing to read is fine; in this order, none is overlooked.
        let _ = self.shared.rings.read();
        std::mem::take(&mut self.shared.lock().answers)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, look_up: impl Fn(IpAddr) -> Option<String>) {
        loop {
            let idle = |state: &mut State| state.asked.is_empty() && !state.is_over;
            let state = self
                .wake
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
            let Some(address) = state.asked.front().copied().filter(|_| !state.is_over) else {
                return;
            };
            drop(state);
            let name = look_up(address).and_then(|name| clean(&name));
            let mut state = self.lock();
            state.asked.pop_front();
            state.answers.push((address, name));
            drop(state);
            // It can only fail when the counter is at its end, and then the descriptor is readable anyway.
            let _ = self.rings.write(1);
        }
    }
}

/// The longest name of the DNS.
const MAX_NAME: usize = 253;

/// A name that harms neither a log, nor a terminal, nor who reads `NAME/ADDRESS` out of one: what no host name has becomes `?`.
/// One that reads as an address would be taken for one, and is none.
fn clean(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let clean: String = name
        .chars()
        .take(MAX_NAME)
        .map(|c| if plain(c) { c } else { '?' })
        .collect();
    // Old programs read an address of fewer than four numbers too.
    let is_address = clean.chars().all(|c| c.is_ascii_digit() || c == '.');
    (!is_address).then_some(clean)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// Waits for `count` answers.
    fn answers(names: &Names, count: usize) -> Vec<(IpAddr, Option<String>)> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut answers = Vec::new();
        while answers.len() < count {
            assert!(Instant::now() < deadline, "{answers:?}");
            answers.extend(names.answers());
            thread::sleep(Duration::from_millis(1));
        }
        answers
    }

    #[test]
    fn names_are_cleaned() {
        for (name, cleaned) in [
            ("scan.example.org", Some("scan.example.org")),
            ("scan.example.org.", Some("scan.example.org")),
            ("a_b-1.example", Some("a_b-1.example")),
            ("203.0.113.7.evil.example", Some("203.0.113.7.evil.example")),
            ("127.0.0.1", None),
            ("10.1", None),
            ("", None),
            ("::1", Some("??1")),
            (
                "x/10.0.0.1 to TCP port: 1\n",
                Some("x?10.0.0.1?to?TCP?port??1?"),
            ),
            ("\u{1b}[31m\u{202e}", Some("??31m?")),
        ] {
            assert_eq!(clean(name).as_deref(), cleaned, "{name}");
        }
        assert_eq!(clean(&"x".repeat(9000)).unwrap().len(), MAX_NAME);
    }

    #[test]
    fn one_address_asked_for_twice_is_looked_up_once_and_who_asks_never_waits() {
        let (send, gate) = mpsc::channel::<()>();
        let names = Names::with(move |address| {
            gate.recv().ok()?;
            Some(format!("host-{address}"))
        })
        .unwrap();
        let taken = (0..=255)
            .chain(0..=255)
            .filter(|n| names.ask(address(*n)))
            .count();
        assert_eq!(taken, 2 * Names::QUEUE);
        assert!(!names.ask(IpAddr::from([198, 51, 100, 1])));
        for _ in 0..Names::QUEUE {
            send.send(()).unwrap();
        }
        let answers = answers(&names, Names::QUEUE);
        assert_eq!(answers[7], (address(7), Some("host-192.0.2.7".to_owned())));
        assert_eq!(answers.len(), Names::QUEUE);
        assert!(names.ask(address(7)), "there is room again");
    }

    #[test]
    fn the_system_is_asked_for_the_name_of_this_host() {
        let names = Names::start().unwrap();
        names.ask(IpAddr::from([127, 0, 0, 1]));
        let (asked, name) = answers(&names, 1).remove(0);
        assert!(asked.is_loopback());
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let entry = hosts.lines().find(|line| line.starts_with("127.0.0.1"));
        let expected = entry.and_then(|line| line.split_whitespace().nth(1));
        if expected.is_some() {
            assert_eq!(name.as_deref(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_name_harms_a_log(name in any::<String>()) {
            if let Some(clean) = clean(&name) {
                prop_assert!(clean.len() <= MAX_NAME);
                prop_assert!(clean.chars().all(|c| c.is_ascii_graphic() && c != '/'));
                prop_assert!(clean.parse::<IpAddr>().is_err());
            }
        }
    }
}
