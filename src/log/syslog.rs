//! The system log, as 1.2 used it: program name and process id, facility `daemon`, severity `notice`.
//!
//! Not by libc's `syslog`: that waits when the other end does not read, for as long as that takes, and the thread that logs here
//! has packets to judge. Otherwise as libc does it: in datagrams, or where `/dev/log` is a stream socket, each line with a NUL behind it.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Where programs and the system log meet.
pub(super) const DEV_LOG: &str = "/dev/log";

/// `LOG_DAEMON`, shifted to its place.
const FACILITY: u8 = 3 << 3;

/// Bytes of a message: syslogd takes 1 KiB for sure, and common ones 8.
const MAX_MESSAGE: usize = 2048;

/// How long a line waits for a log that does not keep up: it has room for a few lines only.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long no line waits after one has in vain: a log that hangs must not slow us down.
const STUCK: Duration = Duration::from_secs(1);

/// Sends every event to the system log. What that does not take within moments is lost, and counted.
pub(super) struct Syslog {
    path: PathBuf,
    pid: u32,
    line: Mutex<Line>,
}

/// The way to the log.
#[derive(Default)]
struct Line {
    socket: Option<Connection>,
    stuck_since: Option<Instant>,
    lost: u64,
}

impl Syslog {
    /// For the log that listens at `path`, which need not listen yet.
    pub(super) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            pid: std::process::id(),
            line: Mutex::default(),
        }
    }

    fn send(&self, level: Level, message: &str) {
        let mut to = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for text in message.lines() {
            let lost = to.lost;
            let told = super::counted(lost, "line is lost", "lines are lost");
            if lost > 0 && self.send_line(&mut to, Level::WARN, &told) {
                to.lost -= lost;
            }
            if !self.send_line(&mut to, level, text) {
                to.lost += 1;
            }
        }
    }

    /// Whether the log took it.
    fn send_line(&self, to: &mut Line, level: Level, text: &str) -> bool {
        // Lines that are not 1.2's own and tell of trouble may as well be found by their severity.
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN if !OLD_WORDS.iter().any(|start| text.starts_with(start)) => 4,
            _ => 5,
        };
        let time = jiff::Zoned::now().strftime("%b %e %H:%M:%S");
        let priority = FACILITY | severity;
        let mut line = format!("<{priority}>{time} portsentry[{}]: {text}", self.pid);
        if let Some((end, _)) = line.char_indices().find(|(at, _)| *at >= MAX_MESSAGE) {
            line.truncate(end);
        }
        // One that was restarted listens on another socket: the second try finds it.
        for _ in 0..2 {
            let may_wait = (to.stuck_since).is_none_or(|since| since.elapsed() >= STUCK);
            let connection = match to.socket.take() {
                Some(connection) => Ok(connection),
                None => Connection::to(&self.path, may_wait),
            };
            let sent = connection.and_then(|connection| {
                let sent = connection.send(&line, may_wait);
                let is_good = sent.as_ref().err().is_none_or(is_full);
                to.socket = is_good.then_some(connection);
                sent
            });
            match sent {
                Ok(()) => return true,
                Err(error) if is_full(&error) => {
                    if may_wait {
                        to.stuck_since = Some(Instant::now());
                    }
                    return false;
                }
                Err(_) => {}
            }
        }
        false
    }
}

/// 1.2 had one severity for all it said.
const OLD_WORDS: [&str; 3] = ["attackalert: ", "adminalert: ", "securityalert: "];

/// A socket that the log listens at the other end of.
struct Connection {
    socket: Socket,
    is_stream: bool,
}

impl Connection {
    fn to(path: &Path, may_wait: bool) -> io::Result<Self> {
        let address = SockAddr::unix(path)?;
        let of = |kind| {
            let socket = Socket::new(Domain::UNIX, kind, None)?;
            // For connecting too: a stream that nobody accepts is as bad as one that nobody reads.
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.set_nonblocking(!may_wait)?;
            socket.connect(&address)?;
            Ok(Self {
                socket,
                is_stream: kind == Type::STREAM,
            })
        };
        of(Type::DGRAM).or_else(|error: io::Error| {
            if error.raw_os_error() == Some(libc::EPROTOTYPE) {
                of(Type::STREAM)
            } else {
                Err(error)
            }
        })
    }

    /// Sends all of a line, or fails; after any failure but of [`is_full`], the connection is of no use.
    fn send(&self, line: &str, may_wait: bool) -> io::Result<()> {
        self.socket.set_nonblocking(!may_wait)?;
        let end: &[u8] = if self.is_stream { b"\0" } else { b"" };
        let bytes = [line.as_bytes(), end].concat();
        let sent = self.socket.send_with_flags(&bytes, libc::MSG_NOSIGNAL)?;
        if sent == bytes.len() {
            Ok(())
        } else {
            // The next line must not be taken for the rest of this one.
            Err(io::ErrorKind::WriteZero.into())
        }
    }
}

