//! The command line: what can be typed, and what is printed. Neither netlink nor policy is spoken here.
//!
//! Exit status: 0 done, 1 failed, 2 usage, 78 configuration.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{self, Complaints, Config, Loaded};
use crate::control::{self, AskError, Line, Listed, Request};
use crate::privilege::User;
use crate::{daemon, log, respond};
use flags::Flags;

mod ban;
mod convert;
mod explain;
mod export;
mod flags;
mod history;
mod ignore;
mod import;
mod list;
mod migrate;
mod offline;
mod status;
mod test_responders;
mod unban;

/// Watches this host's unused ports and bans port scanners through an nftables set.
#[derive(Parser)]
#[command(name = "portsentry", version, max_term_width = 100, after_help = FLAGS_HELP)]
struct Cli {
    /// The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default:
    /// /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch for port scans and ban who scans, in the foreground
    Run,
    /// Look for mistakes in the configuration and in the ignore files it names
    Check {
        /// The file to check instead of the one in use
        file: Option<PathBuf>,
    },
    /// Print a configuration, such as that of portsentry 1.2, as a complete and explained native one
    Convert(convert::Convert),
    /// Show what an old portsentry (1.2 or 2.x) has left in the kernel and on disk, and turn it into timed bans
    Migrate(migrate::Migrate),
    /// Tell how the daemon is; exit status 1 when none runs or when bans are not in force
    Status(Output),
    /// List the bans in force
    List(Output),
    /// Ban an address or a prefix
    Ban(ban::Ban),
    /// Ban all that a list names
    Import(import::Import),
    /// Print the bans in force as a list that `import` takes: the sources, with ends and reasons as comments
    Export,
    /// Lift every ban that covers an address
    Unban(unban::Unban),
    /// Say who is never banned: edit or list the ignore files
    #[command(subcommand)]
    Ignore(ignore::Ignore),
    /// Show past and present bans, the newest first
    History(history::History),
    /// Tell all that is known of an address: its probes, its bans and where they stand, its history, who it is
    Explain(explain::Explain),
    /// Have the daemon read its configuration and ignore files again
    Reload,
    /// Ban a documentation address through each responder, look whether it is there, lift the ban, and look again
    TestResponders(test_responders::TestResponders),
    /// Take down everything of ours, in the kernel and in hosts.deny; history stays
    Withdraw {
        /// Only what would never end by itself: our lines in hosts.deny
        #[arg(long)]
        clockless: bool,
    },
}

const FLAGS_HELP: &str = "\
Started as portsentry 1.2 was, with one or several of -tcp -udp -stcp -sudp -atcp -audp, it reads portsentry.conf, checks \
everything and goes into the background. Where a daemon runs already, that one watches in these modes too, until this process \
ends, which takes the daemon's place when that ends first.";

/// How a command's result is printed.
#[derive(Args, Clone, Copy)]
struct Output {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a command failed: what to print, and the exit status.
struct Failure {
    message: String,
    status: u8,
}

/// Seconds a daemon may take to answer before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked, for that long, whether somebody has let go of the state lock.
const AGAIN: Duration = Duration::from_millis(20);

/// Exit status: what was typed is to blame.
const USAGE: u8 = 2;

/// Exit status: the configuration is to blame (EX_CONFIG of sysexits.h).
const CONFIGURATION: u8 = 78;

/// All that can be typed but 1.2's flags, as clap knows it: the manual page and the completions are made of this.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what was typed.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let done = match Flags::read(&arguments) {
        Some(flags) => flags.and_then(Flags::run),
        None => Cli::parse().run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                say(&failure.message);
            }
            ExitCode::from(failure.status)
        }
    }
}

impl Cli {
    fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Run => daemon::run(&self.path()).map_err(|error| match error {
                daemon::Error::Config(complaints) => Failure::from(complaints),
                other => Failure::from(other.to_string()),
            }),
            Command::Check { file } => check(&file.clone().unwrap_or_else(|| self.path())),
            Command::Convert(convert) => convert.run(self.config.as_deref()),
            Command::Migrate(migrate) => migrate.run(&self.client(), self.config.as_deref()),
            Command::Status(output) => status::run(&self.client(), *output),
            Command::List(output) => list::run(&self.client(), *output),
            Command::Ban(ban) => ban.run(&self.client()),
            Command::Import(import) => import.run(&self.client()),
            Command::Export => export::run(&self.client()),
            Command::Unban(unban) => unban.run(&self.client()),
            Command::Ignore(ignore) => ignore.run(&self.client()),
            Command::History(history) => history.print(&self.strict()?),
            Command::Explain(explain) => explain.run(&self.client()),
            Command::Reload => reload(&self.client()),
            Command::TestResponders(test) => test.run(&self.client()),
            Command::Withdraw { clockless } => offline::withdraw(&self.strict()?, *clockless),
        }
    }

    /// The configuration file in use.
    fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(config::default_path)
    }

    /// The configuration, which must be good.
    fn strict(&self) -> Result<Config, Failure> {
        config::load(&self.path()).map_err(Failure::from)
    }

    /// For commands that ask the daemon: with a configuration that has been spoilt since it started, they still reach it.
    fn client(&self) -> Client {
        let path = self.path();
        match config::load(&path) {
            Ok(config) => Client {
                config,
                spoilt: None,
            },
            Err(complaints) => Client {
                config: Config {
                    control: config::control(&path),
                    ..Config::default()
                },
                spoilt: Some(complaints),
            },
        }
    }
}

