//! Which keys take effect at a restart only, because what they say is set up once, at the start. Everything else takes effect at
//! a reload.

use super::{Config, Mode, ResponderKind, Watch};
use crate::probe::Protocol;

impl Config {
    /// Goes back to `old`'s values where a change takes effect at a restart only; the keys that were changed so, as
    /// `section.name`, or the section's name alone where all of it waits.
    ///
    /// `out_of_reach` are the protocols in which this one wants to listen on ports to which the right was given up at the start.
    #[must_use = "these changes are to be told"]
    pub fn keep_until_restart(
        &mut self,
        old: &Self,
        out_of_reach: &[Protocol],
    ) -> Vec<&'static str> {
        KEYS.iter()
            .filter(|(_, keep)| keep(self, old, out_of_reach))
            .map(|(name, _)| *name)
            .collect()
    }
}

/// Puts one key's old value into a new configuration, where it matters; whether it was another.
type Keep = fn(&mut Config, &Config, &[Protocol]) -> bool;

/// A key, by its place in the configuration; with a responder, one that matters where that is at work already.
macro_rules! key {
    ($name:literal, $($place:ident).+) => {
        ($name, |new, old, _| keep(&mut new.$($place).+, &old.$($place).+))
    };
    ($name:literal, $($place:ident).+, $kind:ident) => {
        ($name, |new, old, _| {
            old.ban.uses(ResponderKind::$kind) && keep(&mut new.$($place).+, &old.$($place).+)
        })
    };
}

/// The one list, in the order of the sample configuration.
const KEYS: &[(&str, Keep)] = &[
    key!("capture.method", capture.method),
    ("tcp.mode", |new, old, out_of_reach| {
        out_of_reach.contains(&Protocol::Tcp) && keep_silent(&mut new.tcp, &old.tcp)
    }),
    ("udp.mode", |new, old, out_of_reach| {
        out_of_reach.contains(&Protocol::Udp) && keep_silent(&mut new.udp, &old.udp)
    }),
    key!("ban.ipv4_prefix", ban.ipv4_prefix),
    key!("ban.ipv6_prefix", ban.ipv6_prefix),
    key!("ban.limit", ban.limit),
    // Programs run with rights that are given up after the start.
    ("ban.responders", |new, old, _| {
        new.ban.uses(ResponderKind::Command) != old.ban.uses(ResponderKind::Command)
            && keep(&mut new.ban.responders, &old.ban.responders)
    }),
    key!("nftables.table", nftables.table, Nftables),
    key!("nftables.hook", nftables.hook, Nftables),
    key!("nftables.priority", nftables.priority, Nftables),
    key!("nftables.log", nftables.log, Nftables),
    key!("nftables.own", nftables.own, Nftables),
    key!("nftables.optional", nftables.optional, Nftables),
    key!("iptables", iptables, Iptables),
    key!("route", route, Route),
    key!("hosts-deny", hosts_deny, HostsDeny),
    key!("command", command),
    key!("history.file", history.file),
    key!("history.text", history.text),
    key!("history.blocked", history.blocked),
    key!("history.resolve", history.resolve),
    key!("control.socket", control.socket),
    key!("daemon.user", daemon.user),
];

/// Keeps the modes where listening is new.
fn keep_silent(new: &mut Watch, old: &Watch) -> bool {
    let listens = |watch: &Watch| watch.modes.contains(&Mode::Connect);
    listens(new) && !listens(old) && keep(&mut new.modes, &old.modes)
}

fn keep<T: Clone + PartialEq>(new: &mut T, old: &T) -> bool {
    let is_other = new != old;
    if is_other {
        new.clone_from(old);
    }
    is_other
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;
    use super::*;

    fn config(text: &str) -> Config {
        parse(Path::new("/p.toml"), text).unwrap_or_else(|wrong| panic!("{wrong}"))
    }

    #[test]
    fn only_what_is_set_up_at_the_start_needs_a_restart() {
        let old = Config::default();
        let mut new = old.clone();
        assert_eq!(new.keep_until_restart(&old, &[]), [""; 0]);
        let changed = config(
            "tcp.below = 9\nban.rate = 9\ndetect.trigger = 9\nban.limit = 9\nnftables.hook = \"input\"\nhistory.text = \"\"",
        );
        let waiting = ["ban.limit", "nftables.hook", "history.text"];
        let mut new = changed.clone();
        assert_eq!(new.keep_until_restart(&old, &[]), waiting);
        assert_eq!((new.ban.rate, new.tcp.below), (9, 9), "takes effect");
        assert_eq!(new.ban.limit, old.ban.limit, "waits");
        assert_eq!(
            new.keep_until_restart(&old, &[]),
            [""; 0],
            "nothing else waits"
        );
        let mut back = old;
        assert_eq!(back.keep_until_restart(&changed, &[]), waiting);
    }

    #[test]
    fn a_responder_that_is_new_is_set_up_as_it_says_now() {
        let old = config("ban.responders = [\"route\"]");
        let changed = "ban.responders = [\"nftables\", \"route\"]\nnftables.hook = \"input\"\nroute.kind = \"blackhole\"";
        let mut new = config(changed);
        assert_eq!(new.keep_until_restart(&old, &[]), ["route"]);
        assert_eq!(new.nftables, config(changed).nftables);
        assert_eq!(new.ban.responders.len(), 2);
        let programs = "command.ban = \"true\"\nban.responders = [\"route\", \"command\"]";
        let mut new = config(programs);
        assert_eq!(
            new.keep_until_restart(&old, &[]),
            ["ban.responders", "command"]
        );
        assert_eq!(new, old);
    }

    #[test]
    fn listening_that_is_new_and_out_of_reach_waits() {
        let old = Config::default();
        let changed = config(
            "tcp.mode = \"connect\"\ntcp.ports = [23]\ntcp.response = \"log\"\nudp.mode = [\"connect\", \"advanced\"]\nudp.ports = [69]",
        );
        let mut new = changed.clone();
        assert_eq!(new.keep_until_restart(&old, &[Protocol::Tcp]), ["tcp.mode"]);
        assert_eq!(new.tcp.modes, old.tcp.modes);
        assert_eq!(new.tcp.response, changed.tcp.response, "takes effect");
        assert_eq!(new.udp, changed.udp);
        let mut new = changed.clone();
        assert_eq!(new.keep_until_restart(&old, &[]), [""; 0]);
        // Who listens already is told by `status` which ports cannot be had.
        let more = config("tcp.mode = \"connect\"\ntcp.ports = [7, 23]");
        let mut new = more.clone();
        let both = [Protocol::Tcp, Protocol::Udp];
        assert_eq!(new.keep_until_restart(&changed, &both), [""; 0]);
        assert_eq!(new, more);
    }
}
