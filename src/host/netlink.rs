//! [`Conversation`]: questions to the kernel and all of their answers, within a time limit.
//!
//! Knows framing, sequence numbers, errors and ends; what questions and answers mean is for its callers.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A netlink socket that is asked one thing at a time, or many that are answered one by one. Opened when first needed, and
/// anew after a failure, so that late answers, or a list that was not read to its end, never meet the next question.
pub(super) struct Conversation {
    protocol: isize,
    strict: bool,
    socket: Option<Socket>,
    sequence: u32,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// How a question ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// All answers were given.
    Whole,
    /// All were given, but things changed meanwhile: some may be missing or twice.
    Interrupted,
    /// The kernel said no.
    Refused(Errno),
}

impl Answered {
    /// What the kernel says to a question that is no list.
    pub(super) fn into_result(self) -> Result<(), Errno> {
        match self {
            Self::Whole | Self::Interrupted => Ok(()),
            Self::Refused(errno) => Err(errno),
        }
    }
}

/// The step of a netlink conversation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be had.
    #[error("cannot open a netlink socket: {0}")]
    Open(io::Error),
    /// The question did not get out.
    #[error("cannot send to the kernel: {0}")]
    Send(io::Error),
    /// The answer did not get in.
    #[error("cannot receive from the kernel: {0}")]
    Receive(io::Error),
    /// The kernel said no.
    #[error("the kernel refused: {0}")]
    Refused(io::Error),
    /// The time is up.
    #[error("the kernel has not answered in full within a second")]
    Silent,
    /// The answer makes no sense.
    #[error("the kernel's answer cannot be read: {0}")]
    Garbled(&'static str),
}

/// Bytes for one datagram. The kernel fills at most 32 KiB when it lists (net/netlink/af_netlink.c, `netlink_dump`).
pub(super) const BUFFER: usize = 64 * 1024;

/// Time for one question with all its answers.
const PATIENCE: Duration = Duration::from_secs(1);

/// Questions in one datagram. The kernel answers all of them before we read the first answer, and what does not fit into
/// the socket's receive buffer (208 KiB, where nobody set another one; some 260 acknowledgements) is lost.
const MANY: usize = 64;

/// nlmsghdr's length, and where messages in a datagram begin.
const HEADER: usize = 16;
const ALIGN: usize = 4;

impl Conversation {
    pub(super) fn new(protocol: isize) -> Self {
        Self {
            protocol,
            strict: false,
            socket: None,
            sequence: 0,
            request: Vec::new(),
            buffer: Vec::with_capacity(BUFFER),
        }
    }

    /// A conversation in which the kernel heeds all that a question says: lists are of that kind only which the question's
    /// header asks for. What does not belong there is refused.
    pub(super) fn strict(protocol: isize) -> Self {
        Self {
            strict: true,
            ..Self::new(protocol)
        }
    }

    /// Asks, and hands the payload of each answer to `each`.
    pub(super) fn ask<Q: NetlinkSerializable>(
        &mut self,
        question: Q,
        flags: u16,
        mut each: impl FnMut(&[u8]),
    ) -> Result<Answered, Error> {
        let mut answered = self.exchange([question], flags, &mut |_, answer| each(answer))?;
        Ok(answered.pop().unwrap_or(Answered::Whole))
    }

    /// Asks many questions, and hands the payload of each answer to `each`, with the number of its question. How each
    /// ended, in their order: one that is refused does not keep the others from being asked.
    pub(super) fn ask_many<Q: NetlinkSerializable>(
        &mut self,
        questions: impl IntoIterator<Item = Q>,
        flags: u16,
        mut each: impl FnMut(usize, &[u8]),
    ) -> Result<Vec<Answered>, Error> {
        let mut questions = questions.into_iter().peekable();
        let mut answered = Vec::new();
        while questions.peek().is_some() {
            let before = answered.len();
            let some = questions.by_ref().take(MANY);
            let mut each = |number, answer: &[u8]| each(before + number, answer);
            answered.extend(self.exchange(some, flags, &mut each)?);
        }
        Ok(answered)
    }

