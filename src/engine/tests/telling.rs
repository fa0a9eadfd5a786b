//! What is told of a scan, to people and to the admin's programs.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::*;
use crate::config::{CommandLine, When};
use crate::respond::command::{Ended, Job};

const SEEN: &str =
    "attackalert: TCP SYN/Normal scan from host: 203.0.113.7/203.0.113.7 to TCP port: 3";
const BLOCKED: &str = "attackalert: Host 203.0.113.7 has been blocked via dropped route using command: \"fake add 203.0.113.7\"";
const AGAIN: &str = "attackalert: Host: 203.0.113.7/203.0.113.7 is already blocked Ignoring";
const RUN: &str =
    "attackalert: External command run for host: 203.0.113.7 using command: \"notify\"";

/// The lines that `act` has logged.
fn logged(act: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let lines = Arc::clone(&log.0);
    // A line that another test comes to at the same time, where nobody listens, would be taken for one that nobody ever wants.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(log), act);
    std::mem::take(&mut *lines.lock().unwrap())
}

#[derive(Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut words = Words(String::new());
        event.record(&mut words);
        self.0.lock().unwrap().push(words.0);
    }
}

struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").unwrap();
        }
    }
}

fn bench(change: impl FnOnce(&mut Config)) -> Bench {
    let mut config = Config::default();
    change(&mut config);
    Bench::of(config)
}

fn program() -> Option<CommandLine> {
    Some(CommandLine::Argv(vec!["notify".to_owned()]))
}

/// With a program beside the responder, or alone.
fn with_program(responders: &[ResponderKind], change: impl FnOnce(&mut Config)) -> Bench {
    bench(|config| {
        config.ban.responders = responders.to_vec();
        change(config);
    })
}

/// The one program that is to be run.
fn job(bench: &mut Bench) -> Job {
    match bench.engine.take_errands().as_slice() {
        [Errand::Run(job)] => job.clone(),
        other => panic!("{other:?}"),
    }
}

fn end(bench: &mut Bench, job: &Job, trouble: Option<&str>) {
    let ended = Ended {
        id: job.id,
        command: "notify".to_owned(),
        trouble: trouble.map(str::to_owned),
    };
    bench.engine.ended(&ended, NOW);
}

#[test]
fn a_scan_and_its_ban_are_told_in_the_words_of_1_2() {
    let mut bench = bench(|_| {});
    let lines = logged(|| bench.probes(STRANGER, &[1, 2, 3, 4], NOW));
    assert_eq!(lines, [SEEN, BLOCKED]);
    assert_eq!(
        bench.lines(),
        ["203.0.113.7/203.0.113.7 Port: 3 TCP Blocked"]
    );
}

#[test]
fn a_ban_that_fails_is_not_told_as_one() {
    let mut bench = bench(|_| {});
    bench.world.borrow_mut().broken = true;
    let lines = logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW));
    assert_eq!(
        lines[..2],
        [
            SEEN,
            "attackalert: ERROR: Could not block host 203.0.113.7/203.0.113.7!!"
        ]
    );
    assert!(lines[2].contains("out of order"), "{lines:?}");
    assert!(bench.lines().is_empty());
}

#[test]
fn a_ban_that_holds_at_the_second_try_is_told_then() {
    let mut bench = bench(|_| {});
    bench.world.borrow_mut().broken = true;
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.world.borrow_mut().broken = false;
    let lines = logged(|| bench.engine.tick(after(1)));
    assert_eq!(lines[0], BLOCKED);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].ends_with("agree again"), "{lines:?}");
    assert_eq!(
        bench.lines(),
        ["203.0.113.7/203.0.113.7 Port: 3 TCP Blocked"]
    );
}

#[test]
fn of_two_responders_that_ban_both_are_told_and_the_text_file_has_one_line() {
    let both = "attackalert: Host 203.0.113.7 has been blocked via";
    for file_is_late in [false, true] {
        let mut bench = Bench::with_file("");
        bench.file.borrow_mut().broken = file_is_late;
        let mut lines = logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW));
        bench.file.borrow_mut().broken = false;
        lines.extend(logged(|| bench.engine.tick(after(1))));
        let told = lines.iter().filter(|line| line.starts_with(both)).count();
        assert_eq!(told, 2, "{lines:?}");
        let is_error = |line: &&String| line.contains("Could not block");
        assert_eq!(lines.iter().find(is_error), None, "one of them has banned");
        assert_eq!(bench.lines().len(), 1);
    }
}

