//! The table of everything that can be set: each key's name, type, bounds and place in [`Config`].
//!
//! The parser, the suggestions for unknown names, the test of the sample configuration and the writer go by this one
//! table.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ignore::Syntax;
use super::value::{Faults, Value};
use super::write;
use super::{
    Config, Confirm, Hook, HostFact, IgnoreFile, Method, Mode, OnStop, Own, ResponderKind,
    Response, RollUp, RouteKind, When,
};
use crate::policy::Unit;

/// One key.
pub(super) struct Key {
    /// As `section.name`.
    pub(super) name: &'static str,
    /// Reads a value into the configuration.
    pub(super) read: fn(&mut Config, &Value<'_>) -> Result<(), Faults>,
    /// The value as TOML that [`read`](Self::read) takes.
    pub(super) write: fn(&Config) -> String,
}

/// A key, by the expressions that read its place in the configuration from a value and that write it.
macro_rules! key {
    ($name:literal, $($place:ident).+: $value:ident => $read:expr, $at:ident => $write:expr) => {
        Key {
            name: $name,
            read: |config, $value| {
                config.$($place).+ = $read?;
                Ok(())
            },
            write: |config| {
                let $at = &config.$($place).+;
                $write
            },
        }
    };
}

/// Every key there is, in the order of the sample configuration.
///
/// A key whose feature this version lacks takes the one value that means "not used", so that nothing
/// that is accepted does nothing.
pub(super) const KEYS: &[Key] = &[
    key!("capture.method", capture.method:
        value => value.word(METHODS),
        at => write::word(METHODS, *at)),
    key!("capture.interfaces", capture.interfaces:
        value => value.list("[\"eth0\"]", Value::interface).map(BTreeSet::from_iter),
        at => write::list(at.iter().map(|name| write::text(name)))),
    key!("tcp.mode", tcp.modes: value => modes(value), at => write_modes(at)),
    key!("tcp.ports", tcp.ports: value => value.ports(), at => write::ports(at)),
    key!("tcp.below", tcp.below: value => value.number(0..=65536), at => at.to_string()),
    key!("tcp.exclude", tcp.exclude: value => value.ports(), at => write::ports(at)),
    key!("tcp.response", tcp.response:
        value => value.word(RESPONSES),
        at => write::word(RESPONSES, *at)),
    key!("udp.mode", udp.modes: value => modes(value), at => write_modes(at)),
    key!("udp.ports", udp.ports: value => value.ports(), at => write::ports(at)),
    key!("udp.below", udp.below: value => value.number(0..=65536), at => at.to_string()),
    key!("udp.exclude", udp.exclude: value => value.ports(), at => write::ports(at)),
    key!("udp.response", udp.response:
        value => value.word(RESPONSES),
        at => write::word(RESPONSES, *at)),
    key!("detect.trigger", detect.trigger: value => value.number(1..=64), at => at.to_string()),
    key!("detect.count", detect.count:
        value => value.word(UNITS),
        at => write::word(UNITS, *at)),
    key!("detect.window", detect.window:
        value => value.duration(Duration::ZERO).map(|window| window.filter(|window| !window.is_zero())),
        at => write::duration(*at)),
    key!("detect.decoys", detect.decoys: value => value.ports(), at => write::ports(at)),
    key!("detect.confirm", detect.confirm:
        value => value.word(CONFIRM),
        at => write::word(CONFIRM, *at)),
    key!("ban.duration", ban.duration: value => value.duration(SECOND), at => write::duration(*at)),
    key!("ban.escalate", ban.escalate:
        value => value.number(1..=u32::MAX.into()),
        at => at.to_string()),
    key!("ban.max", ban.max: value => value.duration(SECOND), at => write::duration(*at)),
    key!("ban.memory", ban.memory:
        value => value.duration(Duration::ZERO),
        at => write::duration(*at)),
    key!("ban.ipv4_prefix", ban.ipv4_prefix: value => value.number(8..=32), at => at.to_string()),
    key!("ban.ipv6_prefix", ban.ipv6_prefix: value => value.number(16..=128), at => at.to_string()),
    key!("ban.ipv6_rollup", ban.ipv6_rollup:
        value => rollups(value, 16..=127),
        at => write::list(at.iter().map(write::rollup))),
    key!("ban.ipv4_rollup", ban.ipv4_rollup:
        value => rollups(value, 8..=31),
        at => write::list(at.iter().map(write::rollup))),
    key!("ban.rollup_confirm", ban.rollup_confirm:
        value => value.word(CONFIRM),
        at => write::word(CONFIRM, *at)),
    key!("ban.on_stop", ban.on_stop:
        value => value.word(ON_STOP),
        at => write::word(ON_STOP, *at)),
    key!("ban.limit", ban.limit: value => value.number(1..=10_000_000), at => at.to_string()),
    key!("ban.rate", ban.rate: value => value.number(1..=u32::MAX.into()), at => at.to_string()),
    key!("ban.responders", ban.responders:
        value => responders(value),
        at => write::words(RESPONDERS, at)),
    key!("nftables.table", nftables.table: value => value.table_name(), at => write::text(at)),
    key!("nftables.hook", nftables.hook:
        value => value.word(HOOKS),
        at => write::word(HOOKS, *at)),
    key!("nftables.priority", nftables.priority:
        value => value.number(-400..=400),
        at => at.to_string()),
    key!("nftables.log", nftables.log: value => value.log_rate(), at => write::log_rate(*at)),
    key!("nftables.own", nftables.own: value => value.word(OWN), at => write::word(OWN, *at)),
    key!("nftables.optional", nftables.optional: value => value.boolean(), at => at.to_string()),
    key!("iptables.chain", iptables.chain: value => value.chain_name(), at => write::text(at)),
    key!("iptables.optional", iptables.optional: value => value.boolean(), at => at.to_string()),
    key!("route.kind", route.kind: value => value.word(ROUTES), at => write::word(ROUTES, *at)),
    key!("route.optional", route.optional: value => value.boolean(), at => at.to_string()),
    key!("hosts-deny.file", hosts_deny.file: value => value.path(), at => write::path(Some(at))),
    key!("hosts-deny.line", hosts_deny.line: value => value.hosts_line(), at => write::text(at)),
    key!("hosts-deny.optional", hosts_deny.optional: value => value.boolean(), at => at.to_string()),
    key!("command.run", command.run: value => value.command(), at => write::command(at.as_ref())),
    key!("command.ban", command.ban: value => value.command(), at => write::command(at.as_ref())),
    key!("command.unban", command.unban:
        value => value.command(),
        at => write::command(at.as_ref())),
    key!("command.when", command.when:
        value => value.word(WHEN),
        at => write::word(WHEN, *at)),
    key!("command.timeout", command.timeout:
        value => value.duration(SECOND)?.ok_or_else(|| value.fault("must end some time; write a time such as \"10s\"")),
        at => write::duration(Some(*at))),
    key!("listen.banner", listen.banner: value => value.banner(), at => write::text(at)),
    Key {
        name: "ignore.files",
        read: |config, value| {
            let files = value.list("[\"/etc/portsentry/ignore.list\"]", |file| {
                file.path().map(IgnoreFile::new)
            })?;
            config.ignore.set_files_in(Syntax::Ours, files);
            Ok(())
        },
        write: |config| write_files(config, Syntax::Ours),
    },
    Key {
        name: "ignore.legacy_files",
        read: |config, value| {
            let files = value.list("[\"/etc/portsentry/portsentry.ignore\"]", |file| {
                file.path().map(IgnoreFile::legacy)
            })?;
            config.ignore.set_files_in(Syntax::Legacy, files);
            Ok(())
        },
        write: |config| write_files(config, Syntax::Legacy),
    },
    key!("ignore.addresses", ignore.addresses:
        value => value.list("[\"192.0.2.0/24\", \"2001:db8::1\"]", Value::whom),
        at => write::list(at.iter().map(|whom| write::text(&whom.to_string())))),
    key!("ignore.refresh", ignore.refresh:
        value => value.duration(SECOND)?.ok_or_else(|| value.fault("must end some time; write a time such as \"5m\"")),
        at => write::duration(Some(*at))),
    key!("ignore.host", ignore.host:
        value => value.list("[\"addresses\", \"ssh\"]", |fact| fact.word(FACTS)).map(BTreeSet::from_iter),
        at => write::words(FACTS, at)),
    key!("history.file", history.file: value => value.path(), at => write::path(Some(at))),
    key!("history.text", history.text:
        value => value.path_or_none(),
        at => write::path(at.as_deref())),
    key!("history.blocked", history.blocked:
        value => value.path_or_none(),
        at => write::path(at.as_deref())),
    key!("history.resolve", history.resolve: value => value.boolean(), at => at.to_string()),
    key!("log.repeats", log.repeats: value => value.boolean(), at => at.to_string()),
    key!("control.socket", control.socket:
        value => value.socket_path(),
        at => write::path(Some(at))),
    key!("daemon.user", daemon.user:
        value => value.user_name(),
        at => write::text(at.as_deref().unwrap_or_default())),
];

const METHODS: &[(&str, Method)] = &[("packet", Method::Packet), ("ip", Method::Ip)];
const MODES: &[(&str, Option<Mode>)] = &[
    ("advanced", Some(Mode::Advanced)),
    ("stealth", Some(Mode::Stealth)),
    ("connect", Some(Mode::Connect)),
    ("off", None),
];
const RESPONSES: &[(&str, Response)] = &[
    ("ban", Response::Ban),
    ("log", Response::Log),
    ("command", Response::Command),
];
const ROUTES: &[(&str, RouteKind)] = &[
    ("unreachable", RouteKind::Unreachable),
    ("blackhole", RouteKind::Blackhole),
    ("prohibit", RouteKind::Prohibit),
];
const UNITS: &[(&str, Unit)] = &[("ports", Unit::Ports), ("hits", Unit::Hits)];
const CONFIRM: &[(&str, Confirm)] = &[("none", Confirm::None), ("handshake", Confirm::Handshake)];
const ON_STOP: &[(&str, OnStop)] = &[("keep", OnStop::Keep), ("remove", OnStop::Remove)];
const RESPONDERS: &[(&str, ResponderKind)] = &[
    named(ResponderKind::Nftables),
    named(ResponderKind::Iptables),
    named(ResponderKind::Route),
    named(ResponderKind::HostsDeny),
    named(ResponderKind::Command),
];
const HOOKS: &[(&str, Hook)] = &[("prerouting", Hook::Prerouting), ("input", Hook::Input)];
const OWN: &[(&str, Own)] = &[("auto", Own::Auto), ("on", Own::On), ("off", Own::Off)];
const WHEN: &[(&str, When)] = &[("after", When::After), ("before", When::Before)];
const FACTS: &[(&str, HostFact)] = &[
    ("addresses", HostFact::Addresses),
    ("gateways", HostFact::Gateways),
    ("resolvers", HostFact::Resolvers),
    ("ssh", HostFact::Ssh),
];

const SECOND: Duration = Duration::from_secs(1);

/// The names of all sections, in order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = split().map(|(section, _)| section).collect();
    sections.dedup();
    sections
}

