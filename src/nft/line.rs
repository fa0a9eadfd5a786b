//! The line to nf_tables: a netlink socket, one transaction or question at a time, and every answer read.
//!
//! It never blocks: the kernel has queued its answers when a send returns.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, RawFd};

use nftnl::FinalizedBatch;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, getsockname, recvmsg, sendmsg, setsockopt, sockopt};

use super::ffi;
use super::request::Request;

/// Twice what the kernel puts into one answer of a list. Smaller buffers make it walk the set more often.
const ANSWER_LEN: usize = 64 * 1024;

/// Room for the answers to a batch in which every message fails.
const RECEIVE_ROOM: usize = 1 << 20;

/// How often a list is begun anew because the ruleset changed meanwhile.
const TRIES: usize = 10;

/// Message types, from linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`
const INTERRUPTED: u16 = 0x10;

/// A line to the kernel's nf_tables, in the network namespace of the thread that opened it.
pub struct Line {
    socket: mnl::Socket,
    buffer: Box<Answer>,
    send_room: usize,
    seq: u32,
    committed: u32,
}

/// Where answers go, aligned as their headers want it.
#[repr(align(8))]
pub(super) struct Answer([u8; ANSWER_LEN]);

impl Line {
    /// Opens a line. Needs no privilege; using it does.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or no descriptor is free.
    pub fn open() -> Result<Self, Errno> {
        let plain = |error: std::io::Error| {
            error
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw)
        };
        let socket = mnl::Socket::new(mnl::Bus::Netfilter).map_err(plain)?;
        ffi::terse_errors(&socket)?;
        // Without the privilege the buffer stays as it is, and what needs more fails with a reason.
        let _ = setsockopt(&ffi::fd(&socket), sockopt::RcvBufForce, &RECEIVE_ROOM);
        Ok(Self {
            socket,
            buffer: Answer::new(),
            send_room: 0,
            seq: 0,
            committed: 0,
        })
    }

    /// By which the kernel tells our transactions from those of others.
    ///
    /// # Errors
    /// The kernel's.
    pub fn port(&self) -> Result<u32, Errno> {
        let address: NetlinkAddr = getsockname(self.socket.as_raw_fd())?;
        Ok(address.pid())
    }

    /// Another hold on the same line, as a child process has from its fork to its exec.
    #[cfg(test)]
    pub fn copy(&self) -> std::os::fd::OwnedFd {
        let copied = ffi::fd(&self.socket).try_clone_to_owned();
        copied.expect("descriptors are free in tests")
    }

    /// Carries out a transaction: all of it, or nothing.
    ///
    /// Only a negative answer means that nothing was done. Kernels before 6.10 answer success with silence, newer
    /// ones acknowledge the end of the batch, and an acknowledgement of anything else means nothing at all.
    ///
    /// # Errors
    /// The first thing that the kernel refused. `ENOBUFS` alone leaves open whether it was done.
    pub fn commit(&mut self, batch: &FinalizedBatch) -> Result<(), Errno> {
        self.discard()?;
        let pages: Vec<IoSlice<'_>> = batch.iter().map(IoSlice::new).collect();
        // The whole batch in one message: the kernel takes each as a transaction of its own.
        self.send(&pages)?;
        let mut outcome = Ok(());
        loop {
            match self.receive() {
                Ok(None) => {
                    self.committed = self.committed.wrapping_add(u32::from(outcome.is_ok()));
                    return outcome;
                }
                Ok(Some(answer)) => {
                    let refused = messages(answer).find_map(|message| refusal(message).err());
                    if let (Some(errno), Ok(()) | Err(Errno::ENOBUFS)) = (refused, outcome) {
                        outcome = Err(errno);
                    }
                }
                Err(Errno::ENOBUFS) => outcome = outcome.and(Err(Errno::ENOBUFS)),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// How many transactions were carried out.
    pub(super) fn committed(&self) -> u32 {
        self.committed
    }

    /// Asks, and has each message of the answer parsed. What does not parse is left out.
    pub(super) fn ask<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        let mut outcome = Err(Errno::EINTR);
        for _ in 0..TRIES {
            outcome = self.ask_once(request, &parse);
            if !matches!(outcome, Err(Errno::EINTR)) {
                break;
            }
        }
        outcome
    }

    /// As [`ask`](Self::ask); `EINTR` when the ruleset changed under the list.
    fn ask_once<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        self.discard()?;
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        self.send(&[IoSlice::new(&request.encode(seq))])?;
        let mut found = Vec::new();
        let mut interrupted = false;
        loop {
            let answer = self.receive()?.ok_or(Errno::EIO)?;
            for message in messages(answer) {
                let Some(header) = Header::read(message) else {
                    continue;
                };
                if header.seq != seq {
                    continue;
                }
                interrupted |= header.flags & INTERRUPTED != 0;
                match header.kind {
                    ERROR | DONE => {
                        refusal(message)?;
                        return if interrupted {
                            Err(Errno::EINTR)
                        } else {
                            Ok(found)
                        };
                    }
                    _ => found.extend(parse(message)),
                }
            }
        }
    }

    /// Throws away what is left of an answer that nobody read to its end.
    fn discard(&mut self) -> Result<(), Errno> {
        loop {
            match self.receive() {
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(Errno::ENOBUFS | Errno::EMSGSIZE) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Sends one datagram, with as much room for it as it needs.
    fn send(&mut self, pages: &[IoSlice<'_>]) -> Result<(), Errno> {
        let length: usize = pages.iter().map(|page| page.len()).sum();
        if length > self.send_room {
            let room = length.max(1 << 20);
            // Without the privilege the buffer stays as it is: small transactions fit, large ones are refused.
            let _ = setsockopt(&ffi::fd(&self.socket), sockopt::SndBufForce, &room);
            self.send_room = room;
        }
        let kernel = NetlinkAddr::new(0, 0);
        let fd = self.socket.as_raw_fd();
        let sent = retry(|| sendmsg(fd, pages, &[], MsgFlags::empty(), Some(&kernel)))?;
        if sent == length {
            Ok(())
        } else {
            Err(Errno::EMSGSIZE)
        }
    }

    /// The next datagram from the kernel; `None` when there is none.
    fn receive(&mut self) -> Result<Option<&[u8]>, Errno> {
        self.buffer.fill(self.socket.as_raw_fd())
    }
}

impl Answer {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self([0; ANSWER_LEN]))
    }

    /// The next datagram that the kernel has sent to this netlink socket; `None` when there is none.
    pub(super) fn fill(&mut self, fd: RawFd) -> Result<Option<&[u8]>, Errno> {
        let length = loop {
            let received = retry(|| {
                let mut pages = [IoSliceMut::new(&mut self.0)];
                recvmsg::<NetlinkAddr>(fd, &mut pages, None, MsgFlags::MSG_DONTWAIT).map(|got| {
                    let from_kernel = got.address.is_none_or(|sender| sender.pid() == 0);
                    let cut = got.flags.contains(MsgFlags::MSG_TRUNC);
                    (got.bytes, from_kernel, cut)
                })
            });
            match received {
                Ok((_, true, true)) => return Err(Errno::EMSGSIZE),
                Ok((length, true, false)) => break length,
                Ok((_, false, _)) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno),
            }
        };
        Ok(self.0.get(..length))
    }
}

/// Does it again while a signal gets in the way.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

/// The messages in a datagram, up to the first that is malformed.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    mnl::NlMessages::new(datagram).map_while(Result::ok)
}

