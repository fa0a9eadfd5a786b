//! Ignore files: who is never banned, one address, prefix or name a line, and [`IgnoreList`], which answers for an address.
//!
//! What a single line says is for `line`. Where names lead to is found out elsewhere, and what of this host itself is never banned is found out elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::complaint::{Complaint, Complaints, printable};
use super::{Ignore, IgnoreFile};

mod line;
mod name;

pub use line::{Syntax, prefix};
pub use name::{HostName, Whom};

/// Who is never banned by the admin's word. Answers for one address in at most 33 look-ups, 129 for IPv6,
/// one for each length of prefix that occurs.
#[derive(Clone, Debug, Default)]
pub struct IgnoreList {
    entries: BTreeMap<IpNet, Entry>,
    lengths4: BTreeSet<u8>,
    lengths6: BTreeSet<u8>,
    names: BTreeMap<HostName, Place>,
}

/// An address or prefix, and where it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Never of length 0; without host bits.
    pub net: IpNet,
    /// Where the admin finds it.
    pub place: Place,
}

/// What was read: addresses and prefixes, and names with where they are written.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// Addresses and prefixes.
    pub nets: Vec<Entry>,
    /// Names.
    pub names: Vec<(HostName, Place)>,
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

/// Each of them is looked up again and again.
const MAX_NAMES: usize = 64;

impl IgnoreList {
    /// The most specific entry that covers `address`. A mapped address (`::ffff:192.0.2.7`) is taken for its IPv4 one.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&Entry> {
        self.covering(address.to_canonical().into())
    }

    /// The most specific entry that covers all of `net`, host bits cleared.
    #[must_use]
    pub fn covering(&self, net: IpNet) -> Option<&Entry> {
        let lengths = match net {
            IpNet::V4(_) => &self.lengths4,
            IpNet::V6(_) => &self.lengths6,
        };
        lengths
            .range(..=net.prefix_len())
            .rev()
            .find_map(|&length| {
                let wider = IpNet::new(net.addr(), length).ok()?;
                self.entries.get(&wider.trunc())
            })
    }

    /// An entry that `net` shares addresses with: one that covers it, or else one that lies within it.
    #[must_use]
    pub fn overlapping(&self, net: IpNet) -> Option<&Entry> {
        // In the order of prefixes, what lies within one stands right behind it.
        let next = || self.entries.range(net..).next().map(|(_, entry)| entry);
        self.covering(net)
            .or_else(|| next().filter(|entry| net.contains(&entry.net)))
    }

    /// All entries, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The names, and where each is written first.
    #[must_use]
    pub fn names(&self) -> &BTreeMap<HostName, Place> {
        &self.names
    }

    /// How many entries there are; one that is written twice counts once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.names.len()
    }

    /// Whether nobody is ignored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Entries> for IgnoreList {
    /// Of entries that say the same, the first stays.
    fn from(entries: Entries) -> Self {
        let mut list = Self::default();
        for (name, place) in entries.names {
            list.names.entry(name).or_insert(place);
        }
        for entry in entries.nets {
            match entry.net {
                IpNet::V4(net) => list.lengths4.insert(net.prefix_len()),
                IpNet::V6(net) => list.lengths6.insert(net.prefix_len()),
            };
            list.entries.entry(entry.net).or_insert(entry);
        }
        list
    }
}

