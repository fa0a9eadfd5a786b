//! Several responders together: what goes for each of them, whichever it is.

use std::fs;

use serde_json::{Value, json};

use crate::lab::{Daemon, Host, eventually};

const THEIRS: &str = "sshd: .example.net\n";

fn with_file<'a>(host: &'a Host, responders: &str) -> Daemon<'a> {
    let daemon = Daemon::new(host, "");
    fs::write(daemon.path("hosts.deny"), THEIRS).expect("the directory is ours");
    use_responders(&daemon, responders);
    daemon
}

fn use_responders(daemon: &Daemon<'_>, responders: &str) {
    let file = daemon.path("hosts.deny");
    daemon.configure(&format!(
        "ban.responders = {responders}\nhosts-deny.file = {file:?}\n"
    ));
}

fn tables(host: &Host) -> String {
    host.nft("list tables")
}

#[test]
fn each_responder_proves_that_it_bans_and_lifts_and_leaves_nothing() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "[\"nftables\", \"hosts-deny\"]");
    let file = daemon.path("hosts.deny");
    let all_is_well = |said: String| {
        let tested: Value = serde_json::from_str(&said).expect("it is JSON");
        let tested = tested.as_array().expect("a list").clone();
        let summary: Vec<(Value, Value)> = tested
            .iter()
            .map(|it| (it["responder"].clone(), it["source"].clone()))
            .collect();
        let expected = [
            ("nftables", "192.0.2.1"),
            ("nftables", "2001:db8:1::/64"),
            ("hosts-deny", "192.0.2.1"),
            ("hosts-deny", "2001:db8:1::/64"),
        ];
        assert_eq!(summary, expected.map(|(a, b)| (json!(a), json!(b))));
        assert!(tested.iter().all(|it| it["trouble"].is_null()), "{said}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), THEIRS);
    };
    all_is_well(daemon.ok(&["test-responders", "--json"]));
    assert_eq!(tables(host), "", "without a daemon nothing is left");

    daemon.restart();
    all_is_well(daemon.ok(&["test-responders", "--json"]));
    assert!(host.elements("banned4").is_empty() && daemon.banned().is_empty());
    assert!(daemon.json("history").as_array().is_some_and(Vec::is_empty));

    daemon.ok(&["ban", "192.0.2.0/24", "--for", "1h"]);
    let said = daemon.command(&["test-responders"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.out.contains("all documentation addresses"), "{said:?}");
    daemon.ok(&["unban", "192.0.2.0/24"]);

    fs::remove_file(&file).expect("it is ours");
    fs::create_dir(&file).expect("the directory is ours");
    let said = daemon.command(&["test-responders"]);
    assert_eq!(said.status, 1);
    assert!(said.out.contains("is not a regular file"), "{said:?}");
    assert!(said.out.contains("nftables    192.0.2.1 "), "{said:?}");
}

#[test]
fn what_a_responder_put_up_is_taken_down_when_it_is_no_longer_used() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "[\"nftables\", \"hosts-deny\"]");
    let text = |daemon: &Daemon<'_>| fs::read_to_string(daemon.path("hosts.deny")).expect("there");
    daemon.restart();
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    assert!(text(&daemon).contains("203.0.113.7"));

    // After a crash nobody has withdrawn its lines.
    daemon.kill9();
    use_responders(&daemon, "[\"nftables\"]");
    daemon.restart();
    eventually("its lines are gone", || {
        (text(&daemon) == THEIRS).then_some(())
    });
    assert_eq!(daemon.banned(), ["203.0.113.7"]);

    daemon.kill9();
    use_responders(&daemon, "[\"hosts-deny\"]");
    daemon.restart();
    eventually("the table is gone", || {
        tables(host).is_empty().then_some(())
    });
    eventually("its line is back", || {
        text(&daemon).contains("203.0.113.7").then_some(())
    });
    daemon.stop();

    use_responders(&daemon, "[\"nftables\"]\nnftables.table = \"first\"");
    daemon.restart();
    assert!(tables(host).contains("table inet first"));
    daemon.kill9();
    use_responders(&daemon, "[\"nftables\"]\nnftables.table = \"second\"");
    daemon.restart();
    eventually("only the new table stands", || {
        (tables(host) == "table inet second\n").then_some(())
    });

    daemon.kill9();
    use_responders(&daemon, "[\"hosts-deny\"]");
    daemon.ok(&["withdraw"]);
    assert_eq!(tables(host), "", "also what an earlier configuration made");
}
