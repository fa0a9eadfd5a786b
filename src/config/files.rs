//! Reading files that somebody may have put a pipe, a directory or a terabyte in place of.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// What the file holds, unless it holds more than `limit`.
pub(crate) fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // A pipe that nobody writes to must not stop us.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::other("it is no regular file"));
    }
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > limit) {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Cause and remedy for a file that [`read_file`] could not read.
pub(super) fn cannot_read(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; create it, or name another",
        io::ErrorKind::PermissionDenied => {
            "permission denied; it must belong to the user portsentry runs as or be readable for all, and its directories open to that user, also for root, who gives up the right to read everything"
        }
        io::ErrorKind::IsADirectory => "it is a directory; name a file",
        io::ErrorKind::FileTooLarge => "it is too large to be what it should; name another",
        _ => return format!("cannot read the file: {error}; see that it can be read with cat"),
    };
    format!("cannot read the file: {remedy}")
}
