//! Several responders together: what goes for each of them, whichever it is.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::lab::{Daemon, Host, Pair, eventually, send_syns};

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

#[test]
fn a_reload_puts_new_responders_to_work_and_takes_down_what_others_put_up() {
    let host = &Host::new("host");
    let mut daemon = with_file(host, "[\"nftables\"]");
    let text = |daemon: &Daemon<'_>| fs::read_to_string(daemon.path("hosts.deny")).expect("there");
    daemon.restart();
    daemon.ok(&["ban", "203.0.113.7", "--for", "1h"]);
    let standing = |daemon: &Daemon<'_>| daemon.json("list")[0]["responders"].clone();

    use_responders(&daemon, "[\"hosts-deny\", \"nftables\"]");
    assert!(!daemon.ok(&["reload"]).contains("restart"));
    eventually("it stands in both", || {
        (standing(&daemon) == json!(["hosts-deny", "nftables"])).then_some(())
    });
    assert!(text(&daemon).contains("203.0.113.7"));

    use_responders(&daemon, "[\"hosts-deny\"]");
    daemon.ok(&["reload"]);
    assert_eq!(tables(host), "");
    assert_eq!(standing(&daemon), json!(["hosts-deny"]));
    daemon.ok(&["ban", "203.0.113.8", "--for", "1h"]);
    assert!(text(&daemon).contains("203.0.113.8"));

    use_responders(&daemon, "[\"nftables\"]");
    daemon.ok(&["reload"]);
    assert_eq!(text(&daemon), THEIRS);
    assert_eq!(host.elements("banned4").len(), 2);

    fs::remove_file(daemon.path("hosts.deny")).expect("it is ours");
    fs::create_dir(daemon.path("hosts.deny")).expect("the directory is ours");
    use_responders(&daemon, "[\"nftables\", \"hosts-deny\"]");
    let said = daemon.command(&["reload"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("is not a regular file"), "{said:?}");
    assert_eq!(standing(&daemon), json!(["nftables"]));
    assert_eq!(host.elements("banned4").len(), 2);
}

/// A responder alone, and how its bans are seen from outside.
struct Alone {
    name: &'static str,
    holds: fn(&Daemon<'_>, &Host) -> BTreeSet<String>,
}

const NFTABLES: Alone = Alone {
    name: "nftables",
    holds: |_, host| {
        let elements = host.elements("banned4").into_iter();
        elements.map(|element| element.key).collect()
    },
};

const HOSTS_DENY: Alone = Alone {
    name: "hosts-deny",
    holds: |daemon, _| {
        let text = fs::read_to_string(daemon.path("hosts.deny")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix("ALL: "));
        lines.map(str::to_owned).collect()
    },
};

const ROUTE: Alone = Alone {
    name: "route",
    holds: |_, host| {
        let list = host.run("ip route show proto 112");
        let lines = list
            .lines()
            .filter_map(|line| line.strip_prefix("unreachable "));
        lines.map(|line| line.trim().to_owned()).collect()
    },
};

impl Alone {
    /// A daemon that bans at the first probe, through this one.
    fn daemon<'a>(&self, host: &'a Host, rest: &str) -> Daemon<'a> {
        let daemon = Daemon::new(host, "");
        let file = daemon.path("hosts.deny");
        daemon.configure(&format!(
            "ban.responders = [{:?}]\nhosts-deny.file = {file:?}\ndetect.trigger = 1\nban.rate = 100000\n{rest}\n",
            self.name
        ));
        daemon
    }

    fn two_hundred_at_once_are_banned_and_let_in_again(&self) {
        let Pair { host, stranger } = &Pair::new();
        let mut daemon = self.daemon(host, "ban.duration = \"8s\"");
        daemon.restart();
        let sources: Vec<Ipv4Addr> = crowd(200).collect();
        send_syns(stranger, sources.iter().copied(), DEST, 23);
        let all: BTreeSet<String> = sources.iter().map(ToString::to_string).collect();
        eventually("all are banned", || {
            ((self.holds)(&daemon, host) == all).then_some(())
        });
        let listed = daemon.json("list");
        let here = json!([self.name]);
        let stands = |ban: &Value| ban["responders"] == here;
        assert!(
            listed.as_array().is_some_and(|all| all.iter().all(stands)),
            "{listed}"
        );
        daemon.ok(&["unban", &sources[7].to_string()]);
        assert!(!(self.holds)(&daemon, host).contains(&sources[7].to_string()));
        eventually("their time is over", || {
            (self.holds)(&daemon, host).is_empty().then_some(())
        });
        assert_eq!(daemon.banned(), Vec::<String>::new());
    }

    fn after_a_crash_amid_a_thousand_what_is_listed_is_what_holds(&self) {
        let Pair { host, stranger } = &Pair::new();
        let mut daemon = self.daemon(host, "");
        daemon.restart();
        for crowd in crowd(1000).collect::<Vec<_>>().chunks(100) {
            send_syns(stranger, crowd.iter().copied(), DEST, 23);
        }
        eventually("some are banned", || {
            (!(self.holds)(&daemon, host).is_empty()).then_some(())
        });
        daemon.kill9();
        let held_before = (self.holds)(&daemon, host);
        daemon.restart();
        eventually("what is listed is what holds", || {
            let listed: BTreeSet<String> = daemon.banned().into_iter().collect();
            let is_whole = listed.is_superset(&held_before) && !listed.is_empty();
            (is_whole && listed == (self.holds)(&daemon, host)).then_some(())
        });
    }
}

const DEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// So many strangers from far away.
fn crowd(count: u32) -> impl Iterator<Item = Ipv4Addr> {
    (1..=count).map(|n| Ipv4Addr::from(0xc612_0000 + n)) // 198.18.0.0/15, RFC 2544
}

#[test]
fn nftables_bans_two_hundred_at_once_and_lets_them_in_again() {
    NFTABLES.two_hundred_at_once_are_banned_and_let_in_again();
}

#[test]
fn route_bans_two_hundred_at_once_and_lets_them_in_again() {
    ROUTE.two_hundred_at_once_are_banned_and_let_in_again();
}

#[test]
fn hosts_deny_bans_two_hundred_at_once_and_lets_them_in_again() {
    HOSTS_DENY.two_hundred_at_once_are_banned_and_let_in_again();
}

#[test]
fn nftables_holds_what_is_listed_after_a_crash_amid_a_thousand() {
    NFTABLES.after_a_crash_amid_a_thousand_what_is_listed_is_what_holds();
}

#[test]
fn hosts_deny_holds_what_is_listed_after_a_crash_amid_a_thousand() {
    HOSTS_DENY.after_a_crash_amid_a_thousand_what_is_listed_is_what_holds();
}
