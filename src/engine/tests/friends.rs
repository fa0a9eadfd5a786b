//! Who is never banned because of what it is to this host.

use super::*;
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
