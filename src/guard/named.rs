//! [`NamedFriends`]: the names in the ignore lists, where they lead to, and when that is to be looked up again.
//!
//! Whoever answers for a name decides who is spared for it, and can at worst spare himself: what is no single host's address is left out,
//! and no answer is larger than so much. Looking names up is for others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Friend, is_special};
use crate::clock::{Mono, Now, Wall};
use crate::config::ignore::{HostName, IgnoreList, Place};
use crate::host::Whereabouts;
use crate::source::Source;

/// What is known of the names. What was found last counts until something else is.
#[derive(Debug, Default)]
pub struct NamedFriends {
    names: BTreeMap<HostName, Named>,
    refresh: Duration,
}

/// A name, and where it leads to.
#[derive(Clone, Debug)]
pub struct Named {
    /// Where it is written.
    pub place: Place,
    /// Where it led to when that was last found out.
    pub addresses: Vec<IpAddr>,
    /// When that was; `None`: not in this run.
    pub found_at: Option<Wall>,
    /// Why the last look-up found nothing; `None`: it did, or there was none yet.
    pub failure: Option<String>,
    due: Option<Mono>,
    /// For how long it is left alone after the next failure.
    pause: Duration,
}

/// What a look-up came to, where that is news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It leads elsewhere than before.
    Moved,
    /// It cannot be looked up any more, or never could.
    Lost,
    /// It can be looked up again, and leads where it did.
    Back,
}

/// How soon after a failure a name is looked up again, at first; twice that after the next, up to what the configuration has.
const FIRST_PAUSE: Duration = Duration::from_secs(5);

impl NamedFriends {
    /// Goes by these lists from now on: new names are due at once. What is known of the others stays.
    pub(super) fn follow(&mut self, list: &IgnoreList, refresh: Duration) {
        self.refresh = refresh;
        let mut old = std::mem::take(&mut self.names);
        for (name, place) in list.names() {
            let place = place.clone();
            let named = match old.remove(name) {
                Some(known) => Named { place, ..known },
                None => Named {
                    place,
                    addresses: Vec::new(),
                    found_at: None,
                    failure: None,
                    due: Some(Mono(0)),
                    pause: FIRST_PAUSE,
                },
            };
            self.names.insert(name.clone(), named);
        }
    }

    /// Takes from an earlier run where a name led to, if it is one of these.
    pub fn remember(&mut self, name: &str, addresses: Vec<IpAddr>) {
        let named = HostName::parse(name).and_then(|name| self.names.get_mut(&name));
        if let Some(named) = named.filter(|named| named.addresses.is_empty()) {
            named.addresses = fit(addresses);
        }
    }

    /// Names that are to be looked up now; they are not due again before they are [answered](Self::answered).
    pub fn take_due(&mut self, now: Mono) -> Vec<HostName> {
        let take = |(name, named): (&HostName, &mut Named)| {
            named.due.take_if(|due| *due <= now)?;
            Some(name.clone())
        };
        self.names.iter_mut().filter_map(take).collect()
    }

