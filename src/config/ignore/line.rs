//! One line of an ignore file: whom it names, in our syntax or in 1.2's, and what is wrong with it.
//!
//! Files and lists of entries are for the module above.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::Path;

use ipnet::IpNet;

use super::name::{HostName, Whom};
use crate::config::complaint::{Complaint, line_of, quoted};
use crate::log::alerts;
use crate::source::unmapped;

/// How an ignore file's lines are read. Both know remarks behind `#`, blank lines, host bits, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// An address, a prefix or a name, and nothing else. What is none of them is a mistake.
    Ours,
    /// As 1.2 read it: what looks like an address or prefix at the beginning counts, and what follows is a remark. What
    /// is neither is passed over.
    Legacy,
}

/// What a line says. One may say something and have a mistake all the same.
pub(super) struct Line {
    pub(super) whom: Option<Whom>,
    pub(super) mistake: Option<Mistake>,
}

/// What is wrong with a line.
pub(super) struct Mistake {
    /// In bytes.
    span: Range<usize>,
    /// Cause and remedy.
    message: String,
    is_bad_netmask: bool,
}

impl Syntax {
    /// Whom the line names, if anybody: to find the lines that name somebody.
    #[must_use]
    pub fn names(self, line: &str) -> Option<Whom> {
        self.read(line).whom
    }

    pub(super) fn read(self, line: &str) -> Line {
        match self {
            Self::Ours => ours(line),
            Self::Legacy => legacy(line),
        }
    }
}

impl Mistake {
    /// The complaint about it, for the line `number` of `file`.
    pub(super) fn on_line(self, file: &Path, number: usize, line: &str) -> Complaint {
        let alert = self
            .is_bad_netmask
            .then(|| alerts::bad_netmask(&line_of(line.trim())));
        let mut complaint = Complaint::on_line(file, number, line, self.span, self.message);
        complaint.alert = alert;
        complaint
    }
}

impl Line {
    const EMPTY: Self = Self {
        whom: None,
        mistake: None,
    };

    fn of(whom: Whom) -> Self {
        Self {
            whom: Some(whom),
            ..Self::EMPTY
        }
    }

    fn wrong(line: &str, word: &str, message: String) -> Self {
        // A line is read from its first word on: what is found first is it.
        let start = line.find(word).unwrap_or_default();
        Self {
            whom: None,
            mistake: Some(Mistake {
                span: start..start + word.len(),
                message,
                is_bad_netmask: false,
            }),
        }
    }
}

fn ours(line: &str) -> Line {
    let words = line.split('#').next().unwrap_or_default().trim();
    if words.is_empty() {
        return Line::EMPTY;
    }
    Whom::parse(words).map_or_else(|message| Line::wrong(line, words, message), Line::of)
}

/// 1.2 skipped a line that begins with `#` or is empty, took the leading run of digits, dots, colons and slashes of any
/// other, and handed it to `inet_addr` and `atoi`. A line that began with a blank it took for nothing, and silently:
/// that one is read here.
fn legacy(line: &str) -> Line {
    let text = line.trim_start();
    if text.is_empty() || text.starts_with('#') {
        return Line::EMPTY;
    }
    let word = match leading(text, |c| c.is_ascii_hexdigit() || ".:/".contains(c)) {
        run if run.contains(':') => run,
        // Only IPv6 has letters: a remark may follow an IPv4 address at once.
        _ => leading(text, |c| c.is_ascii_digit() || "./".contains(c)),
    };
    if word.is_empty() {
        let word = text.split_whitespace().next().unwrap_or_default();
        return passed_over(line, word, &no_prefix_of_1_2(word));
    }
    let (host, length) = match word.split_once('/') {
        Some((host, length)) => (host, Some(length)),
        None => (word, None),
    };
    let is_octal = |number: &str| number.len() > 1 && number.starts_with('0');
    if !host.contains(':') && host.split('.').any(is_octal) {
        let cause = "an address in which a number begins with 0, which 1.2 took for octal; write it without that 0";
        return passed_over(line, word, cause);
    }
    let Some(address) = host
        .parse()
        .ok()
        .or_else(|| inet_addr(host).map(IpAddr::V4))
    else {
        return passed_over(line, word, &no_prefix(word));
    };
    let alone = IpNet::from(address);
    let bits = match length {
        None => alone.max_prefix_len(),
        Some("") => 0,
        Some(digits) => match digits.parse() {
            Ok(bits) if bits <= alone.max_prefix_len() => bits,
            _ => {
                let mut line = passed_over(line, word, &no_prefix(word));
                line.mistake
                    .iter_mut()
                    .for_each(|it| it.is_bad_netmask = true);
                return line;
            }
        },
    };
    let net = IpNet::new(address, bits).map_or(alone, |net| unmapped(net.trunc()));
    if net.prefix_len() > 0 {
        return Line::of(Whom::Net(net));
    }
    let alone = unmapped(alone);
    let message = format!(
        "{} would ignore everybody, and is taken for {} alone, as 1.2 took it; write that",
        quoted(word),
        alone.addr()
    );
    Line {
        whom: Some(Whom::Net(alone)),
        ..Line::wrong(line, word, message)
    }
}

