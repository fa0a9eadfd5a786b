//! A safe floor over nftnl and mnl: our tables as the kernel holds them, changes to them as one transaction each,
//! the look-up of one key, the list of a set.
//!
//! It knows what an element and a rule are on the wire. What the table should look like is its caller's to say,
//! and so is what follows when the kernel refuses: every step returns the kernel's own answer.

mod batch;
mod decode;
mod element;
mod events;
mod ffi;
mod friends;
mod line;
mod read;
mod request;
mod shape;
mod traps;

pub use nftnl::FinalizedBatch;
use nix::errno::Errno;

pub use batch::{Change, TableName};
pub use element::{Comment, Element, Timeout};
pub use events::{Events, Heard, Program, Step, Transaction};
pub use friends::{FriendSet, Friends};
pub use line::Line;
pub use read::Found;
pub use shape::{BanSet, ChainShape, Expr, MARK, Owner, Rule, SetShape, rules};
pub use traps::{TRAP_MARK, Traps};

/// What the kernel said, in words for an admin, with the remedy where there is one.
#[must_use]
pub fn said(errno: Errno) -> String {
    match errno {
        Errno::EPERM => "operation not permitted (needs CAP_NET_ADMIN)".to_owned(),
        Errno::ENFILE => "the set is full".to_owned(),
        Errno::ENOENT => "no such table, set or element".to_owned(),
        Errno::ENOBUFS => "the kernel's answer was lost".to_owned(),
        Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => {
            "not supported (does this kernel have nf_tables?)".to_owned()
        }
        other => other.desc().to_lowercase(),
    }
}
