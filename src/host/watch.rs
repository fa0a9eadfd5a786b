//! [`FileWatch`]: tells that files may have changed, so that whoever reads them reads them again.
//!
//! Directories are watched, not files: an editor that writes a new file and renames it over the old one is seen, and
//! so is a file that comes into being. What is in the files is for others.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::Error;

/// A watch over a few files, there or not.
pub struct FileWatch {
    inotify: Inotify,
    names: HashMap<WatchDescriptor, HashSet<OsString>>,
    /// The directories of which every file counts.
    whole: HashSet<WatchDescriptor>,
}

/// Reads in one go, of 4 KiB each; what is left makes the descriptor readable again at once.
const MAX_READS: usize = 64;

impl FileWatch {
    /// Watches `paths`, and where one is a symbolic link also the file it leads to now. Also returns those that cannot
    /// be watched, because their directory is not there or may not be looked into.
    ///
    /// # Errors
    /// When the kernel has no inotify instance left.
    pub fn open(paths: &[PathBuf]) -> Result<(Self, Vec<PathBuf>), Error> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|errno| Error::Watch(errno.into()))?;
        let mut watch = Self {
            inotify,
            names: HashMap::new(),
            whole: HashSet::new(),
        };
        let mut unwatched = Vec::new();
        for path in paths {
            if watch.add(path).is_none() {
                unwatched.push(path.clone());
            }
            if let Ok(target) = fs::canonicalize(path) {
                // The file is there and has a directory; a watch too many for the kernel leaves the link watched.
                let _ = watch.add(&target);
            }
        }
        Ok((watch, unwatched))
    }

    /// Watches all files of a directory too, if it is there.
    pub fn add_dir(&mut self, dir: &Path) {
        self.whole.extend(self.watch(dir));
    }

    /// Becomes readable when something happened in one of the directories: then call [`changed`](Self::changed).
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes in all events, never waiting for one. Whether one of the files was written and closed, made, moved or
    /// deleted, or that cannot be ruled out. A directory that was moved or deleted is watched no longer, and a link
    /// may lead elsewhere: after `true`, open a new watch.
    pub fn changed(&mut self) -> bool {
        let mut changed = false;
        for _ in 0..MAX_READS {
            match self.inotify.read_events() {
                Ok(events) => changed |= events.iter().any(|event| self.concerns(event)),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        changed
    }

    fn add(&mut self, path: &Path) -> Option<()> {
        let name = path.file_name()?;
        let dir = match path.parent()? {
            dir if dir.as_os_str().is_empty() => Path::new("."),
            dir => dir,
        };
        let watch = self.watch(dir)?;
        self.names.entry(watch).or_default().insert(name.to_owned());
        Some(())
    }

    fn watch(&self, dir: &Path) -> Option<WatchDescriptor> {
        let happenings = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(dir, happenings).ok()
    }

    fn concerns(&self, event: &InotifyEvent) -> bool {
        if self.whole.contains(&event.wd) {
            return true;
        }
        match &event.name {
            Some(name) => self
                .names
                .get(&event.wd)
                .is_some_and(|names| names.contains(name)),
            // About the directory itself, or the queue that ran over.
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn watch(path: &Path) -> FileWatch {
        let (watch, unwatched) = FileWatch::open(&[path.to_owned()]).unwrap();
        assert_eq!(unwatched, Vec::<PathBuf>::new());
        watch
    }

    #[test]
    fn a_file_is_seen_to_come_change_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ignore.list");
        let draft = dir.path().join("ignore.list.new");
        let mut watch = watch(&path);
        assert!(!watch.changed(), "nothing happened yet");

        fs::write(&path, "192.0.2.1\n").unwrap();
        assert!(watch.changed(), "made");
        assert!(!watch.changed(), "told once");

        fs::write(&draft, "192.0.2.2\n").unwrap();
        assert!(!watch.changed(), "another file");

        fs::rename(&draft, &path).unwrap();
        assert!(watch.changed(), "renamed over");

        fs::write(&path, "").unwrap();
        assert!(watch.changed(), "written in place");

        let _ = fs::read(&path).unwrap();
        assert!(!watch.changed(), "read only");

        fs::remove_file(&path).unwrap();
        assert!(watch.changed(), "deleted");
    }

    #[test]
    fn a_file_behind_a_link_is_seen_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), other.path().join("target"));
        fs::write(&target, "").unwrap();
        symlink(&target, &link).unwrap();
        let mut watch = watch(&link);
        fs::write(&target, "192.0.2.1\n").unwrap();
        assert!(watch.changed(), "written through");
        fs::remove_file(&link).unwrap();
        assert!(watch.changed(), "the link itself");
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_and_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let (lost, there) = (dir.path().join("a/b.list"), dir.path().join("c.list"));
        let (mut watch, unwatched) = FileWatch::open(&[lost.clone(), there.clone()]).unwrap();
        assert_eq!(unwatched, [lost]);
        fs::write(&there, "").unwrap();
        assert!(watch.changed());
    }

    #[test]
    fn of_a_whole_directory_every_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut watch, _) = FileWatch::open(&[]).unwrap();
        watch.add_dir(&dir.path().join("none"));
        watch.add_dir(dir.path());
        assert!(!watch.changed());
        fs::write(dir.path().join("3"), "").unwrap();
        assert!(watch.changed());
        fs::remove_file(dir.path().join("3")).unwrap();
        assert!(watch.changed());
        assert!(!watch.changed(), "told once");
    }

    #[test]
    fn a_directory_that_goes_takes_its_files_along() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let mut watch = watch(&inner.join("ignore.list"));
        fs::rename(&inner, dir.path().join("elsewhere")).unwrap();
        assert!(watch.changed());
    }
}
