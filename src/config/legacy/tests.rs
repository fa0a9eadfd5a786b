//! What 1.2's configurations come to, as people have them and as they should not.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::super::ignore::Syntax;
use super::super::{
    CommandLine, Complaints, Config, Hook, HostFact, Loaded, LogRate, Method, Mode, ResponderKind,
    Response, WatchMode, When, control, converted, load, load_with, native,
};
use super::{KEYS, Legacy, parse};
use crate::policy::Unit;

/// Debian's settings, without its comments.
const DEBIAN: &str = r#"# PortSentry Configuration
TCP_PORTS="1,11,15,79,111,119,143,540,635,1080,1524,2000,5742,6667,12345,12346,20034,27665,31337,32771,32772,32773,32774,40421,49724,54320"
UDP_PORTS="1,7,9,69,161,162,513,635,640,641,700,37444,34555,31335,32770,32771,32772,32773,32774,31337,54321"

ADVANCED_PORTS_TCP="1024"
ADVANCED_PORTS_UDP="1024"
ADVANCED_EXCLUDE_TCP="113,139"
ADVANCED_EXCLUDE_UDP="520,138,137,67"
IGNORE_FILE="/etc/portsentry/portsentry.ignore"
HISTORY_FILE="/var/lib/portsentry/portsentry.history"
BLOCKED_FILE="/var/lib/portsentry/portsentry.blocked"
RESOLVE_HOST = "0"
BLOCK_UDP="0"
BLOCK_TCP="0"
#KILL_ROUTE="/sbin/route add $TARGET$ 333.444.555.666"
KILL_ROUTE="/sbin/route add -host $TARGET$ reject"
#KILL_HOSTS_DENY="ALL: $TARGET$"
KILL_HOSTS_DENY="ALL: $TARGET$ : DENY"
#KILL_RUN_CMD_FIRST = "0"
SCAN_TRIGGER="0"
#PORT_BANNER="** GO AWAY."
"#;

/// What must stand in every file.
const FILES: &str = "IGNORE_FILE=\"/portsentry.ignore\"\nHISTORY_FILE=\"/h/h\"\nBLOCKED_FILE=\"/h/b\"\nSCAN_TRIGGER=\"0\"\n";

/// The first tutorial's second rule.
const LOGGED: &str = "/sbin/iptables -I INPUT -s $TARGET$ -j DROP && /sbin/iptables -I INPUT -s $TARGET$ -m limit \
    --limit 3/minute --limit-burst 5 -j LOG --log-level debug --log-prefix 'Portsentry: dropping: '";

fn modes(names: &str) -> BTreeSet<WatchMode> {
    names
        .split_whitespace()
        .map(|name| WatchMode::from_name(name).unwrap())
        .collect()
}

/// What a text means in these modes, and the warnings.
fn read(text: &str, names: &str) -> (Config, Vec<String>) {
    let file = Path::new("/p.conf");
    let Legacy {
        config,
        warnings,
        complaints,
        ..
    } = parse(file, text, &modes(names));
    assert!(complaints.is_empty(), "{text}\n{complaints}");
    // Whatever is read must also stand the native file's rules, and mean the same there.
    let loaded = Loaded { config, warnings };
    let printed = converted(file, &loaded);
    match native::parse(Path::new("/p.toml"), &printed) {
        Ok(again) => assert_eq!(again, loaded.config, "{printed}"),
        Err(wrong) => panic!("{wrong}\nof\n{printed}"),
    }
    (loaded.config, loaded.warnings)
}

/// What the files' lines and these come to in the advanced modes.
fn with(lines: &str) -> (Config, Vec<String>) {
    read(
        &format!("{FILES}{lines}ADVANCED_PORTS_TCP=\"1024\"\nADVANCED_PORTS_UDP=\"1024\"\n"),
        "atcp audp",
    )
}

fn refused(text: &str, names: &str) -> String {
    let complaints = parse(Path::new("/p.conf"), text, &modes(names)).complaints;
    assert!(!complaints.is_empty(), "{text}");
    complaints.to_string()
}

