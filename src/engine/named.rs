//! Friends by name: has it found out where the names in the ignore lists lead to, and heeds what comes of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tracing::{error, info};

use super::{Engine, Errand, Record};
use crate::clock::{Mono, Now};
use crate::config::ignore::HostName;
use crate::guard::{Named, News};
use crate::host::Whereabouts;

impl Engine {
    /// Takes from history where names led to in an earlier run. Called at the start, before friends are spared.
    pub fn remember_names(&mut self, known: BTreeMap<String, Vec<IpAddr>>) {
        for (name, addresses) in known {
            self.guard.names.remember(&name, addresses);
        }
    }

    /// Has all names looked up again now.
    pub fn look_names_up(&mut self, now: Now) {
        self.guard.names.hurry(false, now.mono);
    }

    pub(super) fn send_for_names(&mut self, now: Mono) {
        let due = self.guard.names.take_due(now).into_iter();
        self.errands.extend(due.map(Errand::Whereabouts));
    }

    /// A name has been looked up. Who is a friend by it now is unbanned, and let through.
    pub fn found(&mut self, name: &HostName, answer: Whereabouts, now: Now) {
        let news = self.guard.names.answered(name, answer, now);
        let Some((news, named)) = news.zip(self.guard.names.of(name)) else {
            return;
        };
        match news {
            News::Lost => {
                let words = self.guard.names.trouble_of(name);
                error!("{}", words.unwrap_or_default());
            }
            News::Back => info!("{name} ({}) can be looked up again", named.place),
            News::Moved => {
                info!("{name} ({}) is {}", named.place, named.list());
                let record = record_of((name, named));
                self.record(record, now.mono);
                self.spare_friends(now);
                self.lift_friends(now);
            }
        }
    }
}

pub(super) fn record_of((name, named): (&HostName, &Named)) -> Record {
    Record::Name {
        name: name.as_str().into(),
        addresses: named.addresses.clone(),
    }
}
