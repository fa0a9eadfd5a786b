//! The native configuration: TOML text into [`Config`], the files beside it merged over it, all complaints at once.
//!
//! What each key takes stands in `keys.rs`, what must fit between keys in `fit.rs`; here are files and sections. The
//! main file may be 1.2's, which `legacy.rs` reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::complaint::{Complaint, Complaints, printable, quoted, suggestion};
use super::fit::misfits;
use super::syntax::{Readable, utf8};
use super::value::{Fault, Value};
use super::{
    Config, Control, IgnoreFile, LEGACY_SECOND_IGNORE_FILE, Loaded, WatchMode, cannot_read,
    is_legacy, keys, legacy, read_file,
};

/// A larger file is refused.
const MAX_BYTES: u64 = 4 << 20;

/// Reads the file at `path` and those in the directory `<path>.d`. The modes are for a file of 1.2's.
pub(super) fn load(path: &Path, modes: &BTreeSet<WatchMode>) -> Result<Loaded, Complaints> {
    let mut draft = Draft::of(path, modes);
    let mut warnings = std::mem::take(&mut draft.warnings);
    let config = draft.finish()?;
    if is_legacy(path) && config.command.ban.is_some() && config.command.unban.is_none() {
        warnings.push(
            "KILL_ROUTE is run as it stands, and nothing undoes it when a ban ends; \
             write a command that does into unban of [command]"
                .to_owned(),
        );
    }
    Ok(Loaded { config, warnings })
}

/// `[control]` of the same files, whatever else is wrong with them.
pub(super) fn control(path: &Path) -> Control {
    Draft::of(path, &BTreeSet::new()).config.control
}

/// Reads `text` as the whole configuration; `file` is what complaints cite.
pub(super) fn parse(file: &Path, text: &str) -> Result<Config, Complaints> {
    let mut draft = Draft::default();
    draft.take(file, text.to_owned());
    draft.finish()
}

/// A configuration in the making: the values so far, where each was set, and what is wrong.
#[derive(Default)]
struct Draft {
    config: Config,
    files: Vec<(PathBuf, String)>,
    places: BTreeMap<&'static str, (usize, Range<usize>)>,
    /// Keys whose value could not be read: what depends on them is not judged.
    failed: BTreeSet<&'static str>,
    /// A file could not be read in whole: keys may be missing.
    torn: bool,
    warnings: Vec<String>,
    complaints: Complaints,
}

impl Draft {
    /// The file at `path` and those in the directory `<path>.d`.
    fn of(path: &Path, modes: &BTreeSet<WatchMode>) -> Self {
        let mut draft = Self::default();
        if is_legacy(path) {
            draft.read_legacy(path, modes);
        } else {
            draft.read(path);
        }
        if !is_legacy(path) && !modes.is_empty() {
            draft.complaints.add(|| {
                Complaint::about(
                    path,
                    "modes can be given for a 1.2 configuration alone, a file named *.conf; here they stand in tcp.mode and udp.mode",
                )
            });
        }
        for path in draft.drop_ins(path) {
            draft.read(&path);
        }
        if is_legacy(path) && !draft.places.contains_key("history.file") {
            draft.keep_history_from_everybody();
        }
        draft
    }

    fn read(&mut self, path: &Path) {
        let text = read_file(path, MAX_BYTES)
            .map_err(|error| Complaint::about(path, cannot_read(&error)))
            .and_then(|bytes| utf8(path, bytes));
        match text {
            Ok(text) => self.take(path, text),
            Err(complaint) => {
                self.torn = true;
                self.complaints.add(|| complaint);
            }
        }
    }

    /// Takes 1.2's configuration in these modes, or else in those its init scripts start it in.
    fn read_legacy(&mut self, path: &Path, modes: &BTreeSet<WatchMode>) {
        let modes = match modes.is_empty() {
            true => legacy::modes::of(path),
            false => Ok(modes.clone()),
        };
        let modes = modes.unwrap_or_else(|complaint| {
            self.torn = true;
            self.complaints.add(|| complaint);
            BTreeSet::new()
        });
        let bytes = match read_file(path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.torn = true;
                self.complaints
                    .add(|| Complaint::about(path, cannot_read(&error)));
                return;
            }
        };
        // Comments may be in any encoding.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let read = legacy::parse(path, &text, &modes);
        self.config = read.config;
        self.warnings = read.warnings;
        self.torn |= !read.complaints.is_empty();
        self.complaints.append(read.complaints);
        let places = read.places.into_iter();
        self.places
            .extend(places.map(|(key, span)| (key, (self.files.len(), span))));
        self.files.push((path.to_owned(), text));

