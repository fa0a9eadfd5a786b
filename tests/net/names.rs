//! Who is never banned because of a name in an ignore list: looked up with the system's resolver, from a name server on the host.

use serde_json::Value;

use crate::lab::{Daemon, Host, Mood, NameServer, Pair, Surroundings, at, eventually};

const OFFICE: &str = "office.example.net";

/// A host that asks its own name server, and gives up on it soon.
fn surroundings() -> Surroundings {
    let around = Surroundings::new();
    around.write(
        "/etc/resolv.conf",
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    );
    around
}

/// nft joins neighbouring addresses to one element: ask for the address itself.
fn is_let_through(host: &Host, address: &str, is: bool) {
    let set = if address.contains(':') {
        "ignored6"
    } else {
        "ignored4"
    };
    eventually(&format!("{address} in {set}: {is}"), || {
        let asked = host
            .command("nft")
            .args(["get", "element", "inet", "portsentry", set])
            .arg(format!("{{ {address} }}"))
            .output();
        let holds = asked.is_ok_and(|output| output.status.success());
        (holds == is).then_some(())
    });
}

fn is_banned(host: &Host, address: &str, is: bool) {
    eventually(&format!("{address} banned: {is}"), || {
        (host.element("banned4", address).is_some() == is).then_some(())
    });
}

fn refused(daemon: &Daemon<'_>, whom: &str, why: &str) {
    let said = daemon.command(&["ban", whom]);
    assert_eq!(said.status, 1, "{whom}: {said:?}");
    let expected = format!("{whom} is never banned: it is ignored ({why})");
    assert!(said.err.contains(&expected), "{expected}: {said:?}");
}

/// Waits until `status` tells of this trouble.
fn has_trouble(daemon: &Daemon<'_>, words: &str) {
    eventually(&format!("trouble: {words}"), || {
        let status = daemon.ok(&["status"]);
        let is_told = status.contains(words) && status.contains("is degraded");
        is_told.then_some(())
    });
}

#[test]
fn from_where_a_name_leads_nobody_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    server.say(OFFICE, &[Pair::STRANGER, Pair::STRANGER6, "10.77.0.77"]);
    let daemon = Daemon::start_in(
        &around,
        host,
        "ignore.addresses = [\"Office.example.NET\"]\n",
    );
    for address in [Pair::STRANGER, Pair::STRANGER6, "10.77.0.77"] {
        is_let_through(host, address, true);
        let why = format!("{OFFICE} in ignore.addresses, which is {address}");
        refused(&daemon, address, &why);
        let told = daemon.ok(&["explain", address]);
        let expected = format!("is never banned: it is ignored ({why})");
        assert!(told.contains(&expected), "{told}");
    }
    refused(
        &daemon,
        "10.77.0.64/27",
        &format!("{OFFICE} in ignore.addresses, which is 10.77.0.77"),
    );
    stranger.knock(at(Pair::HOST), 21..=30);
    stranger.knock(at(Pair::HOST6), 21..=30);
    daemon.has_counted("ignored", 20);
    daemon.assert_nobody_is_banned();

    let addresses = format!("10.77.0.2, 10.77.0.77, {}", Pair::STRANGER6);
    let told = daemon.ok(&["status"]);
    assert!(
        told.contains(&format!("{OFFICE} is {addresses}, found ")),
        "{told}"
    );
    let told = daemon.json("status");
    assert_eq!(told["friends"]["names"][0]["name"], Value::from(OFFICE));
    let told = daemon.ok(&["ignore", "list"]);
    assert!(
        told.contains(&format!("\n  is {addresses}, found ")),
        "{told}"
    );
    let log = daemon.log();
    let line = format!("{OFFICE} (ignore.addresses) is {addresses}");
    assert!(log.contains(&line), "{log}");
}

#[test]
fn a_name_is_followed_to_where_it_moves() {
    let Pair { host, .. } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    server.say(OFFICE, &[Pair::STRANGER]);
    let config = format!("ignore.addresses = [\"{OFFICE}\"]\nignore.refresh = \"1s\"\n");
    let daemon = Daemon::start_in(&around, host, &config);
    is_let_through(host, Pair::STRANGER, true);
    daemon.ok(&["ban", Pair::OTHER]);
    server.say(OFFICE, &[Pair::OTHER]);
    is_banned(host, Pair::OTHER, false);
    is_let_through(host, Pair::OTHER, true);
    is_let_through(host, Pair::STRANGER, false);
    daemon.ok(&["ban", Pair::STRANGER]);
}

