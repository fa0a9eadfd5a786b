//! Odd packets: which of them are scans, and what they are called.

use crate::bench::{HOST, HOST6, STRANGER, STRANGER6, address};
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, how) in [
        ("an ACK scan", "-sA"),
        ("a Window scan", "-sW"),
        ("a Maimon scan", "-sM"),
    ] {
        cases.push(Case::new(format!("{name} is no scan"), move |bench| {
            bench.start("-atcp", "");
            bench.nmap(how, "11");
        }));
    }
    cases.push(Case::new("an RST is no scan", |bench| {
        bench.start("-atcp", "");
        bench.stranger.hping3(1, "-R -p 11", HOST);
    }));
    for (flags, how) in [
        ("SYN: 1 FIN: 1 ACK: 0 PSH: 0 URG: 0 RST: 0", "-S -F"),
        ("SYN: 0 FIN: 0 ACK: 0 PSH: 1 URG: 0 RST: 0", "-P"),
    ] {
        cases.push(
            Case::new(
                format!("flags without a name are told ({how})"),
                move |bench| {
                    bench.start("-atcp", "");
                    bench.stranger.hping3(1, &format!("{how} -p 11"), HOST);
                },
            )
            .sees(&blocked(
                &format!("Unknown Type: TCP Packet Flags: {flags}"),
                "TCP",
                11,
            )),
        );
    }
    for (mode, how, kind, protocol) in [
        ("atcp", "-S", "TCP SYN/Normal scan", "TCP"),
        ("audp", "-2", "UDP scan", "UDP"),
    ] {
        let lines = blocked(kind, protocol, 11).replace("atcp", mode);
        let (scan, rest) = lines.split_once('\n').expect("there are several lines");
        cases.push(
            Case::new(format!("-{mode}: IP options are told"), move |bench| {
                bench.start(&format!("-{mode}"), "");
                bench.stranger.hping3(1, &format!("{how} -G -p 11"), HOST);
            })
            .sees(&format!(
                "{scan}
                attackalert: Packet from host: {STRANGER}/{STRANGER} to {protocol} port: 11 has IP options set (detection avoidance technique).
                {rest}"
            )),
        );
    }
    cases.extend([
        Case::new("a SYN in fragments is a scan", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS -f", "11");
        })
        .sees(&blocked("TCP SYN/Normal scan", "TCP", 11)),
        Case::new(
            "a scan of a new address that begins like an old one is seen",
            |bench| {
                bench.start("-atcp", "");
                bench.host.ip("addr add 10.77.0.10/24 dev eth0");
                bench.stranger.nmap("-sS", "11", "10.77.0.10");
            },
        )
        .sees(&blocked("TCP SYN/Normal scan", "TCP", 11)),
        Case::new("a broadcast is no scan", |bench| {
            bench.start("-audp", "");
            bench.stranger.datagrams(address("10.77.0.255"), [9]);
        })
        .sees(&blocked("UDP scan", "UDP", 9).replace("atcp", "audp"))
        .but_ours(
            "only what is sent to an address of this host's own is a probe",
            "",
        ),
        Case::new("a scan that the firewall drops is not seen", |bench| {
            bench.host.nft("add table inet filter");
            bench
                .host
                .nft("add chain inet filter input { type filter hook input priority 0; }");
            bench
                .host
                .nft("add rule inet filter input ip saddr 10.77.0.2 drop");
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        }),
        Case::new("a scan over IPv6 is seen", |bench| {
            bench.speak_ipv6();
            bench.start("-atcp", "");
            bench.stranger.nmap("-6 -sS", "11", HOST6);
        })
        .but_ours(
            "the original knows only IPv4",
            &blocked6("TCP SYN/Normal scan"),
        ),
        Case::new("-tcp: a connection over IPv6 is seen", |bench| {
            bench.speak_ipv6();
            bench.start("-tcp", "");
            bench.stranger.nmap("-6 -sT", "11", HOST6);
        })
        .but_ours(
            "the original knows only IPv4",
            &blocked6("Connect").replace("atcp", "tcp"),
        ),
    ]);
    cases
}

/// What is seen of one probe in mode atcp.
fn blocked(kind: &str, protocol: &str, port: u16) -> String {
    format!(
        r#"attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {port}
        attackalert: Host {STRANGER} has been blocked via wrappers with string: "ALL: {STRANGER} : DENY"
        history: Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked
        blocked.atcp: Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked
        hosts.deny: ALL: {STRANGER} : DENY"#
    )
}

/// The same over IPv6, whose addresses hosts.deny has in brackets.
fn blocked6(kind: &str) -> String {
    blocked(kind, "TCP", 11)
        .replace(STRANGER, STRANGER6)
        .replace(
            &format!("ALL: {STRANGER6} "),
            &format!("ALL: [{STRANGER6}] "),
        )
}