        let files = &mut self.config.ignore.files;
        let beside = files
            .first()
            .map(|file| file.path.with_file_name(LEGACY_SECOND_IGNORE_FILE));
        files.extend(
            beside
                .filter(|beside| files.iter().all(|file| file.path != *beside))
                .map(IgnoreFile::legacy),
        );
    }

    /// 1.2 had its files where everybody may put one of his own in their place. Its lines may stay there, for nobody believes
    /// them; what we go by is kept where it always is then.
    fn keep_history_from_everybody(&mut self) {
        let history = &mut self.config.history;
        let dir = history.file.parent().unwrap_or(Path::new("/"));
        let everybody_may_write =
            fs::metadata(dir).is_ok_and(|found| found.is_dir() && found.mode() & 0o002 != 0);
        if everybody_may_write {
            let safe = Config::default().history.file;
            self.warnings.push(format!(
                "everybody may write to {}, where HISTORY_FILE lies: its lines go there, and bans are remembered in {}",
                printable(&dir.to_string_lossy()),
                safe.display()
            ));
            history.file = safe;
        }
    }

    /// The files to be merged over that at `path`: `*.toml` in `<path>.d`, in the order of their names.
    fn drop_ins(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut dir = path.as_os_str().to_owned();
        dir.push(".d");
        let dir = PathBuf::from(dir);
        let listed = fs::read_dir(&dir).and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        });
        match listed {
            Ok(mut paths) => {
                paths.retain(|path| {
                    let hidden = path
                        .file_name()
                        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                    !hidden
                        && path
                            .extension()
                            .is_some_and(|extension| extension == "toml")
                });
                paths.sort();
                paths
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                self.torn = true;
                self.complaints.add(|| {
                    Complaint::about(
                        &dir,
                        format!("cannot list its files: {error}; it must be a directory, readable like the file beside it"),
                    )
                });
                Vec::new()
            }
        }
    }

    /// Merges the settings of one file over those so far.
    fn take(&mut self, path: &Path, text: String) {
        let index = self.files.len();
        // What the parser makes of a torn line is not what the admin meant: one complaint for it is enough.
        let readable = Readable::of(&text);
        let (table, _) = DeTable::parse_recoverable(&readable.text);
        let mut faults = self.walk(index, table.get_ref());
        faults.retain(|fault| !readable.is_torn_at(fault.span.start));
        self.torn |= !readable.faults.is_empty();
        faults.extend(readable.faults);

        faults.sort_by_key(|fault| fault.span.start);
        for fault in faults {
            self.complaints
                .add(|| Complaint::at(path, &text, fault.span, fault.message));
        }
        self.files.push((path.to_owned(), text));
    }

    /// Reads all keys of a file, each into its place.
    fn walk(&mut self, file: usize, table: &DeTable<'_>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (section, content) in table {
            let name = section.get_ref();
            let message = match content.get_ref() {
                _ if keys::names(name).is_empty() => stray(name, content.get_ref()),
                DeValue::Table(content) => {
                    faults.extend(self.walk_section(file, name, content));
                    continue;
                }
                _ => {
                    format!("{name} is a section; write [{name}], and its keys on the lines below")
                }
            };
            faults.push(Fault {
                span: section.span(),
                message,
            });
        }
        faults
    }

    fn walk_section(&mut self, file: usize, section: &str, content: &DeTable<'_>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, value) in content {
            let Some(key) = keys::find(section, name.get_ref()) else {
                faults.push(Fault {
                    span: name.span(),
                    message: unknown_key(section, name.get_ref()),
                });
                continue;
            };
            self.places.insert(key.name, (file, place(name, value)));
            if let Err(wrong) = (key.read)(&mut self.config, &Value::new(key.name, value)) {
                self.failed.insert(key.name);
                faults.extend(wrong);
            }
        }
        faults
    }

    /// Gives out the configuration if nothing is wrong, nor between its keys.
    fn finish(mut self) -> Result<Config, Complaints> {
        for misfit in misfits(&self.config) {
            // Where a part could not be read, its own complaint comes first.
            let unread = misfit.keys.iter().any(|key| self.failed.contains(key));
            if unread || self.torn {
                continue;
            }
            let place = misfit.keys.iter().find_map(|key| self.places.get(key));
            let place = place.and_then(|(file, span)| Some((self.files.get(*file)?, span)));
            self.complaints.add(|| match (place, self.files.first()) {
                (Some(((path, text), span)), _) => {
                    Complaint::at(path, text, span.clone(), misfit.message)
                }
                // Set by none of the keys, as only 1.2's file can do: the defaults fit.
                (None, first) => Complaint::about(
                    first.map_or(Path::new(""), |(path, _)| path),
                    misfit.message,
                ),
            });
        }
        self.complaints.or(self.config)
    }
}