#[test]
fn debians_configuration_means_what_it_meant() {
    let (config, warnings) = read(DEBIAN, "tcp udp");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.capture.method, Method::Ip);
    assert_eq!(config.tcp.modes, BTreeSet::from([Mode::Connect]));
    assert_eq!(config.tcp.ports.len(), 22);
    assert_eq!(config.udp.ports.last(), Some(&(54321..=54321)));
    assert_eq!(config.tcp.exclude, [113..=113, 139..=139]);
    assert_eq!(config.udp.exclude, [67..=67, 137..=138, 520..=520]);
    assert_eq!((config.tcp.below, config.udp.below), (1024, 1024));
    assert_eq!(config.tcp.response, Response::Log);
    let detect = &config.detect;
    assert_eq!(
        (detect.trigger, detect.count, detect.window),
        (1, Unit::Hits, None)
    );
    let ban = &config.ban;
    assert_eq!(ban.duration, Some(Duration::from_secs(86_400)));
    assert_eq!((ban.escalate, ban.max, ban.ipv4_prefix), (1, None, 32));
    assert_eq!(
        ban.responders,
        [ResponderKind::Nftables, ResponderKind::HostsDeny]
    );
    assert_eq!(config.hosts_deny.line, "ALL: {source} : DENY");
    assert_eq!(config.command, Config::default().command);
    assert_eq!(config.nftables.hook, Hook::Input);
    assert_eq!(config.nftables.log, None);
    let ignore = &config.ignore;
    assert_eq!(
        ignore.files[0].path,
        Path::new("/etc/portsentry/portsentry.ignore")
    );
    assert!(ignore.files[0].named && ignore.host.contains(&HostFact::Addresses));
    let history = &config.history;
    assert_eq!(history.file, Path::new("/var/lib/portsentry/history.db"));
    assert_eq!(
        history.text.as_deref(),
        Some(Path::new("/var/lib/portsentry/portsentry.history"))
    );
    assert_eq!(
        history.blocked.as_deref(),
        Some(Path::new("/var/lib/portsentry/portsentry.blocked"))
    );
    assert!(config.log.repeats && !history.resolve && config.listen.banner.is_empty());
}

#[test]
fn the_modes_are_the_callers() {
    for (names, tcp, udp) in [
        ("atcp", vec![Mode::Advanced], vec![]),
        ("sudp", vec![], vec![Mode::Stealth]),
        (
            "tcp stcp atcp audp",
            vec![Mode::Advanced, Mode::Stealth, Mode::Connect],
            vec![Mode::Advanced],
        ),
    ] {
        let (config, _) = read(DEBIAN, names);
        assert_eq!(Vec::from_iter(config.tcp.modes), tcp, "{names}");
        assert_eq!(Vec::from_iter(config.udp.modes), udp, "{names}");
    }
}

#[test]
fn the_first_tutorials_settings_ban_by_the_kernel_and_log_three_a_minute() {
    let text = DEBIAN.replace(
        "BLOCK_UDP=\"0\"\nBLOCK_TCP=\"0\"",
        "BLOCK_UDP=\"1\"\nBLOCK_TCP=\"1\"",
    ) + &format!(
        "KILL_RUN_CMD=\"{LOGGED}\"\nPORT_BANNER=\"*** UNAUTHORIZED ACCESS PROHIBITED ***\"\n"
    );
    let (config, warnings) = read(&text, "tcp udp");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(
        (config.tcp.response, config.udp.response),
        (Response::Ban, Response::Ban)
    );
    assert_eq!(
        config.ban.responders,
        [ResponderKind::Nftables, ResponderKind::HostsDeny]
    );
    assert_eq!(
        config.nftables.log,
        Some(LogRate {
            packets: 3,
            per: Duration::from_secs(60)
        })
    );
    assert_eq!(config.command.run, None);
    assert_eq!(
        config.listen.banner,
        "*** UNAUTHORIZED ACCESS PROHIBITED ***"
    );
}

#[test]
fn the_second_tutorials_settings_keep_their_directory_and_lose_the_comment_in_the_line() {
    let text = "TCP_PORTS=\"1,11,15\"\nUDP_PORTS=\"1,7,9\"\n\
        IGNORE_FILE=\"/usr/local/psionic/portsentry/portsentry.ignore\"\n\
        HISTORY_FILE=\"/usr/local/psionic/portsentry/portsentry.history\"\n\
        BLOCKED_FILE=\"/usr/local/psionic/portsentry/portsentry.blocked\"\n\
        BLOCK_UDP=\"1\"\nBLOCK_TCP=\"1\"\nSCAN_TRIGGER=\"0\"\n\
        KILL_ROUTE=\"/usr/local/sbin/iptables -I INPUT -s $TARGET$ -j DROP\"\n\
        KILL_HOSTS_DENY=\"ALL: $TARGET$ # Portsentry blocked\"\n";
    let (config, warnings) = read(text, "tcp udp");
    assert_eq!(
        config.ban.responders,
        [ResponderKind::Nftables, ResponderKind::HostsDeny]
    );
    assert_eq!(config.hosts_deny.line, "ALL: {source}");
    assert_eq!(
        config.history.file,
        Path::new("/usr/local/psionic/portsentry/history.db")
    );
    assert_eq!(
        warnings,
        [
            "/p.conf:10: KILL_HOSTS_DENY is cut before the \"#\": tcp_wrappers would read what follows as clients"
        ]
    );
}

