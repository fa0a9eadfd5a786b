//! The client's end of the control socket: one request, and the answer line by line. No daemon, however it is, makes it wait for ever.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{LONG_PATIENCE, Line, Request};

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there.
    #[error("no portsentry daemon is running (nobody listens on {0})")]
    NoDaemon(String),
    /// The socket may not be opened.
    #[error("cannot talk to the daemon on {0}: permission denied (only root may)")]
    NotAllowed(String),
    /// The daemon does not answer.
    #[error("the daemon does not answer within {} s", .0.as_secs())]
    Hung(Duration),
    /// It hung up before it had heard what is asked: nothing was done.
    #[error(
        "the daemon on {0} hung up before it listened: too many others talk to it, and ask for nothing (ss -xp shows who); end those"
    )]
    Unheard(String),
    /// It hung up later than that.
    #[error(
        "the daemon on {0} hung up in the middle of its answer: it has ended, or was not listened to for too long; try again"
    )]
    HungUp(String),
    /// The socket fails otherwise.
    #[error("cannot talk to the daemon: {0}")]
    Io(#[from] io::Error),
    /// The answer is fine, but could not be written where it was to go.
    #[error("cannot write the daemon's answer: {0}")]
    Output(#[source] io::Error),
    /// It answered that it will not.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the daemon's answer makes no sense: {0}")]
    Garbled(#[from] serde_json::Error),
}

/// Asks the daemon, and hands each line of its answer to `each` as it comes, the result line included, [`Line::Wait`] not.
///
/// # Errors
/// There is no daemon, or it does not answer within `patience` a line ([`LONG_PATIENCE`] once it has asked to wait). An
/// error of `each` is [`AskError::Output`].
pub fn ask(
    socket: &Path,
    request: &Request,
    patience: Duration,
    each: impl FnMut(Line) -> io::Result<()>,
) -> Result<(), AskError> {
    converse(socket, request, patience, each).map(drop)
}

/// As [`ask`], and stays on the line: the connection.
pub(super) fn converse(
    socket: &Path,
    request: &Request,
    patience: Duration,
    mut each: impl FnMut(Line) -> io::Result<()>,
) -> Result<UnixStream, AskError> {
    let until = Instant::now() + patience;
    loop {
        match converse_once(socket, request, patience, &mut each) {
            // By chance: whoever comes may take the place of who came before, and has not asked yet.
            Err(AskError::Unheard(_)) if Instant::now() < until => {}
            outcome => return outcome,
        }
    }
}

fn converse_once(
    socket: &Path,
    request: &Request,
    mut patience: Duration,
    mut each: impl FnMut(Line) -> io::Result<()>,
) -> Result<UnixStream, AskError> {
    let name = || socket.display().to_string();
    let mut stream = connect(socket, patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoDaemon(name()),
        io::ErrorKind::PermissionDenied => AskError::NotAllowed(name()),
        _ => slow(patience)(error),
    })?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    let mut is_heard = match stream.write_all(&text) {
        // It may have said why.
        Err(error) if hung_up(&error) => false,
        sent => sent.map(|()| true).map_err(slow(patience))?,
    };
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    loop {
        text.clear();
        match reader.read_line(&mut text) {
            // What the kernel says where something we had sent was not read.
            Err(error) if hung_up(&error) => is_heard = false,
            read => {
                read.map_err(slow(patience))?;
            }
        }
        if !text.ends_with('\n') {
            return Err(if is_heard {
                AskError::HungUp(name())
            } else {
                AskError::Unheard(name())
            });
        }
        is_heard = true;
        let line: Line = serde_json::from_str(&text)?;
        if matches!(line, Line::Wait) {
            patience = patience.max(LONG_PATIENCE);
            reader.get_ref().set_read_timeout(Some(patience))?;
            continue;
        }
        let is_last = matches!(line, Line::Done | Line::Failed(_));
        each(line).map_err(AskError::Output)?;
        if is_last {
            return Ok(reader.into_inner());
        }
    }
}

/// Connects, and waits no longer than `patience` for anything on the connection, to be let in neither: a daemon that hangs lets
/// nobody in, and the kernel keeps no more than so many at the door.
pub(super) fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let stream = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.connect(&SockAddr::unix(socket)?)?;
    Ok(stream.into())
}

fn hung_up(error: &io::Error) -> bool {
    let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    gone.contains(&error.kind())
}

/// What an error of the socket means to who would wait no longer than `patience`.
fn slow(patience: Duration) -> impl Fn(io::Error) -> AskError {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Hung(patience),
        _ => AskError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::Shutdown;
    use std::os::unix::net::UnixListener;
    use std::thread;

    const PATIENCE: Duration = Duration::from_millis(100);

    /// Asks a daemon that answers `lines`, each after a while, and then hangs up.
    fn ask_one_who_answers(
        lines: &'static [(Duration, &'static str)],
        each: impl FnMut(Line) -> io::Result<()>,
    ) -> Result<(), AskError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            for (after, line) in lines {
                thread::sleep(*after);
                // The client may have gone.
                let _ = stream.write_all(format!("{line}\n").as_bytes());
            }
            // A child that another test starts may hold it until its exec: to close it is not enough.
            let _ = stream.shutdown(Shutdown::Both);
        });
        let result = ask(&path, &Request::List, PATIENCE, each);
        daemon.join().unwrap();
        result
    }

    const AT_ONCE: Duration = Duration::ZERO;
    const LATE: Duration = Duration::from_millis(400);

    #[test]
    fn who_is_asked_to_wait_waits() {
        let mut seen = Vec::new();
        ask_one_who_answers(&[(AT_ONCE, "\"wait\""), (LATE, "\"done\"")], |line| {
            seen.push(line);
            Ok(())
        })
        .unwrap();
        assert!(matches!(seen.as_slice(), [Line::Done]), "{seen:?}");
    }

    #[test]
    fn who_is_not_asked_to_wait_does_not() {
        let error = ask_one_who_answers(&[(LATE, "\"done\"")], |_| Ok(())).unwrap_err();
        assert!(matches!(error, AskError::Hung(PATIENCE)), "{error}");
    }

    #[test]
    fn a_daemon_that_goes_away_is_told_from_an_output_that_does() {
        let gone = ask_one_who_answers(&[], |_| Ok(())).unwrap_err();
        assert!(matches!(gone, AskError::HungUp(_)), "{gone}");
        let full = ask_one_who_answers(&[(AT_ONCE, "\"done\"")], |_| {
            Err(io::ErrorKind::BrokenPipe.into())
        })
        .unwrap_err();
        assert!(matches!(full, AskError::Output(_)), "{full}");
    }

    #[test]
    fn who_is_hung_up_on_unheard_asks_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let hang_up = |reads: usize| {
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_exact(&mut vec![0; reads]).unwrap();
            };
            hang_up(0);
            hang_up(1);
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            writeln!(stream, "\"done\"").unwrap();
            // Who is heard, and then hung up on, does not.
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            write!(stream, "{{\"listed\":").unwrap();
        });
        let ask = || ask(&path, &Request::List, Duration::from_secs(10), |_| Ok(()));
        ask().unwrap();
        let error = ask().unwrap_err();
        assert!(matches!(error, AskError::HungUp(_)), "{error}");
        daemon.join().unwrap();
    }
}
