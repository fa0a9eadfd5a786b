//! Against the kernel, each test in a network namespace of its own, with `nft` looking on. They need root.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::clock::{Now, Wall};
use crate::config::{Config, Hook, LogRate};
use crate::policy::{End, Origin, Summary, Unit};
use crate::probe::{Protocol, ScanType};

mod friends;
mod own;
mod restore;

const FILE: &str = include_str!("../../../nft/portsentry.nft");
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Moves this test's thread into an empty network.
fn enter_empty_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("tests of the kernel's tables need root");
}

fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tool is installed");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Has nft do this.
fn load(text: &str) {
    run(Command::new("nft").args(["-f", "-"]), text).expect("nft takes the text");
}

/// Our table as nft lists it.
fn listing() -> String {
    let listed = run(
        Command::new("nft").args(["list", "table", "inet", "portsentry"]),
        "",
    );
    listed.expect("the table is there")
}

/// The steps of the rules, as the kernel has them.
fn bytecode() -> Vec<String> {
    let listed = run(
        Command::new("nft").args(["--debug=netlink", "list", "table", "inet", "portsentry"]),
        "",
    );
    let lines = listed.unwrap();
    let code = lines.lines().filter(|line| line.starts_with("  ["));
    code.map(str::to_owned).collect()
}

/// The listing without the elements.
fn listed_shape() -> String {
    let listed = run(
        Command::new("nft").args(["-t", "list", "table", "inet", "portsentry"]),
        "",
    );
    listed.expect("the table is there")
}

fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split_whitespace()), "").expect("ip takes the arguments");
}

fn config() -> Config {
    Config::default()
}

fn responder(config: &Config) -> Nftables {
    Nftables::open(&config.nftables, &config.ban).unwrap()
}

/// A responder of the default configuration, its table just made.
fn prepared() -> Nftables {
    enter_empty_network();
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
    nftables
}

/// A ban of that length, with so much of it left.
fn ban_with(source: &str, reason: &str, length: Duration, left: Duration, now: Now) -> Ban {
    let begun = i64::try_from((length - left).as_millis()).unwrap();
    Ban {
        source: source.parse().unwrap(),
        reason: Reason::Text(reason.into()),
        origin: Origin::Scan,
        by: None,
        start: Wall(now.wall.0 - begun),
        end: Some(End {
            mono: now.mono.later(left),
            wall: now.wall.later(left),
        }),
    }
}

fn ban(source: &str, now: Now) -> Ban {
    ban_with(source, "test", HOUR, HOUR, now)
}

fn ever(source: &str, now: Now) -> Ban {
    Ban {
        end: None,
        ..ban(source, now)
    }
}

fn many(count: u32, now: Now) -> Vec<Ban> {
    (0..count)
        .map(|i| {
            let source = if i % 2 == 0 {
                Source::from(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i)))
            } else {
                let prefix = 0x2001_0db8_u128 << 96 | u128::from(i) << 64;
                Source::prefix(Ipv6Addr::from(prefix).into(), 64)
            };
            Ban {
                source,
                ..ban("192.0.2.1", now)
            }
        })
        .collect()
}

fn refs(bans: &[Ban]) -> Vec<&Ban> {
    bans.iter().collect()
}

fn find(nftables: &mut Nftables, source: &str) -> Option<Held> {
    nftables.find(source.parse().unwrap()).unwrap()
}

fn held_by(nftables: &Nftables) -> Vec<Held> {
    let job = nftables.holdings().unwrap();
    let list = || job(&crate::source::Sources::default());
    std::thread::spawn(list).join().unwrap().unwrap()
}

fn nets(nets: &[&str]) -> Vec<IpNet> {
    nets.iter().map(|net| net.parse().unwrap()).collect()
}

/// The default configuration, with that many packets a minute logged.
fn logging(packets: u32) -> Config {
    let mut config = config();
    let per = MINUTE;
    config.nftables.log = Some(LogRate { packets, per });
    config
}

/// The file, with a rule before each that drops.
fn file_with(log: &str) -> String {
    let lines = FILE
        .lines()
        .map(|line| match line.strip_suffix(" counter drop") {
            Some(condition) => format!("{condition} {log}\n{line}\n"),
            None => format!("{line}\n"),
        });
    lines.collect()
}

/// Waits until it holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The counter of the rule that drops whom this set holds, in packets.
fn dropped(set: &str) -> u64 {
    counted(&format!("@{set} counter"))
}

/// The counter of the rule that logs whom this set holds, in packets.
fn logged(set: &str) -> u64 {
    counted(&format!("@{set} limit"))
}

