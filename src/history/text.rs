//! 1.2's line for every scan acted on, in a text file that people read and other programs follow.
//!
//! The layout is 1.2's to the byte (`portsentry_io.c`, `WriteBlocked`). Nothing reads it back: history is the SQLite file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::claim::Identity;
use super::file;
use crate::clock::Wall;
use crate::config::{self, WatchMode};
use crate::log::alerts::{self, Host};

/// What a line says beside the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextLine {
    /// Who scanned: the address, also where its whole prefix is banned.
    pub address: IpAddr,
    /// Its name, cleaned; `None`: the address stands in its place, as in 1.2 where it does not resolve names.
    pub name: Option<Box<str>>,
    /// The port of the last probe.
    pub port: u16,
    /// TCP or UDP, and in which of the files for each mode the line goes.
    pub mode: WatchMode,
}

impl TextLine {
    /// Appends the line to `out`, with the time of day in `zone`.
    pub fn write(&self, at: Wall, zone: &TimeZone, out: &mut String) {
        let seconds = at.0.div_euclid(1000);
        let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN);
        let time = zone.to_datetime(timestamp);
        let host = Host {
            name: self.name.as_deref(),
            address: self.address,
        };
        let _ = writeln!(
            out,
            "{seconds} - {:02}/{:02}/{:04} {:02}:{:02}:{:02} Host: {host} Port: {} {} Blocked",
            time.month(),
            time.day(),
            time.year(),
            time.hour(),
            time.minute(),
            time.second(),
            self.port,
            alerts::protocol(self.mode.protocol),
        );
    }
}

/// The text files that lines go to: one for all, and one for each mode that begins empty at every start.
#[derive(Debug, Default)]
pub struct TextFiles {
    all: Option<TextFile>,
    blocked: Option<PathBuf>,
    by_mode: BTreeMap<WatchMode, TextFile>,
}

impl TextFiles {
    /// For its owner alone, as in 1.2.
    const HISTORY: u32 = 0o600;
    /// For all to read, as in 1.2.
    const BLOCKED: u32 = 0o644;

    /// The files that `history.text` and `history.blocked` name.
    #[must_use]
    pub fn of(config: &config::History) -> Self {
        Self {
            all: (config.text.clone()).map(|path| TextFile::new(path, Self::HISTORY)),
            blocked: config.blocked.clone(),
            by_mode: BTreeMap::new(),
        }
    }

    /// Makes the files ready: that of all lines is there, for those who follow it, and those of `modes` are empty.
    ///
    /// # Errors
    /// In 1.2's words, each file that cannot be used.
    pub fn begin(&mut self, modes: impl IntoIterator<Item = WatchMode>) -> Result<(), Vec<String>> {
        let mut failures = Vec::new();
        if let Some(all) = &mut self.all {
            if let Err(cause) = all.append("") {
                failures.push(format!(
                    "adminalert: ERROR: Cannot open history file: {all}. ({cause})"
                ));
            }
        }
        for mode in modes {
            if let Err((file, cause)) = self.begin_mode(mode) {
                failures.push(format!(
                    "adminalert: ERROR: Cannot open blocked file: {file}. ({cause})"
                ));
            }
        }
        if failures.is_empty() {
            Ok(())
        } else {
            Err(failures)
        }
    }

    fn begin_mode(&mut self, mode: WatchMode) -> Result<(), (String, io::Error)> {
        let Some(file) = self.of_mode(mode) else {
            return Ok(());
        };
        let emptied = file.append("").and_then(|()| file.empty());
        emptied.map_err(|cause| (file.to_string(), cause))
    }

    fn of_mode(&mut self, mode: WatchMode) -> Option<&mut TextFile> {
        let blocked = self.blocked.as_ref()?;
        let file = || {
            let mut path = blocked.clone().into_os_string();
            path.push(".");
            path.push(mode.name());
            TextFile::new(path.into(), Self::BLOCKED)
        };
        Some(self.by_mode.entry(mode).or_insert_with(file))
    }

