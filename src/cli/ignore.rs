//! `portsentry ignore`: who is never banned, as the ignore files say.
//!
//! The files are edited here; a daemon is asked to read them, so that an edit is in force when the command ends.

use std::path::PathBuf;

use clap::Subcommand;
use ipnet::IpNet;
use serde::Serialize;

use super::{Asked, Client, Failure, Output, ago, print, say, unban};
use crate::clock::Now;
use crate::config::ignore::{self, HostName, IgnoreList, Place, Syntax, Whom};
use crate::config::{Complaints, Config, Ignore as Ignored, IgnoreFile};
use crate::control::{Lifted, Line, Listed, Named, Request};
use crate::rewrite::{Rules, SharedFile};
use crate::source::Source;

#[derive(Subcommand)]
pub(super) enum Ignore {
    /// Never ban an address, a prefix, or whoever has a name, again, and lift its ban
    Add {
        /// An address, a prefix such as 2001:db8::/64, or a name such as office.example.net
        #[arg(value_name = "ADDRESS|PREFIX|NAME", value_parser = Whom::parse)]
        whom: Whom,
        /// What to write behind it
        #[arg(long, value_name = "TEXT", value_parser = remark)]
        remark: Option<String>,
    },
    /// Take an address, a prefix or a name out of the ignore files
    Remove {
        /// As it was added
        #[arg(value_name = "ADDRESS|PREFIX|NAME", value_parser = Whom::parse)]
        whom: Whom,
    },
    /// List who is ignored, and where that is written
    List(Output),
}

/// An ignore file is short, and whoever typed this can wait for another editor.
const RULES: Rules = Rules {
    key: "ignore.files",
    // As many as are read.
    limit: 16 << 20,
    tries: 300,
};

impl Ignore {
    pub(super) fn run(&self, client: &Client) -> Result<(), Failure> {
        let config = client.good_config()?;
        match self {
            Self::Add { whom, remark } => {
                let bans = match whom {
                    Whom::Net(net) => bans_of(client, config, *net),
                    Whom::Name(_) => Vec::new(),
                };
                let paths = add(&config.ignore, whom, remark.as_deref())?;
                if take_effect(client, &paths)? {
                    if let Whom::Name(name) = whom {
                        say(&format!(
                            "where {name} leads to is being looked up: portsentry ignore list tells"
                        ));
                    }
                    return tell_lifted(client, bans);
                }
                for Listed { source, .. } in bans {
                    say(&format!(
                        "{source} is banned until then; this lifts it now: portsentry unban {source}"
                    ));
                }
                Ok(())
            }
            Self::Remove { whom } => {
                let paths = remove(&config.ignore, whom)?;
                take_effect(client, &paths).map(drop)
            }
            Self::List(output) => {
                let ignored = read(&config.ignore)?;
                let known = match ignored.names().is_empty() {
                    true => Vec::new(),
                    false => known_names(client)?,
                };
                list(&ignored, &known, *output)
            }
        }
    }
}

/// Writes `whom` into the file for additions, unless it is ignored already. The file that says so now.
fn add(ignored: &Ignored, whom: &Whom, remark: Option<&str>) -> Result<Vec<PathBuf>, Failure> {
    let Some(file) = ignored.editable() else {
        return Err(Failure::from(
            "ignore.files names no file to write into; name one".to_owned(),
        ));
    };
    if matches!(whom, Whom::Name(_)) && file.syntax == Syntax::Legacy {
        return Err(Failure::from(format!(
            "{} is read as portsentry 1.2 read it, where names mean nothing; name a file for them in ignore.files",
            file.path.display()
        )));
    }
    let word = word(whom);
    if let Some((by, place)) = said_by(&read(&without_demands(ignored))?, whom) {
        print(|out| writeln!(out, "{word} is ignored already by {by}"))?;
        return Ok(match place {
            Place::Line { file, .. } => vec![file.to_path_buf()],
            Place::Addresses => Vec::new(),
        });
    }
    let line = match remark.filter(|it| !it.is_empty()) {
        Some(remark) => format!("{word}  # {remark}"),
        None => word.clone(),
    };
    let mut number = 0;
    SharedFile::behind_links(&file.path, RULES)?.edit(|text| {
        let (text, at) = with_line(text, &line);
        number = at;
        text
    })?;
    let place = place(file, number);
    print(|out| writeln!(out, "{word} is ignored by {place}"))?;
    Ok(vec![file.path.clone()])
}

/// As it is written: an address without the length of its prefix.
fn word(whom: &Whom) -> String {
    match whom {
        Whom::Net(net) => Source::from(*net).to_string(),
        Whom::Name(name) => name.to_string(),
    }
}