    /// When [`take_due`](Self::take_due) has something; `None`: nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.names.values().filter_map(|named| named.due).min()
    }

    /// Has all names looked up again at once, but those that just are; or only those that could not be when that was last tried.
    pub fn hurry(&mut self, failed_alone: bool, now: Mono) {
        for named in self.names.values_mut() {
            if !failed_alone || named.failure.is_some() {
                named.due = named.due.map(|due| due.min(now));
                named.pause = FIRST_PAUSE;
            }
        }
    }

    /// A look-up has come to this; what of it is news. A name that is no longer in the lists is none.
    pub fn answered(&mut self, name: &HostName, answer: Whereabouts, now: Now) -> Option<News> {
        let refresh = self.refresh;
        let named = self.names.get_mut(name)?;
        let known = |is_v4: bool| {
            let known = named
                .addresses
                .iter()
                .filter(move |it| it.is_ipv4() == is_v4);
            known.copied().collect::<Vec<_>>()
        };
        let trouble = [&answer.v4, &answer.v6]
            .into_iter()
            .find_map(|it| it.clone().err());
        let is_found = [&answer.v4, &answer.v6]
            .into_iter()
            .flatten()
            .any(|it| !it.is_empty());
        // What one family's servers do not tell just now is not gone.
        let mut addresses = answer.v4.unwrap_or_else(|_| known(true));
        addresses.extend(answer.v6.unwrap_or_else(|_| known(false)));
        let addresses = fit(addresses);
        if !is_found || addresses.is_empty() {
            let words = match trouble {
                Some(cause) => cause,
                None if is_found => "it leads to no host's own address".to_owned(),
                None => "there is no such name, or it has no address".to_owned(),
            };
            named.due = Some(now.mono.later(named.pause.min(refresh)));
            named.pause = (named.pause * 2).min(refresh);
            return named.failure.replace(words).is_none().then_some(News::Lost);
        }
        named.due = Some(now.mono.later(refresh));
        named.pause = FIRST_PAUSE;
        named.found_at = Some(now.wall);
        let was_lost = named.failure.take().is_some();
        if named.addresses != addresses {
            named.addresses = addresses;
            return Some(News::Moved);
        }
        was_lost.then_some(News::Back)
    }

    /// The names, with what is known of each.
    pub fn iter(&self) -> impl Iterator<Item = (&HostName, &Named)> {
        self.names.iter()
    }

    /// What is known of a name.
    #[must_use]
    pub fn of(&self, name: &HostName) -> Option<&Named> {
        self.names.get(name)
    }

    /// What cannot be looked up, in words.
    pub fn troubles(&self) -> impl Iterator<Item = String> {
        self.names.keys().filter_map(|name| self.trouble_of(name))
    }

    /// Why a name cannot be looked up, if so, in words.
    #[must_use]
    pub fn trouble_of(&self, name: &HostName) -> Option<String> {
        let named = self.names.get(name)?;
        let cause = named.failure.as_ref()?;
        let meanwhile = if named.addresses.is_empty() {
            "nobody is spared for it".to_owned()
        } else {
            format!("{} is spared for it still", named.list())
        };
        let place = &named.place;
        Some(format!(
            "{name} ({place}) cannot be looked up: {cause}; {meanwhile}"
        ))
    }

    /// Those that `source` is or holds.
    pub(super) fn within(&self, source: Source) -> impl Iterator<Item = Friend> {
        let of = move |(name, named): (&HostName, &Named)| {
            let address = named.addresses.iter().find(|it| source.covers(**it))?;
            Some(Friend::Named {
                name: name.to_string(),
                address: *address,
                place: named.place.to_string(),
            })
        };
        self.names.iter().filter_map(of)
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.names
            .values()
            .flat_map(|named| named.addresses.iter().copied())
    }
}

impl Named {
    /// Where it leads to, in words.
    #[must_use]
    pub fn list(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        addresses.join(", ")
    }
}

