//! The configuration's syntax, and whole configurations as people have them.

use std::fs;

use super::{RECORDED, SCAN, SYN, WRAPPERS, blocked};
use crate::bench::{CONF, HOST, address, target};
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = as_people_have_them();
    let ignored = format!(
        "{SCAN}
        attackalert: Ignoring TCP response per configuration file setting.
        {RECORDED}"
    );
    for (name, to) in [
        ("blanks around the equals sign", "BLOCK_TCP = \"1\""),
        ("something behind the value", "BLOCK_TCP=\"1\" # all of it"),
        ("a key that nobody knows", "NOBODY=\"1\"\nBLOCK_TCP=\"1\""),
        (
            "lines of blanks, and comments",
            "   \n\n# BLOCK_TCP=\"0\"\nBLOCK_TCP=\"1\"",
        ),
        (
            "a key twice: the first counts",
            "BLOCK_TCP=\"1\"\nBLOCK_TCP=\"0\"",
        ),
        (
            "an indented key does not count",
            " BLOCK_TCP=\"0\"\nBLOCK_TCP=\"1\"",
        ),
        ("lines that end as on Windows", "BLOCK_TCP=\"1\"\r"),
        (
            "a key that others begin with",
            "BLOCK_TCPS=\"0\"\nBLOCK_TCP=\"1\"",
        ),
    ] {
        cases.push(
            written(name, "-atcp", "BLOCK_TCP=\"1\"", to, "11").sees(&blocked("atcp", SYN, 11)),
        );
    }
    cases.extend([
        written(
            "blanks in a list",
            "-atcp",
            "\"113,139\"",
            "\"113, 139\"",
            "139",
        ),
        written(
            "a port in a list that is none",
            "-stcp",
            "\"1,11,",
            "\"1,rubbish,11,",
            "11",
        )
        .sees(&blocked("stcp", SYN, 11)),
        Case::new(
            "configuration: a port in a list that is too large",
            |bench| {
                bench.start("-tcp", "TCP_PORTS=\"1,70000,15\"");
                bench.nmap("-sT", "4464");
            },
        )
        .sees(&blocked("tcp", "Connect", 11).replace("11", "70000"))
        .but_ours(
            "the original listens on the port that is left of 70000 in 16 bits",
            "",
        ),
        written(
            "a range in a list",
            "-stcp",
            "\"1,11,15",
            "\"1,11-13,15",
            "12",
        )
        .but_ours("the original takes 11-13 for 11", &blocked("stcp", SYN, 12)),
        written(
            "a tab before the equals sign",
            "-atcp",
            "BLOCK_TCP=\"1\"",
            "BLOCK_TCP\t=\"1\"",
            "11",
        )
        .sees(&ignored)
        .but_ours("a tab is as good as a blank", &blocked("atcp", SYN, 11)),
        written(
            "a value that is no number",
            "-atcp",
            "BLOCK_TCP=\"1\"",
            "BLOCK_TCP=\"yes\"",
            "11",
        )
        .sees(&ignored),
        written(
            "a value without quotes",
            "-atcp",
            "BLOCK_TCP=\"1\"",
            "BLOCK_TCP=1",
            "11",
        )
        .sees(&ignored),
        written(
            "a key cut short is none",
            "-atcp",
            "KILL_HOSTS_DENY=",
            "KILL_H=",
            "11",
        )
        .sees(&format!("{SCAN}{RECORDED}"))
        .but_ours(
            "there is nothing left to do: that is BLOCK_TCP=0, and said",
            &ignored,
        ),
    ]);
    cases
}

/// A configuration in which something is written otherwise, and a probe.
fn written(
    name: &str,
    mode: &'static str,
    from: &'static str,
    to: &'static str,
    port: &'static str,
) -> Case {
    Case::new(format!("configuration: {name}"), move |bench| {
        bench.configure("");
        let text = bench.read(CONF);
        assert!(text.contains(from), "the case's own mistake");
        bench.write(CONF, text.replacen(from, to, 1));
        bench.start_again(mode);
        bench.look_behind_the_start();
        bench.nmap("-sS", port);
    })
}

