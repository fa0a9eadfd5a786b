//! What old versions wrote down: who was blocked, and when. One line of text at a time, for a history may be larger than
//! memory.
//!
//! Names of hosts in these lines are strangers' words; they stand before or behind what counts and never decide.

use std::io::{self, BufRead};
use std::net::IpAddr;

use jiff::fmt::strtime;

/// A line that tells of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who was blocked.
    pub address: IpAddr,
    /// Seconds since 1970; `None` where the time makes no sense.
    pub at: Option<i64>,
}

/// Bytes of a line that are looked at. 1.2 keeps names of up to 1,024 bytes, 2.x lines of as many.
const MAX_LINE: usize = 4096;

impl Record {
    /// Reads a line, without its end, of the history or of a blocked file of 1.2, or of the history of 2.x.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        Self::of_1_2(line).or_else(|| Self::of_2(line))
    }

    /// `1795366059 - 11/22/2026 16:47:39 Host: name/10.9.0.2 Port: 11 TCP Blocked`, read from its end: a name may hold anything.
    fn of_1_2(line: &[u8]) -> Option<Self> {
        let rest = line.strip_suffix(b" Blocked")?;
        let rest = (rest.strip_suffix(b" TCP")).or_else(|| rest.strip_suffix(b" UDP"))?;
        let (rest, port) = rest.split_at(last(rest, b" Port: ")?);
        number::<u16>(&port[b" Port: ".len()..])?;
        let (rest, address) = rest.split_at(last(rest, b"/")?);
        let (seconds, rest) = rest.split_at(first(rest, b" - ")?);
        first(rest, b" Host: ")?;
        Some(Self {
            address: self::address(&address[1..])?,
            at: number(seconds),
        })
    }

    /// `2026-02-22T10:11:12.345+0100 Scan from: [10.9.0.2] (name) protocol: [TCP] … blocked: [true]`. Lines of scans that it did
    /// not block are many more.
    fn of_2(line: &[u8]) -> Option<Self> {
        let line = line.strip_suffix(b" blocked: [true]")?;
        let (time, rest) = line.split_at(first(line, b" ")?);
        let rest = rest.strip_prefix(b" Scan from: [")?;
        let address = self::address(&rest[..first(rest, b"]")?])?;
        let at = std::str::from_utf8(time).ok().and_then(|time| {
            let time = strtime::parse("%Y-%m-%dT%H:%M:%S%.f%z", time).ok()?;
            Some(time.to_timestamp().ok()?.as_second())
        });
        Some(Self { address, at })
    }
}

/// Hands every record in `text` to `each`. Of a line that is too long for a record, the rest is passed over.
///
/// # Errors
/// Reading fails.
pub fn read(mut text: impl BufRead, mut each: impl FnMut(Record)) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        let chunk = match text.fill_buf() {
            Ok([]) => break,
            Ok(chunk) => chunk,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause),
        };
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        // One more than the limit is kept, to tell.
        let room = (MAX_LINE + 1).saturating_sub(line.len());
        line.extend_from_slice(&part[..part.len().min(room)]);
        let taken = part.len() + usize::from(end.is_some());
        text.consume(taken);
        if end.is_some() {
            take(&mut line, &mut each);
        }
    }
    take(&mut line, &mut each);
    Ok(())
}

fn take(line: &mut Vec<u8>, each: &mut impl FnMut(Record)) {
    if line.len() <= MAX_LINE {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(record) = Record::parse(text) {
            each(record);
        }
    }
    line.clear();
}

fn address(text: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn first(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

fn last(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).rposition(|window| window == part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(line: &str) -> Option<(String, Option<i64>)> {
        Record::parse(line.as_bytes()).map(|record| (record.address.to_string(), record.at))
    }

    #[test]
    fn lines_of_both_versions_name_whom_they_blocked_and_when() {
        for (line, address, at) in [
            (
                "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked",
                "10.9.0.2",
                Some(1_795_366_059),
            ),
            (
                "5 - 01/01/1970 00:00:05 Host: a/b - x Port: 1 TCP Blocked/10.9.0.2 Port: 161 UDP Blocked",
                "10.9.0.2",
                Some(5),
            ),
            (
                "x - 11/22/2026 16:47:39 Host: fd09::2/fd09::2 Port: 11 TCP Blocked",
                "fd09::2",
                None,
            ),
            (
                "1970-01-01T01:00:05.123+0100 Scan from: [10.9.0.2] (10.9.0.2) protocol: [TCP] port: [11] type: [TCP SYN scan] \
                 IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]",
                "10.9.0.2",
                Some(5),
            ),
            (
                "yesterday Scan from: [fd09::2] (x] Scan from: [10.9.0.2]) blocked: [true]",
                "fd09::2",
                None,
            ),
        ] {
            assert_eq!(parse(line), Some((address.to_owned(), at)), "{line}");
        }
    }

    #[test]
    fn other_lines_name_nobody() {
        for line in [
            "",
            " Blocked",
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Ignored",
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 11 SCTP Blocked",
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 70000 TCP Blocked",
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/x Port: 11 TCP Blocked",
            "Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked",
            "1970-01-01T01:00:05.123+0100 Scan from: [10.9.0.2] (x) ignored: [true] blocked: [unset]",
            "1970-01-01T01:00:05.123+0100 Scan from: [10.9.0.2] (x) noblock: [true] blocked: [false]",
            "Scan from: [10.9.0.2] (x) blocked: [true]",
            "1970-01-01T01:00:05.123+0100 Scan from: [ (x) blocked: [true]",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_line_without_an_end_or_that_never_ends_costs_no_other_one() {
        let good = "5 - 01/01/1970 00:00:05 Host: x/10.9.0.2 Port: 11 TCP Blocked";
        let endless = format!("{}{good}", "x".repeat(MAX_LINE));
        let text = format!("{good}\r\n{endless}\n\n{good}\n{endless}\n{good}");
        let mut found = 0;
        let slowly = io::BufReader::with_capacity(7, text.as_bytes());
        read(slowly, |_| found += 1).unwrap();
        assert_eq!(found, 3);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(
            parts in proptest::collection::vec(prop::sample::select(vec![
                " Blocked", " TCP", " Port: ", "1", "/", "10.9.0.2", " - ", " Host: ", "\n", "[", "] (", " Scan from: [",
                " blocked: [true]", "2026-02-22T10:11:12.345+0100", "é", "\r", "%",
            ]), 0..20),
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            for text in [parts.concat().into_bytes(), bytes] {
                read(text.as_slice(), |_| {}).unwrap();
            }
        }
    }
}
