//! 1.2's line for every scan acted on, in a text file that people read and other programs follow.
//!
//! The layout is 1.2's to the byte (`portsentry_io.c`, `WriteBlocked`). Nothing reads it back: history is the SQLite file.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::file::Identity;
use crate::clock::Wall;
use crate::probe::Protocol;

/// What a line says beside the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLine {
    /// Who scanned: the address, also where its whole prefix is banned.
    pub address: IpAddr,
    /// The port of the last probe.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl TextLine {
    /// Appends the line to `out`, with the time of day in `zone`. The address stands in the host's place too, as in 1.2
    /// where it does not resolve names.
    pub fn write(&self, at: Wall, zone: &TimeZone, out: &mut String) {
        let seconds = at.0.div_euclid(1000);
        let timestamp = Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN);
        let time = zone.to_datetime(timestamp);
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        let _ = writeln!(
            out,
            "{seconds} - {:02}/{:02}/{:04} {:02}:{:02}:{:02} Host: {address}/{address} Port: {} {protocol} Blocked",
            time.month(),
            time.day(),
            time.year(),
            time.hour(),
            time.minute(),
            time.second(),
            self.port,
            address = self.address,
        );
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
pub(super) struct TextFile {
    path: PathBuf,
    open: Option<(File, Identity)>,
}

impl TextFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// Adds `lines`: all of them, or none on an error.
    pub(super) fn append(&mut self, lines: &str) -> io::Result<()> {
        let there = Identity::of(&self.path).ok();
        let (file, identity) = match self.open.take() {
            Some((file, identity)) if there == Some(identity) => (file, identity),
            _ => self.reopen()?,
        };
        let (file, _) = self.open.insert((file, identity));
        let before = file.metadata()?;
        file.write_all(lines.as_bytes()).inspect_err(|_| {
            // Half a line would spoil the next one.
            if before.is_file() {
                let _ = file.set_len(before.len());
            }
        })
    }

    /// Opens the file, creates it if need be: for its owner alone, as 1.2 does. A symbolic link is refused: in a directory
    /// where others may write, it would lead us to write where they may not. A pipe nobody reads is an error and
    /// does not stop us.
    fn reopen(&self) -> io::Result<(File, Identity)> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
            .open(&self.path)?;
        let identity = Identity::from(&file.metadata()?);
        Ok((file, identity))
    }
}

impl std::fmt::Display for TextFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::process::Command;

    use super::*;

    fn line(address: &str, port: u16, protocol: Protocol) -> TextLine {
        TextLine {
            address: address.parse().unwrap(),
            port,
            protocol,
        }
    }

    #[test]
    fn the_line_is_that_of_1_2() {
        let mut out = String::new();
        let at = Wall(1_795_366_059_999);
        line("10.9.0.2", 11, Protocol::Tcp).write(at, &TimeZone::UTC, &mut out);
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        line("2001:db8::7", 161, Protocol::Udp).write(at, &berlin, &mut out);
        assert_eq!(
            out,
            "1795366059 - 11/22/2026 16:47:39 Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked\n\
             1795366059 - 11/22/2026 17:47:39 Host: 2001:db8::7/2001:db8::7 Port: 161 UDP Blocked\n"
        );
    }

    #[test]
    fn a_time_out_of_this_world_still_makes_a_line() {
        for at in [i64::MIN, i64::MAX, -1] {
            let mut out = String::new();
            line("10.9.0.2", 11, Protocol::Tcp).write(Wall(at), &TimeZone::UTC, &mut out);
            assert!(out.ends_with(" Host: 10.9.0.2/10.9.0.2 Port: 11 TCP Blocked\n"));
        }
    }

    #[test]
    fn the_zone_is_that_of_tz_also_by_name() {
        const CHILD: &str = "HISTORY_TEST_ZONE";
        if std::env::var_os(CHILD).is_some() {
            let mut out = String::new();
            let zone = local_zone();
            line("10.9.0.2", 11, Protocol::Tcp).write(Wall(1_795_366_059_000), &zone, &mut out);
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
    fn the_file_is_made_for_its_owner_and_found_again_after_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.log");
        let mut text = TextFile::new(path.clone());
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
    fn a_pipe_without_a_reader_is_an_error_and_no_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(TextFile::new(path).append("one\n").is_err());
    }
}