fn counted(rule: &str) -> u64 {
    let listing = listed_shape();
    let rule = listing.lines().find(|line| line.contains(rule));
    let mut words = rule.expect("the rule is there").split(' ');
    words.find(|word| *word == "counter").unwrap();
    assert_eq!(words.next(), Some("packets"));
    words.next().unwrap().parse().unwrap()
}

#[test]
fn the_file_and_the_responder_make_the_same_table() {
    enter_empty_network();
    for _ in 0..3 {
        load(FILE);
    }
    let (from_file, from_file_code) = (listing(), bytecode());
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    assert_eq!(listing(), from_file);

    let nftables = prepared();
    assert_eq!(listing(), from_file);
    assert_eq!(bytecode(), from_file_code);
    assert_eq!(from_file_code.len(), 8 + 4 * 6 + 7);
    assert!(nftables.handle().is_some());
    assert!(from_file.contains("ip saddr @banned4 counter packets 0 bytes 0 drop"));
    let text = run(Command::new("nft").args(["list", "ruleset"]), "").unwrap();
    load(&format!("flush ruleset\n{text}"));
    assert_eq!(listing(), from_file, "what nft lists, nft loads");
}

#[test]
fn with_a_log_a_rule_before_each_drop_says_so() {
    enter_empty_network();
    let mut nftables = responder(&logging(3));
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
    let listed = listing();
    let rules = [
        "ip saddr @banned4",
        "ip6 saddr @banned6",
        "ip6 saddr & ffff:ffff:ffff:ffff:: == @banned6_64",
    ]
    .map(|from| {
        format!(
            "\t\t{from} limit rate 3/minute counter packets 0 bytes 0 \
             log prefix \"Portsentry: dropping: \" level debug\n\
             \t\t{from} counter packets 0 bytes 0 drop\n"
        )
    });
    // Newer versions of nft show the burst even where it is the usual one.
    let shown = listed.replace(" burst 5 packets", "");
    assert!(shown.contains(&rules.concat()), "{listed}");
    let code = bytecode();

    load(&format!("delete table inet portsentry\n{listed}"));
    assert_eq!(listing(), listed, "what nft lists, nft loads");
    assert_eq!(bytecode(), code, "and means the same by it");
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
}

#[test]
fn a_log_that_is_turned_on_changed_or_off_keeps_the_bans() {
    let mut nftables = prepared();
    let now = Now::read();
    nftables.ban(&refs(&many(100, now)), now).unwrap();
    let table = nftables.handle();
    let million = |per| LogRate {
        packets: 1_000_000,
        per,
    };
    let mut config = config();
    for (log, words) in [
        (logging(3).nftables.log, Some("limit rate 3/minute")),
        (logging(4).nftables.log, Some("limit rate 4/minute")),
        (Some(million(24 * HOUR)), Some("limit rate 1000000/day")),
        (
            Some(million(MINUTE / 60)),
            Some("limit rate 1000000/second"),
        ),
        (None, None),
    ] {
        config.nftables.log = log;
        let mut nftables = responder(&config);
        assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt, "{words:?}");
        let listed = listed_shape();
        assert!(
            listed.contains(words.unwrap_or("counter")),
            "{words:?} in\n{listed}"
        );
        assert_eq!(listed.contains(" log "), words.is_some(), "{listed}");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted, "{words:?}");
        assert_eq!(nftables.handle(), table, "{words:?}");
        assert_eq!(held_by(&nftables).len(), 100, "{words:?}");
        nftables.unban_all().unwrap();
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted, "{words:?}");
        nftables.ban(&refs(&many(100, now)), now).unwrap();
    }
}

#[test]
fn a_log_other_than_ours_is_replaced() {
    let ours = "limit rate 3/minute burst 5 packets counter log prefix \"Portsentry: dropping: \" level debug";
    enter_empty_network();
    load(&file_with(ours));
    let mut nftables = responder(&logging(3));
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    let right = listed_shape();
    for (from, to) in [
        ("rate", "rate over"),
        ("3/minute", "3/hour"),
        ("3/minute", "4/minute"),
        ("burst 5 packets", "burst 6 packets"),
        ("3/minute burst 5 packets", "3 bytes/minute"),
        ("limit rate 3/minute burst 5 packets ", ""),
        ("counter ", ""),
        ("dropping: ", "dropping"),
        ("prefix \"Portsentry: dropping: \" ", ""),
        ("level debug", "level info"),
        ("level debug", "group 0"),
        ("level debug", "level debug flags all"),
        ("level debug", "level debug drop"),
    ] {
        let others = ours.replace(from, to);
        assert_ne!(others, ours);
        load("flush ruleset");
        load(&file_with(&others));
        assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt, "{others}");
        assert_eq!(listed_shape(), right, "{others}");
    }
}

