//! Who is never banned because of what it is to this host.

use super::*;
use crate::guard::Friend;
use crate::host::{Gateway, Login, LoginBy, Resolver};

const GATEWAY: &str = "192.0.2.254";
const RESOLVER: &str = "198.51.100.53";

/// Who is logged in, shared with the engine; `Err`: nobody can tell.
type Logged = Rc<RefCell<Result<Vec<Login>, String>>>;

fn facts(gateway: &str) -> Facts {
    let address = Address {
        ip: HOST.parse().unwrap(),
        on_link: "192.0.2.0/24".parse().unwrap(),
        link: 2,
    };
    let link = Link {
        index: 2,
        name: "eth0".to_owned(),
        loopback: false,
    };
    Facts::new(vec![address], vec![link]).with_gateways(vec![Gateway {
        address: gateway.parse().unwrap(),
        link: 2,
    }])
}

fn resolver(address: &str) -> Resolver {
    Resolver {
        address: address.parse().unwrap(),
        file: "/etc/resolv.conf".into(),
    }
}

fn root(from: &str) -> Login {
    let (id, user) = ("3".to_owned(), "root".to_owned());
    Login {
        from: from.parse().unwrap(),
        by: LoginBy::Session { id, user },
    }
}

/// With a gateway, a name server, and logins that can be set.
fn bench(text: &str) -> (Bench, Logged) {
    let mut bench = Bench::new(text);
    let logged: Logged = Rc::new(RefCell::new(Ok(Vec::new())));
    let found = Rc::clone(&logged);
    bench
        .engine
        .find_logins_by(Box::new(move |_| found.borrow().clone().map(Some)));
    bench.engine.host_changed(facts(GATEWAY), NOW);
    bench
        .engine
        .resolvers_changed(vec![resolver(RESOLVER), resolver("127.0.0.53")], NOW);
    (bench, logged)
}

fn spared(bench: &Bench) -> Vec<String> {
    bench.world.borrow().spared.clone()
}

#[test]
fn gateways_and_name_servers_are_never_banned_and_let_through() {
    let (mut bench, _) = bench("ignore.addresses = [\"203.0.113.0/24\"]");
    for friend in [GATEWAY, RESOLVER] {
        bench.probes(friend, &[1, 2, 3], NOW);
    }
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.counters.ignored, 6);
    for (friend, why) in [
        (GATEWAY, "192.0.2.254 is the default gateway (dev eth0)"),
        (
            RESOLVER,
            "198.51.100.53 is a name server in /etc/resolv.conf",
        ),
        (
            "198.51.100.0/25",
            "198.51.100.53 is a name server in /etc/resolv.conf",
        ),
    ] {
        let refusal = bench.order(friend).unwrap_err().to_string();
        assert_eq!(refusal, format!("{friend} is never banned: {why}"));
    }
    // Loopback needs no help.
    let both = ["192.0.2.254/32", "198.51.100.53/32", "203.0.113.0/24"];
    assert_eq!(spared(&bench), both);
}

#[test]
fn who_becomes_gateway_or_name_server_is_unbanned_and_who_was_is_a_friend_no_longer() {
    let (mut bench, _) = bench("");
    bench.order("192.0.2.253").unwrap();
    bench.order("198.51.100.54").unwrap();
    bench.engine.host_changed(facts("192.0.2.253"), NOW);
    assert_eq!(bench.held(), ["198.51.100.54"]);
    bench
        .engine
        .resolvers_changed(vec![resolver("198.51.100.54")], NOW);
    assert!(bench.held().is_empty());
    assert_eq!(spared(&bench), ["192.0.2.253/32", "198.51.100.54/32"]);
    bench.probes(GATEWAY, &[1, 2, 3], NOW);
    bench.probes(RESOLVER, &[1, 2, 3], NOW);
    assert_eq!(bench.held(), [GATEWAY, RESOLVER]);
}

#[test]
fn the_configuration_says_which_facts_make_friends() {
    let (mut bench, logged) = bench("ignore.host = [\"addresses\"]");
    *logged.borrow_mut() = Ok(vec![root(STRANGER)]);
    for friend in [GATEWAY, RESOLVER, STRANGER, HOST] {
        bench.probes(friend, &[1, 2, 3], NOW);
    }
    assert_eq!(bench.held(), [GATEWAY, RESOLVER, STRANGER]);
    assert!(spared(&bench).is_empty());
    let all = config::parse(Path::new("test.toml"), "").unwrap();
    bench.engine.reconfigure(all, IgnoreList::default(), NOW);
    assert!(bench.held().is_empty());
}

