//! On files in directories of their own.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use proptest::prelude::*;

use super::*;
use crate::clock::{Mono, Wall};
use crate::policy::{End, Origin, Reason};

const NOW: Now = Now {
    mono: Mono(1_000_000),
    wall: Wall(1_795_434_600_000),
};
const STRANGER: &str = "203.0.113.7";
const STRANGERS_LINES: &str = "# portsentry: 203.0.113.7 from 2026-11-23T11:50:00Z until 2026-11-23T12:00:00Z: \
                               syn scan, 3 tcp ports, last 23\nALL: 203.0.113.7\n";

/// A hosts.deny, its responder, and the directory they are in.
struct Bench {
    responder: HostsDeny,
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with_line("ALL: {source}")
    }

    fn with_line(line: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.deny");
        Self {
            responder: open(&path, line).unwrap(),
            path,
            dir,
        }
    }

    fn holding(text: impl AsRef<[u8]>) -> Self {
        let bench = Self::new();
        fs::write(&bench.path, text).unwrap();
        bench
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn ban(&mut self, sources: &[&str]) -> Result<(), Error> {
        let bans: Vec<Ban> = sources.iter().map(|source| ban(source)).collect();
        self.responder.ban(&bans.iter().collect::<Vec<_>>(), NOW)
    }

    fn unban(&mut self, sources: &[&str]) {
        let sources: Vec<Source> = sources.iter().map(|it| it.parse().unwrap()).collect();
        self.responder.unban(&sources).unwrap();
    }

    /// Names in the directory: nothing is to be left there.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn complaint(&mut self) -> String {
        let complaint = self.ban(&[STRANGER]).unwrap_err().to_string();
        assert_eq!(self.responder.prepare().unwrap_err().to_string(), complaint);
        complaint.replace(&self.path.display().to_string(), "FILE")
    }
}

fn open(path: &Path, line: &str) -> Result<HostsDeny, Error> {
    HostsDeny::open(&config::HostsDeny {
        file: path.to_owned(),
        line: line.to_owned(),
        optional: false,
    })
}

fn ban(source: &str) -> Ban {
    Ban {
        source: source.parse().unwrap(),
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: NOW.wall,
        end: Some(End::after(Duration::from_secs(600), NOW)),
    }
}

#[test]
fn a_ban_is_a_line_under_a_mark_that_says_why_and_until_when() {
    let mut bench = Bench::holding("sshd: .example.net\n");
    bench.ban(&[STRANGER]).unwrap();
    assert_eq!(
        bench.text(),
        format!("sshd: .example.net\n{STRANGERS_LINES}")
    );
    assert_eq!(bench.names(), ["hosts.deny"]);
}

#[test]
fn sources_are_written_as_libwrap_reads_them() {
    // Each tried with tcpdmatch: an address inside is denied, one outside granted.
    let bench = Bench::with_line("ALL: {source} : DENY");
    for (source, line) in [
        ("203.0.113.7", "ALL: 203.0.113.7 : DENY"),
        ("192.0.2.0/24", "ALL: 192.0.2.0/255.255.255.0 : DENY"),
        ("192.0.2.4/31", "ALL: 192.0.2.4/255.255.255.254 : DENY"),
        ("128.0.0.0/1", "ALL: 128.0.0.0/128.0.0.0 : DENY"),
        ("0.0.0.0/0", "ALL: 0.0.0.0/0.0.0.0 : DENY"),
        ("2001:db8::7", "ALL: [2001:db8::7] : DENY"),
        ("2001:db8::/64", "ALL: [2001:db8::]/64 : DENY"),
        ("2001:db8::/44", "ALL: [2001:db8::]/44 : DENY"),
    ] {
        assert_eq!(
            bench.responder.deed(&ban(source), NOW),
            Deed::Wrappers(line.to_owned())
        );
    }
}