    /// Adds lines, after those that a file has not taken yet. What one file does not take, the others may.
    ///
    /// # Errors
    /// Some file has not taken all; lines for it wait.
    pub(super) fn append<'a>(
        &mut self,
        lines: impl Iterator<Item = (&'a TextLine, Wall)>,
        zone: &TimeZone,
    ) -> Result<(), String> {
        let mut all = String::new();
        let mut by_mode: BTreeMap<WatchMode, String> = BTreeMap::new();
        for (line, at) in lines {
            line.write(at, zone, &mut all);
            line.write(at, zone, by_mode.entry(line.mode).or_default());
        }
        if let Some(file) = &mut self.all {
            file.queue(&all);
        }
        for (mode, lines) in by_mode {
            if let Some(file) = self.of_mode(mode) {
                file.queue(&lines);
            }
        }
        let mut troubles = Vec::new();
        for file in self.all.iter_mut().chain(self.by_mode.values_mut()) {
            if let Err(error) = file.append_queued() {
                let fate = if file.is_full { "dropped" } else { "kept" };
                troubles.push(format!(
                    "cannot append to {file}: {error} (lines for it are {fate} until that is mended)"
                ));
            }
        }
        if troubles.is_empty() {
            Ok(())
        } else {
            Err(troubles.join("; "))
        }
    }
}

/// The host's own zone: that of `TZ`, else `/etc/localtime`, else UTC.
pub(super) fn local_zone() -> TimeZone {
    TimeZone::try_system()
        .ok()
        .or_else(|| {
            // jiff finds names like Europe/Berlin by an index of the whole zone database, which we do not need.
            let name = std::env::var("TZ").ok()?;
            let name = name.trim_start_matches(':');
            let data = fs::read(format!("/usr/share/zoneinfo/{name}")).ok()?;
            TimeZone::tzif(name, &data).ok()
        })
        .unwrap_or(TimeZone::UTC)
}

/// The file, kept open, and found again when somebody has rotated it.
#[derive(Debug)]
struct TextFile {
    path: PathBuf,
    /// Permissions that it is created with.
    mode: u32,
    open: Option<(File, Identity)>,
    /// Lines that it has not taken yet.
    queued: String,
    /// Whether some had no room there.
    is_full: bool,
}

impl TextFile {
    /// Bytes of lines that wait at most: some ten thousand lines.
    const QUEUE: usize = 1 << 20;

    /// Bytes that it takes: some three million lines. In a flood of sources it would take all of the disk in days.
    const MOST: u64 = 256 << 20;

    fn new(path: PathBuf, mode: u32) -> Self {
        Self {
            path,
            mode,
            open: None,
            queued: String::new(),
            is_full: false,
        }
    }

    fn queue(&mut self, lines: &str) {
        if self.queued.is_empty() || self.queued.len() + lines.len() <= Self::QUEUE {
            self.queued.push_str(lines);
        } else {
            self.is_full = true;
        }
    }

    fn append_queued(&mut self) -> io::Result<()> {
        if self.queued.is_empty() {
            return Ok(());
        }
        let lines = std::mem::take(&mut self.queued);
        if let Err(error) = self.append(&lines) {
            self.queued = lines;
            return Err(error);
        }
        self.is_full = false;
        Ok(())
    }

    /// Takes everything out of the file, which is open.
    fn empty(&self) -> io::Result<()> {
        match &self.open {
            Some((file, _)) if file.metadata()?.is_file() => file.set_len(0),
            _ => Ok(()),
        }
    }

    /// Adds `lines`: all of them, or none on an error.
    fn append(&mut self, lines: &str) -> io::Result<()> {
        let there = Identity::of(&self.path).ok();
        let (file, identity) = match self.open.take() {
            Some((file, identity)) if there == Some(identity) => (file, identity),
            _ => self.reopen()?,
        };
        let (file, _) = self.open.insert((file, identity));
        let before = file.metadata()?;
        if before.is_file() && before.len() >= Self::MOST {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "it has 256 MiB; have it rotated (logrotate --force), or move it away",
            ));
        }
        file.write_all(lines.as_bytes()).inspect_err(|_| {
            // Half a line would spoil the next one.
            if before.is_file() {
                let _ = file.set_len(before.len());
            }
        })
    }

    /// Opens the file, creates it if need be. A symbolic link is refused: in a directory
    /// where others may write, it would lead us to write where they may not. A pipe nobody reads is an error and
    /// does not stop us.
    fn reopen(&self) -> io::Result<(File, Identity)> {
        let is_new = fs::symlink_metadata(&self.path).is_err();
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(self.mode)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
            .open(&self.path)?;
        let metadata = file.metadata()?;
        // Another name of it may be in a place that matters to somebody.
        if metadata.nlink() > 1 {
            return Err(io::Error::other(
                "it has another name beside this, a hard link",
            ));
        }
        // A service's umask is for what nobody else reads. What was there stays as its owner wants it.
        if is_new {
            file.set_permissions(fs::Permissions::from_mode(self.mode))?;
        }
        file::leave_to_owner_of_dir(&file, &self.path);
        Ok((file, Identity::from(&metadata)))
    }
}

