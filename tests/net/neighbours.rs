//! Who is never banned because of what it is to this host: its gateways, its name servers, and from where somebody is logged in.

use std::net::{IpAddr, Shutdown, TcpListener};

use crate::lab::{Daemon, Host, Pair, Surroundings, at, eventually};

/// A gateway that is nobody on the cable: whatever comes from its address is forged.
const GATEWAY: &str = "10.77.0.9";
const RESOLVER: &str = "198.51.100.53";

/// As logind writes it.
fn session(user: &str, from: &str) -> String {
    format!(
        "# This is private data. Do not parse.\nUID=0\nUSER={user}\nACTIVE=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n\
         REMOTE_HOST={from}\nSERVICE=sshd\n"
    )
}

fn refused(daemon: &Daemon<'_>, whom: &str, why: &str) {
    let said = daemon.command(&["ban", whom]);
    assert_eq!(said.status, 1, "{whom}: {said:?}");
    let expected = format!("{whom} is never banned: {why}");
    assert!(said.err.contains(&expected), "{expected}: {said:?}");
}

/// Waits until there is no such ban.
fn is_unbanned(host: &Host, address: &str) {
    eventually(&format!("{address} is unbanned"), || {
        host.element("banned4", address).is_none().then_some(())
    });
}

/// Waits until the kernel lets this address through, or no longer.
fn is_let_through(host: &Host, set: &str, address: &str, is: bool) {
    eventually(&format!("{address} in {set}: {is}"), || {
        (kernel_lets_through(host, set, address) == is).then_some(())
    });
}