#[test]
fn what_was_found_last_counts_while_nothing_can_be_found_and_over_a_restart() {
    let Pair { host, stranger } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    server.say(OFFICE, &[Pair::STRANGER]);
    let config = format!("ignore.addresses = [\"{OFFICE}\"]\nignore.refresh = \"1s\"\n");
    let mut daemon = Daemon::start_in(&around, host, &config);
    is_let_through(host, Pair::STRANGER, true);

    server.be(Mood::Failing);
    let kept = "10.77.0.2 is spared for it still";
    has_trouble(&daemon, kept);
    let why = format!("{OFFICE} in ignore.addresses, which is 10.77.0.2");
    refused(&daemon, Pair::STRANGER, &why);
    server.be(Mood::Well);
    eventually("it is found again", || {
        (!daemon.ok(&["status"]).contains(kept)).then_some(())
    });

    // Somebody took the name out of the DNS, or answers nonsense.
    for (answer, words) in [
        (&[][..], "there is no such name, or it has no address"),
        (&["0.0.0.0", "::"][..], "it leads to no host's own address"),
    ] {
        server.say(OFFICE, answer);
        has_trouble(&daemon, &format!("{words}; {kept}"));
    }

    server.be(Mood::Silent);
    daemon.stop();
    host.nft("flush set inet portsentry ignored4");
    daemon.restart();
    is_let_through(host, Pair::STRANGER, true);
    let told = daemon.ok(&["ignore", "list"]);
    assert!(
        told.contains("was 10.77.0.2 before the daemon's start"),
        "{told}"
    );
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.has_counted("ignored", 3);
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_name_that_was_never_found_is_told_loudly_and_others_are_still_banned() {
    let Pair { host, stranger } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    server.be(Mood::Silent);
    let mut daemon = Daemon::new(host, "");
    daemon.ignore(&format!("# desks\n{OFFICE}\nhome.example.net\n"));
    daemon.see(&around);
    daemon.restart();
    // While the look-up waits for the silent name server.
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.element("banned4", Pair::STRANGER);
    let words = "ignore.list:2) cannot be looked up: ";
    has_trouble(&daemon, words);
    has_trouble(&daemon, "nobody is spared for it");
    let log = daemon.log();
    assert!(log.contains("ERROR") && log.contains(words), "{log}");

    // As soon as there may be a better one.
    server.be(Mood::Well);
    server.say(OFFICE, &[Pair::STRANGER]);
    server.say("home.example.net", &["0.0.0.0"]);
    around.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
    is_banned(host, Pair::STRANGER, false);
    has_trouble(
        &daemon,
        "it leads to no host's own address; nobody is spared for it",
    );
    stranger.knock(at(Pair::HOST), 31..=33);
    daemon.has_counted("ignored", 3);
    daemon.ok(&["ban", Pair::OTHER]);
    is_let_through(host, "0.0.0.0", false);
    is_let_through(host, "198.51.100.1", false);
}

#[test]
fn names_are_added_and_taken_out_by_hand() {
    let Pair { host, .. } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    around.write(
        "/etc/hosts",
        "127.0.0.1 localhost\n10.77.0.3 home.example.net\n",
    );
    server.say(OFFICE, &[Pair::STRANGER]);
    let daemon = Daemon::start_in(&around, host, "");
    daemon.ok(&["ban", Pair::STRANGER]);
    daemon.ok(&["ban", Pair::OTHER]);
    let said = daemon.ok(&["ignore", "add", OFFICE, "--remark", "desks"]);
    assert!(said.contains("office.example.net is ignored by "), "{said}");
    daemon.ok(&["ignore", "add", "home.example.net"]);
    is_banned(host, Pair::STRANGER, false);
    is_banned(host, Pair::OTHER, false);
    let said = daemon.ok(&["ignore", "add", OFFICE]);
    assert!(said.contains("is ignored already by "), "{said}");
    daemon.ok(&["ignore", "remove", OFFICE]);
    is_let_through(host, Pair::STRANGER, false);
    is_let_through(host, Pair::OTHER, true);
    daemon.ok(&["ban", Pair::STRANGER]);
    for wrong in ["localhost", "office.example.net/24", "10.0.0.l"] {
        let said = daemon.command(&["ignore", "add", wrong]);
        assert_eq!(said.status, 2, "{wrong}: {said:?}");
    }
}

#[test]
fn a_command_without_a_daemon_looks_names_up_too() {
    let Pair { host, .. } = &Pair::new();
    let (around, server) = (surroundings(), NameServer::new(host));
    server.say(OFFICE, &[Pair::STRANGER]);
    let mut daemon = Daemon::new(host, &format!("ignore.addresses = [\"{OFFICE}\"]\n"));
    daemon.see(&around);
    let why = format!("{OFFICE} in ignore.addresses, which is 10.77.0.2");
    refused(&daemon, Pair::STRANGER, &why);
    server.be(Mood::Failing);
    let said = daemon.command(&["ban", Pair::OTHER]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(said.err.contains("cannot be looked up: "), "{said:?}");
}