#[test]
fn a_command_that_is_no_plain_block_stays_the_admins() {
    let (config, warnings) = with(
        "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"2\"\nKILL_RUN_CMD_FIRST = \"1\"\n\
         KILL_ROUTE=\"/sbin/route add $TARGET$ gw 10.0.0.9; echo '$MODE$'\"\n\
         KILL_RUN_CMD=\"/bin/mail -s '$TARGET$:$PORT$ by $MODE$' root < /dev/null\"\n",
    );
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.ban.responders, [ResponderKind::Command]);
    let shell = |line: &str| Some(CommandLine::Shell(line.to_owned()));
    assert_eq!(
        config.command.ban,
        shell("/sbin/route add {source} gw 10.0.0.9; echo '{mode}'")
    );
    assert_eq!(
        config.command.run,
        shell("/bin/mail -s '{source}:{port} by {mode}' root < /dev/null")
    );
    assert_eq!(
        (config.command.unban, config.command.when),
        (None, When::Before)
    );
    assert_eq!(
        (config.tcp.response, config.udp.response),
        (Response::Ban, Response::Command)
    );
}

#[test]
fn what_block_asks_for_is_done_as_far_as_there_is_something_to_do_it() {
    const BLOCK: &str = "KILL_ROUTE=\"/sbin/route add -host $TARGET$ reject\"\n";
    const RUN: &str = "KILL_RUN_CMD=\"/bin/notify $TARGET$\"\n";
    const RUN_BLOCK: &str = "KILL_RUN_CMD=\"iptables -I INPUT -s $TARGET$ -j DROP\"\n";
    const HOSTS: &str = "KILL_HOSTS_DENY=\"ALL: $TARGET$\"\n";
    use ResponderKind::{Command, HostsDeny, Nftables};
    for (block, kill, response, responders, warned) in [
        (
            "0",
            vec![BLOCK, RUN],
            Response::Log,
            vec![Nftables, Command],
            false,
        ),
        ("1", vec![BLOCK], Response::Ban, vec![Nftables], false),
        (
            "1",
            vec![BLOCK, HOSTS, RUN],
            Response::Ban,
            vec![Nftables, HostsDeny, Command],
            false,
        ),
        ("1", vec![HOSTS], Response::Ban, vec![HostsDeny], false),
        ("1", vec![RUN_BLOCK], Response::Ban, vec![Nftables], false),
        (
            "1",
            vec![RUN],
            Response::Command,
            vec![Nftables, Command],
            true,
        ),
        ("1", vec![], Response::Log, vec![Nftables], true),
        (
            "2",
            vec![BLOCK, RUN],
            Response::Command,
            vec![Nftables, Command],
            false,
        ),
        ("2", vec![BLOCK], Response::Log, vec![Nftables], true),
        (
            "2",
            vec![RUN_BLOCK, HOSTS],
            Response::Ban,
            vec![Nftables],
            false,
        ),
        ("3", vec![BLOCK], Response::Log, vec![Nftables], true),
        ("-1", vec![BLOCK], Response::Log, vec![Nftables], true),
        ("yes", vec![BLOCK], Response::Log, vec![Nftables], true),
    ] {
        let text = format!(
            "BLOCK_TCP=\"{block}\"\nBLOCK_UDP=\"{block}\"\n{}",
            kill.concat()
        );
        let (config, warnings) = with(&text);
        assert_eq!(config.tcp.response, response, "{text}");
        assert_eq!(config.udp.response, response, "{text}");
        assert_eq!(config.ban.responders, responders, "{text}");
        assert_eq!(!warnings.is_empty(), warned, "{text}: {warnings:?}");
    }
    let (config, warnings) = with(&format!(
        "BLOCK_TCP=\"1\"\nBLOCK_UDP=\"2\"\n{HOSTS}{RUN_BLOCK}"
    ));
    assert_eq!(config.ban.responders, [Nftables, HostsDeny]);
    assert!(
        warnings[0].contains("KILL_RUN_CMD bans, so that what is \"2\""),
        "{warnings:?}"
    );
}

#[test]
fn without_a_target_a_command_is_skipped_in_1_2_s_words() {
    let (config, warnings) = with("KILL_ROUTE=\"/bin/x $PORT$\"\nKILL_HOSTS_DENY=\"ALL: ALL\"\n");
    assert_eq!(
        warnings,
        [
            "adminalert: No target variable specified in KILL_ROUTE option. Skipping.",
            "adminalert: No target variable specified in KILL_HOSTS_DENY option. Skipping.",
        ]
    );
    assert_eq!(config.ban.responders, [ResponderKind::Nftables]);
    assert_eq!(with("KILL_ROUTE=\"\"\nKILL_HOSTS_DENY=\"\"\n").1, [""; 0]);
}