/// What has all of `whom` ignored, in words, and where that is written.
fn said_by(list: &IgnoreList, whom: &Whom) -> Option<(String, Place)> {
    match whom {
        Whom::Net(net) => {
            let entry = list.covering(*net)?;
            let is_same = entry.net == *net;
            let words = if is_same {
                entry.place.to_string()
            } else {
                entry.to_string()
            };
            Some((words, entry.place.clone()))
        }
        Whom::Name(name) => {
            let place = list.names().get(name)?;
            Some((place.to_string(), place.clone()))
        }
    }
}

/// Takes every line that names exactly `whom` out of every file. The files that had some.
fn remove(ignored: &Ignored, whom: &Whom) -> Result<Vec<PathBuf>, Failure> {
    let lax = without_demands(ignored);
    // With mistakes in a file, the daemon would not take the others' changes either.
    read(&lax)?;
    let word = word(whom);
    let mut edited = Vec::new();
    for file in ignored.files.iter().filter(|file| file.path.exists()) {
        let mut numbers = Vec::new();
        SharedFile::behind_links(&file.path, RULES)?.edit(|text| {
            let (text, found) = without(text, file.syntax, whom);
            numbers = found;
            text
        })?;
        if numbers.is_empty() {
            continue;
        }
        edited.push(file.path.clone());
        print(|out| {
            numbers
                .iter()
                .try_for_each(|&line| writeln!(out, "{word} is taken out of {}", place(file, line)))
        })?;
    }
    if edited.is_empty() {
        print(|out| writeln!(out, "{word} stands in no ignore file"))?;
    }
    if let Some((by, _)) = said_by(&ignore::read(&lax)?.0, whom) {
        print(|out| writeln!(out, "{word} is still ignored by {by}"))?;
    }
    Ok(edited)
}

/// Has the daemon read the files. Whether there is one.
fn take_effect(client: &Client, paths: &[PathBuf]) -> Result<bool, Failure> {
    let mut files = Vec::new();
    let asked = client
        .ask(&Request::ReadIgnore, |line| {
            if let Line::IgnoreRead(read) = line {
                files = read.files;
            }
            Ok(())
        })
        .map_err(|error| {
            Failure::from(format!("whether this is in force is not known: {error}"))
        })?;
    match asked {
        Asked::Done => {}
        Asked::Failed(why) => {
            return Err(Failure::from(format!(
                "the daemon keeps its last good list:\n{why}"
            )));
        }
        Asked::CutOff(why) => {
            return Err(Failure::from(format!(
                "whether this is in force is not known: {why}"
            )));
        }
        Asked::NoDaemon(_) => {
            say("no daemon is running: its next start reads this");
            return Ok(false);
        }
    }
    let mut names = paths.iter().map(|path| path.display().to_string());
    match names.find(|name| !files.contains(name)) {
        None => Ok(true),
        Some(name) => Err(Failure::from(format!(
            "the daemon runs with an older configuration, which does not name {name}: portsentry reload has it read that"
        ))),
    }
}

/// The bans that `net` shares addresses with, by the daemon or else by history.
fn bans_of(client: &Client, config: &Config, net: IpNet) -> Vec<Listed> {
    let mut bans = client.running(config);
    bans.retain(|ban| {
        let source = ban.source.parse().map(Source::net);
        source.is_ok_and(|it| it.contains(&net) || net.contains(&it))
    });
    bans
}

/// The daemon has lifted these by now; it is asked to all the same, so that a failure is told.
fn tell_lifted(client: &Client, bans: Vec<Listed>) -> Result<(), Failure> {
    if bans.is_empty() {
        return Ok(());
    }
    let sources = bans.iter().map(|ban| ban.source.clone()).collect();
    if let Asked::Failed(why) = client.ask(&Request::Unban { sources }, |_| Ok(()))? {
        return Err(Failure::from(why));
    }
    let now = Now::read();
    print(|out| {
        bans.into_iter().try_for_each(|ban| {
            let lifted = Lifted {
                asked: None,
                source: Some(ban.source.clone()),
                ban: Some(ban),
                within: 0,
                stands: false,
            };
            writeln!(out, "{}", unban::sentence(&lifted, now))
        })
    })
}

/// The list, with what is passed over told.
fn read(ignored: &Ignored) -> Result<IgnoreList, Complaints> {
    let (list, warnings) = ignore::read(ignored)?;
    if !warnings.is_empty() {
        say(&format!("in the ignore files:\n{warnings}"));
    }
    Ok(list)
}

/// The same files, none of which must exist: one that does not is made here.
fn without_demands(ignored: &Ignored) -> Ignored {
    let mut lax = ignored.clone();
    lax.files.iter_mut().for_each(|file| file.named = false);
    lax
}

fn place(file: &IgnoreFile, line: usize) -> Place {
    Place::Line {
        file: file.path.as_path().into(),
        line,
    }
}