#[test]
fn who_is_logged_in_when_it_comes_to_a_ban_is_spared_and_nobody_else() {
    let (mut bench, logged) = bench("");
    bench.probes(STRANGER, &[1, 2], NOW);
    *logged.borrow_mut() = Ok(vec![root(STRANGER)]);
    bench.probes(STRANGER, &[3], NOW);
    bench.probes("203.0.113.9", &[1, 2, 3], NOW);
    assert_eq!(bench.held(), ["203.0.113.9"]);
    assert_eq!(bench.engine.counters.spared_logins, 1);
    let through = ["192.0.2.254/32", "198.51.100.53/32", "203.0.113.7/32"];
    assert_eq!(spared(&bench), through);
    let refusal = bench.order(STRANGER).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "203.0.113.7 is never banned: root is logged in from 203.0.113.7 (session 3)"
    );
    // It logs out, and scans on.
    *logged.borrow_mut() = Ok(Vec::new());
    bench.probes(STRANGER, &[4, 5, 6], after(60));
    assert_eq!(bench.held(), [STRANGER, "203.0.113.9"]);
    assert_eq!(spared(&bench), through[..2]);
}

#[test]
fn who_logs_in_is_unbanned_at_that_moment() {
    let (mut bench, logged) = bench("");
    bench.order(STRANGER).unwrap();
    bench.order("203.0.113.0/25").unwrap();
    *logged.borrow_mut() = Ok(vec![root(STRANGER)]);
    bench.engine.logins_changed(NOW);
    assert!(bench.held().is_empty(), "the prefix holds him too");
}

#[test]
fn a_neighbour_of_who_is_logged_in_is_banned_alone() {
    let (mut bench, logged) = bench("");
    *logged.borrow_mut() = Ok(vec![root("2001:db8:5::1")]);
    let scan = |from: &str| [1, 2, 3].map(|port| syn(from, HOST, port));
    bench.see(&scan("2001:db8:5::7"), NOW);
    assert!(bench.held().is_empty(), "the prefix would have held root");
    bench.see(&scan("2001:db8:5::7"), NOW);
    assert_eq!(bench.held(), ["2001:db8:5::7"]);
}

#[test]
fn when_nobody_can_tell_who_is_logged_in_those_known_last_count_and_it_is_told() {
    let (mut bench, logged) = bench("");
    *logged.borrow_mut() = Ok(vec![root(STRANGER)]);
    bench.engine.logins_changed(NOW);
    *logged.borrow_mut() = Err("no sessions".to_owned());
    bench.probes(STRANGER, &[1, 2, 3], NOW);
    bench.probes("203.0.113.9", &[1, 2, 3], NOW);
    assert_eq!(bench.held(), ["203.0.113.9"]);
    assert_eq!(bench.engine.troubles(NOW.mono), ["no sessions"]);
    *logged.borrow_mut() = Ok(Vec::new());
    bench.engine.logins_changed(NOW);
    assert!(bench.engine.troubles(NOW.mono).is_empty());
}

fn forced(source: &str) -> Order {
    Order {
        source: source.parse().unwrap(),
        length: Some(Duration::from_secs(600)),
        reason: Reason::parse("by hand"),
        is_forced: true,
        by: None,
    }
}

fn order(source: &str) -> Order {
    Order {
        is_forced: false,
        ..forced(source)
    }
}

#[test]
fn a_forced_ban_holds_against_everything_but_what_is_for_good() {
    let (mut bench, logged) = bench("ignore.addresses = [\"203.0.113.0/24\"]");
    *logged.borrow_mut() = Ok(vec![root("198.51.100.9")]);
    for friend in [GATEWAY, RESOLVER, STRANGER, "198.51.100.9"] {
        assert!(bench.order(friend).is_err());
        bench.engine.ban(forced(friend), NOW).unwrap();
    }
    for friend in [HOST, "127.0.0.1", "192.0.2.255", "192.0.2.0/28", "::"] {
        assert!(bench.engine.ban(forced(friend), NOW).is_err(), "{friend}");
    }
    // Every way in which friends are unbanned.
    bench.engine.host_changed(facts("192.0.2.9"), NOW);
    bench.engine.host_changed(facts(GATEWAY), NOW);
    bench.engine.logins_changed(NOW);
    let all = [GATEWAY, "198.51.100.9", RESOLVER, STRANGER];
    assert_eq!(bench.held(), all);
    let ignored = spared(&bench);
    assert_eq!(ignored.len(), 8, "the rest of a /24: {ignored:?}");
    assert!(!ignored.contains(&"203.0.113.7/32".to_owned()));
    bench.probes(GATEWAY, &[1], NOW);
    assert_eq!(bench.engine.counters.already_banned, 1);
}

#[test]
fn with_a_forced_ban_s_end_its_source_is_a_friend_again() {
    let (mut bench, _) = bench("");
    let friends = spared(&bench);
    bench.engine.ban(forced(GATEWAY), NOW).unwrap();
    assert_eq!(spared(&bench), ["198.51.100.53/32"]);
    let gateway = GATEWAY.parse().unwrap();
    bench.engine.unban(gateway, "uid 0", after(1));
    assert_eq!(spared(&bench), friends);
    bench.engine.ban(forced(GATEWAY), after(2)).unwrap();
    bench.engine.tick(after(602));
    assert!(bench.engine.bans().is_empty());
    assert_eq!(spared(&bench), friends);
    bench.probes(GATEWAY, &[1, 2, 3], after(603));
    assert!(bench.engine.bans().is_empty());
}