/// The names of the keys in `section`, in order.
pub(super) fn names(section: &str) -> Vec<&'static str> {
    split()
        .filter(|&(of, _)| of == section)
        .map(|(_, name)| name)
        .collect()
}

/// The sections that have a key called `name`.
pub(super) fn homes(name: &str) -> Vec<&'static str> {
    split()
        .filter(|&(_, key)| key == name)
        .map(|(section, _)| section)
        .collect()
}

/// The key `name` of `section`.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.name.split_once('.') == Some((section, name)))
}

fn split() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().filter_map(|key| key.name.split_once('.'))
}

fn modes(value: &Value<'_>) -> Result<BTreeSet<Mode>, Faults> {
    if !value.is_list() {
        return value.word(MODES).map(BTreeSet::from_iter);
    }
    let modes = value.list("[\"advanced\"]", |element| element.word(MODES))?;
    if modes.is_empty() {
        return Err(value.fault("is an empty list; write \"off\""));
    }
    if modes.len() > 1 && modes.contains(&None) {
        return Err(
            value.fault("has \"off\" beside other modes; write \"off\" alone, or without it")
        );
    }
    Ok(modes.into_iter().flatten().collect())
}

/// One mode, or none, is written without a list.
fn write_modes(modes: &BTreeSet<Mode>) -> String {
    let words = modes.iter().map(|&mode| write::word(MODES, Some(mode)));
    match modes.len() {
        0 => write::word(MODES, None),
        1 => words.collect(),
        _ => write::list(words),
    }
}

