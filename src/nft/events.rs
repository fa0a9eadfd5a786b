//! What others do to our table, as the kernel tells it: one transaction after the other, with who did it.
//!
//! Our own transactions are kept from the socket by the kernel. Elements whose time is over go without a word.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::constants::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};

use super::batch::TableName;
use super::decode;
use super::element::Element;
use super::line::{Answer, messages};
use super::request::Request;
use super::shape::BanSet;

/// Hears of what is done to one table.
pub struct Events {
    socket: Socket,
    buffer: Box<Answer>,
    table: Vec<u8>,
    /// What is known of a transaction whose end has not been heard.
    steps: Vec<Step>,
}

/// What was heard since somebody last listened.
#[derive(Debug, Default)]
pub struct Heard {
    /// In their order.
    pub transactions: Vec<Transaction>,
    /// Whether there was more than could be heard: anything may have happened.
    pub is_incomplete: bool,
}

/// A transaction of somebody else's that touched our table.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// Who, as far as the kernel knows.
    pub by: Option<Program>,
    /// What, in its order.
    pub steps: Vec<Step>,
}

/// A program that spoke to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its process.
    pub pid: u32,
    /// What the process calls itself, at most 15 bytes of any kind.
    pub name: String,
}

impl fmt::Display for Program {
    /// A process may call itself whatever it likes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pid {}", self.name.escape_default(), self.pid)
    }
}

/// A part of a transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Something else than bans was made, changed or deleted: a chain, a rule, or what is in a set that holds no bans. A table or a
    /// set that is made when it is there counts as changed.
    Frame,
    /// The table or a set was deleted, with what was in it.
    Gone,
    /// An element was added, or changed.
    Added(BanSet, Element),
    /// An element was deleted.
    Deleted(BanSet, IpAddr),
}

/// `NFNLGRP_NFTABLES`, include/uapi/linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;

/// `NFNL_SUBSYS_NFTABLES`, in a message type's upper byte.
const SUBSYSTEM: u8 = 10;

// `enum nf_tables_msg_types`, include/uapi/linux/netfilter/nf_tables.h.
const DELETED_TABLE: u8 = 2;
const DELETED_SET: u8 = 11;
const NEW_ELEMENT: u8 = 12;
const DELETED_ELEMENT: u8 = 14;
const NEW_GENERATION: u8 = 15;
const LAST_FRAME: u8 = 11; // The last but elements

/// `NFPROTO_INET`.
const INET: u8 = 1;

// Attributes: the table's name is the first of every kind of message, an element's set the second.
const TABLE: u16 = 1;
const GENERATION: u16 = 1;
const SET: u16 = 2;
const PROCESS: u16 = 2;
const PROCESS_NAME: u16 = 3;

/// Room for what happens before we listen again: some hundred thousand elements.
const RECEIVE_ROOM: usize = 32 << 20;

/// Datagrams taken at a time.
const AT_ONCE: usize = 4096;

impl Events {
    /// Begins to listen to what others than `ours`, the port of a line of ours, do to the table.
    ///
    /// # Errors
    /// The step that the kernel refused.
    pub fn open(table: &TableName, ours: u32) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        SockRef::from(&socket).attach_filter(&not_from(ours))?;
        // Without the privilege the buffer stays as it is, and more is not heard: then that is known.
        let _ = setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_ROOM);
        socket.add_membership(GROUP)?;
        Ok(Self {
            socket,
            buffer: Answer::new(),
            table: table.as_c_str().to_bytes().to_vec(),
            steps: Vec::new(),
        })
    }

    /// Hears nothing that is done from now on; what was heard before can still be taken in.
    ///
    /// # Errors
    /// The kernel's: then all is heard as before.
    pub fn pause(&mut self) -> io::Result<()> {
        self.socket.drop_membership(GROUP)
    }

    /// Hears again what is done.
    ///
    /// # Errors
    /// The kernel's: then nothing more is heard.
    pub fn resume(&mut self) -> io::Result<()> {
        self.socket.add_membership(GROUP)
    }

    /// Makes the descriptor readable, though nothing may have been done: by a question whose answer ends no transaction.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ring(&mut self) -> io::Result<()> {
        let question = Request::generation().encode(0);
        self.socket.send_to(&question, &SocketAddr::new(0, 0), 0)?;
        Ok(())
    }

    /// Becomes readable when something was done, to whatever table.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes in what there is, without waiting; if there is more, the descriptor stays readable.
    #[must_use]
    pub fn hear(&mut self) -> Heard {
        let mut heard = Heard::default();
        for _ in 0..AT_ONCE {
            match self.buffer.fill(self.socket.as_raw_fd()) {
                Ok(Some(datagram)) => {
                    for message in messages(datagram) {
                        let done = take(message, &self.table, &mut self.steps);
                        heard.transactions.extend(done);
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    heard.is_incomplete = true;
                    self.steps.clear();
                }
            }
        }
        heard
    }
}

