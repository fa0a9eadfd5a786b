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
            let name = look_up(address).and_then(|name| clean(&name, address));
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
/// One that is an address, or spells another than its own, is none: whoever looks for an address in a log would find it there.
fn clean(name: &str, address: IpAddr) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let clean: String = name
        .chars()
        .take(MAX_NAME)
        .map(|c| if plain(c) { c } else { '?' })
        .collect();
    let is_address = name.parse::<IpAddr>().is_ok() || ends_in_a_number(&clean);
    let is_name = clean.contains(|c: char| c.is_ascii_alphanumeric());
    (is_name && !is_address && !spells_another(&clean, address)).then_some(clean)
}

/// As no name in the DNS does, but every IPv4 address, also in the old spellings that inet_aton(3) takes: `10.1`, `0x7f000001`.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => last.chars().all(|c| c.is_ascii_digit()),
    }
}

/// Whether four numbers with dots between them stand anywhere in the name, and are not `own`. Where other letters stand around
/// them does not help: those who search logs do not always look at word ends.
fn spells_another(name: &str, own: IpAddr) -> bool {
    let own = own.to_string();
    let no_digit = |c: char| !c.is_ascii_digit();
    let is_number = |label: &str| !label.is_empty() && !label.contains(no_digit);
    let labels: Vec<&str> = name.split('.').collect();
    labels.windows(4).any(|four| {
        let first = four[0].rsplit(no_digit).next().unwrap_or_default();
        let last = four[3].split(no_digit).next().unwrap_or_default();
        let spelt = [first, four[1], four[2], last];
        spelt.into_iter().all(is_number) && spelt.join(".") != own
    })
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
            ("localhost", Some("localhost")),
            ("", None),
            (".", None),
            ("-._", None),
            (
                "x/10.0.0 to TCP port: 1\n",
                Some("x?10.0.0?to?TCP?port??1?"),
            ),
            ("\u{1b}[31m\u{202e}", Some("??31m?")),
        ] {
            assert_eq!(clean(name, address(7)).as_deref(), cleaned, "{name}");
        }
        let long = clean(&"x".repeat(9000), address(7)).unwrap();
        assert_eq!(long.len(), MAX_NAME);
    }

    #[test]
    fn a_name_that_spells_another_address_is_none() {
        for name in [
            "192.0.2.7",
            "127.0.0.1",
            "127.0.0.1.",
            "10.1",
            "0x7f000001",
            "0x7f.1",
            "1234567",
            "evil.198.51.100.1",
            "198.51.100.1.evil.example",
            "x198.51.100.1x.evil.example",
            "1192.0.2.7.evil.example",
            "192.0.2.71.evil.example",
            "192.0.2.7.198.51.100.1.evil.example",
            "7.2.0.192.in-addr.example",
            "x/198.51.100.1 to TCP port: 1",
            "::1",
            "2001:db8::1",
            "::ffff:198.51.100.1",
        ] {
            assert_eq!(clean(name, address(7)), None, "{name}");
        }
        for name in [
            "192.0.2.7.dynamic.example",
            "host-192.0.2.7.example",
            "192-0-2-7.example",
            "1.2.3.example",
        ] {
            assert_eq!(clean(name, address(7)).as_deref(), Some(name));
        }
    }

    #[test]
    fn one_address_asked_for_twice_is_looked_up_once_and_who_asks_never_waits() {
        let (send, gate) = mpsc::channel::<()>();
        let names = Names::with(move |address| {
            gate.recv().ok()?;
            Some(format!("{address}.example"))
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
        assert_eq!(
            answers[7],
            (address(7), Some("192.0.2.7.example".to_owned()))
        );
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
            if let Some(clean) = clean(&name, address(7)) {
                prop_assert!(clean.len() <= MAX_NAME);
                prop_assert!(clean.chars().all(|c| c.is_ascii_graphic() && c != '/'));
                prop_assert!(clean.parse::<IpAddr>().is_err());
            }
        }

        #[test]
        fn no_name_has_the_address_of_another(
            before in "[a-z0-9.-]{0,4}",
            other in any::<[u8; 4]>(),
            behind in "[a-z0-9.-]{0,4}",
        ) {
            let name = format!("{before}{}{behind}.example", IpAddr::from(other));
            prop_assume!(other != [192, 0, 2, 7]);
            prop_assert_eq!(clean(&name, address(7)), None);
        }
    }
}
