//! In which modes 1.2 is started, where that is not said with flags: what the files of its init scripts name.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::super::complaint::{Complaint, quoted, suggestion};
use super::super::{Mode, WatchMode, cannot_read, read_file};
use crate::probe::Protocol;

/// Where Debian's init script has its modes.
const DEFAULTS: &str = "/etc/default/portsentry";

/// The directory of Debian's configuration.
const DEBIAN_DIR: &str = "/etc/portsentry";

/// A larger file is refused.
const MAX_BYTES: u64 = 1 << 16;

/// The modes for the configuration at `path`: those in `portsentry.modes` beside it, or else those of
/// `/etc/default/portsentry` if it is Debian's, or else `tcp` and `udp`.
pub(in super::super) fn of(path: &Path) -> Result<BTreeSet<WatchMode>, Complaint> {
    let beside = path.with_file_name("portsentry.modes");
    if let Some(text) = read(&beside)? {
        let modes = named(&beside, &text)?;
        if !modes.is_empty() {
            return Ok(modes);
        }
    }
    if path.parent() == Some(Path::new(DEBIAN_DIR)) {
        let file = Path::new(DEFAULTS);
        if let Some(text) = read(file)? {
            return debian(file, &text);
        }
    }
    Ok([Protocol::Tcp, Protocol::Udp]
        .map(|protocol| WatchMode::new(protocol, Mode::Connect))
        .into())
}

/// The file's text; nothing where there is no file.
fn read(path: &Path) -> Result<Option<String>, Complaint> {
    match read_file(path, MAX_BYTES) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Complaint::about(path, cannot_read(&error))),
    }
}

/// The words of `portsentry.modes`.
fn named(file: &Path, text: &str) -> Result<BTreeSet<WatchMode>, Complaint> {
    let mut modes = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split('#').next().unwrap_or_default();
        for word in words.split_whitespace() {
            let mode = WatchMode::from_name(word.trim_start_matches('-')).ok_or_else(|| {
                let start = line.find(word).unwrap_or(0);
                Complaint::on_line(file, index + 1, line, start..start + word.len(), {
                    unknown(word, &WatchMode::ALL.map(WatchMode::name))
                })
            })?;
            modes.insert(mode);
        }
    }
    Ok(modes)
}

/// `TCP_MODE` and `UDP_MODE`, as the shell that reads the file sees them.
fn debian(file: &Path, text: &str) -> Result<BTreeSet<WatchMode>, Complaint> {
    let mut modes = BTreeSet::new();
    for (protocol, key) in [(Protocol::Tcp, "TCP_MODE="), (Protocol::Udp, "UDP_MODE=")] {
        let known = WatchMode::ALL.into_iter();
        let known: Vec<&str> = known
            .filter(|mode| mode.protocol == protocol)
            .map(WatchMode::name)
            .collect();
        let last = text.lines().enumerate().filter_map(|(index, line)| {
            let value = line.trim_start().strip_prefix(key)?;
            Some((index, line, value))
        });
        let Some((index, line, value)) = last.last() else {
            continue;
        };
        let word = value
            .split(['#', ';', ' ', '\t'])
            .next()
            .unwrap_or_default();
        let word = word.trim_matches(['"', '\'']);
        if word.is_empty() {
            continue;
        }
        if !known.contains(&word) {
            let start = line.len() - value.len();
            let message = unknown(word, &known);
            return Err(Complaint::on_line(
                file,
                index + 1,
                line,
                start..line.len(),
                message,
            ));
        }
        modes.extend(WatchMode::from_name(word));
    }
    if modes.is_empty() {
        return Err(Complaint::about(
            file,
            "TCP_MODE and UDP_MODE are both empty, so that nothing is watched; set one, such as TCP_MODE=\"atcp\"",
        ));
    }
    Ok(modes)
}

fn unknown(word: &str, known: &[&str]) -> String {
    format!(
        "there is no mode {}{}",
        quoted(word),
        suggestion(word, known, "\"", "\"")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(modes: Result<BTreeSet<WatchMode>, Complaint>) -> Result<String, String> {
        modes
            .map(|modes| Vec::from_iter(modes.into_iter().map(WatchMode::name)).join(" "))
            .map_err(|wrong| wrong.to_string().lines().next().unwrap().to_owned())
    }

    #[test]
    fn the_modes_file_has_words_and_comments() {
        let named = |text: &str| names(named(Path::new("/m"), text));
        assert_eq!(named("tcp\nudp # both\n#stcp\n"), Ok("tcp udp".to_owned()));
        assert_eq!(named(" -atcp -audp\r\n"), Ok("atcp audp".to_owned()));
        assert_eq!(named("# none\n"), Ok(String::new()));
        assert_eq!(
            named("tcp\natpc"),
            Err("/m:2:1: there is no mode \"atpc\"; did you mean \"atcp\"?".to_owned())
        );
    }

    #[test]
    fn debians_file_is_read_as_a_shell_would() {
        let debian = |text: &str| names(debian(Path::new("/d"), text));
        assert_eq!(
            debian("# modes\nTCP_MODE=\"tcp\"\nUDP_MODE='audp' # all\nTCP_MODE=stcp\n"),
            Ok("stcp audp".to_owned())
        );
        assert_eq!(debian("TCP_MODE=\"\"\nUDP_MODE=udp"), Ok("udp".to_owned()));
        assert_eq!(
            debian("\nTCP_MODE=\"udp\""),
            Err("/d:2:10: there is no mode \"udp\"; known: \"tcp\", \"stcp\", \"atcp\"".to_owned())
        );
        assert!(
            debian("#TCP_MODE=tcp")
                .unwrap_err()
                .contains("nothing is watched")
        );
    }

    #[test]
    fn without_such_files_it_is_tcp_and_udp() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("p.conf");
        assert_eq!(names(of(&conf)), Ok("tcp udp".to_owned()));
        std::fs::write(dir.path().join("portsentry.modes"), "\n").unwrap();
        assert_eq!(names(of(&conf)), Ok("tcp udp".to_owned()));
        std::fs::write(dir.path().join("portsentry.modes"), "sudp").unwrap();
        assert_eq!(names(of(&conf)), Ok("sudp".to_owned()));
        std::fs::remove_file(dir.path().join("portsentry.modes")).unwrap();
        std::fs::create_dir(dir.path().join("portsentry.modes")).unwrap();
        assert!(names(of(&conf)).unwrap_err().contains("it is a directory"));
    }
}
