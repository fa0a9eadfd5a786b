//! [`LoginFiles`]: what logind's and sshd's files say of logins, read again when one of them has changed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::sessions::LoginBy;
use super::sshd::{Sources, Sshd};
use super::{Error, FileWatch};

/// Where the files are, and what they said. That they have not changed is known for one system call, and as it is at that moment;
/// to read them for every verdict would take as long as the ban itself.
pub(super) struct LoginFiles {
    dir: PathBuf,
    config: PathBuf,
    /// `None`: they have not been read yet, or not all of them can be watched.
    watch: Option<FileWatch>,
    /// Who has a session from elsewhere.
    pub(super) sessions: BTreeMap<IpAddr, LoginBy>,
    pub(super) sshd: Sshd,
}

/// Sessions that are read, and bytes of each.
const MAX_SESSIONS: usize = 4096;
const MAX_BYTES: u64 = 16 * 1024;

impl LoginFiles {
    /// Reads nothing of logind's yet.
    pub(super) fn new(dir: &Path, config: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            config: config.to_owned(),
            watch: None,
            sessions: BTreeMap::new(),
            sshd: Sshd::read(config).0,
        }
    }

    /// Brings [`sessions`](Self::sessions) and [`sshd`](Self::sshd) up to date.
    ///
    /// # Errors
    /// When logind's files cannot be read. They are tried again the next time.
    pub(super) fn look(&mut self) -> Result<(), Error> {
        if self.watch.as_mut().is_some_and(|watch| !watch.changed()) {
            return Ok(());
        }
        self.watch = None;
        let sources = self.sources();
        // Before they are read: what changes from here on is seen.
        let watch = Self::watch(&sources);
        let (sshd, read) = self.read_sshd();
        self.sshd = sshd;
        self.sessions = sessions(&self.dir)?;
        self.watch = watch.filter(|_| read == sources);
        Ok(())
    }

    /// `None`: something would escape it.
    fn watch(sources: &Sources) -> Option<FileWatch> {
        let mut paths = sources.files.clone();
        // As names in their own directories too: they may come into being.
        paths.extend_from_slice(&sources.dirs);
        let (mut watch, unwatched) = FileWatch::open(&paths).ok()?;
        for dir in &sources.dirs {
            watch.add_dir(dir);
        }
        unwatched.is_empty().then_some(watch)
    }

    /// The configuration, and what is read for it and for the sessions.
    fn read_sshd(&self) -> (Sshd, Sources) {
        let (sshd, mut sources) = Sshd::read(&self.config);
        sources.dirs.push(self.dir.clone());
        (sshd, sources)
    }

    /// What is read.
    pub(super) fn sources(&self) -> Sources {
        self.read_sshd().1
    }
}

/// What logind knows. No directory: there is no logind.
fn sessions(dir: &Path) -> Result<BTreeMap<IpAddr, LoginBy>, Error> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |cause| Error::Sessions { path, cause }
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        entries => entries.map_err(failed(dir))?,
    };
    let mut found = BTreeMap::new();
    for entry in entries.flatten().take(MAX_SESSIONS) {
        let name = entry.file_name();
        // Beside `3` may stand `3.ref`, a pipe, and what logind is about to put in its place, under a hidden name.
        let Some(id) = name.to_str().filter(|id| !id.contains('.')) else {
            continue;
        };
        match text(&entry.path()) {
            Ok(text) => {
                if let Some((from, user)) = remote(&text) {
                    let id = id.to_owned();
                    found.entry(from).or_insert(LoginBy::Session { id, user });
                }
            }
            // It has just ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&entry.path())(error)),
        }
    }
    Ok(found)
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW)
        .open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// From where, and who, if the session is one of a person elsewhere that has not ended. Where sshd looks names up (`UseDNS`), the
