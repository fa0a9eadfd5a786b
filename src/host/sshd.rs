//! What sshd_config(5) says about ports and about the time to log in, and whether an sshd runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Of sshd's configuration, what tells its authenticated connections from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sshd {
    /// The ports it is to listen on.
    pub(super) ports: BTreeSet<u16>,
    /// A connection that is older is one of somebody who has logged in, or been hung up on; `None`: sshd lets anybody stay without that.
    pub(super) grace: Option<Duration>,
}

/// What was read, there or not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// These files.
    pub files: Vec<PathBuf>,
    /// Whatever files are in these directories.
    pub dirs: Vec<PathBuf>,
}

/// sshd's own defaults.
const PORT: u16 = 22;
const GRACE: Duration = Duration::from_secs(120);

/// How much later than that it may hang up: newer ones add up to four seconds, so that the moment cannot be foretold.
const LATE: Duration = Duration::from_secs(5);

/// Files that are read at most, bytes of each, and ports that are taken.
const MAX_FILES: usize = 64;
const MAX_BYTES: u64 = 256 * 1024;
const MAX_PORTS: usize = 16;

/// The names of its processes; since 9.8, connections have one of their own.
const NAMES: [&str; 3] = ["sshd", "sshd-session", "sshd-auth"];

impl Sshd {
    /// Reads the configuration, as far as there is one that may be read; for the rest, the defaults.
    pub(super) fn read(path: &Path) -> (Self, Sources) {
        let mut reading = Reading {
            base: path.parent().unwrap_or(Path::new("/")).to_owned(),
            ..Reading::default()
        };
        reading.file(path);
        let Reading {
            ports,
            grace,
            sources,
            base: _,
        } = reading;
        let sshd = Self {
            ports: if ports.is_empty() {
                BTreeSet::from([PORT])
            } else {
                ports
            },
            grace: grace
                .unwrap_or(Some(GRACE))
                .map(|grace| grace.saturating_add(LATE)),
        };
        (sshd, sources)
    }
}

/// Whether an sshd runs, as far as we may know: where other users' processes are hidden from us, it may.
pub(super) fn may_run() -> bool {
    let proc = Path::new("/proc");
    if !proc.join("1/comm").exists() {
        return true;
    }
    let is_sshd = |dir: &Path| {
        let name = fs::read_to_string(dir.join("comm"));
        name.is_ok_and(|name| NAMES.contains(&name.trim_end()))
    };
    fs::read_dir(proc).is_ok_and(|entries| {
        entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
            })
            .any(|entry| is_sshd(&entry.path()))
    })
}

#[derive(Default)]
struct Reading {
    /// Where sshd's files are: names in `Include` are relative to that, wherever they stand (readconf.c, servconf.c).
    base: PathBuf,
    ports: BTreeSet<u16>,
    /// Of lines that say the same thing, the first counts.
    grace: Option<Option<Duration>>,
    sources: Sources,
}

impl Reading {
    fn file(&mut self, path: &Path) {
        if self.sources.files.len() == MAX_FILES {
            return;
        }
        self.sources.files.push(path.to_owned());
        let is_short = fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= MAX_BYTES);
        if !is_short {
            return;
        }
        let text = fs::read(path).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let line = line.trim().split('#').next().unwrap_or_default();
            let mut words = line
                .split(|c: char| c.is_whitespace() || c == '=' || c == '"')
                .filter(|word| !word.is_empty());
            let Some(key) = words.next() else {
                continue;
            };
            match key.to_ascii_lowercase().as_str() {
                // What follows holds for some users alone; neither of our keys may stand there.
                "match" => return,
                "port" => self.port(words.next().and_then(|word| word.parse().ok())),
                "listenaddress" => {
                    let at = words.next().and_then(|word| word.rsplit_once(':'));
                    let named = at.filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
                    self.port(named.and_then(|(_, port)| port.parse().ok()));
                }
                "logingracetime" => {
                    let grace = words.next().and_then(seconds);
                    self.grace = self
                        .grace
                        .or(grace.map(|it| Some(it).filter(|it| *it > 0).map(Duration::from_secs)));
                }
                "include" => {
                    for pattern in words {
                        self.matching(&self.base.join(pattern))
                            .iter()
                            .for_each(|path| self.file(path));
                    }
                }
                _ => {}
            }
        }
    }

    /// The files that a pattern names, in the order of their names; it may have one star, in its last part.
    fn matching(&mut self, pattern: &Path) -> Vec<PathBuf> {
        let name = pattern.file_name().and_then(|name| name.to_str());
        let Some((dir, (before, behind))) = pattern
            .parent()
            .zip(name.and_then(|name| name.split_once('*')))
        else {
            return vec![pattern.to_owned()];
        };
        if self.sources.dirs.len() < MAX_FILES {
            self.sources.dirs.push(dir.to_owned());
        }
        let Ok(entries) = fs::read_dir(dir) else {
            return Vec::new();
        };
        let matches = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let rest = name.and_then(|name| name.strip_prefix(before));
            rest.is_some_and(|rest| rest.ends_with(behind))
        };
        let mut found: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(matches)
            .take(MAX_FILES)
            .collect();
        found.sort();
        found
    }

    fn port(&mut self, port: Option<u16>) {
        if self.ports.len() < MAX_PORTS {
            self.ports.extend(port.filter(|port| *port > 0));
        }
    }
}