fn as_people_have_them() -> Vec<Case> {
    let scan = blocked("atcp", SYN, 79);
    let (scan, rest) = scan
        .split_once(WRAPPERS)
        .expect("it is among what is seen of a scan");
    let route = r#"attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "/sbin/route add -host 10.77.0.2 reject""#;
    let ours = format!(
        r#"{scan}
        attackalert: Host 10.77.0.2 has been blocked via dropped route using command: "nft add element inet portsentry banned4 …10.77.0.2 timeout 1d…"
        {WRAPPERS}
        {rest}
        port 80 is reached: false"#
    );
    vec![
        Case::new("Debian's configuration as it is shipped", move |bench| {
            bench.write(CONF, debians());
            bench.start_again("-tcp -udp");
            bench.look_behind_the_start();
            bench.nmap("-sT", "79");
            bench.until("history: … TCP Blocked");
            bench.nmap("-sU", "513");
        })
        .sees(
            "attackalert: Connect from host: 10.77.0.2/10.77.0.2 to TCP port: 79
            attackalert: Ignoring TCP response per configuration file setting.
            attackalert: Connect from host: 10.77.0.2/10.77.0.2 to UDP port: 513
            attackalert: Ignoring UDP response per configuration file setting.
            history: Host: 10.77.0.2/10.77.0.2 Port: 79 TCP Blocked
            history: Host: 10.77.0.2/10.77.0.2 Port: 513 UDP Blocked
            blocked.tcp: Host: 10.77.0.2/10.77.0.2 Port: 79 TCP Blocked
            blocked.udp: Host: 10.77.0.2/10.77.0.2 Port: 513 UDP Blocked",
        )
        .but_ours(
            "all modes know whom one of them has dealt with",
            "attackalert: Connect from host: 10.77.0.2/10.77.0.2 to TCP port: 79
            attackalert: Ignoring TCP response per configuration file setting.
            attackalert: Connect from host: 10.77.0.2/10.77.0.2 to UDP port: 513
            attackalert: Host: 10.77.0.2 is already blocked. Ignoring
            history: Host: 10.77.0.2/10.77.0.2 Port: 79 TCP Blocked
            blocked.tcp: Host: 10.77.0.2/10.77.0.2 Port: 79 TCP Blocked",
        ),
        edited(
            "Debian's configuration, blocking turned on",
            &[("BLOCK_TCP=\"0\"", "BLOCK_TCP=\"1\"")],
        )
        .sees(&format!(
            "{scan}
            {WRAPPERS}
            {route}
            {rest}
            port 80 is reached: false"
        ))
        .but_ours(
            "a ban in nftables, which ends and can be listed, before all else",
            &ours,
        ),
        edited(
            "Debian's configuration, edited as the tutorials do",
            &[
                ("BLOCK_TCP=\"0\"", "BLOCK_TCP=\"1\""),
                ("BLOCK_UDP=\"0\"", "BLOCK_UDP=\"1\""),
                (
                    "#KILL_RUN_CMD=\"/some/path/here/script $TARGET$ $PORT$ $MODE$\"",
                    &format!("KILL_RUN_CMD=\"{}\"", dropping("$TARGET$")),
                ),
                ("#PORT_BANNER=", "PORT_BANNER="),
            ],
        )
        .sees(&format!(
            "{scan}
            {WRAPPERS}
            {route}
            attackalert: External command run for host: 10.77.0.2 using command: \"{}\"
            {rest}
            port 80 is reached: false",
            dropping("10.77.0.2")
        ))
        .but_ours(
            "one ban in nftables, which logs what it drops, before all else",
            &ours,
        ),
    ]
}

/// What the tutorials have run.
fn dropping(target: &str) -> String {
    format!(
        "/sbin/iptables -I INPUT -s {target} -j DROP && /sbin/iptables -I INPUT -s {target} -m limit --limit 3/minute \
         --limit-burst 5 -j LOG --log-level debug --log-prefix 'Portsentry: dropping: '"
    )
}

/// Debian's configuration, where each of these has become the other, and a probe.
fn edited(name: &str, edits: &[(&str, &str)]) -> Case {
    let edits: Vec<_> = edits
        .iter()
        .map(|&(from, to)| (from.to_owned(), to.to_owned()))
        .collect();
    Case::new(name, move |bench| {
        let service = bench.host.serve(address(HOST), 80);
        let mut text = debians();
        for (from, to) in &edits {
            assert!(text.contains(from), "the case's own mistake");
            text = text.replace(from, to);
        }
        bench.write(CONF, text);
        bench.start_again("-atcp");
        bench.look_behind_the_start();
        bench.nmap("-sS", "79");
        bench.until("history: …");
        let reached = bench.stranger.reaches(address(HOST), 80);
        bench.note(format!("port 80 is reached: {reached}"));
        // What was sent to a service is judged while it is there.
        bench.everything_is_judged();
        drop(service);
    })
}

fn debians() -> String {
    let path = target().join("original/etc/portsentry/portsentry.conf");
    fs::read_to_string(path).expect("tests/compliance/fetch has unpacked it")
}