impl Entries {
    fn add(&mut self, whom: Whom, place: Place) {
        match whom {
            Whom::Net(net) => self.nets.push(Entry { net, place }),
            Whom::Name(name) => self.names.push((name, place)),
        }
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

impl Ignore {
    /// The file that additions go into: the first one; of 1.2's, the one that Debian keeps them in, where it is there.
    #[must_use]
    pub fn editable(&self) -> Option<&IgnoreFile> {
        // At each start, Debian's scripts for 1.2 make the other one anew out of this one.
        let lasts = |file: &&IgnoreFile| {
            file.syntax == Syntax::Legacy
                && file
                    .path
                    .file_name()
                    .is_some_and(|it| it == super::LEGACY_SECOND_IGNORE_FILE)
                && file.path.exists()
        };
        self.files.iter().find(lasts).or_else(|| self.files.first())
    }
}

/// Everybody the configuration tells to ignore: `ignore.addresses` and the files. Reads the files anew each time.
/// Beside the list stand warnings: about lines in 1.2's syntax that are passed over, or not what they look like.
///
/// # Errors
/// A file that cannot be read, but for one that is missing and was not named by the admin; lines in our syntax that are
/// no address.
pub fn read(ignore: &Ignore) -> Result<(IgnoreList, Complaints), Complaints> {
    let mut mistakes = Complaints::default();
    let mut warnings = Complaints::default();
    let mut entries = Entries::default();
    for whom in &ignore.addresses {
        entries.add(whom.clone(), Place::Addresses);
    }
    for file in &ignore.files {
        match text(file) {
            Ok(text) => {
                let (found, wrong) = parse(&file.path, file.syntax, &text);
                entries.nets.extend(found.nets);
                entries.names.extend(found.names);
                match file.syntax {
                    Syntax::Ours => mistakes.append(wrong),
                    Syntax::Legacy => warnings.append(wrong),
                }
            }
            Err(message) => mistakes.add(|| Complaint::about(&file.path, message)),
        }
    }
    let list = IgnoreList::from(entries);
    if let Some((name, place)) = list.names.iter().nth(MAX_NAMES) {
        let message = format!("{name} is one name too many: {MAX_NAMES} are looked up at most");
        mistakes.add(|| Complaint::about(Path::new(&place.to_string()), message));
    }
    mistakes.or((list, warnings))
}

/// Reads an ignore file's text, line by line.
///
/// The entries are those of the good lines, whatever the others hold.
#[must_use]
pub fn parse(file: &Path, syntax: Syntax, text: &str) -> (Entries, Complaints) {
    let name: Arc<Path> = file.into();
    let mut entries = Entries::default();
    let mut complaints = Complaints::default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, text) in text.split('\n').enumerate() {
        let line = syntax.read(text);
        if let Some(whom) = line.whom {
            let place = Place::Line {
                file: Arc::clone(&name),
                line: index + 1,
            };
            entries.add(whom, place);
        }
        if let Some(mistake) = line.mistake {
            complaints.add(|| mistake.on_line(file, index + 1, text));
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
                let key = match file.syntax {
                    Syntax::Ours => "ignore.files",
                    Syntax::Legacy => "IGNORE_FILE (in TOML: ignore.legacy_files)",
                };
                Err(format!(
                    "{key} names this file, but there is none; create it, or take it out there"
                ))
            } else {
                Ok(String::new())
            }
        }
        Err(error) => Err(super::cannot_read(&error)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    fn nets(text: &str) -> Vec<String> {
        let (entries, complaints) = parse(Path::new("/i"), Syntax::Ours, text);
        assert!(complaints.is_empty(), "{complaints}");
        entries
            .nets
            .iter()
            .map(|entry| entry.net.to_string())
            .collect()
    }

    fn wrong(text: &str) -> String {
        parse(Path::new("/i"), Syntax::Ours, text).1.to_string()
    }

    fn list(text: &str) -> IgnoreList {
        parse(Path::new("/i"), Syntax::Ours, text).0.into()
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
            wrong("10.0.0.1\n  localhost # no\n10.0.0.0/255.255.255.0\n"),
            "/i:2:3: \"localhost\" is no IP address or prefix, and no full name of a host such as office.example.net\n\
             \x20   localhost # no\n\
             \x20   ^~~~~~~~~\n\
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
    fn what_covers_a_prefix_is_found_past_what_is_narrower() {
        let list = list("10.0.0.0\n10.0.0.0/8\n10.1.0.0/16\n2001:db8::/32");
        for (net, covering) in [
            ("10.0.0.0/9", Some("/i:2")),
            ("10.0.0.0/32", Some("/i:1")),
            ("10.1.0.0/16", Some("/i:3")),
            ("10.0.0.0/7", None),
            ("2001:db8:5::/48", Some("/i:4")),
        ] {
            let found = list.covering(net.parse().unwrap());
            let place = found.map(|entry| entry.place.to_string());
            assert_eq!(place.as_deref(), covering, "{net}");
        }
    }

    #[test]
    fn files_as_1_2_had_them_are_merged_and_what_they_hold_wrong_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, named| IgnoreFile {
            path: dir.path().join(name),
            named,
            syntax: Syntax::Legacy,
        };
        let mut ignore = Ignore {
            files: vec![
                file("portsentry.ignore", true),
                file("portsentry.ignore.static", false),
            ],
            addresses: Vec::new(),
            host: BTreeSet::new(),
            refresh: Duration::ZERO,
        };
        let complaint = read(&ignore).unwrap_err().to_string();
        assert!(
            complaint.contains(": IGNORE_FILE (in TOML: ignore.legacy_files) names this file"),
            "{complaint}"
        );

        let main = &ignore.files[0].path;
        std::fs::write(
            main,
            b"# own\n127.0.0.1/32\n0.0.0.0\n\nB\xfcro\n10.9.0.2/33\n10.9.0.9/24",
        )
        .unwrap();
        let (list, warnings) = read(&ignore).unwrap();
        assert_eq!(list.len(), 3);
        let last = list.find("10.9.0.1".parse().unwrap()).unwrap();
        assert_eq!(last.place.to_string(), format!("{}:7", main.display()));
        let places: Vec<_> = warnings.iter().map(|it| it.place).collect();
        assert_eq!(places, [Some((5, 1)), Some((6, 1))]);
        assert_eq!(warnings.iter().filter(|it| it.alert.is_some()).count(), 1);
        assert_eq!(ignore.editable(), Some(&ignore.files[0]));

        let fixed = &ignore.files[1].path;
        std::fs::write(fixed, "2001:db8::/32\n").unwrap();
        let (list, _) = read(&ignore).unwrap();
        assert!(list.find("2001:db8::1".parse().unwrap()).is_some());
        assert_eq!(ignore.editable(), Some(&ignore.files[1]));
        ignore.files[1].syntax = Syntax::Ours;
        assert_eq!(ignore.editable(), Some(&ignore.files[0]));
    }

    #[test]
    fn a_flood_of_bad_lines_is_told_in_few() {
        let flood = format!("x{}\n", "y".repeat(10_000)).repeat(1000);
        let text = format!("{flood}{}192.0.2.7", "10.0.0.0/99\n".repeat(100_000));
        let (entries, warnings) = parse(Path::new("/i"), Syntax::Legacy, &text);
        assert_eq!(entries.nets.len(), 1);
        assert!(warnings.iter().count() <= Complaints::MAX);
        assert!(warnings.to_string().len() < 20_000);
    }

    #[test]
    fn names_are_kept_with_where_they_are_written_up_to_a_bound() {
        let list = list("office.example.net # x\n10.0.0.1\nOFFICE.example.net\nhome.example.net");
        let names: Vec<String> = (list.names().iter())
            .map(|(name, place)| format!("{name} {place}"))
            .collect();
        assert_eq!(names, ["home.example.net /i:4", "office.example.net /i:1"]);
        assert_eq!(list.len(), 3);

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ignore.list");
        let read = |names: usize| {
            let lines: String = (0..names)
                .map(|n| format!("n{n:03}.example.net\n"))
                .collect();
            std::fs::write(&path, lines).unwrap();
            let files = vec![IgnoreFile::new(path.clone())];
            let addresses = vec![Whom::parse("n000.example.net").unwrap()];
            read(&Ignore {
                files,
                addresses,
                host: BTreeSet::new(),
                refresh: Duration::ZERO,
            })
        };
        assert_eq!(read(MAX_NAMES).unwrap().0.names().len(), MAX_NAMES);
        let complaint = read(MAX_NAMES + 1).unwrap_err().to_string();
        assert!(
            complaint.contains("n064.example.net is one name too many: 64 are"),
            "{complaint}"
        );
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
                syntax: Syntax::Ours,
            }],
            addresses: vec![Whom::parse("192.0.2.0/24").unwrap()],
            host: BTreeSet::new(),
            refresh: Duration::ZERO,
        };

