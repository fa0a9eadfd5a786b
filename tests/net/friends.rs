//! Who is never banned.

use crate::lab::{Daemon, Host, Pair, at, eventually};

#[test]
fn an_ignored_address_may_scan() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(
        host,
        &format!(
            "[ignore]\naddresses = [\"{}\", \"fd77::/64\"]\n",
            Pair::STRANGER
        ),
    );
    stranger.nmap("-sS", "21-30", Pair::HOST);
    stranger.nmap("-6 -sS", "21-30", Pair::HOST6);
    daemon.has_counted("ignored", 20);
    daemon.assert_nobody_is_banned();
}

#[test]
fn who_stands_in_the_ignore_file_may_scan() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "");
    daemon.ignore(&format!(
        "# our scanner\n{}  # on purpose\n",
        Pair::STRANGER
    ));
    daemon.restart();
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("ignored", 10);
    daemon.assert_nobody_is_banned();
}

#[test]
fn who_is_put_into_the_ignore_file_is_unbanned() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let mut daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    daemon.ignore(&format!("{}\n", Pair::STRANGER));
    eventually("the ban is lifted", || {
        host.element("banned4", Pair::STRANGER)
            .is_none()
            .then_some(())
    });
    assert!(stranger.reaches(at(Pair::HOST), 80));
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("ignored", 10);
    daemon.stop();
    daemon.restart();
    daemon.assert_nobody_is_banned();
}

#[test]
fn who_is_taken_out_of_the_ignore_file_is_banned_for_what_follows() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "");
    daemon.ignore(&format!("{}\n", Pair::STRANGER));
    daemon.restart();
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("ignored", 10);
    daemon.ignore("");
    eventually("the change is noticed", || {
        stranger.knock(at(Pair::HOST), 21..=23);
        host.element("banned4", Pair::STRANGER)
    });
}

#[test]
fn mistakes_in_an_edited_ignore_file_leave_the_last_good_list_in_force() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::new(host, "");
    daemon.ignore(&format!("{}\n", Pair::STRANGER));
    daemon.restart();
    daemon.ignore("not an address\n");
    eventually("it complains", || {
        daemon.log().contains("ignore.list:1:1").then_some(())
    });
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("ignored", 10);
    daemon.assert_nobody_is_banned();
}

#[test]
fn an_edit_of_the_ignore_file_is_in_force_when_the_command_ends() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, "");
    stranger.nmap("-sS", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);

    let said = daemon.ok(&["ignore", "add", Pair::STRANGER, "--remark", "our scanner"]);
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Pair::HOST), 80));
    assert!(
        said.contains("\n10.77.0.2 unbanned (syn scan, 3 tcp ports, last 23; "),
        "{said}"
    );
    let refused = daemon.command(&["ban", Pair::STRANGER]);
    assert!(refused.err.contains("ignore.list:1)"), "{refused:?}");
    let history = daemon.ok(&["history"]);
    assert!(history.contains("ignored"), "{history}");
    stranger.nmap("-sS", "21-30", Pair::HOST);
    daemon.has_counted("ignored", 10);

    daemon.ok(&["ignore", "remove", Pair::STRANGER]);
    daemon.ok(&["ban", Pair::STRANGER]);
    daemon.ok(&["unban", Pair::STRANGER]);
    stranger.knock(at(Pair::HOST), 21..=23);
    daemon.element("banned4", Pair::STRANGER);
    assert_eq!(daemon.ok(&["ignore", "list"]), "nobody is ignored\n");
}

#[test]
fn an_edit_that_the_daemon_does_not_take_is_no_success() {
    let host = &Host::new("host");
    let mut daemon = Daemon::start(host, "");
    let other = daemon.path("other.list");
    daemon.configure(&format!("ignore.files = [{other:?}]\n"));
    let said = daemon.command(&["ignore", "add", "192.0.2.7"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("older configuration") && said.err.contains("other.list"),
        "{said:?}"
    );
    daemon.ok(&["reload"]);
    let said = daemon.command(&["ban", "192.0.2.7"]);
    assert!(said.err.contains("other.list:1)"), "{said:?}");

    daemon.ok(&["ban", "192.0.2.9"]);
    daemon.stop();
    let said = daemon.command(&["ignore", "add", "192.0.2.0/24"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(
        said.err.contains("no daemon is running")
            && said.err.contains("portsentry unban 192.0.2.9"),
        "{said:?}"
    );
    daemon.restart();
    daemon.assert_nobody_is_banned();
}

#[test]
fn the_hosts_own_address_is_never_banned() {
    let Pair { host, stranger } = &Pair::new();
    // Raw sockets see what the host sends to itself.
    let daemon = Daemon::start(host, "[capture]\nmethod = \"ip\"\n");
    host.nmap("-sS", "21-30", Pair::HOST);
    host.nmap("-sS", "21-30", "127.0.0.1");
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_stranger_who_forges_the_hosts_own_address_bans_nobody() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, "");
    for forged in [
        Pair::HOST,
        "127.0.0.1",
        "255.255.255.255",
        "224.0.0.1",
        "10.77.0.255",
    ] {
        stranger.hping3(5, &format!("-S -a {forged} -p ++21"), Pair::HOST);
    }
    daemon.everything_is_judged(stranger, at(Pair::HOST), 25);
    assert_eq!(daemon.counter("hits"), 1, "the one that followed");
    daemon.assert_nobody_is_banned();
}

#[test]
fn a_friend_cannot_be_banned_by_hand() {
    let Pair { host, .. } = &Pair::new();
    let daemon = Daemon::start(host, "[ignore]\naddresses = [\"192.0.2.0/24\"]\n");
    for (friend, why) in [
        (
            "192.0.2.7",
            "192.0.2.7 is never banned: it is ignored (192.0.2.0/24 in ignore.addresses)",
        ),
        (
            "192.0.0.0/16",
            "192.0.0.0/16 is never banned: it is ignored (192.0.2.0/24 in ignore.addresses)",
        ),
        (
            Pair::HOST,
            "10.77.0.1 is never banned: 10.77.0.1 is this host's own address",
        ),
        (
            "127.0.0.1",
            "127.0.0.1 is never banned: it is no host's own address",
        ),
        ("::", ":: is never banned: it is no host's own address"),
    ] {
        let said = daemon.command(&["ban", friend]);
        assert_eq!(said.status, 1, "{friend}: {said:?}");
        assert!(said.err.contains(why), "{friend}: {said:?}");
    }
    daemon.assert_nobody_is_banned();
}
