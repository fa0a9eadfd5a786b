//! The other end of `/dev/log`: what has been logged there, to the byte.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tempfile::TempDir;

/// Collects datagrams until it is dropped.
pub(crate) struct Syslog {
    dir: TempDir,
    datagrams: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

/// No message of either implementation is longer.
const LONGEST: usize = 64 * 1024;

impl Syslog {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let socket = UnixDatagram::bind(dir.path().join("log")).expect("the directory is ours");
        let datagrams = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&datagrams);
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; LONGEST];
            loop {
                match socket.recv(&mut buffer) {
                    // An empty datagram is how we say that it is over; syslog sends none.
                    Ok(0) => return,
                    Ok(length) => collected
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(buffer[..length].to_vec()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Self {
            dir,
            datagrams,
            thread: Some(thread),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Everything logged so far.
    pub(crate) fn datagrams(&self) -> Vec<Vec<u8>> {
        self.datagrams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The texts logged so far, without what every line has in common: `<29>Nov 22 21:48:27 portsentry[123]: `, which is
    /// daemon.notice; what is none of 1.2's lines may be of another severity. What does not begin in this way is given whole,
    /// so that no expectation fits it.
    pub(crate) fn texts(&self) -> Vec<String> {
        let datagrams = self.datagrams();
        datagrams
            .iter()
            .map(|datagram| {
                let line = String::from_utf8_lossy(datagram);
                text(&line).map_or_else(|| line.to_string(), str::to_owned)
            })
            .collect()
    }
}

/// The text of a line whose head is as glibc's `syslog` writes it. The original ends some of its lines with a newline, which
/// every syslog daemon takes away.
fn text(line: &str) -> Option<&str> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let (priority, rest) = line.strip_prefix('<')?.split_once('>')?;
    let is_daemon = DAEMON.contains(&priority.parse().ok()?);
    let (time, rest) = rest.split_at_checked("Nov 22 21:48:27 ".len())?;
    let good = time.bytes().zip("Nov 22 21:48:27 ".bytes()).enumerate();
    let time_is_one = good.into_iter().all(|(at, (is, like))| match like {
        b' ' | b':' => is == like,
        _ if at < 3 => is.is_ascii_alphabetic(),
        _ => is.is_ascii_digit() || (at == 4 && is == b' '),
    });
    let (pid, text) = rest.strip_prefix("portsentry[")?.split_once("]: ")?;
    let is_good = is_daemon && time_is_one && pid.parse::<u32>().is_ok();
    (is_good && (priority == "29" || !is_of_1_2(text))).then_some(text)
}

/// Facility daemon, of whatever severity.
const DAEMON: std::ops::RangeInclusive<u8> = 24..=31;

/// Whether the text is of those that 1.2 knows, by how it begins.
pub(crate) fn is_of_1_2(text: &str) -> bool {
    ["attackalert: ", "adminalert: ", "securityalert: "]
        .iter()
        .any(|start| text.starts_with(start))
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            if say_it_is_over(&self.path()) {
                let _ = thread.join();
            }
        }
    }
}

fn say_it_is_over(path: &Path) -> bool {
    UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(&[], path))
        .is_ok()
}