/// Those that are a host's own, in order, up to a bound.
fn fit(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.retain(|address| !is_special(Source::from(*address)));
    addresses.truncate(2 * Whereabouts::MAX);
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ignore::{Syntax, parse};

    const REFRESH: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Now {
        Now {
            mono: Mono(0).later(Duration::from_secs(seconds)),
            wall: Wall(1_000_000 + i64::try_from(seconds).unwrap() * 1000),
        }
    }

    fn names(text: &str) -> IgnoreList {
        let (entries, complaints) = parse("/i".as_ref(), Syntax::Ours, text);
        assert!(complaints.is_empty(), "{complaints}");
        entries.into()
    }

    fn friends(text: &str) -> NamedFriends {
        let mut friends = NamedFriends::default();
        friends.follow(&names(text), REFRESH);
        friends
    }

    fn office() -> HostName {
        HostName::parse("office.example.net").unwrap()
    }

    fn all(list: &[&str]) -> Result<Vec<IpAddr>, String> {
        Ok(list.iter().map(|it| it.parse().unwrap()).collect())
    }

    fn is(v4: &[&str], v6: &[&str]) -> Whereabouts {
        Whereabouts {
            v4: all(v4),
            v6: all(v6),
        }
    }

    fn lost() -> Whereabouts {
        Whereabouts {
            v4: Err("no name server".to_owned()),
            v6: Err("no name server".to_owned()),
        }
    }

    fn spared(friends: &NamedFriends) -> Vec<String> {
        friends.addresses().map(|it| it.to_string()).collect()
    }

    #[test]
    fn a_name_is_looked_up_at_once_and_again_after_a_while() {
        let mut friends = friends("office.example.net\n");
        assert_eq!(friends.take_due(at(7).mono), [office()]);
        assert_eq!(friends.next_deadline(), None, "it is under way");
        friends.hurry(false, at(7).mono);
        assert!(friends.take_due(at(7).mono).is_empty(), "once is enough");
        let here = is(&["192.0.2.7"], &["2001:db8::7"]);
        assert_eq!(
            friends.answered(&office(), here.clone(), at(8)),
            Some(News::Moved)
        );
        assert_eq!(spared(&friends), ["192.0.2.7", "2001:db8::7"]);
        assert!(friends.take_due(at(307).mono).is_empty());
        assert_eq!(friends.take_due(at(308).mono), [office()]);
        assert_eq!(friends.answered(&office(), here, at(309)), None);
        let moved = is(&["192.0.2.8"], &[]);
        assert_eq!(
            friends.answered(&office(), moved, at(310)),
            Some(News::Moved)
        );
        assert_eq!(spared(&friends), ["192.0.2.8"]);
        friends.hurry(true, at(311).mono);
        assert!(friends.take_due(at(311).mono).is_empty(), "it did not fail");
        friends.hurry(false, at(311).mono);
        assert_eq!(friends.take_due(at(311).mono), [office()]);
    }

    #[test]
    fn what_was_found_last_counts_until_something_else_is_found() {
        let mut friends = friends("office.example.net # mine\n");
        assert_eq!(friends.answered(&office(), lost(), at(0)), Some(News::Lost));
        let trouble = friends.troubles().next().unwrap();
        assert_eq!(
            trouble,
            "office.example.net (/i:1) cannot be looked up: no name server; nobody is spared for it"
        );
        assert_eq!(
            friends.answered(&office(), lost(), at(5)),
            None,
            "told once"
        );
        let here = is(&["192.0.2.7"], &["2001:db8::7"]);
        friends.answered(&office(), here.clone(), at(15));
        assert_eq!(friends.troubles().count(), 0);
        for gone in [lost(), is(&[], &[]), is(&["0.0.0.0", "127.0.0.1"], &["::"])] {
            assert_eq!(friends.answered(&office(), gone, at(16)), Some(News::Lost));
            assert_eq!(spared(&friends), ["192.0.2.7", "2001:db8::7"]);
            let trouble = friends.troubles().next().unwrap();
            assert!(
                trouble.contains("192.0.2.7, 2001:db8::7 is spared for it still"),
                "{trouble}"
            );
            assert_eq!(
                friends.answered(&office(), here.clone(), at(17)),
                Some(News::Back)
            );
        }
        // One family's servers alone do not answer.
        let half = Whereabouts {
            v6: lost().v6,
            ..is(&["192.0.2.8"], &[])
        };
        assert_eq!(friends.answered(&office(), half, at(18)), Some(News::Moved));
        assert_eq!(spared(&friends), ["192.0.2.8", "2001:db8::7"]);
    }

    #[test]
    fn a_name_that_cannot_be_looked_up_is_tried_again_ever_less_often() {
        let mut friends = friends("office.example.net\n");
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..9 {
            assert_eq!(friends.take_due(at(now).mono), [office()]);
            friends.answered(&office(), lost(), at(now));
            let next = friends
                .next_deadline()
                .unwrap()
                .since(at(now).mono)
                .as_secs();
            pauses.push(next);
            now += next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        // As soon as there may be a way to a name server.
        friends.hurry(true, at(now - 200).mono);
        assert_eq!(friends.take_due(at(now - 200).mono), [office()]);
    }

    #[test]
    fn no_answer_makes_a_friend_of_everybody() {
        let mut friends = friends("office.example.net\n");
        let nonsense = [
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "127.0.0.53",
            "192.0.2.7",
        ];
        friends.answered(&office(), is(&nonsense, &["::", "::1", "ff02::1"]), at(0));
        assert_eq!(spared(&friends), ["192.0.2.7"]);
        let many = (0..=255).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        friends.answered(
            &office(),
            Whereabouts {
                v4: Ok(many),
                v6: Ok(Vec::new()),
            },
            at(1),
        );
        assert_eq!(spared(&friends).len(), 2 * Whereabouts::MAX);
    }

    #[test]
    fn names_that_leave_the_lists_are_forgotten_and_the_others_stay_known() {
        let mut friends = friends("office.example.net\nhome.example.net\n");
        friends.remember(
            "office.example.net",
            all(&["192.0.2.7", "0.0.0.0"]).unwrap(),
        );
        friends.remember("elsewhere.example.net", all(&["192.0.2.9"]).unwrap());
        assert_eq!(spared(&friends), ["192.0.2.7"]);
        friends.follow(&names("# moved\n\noffice.example.net\n"), REFRESH);
        assert_eq!(spared(&friends), ["192.0.2.7"]);
        let source = Source::prefix("192.0.2.0".parse().unwrap(), 24);
        assert_eq!(
            friends.within(source).next().unwrap().to_string(),
            "it is ignored (office.example.net in /i:3, which is 192.0.2.7)"
        );
        let home = HostName::parse("home.example.net").unwrap();
        assert_eq!(
            friends.answered(&home, is(&["192.0.2.8"], &[]), at(0)),
            None
        );
        friends.follow(&names(""), REFRESH);
        assert_eq!(spared(&friends), [""; 0]);
    }
}
