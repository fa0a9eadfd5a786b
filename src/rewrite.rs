//! [`Rewrite`]: a text file of the admin's is replaced as a whole or not at all, and stays his: owner, mode, the link
//! that leads to it. What is to stand in it is for others.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::config;

/// A file that is about to be replaced. Nobody else who does it this way can begin meanwhile.
///
/// The draft, `.NAME.draft` beside the file, is what is locked. It goes when this is dropped; one that a crash has left
/// is used again.
pub struct Rewrite {
    /// Behind all links.
    path: PathBuf,
    draft_path: PathBuf,
    draft: Flock<File>,
    /// Of the file that is there; `None`: there is none.
    old: Option<Metadata>,
    text: Vec<u8>,
    is_done: bool,
}

/// A file could not be replaced, and is as it was.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}: {cause}", .path.display())]
pub struct Error {
    step: &'static str,
    path: PathBuf,
    cause: String,
}

/// Of a file that we make.
const MODE: u32 = 0o644;

/// How often a draft that somebody else works at is tried again, this long apart.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

impl Rewrite {
    /// Begins to replace the file at `path`, or to make it. Follows links.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or is larger than `limit`; its directory cannot be written to; somebody
    /// else is at it for seconds.
    pub fn begin(path: &Path, limit: u64) -> Result<Self, Error> {
        let path = behind_links(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft_path = path.with_file_name(format!(".{name}.draft"));
        let mut rewrite = Self {
            draft: lock(&draft_path)?,
            draft_path,
            old: None,
            text: Vec::new(),
            is_done: false,
            path,
        };
        match config::read_file(&rewrite.path, limit) {
            Ok(text) => {
                rewrite.text = text;
                rewrite.old = Some(fs::metadata(&rewrite.path).map_err(rewrite.failed("read"))?);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(rewrite.failed("read")(error)),
        }
        Ok(rewrite)
    }

    /// What the file holds; nothing where there is none.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Puts `text` into the file's place. It keeps owner and mode; one that is made anew may be read by all.
    ///
    /// # Errors
    /// A full or read-only disk, a directory or an owner that may not be changed.
    pub fn finish(mut self, text: &[u8]) -> Result<(), Error> {
        let draft = &mut self.draft;
        let written = draft
            .set_len(0)
            .and_then(|()| draft.write_all(text))
            .and_then(|()| match &self.old {
                Some(old) => {
                    fchown(&**draft, Some(old.uid()), Some(old.gid()))?;
                    draft.set_permissions(old.permissions())
                }
                None => draft.set_permissions(Permissions::from_mode(MODE)),
            })
            .and_then(|()| draft.sync_all())
            .and_then(|()| fs::rename(&self.draft_path, &self.path));
        written.map_err(self.failed("replace"))?;
        self.is_done = true;
        // The file is in place. Only a power cut could undo that now, whatever comes of this.
        if let Some(dir) = self.path.parent() {
            let _ = File::open(dir).and_then(|dir| dir.sync_all());
        }
        Ok(())
    }

    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> Error {
        failed(step, &self.path)
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        if !self.is_done {
            // Under the lock still: whoever waits for it finds that the draft is gone, and makes another.
            let _ = fs::remove_file(&self.draft_path);
        }
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error {
        step,
        path,
        cause: match error.kind() {
            io::ErrorKind::PermissionDenied => "permission denied; run this as root".to_owned(),
            io::ErrorKind::FileTooLarge => "it is too large to be what it should".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// Where the file itself is, or would be.
fn behind_links(path: &Path) -> Result<PathBuf, Error> {
    match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("find", path)(error)),
    }
    if path.is_symlink() {
        return Err(Error {
            step: "make",
            path: path.to_owned(),
            cause: "it is a link to a file that is not there; remove the link, or make the file"
                .to_owned(),
        });
    }
    Ok(path.to_owned())
}

/// Makes the draft, for nobody else to read, and locks it.
fn lock(draft_path: &Path) -> Result<Flock<File>, Error> {
    for _ in 0..TRIES {
        let draft = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(draft_path)
            .map_err(failed("make", draft_path))?;
        match Flock::lock(draft, FlockArg::LockExclusiveNonblock) {
            Ok(draft) if stands_at(&draft, draft_path) => return Ok(draft),
            // Whoever had it has put it into place or removed it.
            Ok(_) => {}
            Err((_, Errno::EWOULDBLOCK)) => thread::sleep(PAUSE),
            Err((_, errno)) => return Err(failed("lock", draft_path)(errno.into())),
        }
    }
    Err(Error {
        step: "lock",
        path: draft_path.to_owned(),
        cause: "somebody else is editing the file; try again".to_owned(),
    })
}

fn stands_at(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(there)) = (file.metadata(), fs::symlink_metadata(path)) else {
        return false;
    };
    (file.dev(), file.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, symlink};

    const LIMIT: u64 = 1 << 20;

    fn rewrite(path: &Path, text: &str) {
        Rewrite::begin(path, LIMIT)
            .unwrap()
            .finish(text.as_bytes())
            .unwrap();
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
        rewrite(&path, "made");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);

        chown(&path, Some(12), Some(34)).expect("the tests run as root");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        rewrite(&path, "a");
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
        let (link, file) = (dir.path().join("link"), other.path().join("file"));
        symlink(&file, &link).unwrap();
        let dangling = Rewrite::begin(&link, LIMIT).err().unwrap().to_string();
        assert!(
            dangling.contains("a link to a file that is not there"),
            "{dangling}"
        );
        fs::write(&file, "old").unwrap();
        let begun = Rewrite::begin(&link, LIMIT).unwrap();
        assert_eq!(begun.text(), b"old");
        begun.finish(b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(names(dir.path()), ["link"]);
        assert_eq!(names(other.path()), ["file"]);
    }

    #[test]
    fn a_rewrite_that_is_given_up_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        drop(Rewrite::begin(&path, LIMIT).unwrap());
        assert!(names(dir.path()).is_empty());
        fs::write(&path, "x".repeat(100)).unwrap();
        assert!(Rewrite::begin(&path, 99).is_err());
        assert!(Rewrite::begin(dir.path(), LIMIT).is_err());
        assert!(Rewrite::begin(&dir.path().join("no/list"), LIMIT).is_err());
        assert_eq!(names(dir.path()), ["list"]);
        // What a crash has left.
        fs::write(dir.path().join(".list.draft"), "half a li").unwrap();
        rewrite(&path, "a");
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
                        let begun = Rewrite::begin(&path, LIMIT).unwrap();
                        let more = [begun.text(), b"x"].concat();
                        begun.finish(&more).unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), "x".repeat(40));
    }
}
