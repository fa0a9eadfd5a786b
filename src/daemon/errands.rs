//! What the engine wants done outside: programs that are to be run, names that are to be found. Both take their time elsewhere.

use std::io;
use std::time::Duration;

use super::{Daemon, Error, Token};
use crate::clock::Now;
use crate::config::Config;
use crate::config::ignore::HostName;
use crate::engine::Errand;
use crate::host::{Names, Whereabouts};
use crate::respond::command::{Ended, Runner};

/// Who runs errands; those that the configuration has no use for are not there.
#[derive(Default)]
pub(super) struct Errands {
    runner: Option<Runner>,
    names: Option<Names>,
}

/// How long a stop waits for programs, those that wait for their turn too.
const LAST_RUNS: Duration = Duration::from_secs(5);

impl Errands {
    /// Called before rights are given up: the admin's programs keep them.
    pub(super) fn start(config: &Config) -> io::Result<Self> {
        let runs = config.command.run.is_some() || config.command.ban.is_some();
        let runner = runs.then(|| Runner::start(config.command.timeout));
        Ok(Self {
            runner: runner.transpose()?,
            names: None,
        })
    }

    /// Called after rights are given up: who reads what strangers answer has none to lose.
    pub(super) fn start_names(&mut self, config: &Config) -> io::Result<()> {
        let names = config.history.resolve.then(Names::start);
        self.names = names.transpose()?;
        Ok(())
    }
}

impl Daemon {
    pub(super) fn watch_errands(&self) -> Result<(), Error> {
        if let Some(runner) = &self.errands.runner {
            self.add(runner.fd(), Token::Program)?;
        }
        if let Some(names) = &self.errands.names {
            self.add(names.fd(), Token::Name)?;
        }
        Ok(())
    }

    /// Sets out on what the engine wants done.
    pub(super) fn run_errands(&mut self, now: Now) {
        for errand in self.engine.take_errands() {
            match errand {
                Errand::Name(address) => {
                    let is_asked = |names: &Names| names.ask(address);
                    if !self.errands.names.as_ref().is_some_and(is_asked) {
                        self.engine.named(address, None, now);
                    }
                }
                Errand::Whereabouts(name) => {
                    if let Err(cause) = self.seek(&name) {
                        let unknown = Whereabouts {
                            v4: Err(cause.clone()),
                            v6: Err(cause),
                        };
                        self.engine.found(&name, unknown, now);
                    }
                }
                Errand::Run(job) => {
                    let id = job.id;
                    let runs = |runner: &Runner| runner.run(job);
                    if !self.errands.runner.as_ref().is_some_and(runs) {
                        self.engine.ended(&not_run(id), now);
                    }
                }
            }
        }
    }

    /// Has a name looked up, by a thread that is there from the first one on.
    fn seek(&mut self, name: &HostName) -> Result<(), String> {
        if self.errands.names.is_none() {
            let names = Names::start().map_err(|cause| cause.to_string())?;
            self.add(names.fd(), Token::Name)
                .map_err(|cause| cause.to_string())?;
            self.errands.names = Some(names);
        }
        let is_sought = |names: &Names| names.seek(name.as_str());
        match self.errands.names.as_ref().is_some_and(is_sought) {
            true => Ok(()),
            false => Err("too many names wait to be looked up".to_owned()),
        }
    }

    /// Programs have ended.
    pub(super) fn programs_ended(&mut self, now: Now) {
        let ended = self.errands.runner.as_ref().map(Runner::ended);
        for ended in ended.unwrap_or_default() {
            self.engine.ended(&ended, now);
        }
    }

    /// Names have been found, or not.
    pub(super) fn names_found(&mut self, now: Now) {
        let Some(names) = &self.errands.names else {
            return;
        };
        let (answers, found) = (names.answers(), names.found());
        for (address, name) in answers {
            self.engine.named(address, name.as_deref(), now);
        }
        for (name, whereabouts) in found {
            if let Some(name) = HostName::parse(&name) {
                self.engine.found(&name, whereabouts, now);
            }
        }
    }

    /// Lets programs end that are under way, as far as there is time.
    pub(super) fn end_errands(&mut self) {
        let now = Now::read();
        self.run_errands(now);
        if let Some(runner) = self.errands.runner.take() {
            for ended in runner.stop(LAST_RUNS) {
                self.engine.ended(&ended, Now::read());
            }
        }
    }
}

fn not_run(id: u64) -> Ended {
    Ended {
        id,
        command: "a program".to_owned(),
        trouble: Some("was not run: too many wait for their turn".to_owned()),
    }
}
