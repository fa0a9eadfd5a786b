//! What an old portsentry left: shown, turned into bans, taken away; and everything else stays.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Daemon, Host, Pair, Said};

/// Blocked by 1.2 in every way it knew.
const EVERYWHERE: &str = "203.0.113.7";
/// Behind a gateway that does not exist, as the old configuration has it.
const VIA: &str = "203.0.113.8";
/// In the tables of the older iptables.
const LEGACY: &str = "203.0.113.9";
/// On record, but what stands of it is the admin's.
const ROUTED: &str = "203.0.113.10";
/// Ignored by now.
const FRIEND: &str = "203.0.113.12";
/// On no record.
const UNKNOWN: &str = "203.0.113.99";
/// In 2.x's blocked file alone.
const BINARY: [&str; 2] = ["203.0.113.11", "2001:db8::11"];

const THEIRS: [&str; 3] = [
    "# mine\nsshd: 203.0.113.7\n",
    "ALL: 203.0.113.99 : DENY\n",
    "ALL: .example.net",
];
const OURS: &str = "ALL: 203.0.113.7 : DENY\n";

const OLD: &str = "TCP_PORTS=\"1,11\"\nBLOCK_TCP=\"1\"\nKILL_ROUTE=\"/sbin/route add -host $TARGET$ gw 10.77.0.66\"\n\
    KILL_HOSTS_DENY=\"ALL: $TARGET$ : DENY\"\n";

/// A daemon that does not run yet, on a host that an old portsentry has left.
fn after_an_old_one<'a>(host: &'a Host, config: &str) -> Daemon<'a> {
    let daemon = Daemon::new(host, config);
    daemon.ignore(&format!("{FRIEND}\n"));
    let (history, blocked) = (daemon.path("old.history"), daemon.path("old.blocked"));
    write(
        &daemon,
        "old.conf",
        format!("{OLD}HISTORY_FILE={history:?}\nBLOCKED_FILE={blocked:?}\n"),
    );
    let line = |address: &str| {
        format!(
            "1795366059 - 11/22/2026 16:47:39 Host: x\u{1b}[2J/{address} Port: 11 TCP Blocked\n"
        )
    };
    let on_record = [EVERYWHERE, LEGACY, ROUTED, FRIEND, "203.0.113.200"];
    write(&daemon, "old.history", on_record.map(line).concat());
    write(&daemon, "old.blocked.atcp", line(VIA));
    let record = |address: &str| match address.parse().expect("a good address") {
        std::net::IpAddr::V4(v4) => [&2_u16.to_ne_bytes()[..], &v4.octets()].concat(),
        std::net::IpAddr::V6(v6) => [&10_u16.to_ne_bytes()[..], &v6.octets()].concat(),
    };
    write(&daemon, "old.blocked", BINARY.map(record).concat());
    write(
        &daemon,
        "hosts.deny",
        [THEIRS[0], OURS, THEIRS[1], OURS, THEIRS[2]].concat(),
    );

    for (kind, address) in [
        ("unreachable", EVERYWHERE),
        ("unreachable", UNKNOWN),
        ("blackhole", FRIEND),
        ("prohibit", "203.0.114.0/24"),
    ] {
        host.ip(&format!("route add {kind} {address}"));
    }
    host.ip(&format!("route add {VIA} via 10.77.0.66"));
    host.ip(&format!("route add {ROUTED} via 10.77.0.67"));
    for rule in [
        "-s 203.0.113.7 -j DROP",
        "-s 203.0.113.7 -p tcp -j DROP",
        "-s 203.0.113.7 -m limit --limit 3/minute -j LOG --log-level debug --log-prefix scan_seen:_",
        "-s 203.0.113.7 -j DROP",
        "-s 203.0.113.99 -j DROP",
        "-s 203.0.113.10 -m limit --limit 3/minute -j LOG",
        "-s 203.0.113.7 -j DROP",
    ] {
        iptables(host, "iptables-nft", rule);
    }
    for rule in [
        "-j REJECT",
        "-m limit --limit 5/hour -j LOG --log-prefix scan_seen:_",
    ] {
        iptables(host, "iptables-legacy", &format!("-s {LEGACY} {rule}"));
    }
    daemon
}

