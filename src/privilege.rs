//! The capabilities that portsentry needs: whether it has them, getting rid of all others, and becoming another user with them.
//!
//! All of it is about the calling thread, and those it starts from then on.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd;
use rustix::thread::{self, Gid, Uid};

/// What is needed, by what is to be done. CAP_NET_ADMIN, to change nftables, and CAP_NET_RAW, to see packets, always are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// CAP_NET_BIND_SERVICE, to listen on ports below 1024, at once or later.
    pub low_ports: bool,
}

/// Each with its name.
const ALWAYS: [(Capability, &str); 2] = [
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    (Capability::CAP_NET_RAW, "CAP_NET_RAW"),
];
const LOW_PORTS: (Capability, &str) = (Capability::CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE");

/// Capabilities that are needed and not there. Its text says how to give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    names: Vec<&'static str>,
    needs: Needs,
    program: PathBuf,
}

/// A set of capabilities could not be reduced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// By capset or prctl.
    #[error("cannot reduce the {set} capabilities: {cause}")]
    Reduce {
        /// `permitted`, `bounding` …
        set: &'static str,
        /// What the kernel said.
        cause: CapsError,
    },
    /// There is nobody of that name.
    #[error("daemon.user names {0}, and there is no such user; create it, or name another")]
    NoSuchUser(String),
    /// By setresuid and the like.
    #[error("cannot become the user {name}, whom daemon.user names: {cause}")]
    Become {
        /// The user's name.
        name: String,
        /// What the kernel said.
        cause: rustix::io::Errno,
    },
    /// PR_SET_NO_NEW_PRIVS
    #[error("cannot give up gaining privileges: {0}")]
    NoNewPrivileges(Errno),
}

/// Which of the needed capabilities the calling thread lacks, by name: `CAP_NET_ADMIN`.
#[must_use]
pub fn missing(needs: Needs) -> Vec<&'static str> {
    let effective = caps::read(None, CapSet::Effective).unwrap_or_default();
    needs
        .capabilities()
        .filter(|(capability, _)| !effective.contains(capability))
        .map(|(_, name)| name)
        .collect()
}

/// Makes sure that the calling thread has what is needed.
///
/// # Errors
/// When it lacks a capability: the text names it and the ways to give it.
pub fn require(needs: Needs) -> Result<(), Missing> {
    let names = missing(needs);
    if names.is_empty() {
        return Ok(());
    }
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("portsentry"));
    Err(Missing {
        names,
        needs,
        program,
    })
}