#[test]
fn where_scans_are_only_logged_the_text_file_has_its_line_all_the_same() {
    let mut bench = bench(|config| config.tcp.response = config::Response::Log);
    let lines = logged(|| bench.probes(STRANGER, &[1, 2, 3, 4], NOW));
    let let_be = "attackalert: Ignoring TCP response per configuration file setting.";
    assert_eq!(lines, [SEEN, let_be]);
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn repeats_are_told_where_that_is_wanted_and_not_without_bound() {
    for response in [config::Response::Ban, config::Response::Log] {
        let mut bench = bench(|config| {
            config.tcp.response = response;
            config.log.repeats = true;
        });
        bench.probes(STRANGER, &[1, 2, 3], NOW);
        let lines = logged(|| bench.probes(STRANGER, &[3], NOW));
        assert_eq!(lines, [SEEN, AGAIN]);
        let ports: Vec<u16> = (100..200).collect();
        let lines = logged(|| bench.probes(STRANGER, &ports, after(1)));
        assert_eq!(lines.len(), 40);
        assert_eq!(logged(|| bench.probes(STRANGER, &[3], after(2))).len(), 2);
    }
}

#[test]
fn a_flood_of_scanners_does_not_flood_the_log_and_is_recorded_whole() {
    let mut bench = bench(|config| config.detect.trigger = 1);
    let lines = logged(|| {
        for n in 1..=250 {
            bench.probes(&format!("203.0.113.{n}"), &[3], NOW);
        }
    });
    assert_eq!(lines.len(), 2 * 100);
    assert_eq!(bench.engine.next_deadline(), Some(after(1).mono));
    let lines = logged(|| bench.engine.tick(after(1)));
    assert_eq!(
        lines,
        ["… and 150 more alarms within a second: history has them all"]
    );
    assert_eq!(logged(|| bench.engine.tick(after(2))), Vec::<String>::new());
    assert_eq!(bench.lines().len(), 250);
}

#[test]
fn a_name_is_waited_for_but_not_for_long() {
    let mut bench = bench(|config| config.history.resolve = true);
    let lines = logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW));
    assert!(lines.is_empty(), "{lines:?}");
    assert_eq!(bench.held(), [STRANGER], "the ban does not wait");
    let address = STRANGER.parse().unwrap();
    assert_eq!(bench.engine.take_errands(), [Errand::Name(address)]);
    let lines = logged(|| bench.engine.named(address, Some("scan.example"), NOW));
    assert_eq!(lines[0], SEEN.replace("203.0.113.7/", "scan.example/"));
    assert_eq!(lines[1], BLOCKED);

    let slow = "203.0.113.8";
    bench.probes(slow, &[1, 2, 3], NOW);
    assert!(logged(|| bench.engine.tick(after(2))).is_empty());
    assert_eq!(bench.engine.next_deadline(), Some(after(3).mono));
    assert_eq!(logged(|| bench.engine.tick(after(3))).len(), 2);
    let late = logged(|| {
        bench
            .engine
            .named(slow.parse().unwrap(), Some("late"), after(4))
    });
    assert!(late.is_empty(), "{late:?}");
    bench.probes("203.0.113.9", &[1, 2, 3], NOW);
    assert_eq!(
        bench.lines(),
        [
            "scan.example/203.0.113.7 Port: 3 TCP Blocked",
            "203.0.113.8/203.0.113.8 Port: 3 TCP Blocked",
            "203.0.113.9/203.0.113.9 Port: 3 TCP Blocked",
        ]
    );
}

#[test]
fn a_program_is_told_after_the_ban() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| config.command.run = program());
    let lines = logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW));
    assert_eq!(lines, [SEEN, BLOCKED]);
    let job = job(&mut bench);
    assert_eq!(
        (job.source.to_string(), job.port, job.mode.unwrap().name()),
        (STRANGER.to_owned(), 3, "atcp")
    );
    assert_eq!(logged(|| end(&mut bench, &job, None)), [RUN]);
    assert_eq!(
        logged(|| end(&mut bench, &job, None)),
        Vec::<String>::new(),
        "it ends once"
    );
}

#[test]
fn a_program_that_comes_first_is_waited_for() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    for trouble in [None, Some("exit status 3")] {
        let mut bench = with_program(&both, |config| {
            config.command.run = program();
            config.command.when = When::Before;
        });
        assert_eq!(logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW)), [SEEN]);
        assert!(bench.held().is_empty());
        assert_eq!(bench.engine.enforced(), 0);
        let job = job(&mut bench);
        bench.probes(STRANGER, &[4, 5, 6], NOW);
        assert!(bench.engine.take_errands().is_empty(), "one scan, one run");
        let lines = logged(|| end(&mut bench, &job, trouble));
        assert_eq!(lines.last().unwrap(), BLOCKED);
        assert_eq!(lines[0] == RUN, trouble.is_none(), "{lines:?}");
        assert_eq!(bench.held(), [STRANGER]);
        assert_eq!(bench.engine.enforced(), 1);
    }
}

