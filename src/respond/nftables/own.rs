//! To whom the table belongs: to us alone, where that is wanted and the kernel has such tables.

use std::thread;
use std::time::Duration;

use nix::errno::Errno;

use super::Nftables;
use super::prepare::{Doing, Step};
use crate::config::Own;
use crate::nft::{Change, Found, Owner};

/// How often it is looked whether an owner lets go, and how long it is slept in between.
const LOOKS: u32 = 30;
const BETWEEN: Duration = Duration::from_millis(10);

impl Nftables {
    /// Whether the table is to be ours alone.
    pub(super) fn is_owner(&self) -> bool {
        self.is_owner == Some(true)
    }

    /// By the configuration and by what this kernel can.
    pub(super) fn find_out_whether_to_own(&mut self) -> Result<(), Step> {
        if self.is_owner.is_some() {
            return Ok(());
        }
        let can = self.own != Own::Off && self.line.can_own().map_err(Doing::Look.at())?;
        match self.own {
            Own::On if !can => return Err(Step(Doing::Own, Errno::EOPNOTSUPP)),
            Own::Auto if !can => tracing::info!(
                "table inet {} is one that others can change: nftables.own needs Linux 6.9",
                self.table
            ),
            Own::Auto | Own::On | Own::Off => {}
        }
        self.is_owner = Some(can);
        Ok(())
    }

    /// Looks at the table; one of ours whose owner is gone, an earlier run of ours as a rule, is taken over where it is to be
    /// owned.
    pub(super) fn own_what_is_left(&mut self) -> Result<Option<Found>, Step> {
        let found = self.look_for_a_free_one()?;
        let is_left = |found: &&Found| found.is_marked() && found.owner == Owner::Gone;
        if !self.is_owner() || found.as_ref().filter(is_left).is_none() {
            return Ok(found);
        }
        let mut change = Change::new(&self.table);
        change.own_table();
        match self.line.commit(&change.finish()) {
            // Whether it was done is seen below.
            Ok(()) | Err(Errno::ENOBUFS) => {}
            Err(errno) => return Err(Step(Doing::Own, errno)),
        }
        self.line.inspect(&self.table).map_err(Doing::Look.at())
    }

    /// Looks at the table. Who comes to it waits a moment for its owner to let go of it: of one that has just ended, or that this
    /// process has put out of work, some child may still hold the line between its fork and its exec.
    pub(super) fn look_for_a_free_one(&mut self) -> Result<Option<Found>, Step> {
        let is_new = self.handle.is_none();
        for _ in 0..if is_new { LOOKS } else { 0 } {
            let found = self.line.inspect(&self.table).map_err(Doing::Look.at())?;
            if !found.as_ref().is_some_and(|found| self.is_anothers(found)) {
                return Ok(found);
            }
            thread::sleep(BETWEEN);
        }
        self.line.inspect(&self.table).map_err(Doing::Look.at())
    }

    /// Whether we may change the table, if there is one.
    pub(super) fn look_whether_it_is_free(&mut self) -> Result<(), Step> {
        match self.look_for_a_free_one() {
            Ok(Some(found)) if self.is_anothers(&found) => Err(Step(Doing::Own, Errno::EPERM)),
            // Who cannot look will hear why from what he is about to do.
            _ => Ok(()),
        }
    }

    /// Whether somebody else alone may change the table.
    pub(super) fn is_anothers(&self, found: &Found) -> bool {
        matches!(found.owner, Owner::Port(port) if port != self.port)
    }

    /// Whether the table belongs to whom it should.
    pub(super) fn is_owned_rightly(&self, found: &Found) -> bool {
        let wanted = if self.is_owner() {
            Owner::Port(self.port)
        } else {
            Owner::Anybody
        };
        found.owner == wanted
    }
}
