//! What must fit between keys, each of which is good by itself.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::complaint::quoted;
use super::write::time;
use super::{Config, Confirm, Mode, ResponderKind, Response, Watch, WatchMode};
use crate::policy::Unit;

/// Keys whose values make no sense together.
#[derive(Debug)]
pub(super) struct Misfit {
    /// As `section.name`. The complaint stands at the first of them that is set; if one is bad already, there is none.
    pub(super) keys: Vec<&'static str>,
    /// Cause and remedy.
    pub(super) message: String,
}

/// The keys of one protocol.
struct Names {
    mode: &'static str,
    ports: &'static str,
    below: &'static str,
    exclude: &'static str,
    response: &'static str,
}

const TCP: Names = Names {
    mode: "tcp.mode",
    ports: "tcp.ports",
    below: "tcp.below",
    exclude: "tcp.exclude",
    response: "tcp.response",
};

const UDP: Names = Names {
    mode: "udp.mode",
    ports: "udp.ports",
    below: "udp.below",
    exclude: "udp.exclude",
    response: "udp.response",
};

/// Everything that does not fit. The defaults do.
pub(super) fn misfits(config: &Config) -> Vec<Misfit> {
    let found = [
        nothing_watched(config),
        nothing_to_watch(&config.tcp, &TCP),
        nothing_to_watch(&config.udp, &UDP),
        idle_decoy(config),
        nobody_confirms(config),
        too_few_ports(config),
        first_ban_beyond_max(config),
        nobody_bans(config),
        nothing_to_run(config, &config.tcp, &TCP),
        nothing_to_run(config, &config.udp, &UDP),
        shared_file(config),
        file_of_root(config),
    ];
    found.into_iter().flatten().collect()
}

fn nothing_watched(config: &Config) -> Option<Misfit> {
    let off = config.tcp.modes.is_empty() && config.udp.modes.is_empty();
    off.then(|| Misfit {
        keys: vec![TCP.mode, UDP.mode],
        message: "nothing is watched: tcp.mode and udp.mode are both \"off\"; set one of them to \"advanced\""
            .to_owned(),
    })
}

/// A mode is on that has no port.
fn nothing_to_watch(watch: &Watch, names: &Names) -> Option<Misfit> {
    let Names {
        mode,
        ports,
        below,
        exclude,
        ..
    } = names;
    for (listed, word) in [(Mode::Stealth, "stealth"), (Mode::Connect, "connect")] {
        if watch.modes.contains(&listed) && watch.ports.is_empty() {
            return Some(Misfit {
                keys: vec![mode, ports],
                message: format!(
                    "{mode} is \"{word}\", but {ports} is empty; \
                     list the ports to watch, such as ports = [23, \"135-139\"]"
                ),
            });
        }
    }
    let advanced = Watch {
        modes: BTreeSet::from([Mode::Advanced]),
        ..watch.clone()
    };
    let idle = watch.modes.contains(&Mode::Advanced) && advanced.span().is_none();
    idle.then(|| Misfit {
        keys: vec![below, exclude, mode],
        message: format!(
            "{mode} is \"advanced\", but {exclude} leaves no port below {}; \
             raise {below}, exclude less, or take \"advanced\" out of {mode}",
            watch.below
        ),
    })
}

fn idle_decoy(config: &Config) -> Option<Misfit> {
    let decoys = config.detect.decoys.iter().cloned().flatten();
    let port = decoys
        .filter(|&port| !config.tcp.watches(port) && !config.udp.watches(port))
        .min()?;
    let mut keys = vec!["detect.decoys"];
    for names in [TCP, UDP] {
        keys.extend([names.mode, names.ports, names.below, names.exclude]);
    }
    Some(Misfit {
        keys,
        message: format!(
            "detect.decoys holds port {port}, which neither [tcp] nor [udp] watches; watch it there, or take it out"
        ),
    })
}

/// Only TCP has handshakes.
fn nobody_confirms(config: &Config) -> Option<Misfit> {
    let nobody = config.detect.confirm == Confirm::Handshake && config.tcp.modes.is_empty();
    nobody.then(|| Misfit {
        keys: vec!["detect.confirm", TCP.mode],
        message: "detect.confirm is \"handshake\", but tcp.mode is \"off\", so that nobody would ever be banned; \
                  watch TCP ports, or set detect.confirm to \"none\""
            .to_owned(),
    })
}

