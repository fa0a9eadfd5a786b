//! An `/etc` and a `/run` that a daemon sees in place of this host's: what name servers and logins are read from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Gone on drop. A fixed, small `/etc`: a test must not depend on how this host is set up.
pub(crate) struct Surroundings {
    dir: TempDir,
}

/// Puts them in place, `$0` being where they are kept, and becomes the program.
pub(super) const INSIDE: &str =
    r#"mount --bind "$0/etc" /etc && mount --bind "$0/run" /run && exec "$@""#;

impl Surroundings {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let surroundings = Self { dir };
        for name in ["etc", "run"] {
            fs::create_dir(surroundings.root().join(name)).expect("the directory is ours");
        }
        for name in ["group", "ld.so.cache", "passwd", "protocols", "services"] {
            let from = Path::new("/etc").join(name);
            if from.exists() {
                fs::copy(&from, surroundings.path(&format!("/etc/{name}")))
                    .expect("the directory is ours");
            }
        }
        surroundings.write("/etc/nsswitch.conf", "hosts: files dns\n");
        surroundings.write("/etc/hosts", "127.0.0.1 localhost\n");
        surroundings.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
        surroundings
    }

    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Where a file is really.
    fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file, as careful programs do: a new one takes the old one's place. Its directory is made.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        let new = path.with_extension("new.tmp");
        fs::create_dir_all(path.parent().expect("it has one")).expect("the directory is ours");
        fs::write(&new, text).expect("the directory is ours");
        fs::rename(new, path).expect("both are ours");
    }

    /// Deletes a file.
    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).expect("it was written before");
    }

    /// A program that does nothing, under this name, until it is dropped.
    pub(crate) fn idle_program(&self, name: &str) -> Idle {
        let path = self.root().join(name);
        fs::copy("/bin/sleep", &path).expect("the directory is ours");
        let child = Command::new(&path).arg("1000").spawn();
        Idle(child.expect("it was copied there"))
    }
}

/// A process, ended on drop.
pub(crate) struct Idle(std::process::Child);

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
