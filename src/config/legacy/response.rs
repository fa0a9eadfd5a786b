//! What a scan leads to by 1.2's configuration: the responders, and the commands that stay the admin's own.
//!
//! Which commands are plain blocks is known in `kill.rs`.

use super::super::complaint::quoted;
use super::super::value::hosts_line;
use super::super::{CommandLine, Commands, Config, HostsDeny, ResponderKind, Response, When};
use super::kill::{Block, MODE, PORT, TARGET, filled_in};
use super::syntax::Setting;
use super::{Reader, TCP, UDP};

/// What `BLOCK_TCP` and `BLOCK_UDP` ask for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Everything,
    Command,
}

impl<'a> Reader<'a> {
    /// The responders, and what a scan leads to.
    pub(super) fn responses(&mut self, config: &mut Config) {
        let tcp = self.asked(TCP.block);
        let udp = self.asked(UDP.block);
        let run = self.command("KILL_RUN_CMD");
        let mut route = self.targeted("KILL_ROUTE");
        let mut hosts = self.hosts_deny();

        let run_block = run.and_then(|run| Block::of(run.value));
        let asked = |what| tcp == what || udp == what;
        if run_block.is_some() && asked(Asked::Command) {
            // What it does is a ban, and 1.2 does nothing else then.
            if !asked(Asked::Everything) {
                (route, hosts) = (None, None);
            } else if route.is_some() || hosts.is_some() {
                self.warn(
                    run,
                    "bans, so that what is \"2\" of BLOCK_TCP and BLOCK_UDP does all that \"1\" does",
                );
            }
        }
        let route_block = route.and_then(|route| Block::of(route.value));
        let blocks = run_block.is_some() || route_block.is_some();
        config.nftables.log = [route_block, run_block]
            .into_iter()
            .flatten()
            .find_map(|block| block.log);
        let run = run.filter(|_| run_block.is_none());
        let route = route.filter(|_| route_block.is_none());
        config.command = Commands {
            run: run.map(|run| self.shell(run)),
            ban: route.map(|route| self.shell(route)),
            when: if self.flag("KILL_RUN_CMD_FIRST") {
                When::Before
            } else {
                When::After
            },
            ..config.command.clone()
        };

        let bans = blocks || hosts.is_some() || route.is_some();
        let mut responders = Vec::new();
        if blocks || !bans {
            responders.push(ResponderKind::Nftables); // else `portsentry ban` would do nothing
        }
        if let Some(line) = hosts {
            responders.push(ResponderKind::HostsDeny);
            config.hosts_deny = HostsDeny {
                line,
                ..config.hosts_deny.clone()
            };
        }
        if run.is_some() || route.is_some() {
            responders.push(ResponderKind::Command);
        }
        config.ban.responders = responders;

        for (names, asked, watch) in [(&TCP, tcp, &mut config.tcp), (&UDP, udp, &mut config.udp)] {
            let (response, idle) = match asked {
                Asked::Nothing => (Response::Log, None),
                Asked::Everything if bans => (Response::Ban, None),
                Asked::Command if run_block.is_some() => (Response::Ban, None),
                Asked::Everything if run.is_some() => (
                    Response::Command,
                    Some(
                        "bans nobody without a KILL_ROUTE or KILL_HOSTS_DENY; KILL_RUN_CMD is run",
                    ),
                ),
                Asked::Everything => (
                    Response::Log,
                    Some("bans nobody without a KILL_ROUTE or KILL_HOSTS_DENY; scans are logged"),
                ),
                Asked::Command if run.is_some() => (Response::Command, None),
                Asked::Command => (
                    Response::Log,
                    Some("has no KILL_RUN_CMD to run; scans are logged"),
                ),
            };
            watch.response = response;
            if let Some(idle) = idle {
                self.warn(self.settings.get(names.block), idle);
            }
        }
    }

    /// The line for hosts.deny that `KILL_HOSTS_DENY` comes to.
    fn hosts_deny(&mut self) -> Option<String> {
        let setting = self.targeted("KILL_HOSTS_DENY")?;
        let mut line = setting.value;
        if let Some((before, _)) = line.split_once('#') {
            self.warn(
                Some(setting),
                "is cut before the \"#\": tcp_wrappers would read what follows as clients",
            );
            line = before.trim_end();
        }
        if line.contains(PORT) || line.contains(MODE) {
            let clients = line
                .match_indices(':')
                .nth(1)
                .map_or(line, |(at, _)| &line[..at]);
            self.warn(
                Some(setting),
                "is cut behind its clients: its options cannot be told the port and the mode here",
            );
            line = clients.trim_end();
        }
        let line = filled_in(line);
        match hosts_line(&line) {
            Ok(()) => Some(line),
            Err(wrong) => {
                self.warn(
                    Some(setting),
                    format!("is left out: {} {wrong}", quoted(&line)),
                );
                None
            }
        }
    }

    /// A command as the admin wrote it.
    fn shell(&mut self, setting: Setting<'a>) -> CommandLine {
        if let Some(held) = ["{source}", "{port}", "{mode}"]
            .into_iter()
            .find(|held| setting.value.contains(held))
        {
            self.warn(
                Some(setting),
                format!("holds {held}, which is filled in too; write it otherwise"),
            );
        }
        CommandLine::Shell(filled_in(setting.value))
    }

    /// A command that is there and not empty.
    fn command(&self, key: &str) -> Option<Setting<'a>> {
        self.settings
            .get(key)
            .filter(|setting| !setting.value.trim().is_empty())
    }

    /// A command that names whom it is about; one that does not is skipped, in 1.2's words.
    fn targeted(&mut self, key: &str) -> Option<Setting<'a>> {
        let setting = self.command(key)?;
        if setting.value.contains(TARGET) {
            return Some(setting);
        }
        self.notes.say(format!(
            "adminalert: No target variable specified in {key} option. Skipping."
        ));
        None
    }

    fn asked(&mut self, key: &'static str) -> Asked {
        match self.number(key) {
            None | Some(0) => Asked::Nothing,
            Some(1) => Asked::Everything,
            Some(2) => Asked::Command,
            Some(_) => {
                let message = "is neither 0, 1 nor 2; as in 1.2 it acts as 0";
                self.warn(self.settings.get(key), message);
                Asked::Nothing
            }
        }
    }
}