#[test]
fn of_many_packets_some_are_logged_and_all_are_dropped() {
    enter_empty_network();
    ip("link set lo up");
    let mut nftables = responder(&logging(3));
    nftables.prepare().unwrap();
    let now = Now::read();
    let bans = [ban("127.0.0.2", now), ban("::1", now)];
    nftables.ban(&refs(&bans), now).unwrap();
    for (from, to) in [
        ("127.0.0.2", "127.0.0.1:9"),
        ("::1", "[::1]:9"),
        ("127.0.0.3", "127.0.0.1:9"),
    ] {
        let sender = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..100 {
            // Those that are not banned hear that nobody listens there.
            let _ = sender.send_to(b"x", to);
        }
    }
    // Three a minute: with the burst, more than fifteen would have taken three minutes.
    for set in ["banned4", "banned6"] {
        assert_eq!(dropped(set), 100, "{set}");
        assert!((5..=15).contains(&logged(set)), "{}", logged(set));
    }
    assert_eq!((logged("banned6_64"), dropped("banned6_64")), (0, 0));
}

#[test]
fn loading_the_file_over_a_table_in_use_keeps_its_bans() {
    let mut nftables = prepared();
    let now = Now::read();
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    load(FILE);
    assert!(find(&mut nftables, "192.0.2.7").is_some());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
}

#[test]
fn a_ban_reads_well_in_a_listing() {
    let mut nftables = prepared();
    let now = Now::read();
    let scan = Reason::Scan(Summary {
        scan_type: Some(ScanType::Syn),
        protocol: Some(Protocol::Tcp),
        count: 3,
        unit: Unit::Ports,
        last_port: 23,
    });
    let address = Ban {
        reason: scan.clone(),
        ..ban_with("192.0.2.7", "", 10 * MINUTE, 4 * MINUTE, now)
    };
    let prefix = Ban {
        reason: scan.clone(),
        ..ever("2001:db8::/64", now)
    };
    nftables.ban(&[&address, &prefix], now).unwrap();
    let listing = listing();
    assert!(
        listing.contains("192.0.2.7 timeout 10m expires 3m59s")
            && listing.contains("comment \"syn scan, 3 tcp ports, last 23\""),
        "{listing}"
    );
    assert!(
        listing.contains("2001:db8:: comment \"2001:db8::/64 syn scan, 3 tcp ports, last 23\""),
        "{listing}"
    );

    let found = find(&mut nftables, "192.0.2.7").unwrap();
    assert_eq!(found.reason, Some(scan.clone()));
    let clock = found.clock.unwrap();
    assert_eq!(clock.length, 600_000);
    assert!((200_000..=240_000).contains(&clock.left), "{clock:?}");
    let found = find(&mut nftables, "2001:db8::/64").unwrap();
    assert_eq!((found.reason, found.clock), (Some(scan), None));
    assert_eq!(find(&mut nftables, "2001:db8::"), None, "the address alone");
    assert_eq!(find(&mut nftables, "192.0.2.8"), None);
}

