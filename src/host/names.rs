//! [`Names`]: what an address is called, for logs, and where a name leads to, both looked up on a thread of its own.
//!
//! Whoever scans us may own the answer to the first: it is cleaned, and its look-up may take as long as the system's resolver lets it
//! (ten seconds and more). Meanwhile other look-ups wait, so whoever asks goes on without a name when his patience ends. The
//! names that an admin wrote down come first.

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
    /// Names, likewise.
    sought: VecDeque<String>,
    found: Vec<(String, Whereabouts)>,
    is_over: bool,
}

/// Where a name leads to: its addresses of each family, as far as that could be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// IPv4; an empty list: it has none.
    pub v4: Result<Vec<IpAddr>, String>,
    /// IPv6; an empty list: it has none.
    pub v6: Result<Vec<IpAddr>, String>,
}

impl Names {
    /// Addresses that may wait, and names.
    pub const QUEUE: usize = 256;

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread or no eventfd left.
    pub fn start() -> io::Result<Self> {
        Self::with(
            |address| dns_lookup::lookup_addr(&address).ok(),
            Whereabouts::look_up,
        )
    }

    fn with(
        look_up: impl Fn(IpAddr) -> Option<String> + Send + 'static,
        find: impl Fn(&str) -> Whereabouts + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            rings: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let worker = Arc::clone(&shared);
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || worker.work(look_up, find))?;
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

    /// Asks where a name leads to, as [`ask`](Self::ask).
    pub fn seek(&self, name: &str) -> bool {
        let mut state = self.shared.lock();
        if state.sought.iter().any(|it| it == name) {
            return true;
        }
        if state.sought.len() >= Self::QUEUE {
            return false;
        }
        state.sought.push_back(name.to_owned());
        drop(state);
        self.shared.wake.notify_one();
        true
    }

    /// Becomes readable when there is something in [`answers`](Self::answers) or [`found`](Self::found): ask for both.
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

    /// Where names lead to, found out since this was last asked.
    pub fn found(&self) -> Vec<(String, Whereabouts)> {
        let _ = self.shared.rings.read();
        std::mem::take(&mut self.shared.lock().found)
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

    fn work(&self, look_up: impl Fn(IpAddr) -> Option<String>, find: impl Fn(&str) -> Whereabouts) {
        let idle =
            |state: &mut State| state.asked.is_empty() && state.sought.is_empty() && !state.is_over;
        loop {
            let state = self
                .wake
                .wait_while(self.lock(), idle)
                .unwrap_or_else(PoisonError::into_inner);
            if state.is_over {
                return;
            }
            if let Some(name) = state.sought.front().cloned() {
                drop(state);
                let found = find(&name);
                let mut state = self.lock();
                state.sought.pop_front();
                state.found.push((name, found));
                drop(state);
                let _ = self.rings.write(1);
                continue;
            }
            let Some(address) = state.asked.front().copied() else {
                continue;
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

impl Whereabouts {
    /// Addresses of a family that are taken at most.
    pub const MAX: usize = 32;

    /// Asks the system: /etc/hosts, the DNS, whatever nsswitch.conf(5) has.
    fn look_up(name: &str) -> Self {
        Self {
            v4: addresses(name, libc::AF_INET),
            v6: addresses(name, libc::AF_INET6),
        }
    }
}

/// The addresses of one family: asked for each on its own, so that it is known which of them are not known.
fn addresses(name: &str, family: i32) -> Result<Vec<IpAddr>, String> {
    let hints = dns_lookup::AddrInfoHints {
        address: family,
        socktype: libc::SOCK_STREAM,
        ..Default::default()
    };
    let found = match dns_lookup::getaddrinfo(Some(name), None, Some(hints)) {
        Ok(found) => found,
        Err(error) => {
            use dns_lookup::LookupErrorKind::{NoData, NoName};
            return match error.kind() {
                NoName | NoData => Ok(Vec::new()),
                _ => Err(io::Error::from(error).to_string()),
            };
        }
    };
    let found = found.flatten().map(|it| it.sockaddr.ip().to_canonical());
    let mut found: Vec<IpAddr> = found.take(Whereabouts::MAX).collect();
    // The order in which a name server gives them means nothing.
    found.sort_unstable();
    found.dedup();
    Ok(found)
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
        let nobody = |_: &str| panic!("nobody asks for that");
        let names = Names::with(
            move |address| {
                gate.recv().ok()?;
                Some(format!("{address}.example"))
            },
            nobody,
        )
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
    fn a_name_that_is_sought_comes_before_addresses_that_wait() {
        let (send, gate) = mpsc::channel::<()>();
        let names = Names::with(
            move |address| {
                gate.recv().ok()?;
                Some(format!("{address}.example"))
            },
            |_| Whereabouts {
                v4: Ok(vec![address(9)]),
                v6: Err("no answer".to_owned()),
            },
        )
        .unwrap();
        names.ask(address(1));
        names.ask(address(2));
        assert!(names.seek("office.example") && names.seek("office.example"));
        send.send(()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let found = loop {
            let found = names.found();
            if !found.is_empty() {
                break found;
            }
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1.v4, Ok(vec![address(9)]));
        assert_eq!(names.answers().len(), 1, "the other one is still asked for");
        let many = (0..1000).filter(|n| names.seek(&format!("n{n}"))).count();
        assert!(many <= 2 * Names::QUEUE, "{many}");
        drop(send);
    }

    #[test]
    fn the_system_is_asked_where_a_name_leads_to() {
        let here = Whereabouts::look_up("localhost");
        assert_eq!(here.v4, Ok(vec![IpAddr::from([127, 0, 0, 1])]));
        let nowhere = Whereabouts::look_up("192.0.2.7/x");
        assert!(!nowhere.v4.is_ok_and(|found| !found.is_empty()));
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
