//! Ignore files: who is never banned, one address or prefix a line, and [`IgnoreList`], which answers for an address.
//!
//! The syntax is 1.2's, with IPv6 and any prefix. What of this host itself is never banned is found out elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::complaint::{Complaint, Complaints, printable, quoted};
use super::{Ignore, IgnoreFile};
use crate::source::unmapped;

/// Who is never banned by the admin's word. Answers for one address in at most 33 look-ups, 129 for IPv6,
/// one for each length of prefix that occurs.
#[derive(Clone, Debug, Default)]
pub struct IgnoreList {
    entries: BTreeMap<IpNet, Entry>,
    lengths4: BTreeSet<u8>,
    lengths6: BTreeSet<u8>,
}

/// An address or prefix, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Never of length 0; without host bits.
    pub net: IpNet,
    /// Where the admin finds it.
    pub place: Place,
}

/// Where an entry is written: `/etc/portsentry/ignore.list:12`, `ignore.addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of an ignore file.
    Line {
        /// The file.
        file: Arc<Path>,
        /// Counted from 1.
        line: usize,
    },
    /// The key of this name in the configuration.
    Addresses,
}

/// A larger file is refused.
const MAX_BYTES: u64 = 16 << 20;

impl IgnoreList {
    /// The most specific entry that covers `address`. A mapped address (`::ffff:192.0.2.7`) is taken for its IPv4 one.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&Entry> {
        let address = address.to_canonical();
        let lengths = match address {
            IpAddr::V4(_) => &self.lengths4,
            IpAddr::V6(_) => &self.lengths6,
        };
        lengths.iter().rev().find_map(|&length| {
            let net = IpNet::new(address, length).ok()?;
            self.entries.get(&net.trunc())
        })
    }

    /// An entry that `net` shares addresses with: one that covers it, or else one that lies within it.
    #[must_use]
    pub fn overlapping(&self, net: IpNet) -> Option<&Entry> {
        let covering = self
            .find(net.addr())
            .filter(|entry| entry.net.contains(&net));
        // In the order of prefixes, what lies within one stands right behind it.
        let next = || self.entries.range(net..).next().map(|(_, entry)| entry);
        covering.or_else(|| next().filter(|entry| net.contains(&entry.net)))
    }

    /// All entries, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// How many entries there are; one that is written twice counts once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is ignored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl FromIterator<Entry> for IgnoreList {
    /// Of entries for the same prefix, the first stays.
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut list = Self::default();
        for entry in entries {
            match entry.net {
                IpNet::V4(net) => list.lengths4.insert(net.prefix_len()),
                IpNet::V6(net) => list.lengths6.insert(net.prefix_len()),
            };
            list.entries.entry(entry.net).or_insert(entry);
        }
        list
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.net, self.place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { file, line } => {
                write!(f, "{}:{line}", printable(&file.to_string_lossy()))
            }
            Self::Addresses => f.write_str("ignore.addresses"),
        }
    }
}

/// Everybody the configuration tells to ignore: `ignore.addresses` and the files. Reads the files anew each time.
///
/// # Errors
/// A file that cannot be read, but for one that is missing and was not named by the admin; lines that are no address.
pub fn read(ignore: &Ignore) -> Result<IgnoreList, Complaints> {
    let mut complaints = Complaints::default();
    let mut entries: Vec<Entry> = ignore
        .addresses
        .iter()
        .map(|&net| Entry {
            net,
            place: Place::Addresses,
        })
        .collect();
    for file in &ignore.files {
        match text(file) {
            Ok(text) => {
                let (found, wrong) = parse(&file.path, &text);
                entries.extend(found);
                complaints.append(wrong);
            }
            Err(message) => complaints.add(|| Complaint::about(&file.path, message)),
        }
    }
    complaints.or(entries.into_iter().collect())
}

