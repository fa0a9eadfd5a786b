//! The words of inet_diag: its question and the fixed part of its answer (include/uapi/linux/inet_diag.h).
//!
//! Ours, since the crate that has them asks for a newer Rust than Debian's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NetlinkSerializable;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const IPPROTO_UDP: u8 = 17;
/// The states of a connected and of a listening socket (include/net/tcp_states.h).
pub(super) const TCP_ESTABLISHED: u8 = 1;
pub(super) const TCP_LISTEN: u8 = 10;
/// The attribute that has a `struct tcp_info`, where it is asked for.
pub(super) const INET_DIAG_INFO: u16 = 2;
/// The timer of an answer that is a keepalive's.
pub(super) const TIMER_KEEPALIVE: u8 = 2;
/// The attribute that says whether an IPv6 socket keeps to IPv6.
pub(super) const INET_DIAG_SKV6ONLY: u16 = 11;

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;

/// `INET_DIAG_NOCOOKIE`: any socket will do.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// `struct inet_diag_req_v2`
pub(super) struct Question {
    pub(super) family: u8,
    pub(super) protocol: u8,
    /// Whether [`INET_DIAG_INFO`] is wanted.
    pub(super) with_info: bool,
    /// A bit for each state that counts, heeded when listing alone.
    pub(super) states: u32,
    pub(super) socket: SocketId,
}

/// `struct inet_diag_sockid`
pub(super) struct SocketId {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    /// 0: any.
    pub(super) interface: u32,
}

/// Of `struct inet_diag_msg`, what tells whose port it is, and how old a connection.
pub(super) struct Answer {
    pub(super) state: u8,
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    /// The kernel's number for the socket.
    pub(super) cookie: u64,
    /// Which timer runs, and for how many milliseconds yet.
    pub(super) timer: (u8, u32),
    /// Whose it is.
    pub(super) uid: u32,
}

impl Question {
    const LENGTH: usize = 56;
}

impl NetlinkSerializable for Question {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        Self::LENGTH
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let SocketId {
            source,
            destination,
            interface,
        } = &self.socket;
        let extensions = u8::from(self.with_info) << (INET_DIAG_INFO - 1);
        buffer.fill(0);
        buffer[..3].copy_from_slice(&[self.family, self.protocol, extensions]);
        buffer[4..8].copy_from_slice(&self.states.to_ne_bytes());
        buffer[8..10].copy_from_slice(&source.1.to_be_bytes());
        buffer[10..12].copy_from_slice(&destination.1.to_be_bytes());
        for (place, (address, _)) in [(12, source), (28, destination)] {
            match address {
                IpAddr::V4(v4) => buffer[place..place + 4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => buffer[place..place + 16].copy_from_slice(&v6.octets()),
            }
        }
        buffer[44..48].copy_from_slice(&interface.to_ne_bytes());
        buffer[48..].copy_from_slice(&NO_COOKIE);
    }
}

impl SocketId {
    /// Any socket of IPv4 or of IPv6.
    pub(super) fn any(ip: IpAddr) -> Self {
        let nowhere = match ip {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self {
            source: (nowhere, 0),
            destination: (nowhere, 0),
            interface: 0,
        }
    }
}

impl Answer {
    /// The fixed part, and the attributes behind it; `None` if it cannot be read.
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, attributes) = bytes.split_first_chunk::<72>()?;
        let family = fixed[0];
        let address = |at: usize| {
            let octets: [u8; 16] = fixed.get(at..at + 16)?.try_into().ok()?;
            match family {
                AF_INET => Some(IpAddr::from(*octets.first_chunk::<4>()?)),
                AF_INET6 => Some(IpAddr::from(octets)),
                _ => None,
            }
        };
        let port = |at: usize| Some(u16::from_be_bytes(*fixed.get(at..)?.first_chunk()?));
        let number = |at: usize| Some(u32::from_ne_bytes(*fixed.get(at..)?.first_chunk()?));
        let answer = Self {
            state: fixed[1],
            source: (address(8)?, port(4)?),
            destination: (address(24)?, port(6)?),
            cookie: u64::from_ne_bytes(*fixed.get(44..)?.first_chunk()?),
            timer: (fixed[2], number(52)?),
            uid: number(64)?,
        };
        Some((answer, attributes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_what_the_kernel_expects() {
        let host: IpAddr = "10.9.0.1".parse().unwrap();
        let question = Question {
            family: AF_INET,
            protocol: IPPROTO_TCP,
            with_info: true,
            states: 1 << TCP_LISTEN,
            socket: SocketId {
                source: (host, 80),
                ..SocketId::any(host)
            },
        };
        let mut expected = vec![2, 6, 2, 0];
        expected.extend((1_u32 << 10).to_ne_bytes());
        expected.extend([0, 80, 0, 0]);
        expected.extend([10, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend([0; 16 + 4]);
        expected.extend([0xff; 8]);
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        assert_eq!(bytes, expected);
    }
}
