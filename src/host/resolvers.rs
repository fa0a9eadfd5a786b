//! The name servers that this host asks, as its files name them.
//!
//! What is read is resolv.conf(5), and the one in which systemd-resolved keeps the servers that it asks itself: the first
//! then names a stub on loopback alone. When to read them is for the caller.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A name server, and the file that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// Its address.
    pub address: IpAddr,
    /// Where it is named.
    pub file: PathBuf,
}

/// The files, in the order in which they are believed.
pub const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Name servers taken from one file at most; the C library asks three.
const MAX: usize = 64;

/// Bytes of a file that are read at most.
const MAX_BYTES: u64 = 64 * 1024;

/// All that are named. A file that cannot be read names none.
#[must_use]
pub fn read() -> Vec<Resolver> {
    let of = |path: &str| {
        let text = text(Path::new(path)).unwrap_or_default();
        let resolver = |address| Resolver {
            address,
            file: PathBuf::from(path),
        };
        servers(&text).map(resolver).collect::<Vec<_>>()
    };
    FILES.into_iter().flat_map(of).collect()
}

fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    OpenOptions::new()
        .read(true)
        // Where somebody has put a pipe, nobody waits for what comes out of it.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The addresses in the `nameserver` lines, up to a bound. As the C library, it takes the keyword at a line's very beginning alone;
/// an interface behind `%` is left out.
fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .filter(|rest| rest.starts_with([' ', '\t']))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter_map(|word| word.split('%').next()?.parse().ok())
        .take(MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_names_nobody_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(text(&path).unwrap_or_default(), "");
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.1\nsearch example.org\nnameserver 192.0.2.2\nnameserver\t2001:db8::3  # x\n\
                    nameserver fe80::4%eth0\n nameserver 192.0.2.5\nnameserver192.0.2.6\nnameserver not.an.address\n\
                    nameserver\nnameserver 192.0.2.7\r\noptions edns0\n";
        let found: Vec<String> = servers(text).map(|it| it.to_string()).collect();
        assert_eq!(found, ["192.0.2.2", "2001:db8::3", "fe80::4", "192.0.2.7"]);
        let many = "nameserver 192.0.2.1\n".repeat(1000);
        assert_eq!(servers(&many).count(), MAX);
    }
}
