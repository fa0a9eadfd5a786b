//! The table of everything that can be set: each key's name, type, bounds and place in [`Config`].
//!
//! The parser, the suggestions for unknown names and the test of the sample configuration go by this one table.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::value::{Faults, Value};
use super::{
    Config, DEFAULT_IGNORE_FILE, Hook, HostFact, IgnoreFile, Method, Mode, OnStop, ResponderKind,
    Response, Watch,
};
use crate::policy::Unit;

/// Reads a value into the configuration.
type Read = fn(&mut Config, &Value<'_>) -> Result<(), Faults>;

/// Every key there is, as `section.name`, in the order of the sample configuration.
///
/// A key whose feature this version lacks takes the one value that means "not used", so that nothing
/// that is accepted does nothing. The sections of responders that cannot be chosen yet are only checked.
pub(super) const KEYS: &[(&str, Read)] = &[
    ("capture.method", |config, value| {
        config.capture.method =
            value.word(&[("packet", Method::Packet), ("ip", Method::Ip)], &[])?;
        Ok(())
    }),
    ("capture.interfaces", |config, value| {
        let names = value.list("[\"eth0\"]", Value::interface)?;
        config.capture.interfaces = BTreeSet::from_iter(names);
        Ok(())
    }),
    ("tcp.mode", |config, value| mode(&mut config.tcp, value)),
    ("tcp.ports", |config, value| ports(&mut config.tcp, value)),
    ("tcp.below", |config, value| below(&mut config.tcp, value)),
    ("tcp.exclude", |config, value| {
        exclude(&mut config.tcp, value)
    }),
    ("tcp.response", |config, value| {
        response(&mut config.tcp, value)
    }),
    ("udp.mode", |config, value| mode(&mut config.udp, value)),
    ("udp.ports", |config, value| ports(&mut config.udp, value)),
    ("udp.below", |config, value| below(&mut config.udp, value)),
    ("udp.exclude", |config, value| {
        exclude(&mut config.udp, value)
    }),
    ("udp.response", |config, value| {
        response(&mut config.udp, value)
    }),
    ("detect.trigger", |config, value| {
        config.detect.trigger = value.number(1..=64)?;
        Ok(())
    }),
    ("detect.count", |config, value| {
        config.detect.count = value.word(&[("ports", Unit::Ports), ("hits", Unit::Hits)], &[])?;
        Ok(())
    }),
    ("detect.window", |config, value| {
        let window = value.duration(Duration::ZERO)?;
        config.detect.window = window.filter(|window| !window.is_zero());
        Ok(())
    }),
    ("detect.decoys", |config, value| {
        config.detect.decoys = value.ports()?;
        Ok(())
    }),
    ("ban.duration", |config, value| {
        config.ban.duration = value.duration(SECOND)?;
        Ok(())
    }),
    ("ban.escalate", |config, value| {
        config.ban.escalate = value.number(1..=u32::MAX.into())?;
        Ok(())
    }),
    ("ban.max", |config, value| {
        config.ban.max = value.duration(SECOND)?;
        Ok(())
    }),
    ("ban.memory", |config, value| {
        config.ban.memory = value.duration(Duration::ZERO)?;
        Ok(())
    }),
    ("ban.ipv4_prefix", |config, value| {
        config.ban.ipv4_prefix = value.number(8..=32)?;
        Ok(())
    }),
    ("ban.ipv6_prefix", |config, value| {
        config.ban.ipv6_prefix = value.number(16..=128)?;
        Ok(())
    }),
    ("ban.on_stop", |config, value| {
        config.ban.on_stop =
            value.word(&[("keep", OnStop::Keep), ("remove", OnStop::Remove)], &[])?;
        Ok(())
    }),
    ("ban.limit", |config, value| {
        config.ban.limit = value.number(1..=10_000_000)?;
        Ok(())
    }),
    ("ban.rate", |config, value| {
        config.ban.rate = value.number(1..=u32::MAX.into())?;
        Ok(())
    }),
    ("ban.responders", |config, value| {
        let responders = value.list("[\"nftables\"]", |element| {
            element.word(
                &[("nftables", ResponderKind::Nftables)],
                &["iptables", "route", "hosts-deny", "command"],
            )
        })?;
        if responders.is_empty() {
            return Err(value.fault(
                "is empty, so that no ban would ever be real; name one, or set response = \"log\" in [tcp] and [udp]",
            ));
        }
        if responders.len() > BTreeSet::from_iter(&responders).len() {
            return Err(value.fault("names a responder twice; name each once"));
        }
        config.ban.responders = responders;
        Ok(())
    }),
    ("nftables.table", |config, value| {
        config.nftables.table = value.table_name()?;
        Ok(())
    }),
    ("nftables.hook", |config, value| {
        config.nftables.hook = value.word(
            &[("prerouting", Hook::Prerouting), ("input", Hook::Input)],
            &[],
        )?;
        Ok(())
    }),
    ("nftables.priority", |config, value| {
        config.nftables.priority = value.number(-400..=400)?;
        Ok(())
    }),
    ("nftables.log", |_, value| value.only_empty()),
    ("iptables.chain", |_, value| value.text().map(drop)),
    ("route.kind", |_, value| {
        value.word(
            &[("unreachable", ()), ("blackhole", ()), ("prohibit", ())],
            &[],
        )
    }),
    ("hosts-deny.file", |_, value| value.path().map(drop)),
    ("hosts-deny.line", |_, value| value.text().map(drop)),
    ("command.run", |_, value| {
        let example = "[\"/usr/local/bin/notify\", \"{source}\"]";
        value
            .list(example, |element| element.text().map(drop))
            .map(drop)
    }),
    ("command.when", |_, value| {
        value.word(&[("after", ()), ("before", ())], &[])
    }),
    ("command.timeout", |_, value| {
        value.duration(SECOND).map(drop)
    }),
    ("listen.banner", |_, value| value.only_empty()),
    ("ignore.files", |config, value| {
        config.ignore.files = value.list("[\"/etc/portsentry/ignore.list\"]", |element| {
            let path = element.path()?;
            let named = path != Path::new(DEFAULT_IGNORE_FILE);
            Ok(IgnoreFile { path, named })
        })?;
        Ok(())
    }),
    ("ignore.addresses", |config, value| {
        config.ignore.addresses =
            value.list("[\"192.0.2.0/24\", \"2001:db8::1\"]", Value::prefix)?;
        Ok(())
    }),
    ("ignore.host", |config, value| {
        let facts = value.list("[\"addresses\", \"ssh\"]", |element| {
            element.word(
                &[
                    ("addresses", HostFact::Addresses),
                    ("gateways", HostFact::Gateways),
                    ("resolvers", HostFact::Resolvers),
                    ("ssh", HostFact::Ssh),
                ],
                &[],
            )
        })?;
        config.ignore.host = BTreeSet::from_iter(facts);
        Ok(())
    }),
    ("history.file", |config, value| {
        config.history.file = value.path()?;
        Ok(())
    }),
    ("history.text", |config, value| {
        config.history.text = if value.text()?.is_empty() {
            None
        } else {
            Some(value.path()?)
        };
        Ok(())
    }),
    ("history.resolve", |_, value| {
        if value.boolean()? {
            return Err(value.fault("= true is not available in this version; leave it at false"));
        }
        Ok(())
    }),
    ("control.socket", |config, value| {
        config.control.socket = value.socket_path()?;
        Ok(())
    }),
    ("daemon.user", |config, value| {
        value.only_empty()?;
        config.daemon.user = None;
        Ok(())
    }),
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

/// The key `name` of `section`, and how it is read.
pub(super) fn find(section: &str, name: &str) -> Option<(&'static str, Read)> {
    KEYS.iter()
        .find(|(key, _)| key.split_once('.') == Some((section, name)))
        .copied()
}

fn split() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().filter_map(|(key, _)| key.split_once('.'))
}

fn mode(watch: &mut Watch, value: &Value<'_>) -> Result<(), Faults> {
    const WORDS: &[(&str, Option<Mode>)] = &[
        ("advanced", Some(Mode::Advanced)),
        ("stealth", Some(Mode::Stealth)),
        ("off", None),
    ];
    const LATER: &[&str] = &["connect"];
    if !value.is_list() {
        watch.modes = BTreeSet::from_iter(value.word(WORDS, LATER)?);
        return Ok(());
    }
    let modes = value.list("[\"advanced\"]", |element| element.word(WORDS, LATER))?;
    if modes.is_empty() {
        return Err(value.fault("is an empty list; write \"off\""));
    }
    if modes.len() > 1 && modes.contains(&None) {
        return Err(
            value.fault("has \"off\" beside other modes; write \"off\" alone, or without it")
        );
    }
    watch.modes = modes.into_iter().flatten().collect();
    Ok(())
}

fn ports(watch: &mut Watch, value: &Value<'_>) -> Result<(), Faults> {
    watch.ports = value.ports()?;
    Ok(())
}

fn below(watch: &mut Watch, value: &Value<'_>) -> Result<(), Faults> {
    watch.below = value.number(0..=65536)?;
    Ok(())
}

fn exclude(watch: &mut Watch, value: &Value<'_>) -> Result<(), Faults> {
    watch.exclude = value.ports()?;
    Ok(())
}

fn response(watch: &mut Watch, value: &Value<'_>) -> Result<(), Faults> {
    watch.response = value.word(
        &[("ban", Response::Ban), ("log", Response::Log)],
        &["command"],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{ignore, parse};
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
        let known: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, known);
    }

    #[test]
    fn the_sample_ignore_file_ignores_nobody() {
        let text = include_str!("../../config/ignore.list");
        let (entries, complaints) = ignore::parse(Path::new("ignore.list"), text);
        assert!(entries.is_empty() && complaints.is_empty());
    }

    #[test]
    fn every_key_refuses_a_value_of_another_type() {
        for (key, _) in KEYS {
            for value in ["{ a = 1 }", "1979-05-27", "1.5", "[[1]]"] {
                let text = format!("{key} = {value}");
                let wrong = parse(Path::new("/p"), &text).unwrap_err().to_string();
                let about = wrong.lines().next().unwrap().split(": ").nth(1).unwrap();
                assert!(about.starts_with(key), "{text}: {wrong}");
            }
        }
    }

    #[test]
    fn a_bad_value_is_refused_with_cause_and_remedy() {
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
                "tcp.mode = \"connect\"",
                "mode \"connect\" is not available in this version; known: \"advanced\", \"stealth\", \"off\"",
            ),
            (
                "udp.mode = [\"advanced\", \"connect\"]",
                "mode \"connect\" is not available in this version",
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
                "tcp.response = \"command\"",
                "response \"command\" is not available in this version; known: \"ban\", \"log\"",
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
                "ban.responders = [\"iptables\"]",
                "responders \"iptables\" is not available in this version; known: \"nftables\"",
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
                "nftables.log = \"3/minute\"",
                "nftables.log \"3/minute\" is not available in this version; leave it at \"\"",
            ),
            (
                "route.kind = \"hole\"",
                "known: \"unreachable\", \"blackhole\", \"prohibit\"",
            ),
            (
                "listen.banner = \"hi\"",
                "listen.banner \"hi\" is not available in this version",
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
                "history.resolve = true",
                "history.resolve = true is not available in this version; leave it at false",
            ),
            (
                &long,
                "control.socket is a path of 108 bytes; a socket's has at most 107",
            ),
            (
                "daemon.user = \"nobody\"",
                "daemon.user \"nobody\" is not available in this version",
            ),
        ] {
            let wrong = parse(Path::new("/p"), text).unwrap_err().to_string();
            assert!(wrong.contains(complaint), "{text}: {wrong}");
            assert_eq!(wrong.matches("/p:").count(), 1, "{text}: {wrong}");
        }
    }
}