#[test]
fn a_second_ban_of_a_source_brings_the_new_end_and_reason_and_no_second_line() {
    let mut bench = Bench::new();
    bench
        .ban(&["203.0.113.1", STRANGER, "203.0.113.9"])
        .unwrap();
    let longer = Ban {
        reason: Reason::parse("tired of this one"),
        end: None,
        ..ban(STRANGER)
    };
    bench.responder.ban(&[&longer, &longer], NOW).unwrap();
    let lines: Vec<String> = bench.text().lines().map(str::to_owned).collect();
    assert_eq!(
        lines[2..4],
        [
            "# portsentry: 203.0.113.7 from 2026-11-23T11:50:00Z for ever: tired of this one",
            "ALL: 203.0.113.7"
        ]
    );
    assert_eq!(lines.len(), 6);
}

#[test]
fn what_is_as_it_should_be_is_not_written_again() {
    let mut bench = Bench::new();
    bench.ban(&[STRANGER, "203.0.113.9"]).unwrap();
    let inode = fs::metadata(&bench.path).unwrap().ino();
    bench.ban(&["203.0.113.9", STRANGER]).unwrap();
    bench.unban(&["203.0.113.1"]);
    assert_eq!(fs::metadata(&bench.path).unwrap().ino(), inode);
    bench.unban(&["203.0.113.9"]);
    assert_ne!(fs::metadata(&bench.path).unwrap().ino(), inode);
}

#[test]
fn lines_of_others_stay_even_if_they_read_like_ours() {
    let theirs = "ALL: 203.0.113.7\n# portsentry: a remark\nALL: 203.0.113.70\n";
    let mut bench = Bench::holding(theirs);
    bench.ban(&[STRANGER]).unwrap();
    assert_eq!(bench.text(), format!("{theirs}{STRANGERS_LINES}"));
    bench.unban(&[STRANGER]);
    bench.unban(&[STRANGER]);
    bench.responder.unban_all().unwrap();
    assert_eq!(bench.text(), theirs);
}

#[test]
fn a_line_that_somebody_put_under_a_mark_of_ours_is_theirs() {
    let mark = STRANGERS_LINES.lines().next().unwrap();
    for under in [
        "ALL: 203.0.113.70\n",
        "# ALL: 203.0.113.7\n",
        "",
        "ALL: x\nALL: 203.0.113.7\n",
    ] {
        let mut bench = Bench::holding(format!("{mark}\n{under}"));
        assert_eq!(bench.responder.find(ban(STRANGER).source).unwrap(), None);
        bench.responder.withdraw().unwrap();
        assert_eq!(bench.text(), format!("{mark}\n{under}"));
    }
}

#[test]
fn a_line_by_an_earlier_configuration_is_replaced_and_lifted() {
    let mut bench = Bench::with_line("sshd : {source} : spawn (echo %h) & : DENY");
    bench.ban(&[STRANGER, "2001:db8::/64"]).unwrap();
    bench.responder = open(&bench.path, "ALL: {source}").unwrap();
    bench.ban(&[STRANGER]).unwrap();
    assert!(
        bench.text().starts_with(STRANGERS_LINES),
        "{}",
        bench.text()
    );
    bench.unban(&["2001:db8::/64"]);
    assert_eq!(bench.text(), STRANGERS_LINES);
}

#[test]
fn an_open_last_line_of_others_is_not_glued_to_ours() {
    for (theirs, above) in [
        (
            "ALL: 192.0.2.1",
            "\n# portsentry (the line break above, too): ",
        ),
        (
            "ALL: 192.0.2.1 \\\n",
            "\n# portsentry (the line break above, too): ",
        ),
        (
            "ALL: 192.0.2.1 \\",
            "\n\n# portsentry (two line breaks above, too): ",
        ),
    ] {
        let mut bench = Bench::holding(theirs);
        bench.ban(&["203.0.113.1"]).unwrap();
        bench.ban(&["203.0.113.2"]).unwrap();
        assert!(
            bench
                .text()
                .starts_with(&format!("{theirs}{above}203.0.113.1 ")),
            "{}",
            bench.text()
        );
        bench.unban(&["203.0.113.1"]);
        assert!(
            bench
                .text()
                .starts_with(&format!("{theirs}{above}203.0.113.2 ")),
            "{}",
            bench.text()
        );
        bench.unban(&["203.0.113.2"]);
        assert_eq!(bench.text(), theirs);
    }
}

