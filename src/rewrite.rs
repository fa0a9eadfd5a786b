//! [`SharedFile`]: a text file of the admin's, which others edit too, is replaced as a whole or not at all, and only if it is still what
//! was read. It stays the admin's: owner, mode, access list. What is to stand in it is for others.
//!
//! The new text is written to a file of our own beside the old one, which takes the old one's name when it is complete. That
//! file is the lock between portsentry's processes as well: only its owner can open it, while a lock on the old one could be taken
//! by everybody who may read it, and kept. Editors take no locks: what they have changed since we read is looked for last.
//!
//! The new text is on the disk before it takes the name, so that a loss of power cannot cost others their lines. Which of
//! the two texts is there afterwards is left to chance for a moment: the directory is not waited for.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{getegid, geteuid, getgroups};
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};

/// How long after somebody else was seen to edit it is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// The file, by its name.
#[derive(Clone, Debug)]
pub struct SharedFile {
    path: PathBuf,
    rules: Rules,
    /// What is to take its place.
    new_path: PathBuf,
}

/// How it may be edited.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The configuration key that names the file, for remedies.
    pub key: &'static str,
    /// Bytes that it may have.
    pub limit: usize,
    /// How often an edit is begun anew because somebody else has edited meanwhile, or tries to; a hundredth of a second apart.
    pub tries: usize,
}

/// What the file was when it was read.
struct Before {
    bytes: Vec<u8>,
    file: Option<(File, Version)>,
}

/// Differs when the file was replaced, written to, or has another owner or mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    place: (u64, u64),
    changed: (i64, i64),
}

impl SharedFile {
    /// The file at `path`, which must not be a link.
    ///
    /// # Errors
    /// The path does not name a file in a directory.
    pub fn new(path: &Path, rules: Rules) -> Result<Self, String> {
        let name = path.file_name().filter(|_| path.is_absolute());
        let name = name.ok_or_else(|| {
            format!(
                "{} is not the absolute path of a file: correct {}",
                path.display(),
                rules.key
            )
        })?;
        let mut new_name = std::ffi::OsString::from(".");
        new_name.push(name);
        new_name.push(".portsentry");
        Ok(Self {
            path: path.to_owned(),
            new_path: path.with_file_name(new_name),
            rules,
        })
    }

    /// The file that `path` leads to, be it through links.
    ///
    /// # Errors
    /// As [`new`](Self::new); or it is a link to nowhere.
    pub fn behind_links(path: &Path, rules: Rules) -> Result<Self, String> {
        match fs::canonicalize(path) {
            Ok(path) => Self::new(&path, rules),
            Err(cause) if cause.kind() != ErrorKind::NotFound => {
                Err(cannot("find", path, &cause, rules.key))
            }
            Err(_) if path.is_symlink() => Err(format!(
                "{} is a link to a file that is not there: remove the link, or make the file",
                path.display()
            )),
            Err(_) => Self::new(path, rules),
        }
    }

    /// What it holds; nothing where there is no file.
    ///
    /// # Errors
    /// It cannot be read, or it is none that we would edit.
    pub fn read(&self) -> Result<Vec<u8>, String> {
        self.read_version().map(|before| before.bytes)
    }