/// The client's end of a command.
struct Client {
    config: Config,
    /// What is wrong with the configuration; then `config` is the default one but for where the daemon listens.
    spoilt: Option<Complaints>,
}

/// What asking the daemon came to.
enum Asked {
    /// It did what was asked.
    Done,
    /// It says why it did not.
    Failed(String),
    /// There is no daemon.
    NoDaemon(String),
    /// Nobody listens, and yet somebody has the state lock: there is a daemon, as far as can be seen, and it cannot be reached.
    CutOff(String),
}

impl Client {
    /// Asks the daemon. Where nobody listens and yet somebody holds the state lock, a daemon that is about to, or one or a command that
    /// is about to end, it waits a moment for that.
    fn ask(
        &self,
        request: &Request,
        mut each: impl FnMut(Line) -> io::Result<()>,
    ) -> Result<Asked, AskError> {
        let begin = Instant::now();
        loop {
            let asked = self.ask_once(request, &mut each)?;
            let Asked::NoDaemon(why) = asked else {
                return Ok(asked);
            };
            let Some((lock, holder)) = offline::holder(&self.config) else {
                return Ok(Asked::NoDaemon(why));
            };
            if begin.elapsed() >= PATIENCE {
                return Ok(Asked::CutOff(format!(
                    "{why}, but {holder} holds {}: if that is a daemon, its socket is gone; stop it and start it again",
                    lock.display()
                )));
            }
            thread::sleep(AGAIN);
        }
    }

    fn ask_once(
        &self,
        request: &Request,
        each: &mut dyn FnMut(Line) -> io::Result<()>,
    ) -> Result<Asked, AskError> {
        let mut asked = Asked::Done;
        let result = control::ask(&self.config.control.socket, request, PATIENCE, |line| {
            if let Line::Failed(why) = line {
                asked = Asked::Failed(why);
                return Ok(());
            }
            each(line)
        });
        match result {
            Ok(()) => Ok(asked),
            Err(error @ AskError::NoDaemon(_)) => Ok(Asked::NoDaemon(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// Who is banned, by the daemon or else by history. A history that may not be read keeps nobody from anything else.
    fn running(&self, config: &Config) -> Vec<Listed> {
        let mut bans = Vec::new();
        let asked = self.ask(&Request::List, |line| {
            if let Line::Listed(ban) = line {
                bans.push(ban);
            }
            Ok(())
        });
        if let Ok(Asked::NoDaemon(_) | Asked::CutOff(_)) = asked {
            bans = offline::running(config).unwrap_or_default();
        }
        bans
    }

    /// The configuration, for working without a daemon: it must be good.
    fn good_config(&self) -> Result<&Config, Failure> {
        match &self.spoilt {
            None => Ok(&self.config),
            Some(complaints) => Err(Failure {
                message: complaints.to_string(),
                status: CONFIGURATION,
            }),
        }
    }
}

fn check(file: &Path) -> Result<(), Failure> {
    let Loaded { config, warnings } = config::load_with(file, &BTreeSet::new())?;
    let (_, passed_over) = config::ignore::read(&config.ignore)?;
    warnings.iter().for_each(|warning| say(warning));
    let mut but = "";
    if !passed_over.is_empty() {
        say(&format!("in the ignore files:\n{passed_over}"));
        but = ", but see the warnings";
    }
    // A file for another host may be checked here.
    if let Some(Err(cause)) = config.daemon.user.as_deref().map(User::named) {
        say(&cause.to_string());
        but = ", but see the warnings";
    }
    if let Some(hindrance) = respond::iptables::foreseen(&config) {
        let user = config.daemon.user.as_deref().unwrap_or_default();
        let message = format!("as {user}, whom daemon.user names, {hindrance}");
        if !config.iptables.optional {
            return Err(Failure {
                message,
                status: CONFIGURATION,
            });
        }
        say(&format!(
            "{message}; a start goes on without iptables, which is optional"
        ));
        but = ", but see the warnings";
    }
    print(|out| writeln!(out, "{}: no mistakes found{but}", file.display()))
}

fn reload(client: &Client) -> Result<(), Failure> {
    let mut needs_restart = Vec::new();
    let asked = client.ask(&Request::Reload, |line| {
        if let Line::Reloaded(reloaded) = line {
            needs_restart = reloaded.needs_restart;
        }
        Ok(())
    })?;
    match asked {
        Asked::Done => print(|out| {
            writeln!(out, "the configuration was read again")?;
            match needs_restart.as_slice() {
                [] => Ok(()),
                keys => writeln!(out, "these changes wait for a restart: {}", keys.join(", ")),
            }
        }),
        Asked::Failed(why) => Err(Failure::from(format!("nothing has changed:\n{why}"))),
        Asked::NoDaemon(why) | Asked::CutOff(why) => Err(Failure::from(why)),
    }
}

/// Writes to standard output; a reader that has had enough (`| head`) is no failure.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::from(format!(
            "cannot write to standard output: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to standard error, if there is still one.
fn say(message: &str) {
    let _ = writeln!(io::stderr(), "portsentry: {message}");
}

/// How long ago, for people.
fn ago(start_millis: i64, now: crate::clock::Now) -> String {
    format!(
        "{} ago",
        log::span(now.wall.since(crate::clock::Wall(start_millis)))
    )
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self { message, status: 1 }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::from(error.to_string())
    }
}

impl From<Complaints> for Failure {
    fn from(complaints: Complaints) -> Self {
        Self {
            message: complaints.to_string(),
            status: CONFIGURATION,
        }
    }
}