#[test]
fn hosts_deny_lines_come_through_as_far_as_they_can() {
    for (line, kept) in [
        ("ALL: $TARGET$", Some("ALL: {source}")),
        ("ALL: $TARGET$ : DENY", Some("ALL: {source} : DENY")),
        ("sshd,ftpd:$TARGET$", Some("sshd,ftpd:{source}")),
        (
            "ALL: $TARGET$ : spawn (/bin/x $TARGET$)",
            Some("ALL: {source} : spawn (/bin/x {source})"),
        ),
        (
            "ALL: $TARGET$ : spawn (/bin/x $PORT$)",
            Some("ALL: {source}"),
        ),
        ("ALL: $TARGET$/255.255.255.0", None),
        ("ALL: ALL EXCEPT $TARGET$", None),
        ("# $TARGET$", None),
    ] {
        let (config, warnings) = with(&format!("KILL_HOSTS_DENY=\"{line}\"\n"));
        let hosts = config.ban.responders.contains(&ResponderKind::HostsDeny);
        assert_eq!(
            hosts.then_some(config.hosts_deny.line.as_str()),
            kept,
            "{line}"
        );
        let whole = kept.is_some_and(|kept| kept.replace("{source}", "$TARGET$") == line);
        assert_eq!(warnings.is_empty(), whole, "{line}: {warnings:?}");
    }
}

#[test]
fn quotes_and_blanks_are_1_2_s() {
    for line in [
        "KILL_ROUTE=\"a 'b c' $TARGET$\"",
        "KILL_ROUTE = \"a 'b c' $TARGET$\"",
        "KILL_ROUTE \t=\t\"a 'b c' $TARGET$\"   # comment",
        "KILL_ROUTE \"a 'b c' $TARGET$\"",
        "KILL_ROUTE=\"a 'b c' $TARGET$\"\r",
        "KILL_ROUTE=\"a 'b c' $TARGET$\"\nexport=\"1\"\n KILL_ROUTE=\"x\"\nKILL_ROUTE=\"y\"",
        "KILL_ROUTE=\"a 'b c' $TARGET$",
        "KILL_ROUTE=\"a 'b c' $TARGET$\" $PORT$\"",
    ] {
        let (config, warnings) = with(&format!("{line}\n"));
        let ban = CommandLine::Shell("a 'b c' {source}".to_owned());
        assert_eq!(config.command.ban, Some(ban), "{line}");
        let clean =
            line.ends_with(['"', '\r', 't']) && !line.contains("$PORT$") && !line.contains("\"y\"");
        assert_eq!(warnings.is_empty(), clean, "{line}: {warnings:?}");
    }
}

#[test]
fn what_1_2_put_up_with_is_a_warning_with_its_place() {
    let long = format!("PORT_BANNER=\"{}\"\n", "ä".repeat(600));
    for (lines, warning) in [
        (
            " BLOCK_TCP=\"1\"\n",
            "/p.conf:5: BLOCK_TCP has blanks before it and is ignored, as in 1.2; to put",
        ),
        (
            "KILL_ROUT=\"x\"\n",
            "/p.conf:5: an unknown key is ignored, as in 1.2: \"KILL_ROUT\"; did you mean KILL_ROUTE?",
        ),
        (
            "block_tcp=\"1\"\n",
            "\"block_tcp\"; did you mean BLOCK_TCP?",
        ),
        ("=\"1\"\n", "/p.conf:5: a line that sets nothing is ignored"),
        (
            "BLOCK_TCP=\"1\nKILL_ROUTE=\"route add $TARGET$ reject\"\n",
            "/p.conf:5: BLOCK_TCP has no quote behind its value; as in 1.2",
        ),
        (
            "BLOCK_TCP=\"0\" \"1\"\n",
            "what follows the second quote of BLOCK_TCP is not read: \"\"1\"\";",
        ),
        (
            "BLOCK_TCP=\"0\"\n\nBLOCK_TCP=\"0\"\n",
            "/p.conf:7: BLOCK_TCP is set a second time; as in 1.2 line 5 counts",
        ),
        (
            "RESOLVE_HOST=\"on\"\n",
            "RESOLVE_HOST is no number: \"on\"; as in 1.2 it is read as 0",
        ),
        (
            "RESOLVE_HOST=\"1x\"\n",
            "is no number: \"1x\"; as in 1.2 it is read as 1",
        ),
        (
            "TCP_PORTS=\"1,x,2\"\n",
            "/p.conf:5: TCP_PORTS, which is not in use, takes ports from 0 to 65535",
        ),
        (
            "PORT_BANNER=\"a\u{fffd}b\"\n",
            "PORT_BANNER has a character that is not UTF-8 or cannot be printed; as in 1.2 it is cut there",
        ),
        (
            &long,
            "PORT_BANNER is longer than 1024 bytes, and is cut there",
        ),
        (
            "KILL_RUN_CMD=\"p=1; echo ${port}\"\n",
            "KILL_RUN_CMD holds {port}, which is filled in too",
        ),
    ] {
        let (config, warnings) = with(lines);
        assert_eq!(warnings.len(), 1, "{lines}: {warnings:?}");
        assert!(warnings[0].contains(warning), "{lines}: {warnings:?}");
        assert!(config.listen.banner.len() <= 1024);
    }
}