/// Reads an ignore file's text: an address or prefix a line, blanks around it, `#` and what follows, empty lines.
///
/// Host bits are allowed. The entries are those of the good lines, whatever the others hold.
#[must_use]
pub fn parse(file: &Path, text: &str) -> (Vec<Entry>, Complaints) {
    let name: Arc<Path> = file.into();
    let mut entries = Vec::new();
    let mut complaints = Complaints::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.split('\n').enumerate() {
        let words = line.split('#').next().unwrap_or_default().trim();
        if words.is_empty() {
            continue;
        }
        match prefix(words) {
            Ok(net) => entries.push(Entry {
                net,
                place: Place::Line {
                    file: Arc::clone(&name),
                    line: index + 1,
                },
            }),
            Err(message) => complaints.add(|| {
                let start = line.find(words).unwrap_or_default();
                let span = start..start + words.len();
                Complaint::on_line(file, index + 1, line, span, message)
            }),
        }
    }
    (entries, complaints)
}

/// What the file holds; nothing for one that is missing and was not named by the admin.
/// Bytes that are not UTF-8 are replaced: they harm no comment, and no address has any.
fn text(file: &IgnoreFile) -> Result<String, String> {
    match super::read_file(&file.path, MAX_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if file.named {
                Err(
                    "ignore.files names this file, but there is none; create it, or take it out of ignore.files"
                        .to_owned(),
                )
            } else {
                Ok(String::new())
            }
        }
        Err(error) => Err(super::cannot_read(&error)),
    }
}