/// Whether the log is there and does not keep up.
fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl<S: Subscriber> Layer<S> for Syslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.send(*event.metadata().level(), &message.0);
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
    use std::io::{BufRead as _, BufReader};
    use std::net::Shutdown;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn receive(log: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        log.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = log.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    /// Ends a log, and waits until nobody takes what is sent there: a child that another test starts may hold it until its exec.
    fn end(log: UnixDatagram, path: &Path) {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(path).unwrap();
        sender.set_nonblocking(true).unwrap();
        std::fs::remove_file(path).unwrap();
        drop(log);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_refused(&sender.send(b"?")) {
            assert!(Instant::now() < deadline, "somebody keeps the log");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_refused(sent: &io::Result<usize>) -> bool {
        matches!(sent, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
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
        syslog.send(Level::INFO, "nobody hears this");
        let log = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::INFO, "this is heard");
        assert!(receive(&log).ends_with("]: 1 line is lost"));
        assert!(receive(&log).ends_with("]: this is heard"));
        end(log, &path);
        for text in ["one", "two"] {
            let log = UnixDatagram::bind(&path).unwrap();
            syslog.send(Level::INFO, text);
            assert!(receive(&log).ends_with(text));
            end(log, &path);
        }
    }

    #[test]
    fn a_log_that_does_not_read_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let syslog = Syslog::at(&path);
        for _ in 0..2000 {
            syslog.send(Level::INFO, &"x".repeat(5000));
        }
        let lost = syslog.line.lock().unwrap().lost;
        assert!((1..2000).contains(&lost), "{lost}");
        for _ in lost..2000 {
            assert!(receive(&log).len() <= MAX_MESSAGE);
        }
    }

    #[test]
    fn a_log_that_reads_gets_every_line_of_a_flood() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixDatagram::bind(&path).unwrap();
        let reader = std::thread::spawn(move || {
            (1..5000).for_each(|_| drop(receive(&log)));
            receive(&log)
        });
        let syslog = Syslog::at(&path);
        (0..5000).for_each(|n| syslog.send(Level::INFO, &n.to_string()));
        assert!(reader.join().unwrap().ends_with("]: 4999"));
    }

    /// What comes next from whoever connects next, up to the NUL.
    fn accept(log: &UnixListener) -> impl FnMut() -> String + use<> {
        let (stream, _) = log.accept().unwrap();
        next_from(stream)
    }

    fn next_from(stream: UnixStream) -> impl FnMut() -> String + use<> {
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut stream = BufReader::new(stream);
        move || {
            let mut bytes = Vec::new();
            stream.read_until(0, &mut bytes).unwrap();
            assert_eq!(bytes.pop(), Some(0));
            String::from_utf8(bytes).unwrap()
        }
    }

    #[test]
    fn a_log_that_is_a_stream_gets_a_nul_behind_each_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixListener::bind(&path).unwrap();
        let syslog = Syslog::at(&path);
        syslog.send(Level::INFO, "attackalert: one\ntwo");
        let (stream, _) = log.accept().unwrap();
        let mut next = next_from(stream.try_clone().unwrap());
        let first = next();
        assert!(
            first.starts_with("<29>") && first.ends_with("]: attackalert: one"),
            "{first}"
        );
        assert!(next().ends_with("]: two"));
        // It is started anew, first as it was and then as one for datagrams. To close is not enough: a child that another test
        // starts may hold it until its exec.
        stream.shutdown(Shutdown::Both).unwrap();
        drop((next, stream, log));
        std::fs::remove_file(&path).unwrap();
        let log = UnixListener::bind(&path).unwrap();
        syslog.send(Level::INFO, "three");
        let (stream, _) = log.accept().unwrap();
        assert!(next_from(stream.try_clone().unwrap())().ends_with("]: three"));
        stream.shutdown(Shutdown::Both).unwrap();
        drop((stream, log));
        std::fs::remove_file(&path).unwrap();
        let log = UnixDatagram::bind(&path).unwrap();
        syslog.send(Level::INFO, "four");
        assert!(receive(&log).ends_with("]: four"));
    }

    #[test]
    fn a_stream_that_nobody_reads_or_accepts_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = UnixListener::bind(&path).unwrap();
        let syslog = Syslog::at(&path);
        for _ in 0..2000 {
            syslog.send(Level::INFO, &"x".repeat(5000));
        }
        let lost = syslog.line.lock().unwrap().lost;
        assert!((1..2000).contains(&lost), "{lost}");
        let mut next = accept(&log);
        for _ in lost..2000 {
            assert_eq!(next().len(), MAX_MESSAGE);
        }
        syslog.send(Level::INFO, "it reads again");
        assert!(next().ends_with("lines are lost"));
        assert!(next().ends_with("]: it reads again"));

        // Connections wait to be accepted until there is no room for more.
        let waiting: Vec<Connection> = std::iter::from_fn(|| Connection::to(&path, false).ok())
            .take(100_000)
            .collect();
        let other = Syslog::at(&path);
        for _ in 0..2000 {
            other.send(Level::INFO, "nobody hears this");
        }
        let line = other.line.lock().unwrap();
        assert_eq!(line.lost, 2000);
        assert!(line.stuck_since.is_some(), "no line waits again at once");
        drop(waiting);
    }
}