#[test]
fn the_trigger_is_held_to_what_there_is() {
    for (text, trigger, warned) in [
        ("0", 1, false),
        ("1", 1, false),
        ("2", 2, false),
        (" 5 ", 5, false),
        ("64", 64, false),
        ("65", 64, true),
        ("99999999999999999999", 64, true),
        ("-3", 1, false),
        ("", 1, true),
    ] {
        let text = DEBIAN.replace("SCAN_TRIGGER=\"0\"", &format!("SCAN_TRIGGER=\"{text}\""));
        let (config, warnings) = read(&text, "atcp");
        assert_eq!(config.detect.trigger, trigger, "{text}");
        assert_eq!(!warnings.is_empty(), warned, "{text}: {warnings:?}");
    }
}

#[test]
fn missing_numbers_are_1_2_s_and_said_in_its_words() {
    let files = FILES.replace("SCAN_TRIGGER=\"0\"\n", "");
    let (config, warnings) = read(&files, "atcp");
    assert_eq!((config.tcp.below, config.detect.trigger), (1024, 1));
    assert!(config.tcp.exclude.is_empty());
    assert_eq!(
        warnings,
        [
            "adminalert: ERROR: Could not read ADVANCED_PORTS_TCP option from config file. Assuming 1024.",
            "adminalert: ERROR: Could not read SCAN_TRIGGER option from config file. Disabling SCAN DETECTION TRIGGER",
        ]
    );
    let (config, warnings) = read(&DEBIAN.replace("TCP=\"1024\"", "TCP=\"70000\""), "atcp");
    assert_eq!(config.tcp.below, 65536);
    assert!(warnings[0].ends_with("ADVANCED_PORTS_TCP lies outside of 0 to 65536; 65536 is taken"));
}

#[test]
fn port_lists_may_be_long_and_have_blanks_and_ranges() {
    let ports: Vec<String> = (1..=60_000)
        .step_by(2)
        .map(|port| port.to_string())
        .collect();
    let text = format!(
        "{FILES}TCP_PORTS=\"{}\"\nUDP_PORTS=\" 7, 9-11 ,,10-20,\"\n",
        ports.join(",")
    );
    let (config, warnings) = read(&text, "stcp sudp");
    assert_eq!(warnings, [""; 0]);
    assert_eq!(config.tcp.ports.len(), 30_000);
    assert_eq!(config.udp.ports, [7..=7, 9..=20]);
}

#[test]
fn what_would_quietly_change_what_is_protected_is_refused() {
    let ports = |list: &str| format!("{FILES}TCP_PORTS=\"{list}\"\n");
    for (text, names, complaint) in [
        (
            ports(""),
            "tcp",
            "/p.conf:5:12: TCP_PORTS names none; write TCP_PORTS=\"1,11,15,79\"",
        ),
        (
            ports("http, 30-20"),
            "stcp",
            "/p.conf:5:12: TCP_PORTS names none; write",
        ),
        (
            FILES.to_owned(),
            "tcp",
            "/p.conf: TCP_PORTS is missing, which is needed; write TCP_PORTS=",
        ),
        (
            format!("{FILES}KILL_ROUTE=\"a\0b $TARGET$\"\n"),
            "atcp",
            "/p.conf:5:14: a NUL character stands here; take it out",
        ),
        (
            format!("{FILES}KILL_ROUTE=\"\u{fffd} $TARGET$\"\n"),
            "atcp",
            "/p.conf:5:13: KILL_ROUTE has a character that is not UTF-8",
        ),
        (
            FILES.replace("\"/portsentry.ignore\"", "\"ignore\""),
            "atcp",
            "/p.conf:1:14: IGNORE_FILE takes a path that begins with /, not \"ignore\"",
        ),
        (
            FILES.replace("\"/h/b\"", "\"/h/\""),
            "atcp",
            "BLOCKED_FILE takes the path of a file in a directory",
        ),
        (
            FILES.replace("IGNORE_FILE=", "#"),
            "atcp",
            "/p.conf: IGNORE_FILE is missing, which is needed; write IGNORE_FILE=\"/etc/portsentry/portsentry.ignore\"",
        ),
        (
            FILES.replace("HISTORY_FILE=", "#"),
            "atcp",
            "/p.conf: HISTORY_FILE is missing",
        ),
        (
            FILES.replace("BLOCKED_FILE=", "#"),
            "atcp",
            "/p.conf: BLOCKED_FILE is missing",
        ),
        (
            FILES.replace("BLOCKED_FILE=\"", "BLOCKED_FILE="),
            "atcp",
            "/p.conf: BLOCKED_FILE is missing",
        ),
    ] {
        let shown = refused(&text, names);
        assert!(shown.contains(complaint), "{text}: {shown}");
        assert_eq!(shown.matches("/p.conf:").count(), 1, "{text}: {shown}");
    }
}