/// `text` and one line more, and the number of that line.
fn with_line(text: &[u8], line: &str) -> (Vec<u8>, usize) {
    let mut new = text.to_vec();
    if new.last().is_some_and(|&byte| byte != b'\n') {
        new.push(b'\n');
    }
    let number = 1 + new.iter().filter(|&&byte| byte == b'\n').count();
    new.extend_from_slice(line.as_bytes());
    new.push(b'\n');
    (new, number)
}

/// `text` without the lines that name exactly `whom`, and their numbers.
fn without(text: &[u8], syntax: Syntax, whom: &Whom) -> (Vec<u8>, Vec<usize>) {
    let mut kept = Vec::with_capacity(text.len());
    let mut numbers = Vec::new();
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let words = String::from_utf8_lossy(line);
        let named = syntax.names(words.trim_start_matches('\u{feff}'));
        if named.as_ref() == Some(whom) {
            numbers.push(index + 1);
        } else {
            kept.extend_from_slice(line);
        }
    }
    (kept, numbers)
}

fn remark(text: &str) -> Result<String, String> {
    if text.contains(char::is_control) {
        return Err("a remark is one line of text".to_owned());
    }
    Ok(text.trim().to_owned())
}

/// An entry as JSON.
#[derive(Serialize)]
struct Row {
    source: String,
    /// Where it is written: a line of a file, or a key of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
    /// Where a name leads to; absent: this is none, or no daemon has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<String>>,
    /// Why a name cannot be looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl Row {
    fn of(source: String, place: &Place) -> Self {
        let (file, line, key) = match place {
            Place::Line { file, line } => (Some(file.display().to_string()), Some(*line), None),
            Place::Addresses => (None, None, Some("ignore.addresses")),
        };
        Self {
            source,
            file,
            line,
            key,
            addresses: None,
            trouble: None,
        }
    }
}

/// The names that the daemon goes by; none without one.
fn known_names(client: &Client) -> Result<Vec<Named>, Failure> {
    let mut names = Vec::new();
    let asked = client.ask(&Request::IgnoredNames, |line| {
        if let Line::Named(named) = line {
            names.push(named);
        }
        Ok(())
    })?;
    match asked {
        Asked::Done => {}
        Asked::Failed(why) => return Err(Failure::from(why)),
        Asked::CutOff(why) => say(&format!("{why}: where names lead to is not told")),
        Asked::NoDaemon(_) => say("no daemon is running: where names lead to is not told"),
    }
    Ok(names)
}

/// Where a name leads to, in words.
pub(super) fn whereabouts(named: &Named, now: Now) -> String {
    let addresses = match (named.addresses.as_slice(), named.found_at) {
        ([], _) => "leads to no address that is known".to_owned(),
        (addresses, None) => format!("was {} before the daemon's start", addresses.join(", ")),
        (addresses, Some(at)) => format!("is {}, found {}", addresses.join(", "), ago(at, now)),
    };
    match &named.failure {
        None if named.found_at.is_none() => format!("{addresses}; being looked up"),
        None => addresses,
        Some(cause) => format!("{addresses}; cannot be looked up: {cause}"),
    }
}