/// A scan is made of more ports than there are, and no single packet is enough anywhere.
fn too_few_ports(config: &Config) -> Option<Misfit> {
    let detect = &config.detect;
    if detect.count != Unit::Ports || !detect.decoys.is_empty() {
        return None;
    }
    let trigger = usize::from(detect.trigger);
    let ports = |watch: &Watch| {
        (1..=u16::MAX)
            .filter(|port| watch.watches(*port))
            .take(trigger)
            .count()
    };
    let udp = match detect.confirm {
        Confirm::None => ports(&config.udp),
        Confirm::Handshake => 0,
    };
    let watched = ports(&config.tcp) + udp;
    // Where there are none at all, that is complained of by itself.
    let too_few = (1..trigger).contains(&watched);
    let mut keys = vec!["detect.trigger"];
    for names in [TCP, UDP] {
        keys.extend([names.ports, names.below, names.exclude, names.mode]);
    }
    too_few.then(|| Misfit {
        keys,
        message: format!(
            "detect.trigger is {trigger}, but {watched} {}, so that nobody would ever be banned; \
             lower it, watch more ports, or set detect.count to \"hits\"",
            if watched == 1 {
                "port is watched that counts"
            } else {
                "ports are watched that count"
            }
        ),
    })
}

fn first_ban_beyond_max(config: &Config) -> Option<Misfit> {
    let max = config.ban.max?;
    let duration = config.ban.duration;
    let beyond = duration.is_none_or(|duration| duration > max);
    beyond.then(|| Misfit {
        keys: vec!["ban.duration", "ban.max"],
        message: format!(
            "ban.duration is {}, longer than ban.max, which is {}; raise ban.max or shorten ban.duration",
            duration.map_or_else(|| "ever".to_owned(), time),
            time(max)
        ),
    })
}

/// The command responder is named without a command, or alone without one that bans.
fn nobody_bans(config: &Config) -> Option<Misfit> {
    let responders = &config.ban.responders;
    let command = &config.command;
    if command.ban.is_some() || !responders.contains(&ResponderKind::Command) {
        return None;
    }
    let message = if responders.len() == 1 {
        "ban.responders is \"command\" alone, but command.ban is empty, so that nobody would be banned; \
         set command.ban, or add \"nftables\" to ban.responders"
    } else if command.run.is_none() {
        "ban.responders has \"command\", but command.run and command.ban are both empty; \
         set one of them, or take \"command\" out"
    } else {
        return None;
    };
    Some(Misfit {
        keys: vec!["ban.responders", "command.ban", "command.run"],
        message: message.to_owned(),
    })
}

fn nothing_to_run(config: &Config, watch: &Watch, names: &Names) -> Option<Misfit> {
    let Names { response, .. } = names;
    let idle = watch.response == Response::Command && config.command.run.is_none();
    idle.then(|| Misfit {
        keys: vec![response, "command.run"],
        message: format!(
            "{response} is \"command\", but command.run is empty; \
             set command.run, or write {response} = \"log\""
        ),
    })
}

/// Two of history's files are the same, those that the modes make of `history.blocked` among them.
fn file_of_root(config: &Config) -> Option<Misfit> {
    let user = config.daemon.user.as_ref().filter(|user| *user != "root")?;
    let edits = config.ban.responders.contains(&ResponderKind::HostsDeny);
    edits.then(|| Misfit {
        keys: vec!["daemon.user", "ban.responders"],
        message: format!(
            "daemon.user is {}, but the responder \"hosts-deny\" edits a file that only root may replace; leave one of the two out",
            quoted(user)
        ),
    })
}

