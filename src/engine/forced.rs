//! Bans of friends, by an admin who insists: they hold for as long as they last, whatever makes a friend of their source.

use ipnet::IpNet;

use super::Engine;
use crate::clock::Now;
use crate::guard::Friend;
use crate::policy::{Ban, Origin};
use crate::source::Source;

impl Engine {
    /// Why this ban may not be, if so.
    pub(super) fn friend_of(&self, ban: &Ban) -> Option<Friend> {
        let is_forced = ban.origin == Origin::Forced;
        let friend = self.guard.friend(ban.source);
        friend.filter(|friend| !is_forced || friend.is_for_good())
    }

    /// Whether its ban holds against all that makes friends.
    pub(super) fn is_forced(&self, source: Source) -> bool {
        let ban = self.bans.get(source);
        ban.is_some_and(|ban| ban.origin == Origin::Forced)
    }

    /// Who is let through whatever is banned: friends, but for those of them who are banned all the same.
    pub(super) fn let_through(&self) -> Vec<IpNet> {
        let forced = self.bans.iter().filter(|ban| ban.origin == Origin::Forced);
        let forced: Vec<IpNet> = forced.map(|ban| ban.source.net()).collect();
        let friends = self.guard.let_through().into_iter();
        friends.flat_map(|net| without(net, &forced)).collect()
    }

    /// Has the responders let friends through anew, where one of these bans begins or ends that holds against a friend.
    pub(super) fn heed_forced<'a>(&mut self, mut bans: impl Iterator<Item = &'a Ban>, now: Now) {
        if bans.any(|ban| ban.origin == Origin::Forced) {
            self.world.spare(&self.let_through(), now);
        }
    }
}

/// What is left of `net` without `holes`: for each of them, 32 parts or 128 at the most.
fn without(net: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    if holes.iter().any(|hole| hole.contains(&net)) {
        return Vec::new();
    }
    let within = holes.iter().filter(|hole| net.contains(*hole)).copied();
    let within: Vec<IpNet> = within.collect();
    if within.is_empty() {
        return vec![net];
    }
    // It holds a hole and is none: it has room for two halves.
    let halves = net.subnets(net.prefix_len() + 1).into_iter().flatten();
    halves.flat_map(|half| without(half, &within)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out_and_nothing_else() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let cut = |from: &str, holes: &[&str]| {
            let holes: Vec<IpNet> = holes.iter().map(|it| net(it)).collect();
            let left = without(net(from), &holes);
            left.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(cut("10.0.0.0/8", &["192.0.2.1/32"]), ["10.0.0.0/8"]);
        assert_eq!(cut("10.0.0.0/8", &["10.0.0.0/8"]), [""; 0]);
        assert_eq!(cut("10.0.0.7/32", &["10.0.0.0/8"]), [""; 0]);
        assert_eq!(
            cut("10.0.0.0/29", &["10.0.0.2/32", "10.0.0.6/31"]),
            ["10.0.0.0/31", "10.0.0.3/32", "10.0.0.4/31"]
        );
        assert_eq!(cut("10.0.0.0/8", &["10.1.2.3/32"]).len(), 24);
        assert_eq!(cut("::/1", &["2001:db8::1/128"]).len(), 127);
    }
}
