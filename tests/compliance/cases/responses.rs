//! What is done about a scan: BLOCK_TCP and BLOCK_UDP, the three responses and their order, and what is told about them.

use std::time::Duration;

use super::{DENIED, RECORDED, SCAN, SYN, WRAPPERS};
use crate::bench::{HOST, HOSTS_DENY, STRANGER, address};
use crate::case::Case;
use crate::within;

/// All three responses; the commands write what they are told.
const ALL_THREE: &str = r#"
    KILL_ROUTE="echo route $TARGET$ $PORT$ $MODE$ >>/run/ran"
    KILL_HOSTS_DENY="ALL: $TARGET$ # $PORT$ $MODE$"
    KILL_RUN_CMD="echo command $TARGET$ $PORT$ $MODE$ >>/run/ran"
"#;

/// Why ours does not write `# $PORT$ $MODE$` to hosts.deny.
const NO_COMMENTS: &str = "what follows # would be read as clients";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = block();
    cases.extend(order());
    cases.extend(native());
    cases.extend(failing());
    cases.push(alike("10.77.0.22", STRANGER));
    cases.push(alike(STRANGER, "10.77.0.22"));
    cases
}

/// Two scanners, and the address of one begins as that of the other.
fn alike(first: &'static str, second: &'static str) -> Case {
    let both = |line: &str| {
        [first, second]
            .map(|source| line.replace(STRANGER, source) + "\n")
            .concat()
    };
    let in_files = RECORDED.lines().chain([DENIED]).map(both);
    let seen = both(&format!("{SCAN}\n{WRAPPERS}")) + &in_files.collect::<String>();
    Case::new(
        format!("{second} scans, and {first} is blocked"),
        move |bench| {
            bench.stranger.ip("addr add 10.77.0.22/24 dev eth0");
            bench.start("-atcp", "");
            bench.nmap(&format!("-sS -S {first} -e eth0"), "11");
            bench.until("history: …");
            bench.nmap(&format!("-sS -S {second} -e eth0"), "11");
        },
    )
    .sees(&seen)
}

/// BLOCK_TCP and BLOCK_UDP: 0, 1, 2 and other numbers.
fn block() -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, how, port, kind, protocol) in [
        ("atcp", "-sS", "11", SYN, "TCP"),
        ("audp", "-sU", "9", "UDP scan", "UDP"),
    ] {
        let all = |value: &'static str| {
            Case::new(format!("BLOCK_{protocol}={value}"), move |bench| {
                bench.start(
                    &format!("-{mode}"),
                    &format!("BLOCK_{protocol}=\"{value}\"\n{ALL_THREE}"),
                );
                bench.nmap(how, port);
            })
        };
        let scan = format!(
            "attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {port}"
        );
        let record = format!("Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked");
        for value in ["0", "3"] {
            cases.push(all(value).sees(&format!(
                "{scan}
                attackalert: Ignoring {protocol} response per configuration file setting.
                history: {record}
                blocked.{mode}: {record}"
            )));
        }
        let responded = format!(
            r#"{scan}
            attackalert: Host {STRANGER} has been blocked via wrappers with string: "ALL: {STRANGER} # {port} {mode}"
            attackalert: Host {STRANGER} has been blocked via dropped route using command: "echo route {STRANGER} {port} {mode} >>/run/ran"
            attackalert: External command run for host: {STRANGER} using command: "echo command {STRANGER} {port} {mode} >>/run/ran"
            history: {record}
            blocked.{mode}: {record}
            hosts.deny: ALL: {STRANGER} # {port} {mode}
            ran: route {STRANGER} {port} {mode}
            ran: command {STRANGER} {port} {mode}"#
        );
        let comment = format!(" # {port} {mode}");
        cases.push(
            all("1")
                .sees(&responded)
                .but_ours(NO_COMMENTS, &responded.replace(&comment, "")),
        );
        cases.push(all("2").sees(&format!(
            r#"{scan}
            attackalert: External command run for host: {STRANGER} using command: "echo command {STRANGER} {port} {mode} >>/run/ran"
            history: {record}
            blocked.{mode}: {record}
            ran: command {STRANGER} {port} {mode}"#
        )));
    }
    cases.push(
        Case::new("BLOCK_TCP=2 without a command", |bench| {
            bench.start("-atcp", "BLOCK_TCP=\"2\"");
            bench.nmap("-sS", "11");
        })
        .sees(&format!("{SCAN}{RECORDED}"))
        .but_ours(
            "there is nothing left to run: that is BLOCK_TCP=0, and said",
            &format!(
                "{SCAN}
                attackalert: Ignoring TCP response per configuration file setting.
                {RECORDED}"
            ),
        ),
    );
    cases
}

