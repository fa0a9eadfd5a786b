//! Bytes to [`Probe`]: IPv4 and IPv6 with its extension headers, fragments, TCP and UDP.
//!
//! Pure: no I/O and no panic, whatever the bytes. What cannot be a probe is a [`Skip`], which is counted and never logged.

use std::fmt;
use std::net::IpAddr;

/// The two transport protocols that we watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// What a probe looks like, in the field's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScanType {
    /// TCP, SYN alone: an ordinary connection attempt, or `nmap -sS`, `-sT`.
    Syn,
    /// TCP, FIN alone: `nmap -sF`.
    Fin,
    /// TCP without any flag: `nmap -sN`.
    Null,
    /// TCP with at least FIN, PSH and URG: `nmap -sX`.
    Xmas,
    /// TCP with any other set of flags that lacks ACK and RST.
    Odd,
    /// The first fragment of a TCP segment, cut before the flags: no stack sends that, `nmap -f` does.
    Fragment,
    /// A UDP datagram.
    Udp,
}

/// One packet at a port that may be watched. Small and `Copy`: it holds nothing of the bytes it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who sent it, or pretends to have.
    pub source: IpAddr,
    /// The address it was sent to.
    pub dest: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The destination port.
    pub port: u16,
    /// What it looks like.
    pub scan_type: ScanType,
    /// Whether the IPv4 header carries options.
    pub ip_options: bool,
}

impl Protocol {
    /// `tcp` or `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl ScanType {
    /// Every type, for those who parse the names back.
    pub const ALL: [Self; 7] = [
        Self::Syn,
        Self::Fin,
        Self::Null,
        Self::Xmas,
        Self::Odd,
        Self::Fragment,
        Self::Udp,
    ];

    /// The word before "scan": `syn`, `fin`, `null`, `xmas`, `odd-flags`, `fragment`, `udp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Fin => "fin",
            Self::Null => "null",
            Self::Xmas => "xmas",
            Self::Odd => "odd-flags",
            Self::Fragment => "fragment",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for ScanType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