#[test]
fn what_in_a_list_is_no_port_is_passed_over_and_told() {
    let (config, warnings) = read(
        &format!("{FILES}TCP_PORTS=\"1,2x,3,1 2,65536,+1,1-,http,30-20,9\"\n"),
        "stcp",
    );
    assert_eq!(config.tcp.ports, [1..=1, 3..=3, 9..=9]);
    let bad = ["2x", "1 2", "65536", "+1", "1-", "http"].map(|bad| {
        format!(
            "/p.conf:5: TCP_PORTS takes ports from 0 to 65535 with commas between, such as 23,135-139, not \"{bad}\"; \
             until then it is passed over"
        )
    });
    assert_eq!(warnings[..6], bad);
    assert_eq!(
        warnings[6..],
        [
            "/p.conf:5: TCP_PORTS has a range that runs backwards, \"30-20\"; write 20-30; until then it is passed over"
        ]
    );
}

#[test]
fn what_has_no_quotes_is_skipped_in_1_2_s_words() {
    for line in ["BLOCK_TCP=1", "BLOCK_TCP=1 # not \"2\"", "BLOCK_TCP"] {
        let (config, warnings) = read(&format!("{FILES}{line}\n"), "atcp");
        assert_eq!(config.tcp.response, Response::Log);
        assert_eq!(
            warnings[..2],
            [
                "adminalert: Quotes missing from BLOCK_TCP token. Option skipped",
                "/p.conf:5: BLOCK_TCP has no quote before its value; to put it into force, write BLOCK_TCP=\"…\"",
            ]
        );
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let shown = refused("TCP_PORTS=\"x,y\"\nBLOCK_UDP=2\n", "tcp udp");
    for complaint in [
        "1:12: TCP_PORTS names none",
        ": UDP_PORTS is missing",
        ": IGNORE_FILE is missing",
    ] {
        assert!(shown.contains(complaint), "{complaint}: {shown}");
    }
}

#[test]
fn a_line_of_a_megabyte_is_not_repeated_whole() {
    let long = "x".repeat(1 << 20);
    let (_, warnings) = with(&format!("{long}\nKILL_ROUTE=\"\" {long}\n#{long}\n"));
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings.iter().all(|warning| warning.len() < 300),
        "{warnings:?}"
    );
    let (_, warnings) = read(
        &format!("{FILES}TCP_PORTS=\"1,{}\"\n", "99999,".repeat(150_000)),
        "tcp",
    );
    assert_eq!(warnings.len(), Complaints::MAX + 1);
    let many = format!(
        "BLOCK_TCP=\"1\"\nKILL_ROUTE=\"x\"\n{}",
        "BLOCK_TCP=\"2\"\nblock\n".repeat(200_000)
    );
    let (_, warnings) = with(&many);
    assert_eq!(warnings.len(), Complaints::MAX + 3);
    assert!(warnings[Complaints::MAX].starts_with("there is more"));
    assert!(warnings[Complaints::MAX + 1].contains("KILL_ROUTE option. Skipping."));
}

#[test]
fn files_nowhere_are_not_written() {
    let (config, _) = with("");
    assert!(config.history.text.is_some() && config.history.blocked.is_some());
    let text = FILES
        .replace("\"/portsentry.ignore\"", "\"/dev/null\"")
        .replace("/h/h", "/dev/null")
        .replace("/h/b", "/dev/null");
    let (config, _) = read(&text, "atcp");
    assert_eq!((config.history.text, config.history.blocked), (None, None));
    assert_eq!(config.history.file, Config::default().history.file);
    assert!(config.ignore.files.is_empty());
}

/// A directory with Debian's configuration in it, edited.
fn installed(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("portsentry.conf");
    let at = dir.path().display().to_string();
    fs::write(&path, text.replace("/etc/portsentry", &at)).unwrap();
    fs::create_dir(dir.path().join("portsentry.conf.d")).unwrap();
    (dir, path)
}