/// Adds a rule; a low line stands for a blank.
fn iptables(host: &Host, program: &str, rule: &str) {
    let words = rule.split(' ').map(|word| word.replace('_', " "));
    let mut command = host.command(program);
    let output = command.args(["-w", "-A", "INPUT"]).args(words).output();
    let output = output.expect("ip is there");
    assert!(output.status.success(), "{program} {rule}: {output:?}");
}

fn write(daemon: &Daemon<'_>, name: &str, bytes: impl AsRef<[u8]>) {
    let path = daemon.path(name);
    fs::write(&path, bytes).expect("the directory is ours");
    fs::set_permissions(path, Permissions::from_mode(0o644)).expect("it is ours");
}

fn migrate(daemon: &Daemon<'_>, options: &[&str]) -> Said {
    let [from, hosts_deny] = ["old.conf", "hosts.deny"].map(|name| daemon.path(name));
    let text = |path: &PathBuf| path.to_str().expect("it is UTF-8").to_owned();
    let (from, hosts_deny) = (text(&from), text(&hosts_deny));
    let always = ["migrate", "--from", &from, "--hosts-deny", &hosts_deny];
    daemon.command(&[&always, options].concat())
}

/// Everything that an old portsentry may have changed.
fn world(host: &Host, daemon: &Daemon<'_>) -> Vec<String> {
    let read = |name: &str| fs::read(daemon.path(name)).unwrap_or_default();
    let lines = |command: &str| {
        let saved = host.run(command);
        let lines = saved.lines().filter(|line| !line.starts_with(['#', ':']));
        lines.collect::<Vec<_>>().join("\n")
    };
    vec![
        host.run("ip route show"),
        lines("iptables-nft-save"),
        lines("iptables-legacy-save"),
        String::from_utf8_lossy(&read("hosts.deny")).into_owned(),
        format!("{:?}", read("old.blocked")),
    ]
}

fn assert_only_the_admins_is_left(host: &Host, daemon: &Daemon<'_>) {
    let [routes, rules, legacy, hosts_deny, _] =
        <[String; 5]>::try_from(world(host, daemon)).expect("there are five");
    for gone in [EVERYWHERE, VIA, FRIEND] {
        assert!(!routes.contains(&format!("{gone} ")), "{gone}: {routes}");
    }
    for stays in [
        &format!("unreachable {UNKNOWN}"),
        "prohibit 203.0.114.0/24",
        &format!("{ROUTED} via 10.77.0.67"),
        "10.77.0.0/24 dev eth0",
    ] {
        assert!(routes.contains(stays), "{stays}: {routes}");
    }
    assert_eq!(
        rules,
        "*filter\n-A INPUT -s 203.0.113.7/32 -p tcp -j DROP\n-A INPUT -s 203.0.113.99/32 -j DROP\n\
         -A INPUT -s 203.0.113.10/32 -m limit --limit 3/min -j LOG\nCOMMIT"
    );
    assert_eq!(legacy, "*filter\nCOMMIT");
    assert_eq!(hosts_deny, THEIRS.concat());
    assert!(!daemon.path("old.blocked").exists());
    assert!(daemon.path("old.history").exists());
    assert!(daemon.path("old.blocked.atcp").exists());
}

fn assert_banned(daemon: &Daemon<'_>, host: &Host) {
    let banned = [EVERYWHERE, VIA, LEGACY, BINARY[0], BINARY[1]];
    for address in banned {
        let set = if address.contains(':') {
            "banned6"
        } else {
            "banned4"
        };
        let element = host.element(set, address);
        let timeout = element.as_ref().and_then(|element| element.timeout);
        assert_eq!(timeout, Some(7200), "{address}: {element:?}");
    }
    let mut listed = daemon.banned();
    listed.sort();
    let mut expected = banned.map(str::to_owned);
    expected.sort();
    assert_eq!(listed, expected);
}

