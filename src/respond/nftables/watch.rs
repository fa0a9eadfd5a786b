//! What others do to our table, as bans: who was taken out or put in by hand, and when there is more to be put right than that.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use super::{Nftables, held, trouble};
use crate::nft::{Events, Step, Transaction};
use crate::respond::{Error, Held, Meddling};
use crate::source::Source;

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
        let mut all: Vec<Meddling> = self.missed.take().into_iter().collect();
        all.extend(heard.transactions.into_iter().map(meddling));
        if heard.is_incomplete {
            all.push(anything("programs that did more than could be heard of"));
        }
        all
    }
}

/// Nobody knows what: all must be put right.
pub(super) fn anything(by: &str) -> Meddling {
    Meddling {
        by: by.to_owned(),
        is_frame: true,
        is_emptied: true,
        ..Meddling::default()
    }
}

fn meddling(transaction: Transaction) -> Meddling {
    let mut meddling = Meddling {
        by: transaction
            .by
            .map_or_else(|| "somebody".to_owned(), |by| by.to_string()),
        ..Meddling::default()
    };
    // Of each source the last word counts.
    let mut bans: BTreeMap<Source, Option<Held>> = BTreeMap::new();
    for step in transaction.steps {
        match step {
            Step::Frame => meddling.is_frame = true,
            Step::Gone => (meddling.is_frame, meddling.is_emptied) = (true, true),
            Step::Added(set, element) => {
                bans.extend(held(set, &element).map(|held| (held.source, Some(held))));
            }
            Step::Deleted(set, key) => bans.extend(set.source(key).map(|source| (source, None))),
        }
    }
    for (source, held) in bans {
        match held {
            Some(held) => meddling.added.push(held),
            None => meddling.removed.push(source),
        }
    }
    meddling
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::{BanSet, Element};
    use std::net::{IpAddr, Ipv4Addr};

    fn steps(range: std::ops::Range<u32>, is_put_in: bool) -> impl Iterator<Item = Step> {
        let set = BanSet::ADDRESSES4;
        range.map(move |n| {
            let key = IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n));
            let element = Element {
                key,
                timeout: None,
                comment: None,
            };
            if is_put_in {
                Step::Added(set, element)
            } else {
                Step::Deleted(set, key)
            }
        })
    }

    #[test]
    fn of_a_long_transaction_the_last_word_about_each_source_counts() {
        let all = steps(0..200_000, false)
            .chain(steps(100_000..300_000, true))
            .chain(steps(299_000..300_000, false))
            .chain(steps(0..10, true));
        let told = meddling(Transaction {
            by: None,
            steps: all.collect(),
        });
        assert_eq!(told.removed.len(), 100_000 - 10 + 1000);
        assert_eq!(told.added.len(), 199_000 + 10);
        assert!(!told.is_frame && !told.is_emptied);
    }
}
