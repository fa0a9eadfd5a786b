//! The system log, as 1.2 used it: program name and process id, facility `daemon`, severity `notice`.
//!
//! Not by libc's `syslog`: that waits when the other end does not read, and the one thread that logs must not.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where programs and the system log meet.
pub(super) const DEV_LOG: &str = "/dev/log";

/// `LOG_DAEMON`, shifted to its place.
const FACILITY: u8 = 3 << 3;

/// Bytes of a message: syslogd takes 1 KiB for sure, and common ones 8.
const MAX_MESSAGE: usize = 2048;

/// Sends every event to the system log. What it does not take at once is lost.
pub(super) struct Syslog {
    path: PathBuf,
    pid: u32,
    socket: Mutex<Option<UnixDatagram>>,
}

impl Syslog {
    /// For the log that listens at `path`, which need not listen yet.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            pid: std::process::id(),
            socket: Mutex::new(None),
        }
    }

    fn send(&self, level: Level, message: &str) -> io::Result<()> {
        // Lines that are not 1.2's own and tell of trouble may as well be found by their severity.
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            _ => 5,
        };
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        for line in message.lines() {
            let mut datagram = format!(
                "<{}>{time} portsentry[{}]: {line}",
                FACILITY | severity,
                self.pid
            );
            if let Some((end, _)) = datagram.char_indices().find(|(at, _)| *at >= MAX_MESSAGE) {
                datagram.truncate(end);
            }
            // One that was restarted listens on another socket: the second try finds it.
            for _ in 0..2 {
                let open = match socket.take() {
                    Some(open) => open,
                    None => connect(&self.path)?,
                };
                match open.send(datagram.as_bytes()) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                    _ => {
                        *socket = Some(open);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

impl<S: Subscriber> Layer<S> for Syslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        // Where could we complain?
        let _ = self.send(*event.metadata().level(), &message.0);
    }
}

/// An event's text, without its fields.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn receive(log: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        log.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = log.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_reads_as_1_2_wrote_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let subscriber = tracing_subscriber::registry().with(Syslog::at(&path));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(port = 23, "attackalert: one");
            tracing::warn!("two\nthree");
        });
        let first = receive(&log);
        let (head, text) = first.split_once(": ").unwrap();
        assert_eq!(text, "attackalert: one");
        assert!(head.starts_with("<29>"), "{head}");
        let pid = std::process::id();
        assert!(head.ends_with(&format!(" portsentry[{pid}]")), "{head}");
        assert_eq!(
            head.len(),
            "<29>Nov 22 16:47:39 ".len() + format!("portsentry[{pid}]").len()
        );
        assert!(receive(&log).starts_with("<28>"));
        assert!(receive(&log).ends_with(": three"));
    }

    #[test]
    fn a_log_that_comes_late_or_anew_gets_what_comes_after() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let syslog = Syslog::at(&path);
        assert!(syslog.send(Level::INFO, "nobody hears this").is_err());
        for text in ["one", "two"] {
            let log = UnixDatagram::bind(&path).unwrap();
            syslog.send(Level::INFO, text).unwrap();
            assert!(receive(&log).ends_with(text));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_log_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let _log = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::at(&path);
        for _ in 0..2000 {
            syslog.send(Level::INFO, &"x".repeat(5000)).unwrap();
        }
    }
}