fn order() -> Vec<Case> {
    let command_first = format!(
        r#"{SCAN}
        attackalert: External command run for host: 10.77.0.2 using command: "echo command 10.77.0.2 11 atcp >>/run/ran"
        attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 # 11 atcp"
        attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "echo route 10.77.0.2 11 atcp >>/run/ran"
        {RECORDED}
        hosts.deny: ALL: 10.77.0.2 # 11 atcp
        ran: command 10.77.0.2 11 atcp
        ran: route 10.77.0.2 11 atcp
        "#
    );
    vec![
        Case::new("KILL_RUN_CMD_FIRST=1: the command is first", |bench| {
            bench.start("-atcp", &format!("{ALL_THREE}\nKILL_RUN_CMD_FIRST=\"1\""));
            bench.nmap("-sS", "11");
        })
        .sees(&command_first)
        .but_ours(NO_COMMENTS, &command_first.replace(" # 11 atcp", "")),
        Case::new("a command that takes its time", |bench| {
            bench.start(
                "-atcp",
                "#KILL_HOSTS_DENY\nKILL_ROUTE=\"while [ ! -e /run/go ]; do sleep 0.1; done # $TARGET$\"",
            );
            bench.nmap("-sS", "11");
            bench.until(SCAN);
            bench.nmap_as("10.77.0.3", "-sS", "15");
            let other = "attackalert: TCP SYN/Normal scan from host: 10.77.0.3/10.77.0.3 to TCP port: 15";
            // Longer than any packet is on its way.
            let seen = within(Duration::from_secs(2), || {
                bench.seen().iter().any(|line| line == other).then_some(())
            });
            bench.sh("touch /run/go");
            bench.until(other);
            bench.report(&format!("another scan is seen meanwhile: {}", seen.is_some()));
        })
        .sees("another scan is seen meanwhile: false")
        .but_ours("commands are run beside the packets' path", "another scan is seen meanwhile: true"),
        Case::new("a command is shell: pipes, redirections, &&", |bench| {
            bench.start(
                "-atcp",
                r#"
                #KILL_HOSTS_DENY
                KILL_ROUTE="echo $TARGET$ | sed s/^/sed./ >>/run/ran && echo and $TARGET$ >>/run/ran; false || echo or $TARGET$ >>/run/ran"
                "#,
            );
            bench.nmap("-sS", "11");
        })
        .sees(&format!(
            r#"{SCAN}
            attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "echo 10.77.0.2 | sed s/^/sed./ >>/run/ran && echo and 10.77.0.2 >>/run/ran; false || echo or 10.77.0.2 >>/run/ran"
            {RECORDED}
            ran: sed.10.77.0.2
            ran: and 10.77.0.2
            ran: or 10.77.0.2
            "#
        )),
    ]
}