/// Reduces the calling thread's permitted and effective capabilities to exactly the needed ones, and takes all others
/// out of its inheritable, ambient and bounding sets. Then neither it nor a program it starts can gain any through a
/// set-user-ID program or one with capabilities of its own.
///
/// Capabilities are a thread's own, and handed on to the threads it starts: so call this before any other thread is
/// started, and after the user is changed (which needs CAP_SETUID, and leaves the effective set empty).
///
/// # Errors
/// When the needed capabilities are not permitted, or the kernel refuses. The bounding set is left as it is without
/// CAP_SETPCAP, as the other sets and no_new_privs keep programs from drawing on it.
pub fn drop_to_needed(needs: Needs) -> Result<(), Error> {
    let needed = needs.set();

    let permitted = read(CapSet::Permitted)?;
    if permitted.contains(&Capability::CAP_SETPCAP) {
        let mut effective = needed.clone();
        effective.insert(Capability::CAP_SETPCAP);
        effective.retain(|capability| permitted.contains(capability));
        set(CapSet::Effective, &effective)?;
        for capability in read(CapSet::Bounding)?.difference(&needed) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(failed(CapSet::Bounding))?;
        }
    }
    for kind in [CapSet::Ambient, CapSet::Inheritable] {
        let kept = read(kind)?.intersection(&needed).copied().collect();
        set(kind, &kept)?;
    }
    // Effective never exceeds permitted: it goes down first, and up last.
    let kept = read(CapSet::Effective)?
        .intersection(&needed)
        .copied()
        .collect();
    set(CapSet::Effective, &kept)?;
    set(CapSet::Permitted, &needed)?;
    set(CapSet::Effective, &needed)?;
    prctl::set_no_new_privs().map_err(Error::NoNewPrivileges)
}

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl User {
    /// The user of this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self, Error> {
        let found = unistd::User::from_name(name).ok().flatten();
        let found = found.ok_or_else(|| Error::NoSuchUser(name.to_owned()))?;
        Ok(Self {
            name: name.to_owned(),
            uid: Uid::from_raw(found.uid.as_raw()),
            gid: Gid::from_raw(found.gid.as_raw()),
        })
    }

    /// Whom the calling thread runs as.
    #[must_use]
    pub fn current() -> Self {
        let uid = unistd::geteuid();
        let found = unistd::User::from_uid(uid).ok().flatten();
        Self {
            name: found.map_or_else(|| uid.to_string(), |user| user.name),
            uid: Uid::from_raw(uid.as_raw()),
            gid: Gid::from_raw(unistd::getegid().as_raw()),
        }
    }

    /// Makes the calling thread run as this user, in its own group alone. Threads that run already stay who they are. What is
    /// permitted stays permitted, but nothing is effective until [`drop_to_needed`].
    ///
    /// # Errors
    /// When the kernel refuses, as it does for all but root.
    pub fn embody(&self) -> Result<(), Error> {
        if *self == Self::current() {
            return Ok(());
        }
        thread::set_keep_capabilities(true)
            .and_then(|()| thread::set_thread_groups(&[self.gid]))
            .and_then(|()| thread::set_thread_res_gid(self.gid, self.gid, self.gid))
            .and_then(|()| thread::set_thread_res_uid(self.uid, self.uid, self.uid))
            .map_err(|cause| Error::Become {
                name: self.name.clone(),
                cause,
            })
    }

    /// Whether this user, in its own group alone and without special rights, may make files in a directory.
    #[must_use]
    pub fn may_write(&self, directory: &Metadata) -> bool {
        let shift = if directory.uid() == self.uid.as_raw() {
            6
        } else if directory.gid() == self.gid.as_raw() {
            3
        } else {
            0
        };
        (directory.mode() >> shift) & 0o3 == 0o3
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Has programs that the calling thread starts keep what we always need, whoever they run as. What cannot be handed on is what
/// the thread itself lacks: then they fail, and say so.
pub fn hand_on() {
    for (capability, _) in ALWAYS {
        // Only what is inheritable can be ambient.
        for set in [CapSet::Inheritable, CapSet::Ambient] {
            let _ = caps::raise(None, set, capability);
        }
    }
}

impl Needs {
    fn capabilities(self) -> impl Iterator<Item = (Capability, &'static str)> {
        ALWAYS
            .into_iter()
            .chain(self.low_ports.then_some(LOW_PORTS))
    }

    fn set(self) -> CapsHashSet {
        self.capabilities()
            .map(|(capability, _)| capability)
            .collect()
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.program.display();
        let needed: Vec<&str> = self.needs.capabilities().map(|(_, name)| name).collect();
        write!(
            f,
            "{} missing: run as root; or once: setcap {}+ep {program}; \
             or in the systemd unit: AmbientCapabilities={}",
            match self.names.as_slice() {
                [one] => format!("{one} is"),
                several => format!("{} are", several.join(" and ")),
            },
            needed.join(",").to_lowercase(),
            needed.join(" "),
        )
    }
}

impl std::error::Error for Missing {}

fn read(kind: CapSet) -> Result<CapsHashSet, Error> {
    caps::read(None, kind).map_err(failed(kind))
}

fn set(kind: CapSet, value: &CapsHashSet) -> Result<(), Error> {
    caps::set(None, kind, value).map_err(failed(kind))
}

fn failed(kind: CapSet) -> impl Fn(CapsError) -> Error {
    move |cause| Error::Reduce {
        set: match kind {
            CapSet::Ambient => "ambient",
            CapSet::Bounding => "bounding",
            CapSet::Effective => "effective",
            CapSet::Inheritable => "inheritable",
            CapSet::Permitted => "permitted",
        },
        cause,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::io::ErrorKind;
    use std::net::TcpListener;
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::thread;

    use nix::sched::{CloneFlags, unshare};
    use socket2::{Domain, Socket, Type};

    use super::*;

    const PACKETS: Needs = Needs { low_ports: false };
    const LISTENING: Needs = Needs { low_ports: true };

    /// Capabilities are a thread's own: this one may lose them.
    fn in_a_thread(test: impl FnOnce() + Send + 'static) {
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn nothing_but_the_needed_is_left_after_the_drop() {
        in_a_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let secret = dir.path().join("secret");
            fs::write(&secret, "").unwrap();
            fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
            chown(&secret, Some(65534), Some(65534)).expect("this test needs root");
            File::open(&secret).expect("root reads everything, before");

            drop_to_needed(PACKETS).unwrap();

            Socket::new(Domain::PACKET, Type::DGRAM, None).expect("packets are seen");
            assert_eq!(require(PACKETS), Ok(()));
            let error = File::open(&secret).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let error = chown(&secret, Some(0), Some(0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);

            let needed = PACKETS.set();
            for exact in [CapSet::Permitted, CapSet::Effective, CapSet::Bounding] {
                assert_eq!(caps::read(None, exact).unwrap(), needed);
            }
            for at_most in [CapSet::Inheritable, CapSet::Ambient] {
                assert!(caps::read(None, at_most).unwrap().is_subset(&needed));
            }
            assert_eq!(prctl::get_no_new_privs(), Ok(true));
            drop_to_needed(PACKETS).expect("a second time changes nothing");
        });
    }

    #[test]
    fn low_ports_can_be_bound_after_the_drop_only_if_they_are_needed() {
        for (needs, bound) in [(LISTENING, true), (PACKETS, false)] {
            in_a_thread(move || {
                // A network where nobody has the port, nor has changed which are low.
                unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
                drop_to_needed(needs).unwrap();
                assert_eq!(require(needs), Ok(()));
                let low = TcpListener::bind("0.0.0.0:7");
                assert_eq!(low.is_ok(), bound, "{low:?}");
                assert_eq!(missing(LISTENING).is_empty(), bound);
            });
        }
    }

    #[test]
    fn the_effective_set_may_be_empty_as_after_a_change_of_user() {
        in_a_thread(|| {
            caps::clear(None, CapSet::Effective).unwrap();
            assert_eq!(missing(PACKETS), ["CAP_NET_ADMIN", "CAP_NET_RAW"]);
            drop_to_needed(PACKETS).expect("this test needs root");
            assert_eq!(require(PACKETS), Ok(()));
        });
    }

    #[test]
    fn another_user_has_what_is_needed_and_none_of_roots_files() {
        in_a_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let nobody = User::named("nobody").unwrap();
            assert!(!nobody.may_write(&fs::metadata(&dir).unwrap()));
            nobody.embody().expect("this test needs root");
            assert_eq!(User::current().uid, nobody.uid);
            drop_to_needed(PACKETS).unwrap();
            assert_eq!(require(PACKETS), Ok(()));
            Socket::new(Domain::PACKET, Type::DGRAM, None).expect("packets are seen");
            let error = File::create(dir.path().join("file")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            let groups = fs::read_to_string("/proc/thread-self/status").unwrap();
            let group = format!("Groups:\t{} \n", nobody.gid.as_raw());
            assert!(groups.contains(&group), "{groups}");
            nobody
                .embody()
                .expect("who is it already need not become it");
        });
        in_a_thread(|| assert!(unistd::geteuid().is_root()));
        let unknown = User::named("no-such-user").unwrap_err().to_string();
        assert!(unknown.contains("names no-such-user"), "{unknown}");
    }

    #[test]
    fn who_may_write_is_said_by_the_first_class_that_fits() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = User::named("nobody").unwrap();
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        for (owner, group, mode, may) in [
            (uid, 0, 0o700, true),
            (uid, gid, 0o077, false),
            (0, gid, 0o730, true),
            (0, gid, 0o707, false),
            (0, 0, 0o703, true),
            (0, 0, 0o770, false),
        ] {
            chown(dir.path(), Some(owner), Some(group)).expect("this test needs root");
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
            let metadata = fs::metadata(&dir).unwrap();
            assert_eq!(nobody.may_write(&metadata), may, "{mode:o}");
        }
    }

    #[test]
    fn the_bounding_set_stays_where_it_may_not_be_touched() {
        in_a_thread(|| {
            let needed = PACKETS.set();
            caps::set(None, CapSet::Effective, &needed).expect("this test needs root");
            caps::set(None, CapSet::Permitted, &needed).unwrap();
            let before = caps::read(None, CapSet::Bounding).unwrap();
            drop_to_needed(PACKETS).unwrap();
            assert_eq!(caps::read(None, CapSet::Bounding).unwrap(), before);
        });
    }

    #[test]
    fn what_is_missing_is_named_with_the_ways_to_give_it() {
        in_a_thread(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
            assert_eq!(missing(PACKETS), ["CAP_NET_RAW"]);
            let missing = require(PACKETS).unwrap_err().to_string();
            let program = std::env::current_exe().unwrap();
            assert_eq!(
                missing,
                format!(
                    "CAP_NET_RAW is missing: run as root; \
                     or once: setcap cap_net_admin,cap_net_raw+ep {}; \
                     or in the systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
                    program.display()
                )
            );
            caps::drop(None, CapSet::Effective, Capability::CAP_NET_BIND_SERVICE).unwrap();
            let missing = require(LISTENING).unwrap_err().to_string();
            assert_eq!(
                missing,
                format!(
                    "CAP_NET_RAW and CAP_NET_BIND_SERVICE are missing: run as root; \
                     or once: setcap cap_net_admin,cap_net_raw,cap_net_bind_service+ep {}; \
                     or in the systemd unit: AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE",
                    program.display()
                )
            );
            caps::clear(None, CapSet::Permitted).unwrap();
            drop_to_needed(PACKETS).unwrap_err();
        });
    }
}