#[test]
fn a_stop_bans_whom_a_program_still_held_back() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| {
        config.command.run = program();
        config.command.when = When::Before;
    });
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let world = Rc::clone(&bench.world);
    assert_eq!(bench.past(), [(STRANGER.to_owned(), None)]);
    assert_eq!(world.borrow().held.len(), 1);
}

#[test]
fn who_is_unbanned_while_a_program_runs_stays_unbanned() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| {
        config.command.run = program();
        config.command.when = When::Before;
    });
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let job = job(&mut bench);
    bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    end(&mut bench, &job, None);
    assert!(bench.held().is_empty());
}

#[test]
fn what_a_program_alone_bans_is_a_ban_when_it_says_so() {
    let mut bench = with_program(&[ResponderKind::Command], |config| {
        config.command.ban = program();
    });
    assert_eq!(logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW)), [SEEN]);
    let first = job(&mut bench);
    let lines = logged(|| end(&mut bench, &first, Some("exit status 1")));
    assert_eq!(
        lines[0],
        "adminalert: ERROR: There was an error trying to block host (system fail) 203.0.113.7"
    );
    assert!(lines[1].ends_with("notify: exit status 1"), "{lines:?}");
    assert_eq!(
        lines[2],
        "attackalert: ERROR: Could not block host 203.0.113.7/203.0.113.7!!"
    );
    assert!(bench.engine.bans().is_empty());

    bench.probes(STRANGER, &[1, 2, 3], NOW);
    assert_eq!((bench.engine.bans().len(), bench.engine.enforced()), (1, 0));
    let second = job(&mut bench);
    let lines = logged(|| end(&mut bench, &second, None));
    assert_eq!(bench.engine.enforced(), 1);
    assert_eq!(lines, [BLOCKED.replace("fake add 203.0.113.7", "notify")]);
    assert_eq!(bench.engine.bans().len(), 1);
    let unbanned = bench.engine.unban(STRANGER.parse().unwrap(), "uid 0", NOW);
    assert_eq!(
        unbanned.failures,
        ["what command.ban did for it stays: no command.unban has undone it"]
    );
    assert_eq!(bench.past(), [(STRANGER.to_owned(), Some("unban"))]);
}

#[test]
fn beside_a_responder_a_program_that_could_not_ban_tries_again() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| config.command.ban = program());
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let stranger = STRANGER.parse().unwrap();
    let first = job(&mut bench);
    assert_eq!(bench.engine.standing(stranger), ["fake"]);
    end(&mut bench, &first, Some("exit status 4"));
    let health = bench.engine.health();
    let trouble = health[1].trouble.as_deref().unwrap();
    assert!(trouble.ends_with("notify: exit status 4"), "{trouble}");
    assert_eq!(health[1].enforced, 0);

    assert_eq!(bench.engine.next_deadline(), Some(after(1).mono));
    bench.engine.tick(after(1));
    let second = job(&mut bench);
    bench.engine.tick(after(4));
    assert!(bench.engine.take_errands().is_empty(), "it runs still");
    let lines = logged(|| end(&mut bench, &second, None));
    assert_eq!(lines, [BLOCKED.replace("fake add 203.0.113.7", "notify")]);
    assert_eq!(bench.engine.standing(stranger), ["fake", "command"]);
    assert_eq!(bench.engine.health()[1].trouble, None);
    bench.engine.tick(after(100));
    assert!(bench.engine.take_errands().is_empty());
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn a_program_undoes_what_another_did() {
    let mut bench = with_program(&[ResponderKind::Command], |config| {
        config.command.ban = program();
        config.command.unban = Some(CommandLine::Shell("undo {source}".to_owned()));
    });
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    let first = job(&mut bench);
    end(&mut bench, &first, None);
    bench.engine.tick(after(3600));
    let undo = job(&mut bench);
    assert_eq!(undo.line, CommandLine::Shell("undo {source}".to_owned()));
    assert_eq!(undo.source.to_string(), STRANGER);
}