/// KILL_ROUTE strings that only block: ours does that itself, in nftables.
fn native() -> Vec<Case> {
    let case = |name: &str, kill_route: &'static str| {
        Case::new(name, move |bench| {
            let service = bench.host.serve(address(HOST), 80);
            bench.start("-atcp", kill_route);
            bench.nmap("-sS", "11");
            bench.until("history: …");
            let reached = bench.stranger.reaches(address(HOST), 80);
            bench.note(format!("port 80 is reached: {reached}"));
            // What was sent to a service is judged while it is there.
            bench.everything_is_judged();
            drop(service);
        })
    };
    let ours = format!(
        r#"{SCAN}
        attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "nft add element inet portsentry banned4 …10.77.0.2 timeout 1d…"
        {WRAPPERS}
        {RECORDED}
        {DENIED}
        port 80 is reached: false
        "#
    );
    let original = |command: &str, reached: bool| {
        format!(
            r#"{SCAN}
            {WRAPPERS}
            attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "{command}"
            {RECORDED}
            {DENIED}
            port 80 is reached: {reached}
            "#
        )
    };
    vec![
        case(
            "KILL_ROUTE is a reject route",
            r#"KILL_ROUTE="/sbin/route add -host $TARGET$ reject""#,
        )
        .sees(&original("/sbin/route add -host 10.77.0.2 reject", false))
        .but_ours(
            "a ban in nftables, which ends and can be listed, before all else",
            &ours,
        ),
        case(
            "KILL_ROUTE is an iptables that is not there",
            r#"KILL_ROUTE="/usr/local/sbin/iptables -I INPUT -s $TARGET$ -j DROP""#,
        )
        .sees(&original(
            "/usr/local/sbin/iptables -I INPUT -s 10.77.0.2 -j DROP",
            true,
        ))
        .but_ours(
            "a ban in nftables needs no program; the original tells a success it had not",
            &ours,
        ),
        Case::new(
            "a block ends by itself, and can be lifted before",
            |bench| {
                bench.start(
                    "-atcp",
                    "KILL_ROUTE=\"/sbin/route add -host $TARGET$ reject\"",
                );
                let service = bench.host.serve(address(HOST), 80);
                bench.nmap("-sS", "11");
                bench.until("history: …");
                let ban = bench.host.element("banned4", STRANGER);
                let ends = ban.is_some_and(|ban| ban.expires.is_some());
                let (status, _) = bench.launch(&format!("unban {STRANGER}"));
                let reached = bench.stranger.reaches(address(HOST), 80);
                bench.everything_is_judged();
                drop(service);
                bench.report(&format!(
                    "it has an end: {ends}
                unban succeeds: {}
                port 80 is reached: {reached}",
                    status == 0
                ));
            },
        )
        .sees(
            "it has an end: false
            unban succeeds: false
            port 80 is reached: false",
        )
        .but_ours(
            "a ban has an end, and there is a command to lift it",
            "it has an end: true
            unban succeeds: true
            port 80 is reached: true",
        ),
    ]
}

