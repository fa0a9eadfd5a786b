//! A table that belongs to the daemon alone, on kernels that have such: Linux 6.9 and later.

use crate::lab::{Daemon, Host, Pair, at, eventually};

fn is_new_enough(host: &Host) -> bool {
    let release = host.run("uname -r");
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let mut number = || numbers.next().expect("there").expect("a number");
    (number(), number()) >= (6, 9)
}

#[test]
fn nobody_else_takes_bans_away_or_adds_some_while_the_daemon_runs() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::new(host, "nftables.own = \"on\"");
    if !is_new_enough(host) {
        let said = daemon.run_to_its_end();
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains("Linux 6.9"), "{said:?}");
        return;
    }
    daemon.restart();
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    host.nft("flush ruleset");
    assert!(host.element("banned4", Pair::STRANGER).is_some());
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    let element = format!("element inet portsentry banned4 {{ {} }}", Pair::STRANGER);
    for words in [&format!("delete {element}"), "delete table inet portsentry"] {
        let said = host.try_nft(words);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("Operation not permitted"), "{said}");
    }
    assert_eq!(daemon.counter("repairs"), 0);
    // A set that the table did not have is made in it.
    daemon.ok(&["ban", "198.51.100.0/24"]);
    daemon.element("banned4_24", "198.51.100.0");
    daemon.ok(&["unban", Pair::STRANGER]);
    assert!(stranger.reaches(at(Pair::HOST), 80));

    // Once it has ended, the table is anybody's, and stays: also for a command without a daemon.
    daemon.kill9();
    daemon.ok(&["ban", Pair::STRANGER]);
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    host.nft(&format!("delete {element}"));
    assert!(stranger.reaches(at(Pair::HOST), 80));
    daemon.restart();
    daemon.element("banned4", Pair::STRANGER);
    daemon.element("banned4_24", "198.51.100.0");
    host.nft("flush ruleset");
    assert!(host.element("banned4", Pair::STRANGER).is_some());
    daemon.stop();
    daemon.ok(&["withdraw"]);
    assert_eq!(host.nft("list tables"), "");
}

#[test]
fn a_configuration_without_it_makes_the_table_anybodys_again() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "nftables.own = \"auto\"");
    daemon.ok(&["ban", "203.0.113.7"]);
    daemon.stop();
    daemon.configure("");
    daemon.restart();
    daemon.element("banned4", "203.0.113.7");
    let listing = host.nft("list table inet portsentry");
    assert!(!listing.contains("\tflags owner"), "{listing}");
    host.nft("delete element inet portsentry banned4 { 203.0.113.7 }");
}

#[test]
fn a_file_that_includes_the_table_fails_as_a_whole_and_a_second_daemon_does_not_start() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "nftables.own = \"auto\"");
    if !is_new_enough(host) {
        return;
    }
    daemon.ok(&["ban", "203.0.113.7"]);
    let rules = || host.run("nft -t list ruleset");
    let before = rules();
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/nft/portsentry.nft");
    let words = format!("flush ruleset; add table inet mine; include \"{include}\"\n");
    let said = String::from_utf8_lossy(&host.try_nft(&words).stderr).into_owned();
    assert!(said.contains("Operation not permitted"), "{said}");
    assert_eq!(rules(), before);
    daemon.element("banned4", "203.0.113.7");

    for own in ["off", "on"] {
        let other = Daemon::new(host, &format!("nftables.own = \"{own}\""));
        for said in [other.run_to_its_end(), other.command(&["withdraw"])] {
            assert_eq!(said.status, 1, "{said:?}");
            assert!(said.err.contains("belongs to another program"), "{said:?}");
        }
    }
    assert_eq!(rules(), before);
    daemon.element("banned4", "203.0.113.7");
}

#[test]
fn a_program_that_is_under_way_does_not_keep_the_table_of_a_daemon_that_was_killed() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "");
    let ran = daemon.path("ran");
    let program = format!("touch {}; exec sleep 20", ran.display());
    daemon.configure(&format!(
        "nftables.own = \"auto\"\nban.responders = [\"nftables\", \"command\"]\ncommand.run = [\"sh\", \"-c\", {program:?}]\n"
    ));
    daemon.restart();
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    eventually("the program runs", || ran.exists().then_some(()));
    daemon.kill9();
    host.nft("add element inet portsentry banned4 { 203.0.113.7 }");
    daemon.restart();
    daemon.element("banned4", Pair::STRANGER);
    daemon.element("banned4", "203.0.113.7");
}

#[test]
fn a_command_that_may_not_change_the_table_lifts_nothing_and_says_why() {
    let host = &Host::new("host");
    let daemon = Daemon::start(host, "nftables.own = \"auto\"");
    if !is_new_enough(host) {
        return;
    }
    daemon.ok(&["ban", "203.0.113.7"]);
    // With another configuration, it knows nothing of this daemon.
    let other = Daemon::new(host, "");
    for arguments in [&["unban", "203.0.113.7"][..], &["unban", "--all"]] {
        let said = other.command(arguments);
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        for words in [
            "belongs to another program",
            "give this one the same configuration (-c)",
        ] {
            assert!(said.err.contains(words), "{said:?}");
        }
    }
    let history = other.command(&["history"]);
    assert!(!history.out.contains("203.0.113.7"), "{history:?}");
    daemon.element("banned4", "203.0.113.7");
    daemon.ok(&["unban", "203.0.113.7"]);
    assert!(host.element("banned4", "203.0.113.7").is_none());
}

/// What an owner leaves takes no file over it, and goes by hand; a reload of the whole ruleset has no trouble with it.
#[test]
fn what_an_owner_has_left_is_made_anew_by_a_file_when_it_has_been_deleted() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "nftables.own = \"auto\"");
    if !is_new_enough(host) {
        return;
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/nft/portsentry.nft");
    let include = format!("include \"{file}\"\n");
    for remedy in ["delete table inet portsentry; ", "flush ruleset; "] {
        daemon.ok(&["ban", "203.0.113.7"]);
        daemon.stop();
        daemon.element("banned4", "203.0.113.7");
        let said = String::from_utf8_lossy(&host.try_nft(&include).stderr).into_owned();
        assert!(said.contains("Operation not supported"), "{said}");
        daemon.element("banned4", "203.0.113.7");
        host.nft(&format!("{remedy}{include}"));
        assert!(host.element("banned4", "203.0.113.7").is_none());
        daemon.restart();
        daemon.element("banned4", "203.0.113.7");
        let listing = host.nft("list table inet portsentry");
        assert!(listing.contains("flags owner"), "{listing}");
    }
}