#[test]
fn a_program_that_only_knows_ipv4_is_not_run_for_ipv6() {
    let iptables = Some(CommandLine::Shell(
        "/sbin/iptables -I INPUT -s {source} -j DROP".to_owned(),
    ));
    let mut bench = with_program(&[ResponderKind::Command], |config| {
        config.command.ban = iptables;
    });
    let mut six = |last: u16| {
        let probes: Vec<Probe> = [1, 2, 3]
            .into_iter()
            .map(|port| syn(&format!("2001:db8:{last}::7"), "2001:db8:1::1", port))
            .collect();
        logged(|| bench.see(&probes, NOW))
    };
    let lines = six(7);
    assert!(
        lines[0].contains("is not run for IPv6 sources"),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(six(8).len(), 1, "said once");
    assert!(bench.engine.take_errands().is_empty());
    assert!(bench.engine.bans().is_empty());
}

#[test]
fn a_response_of_command_runs_the_program_and_bans_nobody() {
    let mut bench = bench(|config| {
        config.tcp.response = config::Response::Command;
        config.command.run = program();
    });
    assert_eq!(logged(|| bench.probes(STRANGER, &[1, 2, 3], NOW)), [SEEN]);
    let job = job(&mut bench);
    assert_eq!(logged(|| end(&mut bench, &job, None)), [RUN]);
    assert!(bench.held().is_empty());
    assert_eq!(bench.lines().len(), 1);
}

#[test]
fn a_program_hears_the_same_address_at_the_end_as_at_the_start() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| {
        config.command.ban = program();
        config.command.unban = program();
    });
    let probes = [1, 2, 3].map(|port| syn("2001:db8:7::77", "2001:db8:1::1", port));
    bench.see(&probes, NOW);
    let ban = job(&mut bench);
    assert_eq!(
        bench.held(),
        ["2001:db8:7::77"],
        "and nobody else is banned"
    );
    end(&mut bench, &ban, None);
    bench
        .engine
        .unban("2001:db8:7::77".parse().unwrap(), "uid 0", NOW);
    assert_eq!(job(&mut bench).source, ban.source);
}

#[test]
fn what_programs_banned_in_an_earlier_run_is_undone() {
    let mut bench = with_program(&[ResponderKind::Command], |config| {
        config.command.ban = program();
        config.command.unban = program();
    });
    let ban = Ban {
        source: STRANGER.parse().unwrap(),
        reason: Reason::parse("syn scan, 3 tcp ports, last 23"),
        origin: Origin::Scan,
        by: None,
        start: NOW.wall,
        end: Some(End::after(Duration::from_secs(600), NOW)),
    };
    bench.engine.replay(vec![ban], NOW);
    assert!(bench.engine.bans().is_empty());
    assert_eq!(job(&mut bench).source.to_string(), STRANGER);
}

#[test]
fn whom_no_program_has_room_to_ban_is_not_banned() {
    let mut bench = with_program(&[ResponderKind::Command], |config| {
        config.command.ban = program();
        config.detect.trigger = 1;
        config.ban.rate = u32::MAX;
    });
    for n in 0..1100_u32 {
        let source = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        bench.probes(&source, &[1], NOW);
    }
    assert_eq!(bench.engine.take_errands().len(), 1024);
    assert_eq!(bench.engine.bans().len(), 1024);
}

#[test]
fn whom_a_program_held_back_is_withdrawn_with_the_others() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| {
        config.command.run = program();
        config.command.when = When::Before;
    });
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.engine.release_waiting(NOW);
    assert_eq!(bench.held(), [STRANGER]);
    bench.engine.withdraw().unwrap();
    let world = Rc::clone(&bench.world);
    assert_eq!(bench.past(), [(STRANGER.to_owned(), None)]);
    assert!(world.borrow().held.is_empty());
}

#[test]
fn another_failure_does_not_hasten_whom_a_program_holds_back() {
    let both = [ResponderKind::Nftables, ResponderKind::Command];
    let mut bench = with_program(&both, |config| {
        config.command.run = program();
        config.command.when = When::Before;
    });
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.world.borrow_mut().broken = true;
    bench.order("203.0.113.9").unwrap_err();
    bench.world.borrow_mut().broken = false;
    bench.engine.tick(after(2));
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.enforced(), 0);
    let job = job(&mut bench);
    end(&mut bench, &job, None);
    assert_eq!(bench.held(), [STRANGER]);
    assert_eq!(bench.engine.enforced(), 1);
}

#[test]
fn who_was_spared_because_too_many_scan_is_told_so() {
    let mut bench = Bench::new("ban.rate = 1");
    let others = "203.0.113.8";
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.probes(others, &[1, 2, 3], NOW);
    bench.probes("203.0.113.9", &[1], NOW);
    let mut told = |address: &str| bench.engine.explain(address.parse().unwrap(), NOW).too_many;
    assert_eq!(
        told(others),
        ["ban.rate of 1 scan a second is reached: scanners are spared"]
    );
    assert!(told(STRANGER).is_empty() && told("203.0.113.9").is_empty());
}