/// An address or prefix that an admin wrote, or cause and remedy. Host bits are cleared, a mapped IPv4 one is unmapped.
pub(super) fn prefix(text: &str) -> Result<IpNet, String> {
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
        return "no IP address or prefix; names are not looked up, write the addresses".to_owned();
    }
    "no IP address or prefix; write one such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(text: &str) -> Vec<String> {
        let (entries, complaints) = parse(Path::new("/i"), text);
        assert!(complaints.is_empty(), "{complaints}");
        entries.iter().map(|entry| entry.net.to_string()).collect()
    }

    fn wrong(text: &str) -> String {
        parse(Path::new("/i"), text).1.to_string()
    }

    fn list(text: &str) -> IgnoreList {
        parse(Path::new("/i"), text).0.into_iter().collect()
    }

    #[test]
    fn what_1_2_wrote_is_read() {
        assert_eq!(
            nets(
                "# me\n127.0.0.1/32\n\n  10.9.0.9/24\n10.9.0.2 # printer\r\n\t192.0.2.7#x\n198.51.100.7"
            ),
            [
                "127.0.0.1/32",
                "10.9.0.0/24",
                "10.9.0.2/32",
                "192.0.2.7/32",
                "198.51.100.7/32"
            ]
        );
    }

    #[test]
    fn ipv6_and_mapped_addresses_are_read() {
        assert_eq!(
            nets("2001:db8::1/48\n::1\n::ffff:192.0.2.7\n::ffff:10.0.0.0/104"),
            ["2001:db8::/48", "::1/128", "192.0.2.7/32", "10.0.0.0/8"]
        );
    }

    #[test]
    fn a_line_that_is_no_address_is_refused_with_its_place() {
        assert_eq!(
            wrong("10.0.0.1\n  example.org # no\n10.0.0.0/255.255.255.0\n"),
            "/i:2:3: \"example.org\" is no IP address or prefix; names are not looked up, write the addresses\n\
             \x20   example.org # no\n\
             \x20   ^~~~~~~~~~~\n\
             /i:3:1: \"10.0.0.0/255.255.255.0\" is written with a netmask; write 10.0.0.0/24\n\
             \x20 10.0.0.0/255.255.255.0\n\
             \x20 ^~~~~~~~~~~~~~~~~~~~~~"
        );
        for (line, cause) in [
            ("10.9.2", "no IP address or prefix; write one such as"),
            ("10.0.0.1 10.0.0.2", "more than one address"),
            (
                "10.0.0.0/33",
                "an address with a bad length; write /1 to /32",
            ),
            (
                "2001:db8::/129",
                "an address with a bad length; write /1 to /128",
            ),
            ("fe80::1%eth0", "an address with an interface"),
            ("10.0.0.0/255.0.255.0", "write the number of bits"),
            ("10.0.0.\0", "\"10.0.0.\\0\" is no IP address"),
        ] {
            assert!(wrong(line).contains(cause), "{line}: {}", wrong(line));
        }
    }

    #[test]
    fn a_prefix_meets_what_covers_it_and_what_lies_within() {
        let list = list("192.0.2.7\n10.0.0.0/8\n2001:db8:0:1::1\n2001:db8:0:3::/64");
        for (net, met) in [
            ("192.0.2.0/24", Some("192.0.2.7/32 in /i:1")),
            ("192.0.2.8/29", None),
            ("10.1.0.0/16", Some("10.0.0.0/8 in /i:2")),
            ("11.0.0.0/16", None),
            ("2001:db8::/64", None),
            ("2001:db8:0:1::/64", Some("2001:db8:0:1::1/128 in /i:3")),
            ("2001:db8:0:2::/63", Some("2001:db8:0:3::/64 in /i:4")),
        ] {
            let found = list.overlapping(net.parse().unwrap());
            assert_eq!(found.map(ToString::to_string).as_deref(), met, "{net}");
        }
    }

    #[test]
    fn an_entry_that_would_ignore_everybody_is_refused() {
        for line in ["0.0.0.0/0", "10.0.0.0/0", "::/0", "::ffff:0.0.0.0/96"] {
            assert!(wrong(line).contains("would ignore everybody"), "{line}");
        }
    }

    #[test]
    fn the_most_specific_entry_answers_and_says_where_it_stands() {
        let list = list("10.0.0.0/8\n10.1.0.0/16\n10.1.2.3\n2001:db8::/32\n10.0.0.0/8");
        let place = |address: &str| {
            list.find(address.parse().unwrap())
                .map(|entry| entry.place.to_string())
        };
        assert_eq!(place("10.1.2.3").as_deref(), Some("/i:3"));
        assert_eq!(place("10.1.2.4").as_deref(), Some("/i:2"));
        assert_eq!(place("10.2.0.0").as_deref(), Some("/i:1"));
        assert_eq!(place("::ffff:10.2.0.0").as_deref(), Some("/i:1"));
        assert_eq!(place("2001:db8:1::1").as_deref(), Some("/i:4"));
        assert_eq!(place("11.0.0.0"), None);
        assert_eq!(place("2001:db9::"), None);
        assert_eq!(list.len(), 4);
    }

    #[test]
    fn a_hundred_thousand_entries_are_found() {
        let text: String = (0..100_000_u32)
            .map(|n| format!("{}\n", Ipv4Addr::from_bits(0x0a00_0000 + 2 * n)))
            .collect();
        let list = list(&text);
        assert_eq!(list.len(), 100_000);
        for n in 0..200_000_u32 {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + n).into();
            assert_eq!(list.find(address).is_some(), n % 2 == 0);
        }
    }

    #[test]
    fn only_a_missing_file_that_nobody_named_is_no_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ignore.list");
        let ignore = |named| Ignore {
            files: vec![IgnoreFile {
                path: path.clone(),
                named,
            }],
            addresses: vec!["192.0.2.0/24".parse().unwrap()],
            host: BTreeSet::new(),
        };

        let list = read(&ignore(false)).unwrap();
        let entry = list.find("192.0.2.9".parse().unwrap()).unwrap();
        assert_eq!(entry.place.to_string(), "ignore.addresses");
        assert_eq!(
            read(&ignore(true)).unwrap_err().to_string(),
            format!(
                "{}: ignore.files names this file, but there is none; create it, or take it out of ignore.files",
                path.display()
            )
        );

        std::fs::write(&path, b"# B\xfcro\n198.51.100.1").unwrap();
        let list = read(&ignore(true)).unwrap();
        let entry = list.find("198.51.100.1".parse().unwrap()).unwrap();
        assert_eq!(entry.place.to_string(), format!("{}:2", path.display()));

        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let complaint = read(&ignore(false)).unwrap_err().to_string();
        assert!(complaint.contains("is a directory"), "{complaint}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            text in "[0-9a-f.:/# \n\r]{0,60}",
            odd in any::<char>(),
        ) {
            let text = text.replace('a', &odd.to_string());
            let (entries, complaints) = parse(Path::new("/i"), &text);
            let _ = complaints.to_string();
            prop_assert!(entries.iter().all(|entry| entry.net.prefix_len() > 0));
        }
    }
}