#[test]
fn a_banned_source_is_dropped_and_its_neighbour_is_not() {
    let mut nftables = prepared();
    ip("link set lo up");
    for address in ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"] {
        ip(&format!("address add {address}/128 dev lo nodad"));
    }
    let now = Now::read();
    let bans = [
        ban("127.0.0.2", now),
        ban("2001:db8:1::/64", now),
        ban("2001:db8:2::2", now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    let arrives = |from: &str, to: &str| {
        let receiver = UdpSocket::bind((to, 0)).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let sender = UdpSocket::bind((from, 0)).unwrap();
        sender
            .send_to(b"x", receiver.local_addr().unwrap())
            .unwrap();
        receiver.recv(&mut [0; 8]).is_ok()
    };
    assert!(!arrives("127.0.0.2", "127.0.0.1"));
    assert!(arrives("127.0.0.3", "127.0.0.1"));
    assert!(!arrives("2001:db8:1::1", "::1"));
    assert!(!arrives("2001:db8:1::2", "::1"));
    assert!(arrives("2001:db8:2::1", "::1"));
    assert_eq!((dropped("banned4"), dropped("banned6_64")), (1, 2));

    let before = listed_shape();
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    assert_eq!(listed_shape(), before, "adopting keeps the counters");
    assert_eq!(held_by(&nftables).len(), 3, "and the bans");
}

#[test]
fn a_table_of_another_shape_is_rebuilt_with_its_bans() {
    enter_empty_network();
    load(FILE);
    let right = listed_shape();
    let chain = |body: &str| {
        format!(
            "delete chain inet portsentry prerouting
             table inet portsentry {{ chain prerouting {{ {body} }}; }}"
        )
    };
    let file = |from: &str, to: &str| {
        let text = FILE.replace(from, to);
        assert_ne!(text, FILE);
        format!("delete table inet portsentry\n{text}")
    };
    for (what, change) in [
        (
            "no rules",
            "flush chain inet portsentry prerouting".to_owned(),
        ),
        (
            "a rule too many",
            "insert rule inet portsentry prerouting accept".to_owned(),
        ),
        (
            "a rule that libnftnl reads and we do not",
            "add rule inet portsentry prerouting meta mark 1 accept".to_owned(),
        ),
        (
            "no chain",
            "delete chain inet portsentry prerouting".to_owned(),
        ),
        (
            "another priority",
            chain("type filter hook prerouting priority 0;"),
        ),
        (
            "another policy",
            chain("type filter hook prerouting priority -310; policy drop;"),
        ),
        ("no hook", chain("")),
        (
            "the chain at another hook",
            "delete chain inet portsentry prerouting
             table inet portsentry { chain input {
                type filter hook input priority -310;
                ip saddr @banned4 drop
             }; }"
                .to_owned(),
        ),
        (
            "a set missing",
            "delete chain inet portsentry prerouting
             delete set inet portsentry banned6_64"
                .to_owned(),
        ),
        ("an older format", file("format 2", "format 0")),
        ("smaller sets", file("size 262143", "size 1000")),
        ("unbounded sets", file("size 262143", "")),
        (
            "another interval",
            file("gc-interval 10s", "gc-interval 1s"),
        ),
        (
            "a timeout for all",
            file("gc-interval 10s", "gc-interval 10s; timeout 1d"),
        ),
        (
            "a sleeping table",
            "table inet portsentry { flags dormant; }".to_owned(),
        ),
        (
            "sets that somebody's own chain refers to",
            file("size 262143", "size 1000")
                + "add chain inet portsentry own
                   add rule inet portsentry own ip saddr @banned4 drop",
        ),
    ] {
        load("flush ruleset");
        load(FILE);
        load(&change);
        let elements = "
            add element inet portsentry banned4 { 192.0.2.7 timeout 1h expires 10m comment \"why\", 192.0.2.8 timeout 90d }
            add element inet portsentry banned6 { 2001:db8::7 timeout 1h expires 10m }";
        load(elements);
        let mut nftables = responder(&config());
        assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt, "{what}");
        assert_eq!(listed_shape(), right, "{what}");
        assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted, "{what}");
        let found = find(&mut nftables, "192.0.2.7").expect(what);
        assert_eq!(found.reason, Some(Reason::Text("why".into())), "{what}");
        let clock = found.clock.unwrap();
        assert_eq!(clock.length, 3_600_000, "{what}");
        assert!(
            (500_000..=600_000).contains(&clock.left),
            "{what}: {clock:?}"
        );
        assert_eq!(held_by(&nftables).len(), 3, "{what}");
    }
}

#[test]
fn a_set_of_another_kind_gives_way() {
    enter_empty_network();
    load(
        "table inet portsentry {
            comment \"portsentry format 2\"
            set banned4 { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }
            set banned6 { type ipv6_addr . inet_service; }
            map banned6_64 { type ipv6_addr : verdict; }
        }",
    );
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    let rebuilt = listing();
    enter_empty_network();
    load(FILE);
    assert_eq!(rebuilt, listing());
}

#[test]
fn what_an_admin_adds_beside_ours_stays() {
    let mut nftables = prepared();
    load(
        "table inet portsentry {
            set mine { type ipv4_addr; elements = { 192.0.2.1 } }
            chain mine { ip saddr @mine accept; }
        }
        flush chain inet portsentry prerouting",
    );
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    let listing = listing();
    assert!(listing.contains("chain mine"), "{listing}");
    assert!(listing.contains("elements = { 192.0.2.1 }"), "{listing}");
}

#[test]
fn the_table_follows_the_configuration() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = [ban("192.0.2.7", now), ban("2001:db8::/64", now)];
    nftables.ban(&refs(&bans), now).unwrap();

    let mut changed = config();
    changed.nftables.hook = Hook::Input;
    changed.nftables.priority = -5;
    changed.ban.ipv4_prefix = 24;
    changed.ban.ipv6_prefix = 56;
    let mut nftables = responder(&changed);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    let listed = listing();
    for line in [
        "type filter hook input priority filter - 5; policy accept;",
        "ip saddr & 255.255.255.0 == @banned4_24 counter packets 0 bytes 0 drop",
        "ip6 saddr & ffff:ffff:ffff:ff00:: == @banned6_56 counter packets 0 bytes 0 drop",
        "ip6 saddr & ffff:ffff:ffff:ffff:: == @banned6_64 counter packets 0 bytes 0 drop",
    ] {
        assert!(listed.contains(line), "{line} is missing in\n{listed}");
    }
    assert!(!listed.contains("chain prerouting"), "{listed}");
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    let mut again = bans.to_vec();
    again.extend([ban("198.51.100.0/24", now), ban("2001:db8:0:100::/56", now)]);
    nftables.ban(&refs(&again), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 4);

    nftables.unban(&["2001:db8::/64".parse().unwrap()]).unwrap();
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    assert!(
        !listing().contains("banned6_64"),
        "without bans the set of an earlier configuration goes"
    );
    assert_eq!(held_by(&nftables).len(), 3);
}