fn shared_file(config: &Config) -> Option<Misfit> {
    let history = &config.history;
    let shared = |keys: [&'static str; 2]| {
        Some(Misfit {
            keys: keys.to_vec(),
            message: format!(
                "{} and {} name the same file; give each its own",
                keys[0], keys[1]
            ),
        })
    };
    if history.text.as_ref() == Some(&history.file) {
        return shared(["history.text", "history.file"]);
    }
    let blocked = history.blocked.as_ref()?;
    let blocked = WatchMode::ALL.map(|mode| {
        let mut path = blocked.clone().into_os_string();
        path.push(".");
        path.push(mode.name());
        PathBuf::from(path)
    });
    if blocked.contains(&history.file) {
        return shared(["history.blocked", "history.file"]);
    }
    let text = history.text.as_ref()?;
    if blocked.contains(text) {
        return shared(["history.blocked", "history.text"]);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::parse;
    use super::*;

    #[test]
    fn the_defaults_fit() {
        assert!(misfits(&Config::default()).is_empty());
    }

    #[test]
    fn what_does_not_fit_together_is_refused_where_it_is_set() {
        for (text, complaint) in [
            (
                "tcp.mode = \"off\"\nudp.mode = \"off\"",
                "1:5: nothing is watched: tcp.mode and udp.mode are both \"off\"; set one",
            ),
            (
                "[udp]\nmode = \"stealth\"",
                "2:1: udp.mode is \"stealth\", but udp.ports is empty; list the ports",
            ),
            (
                "[tcp]\nmode = [\"advanced\", \"connect\"]",
                "2:1: tcp.mode is \"connect\", but tcp.ports is empty; list the ports",
            ),
            (
                "[ban]\nresponders = [\"command\"]\n[command]\nrun = [\"/bin/true\"]",
                "2:1: ban.responders is \"command\" alone, but command.ban is empty, so that nobody would be banned;",
            ),
            (
                "[ban]\nresponders = [\"nftables\", \"command\"]",
                "2:1: ban.responders has \"command\", but command.run and command.ban are both empty; set",
            ),
            (
                "[udp]\nresponse = \"command\"",
                "2:1: udp.response is \"command\", but command.run is empty; set",
            ),
            (
                "[history]\nblocked = \"/var/lib/portsentry/history\"\ntext = \"/var/lib/portsentry/history.atcp\"",
                "2:1: history.blocked and history.text name the same file; give",
            ),
            (
                "[history]\nblocked = \"/h\"\nfile = \"/h.sudp\"",
                "2:1: history.blocked and history.file name the same file; give",
            ),
            (
                "[tcp]\nbelow = 0",
                "2:1: tcp.mode is \"advanced\", but tcp.exclude leaves no port below 0; raise",
            ),
            (
                "[tcp]\nexclude = [\"0-1023\"]\nmode = [\"advanced\", \"stealth\"]\nports = [2000]",
                "2:1: tcp.mode is \"advanced\", but tcp.exclude leaves no port below 1024; raise",
            ),
            (
                "[tcp]\nmode = \"off\"\n[detect]\nconfirm = \"handshake\"",
                "4:1: detect.confirm is \"handshake\", but tcp.mode is \"off\", so that nobody would ever be banned; watch TCP ports",
            ),
            (
                "[udp]\nmode = \"off\"\n[tcp]\nmode = \"stealth\"\nports = [23]",
                "5:1: detect.trigger is 3, but 1 port is watched that counts, so that nobody would ever be banned; lower it",
            ),
            (
                "[detect]\ntrigger = 3\nconfirm = \"handshake\"\n[tcp]\nmode = \"connect\"\nports = [22, 23]",
                "2:1: detect.trigger is 3, but 2 ports are watched that count, so",
            ),
            (
                "[detect]\ndecoys = [23, 2323]",
                "2:1: detect.decoys holds port 2323, which neither [tcp] nor [udp] watches",
            ),
            (
                "[ban]\nduration = \"31d\"",
                "2:1: ban.duration is 31d, longer than ban.max, which is 30d; raise",
            ),
            (
                "[ban]\nmax = \"90s\"",
                "2:1: ban.duration is 10m, longer than ban.max, which is 1m 30s; raise",
            ),
            (
                "[ban]\nduration = \"ever\"",
                "2:1: ban.duration is ever, longer than ban.max, which is 30d; raise",
            ),
            (
                "[history]\ntext = \"/var/lib/portsentry/history.db\"",
                "2:1: history.text and history.file name the same file; give",
            ),
        ] {
            let wrong = parse(Path::new("/p"), text).unwrap_err().to_string();
            assert!(
                wrong.starts_with(&format!("/p:{complaint}")),
                "{text}: {wrong}"
            );
            assert_eq!(wrong.matches("/p:").count(), 1, "{text}: {wrong}");
        }
    }

    #[test]
    fn few_ports_are_enough_where_hits_count_or_one_packet_does() {
        for text in [
            "[tcp]\nmode = \"stealth\"\nports = [22, 23]\n[udp]\nmode = \"stealth\"\nports = [53]",
            "[tcp]\nmode = \"stealth\"\nports = [23]\n[udp]\nmode = \"off\"\n[detect]\ncount = \"hits\"",
            "[tcp]\nmode = \"stealth\"\nports = [23]\n[udp]\nmode = \"off\"\n[detect]\ndecoys = [23]",
            "[tcp]\nmode = \"stealth\"\nports = [23]\n[udp]\nmode = \"off\"\n[detect]\ntrigger = 1",
        ] {
            let parsed = parse(Path::new("/p"), text);
            assert!(parsed.is_ok(), "{text}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn what_depends_on_a_bad_value_is_not_judged() {
        let text = "[tcp]\nmode = \"stealth\"\nports = [\"x\"]\n[udp]\nmode = \"of\"";
        let wrong = parse(Path::new("/p"), text).unwrap_err().to_string();
        assert_eq!(wrong.matches("/p:").count(), 2, "{wrong}");
    }
}
