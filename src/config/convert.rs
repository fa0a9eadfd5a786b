//! Any configuration as a complete native file: the sample's text, with the values of this one.
//!
//! The comments are the sample's, so that what is printed explains itself. What each value looks like stands in
//! `keys.rs`.

use std::path::Path;

use super::complaint::printable;
use super::{Config, Loaded, is_legacy, keys};

/// The file that is installed, with every key.
const SAMPLE: &str = include_str!("../../config/portsentry.toml");

/// Where the sample's head stops speaking of the sample.
const SYNTAX: &str = "# Times:";

/// What was chosen for settings that 1.2 did not have.
const CHOICES: &[(&str, &str)] = &[
    (
        "capture.method",
        "as 1.2, scans that the firewall stops are not seen; \"packet\" sees them",
    ),
    (
        "tcp.mode",
        "1.2 was told with flags; this is what was given, or else what its init scripts would start",
    ),
    ("udp.mode", "likewise"),
    (
        "ban.duration",
        "1.2 never let anybody in again; \"ever\" does as it did",
    ),
    (
        "nftables.hook",
        "as 1.2's rules did, a ban stops what is for this host; \"prerouting\" stops what it forwards too",
    ),
    (
        "ban.escalate",
        "the second ban of a source is as long as the first",
    ),
    (
        "detect.window",
        "as 1.2, packets are added up however far apart they are",
    ),
    (
        "history.file",
        "1.2 did not remember bans over a restart; this is where they are kept now",
    ),
];

/// The configuration that was read from `path`, as a native file that means the same. Its head tells what it was
/// converted from, what was chosen for it, and what could not be kept.
#[must_use]
pub fn converted(path: &Path, loaded: &Loaded) -> String {
    let mut head = format!(
        "# Converted from {} by portsentry convert.\n\
         # Every setting stands here: what you leave out stays at its default, which need not be the value shown.\n#\n",
        printable(&path.to_string_lossy())
    );
    let mut list = |title: &str, lines: &mut dyn Iterator<Item = String>| {
        let mut lines = lines.peekable();
        if lines.peek().is_some() {
            head.push_str(title);
        }
        for line in lines {
            head.push_str(&format!("#  - {}\n", printable(&line)));
        }
    };
    if is_legacy(path) {
        let mut chosen = CHOICES.iter().filter_map(|(name, why)| {
            let (section, key) = name.split_once('.')?;
            let value = (keys::find(section, key)?.write)(&loaded.config);
            Some(format!("{name} = {value}: {why}"))
        });
        list(
            "# What 1.2 had no setting for, and what stands here:\n",
            &mut chosen,
        );
    }
    let mut warnings = loaded.warnings.iter().cloned();
    list("# What is not as it was written:\n", &mut warnings);
    head.push_str("#\n");

    let body = SAMPLE.find(SYNTAX).map_or(SAMPLE, |at| &SAMPLE[at..]);
    head + &with_values(body, &loaded.config)
}

