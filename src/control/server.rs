//! The daemon's end of the control socket. Nothing here blocks: a client that dawdles waits alone.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

use super::{Line, MAX_REQUEST, Request};

/// The listening socket. Its file is removed on drop.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// Somebody who asks: one request, one reply.
pub struct Client {
    stream: UnixStream,
    /// Who it is, by the kernel's word.
    pub uid: u32,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    sent: usize,
}

/// What came of reading from a client.
#[derive(Debug)]
pub enum Step {
    /// The request is not complete yet.
    Wait,
    /// This is what it asks.
    Ask(Request),
    /// What it sent is no request.
    Nonsense(String),
    /// It went away.
    Gone,
}

/// Reply bytes that may wait for a client; the rest of a long reply is made when there is room again.
const OUTBOX_ROOM: usize = 256 * 1024;

impl Server {
    /// Listens on `path`, for root alone. A socket file that nobody answers on is taken over.
    ///
    /// # Errors
    /// Somebody answers there, or the directory or the socket cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        if UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers there",
            ));
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// The next client that waits at the door; `None`: nobody. Strangers are turned away.
    ///
    /// # Errors
    /// The kernel cannot give us the connection, for want of descriptors for instance.
    pub fn accept(&self) -> io::Result<Option<Client>> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let uid = getsockopt(&stream, PeerCredentials)?.uid();
            if uid != 0 && uid != geteuid().as_raw() {
                continue;
            }
            stream.set_nonblocking(true)?;
            return Ok(Some(Client {
                stream,
                uid,
                inbox: Vec::new(),
                outbox: Vec::new(),
                sent: 0,
            }));
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = fs::remove_file(&self.path);
    }
}

impl Client {
    /// Reads what has come, up to a whole request.
    pub fn read(&mut self) -> Step {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Step::Gone,
                Ok(n) => self.inbox.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Wait,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return Step::Gone,
            }
            if let Some(end) = self.inbox.iter().position(|&byte| byte == b'\n') {
                return match serde_json::from_slice(&self.inbox[..end]) {
                    Ok(request) => Step::Ask(request),
                    Err(error) => {
                        Step::Nonsense(format!("no request that this version knows: {error}"))
                    }
                };
            }
            if self.inbox.len() > MAX_REQUEST {
                return Step::Nonsense(format!("a request is {MAX_REQUEST} bytes long at most"));
            }
        }
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
        self.outbox.len() - self.sent < OUTBOX_ROOM
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