#[test]
fn a_table_of_somebody_else_is_left_alone() {
    for text in [
        "table inet portsentry { set banned4 { type ipv4_addr; elements = { 192.0.2.1 }; }; }",
        "table inet portsentry { comment \"my own\"; }",
    ] {
        enter_empty_network();
        load(text);
        let before = listing();
        let mut nftables = responder(&config());
        let error = nftables.prepare().unwrap_err().to_string();
        assert!(
            error.contains("nft delete table inet portsentry"),
            "{error}"
        );
        assert!(error.contains("nftables.table"), "{error}");
        assert!(nftables.withdraw().is_err());
        assert_eq!(listing(), before);
    }
}

#[test]
fn without_the_privilege_the_error_says_which() {
    enter_empty_network();
    caps::drop(
        None,
        caps::CapSet::Effective,
        caps::Capability::CAP_NET_ADMIN,
    )
    .unwrap();
    let mut nftables = responder(&config());
    let now = Now::read();
    let source: Source = "192.0.2.7".parse().unwrap();
    for error in [
        nftables.prepare().map(drop).unwrap_err(),
        nftables.ban(&refs(&many(10, now)), now).unwrap_err(),
        nftables.replay(&refs(&many(10, now)), now).unwrap_err(),
        nftables.unban(&[source]).unwrap_err(),
        nftables.spare(&[]).unwrap_err(),
        nftables.find(source).map(drop).unwrap_err(),
        nftables.withdraw().unwrap_err(),
    ] {
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }
}

#[test]
fn a_name_that_no_table_can_have_is_refused() {
    enter_empty_network();
    for name in ["", "a\0b", &"x".repeat(256)] {
        let mut config = config();
        name.clone_into(&mut config.nftables.table);
        assert!(Nftables::open(&config.nftables, &config.ban).is_err());
    }
    let mut config = config();
    config.nftables.table = "x".repeat(255);
    let mut nftables = responder(&config);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
    nftables.withdraw().unwrap();
}