fn failing() -> Vec<Case> {
    let told_as_success = |command: &str| {
        format!(
            r#"{SCAN}
            attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "{command}"
            {RECORDED}"#
        )
    };
    let could_not = "attackalert: ERROR: Could not block host 10.77.0.2/10.77.0.2!!";
    let failed = format!(
        "adminalert: ERROR: There was an error trying to block host (system fail) 10.77.0.2\n{could_not}"
    );
    let told = format!("{SCAN}\n{failed}");
    let case = |name: &str, conf: &'static str| {
        Case::new(name, move |bench| {
            bench.start("-atcp", conf);
            bench.nmap("-sS", "11");
        })
    };
    vec![
        case(
            "a KILL_ROUTE that is not there",
            "#KILL_HOSTS_DENY\nKILL_ROUTE=\"/nonexistent/block $TARGET$\"",
        )
        .sees(&told_as_success("/nonexistent/block 10.77.0.2"))
        .but_ours("a failure is never told as success, nor recorded", &told),
        case(
            "a KILL_ROUTE that fails",
            "#KILL_HOSTS_DENY\nKILL_ROUTE=\"false $TARGET$\"",
        )
        .sees(&told_as_success("false 10.77.0.2"))
        .but_ours("a failure is never told as success, nor recorded", &told),
        Case::new("after a failure, the next packet is responded to again", |bench| {
            bench.start(
                "-atcp",
                "#KILL_HOSTS_DENY\nKILL_ROUTE=\"echo $TARGET$ $PORT$ >>/run/ran; false\"",
            );
            bench.nmap("-sS", "11");
            bench.until_times(1, "ran: …");
            bench.nmap("-sS", "15");
        })
        .sees(&format!(
            r#"{SCAN}
            attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "echo 10.77.0.2 11 >>/run/ran; false"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 15
            attackalert: Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring
            {RECORDED}
            ran: 10.77.0.2 11
            "#
        ))
        .but_ours(
            "a failure is never told as success, nor recorded",
            &format!(
                r#"{told}
                attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 15
                {failed}
                ran: 10.77.0.2 11
                ran: 10.77.0.2 15
                "#
            ),
        ),
        targetless(
            "KILL_ROUTE",
            "KILL_ROUTE=\"echo all >>/run/ran\"",
            &format!(
                r#"{SCAN}
                {WRAPPERS}
                {NO_TARGET} KILL_ROUTE option. Skipping.
                {could_not}
                {DENIED}
                "#
            ),
        )
        .but_ours(
            "told before it starts; the rest works",
            &format!(
                r#"{SCAN}
                {WRAPPERS}
                {RECORDED}
                {DENIED}
                told at the start: true
                "#
            ),
        ),
        targetless(
            "KILL_HOSTS_DENY",
            "KILL_HOSTS_DENY=\"ALL: ALL\"",
            &format!("{SCAN}\n{NO_TARGET} KILL_HOSTS_DENY option. Skipping.\n{could_not}"),
        )
        .but_ours(
            "told before it starts; what is left is to log",
            &format!(
                "{SCAN}
                attackalert: Ignoring TCP response per configuration file setting.
                {RECORDED}
                told at the start: true"
            ),
        ),
        case("a KILL_RUN_CMD that fails", "BLOCK_TCP=\"2\"\nKILL_RUN_CMD=\"false $TARGET$\"")
            .sees(&format!(
                r#"{SCAN}
                attackalert: External command run for host: 10.77.0.2 using command: "false 10.77.0.2"
                {RECORDED}"#
            ))
            .but_ours(
                "told as a failure; who scanned is told to jails whether or not a program could be",
                &format!(
                    "{SCAN}
                    adminalert: ERROR: There was an error trying to run command (system fail) 10.77.0.2
                    {RECORDED}"
                ),
            ),
        Case::new("hosts.deny cannot be written", |bench| {
            bench.sh(&format!("mkdir {HOSTS_DENY}"));
            if bench.is_ours() {
                bench.configure("");
                bench.refuses("-atcp", HOSTS_DENY);
            } else {
                bench.start("-atcp", "");
                bench.nmap("-sS", "11");
            }
        })
        .sees(&format!(
            "{SCAN}
            adminalert: cannot open hosts.deny file: /etc/hosts.deny for blocking.
            securityalert: ERROR: There was an error trying to block host 10.77.0.2
            {could_not}"
        ))
        .but_ours(
            "what cannot work is told before it starts",
            &format!(
                "adminalert: PortSentry … is starting.
                succeeds: false
                tells of {HOSTS_DENY}: true"
            ),
        ),
    ]
}

const NO_TARGET: &str = "adminalert: No target variable specified in";

/// A response that names no target, as this key has it. `sees` is what the original does.
fn targetless(key: &'static str, conf: &'static str, sees: &str) -> Case {
    Case::new(format!("a {key} without $TARGET$"), move |bench| {
        bench.configure(conf);
        bench.start_again("-atcp");
        let told = bench
            .log()
            .contains(&format!("{NO_TARGET} {key} option. Skipping."));
        bench.note(format!("told at the start: {told}"));
        bench.look_behind_the_start();
        bench.nmap("-sS", "11");
    })
    .sees(&format!("{sees}\ntold at the start: false"))
}