#[test]
fn who_forges_the_gateway_or_a_name_server_bans_nobody() {
    let Pair { host, stranger } = &Pair::new();
    host.ip(&format!("route add default via {GATEWAY}"));
    let around = Surroundings::new();
    around.write("/etc/resolv.conf", &format!("nameserver {RESOLVER}\n"));
    let daemon = Daemon::start_in(&around, host, "");
    for forged in [GATEWAY, RESOLVER] {
        stranger.hping3(5, &format!("-S -a {forged} -p ++21"), Pair::HOST);
        stranger.hping3(5, &format!("-2 -a {forged} -p ++21"), Pair::HOST);
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    assert_eq!(daemon.counter("ignored"), 20);
    daemon.assert_nobody_is_banned();
}

#[test]
fn the_gateways_of_every_default_route_are_friends_with_the_link_they_are_on() {
    let Pair { host, .. } = &Pair::new();
    host.ip("route add default via 10.77.0.9");
    host.ip("route add default metric 7 nexthop via 10.77.0.10 nexthop via 10.77.0.11");
    host.ip("route add default via inet6 fd77::12 dev eth0 metric 8");
    host.ip("route add default via 10.77.0.13 table 100");
    host.ip("-6 route add default via fe80::14 dev eth0");
    host.ip("route add 203.0.113.0/24 via 10.77.0.15");
    let daemon = Daemon::start(host, "ignore.host = [\"gateways\"]\n");
    for gateway in [
        "10.77.0.9",
        "10.77.0.10",
        "10.77.0.11",
        "fd77::12",
        "10.77.0.13",
        "fe80::14",
    ] {
        let why = format!("{gateway} is the default gateway (dev eth0)");
        refused(&daemon, gateway, &why);
        let set = if gateway.contains(':') {
            "ignored6"
        } else {
            "ignored4"
        };
        assert!(kernel_lets_through(host, set, gateway), "{gateway}");
    }
    refused(
        &daemon,
        "10.77.0.8/29",
        "10.77.0.9 is the default gateway (dev eth0)",
    );
    daemon.ok(&["ban", "10.77.0.15"]);
}

/// nft joins neighbouring addresses to one element: ask for the address itself.
fn kernel_lets_through(host: &Host, set: &str, address: &str) -> bool {
    host.command("nft")
        .args(["get", "element", "inet", "portsentry", set])
        .arg(format!("{{ {address} }}"))
        .output()
        .is_ok_and(|output| output.status.success())
}

#[test]
fn a_new_gateway_is_unbanned_and_an_old_one_is_a_friend_no_longer() {
    let Pair { host, .. } = &Pair::new();
    host.ip("route add default via 10.77.0.9");
    let daemon = Daemon::start(host, "ignore.host = [\"gateways\"]\n");
    daemon.ok(&["ban", "10.77.0.20"]);
    host.ip("route replace default via 10.77.0.20");
    is_unbanned(host, "10.77.0.20");
    is_let_through(host, "ignored4", "10.77.0.20", true);
    is_let_through(host, "ignored4", "10.77.0.9", false);
    daemon.ok(&["ban", "10.77.0.9"]);
    // The route goes with its link, of which the kernel does not tell.
    host.ip("link set eth0 down");
    is_let_through(host, "ignored4", "10.77.0.20", false);
    daemon.ok(&["ban", "10.77.0.20"]);
}

#[test]
fn name_servers_are_friends_and_followed() {
    let Pair { host, .. } = &Pair::new();
    let around = Surroundings::new();
    around.write(
        "/etc/resolv.conf",
        "nameserver 198.51.100.53\nnameserver 2001:db8::53\n",
    );
    let daemon = Daemon::start_in(&around, host, "");
    let file = "is a name server in /etc/resolv.conf";
    for resolver in ["198.51.100.53", "2001:db8::53"] {
        refused(&daemon, resolver, &format!("{resolver} {file}"));
    }
    is_let_through(host, "ignored6", "2001:db8::53", true);

    daemon.ok(&["ban", "198.51.100.54"]);
    around.write("/etc/resolv.conf", "nameserver 198.51.100.54\n");
    is_unbanned(host, "198.51.100.54");
    daemon.ok(&["ban", "198.51.100.53"]);

    // systemd-resolved begins later, its directory with it; then it learns of another one.
    around.write(
        "/run/systemd/resolve/resolv.conf",
        "nameserver 198.51.100.53\n",
    );
    is_unbanned(host, "198.51.100.53");
    refused(
        &daemon,
        "198.51.100.53",
        "198.51.100.53 is a name server in /run/systemd/resolve/resolv.conf",
    );
    around.write(
        "/run/systemd/resolve/resolv.conf",
        "nameserver 198.51.100.55\n",
    );
    is_let_through(host, "ignored4", "198.51.100.55", true);
    daemon.ok(&["ban", "198.51.100.53"]);
}

#[test]
fn from_where_somebody_is_logged_in_nobody_is_banned_while_that_lasts() {
    let Pair { host, stranger } = &Pair::new();
    let around = Surroundings::new();
    let daemon = Daemon::start_in(&around, host, "");
    daemon.ok(&["ban", Pair::STRANGER]);
    around.write("/run/systemd/sessions/3", &session("root", Pair::STRANGER));
    is_unbanned(host, Pair::STRANGER);
    is_let_through(host, "ignored4", Pair::STRANGER, true);
    let why = "root is logged in from 10.77.0.2 (session 3)";
    refused(&daemon, Pair::STRANGER, why);
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.has_counted("spared_logins", 1);
    daemon.assert_nobody_is_banned();
    let log = daemon.log();
    assert!(
        log.contains(&format!("10.77.0.2 scans, and is not banned: {why}")),
        "{log}"
    );

    around.remove("/run/systemd/sessions/3");
    is_let_through(host, "ignored4", Pair::STRANGER, false);
    eventually("it is banned like anybody", || {
        stranger.knock(at(Pair::HOST), 24..=26);
        host.element("banned4", Pair::STRANGER)
    });
}

#[test]
fn a_login_that_has_just_begun_is_known_when_it_comes_to_a_ban() {
    let Pair { host, stranger } = &Pair::new();
    let around = Surroundings::new();
    around.write("/run/systemd/sessions/1", &session("eve", Pair::OTHER));
    let daemon = Daemon::start_in(&around, host, "");
    refused(
        &daemon,
        Pair::OTHER,
        "eve is logged in from 10.77.0.3 (session 1)",
    );
    stranger.knock(at(Pair::HOST), 21..=22);
    daemon.has_counted("hits", 2);
    around.write("/run/systemd/sessions/c9", &session("root", Pair::STRANGER));
    stranger.knock(at(Pair::HOST), [23]);
    daemon.has_counted("spared_logins", 1);
    daemon.assert_nobody_is_banned();
}

/// A listener of root's on the port that sshd is to have, as its configuration says, and a process of sshd's name.
fn sshd(host: &Host, around: &Surroundings, grace: &str) -> (TcpListener, impl Drop + use<>) {
    around.write(
        "/etc/ssh/sshd_config",
        &format!("Port 80\nLoginGraceTime {grace}\n"),
    );
    let listener = host.inside(|| TcpListener::bind((at(Pair::HOST), 80)));
    (
        listener.expect("a fresh host's ports are free"),
        around.idle_program("sshd"),
    )
}

fn friend_of(daemon: &Daemon<'_>, address: IpAddr) -> Option<String> {
    let told = daemon.ok(&["explain", &address.to_string(), "--json"]);
    let told: serde_json::Value = serde_json::from_str(&told).expect("--json prints JSON");
    Some(told["friend"].as_str()?.to_owned())
}

#[test]
fn without_logind_a_connection_to_sshd_that_outlived_the_time_to_log_in_is_a_login() {
    let Pair { host, stranger } = &Pair::new();
    let around = Surroundings::new();
    let (listener, _process) = sshd(host, &around, "2");
    let daemon = Daemon::start_in(&around, host, "");
    let connection = stranger.connect(at(Pair::HOST), 80).expect("it is served");
    let (taken, _) = listener.accept().expect("somebody has come");
    let friend = eventually("it is old enough", || {
        friend_of(&daemon, at(Pair::STRANGER))
    });
    let why = "somebody is logged in from 10.77.0.2 (over SSH, to port 80)";
    assert_eq!(friend, why);
    refused(&daemon, Pair::STRANGER, why);
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.has_counted("spared_logins", 1);
    daemon.assert_nobody_is_banned();
    // Whoever else holds them for a moment yet.
    for end in [connection, taken] {
        end.shutdown(Shutdown::Both).expect("it is connected");
    }
    eventually("nobody is logged in any more", || {
        (daemon.command(&["ban", Pair::STRANGER]).status == 0).then_some(())
    });
}

#[test]
fn an_idle_connection_to_sshd_is_no_free_pass() {
    let Pair { host, stranger } = &Pair::new();
    let around = Surroundings::new();
    let (listener, _process) = sshd(host, &around, "120");
    let daemon = Daemon::start_in(&around, host, "");
    let connection = stranger.connect(at(Pair::HOST), 80).expect("it is served");
    let taken = listener.accept().expect("somebody has come");
    assert_eq!(friend_of(&daemon, at(Pair::STRANGER)), None);
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.element("banned4", Pair::STRANGER);
    drop((connection, taken));
}

#[test]
fn who_insists_may_ban_a_friend_for_as_long_as_the_ban_lasts() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    host.ip(&format!("route add default via {}", Pair::STRANGER));
    let mut daemon = Daemon::start(
        host,
        "[ignore]\nhost = [\"addresses\", \"gateways\"]\naddresses = [\"10.77.0.0/28\"]\n",
    );
    let said = daemon.ok(&["ban", Pair::STRANGER, "--force"]);
    assert!(said.contains("nothing spares 10.77.0.2"), "{said}");
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(kernel_lets_through(host, "ignored4", Pair::OTHER));
    assert!(!kernel_lets_through(host, "ignored4", Pair::STRANGER));
    let told = daemon.ok(&["explain", Pair::STRANGER]);
    assert!(
        told.contains(
            "is banned all the same (ban --force), though it is ignored (10.77.0.0/28 in"
        ),
        "{told}"
    );

    // Neither an edit nor a new route nor a restart ends it.
    daemon.ignore(&format!("{}\n", Pair::STRANGER));
    host.ip(&format!("route add default via {} metric 9", Pair::OTHER));
    eventually("the edit is noticed", || {
        daemon.log().contains("2 entries").then_some(())
    });
    daemon.ok(&["reload"]);
    daemon.stop();
    daemon.restart();
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert_eq!(daemon.banned(), [Pair::STRANGER]);

    // Without a daemon too; the end of one forced ban is no other's.
    daemon.stop();
    daemon.ok(&["ban", Pair::OTHER, "--force"]);
    assert!(!kernel_lets_through(host, "ignored4", Pair::OTHER));
    daemon.ok(&["unban", Pair::OTHER]);
    assert!(kernel_lets_through(host, "ignored4", Pair::OTHER));
    assert!(!kernel_lets_through(host, "ignored4", Pair::STRANGER));
    daemon.restart();

    for own in [Pair::HOST, "127.0.0.1", "10.77.0.255", "10.77.0.0/24"] {
        let said = daemon.command(&["ban", own, "--force"]);
        assert!(said.err.contains("is never banned"), "{own}: {said:?}");
    }
    daemon.ok(&["unban", Pair::STRANGER]);
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert!(kernel_lets_through(host, "ignored4", Pair::STRANGER));
}