/// A time as sshd has them: `120`, `2m`, `1h30m`.
fn seconds(text: &str) -> Option<u64> {
    let mut sum: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        let mut unit = unit.chars();
        let factor = match unit.next().map(|c| c.to_ascii_lowercase()) {
            None | Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 24 * 3600,
            Some('w') => 7 * 24 * 3600,
            Some(_) => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(factor)?;
        sum = sum.checked_add(part)?;
        rest = unit.as_str();
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<u16>, Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sshd_config.d")).unwrap();
        for (name, text) in [
            ("20-late.conf", "LoginGraceTime 20\nPort 2020\n"),
            ("10-early.conf", "logingracetime=1m30s\n"),
            ("30-not.conf.bak", "Port 3030\n"),
            ("further", "Include sshd_config.d/20-late.conf\n"),
        ] {
            fs::write(dir.path().join("sshd_config.d").join(name), text).unwrap();
        }
        let path = dir.path().join("sshd_config");
        fs::write(&path, text).unwrap();
        let (Sshd { ports, grace }, _) = Sshd::read(&path);
        (
            ports.into_iter().collect(),
            grace.map(|grace| (grace - LATE).as_secs()),
        )
    }

    #[test]
    fn ports_and_the_time_to_log_in_are_read_as_sshd_reads_them() {
        for (text, ports, grace) in [
            ("", &[22][..], Some(120)),
            ("# Port 23\n#LoginGraceTime 1\n", &[22], Some(120)),
            ("Port 2222\n  port 22 # both\n", &[22, 2222], Some(120)),
            ("LoginGraceTime 2m\nLoginGraceTime 5\n", &[22], Some(120)),
            ("LoginGraceTime 0\n", &[22], None),
            ("LoginGraceTime \"45\"\n", &[22], Some(45)),
            ("LoginGraceTime soon\n", &[22], Some(120)),
            ("ListenAddress 192.0.2.1\n", &[22], Some(120)),
            ("ListenAddress 192.0.2.1:24\n", &[24], Some(120)),
            (
                "ListenAddress [2001:db8::1]:25 rdomain x\n",
                &[25],
                Some(120),
            ),
            ("ListenAddress 2001:db8::1\n", &[22], Some(120)),
            ("Match User x\nPort 26\n", &[22], Some(120)),
            ("Port 0\nPort 65536\n", &[22], Some(120)),
            ("Include sshd_config.d/*.conf\n", &[2020], Some(90)),
            (
                "Include sshd_config.d/20-late.conf nothing\n",
                &[2020],
                Some(20),
            ),
            ("Include sshd_config.d/further\n", &[2020], Some(20)),
            ("Include sshd_config\n", &[22], Some(120)),
        ] {
            assert_eq!(read(text), (ports.to_vec(), grace), "{text}");
        }
        let (missing, _) = Sshd::read(Path::new("/nowhere/sshd_config"));
        assert_eq!(missing.ports, BTreeSet::from([22]));
        assert_eq!(missing.grace, Some(GRACE + LATE));
    }

    #[test]
    fn a_time_is_read_or_refused() {
        for (text, time) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("1h30m", Some(5400)),
            ("1W2D", Some(777_600)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("18446744073709551615w", None),
        ] {
            assert_eq!(seconds(text), time, "{text}");
        }
    }
}
