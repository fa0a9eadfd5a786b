//! Following what changes while we run: the configuration, the ignore files, this host's addresses.

use std::collections::BTreeSet;
use std::path::PathBuf;

use tracing::{error, info, warn};

use super::{Daemon, Error, HOST_AGAIN, Token, notices, start};
use crate::capture::Watched;
use crate::clock::Now;
use crate::config::{self, Complaints, Config, Loaded, Mode, ResponderKind, Watch, WatchMode};
use crate::control::{IgnoreRead, Reloaded};
use crate::history::History;
use crate::host::{self, Facts, FileWatch};
use crate::listen;
use crate::log::counted;
use crate::privilege::{self, Needs};
use crate::probe::Protocol;
use crate::respond::{Member, Readiness, Responders};

impl Daemon {
    /// Reads the configuration again. What has mistakes changes nothing.
    pub(super) fn reload(&mut self, now: Now) -> Result<Reloaded, String> {
        self.reload_with(&self.clients.leased(), now)
    }

    /// Reads the configuration again, for our own modes and these besides. What has mistakes changes nothing.
    pub(super) fn reload_with(
        &mut self,
        leased: &BTreeSet<WatchMode>,
        now: Now,
    ) -> Result<Reloaded, String> {
        let words = |complaints: Complaints| complaints.to_string();
        let mut loaded = config::load_with(&self.config_path, &self.modes).map_err(words)?;
        let own: BTreeSet<WatchMode> = loaded.config.watch_modes().collect();
        if !leased.is_subset(&own) {
            loaded = config::load_with(&self.config_path, &(&own | leased)).map_err(words)?;
        }
        let Loaded {
            config: mut new,
            warnings,
        } = loaded;
        notices::warnings(&warnings);
        let (ignored, passed_over) = config::ignore::read(&new.ignore).map_err(words)?;
        let old = self.engine.config().clone();
        let needs_restart = new.keep_until_restart(&old, &out_of_reach(&new));
        let seen_by = self.see_by(&new, now);
        let members = match seen_by.and_then(|()| self.new_members(&old, &new)) {
            Ok(members) => members,
            Err(why) => {
                // Whatever of it took effect is taken back.
                if let Err(worse) = self.see_by(&old, now) {
                    error!("the configuration in force cannot be gone by any more: {worse}");
                }
                return Err(why);
            }
        };
        let is_other_crew = old.ban.responders != new.ban.responders;
        self.engine.reconfigure(new, ignored, now);
        self.engine.look_names_up(now);
        if is_other_crew {
            self.change_responders(members, now);
        }
        self.own_modes = own;
        info!("the configuration was read again");
        tell(&passed_over);
        for key in &needs_restart {
            warn!("{key} has changed, which takes effect at a restart");
        }
        Ok(Reloaded {
            needs_restart: needs_restart.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The responders that `new` has and `old` has not, ready for bans. Nothing is left of them where one fails.
    fn new_members(&self, old: &Config, new: &Config) -> Result<Vec<Member>, String> {
        let is_new = |kind: &&ResponderKind| !old.ban.responders.contains(kind);
        let kinds: Vec<ResponderKind> = new.ban.responders.iter().filter(is_new).copied().collect();
        let mut responders = Responders::of_kinds(&kinds, new).map_err(|why| why.to_string())?;
        let readiness = responders.prepare().map_err(|why| {
            // What it did before it failed, for nobody else has any of them at work.
            let _ = responders.withdraw();
            why.to_string()
        })?;
        for Readiness { name, prepared } in readiness {
            if let Err(why) = prepared {
                warn!("{why}; going on without {name}, which is optional");
            }
        }
        let bell = self.engine.bell().ok_or("the daemon has no bell")?;
        responders
            .on_threads_with(&bell)
            .map_err(|why| format!("cannot give responders threads: {why}"))
    }

    /// Goes over to the responders that the configuration names now, and takes down what the others have put up.
    fn change_responders(&mut self, new: Vec<Member>, now: Now) {
        let config = self.engine.config().clone();
        let names: Vec<&str> = config.ban.responders.iter().map(|it| it.name()).collect();
        info!("bans are made real by {} from now on", names.join(", "));
        self.engine.change_responders(&names, new, now);
        if let Err(cause) = self.begin_watching(now) {
            error!("what others do to bans is not seen any more: {cause}");
        }
        let taken_down = History::open(&config.history.file)
            .map_err(Error::from)
            .and_then(|mut history| start::take_down_what_is_not_used(&mut history, &config));
        if let Err(cause) = taken_down {
            error!("what responders have put up that are not used any more may stay: {cause}");
        }
    }

    /// Listens, captures and watches files as `config` says. What fails leaves what came before it done.
    fn see_by(&mut self, config: &Config, now: Now) -> Result<(), String> {
        let listening = self
            .listeners
            .set(listened_by(config), now.mono)
            .map_err(|error| error.to_string())?;
        notices::listening(&listening);
        self.lead_to_traps(config)?;
        self.watch_packets(config)?;
        self.capture
            .set_interfaces(interfaces_of(config, self.host.facts()))
            .map_err(|error| error.to_string())?;
        self.watch_ignore_files(config)
            .map_err(|error| error.to_string())
    }

    /// Has the kernel tell of packets to the ports that are watched, and of programs that let go of these.
    pub(super) fn watch_packets(&mut self, config: &Config) -> Result<(), String> {
        let closings = self.closings.iter();
        closings
            .map(|closings| closings.watch(config.udp.span()))
            .try_for_each(|watched| watched.map_err(|error| error.to_string()))?;
        let watched = self.capture.set_watched(watched_by(config));
        watched.map_err(|error| error.to_string())
    }

    /// Something has happened where the ignore files are.
    pub(super) fn ignore_moves(&mut self, now: Now) {
        if !self.ignore_watch.changed() {
            return;
        }
        if let Err(complaints) = self.read_ignore(now) {
            error!(
                "the ignore files have changed, and the last good list stays in force:\n{complaints}"
            );
        }
    }

    /// Reads the ignore files again. With mistakes in them, the last good list stays in force.
    pub(super) fn read_ignore(&mut self, now: Now) -> Result<IgnoreRead, Complaints> {
        let config = self.engine.config().clone();
        // Directories may have moved and links may point elsewhere: watch anew, and read after that.
        if let Err(cause) = self.watch_ignore_files(&config) {
            error!("the ignore files cannot be watched any more, reload after an edit: {cause}");
        }
        let (ignored, warnings) = config::ignore::read(&config.ignore)?;
        let entries = counted(ignored.len(), "entry", "entries");
        info!("the ignore files have changed: {entries}");
        tell(&warnings);
        self.engine.ignore_changed(ignored, now);
        let name = |path: &PathBuf| path.display().to_string();
        Ok(IgnoreRead {
            files: files_of(&config).iter().map(name).collect(),
        })
    }

    fn watch_ignore_files(&mut self, config: &Config) -> Result<(), Error> {
        let watch = watch(config)?;
        self.add(watch.fd(), Token::Ignore)?;
        self.ignore_watch = watch;
        Ok(())
    }

    /// The host's addresses or interfaces have changed. Where they cannot be listed, the old ones stay for a moment.
    pub(super) fn host_moves(&mut self, now: Now) {
        let facts = match self.host.changed() {
            Ok(Some(facts)) => facts.clone(),
            Ok(None) => return,
            Err(cause) => {
                warn!("{cause}; trying again");
                self.later.host = Some(now.mono.later(HOST_AGAIN));
                return;
            }
        };
        if let Err(cause) = self
            .capture
            .set_interfaces(interfaces_of(self.engine.config(), &facts))
        {
            error!("the interfaces have changed: {cause}");
        }
        self.engine.host_changed(facts, now);
    }
}

/// The protocols in which `config` wants to listen on ports that this process has given up the right to.
fn out_of_reach(config: &Config) -> Vec<Protocol> {
    if privilege::missing(Needs { low_ports: true }).is_empty() {
        return Vec::new();
    }
    let wanted = listened_by(config);
    let is_out_of_reach = |protocol: &Protocol| !wanted.may_be_had(*protocol);
    let protocols = [Protocol::Tcp, Protocol::Udp].into_iter();
    protocols.filter(is_out_of_reach).collect()
}

/// Watches the ignore files, and says which of them cannot be watched.
pub(super) fn watch(config: &Config) -> Result<FileWatch, host::Error> {
    let (watch, unwatched) = FileWatch::open(&files_of(config))?;
    for path in unwatched {
        warn!(
            "{}: its directory cannot be watched, so that an edit takes effect at a reload only",
            path.display()
        );
    }
    Ok(watch)
}

fn files_of(config: &Config) -> Vec<PathBuf> {
    let files = config.ignore.files.iter();
    files.map(|file| file.path.clone()).collect()
}

/// Logs what the ignore files hold that is passed over, first in 1.2's words where it had some.
pub(super) fn tell(warnings: &Complaints) {
    for alert in warnings.iter().filter_map(|it| it.alert.as_ref()) {
        info!("{alert}");
    }
    if !warnings.is_empty() {
        warn!("in the ignore files:\n{warnings}");
    }
}

/// The indexes of the interfaces that the configuration names, those that exist; `None`: all but loopback.
pub(super) fn interfaces_of(config: &Config, facts: &Facts) -> Option<Vec<u32>> {
    let names = &config.capture.interfaces;
    (!names.is_empty()).then(|| {
        names
            .iter()
            .filter_map(|name| facts.index_of(name))
            .collect()
    })
}

/// Interfaces that the configuration names and that are not there.
pub(super) fn missing_interfaces<'a>(config: &'a Config, facts: &Facts) -> Vec<&'a str> {
    let names = config.capture.interfaces.iter().map(String::as_str);
    names
        .filter(|name| facts.index_of(name).is_none())
        .collect()
}

/// The ports that are to be listened on. Where all TCP ports that are watched are traps with one listener, none is for itself.
pub(super) fn listened_by(config: &Config) -> listen::Settings {
    let traps = config.has_traps();
    let ports = |watch: &Watch| {
        let listens = watch.modes.contains(&Mode::Connect);
        if listens {
            watch.ports.clone()
        } else {
            Vec::new()
        }
    };
    listen::Settings {
        tcp: if traps {
            Vec::new()
        } else {
            ports(&config.tcp)
        },
        udp: ports(&config.udp),
        banner: config.listen.banner.clone(),
        traps,
    }
}

/// The ports that the kernel filter is to let through.
pub(super) fn watched_by(config: &Config) -> Watched {
    Watched {
        tcp: config.tcp.span(),
        udp: config.udp.span(),
    }
}