    /// Whether [`edit`](Self::edit) may work, by owners and modes: with the rights of an ordinary process of this user, for others
    /// are given up after the start.
    ///
    /// # Errors
    /// Why not, and what would help.
    pub fn check(&self) -> Result<(), String> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let found =
            fs::metadata(dir).map_err(|cause| self.cannot("find the directory of", &cause))?;
        if found.mode() & 0o002 != 0 {
            return Err(format!(
                "{} may be written to by everybody, who could put another {} there: chmod o-w {0}",
                dir.display(),
                self.path.display()
            ));
        }
        if !may(&found, 0o3) {
            return Err(format!(
                "no file can be made in {} without special rights, which are given up after the start: {}",
                dir.display(),
                make_ours(dir)
            ));
        }
        match fs::symlink_metadata(&self.path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(self.cannot("look at", &cause)),
            Ok(found) => {
                self.check_kind(&found)?;
                let may_give = found.uid() == geteuid().as_raw() && is_ours(found.gid());
                if may_give && may(&found, 0o4) {
                    return Ok(());
                }
                Err(format!(
                    "{0} belongs to uid {1} and gid {2} and cannot be replaced by a file of the same owners without special \
                     rights, which are given up after the start: {3}",
                    self.path.display(),
                    found.uid(),
                    found.gid(),
                    make_ours(&self.path)
                ))
            }
        }
    }

    /// Replaces what it holds by what `change` makes of it, called again when somebody else was quicker. Where that is the same,
    /// nothing is written.
    ///
    /// # Errors
    /// It is as it was.
    pub fn edit(&self, mut change: impl FnMut(&[u8]) -> Vec<u8>) -> Result<(), String> {
        for _ in 0..self.rules.tries {
            let before = self.read_version()?;
            let after = change(&before.bytes);
            if after == before.bytes || self.replace(&before, &after)? {
                return Ok(());
            }
            thread::sleep(PAUSE);
        }
        Err(format!(
            "cannot write to {}: somebody else keeps editing it",
            self.path.display()
        ))
    }

    fn read_version(&self) -> Result<Before, String> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.path);
        let mut file = match opened {
            Ok(file) => file,
            Err(cause) if cause.kind() == ErrorKind::NotFound => {
                return Ok(Before {
                    bytes: Vec::new(),
                    file: None,
                });
            }
            Err(cause) => return Err(self.cannot("open", &cause)),
        };
        let cannot_read = |cause: io::Error| self.cannot("read", &cause);
        let found = file.metadata().map_err(cannot_read)?;
        self.check_kind(&found)?;
        let limit = u64::try_from(self.rules.limit).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        (&mut file)
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(cannot_read)?;
        if bytes.len() > self.rules.limit {
            return Err(self.too_big());
        }
        Ok(Before {
            bytes,
            file: Some((file, Version::of(&found))),
        })
    }

    fn check_kind(&self, found: &fs::Metadata) -> Result<(), String> {
        let path = self.path.display();
        if found.file_type().is_symlink() {
            Err(self.cannot("open", &Errno::ELOOP.into()))
        } else if !found.is_file() {
            Err(format!(
                "{path} is not a regular file: correct {}",
                self.rules.key
            ))
        } else if found.mode() & 0o002 != 0 {
            Err(format!(
                "{path} may be written to by everybody: chmod o-w {path}"
            ))
        } else if found.nlink() > 1 {
            Err(format!(
                "{path} has other names (hard links), which would go on naming the old text: remove them, or make copies of it"
            ))
        } else if usize::try_from(found.len()).is_ok_and(|length| length > self.rules.limit) {
            Err(self.too_big())
        } else {
            Ok(())
        }
    }

    /// Puts `after` in the place of `before`; false: somebody else has edited, or does.
    fn replace(&self, before: &Before, after: &[u8]) -> Result<bool, String> {
        let Some(mut new) = self.lock()? else {
            return Ok(false);
        };
        let done = self.write(&mut new, before, after);
        if !matches!(done, Ok(true)) {
            // Still ours alone: we hold its lock.
            let _ = fs::remove_file(&self.new_path);
        }
        done
    }

    /// Opens what is to become the file, empty, for us alone. What a crash has left there is used again. `None`: another process
    /// is at it.
    fn lock(&self) -> Result<Option<Flock<File>>, String> {
        let cannot = |cause: io::Error| cannot("write to", &self.new_path, &cause, self.rules.key);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(&self.new_path)
            .map_err(cannot)?;
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(cannot(errno.into())),
        };
        let found = file.metadata().map_err(cannot)?;
        if !found.is_file() || found.uid() != geteuid().as_raw() || found.nlink() > 1 {
            return Err(format!(
                "{} is none of ours: remove it",
                self.new_path.display()
            ));
        }
        // Whoever had the lock before may have given it its new name, or removed it.
        let place = Version::of(&found).place;
        if Version::at(&self.new_path)
            .map_err(cannot)?
            .map(|there| there.place)
            != Some(place)
        {
            return Ok(None);
        }
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(cannot)?;
        file.set_len(0).map_err(cannot)?;
        Ok(Some(file))
    }

    fn write(&self, new: &mut File, before: &Before, after: &[u8]) -> Result<bool, String> {
        let cannot_write =
            |cause: io::Error| cannot("write to", &self.new_path, &cause, self.rules.key);
        new.write_all(after).map_err(cannot_write)?;
        match &before.file {
            Some((old, _)) => self.take_after(new, old)?,
            None => new
                .set_permissions(Permissions::from_mode(0o644))
                .map_err(cannot_write)?,
        }
        new.sync_all().map_err(cannot_write)?;
        let there = Version::at(&self.path).map_err(|cause| self.cannot("look at", &cause))?;
        if there != before.file.as_ref().map(|(_, version)| *version) {
            return Ok(false);
        }
        fs::rename(&self.new_path, &self.path)
            .map(|()| true)
            .map_err(|cause| self.cannot("replace", &cause))
    }

    /// Gives `new` the owner, the mode, the access list, the SELinux label and the user's attributes of `old`. Attributes that
    /// vouch for a text (`security.ima`) are not for another text.
    fn take_after(&self, new: &File, old: &File) -> Result<(), String> {
        let (was, is) = (self.metadata(old)?, self.metadata(new)?);
        let other = |was: u32, is: u32| (was != is).then_some(was);
        let (uid, gid) = (other(was.uid(), is.uid()), other(was.gid(), is.gid()));
        if uid.or(gid).is_some() {
            fchown(new, uid, gid).map_err(|cause| {
                format!(
                    "cannot keep {} the property of uid {} and gid {}: {cause}: chown {}:{} {0}",
                    self.path.display(),
                    was.uid(),
                    was.gid(),
                    geteuid(),
                    getegid()
                )
            })?;
        }
        let keep = |cause: io::Error| self.cannot("keep the attributes of", &cause);
        let kept = attributes(old).map_err(keep)?;
        if !kept.iter().any(|name| name == ACL) {
            // The directory may hand one down.
            let _ = fremovexattr(new.as_fd(), ACL);
        }
        new.set_permissions(Permissions::from_mode(was.mode() & 0o7777))
            .map_err(keep)?;
        for name in kept {
            let value = attribute(old, &name).map_err(keep)?;
            if attribute(new, &name).ok().as_ref() != Some(&value) {
                fsetxattr(new.as_fd(), name.as_str(), &value, XattrFlags::empty())
                    .map_err(|errno| keep(errno.into()))?;
            }
        }
        Ok(())
    }

    fn metadata(&self, file: &File) -> Result<fs::Metadata, String> {
        file.metadata()
            .map_err(|cause| self.cannot("look at", &cause))
    }

    /// The words for a file that is larger than it may be, or would become so.
    #[must_use]
    pub fn too_big(&self) -> String {
        format!(
            "{} would have more than {} MiB: remove lines that are not needed",
            self.path.display(),
            self.rules.limit >> 20
        )
    }

    fn cannot(&self, step: &str, cause: &io::Error) -> String {
        cannot(step, &self.path, cause, self.rules.key)
    }
}

