//! Against the kernel, each test in a network namespace of its own, with `nft` looking on. They need root.

use std::io::ErrorKind::ConnectionRefused;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::listen::{Listeners, Settings};
use crate::probe::{Probe, Protocol, ScanType};

const T0: Mono = Mono(1_000_000);

/// What the table looks like, for those who look for it.
const LISTING: &str = r#"table inet portsentry-traps {
	comment "portsentry format 1 of traps"
	set ports {
		type inet_service
		flags interval
		elements = { 1-22, 60000-65535 }
	}

	chain prerouting {
		type filter hook prerouting priority -50; policy accept;
		iif != "lo" tcp dport @ports socket transparent <= 1 counter packets 0 bytes 0 accept
		iif != "lo" tcp dport @ports fib daddr type local meta nfproto ipv4 tproxy ip to 127.0.0.1:4000 counter packets 0 bytes 0
		iif != "lo" tcp dport @ports fib daddr type local meta nfproto ipv6 tproxy ip6 to [::1]:6000 counter packets 0 bytes 0
	}
}
"#;

fn enter_empty_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests of the kernel's tables need root");
}

fn nft(text: &str) -> Result<String, String> {
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]).stdin(Stdio::piped());
    nft.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = nft.spawn().expect("nft is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn listing() -> Result<String, String> {
    nft("list table inet portsentry-traps")
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.expect("ip is installed").success(), "ip {words}");
}

fn traps() -> nft::Traps {
    nft::Traps {
        ports: vec![1..=22, 60_000..=65_535],
        interfaces: Vec::new(),
        ipv4: Some(4000),
        ipv6: Some(6000),
    }
}

#[test]
fn the_table_reads_well_is_reloadable_and_goes_with_us() {
    enter_empty_network();
    let made = Traps::set_up("portsentry", traps()).unwrap();
    assert_eq!(listing().unwrap(), LISTING);
    let replaced = format!("delete table inet portsentry-traps\n{LISTING}");
    nft(&replaced).expect("a saved ruleset can be loaded");
    drop(made);
    assert!(listing().is_err(), "it is gone");
}

#[test]
fn interfaces_are_told_by_their_names_there_or_not() {
    enter_empty_network();
    let interfaces = vec!["eth0".to_owned(), "a-15-bytes-name".to_owned()];
    let wanted = nft::Traps {
        interfaces,
        ipv6: None,
        ..traps()
    };
    let _made = Traps::set_up("portsentry", wanted).unwrap();
    let listing = listing().unwrap();
    for name in ["eth0", "a-15-bytes-name"] {
        let rules = listing
            .matches(&format!("iifname \"{name}\" tcp dport @ports"))
            .count();
        assert_eq!(rules, 2, "{listing}");
    }
    assert!(
        !listing.contains("iif ") && !listing.contains("ip6"),
        "{listing}"
    );
}

#[test]
fn what_was_left_behind_is_replaced_and_what_is_not_ours_stays() {
    enter_empty_network();
    nft("table inet portsentry-traps { comment \"portsentry format 1 of traps\"; set old { type mark; }; }").unwrap();
    drop(Traps::set_up("portsentry", traps()).unwrap());
    nft("table inet portsentry-traps { set theirs { type mark; }; }").unwrap();
    let why = Traps::set_up("portsentry", traps()).err().unwrap();
    assert!(why.to_string().contains("somebody else made it"), "{why}");
    Traps::clear_away("portsentry").unwrap();
    assert!(listing().unwrap().contains("theirs"));
}