fn passed_over(line: &str, word: &str, cause: &str) -> Line {
    let message = format!("passed over: {} is {cause}", quoted(word));
    Line::wrong(line, word, message)
}

fn leading(text: &str, belongs: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !belongs(c)).unwrap_or(text.len());
    &text[..end]
}

/// An IPv4 address as `inet_addr` reads it: the last of one to four numbers fills what is left, so that `10.9.2` is
/// 10.9.0.2. Octal and hexadecimal numbers are not for here.
fn inet_addr(text: &str) -> Option<Ipv4Addr> {
    let numbers: Option<Vec<u32>> = text.splitn(5, '.').map(|it| it.parse().ok()).collect();
    let numbers = numbers?;
    let (last, first) = numbers.split_last()?;
    let last = last.to_be_bytes();
    let (too_much, rest) = last.split_at_checked(first.len())?;
    if rest.is_empty() || too_much.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, number) in octets.iter_mut().zip(first) {
        *octet = u8::try_from(*number).ok()?;
    }
    octets[first.len()..].copy_from_slice(rest);
    Some(octets.into())
}

/// An address or prefix that an admin wrote. Host bits are cleared, a mapped IPv4 one is unmapped.
///
/// # Errors
/// Cause and remedy: it is neither, or would ignore everybody.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    let Some(net) = text
        .parse::<IpAddr>()
        .map(IpNet::from)
        .ok()
        .or_else(|| text.parse().ok())
    else {
        return Err(format!("{} is {}", quoted(text), no_prefix(text)));
    };
    let net = unmapped(net.trunc());
    if net.prefix_len() == 0 {
        return Err(format!(
            "{} would ignore everybody; to log scans and ban nobody, set response = \"log\" in [tcp] and [udp]",
            quoted(text)
        ));
    }
    Ok(net)
}

/// As [`no_prefix`], where names mean nothing.
fn no_prefix_of_1_2(text: &str) -> String {
    match HostName::parse(text) {
        Some(_) => "no IP address or prefix; names are looked up in the files of ignore.files alone, write the addresses".to_owned(),
        None => no_prefix(text),
    }
}