#[test]
fn a_line_break_of_ours_stays_where_others_came_to_need_it() {
    let mut bench = Bench::holding("ALL: 192.0.2.1");
    bench.ban(&[STRANGER]).unwrap();
    fs::write(&bench.path, bench.text() + "ALL: 192.0.2.2\n").unwrap();
    bench.unban(&[STRANGER]);
    assert_eq!(bench.text(), "ALL: 192.0.2.1\nALL: 192.0.2.2\n");
}

#[test]
fn what_the_file_holds_of_ours_is_found_with_its_time() {
    let mut bench = Bench::holding("ALL: 192.0.2.1\n");
    let (now, hour) = (Now::read(), Duration::from_secs(3600));
    let made = Ban {
        start: now.wall,
        end: Some(End::after(hour, now)),
        ..ban("2001:db8::/64")
    };
    let for_ever = Ban {
        end: None,
        reason: Reason::parse(""),
        ..ban("203.0.113.1")
    };
    let over = Ban {
        start: now.wall.earlier(hour),
        end: Some(End {
            mono: Mono(0),
            wall: now.wall.earlier(Duration::from_secs(60)),
        }),
        ..ban(STRANGER)
    };
    bench
        .responder
        .ban(&[&made, &for_ever, &over], now)
        .unwrap();
    let held = bench.responder.holdings().unwrap()(&crate::source::Sources::default()).unwrap();
    assert_eq!(
        held.iter()
            .map(|held| held.source.to_string())
            .collect::<Vec<_>>(),
        ["2001:db8::/64", "203.0.113.1", STRANGER]
    );
    let clock = held[0].clock.unwrap();
    assert!((3_600_000..=3_602_000).contains(&clock.length), "{clock:?}");
    assert!(clock.left > 0 && clock.left <= clock.length, "{clock:?}");
    assert_eq!(held[0].reason.as_ref(), Some(&made.reason));
    assert_eq!((&held[1].reason, held[1].clock), (&None, None));
    assert_eq!(held[2].clock.unwrap().left, 0);
    let found = bench.responder.find(for_ever.source).unwrap();
    assert_eq!(found.as_ref(), Some(&held[1]));
    assert_eq!(
        bench.responder.find("192.0.2.1".parse().unwrap()).unwrap(),
        None
    );
}

#[test]
fn a_file_that_is_missing_is_made_readable_for_all_and_harms_nobody_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.responder.prepare().unwrap(), Prepared::Adopted);
    bench.unban(&[STRANGER]);
    bench.responder.withdraw().unwrap();
    assert!(bench.names().is_empty());
    assert_eq!(bench.responder.find(ban(STRANGER).source).unwrap(), None);
    bench.ban(&[STRANGER]).unwrap();
    assert_eq!(fs::metadata(&bench.path).unwrap().mode() & 0o7777, 0o644);
    bench.responder.withdraw().unwrap();
    assert_eq!(bench.text(), "");
}

#[test]
fn owner_mode_and_attributes_stay() {
    let mut bench = Bench::holding("ALL: 192.0.2.1\n");
    fs::set_permissions(&bench.path, Permissions::from_mode(0o640)).unwrap();
    // The tests run as root: only root gives files away.
    std::os::unix::fs::chown(&bench.path, Some(4711), Some(4712)).unwrap();
    let file = fs::File::open(&bench.path).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::fsetxattr(&file, "user.note", b"keep me", flags).unwrap();
    bench.ban(&[STRANGER]).unwrap();
    let found = fs::metadata(&bench.path).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o7777),
        (4711, 4712, 0o640)
    );
    assert_ne!(found.ino(), file.metadata().unwrap().ino());
    let mut value = [0_u8; 16];
    let length = rustix::fs::getxattr(&bench.path, "user.note", &mut value).unwrap();
    assert_eq!(&value[..length], b"keep me");
    let complaint = bench.responder.prepare().unwrap_err().to_string();
    assert!(complaint.contains("belongs to uid 4711"), "{complaint}");
    assert!(complaint.contains("chown 0:0 "), "{complaint}");
    std::os::unix::fs::chown(&bench.path, Some(0), None).unwrap();
    let complaint = bench.responder.prepare().unwrap_err().to_string();
    assert!(complaint.contains("gid 4712"), "{complaint}");
}

