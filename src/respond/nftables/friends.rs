//! Whom the table lets through whatever is banned: what the ignore lists name, and nothing else.

use ipnet::IpNet;
use nix::errno::Errno;

use super::prepare::{Doing, Step};
use super::{Nftables, trouble};
use crate::log::counted;
use crate::nft::{Change, Friends};
use crate::respond::Error;

/// Prefixes that are let through at most. To put in so many, or to look whether they are all there, takes some tenths of a second.
pub(super) const MOST_FRIENDS: usize = 65_536;

impl Nftables {
    /// See [`Responder::spare`](crate::respond::Responder::spare).
    pub(super) fn spare_friends(&mut self, friends: &[IpNet]) -> Result<(), Error> {
        let (friends, left_out) = Friends::new(friends, MOST_FRIENDS);
        self.friends = Some(friends);
        let is_done = self.spare_in_table().map_err(|step| self.told(step))?;
        if !is_done {
            // Made anew, it has them.
            self.mend()?;
        }
        if left_out == 0 {
            return Ok(());
        }
        Err(trouble(format!(
            "the ignore lists name {} more than the {MOST_FRIENDS} that table inet {} lets through: what is beyond is \
             not banned, but would be shut out if it were; name fewer and wider ones",
            counted(left_out, "prefix", "prefixes"),
            self.table
        )))
    }

    /// `false`: the table is not as it should be.
    fn spare_in_table(&mut self) -> Result<bool, Step> {
        let found = self.line.inspect(&self.table).map_err(Doing::Look.at())?;
        let Some(found) = found.filter(|found| self.is_right(found)) else {
            return Ok(false);
        };
        let spared = self.line.friends(&self.table, &found);
        self.right_friends(&spared.map_err(Doing::Look.at())?)?;
        Ok(true)
    }

    /// Lets through who should be, and nobody else, where `spared` are: in one transaction, which does not touch whoever
    /// is in both. Whether there was anything to do.
    ///
    /// To empty the sets and fill them again would be simpler, but where an element gives way to another that covers the same
    /// address, Linux 6.1, for one, misses packets at that very moment.
    pub(super) fn right_friends(&mut self, spared: &Friends) -> Result<bool, Step> {
        let Some(friends) = self.friends.as_ref().filter(|it| *it != spared) else {
            return Ok(false);
        };
        let mut change = Change::new(&self.table);
        change.befriend(friends, spared);
        let righted = match self.line.commit(&change.finish()) {
            // The answer was lost, so look.
            Err(Errno::ENOBUFS) => self.has_its_friends(),
            outcome => outcome,
        };
        righted.map_err(Doing::Spare.at())?;
        Ok(true)
    }

    fn has_its_friends(&mut self) -> Result<(), Errno> {
        let found = self.line.inspect(&self.table)?.ok_or(Errno::ENOENT)?;
        let spared = self.line.friends(&self.table, &found)?;
        match &self.friends {
            Some(friends) if *friends != spared => Err(Errno::ENOBUFS),
            _ => Ok(()),
        }
    }
}
