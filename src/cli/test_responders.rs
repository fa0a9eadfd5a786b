//! `portsentry test-responders`

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Client, Failure, Output, offline, print};
use crate::clock::Now;
use crate::config::ResponderKind;
use crate::policy::{Ban, End, Origin, Reason};
use crate::privilege;
use crate::respond::{Error, Prepared, Responder, Responders, TEST};
use crate::source::Source;

/// It bans addresses that are set aside for documentation (RFC 5737, RFC 3849), and works beside a running daemon, which is not
/// asked.
#[derive(Args)]
pub(super) struct TestResponders {
    #[command(flatten)]
    output: Output,
}

/// How long a ban may stay where the test is killed in its middle.
const LENGTH: Duration = Duration::from_secs(60);

/// What became of one responder and one address.
#[derive(Serialize)]
struct Tested {
    responder: &'static str,
    /// Absent: it did not come to that.
    source: Option<String>,
    /// Absent: it bans, and lifts bans.
    trouble: Option<String>,
    /// From the ban to the proof that it is lifted, in milliseconds.
    millis: f64,
}

impl TestResponders {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let config = client.good_config()?;
        privilege::require(privilege::Needs::default())?;
        let guard = offline::guard(config)?;
        let banned: Vec<Source> = (client.running(config).iter())
            .filter_map(|listed| listed.source.parse().ok())
            .collect();
        let is_free = |source: &Source| {
            let covers = |ban: &Source| {
                ban.net().contains(&source.net()) || source.net().contains(&ban.net())
            };
            guard.friend(*source).is_none() && !banned.iter().any(covers)
        };
        let v4 = (1..=254).map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
        let v6 = (1..=254).map(|n| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 0, 1)));
        let first = |mut addresses: Box<dyn Iterator<Item = IpAddr>>| {
            addresses.find_map(|address| Some(guard.source_of(address)).filter(is_free))
        };
        let sources = [first(Box::new(v4)), first(Box::new(v6))];

        let mut tested = Vec::new();
        for kind in &config.ban.responders {
            match Responders::of_kinds(&[*kind], config) {
                Ok(mut opened) => opened.for_each(|responder| {
                    tested.extend(test(responder, &sources));
                }),
                Err(error) => tested.push(Tested::untested(error.responder, error.to_string())),
            }
            if *kind == ResponderKind::Command {
                let words = "not tested: what programs have done cannot be read back";
                tested.push(Tested::untested("command", words.to_owned()));
            }
        }
        self.tell(&tested)?;
        let failed = |it: &&Tested| it.trouble.is_some() && it.responder != "command";
        if tested.iter().any(|it| failed(&it)) {
            return Err(Failure {
                message: String::new(),
                status: 1,
            });
        }
        Ok(())
    }

    fn tell(&self, tested: &[Tested]) -> Result<(), Failure> {
        print(|out| {
            if self.output.json {
                serde_json::to_writer_pretty(&mut *out, tested)?;
                return writeln!(out);
            }
            for it in tested {
                let source = it.source.as_deref().unwrap_or("");
                match &it.trouble {
                    None => writeln!(
                        out,
                        "{:<12}{source:<22}banned, found, lifted, gone: {:.1} ms",
                        it.responder, it.millis
                    )?,
                    Some(trouble) => writeln!(out, "{:<12}{source:<22}{trouble}", it.responder)?,
                }
            }
            Ok(())
        })
    }
}

impl Tested {
    fn untested(responder: &'static str, trouble: String) -> Self {
        Self {
            responder,
            source: None,
            trouble: Some(trouble),
            millis: 0.0,
        }
    }
}

/// Leaves everything as it was.
fn test(responder: &mut dyn Responder, sources: &[Option<Source>]) -> Vec<Tested> {
    let name = responder.name();
    let prepared = match responder.prepare() {
        Ok(prepared) => prepared,
        Err(error) => return vec![Tested::untested(name, error.to_string())],
    };
    let mut tested: Vec<Tested> = sources
        .iter()
        .map(|source| {
            let Some(source) = *source else {
                let words = "not tested: all documentation addresses are in use here";
                return Tested::untested(name, words.to_owned());
            };
            let begun = Instant::now();
            let trouble = prove(responder, source).err();
            Tested {
                responder: name,
                source: Some(source.to_string()),
                trouble,
                millis: begun.elapsed().as_secs_f64() * 1000.0,
            }
        })
        .collect();
    if prepared == Prepared::Created {
        if let Err(error) = responder.withdraw() {
            tested.push(Tested::untested(name, error.to_string()));
        }
    }
    tested
}

/// Bans, looks, lifts, and looks again. What is banned is lifted whatever the look came to.
fn prove(responder: &mut dyn Responder, source: Source) -> Result<(), String> {
    let words = |error: Error| error.to_string();
    let now = Now::read();
    let ban = Ban {
        source,
        reason: Reason::parse(TEST),
        origin: Origin::Command,
        by: None,
        start: now.wall,
        end: Some(End::after(LENGTH, now)),
    };
    let banned = responder.ban(&[&ban], now).map_err(words);
    let found = responder.find(source).map_err(words);
    let lifted = responder.unban(&[source]).map_err(words);
    let gone = responder.find(source).map_err(words);
    banned?;
    if found?.is_none() {
        return Err("said that it is banned, and it is not there".to_owned());
    }
    lifted?;
    match gone? {
        None => Ok(()),
        Some(_) => Err("said that the ban is lifted, and it is still there".to_owned()),
    }
}