/// `struct nlmsghdr`, as far as it matters.
struct Header {
    kind: u16,
    flags: u16,
    seq: u32,
}

impl Header {
    fn read(message: &[u8]) -> Option<Self> {
        let (header, _) = message.split_first_chunk::<12>()?;
        let [_, _, _, _, k0, k1, f0, f1, s0, s1, s2, s3] = *header;
        Some(Self {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            seq: u32::from_ne_bytes([s0, s1, s2, s3]),
        })
    }
}

/// The error that a message carries, if it is an answer that carries one.
fn refusal(message: &[u8]) -> Result<(), Errno> {
    let Some(header) = Header::read(message) else {
        return Ok(());
    };
    if header.kind != ERROR && header.kind != DONE {
        return Ok(());
    }
    let code = message
        .get(16..)
        .and_then(|payload| payload.first_chunk())
        .map_or(0, |code| i32::from_ne_bytes(*code));
    if code < 0 {
        Err(Errno::from_raw(code.checked_neg().unwrap_or(i32::MAX)))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, code: i32) -> Vec<u8> {
        let mut message = Vec::new();
        message.extend(36u32.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 2]);
        message.extend(7u32.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(code.to_ne_bytes());
        message.resize(36, 0);
        message
    }

    #[test]
    fn only_a_negative_code_is_a_refusal() {
        for (message, expected) in [
            (answer(ERROR, 0), Ok(())),
            (answer(ERROR, -1), Err(Errno::EPERM)),
            (answer(DONE, -2), Err(Errno::ENOENT)),
            (answer(ERROR, i32::MIN), Err(Errno::UnknownErrno)),
            (answer(ERROR, 5), Ok(())),
            (answer(0x0a0c, -1), Ok(())),
        ] {
            assert_eq!(refusal(&message), expected);
        }
        for cut in 0..36 {
            let _ = refusal(&answer(ERROR, -1)[..cut]);
        }
    }
}