const CONFIG: &str = "ban.duration = \"2h\"";

#[test]
fn what_an_old_installation_left_is_shown_and_nothing_changes() {
    let Pair { host, .. } = &Pair::new();
    let daemon = after_an_old_one(host, CONFIG);
    let before = world(host, &daemon);
    let said = migrate(&daemon, &[]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    let hosts_deny = daemon.path("hosts.deny");
    for line in [
        format!("{EVERYWHERE}, last recorded "),
        "\n  route: unreachable\n".to_owned(),
        "\n  iptables-nft -A INPUT -s 203.0.113.7/32 -m limit --limit 3/min -j LOG --log-prefix 'scan seen: ' --log-level 7\n"
            .to_owned(),
        "\n  3 times iptables-nft -A INPUT -s 203.0.113.7/32 -j DROP\n".to_owned(),
        format!("\n  {}: lines 3, 5\n", hosts_deny.display()),
        format!("\n{VIA}, last recorded "),
        "\n  route: via 10.77.0.66\n".to_owned(),
        format!("\n{}, recorded without a time\n", BINARY[1]),
        format!("\n{FRIEND}, last recorded "),
        "\n  will not be banned: ".to_owned(),
        "\nleft alone:\n".to_owned(),
        format!("\n  {UNKNOWN}, route: unreachable (not in the history of an old portsentry)\n"),
        format!("\n  {UNKNOWN}, {}: line 4 (not in", hosts_deny.display()),
        "\nnothing was changed; --apply bans 5 of 6 addresses for 2h and takes away what is not left alone\n".to_owned(),
    ] {
        let said = format!("\n{}", said.out);
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert!(!said.out.contains(ROUTED), "{}", said.out);
    assert_eq!(world(host, &daemon), before);

    let json: Value = serde_json::from_str(&migrate(&daemon, &["--json"]).out).expect("it is JSON");
    let addresses = json["addresses"].as_array().expect("it is a list");
    assert_eq!(addresses.len(), 6);
    let first = &addresses[0];
    assert_eq!(first["address"], EVERYWHERE);
    assert_eq!(first["last_recorded"], 1_795_366_059_000_i64);
    assert_eq!(first["outcome"], Value::Null);
}

#[test]
fn applied_without_a_daemon_it_becomes_bans_and_a_second_time_nothing() {
    let Pair { host, .. } = &Pair::new();
    let daemon = after_an_old_one(host, CONFIG);
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains(&format!(
        "{EVERYWHERE} banned for 2h: left by an old portsentry: hosts.deny, iptables, route\n  taken away: route: unreachable\n"
    )), "{}", said.out);
    assert!(
        said.out.contains(&format!("\n{FRIEND} is never banned: ")),
        "{}",
        said.out
    );
    assert_only_the_admins_is_left(host, &daemon);
    assert_banned(&daemon, host);

    let before = world(host, &daemon);
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("\nnothing to do: "), "{}", said.out);
    assert_eq!(world(host, &daemon), before);
}

#[test]
fn applied_with_a_daemon_it_shortens_no_ban() {
    let Pair { host, .. } = &Pair::new();
    let mut daemon = after_an_old_one(host, CONFIG);
    daemon.restart();
    daemon.ok(&["ban", LEGACY, "--for", "9d", "--reason", "mine"]);
    daemon.ok(&["ban", VIA, "--for", "ever"]);
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    assert_only_the_admins_is_left(host, &daemon);
    let element = host.element("banned4", LEGACY).expect("it is banned");
    assert!(element.expires > Some(8 * 86_400), "{element:?}");
    assert!(
        element
            .comment
            .is_some_and(|comment| comment.contains("mine"))
    );
    let element = host.element("banned4", VIA).expect("it is banned");
    assert_eq!(element.timeout, None);
    assert_eq!(daemon.banned().len(), 5);
}