#[test]
fn a_comment_survives_saving_and_loading() {
    let mut nftables = prepared();
    let now = Now::read();
    let hostile = "\" } } ; flush ruleset\n\t\\ $x @y #z é \u{1b}[2J".repeat(9);
    let bans = [
        ban_with("192.0.2.7", &hostile, HOUR, HOUR, now),
        ban_with("2001:db8::/64", &hostile, HOUR, HOUR, now),
        ban_with("192.0.2.8", "", HOUR, HOUR, now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    let saved = run(Command::new("nft").args(["list", "ruleset"]), "").unwrap();
    load("flush ruleset");
    load(&saved);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);
    let held = held_by(&nftables);
    assert_eq!(held.len(), 3);
    let hostile = find(&mut nftables, "192.0.2.7").unwrap();
    let Some(Reason::Text(text)) = hostile.reason else {
        panic!("{hostile:?}");
    };
    assert!(
        text.starts_with("_ _ _ _ flush ruleset___ _x _y _z _ __2J"),
        "{text}"
    );
    assert_eq!(find(&mut nftables, "192.0.2.8").unwrap().reason, None);
}

#[test]
fn a_listing_can_be_loaded_over_the_table_that_it_lists() {
    let mut nftables = prepared();
    let now = Now::read();
    let hostile = "\\\" timeout 0s } delete table inet portsentry; \u{202e}".repeat(3);
    let bans = [
        ban_with("192.0.2.7", &hostile, HOUR, HOUR, now),
        ban_with("2001:db8::/64", &hostile, HOUR, HOUR, now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    nftables
        .spare(&nets(&["198.51.100.0/24", "ff00::/8"]))
        .unwrap();
    let before = listing();
    load(&before);
    assert_eq!(held_by(&nftables).len(), 2);
    // nft adds rules to those that are there.
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    assert_eq!(held_by(&nftables).len(), 2);
    for element in ["elements = { 198.51.100.0/24 }", "elements = { ff00::/8 }"] {
        assert!(listing().contains(element), "{}", listing());
    }
}

#[test]
fn a_second_ban_brings_the_new_end_and_the_new_reason() {
    let mut nftables = prepared();
    let now = Now::read();
    for source in ["192.0.2.7", "2001:db8::/64"] {
        for (reason, length) in [("first", HOUR), ("longer", 5 * HOUR), ("shorter", MINUTE)] {
            let ban = ban_with(source, reason, length, length, now);
            nftables.ban(&[&ban], now).unwrap();
            let found = find(&mut nftables, source).unwrap();
            assert_eq!(found.reason, Some(Reason::Text(reason.into())));
            let clock = found.clock.unwrap();
            assert_eq!(u128::from(clock.length), length.as_millis());
            assert!(clock.length - clock.left < 10_000, "{clock:?}");
        }
        nftables.ban(&[&ever(source, now)], now).unwrap();
        assert_eq!(find(&mut nftables, source).unwrap().clock, None);
        nftables.ban(&[&ban(source, now)], now).unwrap();
        assert!(find(&mut nftables, source).unwrap().clock.is_some());
    }
}

#[test]
fn of_two_bans_of_one_source_in_a_call_the_later_holds() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = [
        ban_with("192.0.2.7", "first", HOUR, HOUR, now),
        ban("192.0.2.8", now),
        ban_with("192.0.2.7", "second", MINUTE, MINUTE, now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    let found = find(&mut nftables, "192.0.2.7").unwrap();
    assert_eq!(found.reason, Some(Reason::Text("second".into())));
    assert_eq!(held_by(&nftables).len(), 2);
    let twice: Vec<Source> = bans.iter().map(|ban| ban.source).collect();
    nftables.unban(&twice).unwrap();
    assert!(held_by(&nftables).is_empty());
}

#[test]
fn a_ban_about_to_end_does_end() {
    let mut nftables = prepared();
    let now = Now::read();
    let zero = Duration::ZERO;
    let bans = [
        ban_with("192.0.2.1", "nothing left", HOUR, zero, now),
        ban_with(
            "192.0.2.2",
            "a millisecond left",
            HOUR,
            Duration::from_millis(1),
            now,
        ),
        ban_with("192.0.2.3", "no length", zero, zero, now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    nftables.replay(&refs(&bans), now).unwrap();
    eventually("all three ended", || held_by(&nftables).is_empty());
}

#[test]
fn a_ban_longer_than_the_kernel_can_count_still_holds() {
    let mut nftables = prepared();
    let now = Now::read();
    let long = Duration::from_millis(u64::MAX / 4);
    nftables
        .ban(&[&ban_with("192.0.2.1", "long", long, long, now)], now)
        .unwrap();
    let clock = find(&mut nftables, "192.0.2.1").unwrap().clock.unwrap();
    assert!(clock.left > 99 * 365 * 24 * 3_600_000, "{clock:?}");
}

#[test]
fn a_source_can_be_banned_again_before_the_kernel_has_collected_it() {
    let mut nftables = prepared();
    let now = Now::read();
    let short = Duration::from_millis(100);
    nftables
        .ban(&[&ban_with("192.0.2.7", "short", short, short, now)], now)
        .unwrap();
    eventually("it ran out", || find(&mut nftables, "192.0.2.7").is_none());
    nftables.unban(&["192.0.2.7".parse().unwrap()]).unwrap();
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    assert!(find(&mut nftables, "192.0.2.7").is_some());
    assert_eq!(held_by(&nftables).len(), 1);
}

#[test]
fn five_thousand_are_banned_in_one_call_and_unbanned_in_one() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = many(5000, now);
    for _ in 0..2 {
        nftables.ban(&refs(&bans), now).unwrap();
        assert_eq!(held_by(&nftables).len(), 5000);
    }
    let mut sources: Vec<Source> = bans.iter().map(|ban| ban.source).collect();
    sources.insert(77, "198.51.100.1".parse().unwrap());
    nftables.unban(&sources).unwrap();
    assert!(held_by(&nftables).is_empty());
}

#[test]
fn twenty_thousand_are_replayed_over_what_is_there() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = many(20_000, now);
    nftables.ban(&refs(&bans[..300]), now).unwrap();
    let begin = Instant::now();
    nftables.replay(&refs(&bans), now).unwrap();
    eprintln!("20,000 replayed in {:?}", begin.elapsed());
    assert_eq!(held_by(&nftables).len(), 20_000);
    nftables.replay(&refs(&bans), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 20_000);
}

#[test]
fn a_list_made_while_the_kernel_moves_the_set_about_names_each_once() {
    for _ in 0..5 {
        // The first deletion, which is part of every ban, has the kernel shrink the set's hash table.
        let mut nftables = prepared();
        let now = Now::read();
        for count in [2, 200, 2000] {
            nftables.ban(&refs(&many(count, now)), now).unwrap();
            let mut held: Vec<Source> = held_by(&nftables).iter().map(|h| h.source).collect();
            held.sort();
            held.dedup();
            assert_eq!(held.len(), usize::try_from(count).unwrap());
            assert_eq!(held_by(&nftables).len(), held.len());
        }
    }
}

#[test]
fn unbanning_whom_nobody_banned_is_no_error() {
    let mut nftables = prepared();
    let now = Now::read();
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    let sources: Vec<Source> = [
        "192.0.2.6",
        "192.0.2.7",
        "2001:db8::1",
        "2001:db8::/48",
        "192.0.2.0/24",
    ]
    .map(|source| source.parse().unwrap())
    .into();
    nftables.unban(&sources).unwrap();
    assert!(held_by(&nftables).is_empty());
    nftables.unban(&[]).unwrap();

    load("flush ruleset");
    nftables.unban(&sources).unwrap();
    assert_eq!(find(&mut nftables, "192.0.2.7"), None);
    assert!(held_by(&nftables).is_empty());
}

#[test]
fn a_prefix_of_another_length_gets_a_set_of_its_own() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = [
        ban("192.0.2.0/24", now),
        ban("192.0.2.7", now),
        ban("2001:db8::/48", now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 3);
    let listed = listing();
    for line in [
        "ip saddr & 255.255.255.0 == @banned4_24 counter packets 0 bytes 0 drop",
        "ip6 saddr & ffff:ffff:ffff:: == @banned6_48 counter packets 0 bytes 0 drop",
    ] {
        assert!(listed.contains(line), "{line} is missing in\n{listed}");
    }
    // As at the start after the configuration has changed, with an empty kernel.
    load("flush ruleset");
    let mut nftables = responder(&config());
    nftables.prepare().unwrap();
    nftables.replay(&refs(&bans), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 3);
}

#[test]
fn a_prefix_too_wide_is_named_and_the_rest_still_banned() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = [ban("128.0.0.0/1", now), ban("192.0.2.7", now)];
    let error = nftables.ban(&refs(&bans), now).unwrap_err();
    assert_eq!(
        error.to_string(),
        "nftables: cannot ban 1 of 2: 128.0.0.0/1: a prefix this wide is not banned: /8 is the widest for IPv4, /16 for IPv6"
    );
    assert_eq!((error.full, error.sources), (false, vec![bans[0].source]));
    assert_eq!(held_by(&nftables).len(), 1);
}

#[test]
fn unban_all_lifts_also_what_nobody_here_knows_of() {
    let mut nftables = prepared();
    let now = Now::read();
    let bans = [
        ban("192.0.2.7", now),
        ban("2001:db8::/64", now),
        ban("192.0.2.0/24", now),
    ];
    nftables.ban(&refs(&bans), now).unwrap();
    load("add element inet portsentry banned6 { 2001:db8::7 }");
    nftables.unban_all().unwrap();
    assert!(held_by(&nftables).is_empty());
    assert_eq!(
        nftables.prepare().unwrap(),
        Prepared::Adopted,
        "table and rules stay"
    );
    nftables.ban(&refs(&bans[..1]), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 1);

    load("flush ruleset");
    nftables.unban_all().unwrap();
    assert_eq!(
        run(Command::new("nft").args(["list", "tables"]), "").unwrap(),
        "",
        "no table is made for that"
    );
}

#[test]
fn what_ran_on_the_sets_default_timeout_runs_on() {
    enter_empty_network();
    load(
        "table inet portsentry { comment \"portsentry format 2\"; set banned4 { type ipv4_addr; flags timeout; timeout 1h; }; }
        add element inet portsentry banned4 { 203.0.113.50 }",
    );
    let mut nftables = responder(&config());
    assert_eq!(nftables.prepare().unwrap(), Prepared::Rebuilt);
    let held = find(&mut nftables, "203.0.113.50").unwrap();
    let left = held.clock.expect("it is not permanent").left;
    assert!((3_500_000..=3_600_000).contains(&left), "{left} ms");
}

#[test]
fn many_bans_for_a_full_set_fail_without_being_tried_one_by_one() {
    enter_empty_network();
    let mut config = config();
    config.ban.limit = 1000;
    let mut nftables = responder(&config);
    nftables.prepare().unwrap();
    let now = Now::read();
    let bans: Vec<Ban> = (0..100_000_u32)
        .map(|i| Ban {
            source: IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i)).into(),
            ..ban("192.0.2.1", now)
        })
        .collect();
    // One by one this took minutes.
    let error = nftables.replay(&refs(&bans), now).unwrap_err();
    assert!(error.full);
    assert_eq!(error.sources.len(), 100_000 - 65_535);
}

#[test]
fn a_full_set_is_said_and_takes_what_it_still_can() {
    enter_empty_network();
    let mut config = config();
    config.ban.limit = 1000;
    let mut nftables = responder(&config);
    nftables.prepare().unwrap();
    let now = Now::read();
    let fill: Vec<Ban> = (0..65_534_u32)
        .map(|i| Ban {
            source: IpAddr::from(Ipv4Addr::from(0x0a00_0000 + i)).into(),
            ..ban("192.0.2.1", now)
        })
        .collect();
    nftables.replay(&refs(&fill), now).unwrap();
    let bans = [
        ban_with("10.0.0.1", "refreshed", HOUR, HOUR, now),
        ban("198.51.100.1", now),
        ban("198.51.100.2", now),
        ban("2001:db8::/64", now),
    ];
    let error = nftables.ban(&refs(&bans), now).unwrap_err();
    assert!(error.full);
    assert_eq!(
        error.to_string(),
        "nftables: cannot ban 1 of 4: 198.51.100.2: the set is full"
    );
    let refreshed = find(&mut nftables, "10.0.0.1").unwrap();
    assert_eq!(refreshed.reason, Some(Reason::Text("refreshed".into())));
    assert!(find(&mut nftables, "198.51.100.1").is_some());
    assert!(find(&mut nftables, "2001:db8::/64").is_some());

    nftables
        .unban(&["198.51.100.9".parse().unwrap(), "10.0.0.2".parse().unwrap()])
        .unwrap();
    nftables.ban(&[&bans[2]], now).unwrap();
}

#[test]
fn a_flushed_table_is_made_anew_by_the_next_ban() {
    let mut nftables = prepared();
    let now = Now::read();
    let first = nftables.handle();
    load("flush ruleset");
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    assert!(find(&mut nftables, "192.0.2.7").is_some());
    assert_ne!(nftables.handle(), first);

    load("flush ruleset");
    nftables.replay(&refs(&many(5000, now)), now).unwrap();
    assert_eq!(held_by(&nftables).len(), 5000);

    load("delete chain inet portsentry prerouting; delete set inet portsentry banned4");
    nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap();
    assert_eq!(held_by(&nftables).len(), 2501);
    assert_eq!(nftables.prepare().unwrap(), Prepared::Adopted);

    load("flush ruleset; table inet portsentry { }");
    let error = nftables.ban(&[&ban("192.0.2.7", now)], now).unwrap_err();
    assert!(error.to_string().contains("nft delete table"), "{error}");
}

#[test]
fn what_an_admin_adds_by_hand_is_found() {
    let nftables = prepared();
    load("add element inet portsentry banned4 { 192.0.2.1, 192.0.2.2 timeout 1h comment \"it's me; 100%\" }
          add element inet portsentry banned6_64 { 2001:db8::, 2001:db8:0:1::5 timeout 1h }");
    let mut held = held_by(&nftables);
    held.sort_by_key(|held| held.source);
    let found: Vec<(String, Option<String>, bool)> = held
        .iter()
        .map(|held| {
            let reason = held.reason.as_ref().map(ToString::to_string);
            (held.source.to_string(), reason, held.clock.is_some())
        })
        .collect();
    assert_eq!(
        found,
        [
            ("192.0.2.1".to_owned(), None, false),
            (
                "192.0.2.2".to_owned(),
                Some("it_s me_ 100_".to_owned()),
                true
            ),
            ("2001:db8::/64".to_owned(), None, false),
        ],
        "a key with host bits in a set of prefixes bans nobody"
    );
}

#[test]
fn nothing_is_left_after_withdrawing() {
    let mut nftables = prepared();
    let now = Now::read();
    nftables.ban(&refs(&many(100, now)), now).unwrap();
    nftables.withdraw().unwrap();
    let left = run(Command::new("nft").args(["list", "ruleset"]), "").unwrap();
    assert_eq!(left, "");
    nftables.withdraw().unwrap();
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
}

#[test]
fn what_stands_in_a_table_of_our_own_is_listed_only_where_others_may_have_put_something_in() {
    let now = Now::read();
    let mut nftables = prepared();
    nftables.ban(&refs(&many(10, now)), now).unwrap();
    nftables.unban(&["10.0.0.0".parse().unwrap()]).unwrap();
    nftables.begin_watching().unwrap();
    assert!(nftables.holdings().is_none());

    let mut next = responder(&config());
    assert_eq!(next.prepare().unwrap(), Prepared::Adopted);
    next.begin_watching().unwrap();
    assert_eq!(held_by(&next).len(), 9, "it was there before");

    nftables.withdraw().unwrap();
    assert_eq!(nftables.prepare().unwrap(), Prepared::Created);
    nftables.ban(&refs(&many(10, now)), now).unwrap();
    load("add element inet portsentry banned4 { 192.0.2.9 }");
    nftables.begin_watching().unwrap();
    assert_eq!(held_by(&nftables).len(), 11, "nobody has heard of that one");
}
