//! Traps that take connections: only who completes a handshake is banned, and no service notices.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::lab::{Bridge, Daemon, Host, Pair, Routed, at, eventually, send_syns};

const HANDSHAKE: &str = "detect.confirm = \"handshake\"\n";
const BANNER: &str = "go away";

/// The table of traps, as nft lists it; empty where there is none.
fn table(host: &Host) -> String {
    let listed = host.try_nft("list table inet portsentry-traps");
    String::from_utf8(listed.stdout).expect("nft writes UTF-8")
}

/// Three thousand strangers, none of whom exists.
fn crowd() -> impl Iterator<Item = Ipv4Addr> {
    (1..=3000).map(|n| Ipv4Addr::from(0x0b00_0000 + n * 7))
}

/// How often the kernel has answered a SYN without keeping anything.
fn cookies_sent(host: &Host) -> u64 {
    let counts = host.run("cat /proc/net/netstat");
    let mut rows = counts
        .lines()
        .filter(|line| line.starts_with("TcpExt:"))
        .map(|line| line.split_whitespace());
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let found = names
        .zip(values)
        .find(|(name, _)| *name == "SyncookiesSent");
    found
        .and_then(|(_, value)| value.parse().ok())
        .expect("every kernel counts them")
}

/// What a peer is told until he is left.
fn said(connection: std::io::Result<TcpStream>) -> String {
    let mut connection = connection.expect("it is accepted");
    let patience = Some(Duration::from_secs(10));
    connection
        .set_read_timeout(patience)
        .expect("a socket takes one");
    let mut words = String::new();
    connection
        .read_to_string(&mut words)
        .expect("he is left in peace");
    words
}

/// Connects to each of these traps, and waits until each has been judged.
fn shake_hands(
    stranger: &Host,
    daemon: &Daemon<'_>,
    host: &str,
    ports: impl IntoIterator<Item = u16>,
) {
    for port in ports {
        let before = daemon.counter("hits");
        stranger.connect(at(host), port).expect("a trap is open");
        // The SYN, and the handshake.
        daemon.has_counted("hits", before + 2);
    }
}

#[test]
fn a_syn_scan_bans_nobody_and_handshakes_after_it_do() {
    let Pair { host, stranger } = &Pair::new();
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, HANDSHAKE);
    stranger.nmap("-sS", "21-60", Pair::HOST);
    stranger.nmap("-sF", "21-60", Pair::HOST);
    daemon.has_counted("hits", 80);
    daemon.assert_nobody_is_banned();
    assert_eq!(daemon.counter("unconfirmed"), 80);
    let explained = daemon.ok(&["explain", Pair::STRANGER]);
    for words in [
        "probes that count: 0 of the 3 that make a scan, each a completed TCP handshake\n",
        "packets that do not count, for anybody may have sent them in its name, the last of them:\n    fin scan of tcp port ",
    ] {
        assert!(explained.contains(words), "{explained}");
    }
    let status = daemon.ok(&["status"]);
    assert!(
        status.contains("unconfirmed, for want of a TCP handshake: 80 packets"),
        "{status}"
    );
    stranger.nmap("-sT", "21-23", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    for port in [21, 80] {
        assert!(
            !stranger.reaches(at(Pair::HOST), port),
            "a ban drops before all else"
        );
    }
}

#[test]
fn a_connect_scan_is_banned_and_told_as_one() {
    for (address, set, key) in [
        (Pair::HOST, "banned4", Pair::STRANGER),
        (Pair::HOST6, "banned6", Pair::STRANGER6),
    ] {
        let Pair { host, stranger } = &Pair::new();
        let daemon = Daemon::start(host, HANDSHAKE);
        shake_hands(stranger, &daemon, address, [21, 22]);
        daemon.assert_nobody_is_banned();
        stranger.knock(at(address), [23]);
        let element = daemon.element(set, key);
        let comment = element.comment.as_deref();
        assert_eq!(comment, Some("connect scan, 3 tcp ports, last 23"));
        assert!(daemon.log().contains("to TCP port: 23"), "{}", daemon.log());
    }
}

