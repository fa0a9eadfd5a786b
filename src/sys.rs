//! The system calls that nix and socket2 lack, behind safe signatures. No decisions.

#![expect(
    unsafe_code,
    reason = "one of the two rooms for unsafe: system calls that no safe crate offers"
)]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::{self, SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid};

/// Binds a packet socket to one link-layer protocol, on all interfaces: from now on it receives.
/// A descriptor that is no packet socket gets the kernel's error.
///
/// # Errors
/// Whatever bind(2) says.
pub(crate) fn bind_packet_socket(socket: BorrowedFd<'_>, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).expect("AF_PACKET is 17"),
        sll_protocol: ethertype.to_be(),
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is an initialised sockaddr_ll that outlives the call, and the length is its own. The kernel only reads it,
    // and answers a descriptor of another family with an error.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            length_of(&address),
        )
    };
    check(result)
}

/// How many packets the kernel has dropped since this socket was made, because nobody read them in time (`SO_MEMINFO`).
/// Counts modulo 2³².
///
/// # Errors
/// Whatever getsockopt(2) says; kernels before 4.12 do not know the option.
pub(crate) fn dropped_packets(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// The kernel's `SK_MEMINFO_DROPS`, and how many numbers stand up to it.
    const DROPS: usize = 8;
    let mut numbers = [0_u32; DROPS + 1];
    let mut len = length_of(&numbers);
    // SAFETY: `numbers` has room for the `len` bytes that are announced, both outlive the call, and any bits the kernel writes are
    // valid u32s. It writes no more than `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut numbers).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    Ok(numbers[DROPS])
}

/// A descriptor that becomes readable when the process ends; for a child that has not been waited for.
///
/// # Errors
/// Whatever pidfd_open(2) says; kernels before 5.3 do not have it.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes sure that the kernel keeps how our children end until we ask. Whoever started us may have had theirs ignored, and
/// that is handed on.
///
/// # Errors
/// Whatever sigaction(2) says.
pub(crate) fn heed_children() -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours; no handler of another's is replaced, for we have none.
    unsafe { signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Has a program begin with no signal blocked and without any descriptor of ours, those of libraries that forget to close
/// theirs included. The standard library hands the caller's signal mask on.
pub(crate) fn begin_afresh(command: &mut Command) {
    let begin = || {
        SigSet::empty().thread_set_mask()?;
        // SAFETY: the call takes three integers, and with this flag (Linux 5.11) closes nothing before the exec.
        let result = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. These two are system calls that neither allocate
    // nor lock, and an error is a number.
    unsafe { command.pre_exec(begin) };
}

/// Splits this process in two, as fork(2) does. Only a process of one thread may: in the other half, locks of further threads
/// would stay locked for ever.
///
/// # Errors
/// There is another thread, or fork(2) fails.
pub(crate) fn fork() -> io::Result<ForkResult> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("other threads run already"));
    }
    // SAFETY: no other thread runs, so nothing is left half done in the child.
    let result = unsafe { nix::unistd::fork() };
    Ok(result?)
}

/// Has the kernel forget each connection of this listener as soon as our closing it has been acknowledged (`TCP_LINGER2` below
/// zero, which accepted sockets inherit): no FIN_WAIT2 and no TIME_WAIT. What the peer sends after that is answered with a reset.
///
/// # Errors
/// Whatever setsockopt(2) says: a socket that is not TCP's does not know the option.
pub(crate) fn forget_closed_connections(listener: BorrowedFd<'_>) -> io::Result<()> {
    let never: libc::c_int = -1;
    // SAFETY: `never` is an initialised int that outlives the call, and the length is its own. The kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const never).cast(),
            length_of(&never),
        )
    };
    check(result)
}

/// Has the kernel forget which pages of code, ours and that of libraries, this process has used so far: most of them it only needed to
/// start. What is needed again comes from the page cache, as it did at first.
///
/// # Errors
/// /proc is not there, or whatever madvise(2) says.
pub(crate) fn let_go_of_code() -> io::Result<()> {
    // 559b28c00000-559b28ed7000 r-xp 000db000 fe:00 1053 /usr/sbin/portsentry
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, "r-xp", _, _, _, path, ..] = words[..] else {
            continue;
        };
        let address = |text| usize::from_str_radix(text, 16).ok();
        let ends = range.split_once('-');
        let ends = ends.and_then(|(from, to)| Some((address(from)?, address(to)?)));
        let Some((from, to)) = ends.filter(|_| path.starts_with('/')) else {
            continue;
        };
        let begin = std::ptr::with_exposed_provenance_mut(from);
        // SAFETY: the range is one mapping of a file's pages that nobody may write to: the kernel drops its references to them, and
        // finds the same bytes in the file again when one is used.
        check(unsafe { libc::madvise(begin, to - from, libc::MADV_DONTNEED) })?;
    }
    Ok(())
}

/// The size of a value that the kernel is handed.
fn length_of<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).expect("the structures here are small")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
