//! Room for the ports' descriptors: each port takes one, and a process may have 1024 unless it asks for more.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{Error, failed};

/// Descriptors that are kept for all the rest of the program, with its clients.
const OTHERS: u64 = 256;

/// Raises the soft limit of open files as far as `ports` need it. It is never lowered: others may have come to count on it.
///
/// # Errors
/// The hard limit is too low, or the kernel refuses.
pub(super) fn make_room(ports: usize) -> Result<(), Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(failed("read how many files this process may open"))?;
    match limit_for(ports, soft, hard)? {
        Some(limit) => setrlimit(Resource::RLIMIT_NOFILE, limit, hard)
            .map_err(failed("raise how many files this process may open")),
        None => Ok(()),
    }
}

/// The soft limit to ask for; `None`: the one in force will do.
fn limit_for(ports: usize, soft: u64, hard: u64) -> Result<Option<u64>, Error> {
    let needed = u64::try_from(ports)
        .unwrap_or(u64::MAX)
        .saturating_add(OTHERS);
    if needed <= soft || ports == 0 {
        Ok(None)
    } else if needed <= hard {
        Ok(Some(needed))
    } else {
        Err(Error::TooMany {
            wanted: ports,
            limit: hard,
            possible: hard.saturating_sub(OTHERS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_only_as_far_as_the_ports_need_it() {
        assert_eq!(limit_for(300, 1024, 4096).unwrap(), None);
        assert_eq!(limit_for(768, 1024, 4096).unwrap(), None);
        assert_eq!(limit_for(769, 1024, 4096).unwrap(), Some(1025));
        assert_eq!(limit_for(3840, 1024, 4096).unwrap(), Some(4096));
        assert_eq!(limit_for(0, 10, 10).unwrap(), None);
    }

    #[test]
    fn a_list_that_cannot_fit_is_told_with_what_can() {
        let error = limit_for(65_535, 1024, 4096).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot listen on 65535 ports: this process may open 4096 files, which is room for 3840 \
             (name fewer in tcp.ports and udp.ports, or raise LimitNOFILE in the unit, ulimit -Hn in a shell)"
        );
        let error = limit_for(1, 64, 64).unwrap_err().to_string();
        assert!(error.contains("room for 0 "), "{error}");
    }
}
