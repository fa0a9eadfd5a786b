//! A tiny name server for reverse look-ups, whose owner is the scanner: it answers every question for a PTR record with the name
//! it is told, byte by byte, or holds the answer back.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::host::Host;

/// Answers until it is dropped.
pub(crate) struct NameServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    answers: AtomicBool,
    asked: AtomicU32,
}

/// Bytes in a message before its question.
const HEADER: usize = 12;
const PTR: u16 = 12;
const INTERNET: u16 = 1;

impl NameServer {
    /// Listens on the host's port 53 of 127.0.0.1. `labels` are the name's parts, which may hold any bytes.
    pub(crate) fn start(host: &Host, labels: &[&[u8]]) -> Self {
        let socket = host
            .inside(|| UdpSocket::bind("127.0.0.1:53"))
            .expect("a fresh host's ports are free");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("the time is not zero");
        let mut name = Vec::new();
        for label in labels {
            name.push(u8::try_from(label.len()).expect("a label has 63 bytes at most"));
            name.extend(*label);
        }
        name.push(0);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            answers: AtomicBool::new(true),
            asked: AtomicU32::new(0),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::spawn(move || serve(&socket, &name, &theirs));
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// From now on, no question is answered.
    pub(crate) fn hold_answers(&self) {
        self.shared.answers.store(false, Ordering::SeqCst);
    }

    /// How many questions have come.
    pub(crate) fn asked(&self) -> u32 {
        self.shared.asked.load(Ordering::SeqCst)
    }
}

fn serve(socket: &UdpSocket, name: &[u8], shared: &Shared) {
    let mut buffer = [0; 1500];
    while !shared.stop.load(Ordering::SeqCst) {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(question) => question,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => continue,
        };
        shared.asked.fetch_add(1, Ordering::SeqCst);
        if shared.answers.load(Ordering::SeqCst) {
            if let Some(answer) = answer(&buffer[..length], name) {
                let _ = socket.send_to(&answer, from);
            }
        }
    }
}

/// The answer to a question, which is repeated in it: a PTR record, or for other kinds of questions nothing.
fn answer(message: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let question = message.get(HEADER..)?;
    let end = question.iter().position(|byte| *byte == 0)? + 1;
    let asked = question.get(end..end + 4)?;
    let is_ptr = asked[..2] == PTR.to_be_bytes();
    let mut answer = message[..2].to_vec();
    // A response, authoritative, recursion desired and available; one question, its answers.
    for word in [0x8580, 1, u16::from(is_ptr), 0, 0] {
        answer.extend(word.to_be_bytes());
    }
    answer.extend(&question[..end + 4]);
    if is_ptr {
        // The name asked for, by a pointer to the question; a minute to live.
        answer.extend(0xc00c_u16.to_be_bytes());
        answer.extend(PTR.to_be_bytes());
        answer.extend(INTERNET.to_be_bytes());
        answer.extend(60_u32.to_be_bytes());
        answer.extend(u16::try_from(name.len()).ok()?.to_be_bytes());
        answer.extend(name);
    }
    Some(answer)
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