/// From a key to the end of its value.
fn place(name: &Spanned<impl Sized>, value: &Spanned<impl Sized>) -> Range<usize> {
    name.span().start..value.span().end.max(name.span().end)
}

/// The words for a section that does not exist, or a key that stands outside of all.
fn stray(name: &str, content: &DeValue<'_>) -> String {
    if !matches!(content, DeValue::Table(_)) {
        let homes = keys::homes(name);
        if !homes.is_empty() {
            return format!(
                "{} stands outside of all sections; put it below [{}]",
                quoted(name),
                homes.join("] or [")
            );
        }
    }
    let kind = match content {
        DeValue::Table(_) | DeValue::Array(_) => "section",
        _ => "key outside of all sections:",
    };
    format!(
        "unknown {kind} {}{}",
        quoted(name),
        suggestion(name, &keys::sections(), "[", "]")
    )
}

fn unknown_key(section: &str, name: &str) -> String {
    let homes = keys::homes(name);
    let hint = if homes.is_empty() {
        suggestion(name, &keys::names(section), "\"", "\"")
    } else {
        format!("; it belongs in [{}]", homes.join("] or ["))
    };
    format!("unknown key {} in [{section}]{hint}", quoted(name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Mode, load};
    use super::*;

    fn complaints(text: &str) -> String {
        parse(Path::new("/p.toml"), text).unwrap_err().to_string()
    }

    /// A directory with these files, and the path of the first.
    fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let path = dir.path().join(files[0].0);
        (dir, path)
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(parse(Path::new("/p.toml"), ""), Ok(Config::default()));
    }

    #[test]
    fn all_complaints_come_at_once_each_with_its_place() {
        assert_eq!(
            complaints(
                "[tcp]\r\nmode = \"conect\"\r\nbelow 10\r\nports = [23, \"30-20\"]\r\n\
                 [detct]\r\ntrigger = 3\r\n[ban]\r\n\tdurration = \"3d\"\r\nmax = \"5m\"\r\n"
            ),
            r#"/p.toml:2:8: tcp.mode does not know "conect"; did you mean "connect"?
  mode = "conect"
         ^~~~~~~~
/p.toml:3:7: a key without a value; write key = value
  below 10
        ^
/p.toml:4:14: tcp.ports has a range that runs backwards, "30-20"; write "20-30"
  ports = [23, "30-20"]
               ^~~~~~~
/p.toml:5:2: unknown section "detct"; did you mean [detect]?
  [detct]
   ^~~~~
/p.toml:8:2: unknown key "durration" in [ban]; did you mean "duration"?
   durration = "3d"
   ^~~~~~~~~"#
        );
    }

    #[test]
    fn what_stands_in_the_wrong_section_is_told_where_it_belongs() {
        assert_eq!(
            complaints("trigger = 3\n[ban]\nwindow = \"1m\"\nfoo = 1\n[udp]\nsocket.x = 1\n"),
            r#"/p.toml:1:1: "trigger" stands outside of all sections; put it below [detect]
  trigger = 3
  ^~~~~~~
/p.toml:3:1: unknown key "window" in [ban]; it belongs in [detect]
  window = "1m"
  ^~~~~~
/p.toml:4:1: unknown key "foo" in [ban]; known: "duration", "escalate", "max", "memory", "ipv4_prefix", "ipv6_prefix", "ipv6_rollup", "ipv4_rollup", "rollup_confirm", "on_stop", "limit", "rate", "responders"
  foo = 1
  ^~~
/p.toml:6:1: unknown key "socket" in [udp]; it belongs in [control]
  socket.x = 1
  ^~~~~~"#
        );
    }

    #[test]
    fn a_torn_line_is_one_complaint_and_the_rest_is_read() {
        for (text, first) in [
            (
                "[tcp]\nbelow = 1o24\n",
                "2:9: what stands here is no value; write a text",
            ),
            (
                "[tcp]\nmode =\n",
                "2:7: what stands here is no value; write a text",
            ),
            (
                "[tcp]\nmode = \"off\n",
                "2:12: invalid basic string, expected `\"`",
            ),
            (
                "[tcp]\nbelow = 1\nbelow = 2\n",
                "3:1: \"below\" stands here a second time; keep one",
            ),
            (
                "[tcp]\n[udp]\n[tcp]\n",
                "3:2: \"tcp\" stands here a second time; keep one",
            ),
            ("[tcp\n", "1:5: unclosed table, expected `]`"),
            ("tcp = 3\n[tcp]\n", "2:2: \"tcp\" stands here a second time"),
            (
                "\0\0 = \0\n\n",
                "1:1: a NUL character stands here; take it out",
            ),
            (
                "[tcp]\nbelow = 1\rx = 2\n",
                "2:11: a carriage return before this has no newline",
            ),
            (
                "below\n\nmode\n",
                "1:6: a key without a value; write key = value",
            ),
        ] {
            let shown = complaints(&format!("{text}[ban]\nlimit = 0\n"));
            assert!(
                shown.starts_with(&format!("/p.toml:{first}")),
                "{text:?}: {shown}"
            );
            assert!(
                shown.contains(": ban.limit takes a whole number from 1 to 10000000, not 0\n"),
                "{shown}"
            );
        }
        assert_eq!(
            complaints("below\n\nmode\n")
                .matches("a key without a value")
                .count(),
            2
        );
    }

    #[test]
    fn the_documented_interface_is_accepted_whole() {
        let text = r#"
            [tcp]
            mode = ["stealth", "advanced"]
            ports = [1, 11, "512-515", "513 - 520", 10]
            response = "log"
            [detect]
            window = "0s"
            decoys = [11]
            [ban]
            duration = "ever"
            max = "ever"
            memory = "1h 30m"
            [iptables]
            chain = "PORTSENTRY"
            [route]
            kind = "prohibit"
            [hosts-deny]
            file = "/etc/hosts.deny"
            line = "ALL: {source}"
            [command]
            run = ["/usr/local/bin/notify", "{source}", "{port}", "{mode}"]
            when = "after"
            timeout = "10s"
            [ignore]
            files = ["/etc/portsentry/ignore.list", "/srv/friends"]
            legacy_files = ["/etc/portsentry/portsentry.ignore"]
            addresses = ["192.0.2.9/24", "2001:db8::1"]
            host = ["ssh"]
            [history]
            text = ""
        "#;
        let config = parse(Path::new("/p.toml"), text).unwrap();
        assert_eq!(
            config.tcp.modes,
            BTreeSet::from([Mode::Advanced, Mode::Stealth])
        );
        assert_eq!(config.tcp.ports, [1..=1, 10..=11, 512..=520]);
        assert_eq!(config.detect.window, None);
        assert_eq!((config.ban.duration, config.ban.max), (None, None));
        assert_eq!(config.ban.memory, Some(Duration::from_secs(5400)));
        let named: Vec<bool> = config.ignore.files.iter().map(|file| file.named).collect();
        assert_eq!(named, [false, true, true]);
        assert_eq!(config.ignore.addresses[0].to_string(), "192.0.2.0/24");
        assert_eq!(config.history.text, None);
    }

    #[test]
    fn files_beside_the_main_one_are_merged_over_it_key_by_key() {
        let (_dir, path) = files(&[
            (
                "p.toml",
                "[tcp]\nbelow = 2000\nexclude = [1]\n[ban]\nrate = 1\n",
            ),
            ("p.toml.d/20.toml", "[tcp]\nexclude = [3]\n"),
            (
                "p.toml.d/10.toml",
                "[tcp]\nexclude = [2]\n[ban]\nrate = 2\n",
            ),
            ("p.toml.d/30.toml.dpkg-new", "rubbish"),
            ("p.toml.d/.30.toml", "rubbish"),
        ]);
        let config = load(&path).unwrap();
        assert_eq!(config.tcp.below, 2000);
        assert_eq!(config.tcp.exclude, [3..=3]);
        assert_eq!(config.ban.rate, 2);
    }

    #[test]
    fn complaints_name_the_file_that_is_wrong() {
        let (dir, path) = files(&[
            ("p.toml", "[ban]\nmax = \"1h\"\nlimit = 0\n"),
            ("p.toml.d/1.toml", "\n[ban]\nduration = \"2h\"\nrate = 0\n"),
        ]);
        let shown = load(&path).unwrap_err().to_string();
        let dir = dir.path().display();
        let places: Vec<&str> = shown.lines().filter(|line| line.starts_with('/')).collect();
        assert_eq!(
            places,
            [
                format!(
                    "{dir}/p.toml:3:9: ban.limit takes a whole number from 1 to 10000000, not 0"
                ),
                format!(
                    "{dir}/p.toml.d/1.toml:4:8: ban.rate takes a whole number from 1 to 4294967295, not 0"
                ),
                format!(
                    "{dir}/p.toml.d/1.toml:3:1: ban.duration is 2h, longer than ban.max, which is 1h; raise ban.max or shorten ban.duration"
                ),
            ]
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_complaint() {
        use std::os::unix::fs::PermissionsExt as _;

        let (dir, path) = files(&[("p.toml", "")]);
        let shown = |path: &Path| load(path).unwrap_err().to_string();
        let at = |name: &str| dir.path().join(name);

        assert!(shown(&at("none.toml")).ends_with(
            "/none.toml: cannot read the file: there is no such file; create it, or name another"
        ));
        assert!(
            shown(dir.path()).ends_with(": cannot read the file: it is a directory; name a file")
        );
        assert!(
            shown(&at("portsentry.conf"))
                .contains("/portsentry.conf: cannot read the file: there is no such file")
        );
        fs::write(at("p.toml.d"), "").unwrap();
        assert!(shown(&path).contains("/p.toml.d: cannot list its files: "));

        fs::write(at("latin.toml"), b"# a\n# B\xfcro\n").unwrap();
        assert!(
            shown(&at("latin.toml")).contains(
                "/latin.toml:2:4: the file is not UTF-8: a byte 0xfc stands here; save it"
            )
        );
        fs::write(at("big.toml"), " ".repeat(5 << 20)).unwrap();
        assert!(
            shown(&at("big.toml"))
                .ends_with(": it is too large to be what it should; name another")
        );

        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("secret.toml"), "").unwrap();
        fs::set_permissions(at("secret.toml"), fs::Permissions::from_mode(0o0)).unwrap();
        nix::unistd::setfsuid(65534.into()); // this thread alone; root may read everything
        let complaint = shown(&at("secret.toml"));
        nix::unistd::setfsuid(nix::unistd::geteuid());
        assert!(complaint.ends_with(": permission denied; it must belong to the user portsentry runs as or be readable for all, and its directories open to that user, also for root, who gives up the right to read everything"), "{complaint}");
    }

    #[test]
    fn a_line_of_a_megabyte_is_not_repeated_whole() {
        let shown = complaints(&format!("[tcp]\nports = [{}]", "99999, ".repeat(150_000)));
        assert!(shown.len() < 30_000, "{}", shown.len());
        assert!(shown.ends_with("\nthere is more; mend these first"));
        let shown = complaints(&format!(
            "[tcp]\nresponse = \"{}\"\n{} = 1",
            "x".repeat(1 << 20),
            "y".repeat(1 << 20)
        ));
        assert!(shown.len() < 2_000, "{}", shown.len());
    }

    /// Text of what TOML is made of, with any character in between.
    fn pieces() -> impl Strategy<Value = String> {
        const PIECES: &[&str] = &[
            "[", "]", "{", "}", "=", ".", ",", "\"", "'", "\n", "\r", "#", "\\", "\"\"\"", " ",
            "tcp", "udp", "mode", "below", "ports", "ban", "max", "0", "9", "-", "_",
        ];
        let piece = prop_oneof![
            9 => prop::sample::select(PIECES).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in pieces()) {
            if let Err(wrong) = parse(Path::new("/p.toml"), &text) {
                prop_assert!(!wrong.to_string().is_empty());
            }
        }

        #[test]
        fn a_damaged_sample_is_read_or_refused(at in 0..6000_usize, length in 0..60_usize, patch in pieces()) {
            let mut text: Vec<char> = include_str!("../../config/portsentry.toml").chars().collect();
            let start = at.min(text.len());
            let end = (start + length).min(text.len());
            text.splice(start..end, patch.chars());
            let text: String = text.into_iter().collect();
            if let Err(wrong) = parse(Path::new("/p.toml"), &text) {
                prop_assert!(!wrong.to_string().is_empty());
            }
        }
    }
}
