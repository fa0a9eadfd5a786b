//! The daemon's end of the control socket. Nothing here blocks: a client that dawdles waits alone.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::ask::connect;
use super::{Line, MAX_REQUEST, Request};

/// The listening socket. Its file is removed on drop, if it still is ours.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    file: Identity,
}

/// What tells a file from others that may come to stand in its place.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// Who waits at the door.
pub enum Caller {
    /// Nobody.
    Nobody,
    /// Somebody who may not talk to us: told so, and gone.
    Stranger,
    /// Somebody who may.
    Client(Client),
}

/// Somebody who asks: one request, one reply.
pub struct Client {
    stream: UnixStream,
    /// Who it is, by the kernel's word.
    pub uid: u32,
    /// Its process; 0 where that is not to be seen from here.
    pub pid: u32,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
}

/// What came of reading from a client.
#[derive(Debug)]
pub enum Step {
    /// The request is not complete yet.
    Wait,
    /// Nor is it here, but more of it may have come.
    More,
    /// This is what it asks.
    Ask(Request),
    /// What it sent is no request.
    Nonsense(String),
    /// It went away.
    Gone,
}

/// Bytes that are read from a client in one go.
const READ_A_TURN: usize = 8 * 1024;

/// How long a daemon that may listen in our place has to take us in; one that does not is there all the same.
const SOMEBODY_ANSWERS: Duration = Duration::from_secs(1);

/// Reply bytes that may wait for a client; the rest of a long reply is made when there is room again.
const OUTBOX_ROOM: usize = 64 * 1024;

impl Server {
    /// Listens on `path`, for root alone. A socket file that nobody answers on is taken over.
    ///
    /// # Errors
    /// Somebody answers there, something else than a socket is in the way, or the directory or the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        make_way(path)?;
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: Identity::of(path)?,
        })
    }

    /// The next who waits at the door.
    ///
    /// # Errors
    /// The kernel cannot give us the connection, for want of descriptors for instance.
    pub fn accept(&self) -> io::Result<Caller> {
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Caller::Nobody);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        stream.set_nonblocking(true)?;
        let peer = getsockopt(&stream, PeerCredentials)?;
        let mut client = Client {
            stream,
            uid: peer.uid(),
            pid: u32::try_from(peer.pid()).unwrap_or(0),
            inbox: Vec::new(),
            outbox: Vec::new(),
            sent: 0,
        };
        if client.uid != 0 && client.uid != geteuid().as_raw() {
            client.push(&Line::Failed(
                "the daemon talks to root alone, whoever may open its socket: try again as root"
                    .to_owned(),
            ));
            // If it has gone away, it need not be told.
            let _ = client.flush();
            return Ok(Caller::Stranger);
        }
        Ok(Caller::Client(client))
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

/// Removes a socket that a daemon left behind.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "what is there is no socket; move it away, or set control.socket to another path",
            ));
        }
        Ok(_) => {}
    }
    let answer = connect(path, SOMEBODY_ANSWERS);
    if answer.map_or_else(|error| error.kind() == io::ErrorKind::WouldBlock, |_| true) {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another daemon answers there",
        ));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if Identity::of(&self.path).is_ok_and(|now| now == self.file) {
            // Already gone is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Client {
    /// Reads some of what has come.
    pub fn read(&mut self) -> Step {
        let mut chunk = [0; READ_A_TURN];
        let known = self.inbox.len();
        match self.stream.read(&mut chunk) {
            Ok(0) => return Step::Gone,
            Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Step::More,
            Err(_) => return Step::Gone,
        }
        let end = self.inbox[known..].iter().position(|&byte| byte == b'\n');
        if let Some(end) = end {
            return match serde_json::from_slice(&self.inbox[..known + end]) {
                Ok(request) => Step::Ask(request),
                Err(error) => {
                    Step::Nonsense(format!("no request that this version knows: {error}"))
                }
            };
        }
        if self.inbox.len() > MAX_REQUEST {
            return Step::Nonsense(format!("a request is {MAX_REQUEST} bytes long at most"));
        }
        Step::More
    }

    /// Puts a line into the reply.
    pub fn push(&mut self, line: &Line) {
        if serde_json::to_writer(&mut self.outbox, line).is_ok() {
            self.outbox.push(b'\n');
        }
    }

    /// Whether there is room for more of a long reply.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent() < OUTBOX_ROOM
    }

    /// Bytes that wait for it to read.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outbox.len() - self.sent
    }

    /// Sends what it takes now. True when nothing is left to send.
    ///
    /// # Errors
    /// It went away.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.outbox.len() {
            match self.stream.write(&self.outbox[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.outbox.drain(..self.sent);
                    self.sent = 0;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(true)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::fs::symlink;

    use socket2::SockRef;

    #[test]
    fn a_socket_left_behind_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let left = UnixListener::bind(&path).unwrap();
        // A child that another test starts may hold it until its exec: to close it is not enough.
        SockRef::from(&left).shutdown(Shutdown::Both).unwrap();
        drop(left);
        assert!(path.exists());
        let server = Server::bind(&path).unwrap();
        let second = Server::bind(&path).map(|_| ()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [file, link] = ["letter", "link"].map(|name| dir.path().join(name));
        fs::write(&file, "dear diary").unwrap();
        symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let error = Server::bind(path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("set control.socket"), "{error}");
        }
        assert_eq!(fs::read_to_string(&link).unwrap(), "dear diary");
    }

    #[test]
    fn a_file_that_took_our_sockets_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let server = Server::bind(&path).unwrap();
        let other = UnixListener::bind(dir.path().join("other")).unwrap();
        fs::rename(dir.path().join("other"), &path).unwrap();
        drop(server);
        assert!(path.exists());
        drop(other);
    }
}
