//! [`Token`]: what an event is about, in the 64 bits that epoll keeps for us.

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Signal,
    Host,
    Ignore,
    History,
    Replay,
    Adoption,
    Control,
    Program,
    Name,
    Listen,
    Responder,
    Meddling,
    Surroundings,
    Closings,
    Traps,
    Capture(usize),
    Client(u64),
}

impl Token {
    /// What epoll keeps beside the descriptor: the kind in the low byte, its number above.
    pub(super) fn data(self) -> u64 {
        match self {
            Self::Signal => 0,
            Self::Host => 1,
            Self::Ignore => 2,
            Self::History => 3,
            Self::Adoption => 4,
            Self::Control => 5,
            Self::Program => 6,
            Self::Name => 7,
            Self::Listen => 8,
            Self::Responder => 9,
            Self::Meddling => 10,
            Self::Surroundings => 11,
            Self::Replay => 12,
            Self::Traps => 13,
            Self::Closings => 14,
            Self::Capture(which) => count(which) << 8 | 15,
            Self::Client(id) => id << 8 | 16,
        }
    }

    pub(super) fn of(data: u64) -> Self {
        match data & 0xff {
            0 => Self::Signal,
            1 => Self::Host,
            2 => Self::Ignore,
            3 => Self::History,
            4 => Self::Adoption,
            5 => Self::Control,
            6 => Self::Program,
            7 => Self::Name,
            8 => Self::Listen,
            9 => Self::Responder,
            10 => Self::Meddling,
            11 => Self::Surroundings,
            12 => Self::Replay,
            13 => Self::Traps,
            14 => Self::Closings,
            15 => Self::Capture(usize::try_from(data >> 8).unwrap_or(usize::MAX)),
            _ => Self::Client(data >> 8),
        }
    }
}

pub(super) fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        use Token::{
            Adoption, Capture, Client, Closings, Control, History, Host, Ignore, Listen, Meddling,
            Name, Program, Replay, Responder, Signal, Surroundings, Traps,
        };
        for token in [
            Signal,
            Host,
            Ignore,
            History,
            Replay,
            Adoption,
            Control,
            Program,
            Name,
            Listen,
            Responder,
            Meddling,
            Surroundings,
            Closings,
            Traps,
            Capture(3),
            Client(0),
            Client(1 << 40),
        ] {
            assert_eq!(Token::of(token.data()), token);
        }
    }
}