#[test]
fn what_is_no_file_to_edit_is_refused_with_a_remedy() {
    let mut bench = Bench::new();
    let other = bench.dir.path().join("elsewhere");
    fs::write(&other, "theirs").unwrap();
    symlink(&other, &bench.path).unwrap();
    assert_eq!(
        bench.complaint(),
        "hosts-deny: cannot open FILE: it is a symbolic link: put the path of the file itself in hosts-deny.file"
    );
    fs::remove_file(&bench.path).unwrap();

    fs::hard_link(&other, &bench.path).unwrap();
    assert!(bench.complaint().contains("hard links"));
    fs::remove_file(&bench.path).unwrap();
    assert_eq!(fs::read(&other).unwrap(), b"theirs");

    nix::unistd::mkfifo(&bench.path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(
        bench.complaint(),
        "hosts-deny: FILE is not a regular file: correct hosts-deny.file"
    );
    let kind = fs::symlink_metadata(&bench.path).unwrap().file_type();
    assert!(kind.is_fifo());
    fs::remove_file(&bench.path).unwrap();

    fs::write(&bench.path, "").unwrap();
    fs::set_permissions(&bench.path, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(
        bench.complaint(),
        "hosts-deny: FILE may be written to by everybody: chmod o-w FILE"
    );
    fs::remove_file(&bench.path).unwrap();

    fs::set_permissions(bench.dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let complaint = bench.responder.prepare().unwrap_err().to_string();
    assert!(complaint.contains("put another"), "{complaint}");
}

#[test]
fn what_lies_in_the_way_of_the_new_text_is_not_written_to() {
    let mut bench = Bench::holding("ALL: 192.0.2.1\n");
    let victim = bench.dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let new = bench.dir.path().join(".hosts.deny.portsentry");
    symlink(&victim, &new).unwrap();
    assert!(bench.ban(&[STRANGER]).is_err());
    fs::remove_file(&new).unwrap();
    fs::hard_link(&victim, &new).unwrap();
    let complaint = bench.ban(&[STRANGER]).unwrap_err().to_string();
    assert!(
        complaint.ends_with("is none of ours: remove it"),
        "{complaint}"
    );
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(bench.text(), "ALL: 192.0.2.1\n");
}

#[test]
fn what_a_crash_left_is_in_nobodys_way() {
    let mut bench = Bench::new();
    let new = bench.dir.path().join(".hosts.deny.portsentry");
    fs::write(&new, "half a text, longer than what is to come".repeat(100)).unwrap();
    bench.ban(&[STRANGER]).unwrap();
    assert_eq!(bench.text(), STRANGERS_LINES);
    assert_eq!(bench.names(), ["hosts.deny"]);
}

#[test]
fn one_of_us_edits_at_a_time() {
    let mut bench = Bench::holding("ALL: 192.0.2.1\n");
    let new = fs::File::create(bench.dir.path().join(".hosts.deny.portsentry")).unwrap();
    let lock = Flock::lock(new, FlockArg::LockExclusiveNonblock).unwrap();
    let complaint = bench.ban(&[STRANGER]).unwrap_err().to_string();
    assert!(
        complaint.ends_with("somebody else keeps editing it"),
        "{complaint}"
    );
    assert_eq!(bench.text(), "ALL: 192.0.2.1\n");
    drop(lock);
    bench.ban(&[STRANGER]).unwrap();
}

#[test]
fn an_edit_of_somebody_else_meanwhile_is_kept() {
    let bench = Bench::holding("ALL: 192.0.2.1\n");
    let mut edits = ["ALL: 192.0.2.2\n", "ALL: 192.0.2.3\n"].into_iter();
    let mut rounds = 0;
    bench
        .responder
        .edit(|text| {
            rounds += 1;
            if let Some(theirs) = edits.next() {
                fs::write(&bench.path, theirs).unwrap();
            }
            text.put(&[&ban(STRANGER)], &bench.responder.template, RULES.limit);
        })
        .unwrap();
    assert_eq!(rounds, 3);
    assert_eq!(bench.text(), format!("ALL: 192.0.2.3\n{STRANGERS_LINES}"));
    assert_eq!(bench.names(), ["hosts.deny"]);
}

#[test]
fn a_file_too_big_to_read_for_every_connection_is_left_alone() {
    let mut bench = Bench::new();
    fs::File::create(&bench.path)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    assert!(bench.complaint().contains("would have more than 4 MiB"));
    let one_line = "x".repeat(1 << 20);
    fs::write(&bench.path, &one_line).unwrap();
    bench.ban(&[STRANGER]).unwrap();
    bench.unban(&[STRANGER]);
    assert!(bench.text() == one_line);
}

#[test]
fn bans_beyond_the_bound_are_named_and_the_others_hold() {
    let mut bench = Bench::holding([&vec![b'x'; RULES.limit - 200][..], b"\n"].concat());
    let error = bench.ban(&["203.0.113.1", "203.0.113.2"]).unwrap_err();
    let second: Source = "203.0.113.2".parse().unwrap();
    assert_eq!((error.full, error.sources), (true, vec![second]));
    assert!(
        error.message.starts_with("cannot ban 1 of 2: "),
        "{}",
        error.message
    );
    assert!(
        bench
            .responder
            .find("203.0.113.1".parse().unwrap())
            .unwrap()
            .is_some()
    );
    assert!(fs::metadata(&bench.path).unwrap().len() <= u64::try_from(RULES.limit).unwrap());
    bench.ban(&["203.0.113.1"]).unwrap();
}

#[test]
fn lines_that_could_not_ban_or_not_be_recognised_are_refused() {
    for line in [
        "ALL: everybody",
        "# {source}",
        "ALL: {source}\nALL: ALL",
        "ALL: {source} \\",
        &"{source} ".repeat(100),
    ] {
        assert!(open(Path::new("/etc/hosts.deny"), line).is_err(), "{line}");
    }
    assert!(open(Path::new("hosts.deny"), "ALL: {source}").is_err());
    assert!(open(Path::new("/"), "ALL: {source}").is_err());
}

/// Lines as they may stand in a hosts.deny that we have never been in, and in one that we have.
fn a_file() -> impl Strategy<Value = Vec<u8>> {
    let mark = STRANGERS_LINES.lines().next().unwrap();
    let line = prop_oneof![
        Just(STRANGERS_LINES.as_bytes().to_vec()),
        Just(format!("{mark}\n").into_bytes()),
        Just(b"ALL: 203.0.113.7\n".to_vec()),
        Just(b"ALL: 192.0.2.9\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"ALL: x \\\n".to_vec()),
        Just(b"# portsentry (the line break above, too): ".to_vec()),
        Just(b"# portsentry: ".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(line, 0..8).prop_map(|lines| lines.concat())
}

proptest! {
    #[test]
    fn whatever_the_file_holds_ban_and_unban_give_the_same_bytes(before in a_file(), more in a_file()) {
        let template = Template::new("ALL: {source}").unwrap();
        // Our own last line may lack its line break: that it gets.
        let unended = STRANGERS_LINES.trim_end().as_bytes();
        prop_assume!(!before.ends_with(unended) && !more.ends_with(unended));
        let (first, second) = (ban("192.0.2.9"), ban("2001:db8::/64"));
        let edit = |bytes: &[u8], put: &[&Ban], take: &[&Ban]| {
            let mut text = Text::parse(bytes, &template);
            text.put(put, &template, usize::MAX);
            text.take(&take.iter().map(|ban| ban.source).collect());
            text.to_bytes()
        };
        let text = before.escape_ascii();
        prop_assert!(edit(&before, &[], &[]) == before, "{text}");
        let one = edit(&before, &[&first], &[]);
        prop_assert!(edit(&one, &[], &[&first]) == before, "{text}");
        let both = edit(&one, &[&second], &[]);
        prop_assert!(edit(&both, &[], &[&first, &second]) == before, "{text}");
        let other = edit(&both, &[], &[&first]);
        prop_assert!(edit(&other, &[], &[&second]) == before, "{text}");
        // What somebody appends is kept, and stays a line of its own.
        if Text::parse(&more, &template).marks().next().is_some() {
            return Ok(());
        }
        let appended = [&one[..], &more[..]].concat();
        let after = edit(&appended, &[], &[&first]);
        let is_kept = after.starts_with(&before) && after.ends_with(&more);
        prop_assert!(is_kept, "{}\n=>\n{}", appended.escape_ascii(), after.escape_ascii());
    }
}