impl Version {
    fn of(found: &fs::Metadata) -> Self {
        Self {
            place: (found.dev(), found.ino()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(found) => Ok(Some(Self::of(&found))),
            Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }
}

/// An access list.
const ACL: &str = "system.posix_acl_access";

/// The names of the attributes that another text may have as well.
fn attributes(file: &File) -> io::Result<Vec<String>> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match flistxattr(file.as_fd(), &mut names) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    Ok(names[..length]
        .split(|&byte| byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| [ACL, "security.selinux"].contains(name) || name.starts_with("user."))
        .map(str::to_owned)
        .collect())
}

fn attribute(file: &File, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0_u8; 64 << 10];
    let length = fgetxattr(file.as_fd(), name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// Whether this user is in the group.
fn is_ours(gid: u32) -> bool {
    getegid().as_raw() == gid
        || getgroups().is_ok_and(|all| all.iter().any(|it| it.as_raw() == gid))
}

/// Whether this user may do `rights` (a digit of a mode) without special ones.
fn may(found: &fs::Metadata, rights: u32) -> bool {
    let granted = if found.uid() == geteuid().as_raw() {
        found.mode() >> 6
    } else if is_ours(found.gid()) {
        found.mode() >> 3
    } else {
        found.mode()
    };
    granted & rights == rights
}

fn cannot(step: &str, path: &Path, cause: &io::Error, key: &str) -> String {
    let path = path.display();
    let words = match cause.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => {
            format!("it is a symbolic link: put the path of the file itself in {key}")
        }
        Some(Errno::EROFS) => {
            "it is on a read-only file system; in a systemd unit with ProtectSystem: ReadWritePaths= with its directory".to_owned()
        }
        Some(Errno::EBUSY) => {
            "it is mounted by itself (of a container, or by ReadWritePaths=): mount its directory".to_owned()
        }
        Some(errno @ (Errno::EACCES | Errno::EPERM)) => format!(
            "{}: it and its directory must belong to uid {}",
            errno.desc().to_lowercase(),
            geteuid()
        ),
        Some(errno) => errno.desc().to_lowercase(),
        None => cause.to_string(),
    };
    format!("cannot {step} {path}: {words}")
}

/// What to do about a file or a directory that is not ours. It is given to root only: a daemon with a user of its own gets no share
/// in /etc.
fn make_ours(path: &Path) -> String {
    if geteuid().is_root() {
        return format!("chown {}:{} {}", geteuid(), getegid(), path.display());
    }
    "let root run portsentry (in a systemd unit: User=root)".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    const RULES: Rules = Rules {
        key: "ignore.files",
        limit: 1 << 20,
        tries: 1000,
    };

    fn file(path: &Path) -> SharedFile {
        SharedFile::behind_links(path, RULES).unwrap()
    }

    fn write(path: &Path, text: &str) {
        file(path).edit(|_| text.as_bytes().to_vec()).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_keeps_its_owner_and_mode_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        write(&path, "made");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);

        chown(&path, Some(12), Some(34)).expect("the tests run as root");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        write(&path, "a");
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (12, 34, 0o640)
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "a");
        assert_eq!(names(dir.path()), ["list"]);
    }

    #[test]
    fn a_link_stays_one_and_the_file_behind_it_is_replaced() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (link, target) = (dir.path().join("link"), other.path().join("file"));
        symlink(&target, &link).unwrap();
        let dangling = SharedFile::behind_links(&link, RULES).unwrap_err();
        assert!(
            dangling.contains("a link to a file that is not there"),
            "{dangling}"
        );
        fs::write(&target, "old").unwrap();
        file(&link)
            .edit(|text| [text, b" and new"].concat())
            .unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&target).unwrap(), "old and new");
        assert_eq!(names(dir.path()), ["link"]);
        assert_eq!(names(other.path()), ["file"]);
    }

    #[test]
    fn what_cannot_be_edited_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "x".repeat(100)).unwrap();
        let small = Rules { limit: 99, ..RULES };
        let edit = |path: &Path, rules| {
            SharedFile::behind_links(path, rules).and_then(|file| file.edit(|_| b"new".to_vec()))
        };
        assert!(edit(&path, small).is_err());
        assert!(edit(dir.path(), RULES).is_err());
        assert!(edit(&dir.path().join("no/list"), RULES).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "x".repeat(100));
        assert_eq!(names(dir.path()), ["list"]);
        // What a crash has left.
        fs::write(dir.path().join(".list.portsentry"), "half a li").unwrap();
        write(&path, "a");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a");
        assert_eq!(names(dir.path()), ["list"]);
    }

    #[test]
    fn of_many_at_a_time_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let more = |text: &[u8]| [text, b"x"].concat();
                        file(&path).edit(more).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "x".repeat(40));
    }
}