/// The text, with the values of `config` behind its keys.
fn with_values(text: &str, config: &Config) -> String {
    let mut section = "";
    let mut converted = String::with_capacity(text.len());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        let written = line
            .split_once(" = ")
            .filter(|_| !line.starts_with('#'))
            .and_then(|(name, _)| {
                let write = keys::find(section, name)?.write;
                Some(format!("{name} = {}", write(config)))
            });
        converted.push_str(written.as_deref().unwrap_or(line));
        converted.push('\n');
    }
    converted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::ignore::Whom;
    use super::super::value::merged;
    use super::super::{
        BanRules, CommandLine, Commands, Confirm, HostFact, HostsDeny, Ignore, IgnoreFile, Listen,
        Log, LogRate, Method, Mode, OnStop, Own, ResponderKind, Response, RollUp, RouteKind, Watch,
        When, parse,
    };
    use super::*;
    use crate::policy::Unit;

    fn back(path: &str, config: &Config, warnings: &[&str]) -> (String, Config) {
        let loaded = Loaded {
            config: config.clone(),
            warnings: warnings.iter().map(|&text| text.to_owned()).collect(),
        };
        let text = converted(Path::new(path), &loaded);
        let config = parse(Path::new("/p.toml"), &text)
            .unwrap_or_else(|wrong| panic!("{wrong}\nof\n{text}"));
        (text, config)
    }

    #[test]
    fn what_was_chosen_and_what_was_not_kept_stands_at_the_head() {
        let (text, config) = back(
            "/etc/a\n\u{1b}.conf",
            &Config::default(),
            &["/etc/a:1: \u{1b}[2J\n[tcp]"],
        );
        assert_eq!(config, Config::default());
        let head = text.split("\n[capture]").next().unwrap();
        assert!(
            head.starts_with("# Converted from /etc/a\\n\\u{1b}.conf by portsentry convert.\n")
        );
        assert!(
            head.contains("#  - ban.duration = \"10m\": 1.2 never let"),
            "{head}"
        );
        assert!(
            head.contains("#  - /etc/a:1: \\u{1b}[2J\\n[tcp]\n"),
            "{head}"
        );
        assert!(head.contains("\n# Times: "), "{head}");
        assert!(!head.contains("with its default"), "{head}");
    }

    #[test]
    fn a_native_file_is_printed_whole_without_1_2_s_choices() {
        let config = parse(Path::new("/p.toml"), "tcp.ports = [\"1-3\", 7]").unwrap();
        let (text, again) = back("/p.toml", &config, &[]);
        assert_eq!(again, config);
        assert!(text.contains("\nports = [\"1-3\", 7]\n"));
        assert!(!text.contains("1.2 had no setting"));
        let written = |text: &str| text.lines().filter(|line| line.contains(" = ")).count();
        assert!(written(&text) >= keys::KEYS.len());
    }

    /// A text of any characters but NUL.
    fn any_text() -> impl Strategy<Value = String> {
        prop::collection::vec(any::<char>(), 0..20)
            .prop_map(|chars| chars.into_iter().filter(|&char| char != '\0').collect())
    }

    fn any_path() -> impl Strategy<Value = std::path::PathBuf> {
        any_text().prop_map(|text| format!("/{text}x").into())
    }

    fn any_time() -> impl Strategy<Value = Option<Duration>> {
        prop::option::of((1..2_000_000_000_u64).prop_map(Duration::from_secs))
    }

    fn any_ports() -> impl Strategy<Value = Vec<std::ops::RangeInclusive<u16>>> {
        let range = any::<(u16, u16)>().prop_map(|(one, other)| one.min(other)..=one.max(other));
        prop::collection::vec(range, 1..5).prop_map(merged)
    }

    fn any_watch() -> impl Strategy<Value = Watch> {
        let modes =
            prop::sample::subsequence(vec![Mode::Advanced, Mode::Stealth, Mode::Connect], 1..=3);
        let responses = vec![Response::Ban, Response::Log, Response::Command];
        (
            modes,
            any_ports(),
            2_u32..=65536,
            prop::sample::select(responses),
        )
            .prop_map(|(modes, ports, below, response)| Watch {
                modes: BTreeSet::from_iter(modes),
                ports,
                below,
                exclude: vec![1..=1],
                response,
            })
    }

    fn any_command() -> impl Strategy<Value = CommandLine> {
        let words = prop::collection::vec(any_text(), 0..3).prop_map(|mut words| {
            words.insert(0, "/bin/x{source}".to_owned());
            CommandLine::Argv(words.iter().map(|word| word.replace('{', "(")).collect())
        });
        let line = any_text().prop_map(|text| CommandLine::Shell(format!("x{text}")));
        prop_oneof![words, line]
    }

    prop_compose! {
        fn any_config()(
            (tcp, udp) in (any_watch(), any_watch()),
            (duration, memory) in (any_time(), any_time()),
            (run, ban, unban) in (any_command(), any_command(), prop::option::of(any_command())),
            (banner, chain, line) in (any_text(), "[a-z][A-Z_.-]{0,27}", "[a-zA-Z]{1,9} ?: ?\\{source\\}( : [A-Z]{1,5})?"),
            (file, text, blocked) in (any_path(), prop::option::of(any_path()), prop::option::of(any_path())),
            log in prop::option::of((1..=1_000_000_u32, prop::sample::select(vec![1_u64, 60, 3600, 86_400]))),
            rollups in prop::sample::subsequence(vec![8_u8, 16, 20, 24, 31], 0..=4),
            (yes, no) in any::<(bool, bool)>(),
            (ignored, old) in (prop::collection::vec(any_path(), 0..3), prop::collection::vec(any_path(), 0..3)),
        ) -> Config {
            let default = Config::default();
            Config {
                capture: super::super::Capture {
                    method: if yes { Method::Ip } else { Method::Packet },
                    interfaces: BTreeSet::from(["eth0".to_owned()]),
                },
                tcp,
                udp,
                detect: super::super::Detect {
                    count: if no { Unit::Hits } else { Unit::Ports },
                    window: memory,
                    confirm: if yes { Confirm::None } else { Confirm::Handshake },
                    ..default.detect
                },
                ban: BanRules {
                    duration,
                    max: None,
                    memory,
                    ipv4_rollup: rollups.into_iter().rev().map(|prefix_len| RollUp { count: u32::from(33 - prefix_len), prefix_len }).collect(),
                    rollup_confirm: if no { Confirm::None } else { Confirm::Handshake },
                    on_stop: if yes { OnStop::Remove } else { OnStop::Keep },
                    responders: vec![ResponderKind::Command, ResponderKind::HostsDeny],
                    ..default.ban
                },
                nftables: super::super::Nftables {
                    own: if yes { Own::Auto } else { Own::On },
                    log: log.map(|(packets, per)| LogRate { packets, per: Duration::from_secs(per) }),
                    optional: no,
                    ..default.nftables
                },
                iptables: super::super::Iptables { chain, optional: no },
                route: super::super::Route { kind: RouteKind::Prohibit, optional: yes },
                hosts_deny: HostsDeny { file: file.clone(), line, optional: yes },
                command: Commands {
                    run: Some(run),
                    ban: Some(ban),
                    unban,
                    when: if no { When::Before } else { When::After },
                    timeout: Duration::from_millis(1500),
                },
                listen: Listen { banner },
                ignore: Ignore {
                    files: (ignored.into_iter().map(IgnoreFile::new)).chain(old.into_iter().map(IgnoreFile::legacy)).collect(),
                    addresses: ["192.0.2.0/24", "2001:db8::1/128", "office.example.net"].map(|it| Whom::parse(it).unwrap()).into(),
                    refresh: Duration::from_secs(90),
                    host: BTreeSet::from([HostFact::Ssh]),
                },
                history: super::super::History {
                    file: "/f".into(),
                    text,
                    blocked,
                    resolve: yes,
                },
                log: Log { repeats: no },
                ..default
            }
        }
    }

    proptest! {
        #[test]
        fn any_configuration_is_printed_and_read_back(config in any_config()) {
            let (text, again) = back("/p.conf", &config, &[]);
            prop_assert_eq!(again, config);
            let control = |char: char| char.is_control() && char != '\n';
            prop_assert!(!text.contains(control));
        }
    }
}