        let (list, _) = read(&ignore(false)).unwrap();
        let entry = list.find("192.0.2.9".parse().unwrap()).unwrap();
        assert_eq!(entry.place.to_string(), "ignore.addresses");
        assert_eq!(
            read(&ignore(true)).unwrap_err().to_string(),
            format!(
                "{}: ignore.files names this file, but there is none; create it, or take it out there",
                path.display()
            )
        );

        std::fs::write(&path, b"# B\xfcro\n198.51.100.1").unwrap();
        let (list, _) = read(&ignore(true)).unwrap();
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
            for syntax in [Syntax::Ours, Syntax::Legacy] {
                let (entries, complaints) = parse(Path::new("/i"), syntax, &text);
                let _ = complaints.to_string();
                prop_assert!(entries.nets.iter().all(|entry| entry.net.prefix_len() > 0));
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("ignore");
            std::fs::write(&path, &bytes).unwrap();
            for syntax in [Syntax::Ours, Syntax::Legacy] {
                let files = vec![IgnoreFile { path: path.clone(), named: true, syntax }];
                let ignore = Ignore { files, addresses: Vec::new(), host: BTreeSet::new(), refresh: Duration::ZERO };
                let read = read(&ignore);
                prop_assert!(syntax == Syntax::Ours || read.is_ok());
            }
        }
    }
}
