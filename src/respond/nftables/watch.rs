//! What others do to our table, as bans: who was taken out or put in by hand, and when there is more to be put right than that.

use std::os::fd::BorrowedFd;

use super::{Nftables, held, trouble};
use crate::nft::{Events, Step, Transaction};
use crate::respond::{Error, Meddling};

impl Nftables {
    pub(super) fn begin_watching(&mut self) -> Result<(), Error> {
        let port = self.line.port().map_err(std::io::Error::from);
        let events = port.and_then(|port| Events::open(&self.table, port));
        self.events = Some(events.map_err(|cause| {
            trouble(format!(
                "cannot watch table inet {}: {cause}; what others do to it is found at the next ban, or by `portsentry status`",
                self.table
            ))
        })?);
        // From now on we hear of it. Before, nobody has changed the ruleset since we made the table, or somebody may have.
        let is_unchanged = |made_after| self.line.changes_of_others() == Ok(made_after);
        self.is_all_known = self.made_after.is_some_and(is_unchanged);
        Ok(())
    }

    pub(super) fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(Events::fd)
    }

    pub(super) fn hear(&mut self) -> Vec<Meddling> {
        let Some(events) = &mut self.events else {
            return Vec::new();
        };
        let heard = events.hear();
        let mut all: Vec<Meddling> = heard.transactions.into_iter().map(meddling).collect();
        if heard.is_incomplete {
            all.push(Meddling {
                by: "programs that did more than could be heard of".to_owned(),
                is_frame: true,
                is_emptied: true,
                ..Meddling::default()
            });
        }
        all
    }
}

fn meddling(transaction: Transaction) -> Meddling {
    let mut meddling = Meddling {
        by: transaction
            .by
            .map_or_else(|| "somebody".to_owned(), |by| by.to_string()),
        ..Meddling::default()
    };
    for step in transaction.steps {
        match step {
            Step::Frame => meddling.is_frame = true,
            Step::Gone => (meddling.is_frame, meddling.is_emptied) = (true, true),
            Step::Added(set, element) => meddling.add(held(set, &element)),
            Step::Deleted(set, key) => meddling.remove(set.source(key)),
        }
    }
    meddling
}