#[test]
fn a_forced_ban_outlives_a_restart() {
    let (mut bench, _) = bench("");
    let (ban, _) = bench.engine.ban(forced(GATEWAY), NOW).unwrap();
    let (mut next, _) = self::bench("");
    next.engine.replay(vec![ban], NOW);
    assert_eq!(next.held(), [GATEWAY]);
    assert_eq!(spared(&next), ["198.51.100.53/32"]);
    let file = bench.dir.path().join("history.db");
    let recorder = bench.engine.close(NOW);
    recorder.stop(Duration::from_secs(10)).unwrap();
    let history = History::open_read_only(&file).unwrap().unwrap();
    assert_eq!(history.of(None, 9).unwrap()[0].origin, Origin::Forced);
}

#[test]
fn a_list_does_not_ban_who_has_just_logged_in() {
    let (mut bench, logged) = bench("");
    *logged.borrow_mut() = Ok(vec![root(STRANGER)]);
    let list = [STRANGER, "203.0.113.9"].map(|it| it.parse().unwrap());
    let why = Reason::parse("imported");
    let imported = bench.engine.import(&list, None, &why, None, NOW).unwrap();
    assert_eq!(bench.held(), ["203.0.113.9"]);
    assert!(matches!(
        imported.refused[..],
        [Refusal::Friend(_, Friend::Login(_))]
    ));
}

const TRIAL: Duration = Duration::from_secs(60);

#[test]
fn a_ban_on_trial_is_undone_unless_it_is_confirmed_and_counts_for_nothing_then() {
    let (mut bench, _) = bench("");
    let stranger: Source = STRANGER.parse().unwrap();
    let done = bench.engine.ban_for_now(order(STRANGER), TRIAL, NOW);
    let (ban, _) = done.unwrap();
    assert_eq!(ban.length(), Some(TRIAL), "the world is told no more");
    bench.engine.tick(after(59));
    assert_eq!(bench.held(), [STRANGER]);
    bench.engine.tick(after(60));
    assert!(bench.held().is_empty());
    assert_eq!(bench.engine.bans().past(stranger), None);
    let late = bench.engine.confirm(stranger, after(61));
    assert!(matches!(late, Err(Refusal::NotProvisional(_))));
    assert_eq!(bench.past(), [(STRANGER.to_owned(), Some("unban"))]);
}

#[test]
fn a_confirmed_ban_is_what_was_ordered() {
    let (mut bench, _) = bench("");
    let gateway = GATEWAY.parse().unwrap();
    let done = bench.engine.ban_for_now(forced(GATEWAY), TRIAL, NOW);
    done.unwrap();
    let (ban, _) = bench.engine.confirm(gateway, after(30)).unwrap();
    assert_eq!(ban.length(), Some(Duration::from_secs(600)));
    assert_eq!(ban.origin, Origin::Forced);
    bench.engine.tick(after(61));
    assert_eq!(bench.held(), [GATEWAY]);
    assert!(bench.engine.confirm(gateway, after(62)).is_err());
}

#[test]
fn a_ban_on_trial_takes_no_other_ban_with_it() {
    let (mut bench, _) = bench("");
    let stranger = STRANGER.parse().unwrap();
    bench.order(STRANGER).unwrap();
    let refused = bench.engine.ban_for_now(order(STRANGER), TRIAL, NOW);
    assert!(matches!(refused, Err(Refusal::Banned(_))));
    // A plain ban is a confirmation; an unban leaves nothing to confirm.
    let other = "203.0.113.9";
    bench.engine.ban_for_now(order(other), TRIAL, NOW).unwrap();
    bench.order(other).unwrap();
    bench.engine.unban(stranger, "uid 0", NOW);
    let again = bench.engine.ban_for_now(order(STRANGER), TRIAL, NOW);
    again.unwrap();
    bench.engine.unban(stranger, "uid 0", NOW);
    assert!(bench.engine.confirm(stranger, NOW).is_err());
    bench.engine.tick(after(61));
    assert_eq!(bench.held(), [other]);
    // So is a list that names it.
    let listed = "203.0.113.10";
    bench
        .engine
        .ban_for_now(order(listed), TRIAL, after(62))
        .unwrap();
    let hour = Some(Duration::from_secs(3600));
    let list = [listed.parse().unwrap()];
    let why = Reason::parse("imported");
    bench
        .engine
        .import(&list, hour, &why, None, after(63))
        .unwrap();
    assert!(bench.engine.confirm(list[0], after(64)).is_err());
    bench.engine.tick(after(3663));
    assert!(bench.engine.bans().past(list[0]).is_some());
    // A trial is no longer than the ban.
    let brief = Order {
        length: Some(Duration::from_secs(5)),
        ..order(STRANGER)
    };
    let done = bench.engine.ban_for_now(brief, TRIAL, after(3664));
    let (ban, _) = done.unwrap();
    assert_eq!(ban.length(), Some(Duration::from_secs(5)));
}
