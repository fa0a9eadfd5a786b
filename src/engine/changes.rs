//! What changes around us: the configuration, the responders, and who is a friend by what is known of this host.

use std::net::SocketAddr;

use super::Engine;
use crate::clock::Now;
use crate::config::Config;
use crate::config::ignore::IgnoreList;
use crate::detect::Detector;
use crate::history::Ending;
use crate::host::{Facts, Resolver};
use crate::respond::Member;
use crate::source::Source;

impl Engine {
    /// Takes another configuration. Who is a friend by it is unbanned.
    pub fn reconfigure(&mut self, config: Config, ignored: IgnoreList, now: Now) {
        let counts_alike = self.config.has_traps() == config.has_traps();
        if !(counts_alike && self.detector.follows(&config.detect)) {
            self.detector = Detector::new(&config.detect);
            self.unconfirmed = Detector::new(&config.detect);
            self.spared = Detector::new(&config.detect);
        }
        self.guard.reconfigure(&config, ignored);
        self.bans.go_by(&config.ban);
        self.config = config;
        self.look_for_logins(true, now);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Takes a configuration that differs in its modes alone.
    pub fn watch_by(&mut self, config: Config) {
        self.guard.watch(&config);
        self.config = config;
    }

    /// Works with the responders of these names from now on, in this order; `new` are those among them that it does not have
    /// yet. What the others have put up stays, for the caller to take down.
    pub fn change_responders(&mut self, names: &[&str], new: Vec<Member>, now: Now) {
        let friends = self.let_through();
        self.world.change(names, new, &self.bans, &friends, now);
        self.follow_up(now);
    }

    /// The host's own addresses, links or gateways have changed.
    pub fn host_changed(&mut self, facts: Facts, now: Now) {
        self.guard.host_changed(facts);
        // There may be a way to name servers now.
        self.guard.names.hurry(true, now.mono);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Other name servers are asked from now on.
    pub fn resolvers_changed(&mut self, resolvers: Vec<Resolver>, now: Now) {
        self.guard.resolvers_changed(resolvers);
        self.guard.names.hurry(true, now.mono);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Programs of this host have let go of these UDP ports.
    pub fn udp_ports_left(&mut self, left: Vec<SocketAddr>, now: Now) {
        for at in left {
            self.guard.services.leave(at, now.mono);
        }
    }

    /// The ignore files have changed. Who is ignored now is unbanned.
    pub fn ignore_changed(&mut self, ignored: IgnoreList, now: Now) {
        self.guard.ignore_changed(ignored);
        self.spare_friends(now);
        self.lift_friends(now);
    }

    /// Has the responders let friends through, whatever else holds. Called once at the start.
    pub fn spare_friends(&mut self, now: Now) {
        self.world.spare(&self.let_through(), now);
        self.follow_up(now);
    }

    pub(super) fn lift_friends(&mut self, now: Now) {
        let friends = self
            .bans
            .iter()
            .filter(|ban| self.is_guarded(ban))
            .map(|ban| ban.source)
            .collect();
        self.end_friends(friends, now);
    }

    /// Ends the bans of those who are friends by now.
    pub(super) fn end_friends(&mut self, friends: Vec<Source>, now: Now) {
        if !friends.is_empty() {
            self.lift(&friends, Ending::Ignored, "portsentry", now);
            self.follow_up(now);
        }
    }
}