#[test]
fn a_ban_on_trial_is_undone_unless_it_is_confirmed() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    let said = daemon.ok(&["ban", Pair::STRANGER, "--revert", "2s"]);
    assert!(
        said.contains("portsentry ban --confirm 10.77.0.2"),
        "{said}"
    );
    let told = daemon.ok(&["list", "--json"]);
    assert!(told.contains("\"on_trial\":true"), "{told}");
    is_unbanned(host, Pair::STRANGER);
    assert!(stranger.reaches(at(Pair::HOST), 80));
    let said = daemon.command(&["ban", "--confirm", Pair::STRANGER]);
    assert!(said.err.contains("no ban that waits"), "{said:?}");

    daemon.ok(&["ban", Pair::STRANGER, "--revert", "60s", "--for", "2h"]);
    let said = daemon.ok(&["ban", "--confirm", Pair::STRANGER]);
    assert!(said.contains("10.77.0.2 banned for 2h"), "{said}");
    let element = daemon.element("banned4", Pair::STRANGER);
    assert!(element.expires > Some(7000), "{element:?}");

    // The kernel ends it also where we cannot.
    daemon.ok(&["ban", Pair::OTHER, "--revert", "60s"]);
    let element = daemon.element("banned4", Pair::OTHER);
    assert!(element.timeout <= Some(60), "{element:?}");
    daemon.stop();
    for args in [
        &["ban", "192.0.2.7", "--revert", "60s"][..],
        &["ban", "--confirm", Pair::OTHER],
    ] {
        let said = daemon.command(args);
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains("no daemon is running"), "{said:?}");
    }
}