/// host has a name here, which leads to nobody: then the connection counts.
fn remote(text: &str) -> Option<(IpAddr, String)> {
    let value = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(it, _)| *it == key)
            .map(|(_, value)| value)
    };
    // A display manager's login screen is no login.
    let is_users = value("CLASS").is_none_or(|class| class.starts_with("user"));
    if !is_users || value("STATE") == Some("closing") {
        return None;
    }
    let host = value("REMOTE_HOST")?;
    let from: IpAddr = host.split('%').next()?.parse().ok()?;
    let plain = |c: char| if c.is_control() { '?' } else { c };
    let user = value("USER").unwrap_or("somebody");
    Some((
        from.to_canonical(),
        user.chars().take(64).map(plain).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;

    /// As systemd 252 writes it for a login over SSH.
    const SESSION: &str = "# This is private data. Do not parse.\nUID=0\nUSER=root\nACTIVE=1\nIS_DISPLAY=0\nSTATE=active\n\
        REMOTE=1\nTYPE=tty\nORIGINAL_TYPE=tty\nCLASS=user\nSCOPE=session-3.scope\nFIFO=/run/systemd/sessions/3.ref\nTTY=pts/0\n\
        REMOTE_HOST=203.0.113.7\nSERVICE=sshd\nLEADER=812\nAUDIT=3\nREALTIME=1700000000000000\nMONOTONIC=42\n";

    /// logind's directory and sshd's configuration, both in a directory of their own.
    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            fs::create_dir(place.path("ssh")).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn put(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        fn files(&self) -> LoginFiles {
            LoginFiles::new(&self.path("sessions"), &self.path("ssh/sshd_config"))
        }
    }

    fn found(files: &mut LoginFiles) -> (usize, Vec<u16>) {
        files.look().unwrap();
        let ports = files.sshd.ports.iter().copied();
        (files.sessions.len(), ports.collect())
    }

    #[test]
    fn whatever_changes_is_seen_at_the_next_look() {
        let place = Place::new();
        let mut files = place.files();
        assert_eq!(found(&mut files), (0, vec![22]), "nothing is there yet");
        assert!(files.watch.is_some());

        fs::create_dir(place.path("sessions")).unwrap();
        place.put("sessions/.#3x", SESSION);
        fs::rename(place.path("sessions/.#3x"), place.path("sessions/3")).unwrap();
        assert_eq!(found(&mut files).0, 1, "as logind begins a session");
        let closing = SESSION.replace("STATE=active", "STATE=closing");
        place.put("sessions/3", &closing);
        assert_eq!(found(&mut files).0, 0, "as it ends one");
        place.put("sessions/4", SESSION);
        assert_eq!(found(&mut files).0, 1);
        fs::remove_file(place.path("sessions/4")).unwrap();
        assert_eq!(found(&mut files).0, 0);

        place.put(
            "ssh/sshd_config",
            "Port 2222\nInclude conf.d/*.conf\nInclude more\n",
        );
        assert_eq!(found(&mut files).1, [2222]);
        fs::create_dir(place.path("ssh/conf.d")).unwrap();
        place.put("ssh/conf.d/a.conf", "Port 3333\n");
        assert_eq!(
            found(&mut files).1,
            [2222, 3333],
            "a directory that comes into being"
        );
        place.put("ssh/conf.d/b.conf", "Port 4444\n");
        assert_eq!(found(&mut files).1, [2222, 3333, 4444]);
        place.put("ssh/more", "Port 5555\n");
        assert_eq!(found(&mut files).1, [2222, 3333, 4444, 5555]);

        fs::remove_dir_all(place.path("sessions")).unwrap();
        fs::create_dir(place.path("sessions")).unwrap();
        place.put("sessions/5", SESSION);
        assert_eq!(found(&mut files).0, 1, "another directory of that name");
    }

    #[test]
    fn what_has_not_changed_is_not_read_again() {
        let place = Place::new();
        fs::create_dir(place.path("sessions")).unwrap();
        place.put("sessions/3", SESSION);
        let mut files = place.files();
        assert_eq!(found(&mut files), (1, vec![22]));
        files.sessions.clear();
        assert_eq!(found(&mut files).0, 0, "as it was left here");
        place.put("sessions/other", "");
        assert_eq!(found(&mut files).0, 1);
    }

    #[test]
    fn what_cannot_be_watched_is_read_every_time() {
        let place = Place::new();
        let mut files = LoginFiles::new(
            &place.path("run/systemd/sessions"),
            &place.path("none/sshd_config"),
        );
        assert_eq!(found(&mut files), (0, vec![22]));
        assert!(files.watch.is_none());
        fs::create_dir_all(place.path("run/systemd/sessions")).unwrap();
        place.put("run/systemd/sessions/3", SESSION);
        fs::create_dir(place.path("none")).unwrap();
        place.put("none/sshd_config", "Port 23");
        assert_eq!(found(&mut files), (1, vec![23]));
    }

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_session_of_logind_s_from_elsewhere_is_a_login() {
        let with = |from: &str, to: &str| remote(&SESSION.replace(from, to));
        let root = |from: &str| Some((at(from), "root".to_owned()));
        assert_eq!(remote(SESSION), root("203.0.113.7"));
        for (from, to, found) in [
            ("=203.0.113.7", "=2001:db8::7", root("2001:db8::7")),
            ("=203.0.113.7", "=::ffff:192.0.2.7", root("192.0.2.7")),
            ("=203.0.113.7", "=fe80::7%eth0", root("fe80::7")),
            ("CLASS=user", "CLASS=user-early", root("203.0.113.7")),
            ("STATE=active", "STATE=online", root("203.0.113.7")),
            ("STATE=active", "STATE=closing", None),
            ("CLASS=user", "CLASS=greeter", None),
            ("=203.0.113.7", "=admin.example.net", None),
            ("=203.0.113.7", "=", None),
            ("REMOTE_HOST=", "REMOTE_USER=", None),
        ] {
            assert_eq!(with(from, to), found, "{from} -> {to}");
        }
        let odd = with("USER=root", "USER=\u{1b}[31m").unwrap().1;
        assert_eq!(odd, "?[31m");
    }

    #[test]
    fn of_logind_s_directory_the_sessions_are_read_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(sessions(&dir.path().join("none")).unwrap().len(), 0);
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        put("3", SESSION);
        put("c1", &SESSION.replace(".7", ".8").replace("=root", "=eve"));
        put("4", &SESSION.replace("REMOTE_HOST", "X"));
        put(".#3aBcDeF", &SESSION.replace(".7", ".9"));
        // Nobody writes to it: who opens it plainly waits for ever.
        nix::unistd::mkfifo(&dir.path().join("3.ref"), Mode::S_IRWXU).unwrap();
        nix::unistd::mkfifo(&dir.path().join("5"), Mode::S_IRWXU).unwrap();
        let found: Vec<_> = sessions(dir.path()).unwrap().into_iter().collect();
        let session = |id: &str, user: &str| LoginBy::Session {
            id: id.to_owned(),
            user: user.to_owned(),
        };
        assert_eq!(
            found,
            [
                (at("203.0.113.7"), session("3", "root")),
                (at("203.0.113.8"), session("c1", "eve")),
            ]
        );
    }
}
