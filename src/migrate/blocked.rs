//! 2.x's blocked file: binary, an address after another, each behind its family. Its default place is /tmp, so that it is read
//! only if no stranger can have put it there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, ErrorKind, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// A blocked file, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whom it names, each once for each time.
    pub addresses: Vec<IpAddr>,
    /// Device, inode and length.
    version: (u64, u64, u64),
}

/// Addresses that are read. The file holds 6 or 18 bytes for each.
const MAX_ADDRESSES: usize = 1_000_000;

impl BlockedFile {
    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// Why it is left alone, in words.
    pub fn read(path: &Path) -> Result<Option<Self>, String> {
        let Some(file) = open(path)? else {
            return Ok(None);
        };
        let version = version(&file.metadata().map_err(|cause| cause.to_string())?);
        Ok(Some(Self {
            path: path.to_owned(),
            addresses: addresses(BufReader::new(file))?,
            version,
        }))
    }

    /// Removes it; one that is not there is no error.
    ///
    /// # Errors
    /// It has grown or was replaced since it was read, or the directory does not let us; in words.
    pub fn remove(&self) -> Result<(), String> {
        let there = match fs::symlink_metadata(&self.path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|cause| cause.to_string())?,
        };
        if version(&there) != self.version {
            return Err(
                "somebody has written to it meanwhile; stop what does, and try again".to_owned(),
            );
        }
        match fs::remove_file(&self.path) {
            Err(cause) if cause.kind() != ErrorKind::NotFound => Err(cause.to_string()),
            _ => Ok(()),
        }
    }
}

/// Opens a file that an old version has written, if nobody but root can have; `None`: there is none.
///
/// # Errors
/// Why it is left alone, in words.
pub fn open(path: &Path) -> Result<Option<File>, String> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(cause) => {
            return match cause.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
                Some(Errno::ELOOP) => Err("it is a symbolic link".to_owned()),
                _ => Err(cause.to_string()),
            };
        }
    };
    let found = file.metadata().map_err(|cause| cause.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".to_owned());
    }
    let others = found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && found.gid() != 0);
    if found.uid() != 0 || others {
        return Err(
            "others than root may write to it, and may have made it up; if it is good: chown root, chmod go-w".to_owned(),
        );
    }
    Ok(Some(file))
}

fn version(found: &fs::Metadata) -> (u64, u64, u64) {
    (found.dev(), found.ino(), found.len())
}

/// `sa_family_t` in this machine's byte order, then 4 or 16 bytes as on the wire.
fn addresses(mut bytes: impl Read) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    loop {
        let mut family = [0; 2];
        match bytes.read(&mut family[..1]) {
            Ok(0) => return Ok(addresses),
            Ok(_) => {}
            Err(cause) if cause.kind() == ErrorKind::Interrupted => continue,
            Err(cause) => return Err(cause.to_string()),
        }
        bytes.read_exact(&mut family[1..]).map_err(words)?;
        let address = match i32::from(u16::from_ne_bytes(family)) {
            libc::AF_INET => {
                let mut address = [0; 4];
                bytes.read_exact(&mut address).map_err(words)?;
                IpAddr::from(address)
            }
            libc::AF_INET6 => {
                let mut address = [0; 16];
                bytes.read_exact(&mut address).map_err(words)?;
                IpAddr::from(address).to_canonical()
            }
            _ => return Err(
                "it is not a blocked file of portsentry 2 (or comes from a machine of another byte order)"
                    .to_owned(),
            ),
        };
        if addresses.len() == MAX_ADDRESSES {
            return Err(format!("it names more than {MAX_ADDRESSES} addresses"));
        }
        addresses.push(address);
    }
}

fn words(cause: io::Error) -> String {
    match cause.kind() {
        ErrorKind::UnexpectedEof => "it ends in the middle of an address".to_owned(),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use proptest::prelude::*;

    use super::*;

    fn bytes(addresses: &[&str]) -> Vec<u8> {
        let record = |text: &&str| match text.parse().unwrap() {
            IpAddr::V4(v4) => [&2_u16.to_ne_bytes()[..], &v4.octets()].concat(),
            IpAddr::V6(v6) => [&10_u16.to_ne_bytes()[..], &v6.octets()].concat(),
        };
        addresses.iter().flat_map(record).collect()
    }

    #[test]
    fn addresses_of_both_families_are_read_in_their_order() {
        let text = bytes(&["10.9.0.2", "fd09::2", "10.9.0.3"]);
        let expected = ["10.9.0.2", "fd09::2", "10.9.0.3"].map(|it| it.parse::<IpAddr>().unwrap());
        assert_eq!(addresses(text.as_slice()).unwrap(), expected);
        assert_eq!(addresses(&[][..]).unwrap(), Vec::<IpAddr>::new());
    }

    #[test]
    fn half_an_address_and_other_files_are_refused_whole() {
        let text = bytes(&["10.9.0.2", "fd09::2"]);
        for end in 1..text.len() {
            let read = addresses(&text[..end]);
            assert_eq!(read.is_ok(), end == 6, "{end}: {read:?}");
        }
        let swapped = [2_u16.swap_bytes().to_ne_bytes().to_vec(), vec![10, 9, 0, 2]].concat();
        for other in [&swapped[..], b"5 - 01/01/1970"] {
            let why = addresses(other).unwrap_err();
            assert!(why.contains("not a blocked file"), "{why}");
        }
    }

    #[test]
    fn a_file_that_a_stranger_may_have_put_there_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("portsentry.blocked");
        assert_eq!(BlockedFile::read(&path), Ok(None));
        fs::write(&path, bytes(&["10.9.0.2"])).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(BlockedFile::read(&path).unwrap().is_some());
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(BlockedFile::read(&link).unwrap_err().contains("link"));
        assert!(
            BlockedFile::read(dir.path())
                .unwrap_err()
                .contains("regular")
        );
        let refused = || BlockedFile::read(&path).unwrap_err().contains("made it up");
        fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
        assert!(refused());
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        chown(&path, Some(1000), None).expect("the tests run as root");
        assert!(refused());
    }

    #[test]
    fn a_file_that_has_grown_since_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("portsentry.blocked");
        fs::write(&path, bytes(&["10.9.0.2"])).unwrap();
        let file = BlockedFile::read(&path).unwrap().unwrap();
        fs::write(&path, bytes(&["10.9.0.2", "10.9.0.3"])).unwrap();
        assert!(file.remove().unwrap_err().contains("meanwhile"));
        let file = BlockedFile::read(&path).unwrap().unwrap();
        for _ in 0..2 {
            file.remove().unwrap();
            assert!(!path.exists());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = addresses(bytes.as_slice());
        }
    }
}