#[test]
fn every_reason_is_told() {
    let Pair { host, .. } = &Pair::new();
    host.ip(&format!("route add default via {GATEWAY}"));
    let around = Surroundings::new();
    around.write("/etc/resolv.conf", &format!("nameserver {GATEWAY}\n"));
    around.write("/run/systemd/sessions/7", &session("root", GATEWAY));
    let mut daemon = Daemon::new(
        host,
        "ignore.host = [\"addresses\", \"gateways\", \"resolvers\", \"ssh\"]\n",
    );
    daemon.see(&around);
    daemon.ignore("10.77.0.0/28\n");
    daemon.restart();
    let reasons = [
        "10.77.0.9 is the default gateway (dev eth0)",
        "10.77.0.9 is a name server in /etc/resolv.conf",
        "root is logged in from 10.77.0.9 (session 7)",
    ];
    let told = daemon.ok(&["explain", GATEWAY]);
    let ignored = "is never banned: it is ignored (10.77.0.0/28 in ";
    assert!(told.contains(ignored), "{told}");
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("1 entry in the ignore lists, and:"),
        "{status}"
    );
    for reason in reasons {
        assert!(told.contains(&format!("\n    and {reason}\n")), "{told}");
        assert!(status.contains(&format!(" {reason}\n")), "{status}");
    }
    let told = daemon.ok(&["explain", Pair::HOST]);
    assert!(told.contains("this host's own address"), "{told}");
}