#[test]
fn a_scan_of_everything_by_connections_is_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, HANDSHAKE);
    stranger.nmap("-sT", "1-200", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn udp_alone_has_nobody_banned() {
    let Pair { host, stranger } = &Pair::new();
    let daemon = Daemon::start(host, HANDSHAKE);
    stranger.datagrams(at(Pair::HOST), 21..=60);
    daemon.has_counted("unconfirmed", 40);
    daemon.assert_nobody_is_banned();
    shake_hands(stranger, &daemon, Pair::HOST, [21, 22]);
    daemon.assert_nobody_is_banned();
    shake_hands(stranger, &daemon, Pair::HOST, [23]);
    let element = daemon.element("banned4", Pair::STRANGER);
    assert!(
        element
            .comment
            .is_some_and(|words| words.starts_with("connect scan, 3 "))
    );
}

#[test]
fn a_flood_of_forged_packets_bans_nobody_and_hides_nobody() {
    let Pair { host, stranger } = &Pair::new();
    // So that the kernel tries to answer those who do not exist, and fills its queues.
    host.ip("route add default via 10.77.0.2");
    let _service = host.serve(at(Pair::HOST), 80);
    let daemon = Daemon::start(host, HANDSHAKE);
    eventually(
        "the forged packets are judged, and the queue of traps runs over",
        || {
            for port in 21..=24 {
                send_syns(stranger, crowd(), Ipv4Addr::new(10, 77, 0, 1), port);
            }
            (daemon.counter("unconfirmed") > 2_000 && cookies_sent(host) > 0).then_some(())
        },
    );
    // And a thousand in the name of one who is there.
    stranger.hping3(1000, &format!("-S -a {} -p ++1", Pair::OTHER), Pair::HOST);
    daemon.assert_nobody_is_banned();
    assert!(stranger.reaches(at(Pair::HOST), 80));
    stranger.nmap("-sT", "25-28", Pair::HOST);
    daemon.element("banned4", Pair::STRANGER);
    assert_eq!(daemon.banned(), [Pair::STRANGER]);
    let lines = daemon.log().lines().count();
    assert!(lines < 40, "{lines} lines: {}", daemon.log());
}

#[test]
fn a_service_has_its_port_before_and_from_the_moment_it_starts() {
    let Pair { host, stranger } = &Pair::new();
    let _web = host.serve(at("::"), 80);
    let banner = format!("{HANDSHAKE}listen.banner = {BANNER:?}\ndetect.trigger = 64\n");
    let daemon = Daemon::start(host, &banner);
    for address in [Pair::HOST, Pair::HOST6] {
        assert_eq!(said(stranger.connect(at(address), 80)), "welcome\n");
        assert_eq!(said(stranger.connect(at(address), 25)), BANNER);
    }
    daemon.has_counted("hits", 4);
    let mail = host.serve(at("::"), 25);
    // That nobody is there is believed for a second, but not when it comes to a ban.
    eventually("it is known as a service", || {
        for address in [Pair::HOST, Pair::HOST6] {
            assert_eq!(said(stranger.connect(at(address), 25)), "welcome\n");
        }
        (daemon.counter("services") >= 4).then_some(())
    });
    drop(mail);
    // While it restarts, its clients find a trap, and are no scanners for that.
    let (hits, services) = (daemon.counter("hits"), daemon.counter("services"));
    for _ in 0..3 {
        assert_eq!(said(stranger.connect(at(Pair::HOST), 25)), BANNER);
    }
    daemon.has_counted("services", services + 6);
    assert_eq!(daemon.counter("hits"), hits);
}

#[test]
fn a_thousand_ports_cost_a_descriptor_for_each_family() {
    let Pair { host, stranger } = &Pair::new();
    let ports = |last: u16| {
        format!(
            "{HANDSHAKE}listen.banner = {BANNER:?}\ndetect.trigger = 64\ndetect.count = \"hits\"\n\
             [tcp]\nmode = \"connect\"\nports = [\"1000-{last}\"]\n"
        )
    };
    let daemon = Daemon::start(host, &ports(1000));
    let descriptors = || {
        let all = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs");
        all.count()
    };
    let listening = || host.run("ss -Htln").lines().count();
    assert_eq!(listening(), 2);
    // What is opened for the first visitor stays open.
    assert_eq!(said(stranger.connect(at(Pair::HOST), 1000)), BANNER);
    daemon.has_counted("hits", 1);
    let few = {
        let mut last = 0;
        eventually("commands are gone", || {
            (std::mem::replace(&mut last, descriptors()) == last).then_some(last)
        })
    };
    daemon.configure(&ports(1999));
    daemon.ok(&["reload"]);
    eventually("the command that asked is gone", || {
        (descriptors() == few).then_some(())
    });
    assert_eq!(listening(), 2);
    for port in (1000..=1999).step_by(111) {
        for address in [Pair::HOST, Pair::HOST6] {
            assert_eq!(said(stranger.connect(at(address), port)), BANNER);
        }
    }
    daemon.has_counted("hits", 21);
    assert!(!stranger.reaches(at(Pair::HOST), 2000));
    eventually("nothing is held", || (descriptors() == few).then_some(()));
}

#[test]
fn the_table_stands_while_the_daemon_does_whatever_others_do_to_it() {
    let Pair { host, stranger } = &Pair::new();
    let mut daemon = Daemon::start(host, &format!("{HANDSHAKE}detect.trigger = 64\n"));
    let made = table(host);
    assert!(
        made.contains("elements = { 1-112, 114-138, 140-1023 }"),
        "{made}"
    );
    host.nft("flush ruleset");
    eventually("it is there again", || (table(host) == made).then_some(()));
    shake_hands(stranger, &daemon, Pair::HOST, [23]);
    let log = daemon.log();
    assert!(
        log.contains("has changed table inet portsentry-traps: it is made anew"),
        "{log}"
    );
    assert!(stranger.reaches(at(Pair::HOST), 23));

    daemon.configure("");
    daemon.ok(&["reload"]);
    assert_eq!(table(host), "");
    assert!(!stranger.reaches(at(Pair::HOST), 23));
    daemon.configure(HANDSHAKE);
    daemon.ok(&["reload"]);
    assert!(stranger.reaches(at(Pair::HOST), 23));

    daemon.kill9();
    assert!(table(host).contains("tproxy"), "nobody took it down");
    assert!(!stranger.reaches(at(Pair::HOST), 23), "and it does nothing");
    daemon.ok(&["withdraw"]);
    assert_eq!(table(host), "");
    daemon.restart();
    assert!(stranger.reaches(at(Pair::HOST), 23));
    daemon.stop();
    assert_eq!(table(host), "");
}

#[test]
fn what_is_forwarded_or_handed_on_is_led_to_no_trap() {
    let Bridge {
        host,
        container,
        neighbour: _,
        stranger,
    } = &Bridge::new();
    // 80 leads to a container, 86 to a port of the host's own that nobody listens on.
    host.nft(
        "add table ip published { chain pre { type nat hook prerouting priority dstnat; \
         tcp dport 80 dnat to 10.88.0.2; tcp dport 86 redirect to :1000; }; }",
    );
    let web = container.serve(at(Bridge::CONTAINER), 80);
    let daemon = Daemon::start(host, &format!("{HANDSHAKE}detect.trigger = 1\n"));
    assert_eq!(said(stranger.connect(at(Pair::HOST), 80)), "welcome\n");
    assert!(!stranger.reaches(at(Bridge::CONTAINER), 25));
    drop(web);
    assert!(!stranger.reaches(at(Pair::HOST), 80));
    assert!(stranger.reaches(at(Pair::HOST), 86));
    daemon.has_counted("services", 4);
    assert_eq!(daemon.counter("hits"), 0);
    daemon.assert_nobody_is_banned();
    stranger.knock(at(Pair::HOST), [25]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn a_published_port_that_has_never_been_answered_is_no_trap() {
    let Bridge {
        host,
        container: _container,
        neighbour: _,
        stranger,
    } = &Bridge::new();
    host.nft(
        "add table ip published { chain pre { type nat hook prerouting priority dstnat; \
         tcp dport 80-82 dnat to 10.88.0.2; }; }",
    );
    let daemon = Daemon::start(host, &format!("{HANDSHAKE}detect.trigger = 1\n"));
    for port in 80..=82 {
        assert!(!stranger.reaches(at(Pair::HOST), port), "{port} is refused");
    }
    // Whatever was to come of those has come before this.
    daemon.ok(&["ban", "192.0.2.1"]);
    daemon.element("banned4", "192.0.2.1");
    let told = daemon.ok(&["explain", Pair::STRANGER]);
    assert!(told.contains("is not banned"), "{told}");
    stranger.knock(at(Pair::HOST), [25]);
    daemon.element("banned4", Pair::STRANGER);
}

#[test]
fn traps_are_on_the_named_interfaces_alone() {
    let Routed {
        host,
        router,
        stranger,
    } = &Routed::new();
    let config = format!("{HANDSHAKE}detect.trigger = 1\ncapture.interfaces = [\"out\"]\n");
    let daemon = Daemon::start(router, &config);
    assert!(!host.reaches(at(Routed::ROUTER), 25));
    stranger.knock(at(Routed::ROUTER), [25]);
    daemon.element("banned4", Routed::STRANGER);
    assert_eq!(daemon.banned(), [Routed::STRANGER]);
}

#[test]
fn a_table_of_that_name_that_is_not_ours_is_a_reason_not_to_start() {
    let Pair { host, .. } = &Pair::new();
    host.nft("add table inet portsentry-traps");
    let said = Daemon::new(host, HANDSHAKE).run_to_its_end();
    assert_eq!(said.status, 1);
    let words = "table inet portsentry-traps is there already, without the comment";
    assert!(said.err.contains(words), "{said:?}");
}

#[test]
fn the_table_of_traps_goes_by_the_name_that_a_reload_gives() {
    let Pair { host, stranger } = &Pair::new();
    // Where nftables is not at work, its table may be called otherwise at a reload.
    let config = |table: &str| {
        format!("{HANDSHAKE}ban.responders = [\"route\"]\nnftables.table = \"{table}\"\n")
    };
    let daemon = Daemon::start(host, &config("first"));
    let tables = || host.nft("list tables");
    assert_eq!(tables(), "table inet first-traps\n");
    daemon.configure(&config("second"));
    daemon.ok(&["reload"]);
    assert_eq!(tables(), "table inet second-traps\n");
    host.nft("flush ruleset");
    eventually("what others do to it is put right", || {
        (tables() == "table inet second-traps\n").then_some(())
    });
    shake_hands(stranger, &daemon, Pair::HOST, 21..=23);
    eventually("the scanner is banned", || {
        (daemon.banned() == [Pair::STRANGER]).then_some(())
    });
}
