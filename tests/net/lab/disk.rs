//! A small disk, which a test can fill.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// A file system of its own at some directory, seen by the test's thread and what it starts alone. Gone on drop.
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Mounts one of this size, as `mount` takes it.
    pub(crate) fn mount(dir: &Path, size: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may have mounts of its own");
        run(Command::new("mount").args(["--make-rprivate", "/"]));
        let options = format!("size={size},mode=700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir));
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Leaves no page of it free.
    pub(crate) fn fill(&self) {
        let mut file = File::create(self.filler()).expect("an empty file has room");
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    /// Frees what was filled.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.filler()).expect("it was filled before");
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("mount is there");
    assert!(status.success(), "{command:?}");
}