const fn named(kind: ResponderKind) -> (&'static str, ResponderKind) {
    (kind.name(), kind)
}

fn write_files(config: &Config, syntax: Syntax) -> String {
    let files = config.ignore.files_in(syntax);
    write::list(files.map(|path| write::path(Some(path))))
}

fn responders(value: &Value<'_>) -> Result<Vec<ResponderKind>, Faults> {
    let responders = value.list("[\"nftables\"]", |element| element.word(RESPONDERS))?;
    if responders.is_empty() {
        return Err(value.fault(
            "is empty, so that no ban would ever be real; name one, or set response = \"log\" in [tcp] and [udp]",
        ));
    }
    if responders.len() > BTreeSet::from_iter(&responders).len() {
        return Err(value.fault("names a responder twice; name each once"));
    }
    Ok(responders)
}

/// The longest prefix first, whatever the order in the file. A wider one takes more bans than any within it: else that one
/// would never come about.
fn rollups(value: &Value<'_>, lengths: RangeInclusive<u8>) -> Result<Vec<RollUp>, Faults> {
    const AT_MOST: usize = 4;
    let mut rollups = value.list("[\"16 in /56\"]", |element| element.rollup(lengths.clone()))?;
    rollups.sort_by_key(|rollup| std::cmp::Reverse(rollup.prefix_len));
    let is_odd = |pair: &[RollUp]| {
        let [narrow, wide] = pair else { return false };
        narrow.prefix_len == wide.prefix_len || narrow.count >= wide.count
    };
    if rollups.windows(2).any(is_odd) {
        return Err(value.fault(
            "must name each length once, and more bans for a wider prefix, as in [\"16 in /56\", \"64 in /48\"]",
        ));
    }
    if rollups.len() > AT_MOST {
        return Err(value.fault(format!(
            "names {} lengths; name {AT_MOST} at most",
            rollups.len()
        )));
    }
    Ok(rollups)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{CommandLine, Commands, LogRate, ignore, parse};
    use super::*;

    const SAMPLE: &str = include_str!("../../config/portsentry.toml");

    #[test]
    fn the_sample_spells_out_the_defaults() {
        match parse(Path::new("config/portsentry.toml"), SAMPLE) {
            Ok(config) => assert_eq!(config, Config::default()),
            Err(wrong) => panic!("{wrong}"),
        }
    }

    #[test]
    fn the_sample_has_every_key_in_order_and_explains_it() {
        let mut section = "";
        let mut keys = Vec::new();
        for line in SAMPLE.lines() {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if let Some((name, _)) =
                line.split_once(" = ").filter(|_| !line.starts_with('#'))
            {
                keys.push(format!("{section}.{name}"));
            }
        }
        let known: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(keys, known);
    }

    #[test]
    fn the_sample_ignore_file_ignores_nobody() {
        let text = include_str!("../../config/ignore.list");
        let (entries, complaints) =
            ignore::parse(Path::new("ignore.list"), ignore::Syntax::Ours, text);
        assert!(entries.nets.is_empty() && entries.names.is_empty() && complaints.is_empty());
    }

    #[test]
    fn every_key_refuses_a_value_of_another_type() {
        for Key { name, .. } in KEYS {
            for value in ["{ a = 1 }", "1979-05-27", "1.5", "[[1]]"] {
                let text = format!("{name} = {value}");
                let wrong = parse(Path::new("/p"), &text).unwrap_err().to_string();
                let about = wrong.lines().next().unwrap().split(": ").nth(1).unwrap();
                assert!(about.starts_with(name), "{text}: {wrong}");
            }
        }
    }

    #[test]
    fn commands_are_programs_or_lines_for_the_shell() {
        let text = r#"
            [ban]
            responders = ["hosts-deny", "command"]
            [nftables]
            log = "3/minute"
            [hosts-deny]
            line = "sshd, vsftpd : {source}, 192.0.2.1 : DENY"
            [command]
            run = "awk '{print $1}' | mail -s '{source} {port}' root"
            ban = ["/sbin/shut", "{source}", "{}", "{ source }"]
            unban = ""
            when = "before"
            timeout = "1m"
        "#;
        let config = parse(Path::new("/p"), text).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(
            config.command,
            Commands {
                run: Some(CommandLine::Shell(
                    "awk '{print $1}' | mail -s '{source} {port}' root".to_owned()
                )),
                ban: Some(CommandLine::Argv(
                    ["/sbin/shut", "{source}", "{}", "{ source }"]
                        .map(str::to_owned)
                        .to_vec()
                )),
                unban: None,
                when: When::Before,
                timeout: Duration::from_secs(60),
            }
        );
        let rate = LogRate {
            packets: 3,
            per: Duration::from_secs(60),
        };
        assert_eq!(config.nftables.log, Some(rate));
        assert!(config.hosts_deny.line.starts_with("sshd, vsftpd"));
    }

    #[test]
    fn a_bad_value_is_refused_with_cause_and_remedy() {
        let wordy = format!("listen.banner = \"{}\"", "x".repeat(1025));
        let long = format!("control.socket = \"/run/{}\"", "x".repeat(103));
        for (text, complaint) in [
            (
                "capture.method = \"pakcet\"",
                "capture.method does not know \"pakcet\"; did you mean \"packet\"?",
            ),
            (
                "capture.interfaces = [\"\"]",
                "capture.interfaces takes names of interfaces, 1 to 15 bytes",
            ),
            (
                "capture.interfaces = [\"abcdefghijklmnop\"]",
                "not \"abcdefghijklmnop\"",
            ),
            (
                "capture.interfaces = \"eth0\"",
                "takes a list such as [\"eth0\"], not \"eth0\"",
            ),
            (
                "tcp.mode = [\"off\", \"stealth\"]",
                "tcp.mode has \"off\" beside other modes",
            ),
            ("tcp.mode = []", "tcp.mode is an empty list; write \"off\""),
            (
                "udp.mode = [\"advanced\", \"conect\"]",
                "udp.mode does not know \"conect\"; did you mean \"connect\"?",
            ),
            (
                "tcp.ports = [65536]",
                "tcp.ports takes ports from 0 to 65535, such as 23 or \"135-139\", not 65536",
            ),
            ("tcp.ports = [-1]", "not -1"),
            (
                "tcp.ports = [\"80\"]",
                "takes a single port without quotes; write 80 for \"80\"",
            ),
            ("tcp.ports = [\"+1-5\"]", "not \"+1-5\""),
            ("tcp.ports = [\"1-65536\"]", "not \"1-65536\""),
            (
                "tcp.ports = 23",
                "tcp.ports takes a list such as [23, \"135-139\"], not 23",
            ),
            (
                "tcp.below = 65537",
                "tcp.below takes a whole number from 0 to 65536, not 65537",
            ),
            (
                "tcp.below = \"1024\"",
                "from 0 to 65536 without quotes, not \"1024\"",
            ),
            (
                "tcp.below = 99999999999999999999",
                "not 99999999999999999999",
            ),
            (
                "tcp.response = \"drop\"",
                "response does not know \"drop\"; known: \"ban\", \"log\", \"command\"",
            ),
            ("detect.trigger = 65", "from 1 to 64, not 65"),
            ("detect.count = \"port\"", "did you mean \"ports\"?"),
            (
                "ban.duration = 600",
                "\"ever\", in quotes and with its unit, not 600",
            ),
            ("ban.duration = \"600\"", "such as \"90s\", \"5m\""),
            (
                "ban.duration = \"forever\"",
                "\"30d\" or \"ever\", not \"forever\"",
            ),
            (
                "ban.duration = \"0s\"",
                "ban.duration is too short at \"0s\"; write at least \"1s\"",
            ),
            ("ban.duration = \"5M\"", "\"5M\" could be minutes or months"),
            (
                "ban.max = \"200years\"",
                "ban.max is longer than 100 years at \"200years\"; write \"ever\"",
            ),
            (
                "ban.max = \"99999999999999999999d\"",
                "ban.max takes a time such as",
            ),
            ("ban.escalate = 0", "from 1 to 4294967295, not 0"),
            ("ban.ipv4_prefix = 7", "from 8 to 32, not 7"),
            ("ban.ipv6_prefix = 129", "from 16 to 128, not 129"),
            ("ban.limit = 10000001", "from 1 to 10000000, not"),
            (
                "ban.responders = [\"ipset\"]",
                "known: \"nftables\", \"iptables\", \"route\", \"hosts-deny\", \"command\"",
            ),
            ("ban.responders = []", "ban.responders is empty"),
            (
                "ban.responders = [\"nftables\", \"nftables\"]",
                "names a responder twice",
            ),
            (
                "nftables.table = \"1st\"",
                "nftables.table takes a name of 1 to 31 letters",
            ),
            ("nftables.table = \"a b\"", "not \"a b\""),
            ("nftables.priority = -401", "from -400 to 400, not -401"),
            (
                "nftables.log = \"0/minute\"",
                "nftables.log takes 1 to 1000000 a \"second\", \"minute\", \"hour\" or \"day\", such as \"3/minute\", or \"\", not \"0/minute\"",
            ),
            ("nftables.log = \"1000001/day\"", "not \"1000001/day\""),
            ("nftables.log = \"+3/day\"", "not \"+3/day\""),
            ("nftables.log = \"3/week\"", "not \"3/week\""),
            ("nftables.log = \"3\"", "not \"3\""),
            (
                "hosts-deny.line = \"ALL: ALL\"",
                "hosts-deny.line \"ALL: ALL\" has no client {source}; write a line such as \"ALL: {source}\"",
            ),
            (
                "hosts-deny.line = \"{source}: ALL\"",
                "has no client {source}",
            ),
            (
                "hosts-deny.line = \"ALL: {source}/24\"",
                "has no client {source}",
            ),
            (
                "hosts-deny.line = \" : {source}\"",
                "has no client {source}",
            ),
            (
                "hosts-deny.line = \"ALL: ALL EXCEPT {source}\"",
                "would shut out others than {source}",
            ),
            (
                "hosts-deny.line = \"ALL: {source} # scan\"",
                "has a \"#\", but what follows it would be read as clients too; take it out",
            ),
            (
                "hosts-deny.line = \"ALL: {source}\\nALL: ALL\"",
                "is more than one line; write a single one",
            ),
            (
                "hosts-deny.line = \"ALL: {source} : \\\\\"",
                "ends in a backslash",
            ),
            (
                "command.run = [\"/bin/notify\", \"{sources}\"]",
                "command.run does not know \"{sources}\"; did you mean \"{source}\"?",
            ),
            (
                "command.ban = [\"\", \"{source}\"]",
                "command.ban names no program; the first word must be one",
            ),
            (
                "command.unban = \"a\\u0000b\"",
                "command.unban takes words without NUL characters, not \"a\\0b\"",
            ),
            (
                "command.run = 5",
                "command.run takes a list such as [\"/usr/local/bin/notify\", \"{source}\"], or a line for the shell in quotes, not 5",
            ),
            (
                "command.timeout = \"ever\"",
                "command.timeout must end some time; write a time such as \"10s\"",
            ),
            (&wordy, "listen.banner has 1025 bytes; write 1024 at most"),
            (
                "route.kind = \"hole\"",
                "known: \"unreachable\", \"blackhole\", \"prohibit\"",
            ),
            (
                "ignore.addresses = [\"0.0.0.0/0\"]",
                "ignore.addresses: \"0.0.0.0/0\" would ignore everybody; to log scans and ban nobody, set response = \"log\"",
            ),
            ("ignore.addresses = [\"::/0\"]", "would ignore everybody"),
            (
                "ignore.files = [\"ignore.list\"]",
                "ignore.files takes a path that begins with /, not \"ignore.list\"",
            ),
            (
                "ignore.host = [\"adresses\"]",
                "did you mean \"addresses\"?",
            ),
            (
                "history.file = \"/var/lib/\"",
                "takes the path of a file in a directory",
            ),
            (
                "history.file = \"/a\\u0000b\"",
                "takes a path without NUL characters, not \"/a\\0b\"",
            ),
            (
                "history.blocked = \"blocked\"",
                "history.blocked takes a path that begins with /",
            ),
            (
                "history.resolve = \"yes\"",
                "history.resolve takes true or false, not \"yes\"",
            ),
            (
                &long,
                "control.socket is a path of 108 bytes; a socket's has at most 107",
            ),
            (
                "daemon.user = \"no body\"",
                "daemon.user takes the name of a user, or \"\", not \"no body\"",
            ),
        ] {
            let wrong = parse(Path::new("/p"), text).unwrap_err().to_string();
            assert!(wrong.contains(complaint), "{text}: {wrong}");
            assert_eq!(wrong.matches("/p:").count(), 1, "{text}: {wrong}");
        }
    }
}