#[test]
fn whatever_somebody_does_to_it_is_put_right_but_not_for_ever_at_once() {
    enter_empty_network();
    let mut made = Traps::set_up("portsentry", traps()).unwrap();
    made.begin_watching().unwrap();
    for damage in [
        "flush ruleset",
        "flush chain inet portsentry-traps prerouting",
        "delete element inet portsentry-traps ports { 1-22 }",
        "add rule inet portsentry-traps prerouting drop",
    ] {
        nft(damage).unwrap();
        made.notice(T0);
        assert_eq!(listing().unwrap(), LISTING, "{damage}");
        assert_eq!(made.trouble(), None);
    }
    for _ in 0..AT_ONCE {
        nft("flush ruleset").unwrap();
        made.notice(T0);
    }
    assert!(listing().is_err(), "enough is enough");
    let trouble = made.trouble().unwrap();
    assert!(
        trouble.starts_with("nft pid ") && trouble.contains("again and again"),
        "{trouble}"
    );
    let due = made.next_deadline().unwrap();
    made.tick(due);
    assert_eq!(listing().unwrap(), LISTING);
    assert_eq!((made.trouble(), made.next_deadline()), (None, None));
}

#[test]
fn what_nobody_has_told_is_found_by_looking() {
    enter_empty_network();
    let mut made = Traps::set_up("portsentry", traps()).unwrap();
    nft("flush ruleset").unwrap();
    made.verify(T0);
    assert_eq!(listing().unwrap(), LISTING);
    made.change(nft::Traps {
        ports: vec![23..=23],
        ..traps()
    })
    .unwrap();
    assert!(listing().unwrap().contains("elements = { 23 }"));
}

/// All of it, within one host: a trap on the loopback interface, which is named.
#[test]
fn a_connection_to_a_trap_is_accepted_as_what_its_peer_meant() {
    enter_empty_network();
    ip("link set lo up");
    ip("addr add 192.0.2.1/24 dev lo");
    ip("addr add 2001:db8::1/64 dev lo nodad");
    let settings = Settings {
        traps: true,
        ..Settings::default()
    };
    let (mut listeners, _) = Listeners::open(settings, T0).unwrap();
    let [ipv4, ipv6] = listeners.trap_ports();
    let wanted = nft::Traps {
        ports: vec![1..=1023],
        interfaces: vec!["lo".to_owned()],
        ipv4,
        ipv6,
    };
    let _made = Traps::set_up("portsentry", wanted).unwrap();
    let service = TcpListener::bind("192.0.2.1:80").unwrap();
    let connect = |to: &str| {
        let to: SocketAddr = to.parse().unwrap();
        TcpStream::connect_timeout(&to, Duration::from_secs(5))
    };
    // A thread of the kernel's adds the route to an IPv6 address, after `ip` has ended; until then, nobody is there to refuse it.
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect("[2001:db8::1]:1024").map_err(|it| it.kind()).err() != Some(ConnectionRefused) {
        assert!(Instant::now() < deadline, "the address is not the host's");
    }
    for cookies in ["1", "2"] {
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies).unwrap();
        for to in ["192.0.2.1:23", "[2001:db8::1]:1023"] {
            let visitor = connect(to).unwrap();
            let (from, to) = (visitor.local_addr().unwrap(), visitor.peer_addr().unwrap());
            let mut probes = Vec::new();
            while probes.is_empty() {
                listeners.read(&mut probes, T0);
            }
            let probe = Probe {
                source: from.ip(),
                dest: to.ip(),
                protocol: Protocol::Tcp,
                source_port: from.port(),
                port: to.port(),
                scan_type: ScanType::Connect,
                ip_options: false,
                odd_flags: 0,
            };
            assert_eq!(probes, [probe], "tcp_syncookies = {cookies}");
        }
        let _served = connect("192.0.2.1:80").unwrap();
        service.accept().expect("a service has its port");
        assert!(connect("192.0.2.1:1024").is_err(), "no trap");
    }
    assert_eq!(listeners.read(&mut Vec::new(), T0).probes, 0);
    drop(listeners);
    // Between its fork and its exec, a child that another test starts holds the listener too.
    let deadline = Instant::now() + Duration::from_secs(20);
    while connect("192.0.2.1:23").is_ok() {
        assert!(
            Instant::now() < deadline,
            "without a listener it is as if there were no table"
        );
    }
}