fn list(list: &IgnoreList, known: &[Named], output: Output) -> Result<(), Failure> {
    let known = |name: &HostName| known.iter().find(|it| it.name == name.as_str());
    print(|out| {
        if output.json {
            let nets = list.iter();
            let nets = nets.map(|it| Row::of(Source::from(it.net).to_string(), &it.place));
            let names = list.names().iter().map(|(name, place)| Row {
                addresses: known(name).map(|it| it.addresses.clone()),
                trouble: known(name).and_then(|it| it.failure.clone()),
                ..Row::of(name.to_string(), place)
            });
            let rows: Vec<Row> = nets.chain(names).collect();
            serde_json::to_writer_pretty(&mut *out, &rows)?;
            return writeln!(out);
        }
        if list.is_empty() {
            return writeln!(out, "nobody is ignored");
        }
        writeln!(out, "{:<43}  WRITTEN IN", "SOURCE")?;
        list.iter().try_for_each(|entry| {
            let source = Source::from(entry.net).to_string();
            writeln!(out, "{source:<43}  {}", entry.place)
        })?;
        list.names().iter().try_for_each(|(name, place)| {
            writeln!(out, "{:<43}  {place}", name.to_string())?;
            known(name).map_or(Ok(()), |named| {
                writeln!(out, "  {}", whereabouts(named, Now::read()))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(text: &str, syntax: Syntax, whom: &str) -> (String, Vec<usize>) {
        let (kept, numbers) = without(text.as_bytes(), syntax, &Whom::parse(whom).unwrap());
        (String::from_utf8(kept).unwrap(), numbers)
    }

    #[test]
    fn a_line_goes_to_the_end_and_on_a_line_of_its_own() {
        for (text, new, number) in [
            ("", "192.0.2.7\n", 1),
            ("# mine\n", "# mine\n192.0.2.7\n", 2),
            ("# mine\n\n10.0.0.1", "# mine\n\n10.0.0.1\n192.0.2.7\n", 4),
        ] {
            let (found, line) = with_line(text.as_bytes(), "192.0.2.7");
            assert_eq!((found.as_slice(), line), (new.as_bytes(), number));
        }
    }

    #[test]
    fn exactly_the_lines_that_name_a_prefix_are_taken_out() {
        let text =
            "# 192.0.2.7\n192.0.2.7 # a\n192.0.2.70\n192.0.2.7/24\r\n\n 192.0.2.7/32\n192.0.2.7";
        let (kept, numbers) = cut(text, Syntax::Ours, "192.0.2.7/32");
        assert_eq!(kept, "# 192.0.2.7\n192.0.2.70\n192.0.2.7/24\r\n\n");
        assert_eq!(numbers, [2, 6, 7]);
        let (kept, numbers) = cut(text, Syntax::Ours, "192.0.2.0/24");
        assert_eq!(kept, text.replace("192.0.2.7/24\r\n", ""));
        assert_eq!(numbers, [4]);
        let (kept, numbers) = cut(
            "10.9.2 x\nsome words\n10.9.2.0",
            Syntax::Legacy,
            "10.9.0.2/32",
        );
        assert_eq!((kept.as_str(), numbers), ("some words\n10.9.2.0", vec![1]));
        assert_eq!(
            cut("\u{feff}192.0.2.7\n", Syntax::Ours, "192.0.2.7/32").1,
            [1]
        );
    }

    #[test]
    fn an_addition_goes_where_debian_s_scripts_for_1_2_keep_it_and_a_removal_finds_their_copy_too()
    {
        let dir = tempfile::tempdir().unwrap();
        let [main, fixed] =
            ["portsentry.ignore", "portsentry.ignore.static"].map(|name| dir.path().join(name));
        let file = |path: &PathBuf| IgnoreFile {
            path: path.clone(),
            named: path == &main,
            syntax: Syntax::Legacy,
        };
        let ignored = Ignored {
            files: vec![file(&main), file(&fixed)],
            addresses: Vec::new(),
            host: std::collections::BTreeSet::new(),
            refresh: std::time::Duration::ZERO,
        };
        let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
        let net = |text| Whom::parse(text).unwrap();
        std::fs::write(&main, "# made\n127.0.0.1\nwhat is this\n10.9.2 # copy\n").unwrap();
        std::fs::write(&fixed, "0.0.0.0\n10.9.2 # copy").unwrap();

        let added = |whom: &Whom, remark| add(&ignored, whom, remark).unwrap_or_default().pop();
        let seven = net("192.0.2.7");
        assert_eq!(added(&seven, Some("x")).as_ref(), Some(&fixed));
        assert!(add(&ignored, &net("office.example.net"), None).is_err());
        assert_eq!(text(&fixed), "0.0.0.0\n10.9.2 # copy\n192.0.2.7  # x\n");
        assert_eq!(added(&net("127.0.0.1"), None).as_ref(), Some(&main));
        let both = [main.clone(), fixed.clone()];
        assert_eq!(remove(&ignored, &net("10.9.0.2")).unwrap_or_default(), both);
        assert_eq!(text(&main), "# made\n127.0.0.1\nwhat is this\n");
        assert_eq!(text(&fixed), "0.0.0.0\n192.0.2.7  # x\n");

        std::fs::remove_file(&fixed).unwrap();
        assert_eq!(added(&seven, None).as_ref(), Some(&main));
        assert_eq!(text(&main), "# made\n127.0.0.1\nwhat is this\n192.0.2.7\n");
    }

    proptest! {
        #[test]
        fn what_is_added_is_found_and_can_be_taken_out_again(
            text in prop::collection::vec(any::<u8>(), 0..200),
            address in any::<[u8; 4]>(),
            remark in "[^\\p{Cc}]{0,20}",
        ) {
            let net = IpNet::from(std::net::IpAddr::from(address));
            let whom = Whom::Net(net);
            for syntax in [Syntax::Ours, Syntax::Legacy] {
                let (clean, _) = without(&text, syntax, &whom);
                let line = format!("{}  # {remark}", Source::from(net));
                let (with, number) = with_line(&clean, &line);
                let (after, numbers) = without(&with, syntax, &whom);
                prop_assert_eq!(numbers, [number]);
                prop_assert!(after.starts_with(&clean));
            }
        }
    }
}