#[test]
fn lines_of_our_own_in_the_same_hosts_deny_stay() {
    let Pair { host, .. } = &Pair::new();
    let mut daemon = after_an_old_one(host, "");
    let file = daemon.path("hosts.deny");
    daemon.configure(&format!(
        "ban.responders = [\"nftables\", \"hosts-deny\"]\n[hosts-deny]\nfile = {file:?}\nline = \"ALL: {{source}} : DENY\"\n"
    ));
    daemon.restart();
    for _ in 0..2 {
        assert_eq!(migrate(&daemon, &["--apply"]).status, 0);
        let text = fs::read_to_string(&file).expect("it is there");
        assert!(text.starts_with(&THEIRS.concat()), "{text}");
        assert_eq!(text.matches(OURS).count(), 1, "{text}");
        assert_eq!(text.matches(": DENY\n").count(), 6, "{text}");
    }
    daemon.ok(&["unban", "--all"]);
    let text = fs::read_to_string(&file).expect("it is there");
    assert_eq!(text, THEIRS.concat());
}

#[test]
fn a_rule_that_our_own_program_may_have_made_is_left_alone() {
    let Pair { host, .. } = &Pair::new();
    let daemon = after_an_old_one(
        host,
        "ban.responders = [\"nftables\", \"command\"]\ncommand.ban = [\"true\", \"{source}\"]\ncommand.unban = [\"true\"]",
    );
    daemon.ok(&["ban", LEGACY, "--for", "1h"]);
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!((said.status, said.err.as_str()), (0, ""), "{said:?}");
    let left = format!(
        "  {LEGACY}, iptables-legacy -A INPUT -s {LEGACY}/32 -j REJECT --reject-with icmp-port-unreachable \
         (the address is banned, and command.ban may have made this)\n"
    );
    assert!(said.out.contains(&left), "{}", said.out);
    assert!(host.run("iptables-legacy-save").contains(LEGACY));
    assert!(
        !host
            .run("iptables-nft-save")
            .contains("-s 203.0.113.7/32 -j DROP")
    );
}

#[test]
fn what_is_not_banned_keeps_what_stands_against_it() {
    let Pair { host, .. } = &Pair::new();
    let daemon = after_an_old_one(host, "ban.limit = 1");
    let before = world(host, &daemon);
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.out.contains("is not banned: the limit of 1 ban (ban.limit) is reached; nothing of it is taken away\n"), "{said:?}");
    assert!(
        said.err
            .contains("old.blocked stays, for not all whom it names are banned now\n"),
        "{said:?}"
    );
    let after = world(host, &daemon);
    // The first went.
    assert!(!after[0].contains(EVERYWHERE), "{}", after[0]);
    assert_eq!(after[3], THEIRS.concat());
    // A friend's went without a ban.
    assert!(!after[0].contains(FRIEND), "{}", after[0]);
    assert!(after[0].contains(VIA), "{}", after[0]);
    assert_eq!((&after[2], &after[4]), (&before[2], &before[4]));
    assert_eq!(daemon.banned(), [EVERYWHERE]);
}

#[test]
fn a_blocked_file_that_a_stranger_could_have_made_is_no_list_of_whom_to_ban() {
    let host = &Host::new("host");
    let daemon = Daemon::new(host, "");
    let path = daemon.path("old.blocked");
    write(&daemon, "old.conf", format!("BLOCKED_FILE={path:?}\n"));
    write(
        &daemon,
        "old.blocked",
        [&2_u16.to_ne_bytes()[..], &[203, 0, 113, 7]].concat(),
    );
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("it is ours");
    let said = migrate(&daemon, &["--apply"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(
        said.err.contains("others than root may write to it"),
        "{said:?}"
    );
    assert!(path.exists());
    daemon.assert_nobody_is_banned();
}
