//! The holder's end of a lease: modes of 1.2 that the daemon watches in for as long as a connection to it lasts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::ask::{AskError, converse};
use super::{Line, Request};

/// The daemon watches in the modes that were asked for, until this is dropped or the process ends in any manner.
///
/// Its descriptor becomes readable when the daemon has ended, and for nothing else.
#[derive(Debug)]
pub struct Lease {
    connection: UnixStream,
    daemon: u32,
}

impl Lease {
    /// Has the daemon watch in these modes (`tcp`, `audp` …) of the configuration at `config`. The daemon knows the holder by the
    /// process that calls this: call it after the last fork.
    ///
    /// # Errors
    /// As with [`ask`](super::ask); [`AskError::Refused`] with the daemon's words.
    pub fn take(
        socket: &Path,
        modes: impl IntoIterator<Item = &'static str>,
        config: &Path,
        patience: Duration,
    ) -> Result<Self, AskError> {
        let request = Request::Lease {
            modes: modes.into_iter().map(str::to_owned).collect(),
            config: config.display().to_string(),
        };
        let mut refused = None;
        let connection = converse(socket, &request, patience, |line| {
            if let Line::Failed(why) = line {
                refused = Some(why);
            }
            Ok(())
        })?;
        match refused {
            None => {
                let peer = getsockopt(&connection, PeerCredentials).map_err(io::Error::from)?;
                let daemon = u32::try_from(peer.pid()).unwrap_or(0);
                Ok(Self { connection, daemon })
            }
            Some(why) => Err(AskError::Refused(why)),
        }
    }

    /// The daemon's process; 0 where that is not to be seen from here.
    #[must_use]
    pub fn daemon(&self) -> u32 {
        self.daemon
    }
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Asks a daemon that gives this answer; it ends when what comes with it is dropped.
    fn take(answer: &'static str) -> (Result<Lease, AskError>, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).unwrap();
            assert_eq!(
                request,
                "{\"command\":\"lease\",\"modes\":[\"atcp\",\"audp\"],\"config\":\"/etc/p.conf\"}\n"
            );
            writeln!(stream, "{answer}").unwrap();
            stream
        });
        let lease = Lease::take(&path, ["atcp", "audp"], Path::new("/etc/p.conf"), PATIENCE);
        (lease, daemon.join().unwrap())
    }

    fn is_over(lease: &Lease, timeout: PollTimeout) -> bool {
        poll(
            &mut [PollFd::new(lease.as_fd(), PollFlags::POLLIN)],
            timeout,
        )
        .unwrap()
            == 1
    }

    #[test]
    fn a_lease_is_over_when_its_daemon_ends() {
        let (lease, daemon) = take("\"done\"");
        let lease = lease.unwrap();
        assert_eq!(lease.daemon(), std::process::id());
        assert!(!is_over(&lease, PollTimeout::ZERO));
        drop(daemon);
        assert!(is_over(&lease, PollTimeout::MAX));
    }

    #[test]
    fn a_lease_that_is_refused_says_why() {
        let (lease, _daemon) = take("{\"failed\":\"TCP_PORTS is missing\"}");
        let why = lease.map(|_| ()).unwrap_err();
        assert!(matches!(why, AskError::Refused(_)), "{why}");
        assert_eq!(why.to_string(), "TCP_PORTS is missing");
    }
}