/// Takes in a message; the transaction that it ends, if that touched our table.
fn take(message: &[u8], table: &[u8], steps: &mut Vec<Step>) -> Option<Transaction> {
    let [_, _, _, _, kind @ ..] = message.first_chunk::<6>()?;
    let [kind, subsystem] = u16::from_ne_bytes(*kind).to_le_bytes();
    if subsystem != SUBSYSTEM {
        return None;
    }
    let (head, attributes) = message.get(16..)?.split_first_chunk::<4>()?;
    if kind == NEW_GENERATION {
        let steps = std::mem::take(steps);
        return (!steps.is_empty()).then(|| Transaction {
            by: program(attributes),
            steps,
        });
    }
    let is_ours = head[0] == INET && text(attributes, TABLE)? == table;
    if !is_ours {
        return None;
    }
    let set = || BanSet::from_name(std::str::from_utf8(text(attributes, SET)?).ok()?);
    match (kind, set()) {
        (NEW_ELEMENT, Some(set)) => {
            let elements = decode::elements(message).unwrap_or_default();
            steps.extend(elements.into_iter().map(|it| Step::Added(set, it)));
        }
        (DELETED_ELEMENT, Some(set)) => {
            let keys = decode::deleted(message).unwrap_or_default();
            steps.extend(keys.into_iter().map(|key| Step::Deleted(set, key)));
        }
        (DELETED_TABLE | DELETED_SET, _) => note(steps, Step::Gone),
        (NEW_ELEMENT | DELETED_ELEMENT | 0..=LAST_FRAME, _) => note(steps, Step::Frame),
        _ => {}
    }
    None
}

/// The number of the ruleset's generation in the answer to a question for it.
pub(super) fn generation(message: &[u8]) -> Option<u32> {
    let number = attribute(message.get(20..)?, GENERATION)?;
    Some(u32::from_be_bytes(number.try_into().ok()?))
}

/// One word about it in a row is enough.
fn note(steps: &mut Vec<Step>, step: Step) {
    if steps.last() != Some(&step) {
        steps.push(step);
    }
}

fn program(attributes: &[u8]) -> Option<Program> {
    let pid = attribute(attributes, PROCESS)?.try_into().ok()?;
    Some(Program {
        pid: u32::from_be_bytes(pid),
        name: String::from_utf8_lossy(text(attributes, PROCESS_NAME)?).into_owned(),
    })
}

/// A string, up to its NUL.
fn text(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    attribute(attributes, kind)?.split(|byte| *byte == 0).next()
}

/// The payload of the first attribute of this kind.
fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let ([l0, l1, k0, k1], _) = attributes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let payload = attributes.get(4..length)?;
        // The two highest bits are flags.
        if u16::from_ne_bytes([*k0, *k1]) & 0x3fff == kind {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A filter that lets through what is not from this port: the kernel packs one transaction's messages together, and each has
/// the port in its header (`nlmsg_pid`).
fn not_from(port: u32) -> [SockFilter; 4] {
    let statement = |code: u32, jt, jf, k| {
        SockFilter::new(u16::try_from(code).expect("codes have 16 bits"), jt, jf, k)
    };
    // A load takes what it finds for big-endian.
    let found = u32::from_be_bytes(port.to_ne_bytes());
    [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 12),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, found),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let mut whole = Vec::new();
        whole.extend(40_u32.to_ne_bytes());
        whole.extend((u16::from(SUBSYSTEM) << 8 | 2).to_ne_bytes());
        whole.extend([0; 10]);
        whole.extend([INET, 0, 0, 0]);
        whole.extend(15_u16.to_ne_bytes());
        whole.extend(TABLE.to_ne_bytes());
        whole.extend(b"portsentry\0\0");
        let mut steps = Vec::new();
        assert_eq!(take(&whole, b"portsentry", &mut steps), None);
        assert_eq!(steps, [Step::Gone]);
        for cut in 0..whole.len() {
            let _ = take(&whole[..cut], b"portsentry", &mut steps);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 0xff] {
                let mut broken = whole.clone();
                broken[at] = value;
                let _ = take(&broken, b"portsentry", &mut steps);
            }
        }
        steps.clear();
        assert_eq!(take(&whole, b"another", &mut steps), None);
        assert!(steps.is_empty());
    }
}
