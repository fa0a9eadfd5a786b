//! What memory a process of a machine's takes, with what the kernel keeps for it, and a limit to that.
//!
//! The limit that its unit has is systemd's to set, by the memory controller of version 2. Where this host has that controller in a
//! hierarchy of version 1, no systemd in a machine gets to see it: then the process is put into a cgroup there, with the same limit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::{Machine, mounted};

/// A cgroup that holds a process, and its memory to a limit.
pub(crate) struct Memory {
    dir: PathBuf,
    /// What is taken now, what was at most, and the limit, as the version has them.
    files: [&'static str; 3],
}

impl Memory {
    /// Of the process with this number in the machine, which is to take no more than `limit` bytes.
    pub(crate) fn held_to(limit: u64, machine: &Machine, pid: &str) -> Self {
        let memory = match mounted("cgroup", "memory") {
            Some(hierarchy) => Self::made_in(&hierarchy, limit, machine, pid),
            None => {
                let line = machine.run(&format!("cat /proc/{pid}/cgroup"));
                let cgroup = line.trim_end().trim_start_matches("0::");
                Self {
                    dir: machine.path(&format!("/sys/fs/cgroup{cgroup}")),
                    files: ["memory.current", "memory.peak", "memory.max"],
                }
            }
        };
        assert_eq!(memory.read(2), limit, "of {}", memory.dir.display());
        memory
    }

    /// Moves the process to a cgroup of version 1, which goes with the machine. What it has taken before is not counted: it has
    /// hardly begun.
    fn made_in(hierarchy: &Path, limit: u64, machine: &Machine, pid: &str) -> Self {
        let memory = Self {
            dir: hierarchy.join(machine.name()),
            files: [
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                "memory.limit_in_bytes",
            ],
        };
        let said = fs::create_dir(&memory.dir)
            .and_then(|()| fs::write(memory.dir.join(memory.files[2]), limit.to_string()));
        said.unwrap_or_else(|error| panic!("{}: {error}", memory.dir.display()));
        // Numbers that are written there are those of the writer's process namespace.
        let moved = Command::new("nsenter")
            .arg(format!("--target={}", machine.leader().expect("it is on")))
            .args(["--pid", "sh", "-c", "echo \"$1\" >\"$0\""])
            .args([&memory.dir.join("cgroup.procs"), Path::new(pid)])
            .status();
        assert!(moved.is_ok_and(|status| status.success()));
        memory
    }

    /// Bytes that are taken now.
    pub(crate) fn now(&self) -> u64 {
        self.read(0)
    }

    /// Bytes that were taken at most.
    pub(crate) fn most(&self) -> u64 {
        self.read(1)
    }

    fn read(&self, file: usize) -> u64 {
        let path = self.dir.join(self.files[file]);
        let text = fs::read_to_string(&path);
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().parse().expect("it is in bytes")
    }
}