#[test]
fn native_files_beside_it_are_merged_over_it() {
    let (dir, path) = installed(DEBIAN);
    fs::write(
        dir.path().join("portsentry.conf.d/1.toml"),
        "[ban]\nduration = \"2h\"\n[control]\nsocket = \"/run/x.sock\"\n",
    )
    .unwrap();
    fs::write(dir.path().join("portsentry.modes"), "atcp\n").unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.ban.duration, Some(Duration::from_secs(7200)));
    assert_eq!(config.control.socket, Path::new("/run/x.sock"));
    assert_eq!(control(&path), config.control);
    assert_eq!(config.tcp.modes, BTreeSet::from([Mode::Advanced]));
    assert!(config.udp.modes.is_empty());
    let names: Vec<_> = config
        .ignore
        .files
        .iter()
        .map(|file| file.path.file_name().unwrap())
        .collect();
    assert_eq!(names, ["portsentry.ignore", "portsentry.ignore.static"]);
    let demands: Vec<_> = config.ignore.files.iter().map(|file| file.named).collect();
    assert_eq!(demands, [true, false], "the second one may come later");
    let syntaxes = config.ignore.files.iter().map(|file| file.syntax);
    assert!(syntaxes.eq([Syntax::Legacy; 2]));
    assert_eq!(
        load_with(&path, &modes("sudp")).unwrap().config.udp.modes,
        BTreeSet::from([Mode::Stealth])
    );

    // Each of the two lists is replaced by itself.
    for (text, expected) in [
        (
            "ignore.files = [\"/ours\"]",
            &["ours", "portsentry.ignore", "portsentry.ignore.static"][..],
        ),
        (
            "ignore.files = [\"/ours\"]\nignore.legacy_files = [\"/theirs\"]",
            &["ours", "theirs"],
        ),
        ("ignore.legacy_files = []", &[]),
    ] {
        fs::write(dir.path().join("portsentry.conf.d/2.toml"), text).unwrap();
        let files = load(&path).unwrap().ignore.files;
        let names = files.iter().map(|file| file.path.file_name().unwrap());
        assert!(names.eq(expected.iter().copied()), "{text}: {files:?}");
    }

    fs::write(
        dir.path().join("portsentry.conf.d/2.toml"),
        "[ban]\nlimit = 0\n",
    )
    .unwrap();
    let wrong = load(&path).unwrap_err().to_string();
    assert!(
        wrong.contains("/portsentry.conf.d/2.toml:2:9: ban.limit takes"),
        "{wrong}"
    );
    assert_eq!(control(&path), config.control);
}

#[test]
fn a_block_that_nothing_undoes_is_warned_of() {
    let (dir, path) = installed(&DEBIAN.replace(" reject", " gw 10.0.0.1"));
    let warnings = || load_with(&path, &modes("atcp")).unwrap().warnings;
    assert!(warnings()[0].contains("nothing undoes it when a ban ends"));
    let drop_in = "[command]\nunban = \"/sbin/route del {source}\"\n";
    fs::write(dir.path().join("portsentry.conf.d/1.toml"), drop_in).unwrap();
    assert_eq!(warnings(), [""; 0]);
}

#[test]
fn what_does_not_fit_together_is_refused_where_1_2_has_it() {
    for (from, to, complaint) in [
        (
            "ADVANCED_PORTS_TCP=\"1024\"",
            "ADVANCED_PORTS_TCP=\"0\"",
            ":5:21: tcp.mode is \"advanced\"",
        ),
        ("portsentry.blocked", "history", ""),
        (
            "portsentry.history",
            "portsentry.blocked.atcp",
            ":11:15: history.blocked and history.text name the same file",
        ),
        (
            "portsentry.history",
            "history.db",
            ":10:15: history.text and history.file name the same file",
        ),
    ] {
        let (_dir, path) = installed(&DEBIAN.replace(from, to));
        match load_with(&path, &modes("atcp")) {
            Ok(_) => assert_eq!(complaint, ""),
            Err(wrong) => assert!(
                !complaint.is_empty() && wrong.to_string().contains(complaint),
                "{wrong}"
            ),
        }
    }
}

#[test]
fn comments_may_be_latin1_and_lines_end_as_on_windows() {
    let (_dir, path) = installed("");
    let mut bytes = b"\xef\xbb\xbf# \xfcber \0 alles\r\n".to_vec();
    bytes.extend(DEBIAN.replace('\n', "\r\n").bytes());
    fs::write(&path, bytes).unwrap();
    let loaded = load_with(&path, &modes("tcp udp")).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let (mut config, _) = read(DEBIAN, "tcp udp");
    // Beside a file that is really there, a second ignore file may come.
    config.ignore.files = loaded.config.ignore.files.clone();
    assert_eq!(loaded.config, config);
}