impl std::fmt::Display for TextFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn line(address: &str, port: u16, mode: &str) -> TextLine {
        TextLine {
            address: address.parse().unwrap(),
            name: None,
            port,
            mode: WatchMode::from_name(mode).unwrap(),
        }
    }

    #[test]
    fn the_line_is_that_of_1_2() {
        let mut out = String::new();
        let at = Wall(1_795_366_059_999);
        line("10.9.0.2", 11, "stcp").write(at, &TimeZone::UTC, &mut out);
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        line("2001:db8::7", 161, "audp").write(at, &berlin, &mut out);
        assert_eq!(
            out,
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked\n\
             1795366059 - 11/22/2026 17:47:39 Host: 2001:db8::7/2001:db8::7 Port: 161 UDP Blocked\n"
        );
    }

    #[test]
    fn a_file_that_has_grown_too_large_is_left_alone_until_it_is_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.log");
        let text = || fs::read_to_string(&path).unwrap();
        let mut file = TextFile::new(path.clone(), 0o644);
        file.append("one\n").unwrap();
        // Sparse: it takes no room.
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(TextFile::MOST))
            .unwrap();
        file.queue("two\n");
        let error = file.append_queued().unwrap_err().to_string();
        assert!(error.contains("256 MiB"), "{error}");
        fs::rename(&path, dir.path().join("history.log.1")).unwrap();
        file.append_queued().unwrap();
        assert_eq!(text(), "two\n");
    }

    #[test]
    fn a_time_out_of_this_world_still_makes_a_line() {
        for at in [i64::MIN, i64::MAX, -1] {
            let mut out = String::new();
            line("10.9.0.2", 11, "stcp").write(Wall(at), &TimeZone::UTC, &mut out);
            assert!(out.ends_with(" Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked\n"));
        }
    }

    #[test]
    fn the_zone_is_that_of_tz_also_by_name() {
        const CHILD: &str = "HISTORY_TEST_ZONE";
        if std::env::var_os(CHILD).is_some() {
            let mut out = String::new();
            let zone = local_zone();
            line("10.9.0.2", 11, "stcp").write(Wall(1_795_366_059_000), &zone, &mut out);
            println!("\n{out}");
            return;
        }
        for (zone, time) in [
            (":Asia/Kolkata", "22:17:39"),
            ("Asia/Kolkata", "22:17:39"),
            ("IST-5:30", "22:17:39"),
            ("Nowhere/Land", "16:47:39"),
        ] {
            let again = Command::new(std::env::current_exe().unwrap())
                .args(["the_zone_is_that_of_tz_also_by_name", "--nocapture"])
                .env(CHILD, "1")
                .env("TZ", zone)
                .output()
                .unwrap();
            let said = String::from_utf8(again.stdout).unwrap();
            assert!(
                said.contains(&format!("11/22/2026 {time} Host:")),
                "{zone}: {said}"
            );
        }
    }

    #[test]
    fn a_files_mode_is_1_2s_whatever_the_umask_and_stays_as_somebody_has_made_it() {
        const CHILD: &str = "HISTORY_TEST_UMASK";
        if std::env::var_os(CHILD).is_none() {
            // The umask is the whole process's.
            let again = Command::new(std::env::current_exe().unwrap())
                .arg("a_files_mode_is_1_2s_whatever_the_umask")
                .env(CHILD, "1")
                .output()
                .unwrap();
            let said = String::from_utf8(again.stdout).unwrap();
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let dir = tempfile::tempdir().unwrap();
        for mode in [TextFiles::HISTORY, TextFiles::BLOCKED] {
            let path = dir.path().join(mode.to_string());
            let is = || fs::metadata(&path).unwrap().mode() & 0o7777;
            TextFile::new(path.clone(), mode).append("one\n").unwrap();
            assert_eq!(is(), mode);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            TextFile::new(path.clone(), mode).append("two\n").unwrap();
            assert_eq!(is(), 0o640);
        }
    }

    #[test]
    fn the_file_is_made_for_its_owner_and_found_again_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.log");
        let mut text = TextFile::new(path.clone(), TextFiles::HISTORY);
        text.append("one\n").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        fs::rename(&path, dir.path().join("history.log.1")).unwrap();
        text.append("two\n").unwrap();
        fs::remove_file(&path).unwrap();
        text.append("three\n").unwrap();
        text.append("four\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\nfour\n");
        let rotated = fs::read_to_string(dir.path().join("history.log.1")).unwrap();
        assert_eq!(rotated, "one\n");
    }

    #[test]
    fn each_mode_has_a_file_of_its_own_that_begins_empty() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let settings = config::History {
            text: Some(at("history")),
            blocked: Some(at("blocked")),
            ..config::Config::default().history
        };
        fs::write(at("blocked.stcp"), "from an earlier start\n").unwrap();
        fs::write(at("blocked.sudp"), "of a mode that is off\n").unwrap();
        let mut files = TextFiles::of(&settings);
        let modes = ["stcp", "atcp"].map(|name| WatchMode::from_name(name).unwrap());
        files.begin(modes).unwrap();
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(
            read("history") + &read("blocked.stcp") + &read("blocked.atcp"),
            ""
        );
        assert_eq!(read("blocked.sudp"), "of a mode that is off\n");
        assert_eq!(
            fs::metadata(at("blocked.atcp")).unwrap().mode() & 0o777,
            0o644
        );
        let mut named = line("10.9.0.3", 12, "atcp");
        named.name = Some("scan.example".into());
        let lines = [line("10.9.0.2", 11, "stcp"), named];
        let at = Wall(1_795_366_059_000);
        let added = files.append(lines.iter().map(|line| (line, at)), &TimeZone::UTC);
        assert_eq!(added, Ok(()));
        assert_eq!(
            read("history"),
            read("blocked.stcp") + &read("blocked.atcp")
        );
        assert_eq!(
            read("blocked.atcp"),
            "1795366059 - 11/22/2026 16:47:39 Host: scan.example/10.9.0.3 Port: 12 TCP Blocked\n"
        );
    }

    #[test]
    fn lines_that_a_file_does_not_take_are_given_to_it_again_as_far_as_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no/history");
        let mut file = TextFile::new(path.clone(), TextFiles::HISTORY);
        let line = "x".repeat(99) + "\n";
        file.queue(&line.repeat(1000));
        assert!(file.append_queued().is_err());
        assert!(!file.is_full);
        (0..20).for_each(|_| file.queue(&line.repeat(1000)));
        assert!(file.append_queued().is_err());
        assert!(file.is_full);
        fs::create_dir(dir.path().join("no")).unwrap();
        file.append_queued().unwrap();
        assert!(!file.is_full);
        file.queue("one more\n");
        file.append_queued().unwrap();
        let lines = fs::read_to_string(&path).unwrap();
        assert_eq!(lines.lines().count(), 10_001);
    }

    #[test]
    fn a_file_that_cannot_be_made_is_told_in_the_words_of_1_2() {
        let dir = tempfile::tempdir().unwrap();
        let settings = config::History {
            text: Some(dir.path().join("no/history")),
            blocked: Some(dir.path().join("no/blocked")),
            ..config::Config::default().history
        };
        let mode = WatchMode::from_name("udp").unwrap();
        let told = TextFiles::of(&settings).begin([mode]).unwrap_err();
        let dir = dir.path().display();
        for (told, expected) in told.iter().zip([
            format!("adminalert: ERROR: Cannot open history file: {dir}/no/history. ("),
            format!("adminalert: ERROR: Cannot open blocked file: {dir}/no/blocked.udp. ("),
        ]) {
            assert!(told.starts_with(&expected), "{told}");
        }
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_pipe_without_a_reader_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            TextFile::new(path, TextFiles::HISTORY)
                .append("one\n")
                .is_err()
        );
    }
}
