//! A name server for a host of the laboratory, which says what a test wants it to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Host;

/// Answers on port 53 of its host's loopback, until it is dropped.
pub(crate) struct NameServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// By name; who is not here does not exist.
    answers: Mutex<HashMap<String, Vec<IpAddr>>>,
    mood: Mutex<Mood>,
    is_over: AtomicBool,
}

/// How it answers.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should.
    #[default]
    Well,
    /// That it failed.
    Failing,
    /// Not at all.
    Silent,
}

impl NameServer {
    pub(crate) fn new(host: &Host) -> Self {
        let socket = host
            .inside(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)))
            .expect("a fresh host's ports are free");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("it is a time");
        let shared = Arc::<Shared>::default();
        let its = Arc::clone(&shared);
        let thread = thread::spawn(move || its.serve(&socket));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// From now on this name has these addresses; none: it does not exist.
    pub(crate) fn say(&self, name: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| super::at(it)).collect();
        let mut answers = lock(&self.shared.answers);
        answers.insert(name.to_owned(), addresses);
    }

    pub(crate) fn be(&self, mood: Mood) {
        *lock(&self.shared.mood) = mood;
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, socket: &UdpSocket) {
        let mut question = [0; 512];
        while !self.is_over.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut question) else {
                continue;
            };
            if let Some(answer) = self.answer(&question[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    /// RFC 1035, 4.1: the header, the one question, and what answers it.
    fn answer(&self, asked: &[u8]) -> Option<Vec<u8>> {
        let (name, end) = name(asked)?;
        let question = asked.get(12..end + 4)?;
        let kind = u16::from_be_bytes([asked[end], asked[end + 1]]);
        let mood = *lock(&self.mood);
        let answers = lock(&self.answers);
        let known = answers.get(&name).map_or(&[][..], Vec::as_slice);
        let fits = |address: &&IpAddr| {
            (kind == 1 && address.is_ipv4()) || (kind == 28 && address.is_ipv6())
        };
        let found: Vec<&IpAddr> = known.iter().filter(fits).collect();
        let code = match mood {
            Mood::Silent => return None,
            Mood::Failing => 2,
            Mood::Well if known.is_empty() => 3,
            Mood::Well => 0,
        };
        let count = if code == 0 { found.len() } else { 0 };
        let mut answer = asked[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0]);
        answer.push(u8::try_from(count).expect("a test gives few"));
        answer.extend([0; 4]);
        answer.extend(question);
        for address in found.into_iter().take(count) {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            // The name as in the question; its kind; of the Internet; for no time.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 0, 0]);
            answer.push(u8::try_from(octets.len()).expect("4 or 16"));
            answer.extend(octets);
        }
        Some(answer)
    }
}

/// The name that is asked for, and where what is behind it begins.
fn name(asked: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*asked.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        let label = asked.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += length;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