    /// One datagram out, and answers until all its questions have their last.
    fn exchange<Q: NetlinkSerializable>(
        &mut self,
        questions: impl IntoIterator<Item = Q>,
        flags: u16,
        each: &mut impl FnMut(usize, &[u8]),
    ) -> Result<Vec<Answered>, Error> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.open().map_err(Error::Open)?,
        };
        let mut pending = Pending::from(self.sequence.wrapping_add(1));
        self.request.clear();
        for question in questions {
            self.sequence = self.sequence.wrapping_add(1);
            pending.ends.push(None);
            let mut header = NetlinkHeader::default();
            header.flags = NLM_F_REQUEST | flags;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
            message.finalize();
            let begin = self.request.len();
            let end = begin + message.buffer_len().next_multiple_of(ALIGN);
            self.request.resize(end, 0);
            message.serialize(&mut self.request[begin..]);
        }
        socket
            .send_to(&self.request, &SocketAddr::new(0, 0), libc::MSG_DONTWAIT)
            .map_err(Error::Send)?;

        let deadline = Instant::now() + PATIENCE;
        while pending.ends.contains(&None) {
            receive(&socket, &mut self.buffer, deadline)?;
            pending.read(&self.buffer, each)?;
        }
        self.socket = Some(socket);
        Ok(pending.ends.into_iter().flatten().collect())
    }

    fn open(&self) -> io::Result<Socket> {
        let mut socket = Socket::new(self.protocol)?;
        // An error then comes without a copy of the question.
        socket.set_cap_ack(true)?;
        if self.strict {
            socket.set_netlink_get_strict_chk(true)?;
        }
        socket.bind_auto()?;
        Ok(socket)
    }
}

/// Puts the next datagram from the kernel into `buffer`. The kernel answers while it takes the question in, so that
/// waiting is the exception.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, deadline: Instant) -> Result<(), Error> {
    loop {
        buffer.clear();
        match socket.recv_from(buffer, libc::MSG_DONTWAIT | libc::MSG_TRUNC) {
            Ok((length, _)) if length > buffer.len() => {
                return Err(Error::Garbled("it is longer than 64 KiB"));
            }
            Ok((_, sender)) if sender.port_number() == 0 => return Ok(()),
            // Another process may write to our socket; what it has to say is not an answer.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::Receive(error)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Silent);
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(
            &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
            timeout,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Receive(errno.into())),
        }
    }
}

/// The questions of a datagram, and how far they are answered.
struct Pending {
    /// The first one's sequence number.
    first: u32,
    ends: Vec<Option<Answered>>,
    interrupted: bool,
}

impl Pending {
    fn from(first: u32) -> Self {
        Self {
            first,
            ends: Vec::new(),
            interrupted: false,
        }
    }