/// What `text` is instead of a prefix, and what to write.
fn no_prefix(text: &str) -> String {
    if text.split_whitespace().count() > 1 {
        return "more than one address; write one on each line, and # before a remark".to_owned();
    }
    if let Some((address, length)) = text.split_once('/') {
        if let Ok(mask) = length.parse::<Ipv4Addr>() {
            return match (
                address.parse::<Ipv4Addr>(),
                ipnet::ipv4_mask_to_prefix(mask),
            ) {
                (Ok(address), Ok(bits)) => {
                    format!("written with a netmask; write {address}/{bits}")
                }
                _ => "written with a netmask; write the number of bits, such as /24".to_owned(),
            };
        }
        match address.parse() {
            Ok(IpAddr::V4(_)) => return "an address with a bad length; write /1 to /32".to_owned(),
            Ok(IpAddr::V6(_)) => {
                return "an address with a bad length; write /1 to /128".to_owned();
            }
            Err(_) => {}
        }
    }
    if text.contains('%') {
        return "an address with an interface; write it without what begins with %".to_owned();
    }
    if text.contains(|c: char| c.is_alphabetic()) && !text.contains(':') {
        return "no IP address or prefix, and no full name of a host such as office.example.net"
            .to_owned();
    }
    "no IP address or prefix; write one such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Whom the line names, and what is wrong with it.
    fn read(syntax: Syntax, line: &str) -> (Option<String>, Option<String>) {
        let Line { whom, mistake } = syntax.read(line);
        let complaint = mistake.map(|it| it.on_line(Path::new("/i"), 1, line).to_string());
        (whom.map(|whom| whom.to_string()), complaint)
    }

    #[test]
    fn a_line_is_read_as_1_2_read_it_and_ours_says_no_where_that_was_a_guess() {
        for (line, theirs, ours) in [
            ("", "", ""),
            ("# 10.9.0.2", "", ""),
            ("10.9.0.2", "10.9.0.2/32", "10.9.0.2/32"),
            ("10.9.0.2/32", "10.9.0.2/32", "10.9.0.2/32"),
            ("10.9.0.9/24", "10.9.0.0/24", "10.9.0.0/24"),
            ("10.9.0.2 # comment", "10.9.0.2/32", "10.9.0.2/32"),
            ("10.9.0.2#comment", "10.9.0.2/32", "10.9.0.2/32"),
            ("10.9.0.2\r", "10.9.0.2/32", "10.9.0.2/32"),
            // 1.2 silently took these two for nothing.
            (" 10.9.0.2", "10.9.0.2/32", "10.9.0.2/32"),
            ("\t10.9.0.0/24 # x", "10.9.0.0/24", "10.9.0.0/24"),
            ("10.9.0.2 the printer", "10.9.0.2/32", "no"),
            ("10.9.0.2 10.9.0.3", "10.9.0.2/32", "no"),
            ("10.9.0.2deadbeef", "10.9.0.2/32", "no"),
            ("10.9.0.0/24,10.8.0.0/24", "10.9.0.0/24", "no"),
            ("10.9.2", "10.9.0.2/32", "no"),
            ("10.9.258", "10.9.1.2/32", "no"),
            ("10.9", "10.0.0.9/32", "no"),
            ("2130706433", "127.0.0.1/32", "no"),
            ("10.9.2/24", "10.9.0.0/24", "no"),
            ("0.0.0.0", "0.0.0.0/32", "0.0.0.0/32"),
            ("10.9.0.0/024", "10.9.0.0/24", "no"),
            ("255.255.255.255/1", "128.0.0.0/1", "128.0.0.0/1"),
            // 1.2 knew no IPv6.
            ("2001:db8::1", "2001:db8::1/128", "2001:db8::1/128"),
            ("2001:DB8::1/32 # x", "2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.9.0.2", "10.9.0.2/32", "10.9.0.2/32"),
            ("::ffff:10.9.0.0/120", "10.9.0.0/24", "10.9.0.0/24"),
            ("fe80::1%eth0", "fe80::1/128", "no"),
            ("Office.example.net # x", "", "office.example.net"),
            ("localhost", "", "no"),
        ] {
            assert_eq!(read(Syntax::Legacy, line).0, shown(theirs), "{line}");
            let (net, complaint) = read(Syntax::Ours, line);
            assert_eq!(complaint.is_some(), ours == "no", "{line}");
            assert_eq!(net, shown(ours).filter(|it| it != "no"), "{line}");
        }
    }

    fn shown(net: &str) -> Option<String> {
        Some(net.to_owned()).filter(|it| !it.is_empty())
    }

    #[test]
    fn what_says_nothing_in_1_2_s_syntax_is_passed_over_with_a_reason() {
        for (line, reason) in [
            (
                "example.org",
                "names are looked up in the files of ignore.files alone",
            ),
            ("localhost # me", "\"localhost\" is no IP address"),
            ("bad.cafe.example", "no IP address or prefix"),
            ("10.9.0.256", "no IP address or prefix"),
            ("10.9.65536", "no IP address or prefix"),
            ("256.9.2", "no IP address or prefix"),
            ("4294967296", "no IP address or prefix"),
            ("10.9.0.2.", "no IP address or prefix"),
            ("10..9", "no IP address or prefix"),
            ("1.2.3.4.5", "no IP address or prefix"),
            ("/24", "no IP address or prefix"),
            ("....", "no IP address or prefix"),
            ("10.9.0.2:80", "no IP address or prefix"),
            ("2001:db8:::1", "no IP address or prefix"),
            ("-10.9.0.2", "no IP address or prefix"),
            ("010.9.0.2", "which 1.2 took for octal"),
            ("10.9.0.00", "which 1.2 took for octal"),
        ] {
            let (net, complaint) = read(Syntax::Legacy, line);
            assert_eq!(net, None, "{line}");
            let complaint = complaint.unwrap_or_default();
            assert!(complaint.contains("passed over: "), "{line}: {complaint}");
            assert!(complaint.contains(reason), "{line}: {complaint}");
        }
    }

    #[test]
    fn a_bad_netmask_is_told_in_1_2_s_words_too() {
        for line in [
            "10.9.0.2/33",
            "10.9.0.2/255.255.255.255",
            "10.9.0.2/0.0.0.255 # x",
            "10.9.0.2/24/8",
            "10.9.0.2/4294967320",
            "2001:db8::/129",
            "2001:db8::/24f",
        ] {
            let Line { whom, mistake } = Syntax::Legacy.read(line);
            assert_eq!(whom, None, "{line}");
            let complaint = mistake.unwrap().on_line(Path::new("/i"), 7, line);
            assert_eq!(
                complaint.alert.unwrap(),
                format!("adminalert: Invalid netmask in config file: {line}  Ignoring entry.")
            );
        }
        let (_, complaint) = read(Syntax::Legacy, "10.9.0.0/255.255.255.0");
        assert!(complaint.unwrap().contains("write 10.9.0.0/24"));
        let long = format!("10.9.0.2/33 \u{1b}[2J{}", "x".repeat(1 << 20));
        let mistake = Syntax::Legacy.read(&long).mistake.unwrap();
        let complaint = mistake.on_line(Path::new("/i"), 1, &long);
        assert!(complaint.to_string().len() < 1000, "{complaint}");
        let alert = complaint.alert.unwrap();
        assert!(alert.len() < 250 && !alert.contains('\u{1b}'), "{alert}");
    }

    #[test]
    fn a_prefix_of_no_bits_names_its_address_alone_in_1_2_s_syntax_and_nobody_in_ours() {
        for (line, alone) in [
            ("0.0.0.0/0", "0.0.0.0/32"),
            ("10.9.0.2/0", "10.9.0.2/32"),
            ("10.9.0.2/00", "10.9.0.2/32"),
            ("10.9.0.2/ # x", "10.9.0.2/32"),
            ("::/0", "::/128"),
            ("::ffff:10.9.0.2/96", "10.9.0.2/32"),
        ] {
            let (net, complaint) = read(Syntax::Legacy, line);
            assert_eq!(net.as_deref(), Some(alone), "{line}");
            let complaint = complaint.unwrap_or_default();
            assert!(
                complaint.contains("would ignore everybody"),
                "{line}: {complaint}"
            );
            let (net, complaint) = read(Syntax::Ours, line);
            assert!(net.is_none() && complaint.is_some(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_by_both(
            line in "[0-9a-fx.:/%# \\r\\t]{0,60}",
            odd in any::<char>(),
        ) {
            let line = line.replace('x', &odd.to_string());
            for syntax in [Syntax::Ours, Syntax::Legacy] {
                let Line { whom, mistake } = syntax.read(&line);
                if let Some(Whom::Net(net)) = whom {
                    prop_assert!(net.prefix_len() > 0 && net == net.trunc());
                }
                let _ = mistake.map(|it| it.on_line(Path::new("/i"), 1, &line).to_string());
            }
        }

        #[test]
        fn what_ours_reads_1_2_s_syntax_reads_alike(
            address in any::<[u8; 16]>(),
            is_v4 in any::<bool>(),
            length in 1_u8..=128,
        ) {
            let address = match address {
                [a, b, c, d, ..] if is_v4 => IpAddr::from([a, b, c, d]),
                all => IpAddr::from(all),
            };
            let line = format!("{address}/{}  # x", length.min(if is_v4 { 32 } else { 128 }));
            prop_assert_eq!(Syntax::Legacy.names(&line), Syntax::Ours.names(&line));
        }
    }
}