#[test]
fn a_file_that_cannot_be_read_is_a_complaint() {
    use std::os::unix::fs::PermissionsExt as _;

    let (dir, path) = installed(DEBIAN);
    let shown = |path: &Path| load_with(path, &modes("tcp")).unwrap_err().to_string();
    assert!(
        shown(&dir.path().join("none.conf"))
            .contains("/none.conf: cannot read the file: there is no such file")
    );
    fs::create_dir(dir.path().join("dir.conf")).unwrap();
    assert!(shown(&dir.path().join("dir.conf")).ends_with("it is a directory; name a file"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
    nix::unistd::setfsuid(65534.into()); // this thread alone; root may read everything
    let complaint = shown(&path);
    nix::unistd::setfsuid(nix::unistd::geteuid());
    assert!(
        complaint.contains("cannot read the file: permission denied; it must belong"),
        "{complaint}"
    );
    let native = dir.path().join("p.toml");
    fs::write(&native, "").unwrap();
    assert!(shown(&native).contains("here they stand in tcp.mode and udp.mode"));
}

/// Text of what such files are made of, with any character in between.
fn pieces() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "=\"",
        "\"\n",
        "\"",
        "=",
        " ",
        "\t",
        "\n",
        "\r\n",
        "#",
        ",",
        "-",
        "1",
        "2",
        "65536",
        "\0",
        "'",
        "&&",
        ";",
        "$TARGET$",
        "$PORT$",
        "$MODE$",
        "{source}",
        "iptables -I INPUT -s $TARGET$ -j DROP",
        "ALL: $TARGET$",
        "/f",
        "-m limit --limit 3/minute -j LOG",
        "\u{fffd}",
        "\u{feff}",
        "ä",
    ];
    let piece = prop_oneof![
        4 => prop::sample::select(KEYS).prop_map(|key| format!("\n{key}=\"")),
        9 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in pieces(), complete in any::<bool>()) {
        let complete = if complete { FILES } else { "" };
        let text = format!("{complete}{text}");
        let file = Path::new("/p.conf");
        let read = parse(file, &text, &modes("atcp sudp"));
        if !read.complaints.is_empty() {
            prop_assert!(!read.complaints.to_string().is_empty());
            return Ok(());
        }
        let loaded = Loaded { config: read.config, warnings: read.warnings };
        for warning in &loaded.warnings {
            prop_assert!(!warning.contains(char::is_control), "{}", warning);
        }
        // Only what does not fit together is refused behind this.
        let printed = converted(file, &loaded);
        match native::parse(Path::new("/p.toml"), &printed) {
            Ok(again) => prop_assert_eq!(again, loaded.config),
            Err(wrong) => {
                let wrong = wrong.to_string();
                prop_assert!(wrong.contains("leaves no port") || wrong.contains("name the same file"), "{}", wrong);
            }
        }
    }
}

#[test]
fn where_everybody_may_write_1_2_s_lines_stay_and_what_we_go_by_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("p.conf");
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    let text = FILES.replace("/h/", &format!("{}/", open.display()));
    fs::write(&conf, format!("{text}TCP_PORTS=\"1\"\n")).unwrap();
    let read = || {
        let loaded = load_with(&conf, &modes("atcp")).unwrap_or_else(|wrong| panic!("{wrong}"));
        let told = loaded.warnings.iter();
        let told = told.filter(|warning| warning.contains("everybody may write"));
        (loaded.config.history, told.count())
    };
    assert_eq!(read().0.file, open.join("history.db"));
    let sticky = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(&open, sticky).unwrap();
    let (history, told) = read();
    assert_eq!(history.file, Config::default().history.file);
    assert_eq!(history.text, Some(open.join("h")));
    assert_eq!(history.blocked, Some(open.join("b")));
    assert_eq!(told, 1);
    // What is said beside it holds.
    let beside = dir.path().join("p.conf.d");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("a.toml"), "history.file = \"/x/h.db\"").unwrap();
    let (history, told) = read();
    assert_eq!((history.file.as_path(), told), (Path::new("/x/h.db"), 0));
}

#[test]
fn an_ignore_file_of_any_name_is_read_as_1_2_read_it_after_the_conversion_too() {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("friends");
    fs::write(&list, "10.9.0.2\nmy desk\n").unwrap();
    let conf = dir.path().join("p.conf");
    let text = FILES.replace("/portsentry.ignore", &list.display().to_string());
    fs::write(&conf, format!("{text}TCP_PORTS=\"1\"\n")).unwrap();
    let loaded = load_with(&conf, &modes("tcp")).unwrap_or_else(|wrong| panic!("{wrong}"));
    let toml = dir.path().join("p.toml");
    fs::write(&toml, converted(&conf, &loaded)).unwrap();
    let again = load(&toml).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(again, loaded.config);
    let (ignored, warnings) = super::super::ignore::read(&again.ignore).unwrap();
    assert_eq!((ignored.len(), warnings.iter().count()), (1, 1));
}

#[test]
fn the_manual_page_names_every_key() {
    let page = include_str!("../../../packaging/man/portsentry.conf.5");
    for key in KEYS.iter().copied().chain(["TCP_MODE", "UDP_MODE"]) {
        assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}");
    }
}
