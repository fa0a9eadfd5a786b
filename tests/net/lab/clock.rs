//! A wall clock of the daemon's own, which a test can set: this machine's is everybody's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// The clock. What is started with its library sees it as CLOCK_REALTIME, and the other clocks as they are.
pub(crate) struct Clock {
    dir: TempDir,
}

/// Asks the kernel, and adds the seconds that the file in WALL_CLOCK holds.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *time)
{
    int done = syscall(SYS_clock_gettime, which, time);
    const char *path = getenv("WALL_CLOCK");
    if (done == 0 && which == CLOCK_REALTIME && path) {
        char text[32] = {0};
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file >= 0) {
            if (read(file, text, sizeof text - 1) > 0)
                time->tv_sec += atoll(text);
            close(file);
        }
    }
    return done;
}
"#;

impl Clock {
    /// A clock that is right.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let clock = Self { dir };
        fs::write(clock.path("clock.c"), SHIM).expect("the directory is ours");
        clock.set_off(0);
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O", "-o"]);
        compiler.arg(clock.library()).arg(clock.path("clock.c"));
        let done = compiler.status().expect("cc is there");
        assert!(done.success(), "the clock could not be built");
        clock
    }

    /// Sets it so many seconds off what is right.
    pub(crate) fn set_off(&self, seconds: i64) {
        let new = self.path("off.new");
        fs::write(&new, seconds.to_string()).expect("the directory is ours");
        fs::rename(new, self.path("off")).expect("both are ours");
    }

    /// Sets it to how it is after a boot without a battery.
    pub(crate) fn set_to_1970(&self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or(Duration::ZERO).as_secs();
        self.set_off(60 - i64::try_from(seconds).expect("it is not that late"));
    }

    /// What a program needs in its environment to see it.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 2] {
        [
            ("LD_PRELOAD", self.library()),
            ("WALL_CLOCK", self.path("off")),
        ]
    }

    fn library(&self) -> PathBuf {
        self.path("clock.so")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.dir.path(), name)
    }
}