    /// Goes through the messages of a datagram.
    fn read(&mut self, mut bytes: &[u8], each: &mut impl FnMut(usize, &[u8])) -> Result<(), Error> {
        while bytes.len() >= HEADER {
            let message = NetlinkBuffer::new_checked(bytes)
                .map_err(|_| Error::Garbled("a message's length is wrong"))?;
            let length = usize::try_from(message.length())
                .map_err(|_| Error::Garbled("a message's length is wrong"))?;
            bytes = bytes
                .get(length.next_multiple_of(ALIGN)..)
                .unwrap_or_default();
            let number = message.sequence_number().wrapping_sub(self.first);
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            let Some(end @ None) = self.ends.get_mut(number) else {
                continue;
            };
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            let payload = message.payload();
            let answered = |code: i32| match code {
                0 if self.interrupted => Answered::Interrupted,
                0 => Answered::Whole,
                code => Answered::Refused(Errno::from_raw(code.saturating_neg())),
            };
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_OVERRUN => return Err(Error::Garbled("data was lost")),
                NLMSG_ERROR => {
                    let error = ErrorBuffer::new_checked(payload)
                        .map_err(|_| Error::Garbled("an error without a code"))?;
                    *end = Some(answered(error.code().map_or(0, i32::from)));
                }
                NLMSG_DONE => {
                    // A list can end in an error too (net/netlink/af_netlink.c, netlink_dump_done).
                    let code = DoneBuffer::new_checked(payload).map_or(0, |done| done.code());
                    *end = Some(answered(code.min(0)));
                }
                _ => {
                    each(number, payload);
                    if message.flags() & NLM_F_MULTIPART == 0 {
                        *end = Some(answered(0));
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).unwrap();
        let mut bytes = Vec::new();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        bytes
    }

    fn read_all(bytes: &[u8]) -> (Option<Answered>, bool, Vec<Vec<u8>>) {
        let mut seen = Vec::new();
        let mut pending = Pending {
            ends: vec![None],
            ..Pending::from(7)
        };
        pending
            .read(bytes, &mut |_, payload| seen.push(payload.to_vec()))
            .unwrap();
        (pending.ends.remove(0), pending.interrupted, seen)
    }

    #[test]
    fn a_list_ends_with_done_and_answers_to_older_questions_do_not_count() {
        let mut bytes = message(20, NLM_F_MULTIPART, 6, b"late");
        bytes.extend(message(NLMSG_DONE, NLM_F_MULTIPART, 6, &[0; 4]));
        bytes.extend(message(20, NLM_F_MULTIPART | NLM_F_DUMP_INTR, 7, b"first"));
        assert_eq!(read_all(&bytes), (None, true, vec![b"first".to_vec()]));
        let end = message(NLMSG_DONE, NLM_F_MULTIPART, 7, &[0; 4]);
        assert_eq!(read_all(&end).0, Some(Answered::Whole));
    }

    #[test]
    fn a_refusal_says_why_be_it_of_a_single_question_or_of_a_list() {
        let code = (-libc::ENOENT).to_ne_bytes();
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let end = read_all(&message(kind, 0, 7, &code)).0;
            assert_eq!(end, Some(Answered::Refused(Errno::ENOENT)));
        }
    }

    #[test]
    fn of_many_questions_each_has_its_own_end() {
        let mut pending = Pending {
            ends: vec![None, None, None],
            ..Pending::from(u32::MAX)
        };
        let mut seen = Vec::new();
        let mut each = |number, payload: &[u8]| seen.push((number, payload.to_vec()));
        let code = |errno: i32| errno.to_ne_bytes();
        let mut bytes = message(NLMSG_ERROR, 0, 1, &code(0));
        bytes.extend(message(24, 0, u32::MAX, b"road"));
        bytes.extend(message(NLMSG_ERROR, 0, 2, &code(-libc::EPERM)));
        pending.read(&bytes, &mut each).unwrap();
        assert_eq!(
            pending.ends,
            [Some(Answered::Whole), None, Some(Answered::Whole)]
        );
        let bytes = message(NLMSG_ERROR, 0, 0, &code(-libc::EEXIST));
        pending.read(&bytes, &mut each).unwrap();
        assert_eq!(pending.ends[1], Some(Answered::Refused(Errno::EEXIST)));
        assert_eq!(seen, [(0, b"road".to_vec())]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            length in 0_u32..64,
            kind in 0_u16..5,
        ) {
            let header = message(kind, 0, 7, &[]);
            for (to, from) in bytes.iter_mut().zip(&header) {
                *to = *from;
            }
            for (to, from) in bytes.iter_mut().zip(length.to_ne_bytes()) {
                *to = from;
            }
            let mut pending = Pending {
                ends: vec![None, None],
                ..Pending::from(7)
            };
            let _ = pending.read(&bytes, &mut |_, _| {});
        }
    }
}
