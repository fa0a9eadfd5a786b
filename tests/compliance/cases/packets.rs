//! Odd packets: which of them are scans, and what they are called.

use std::net::UdpSocket;

use super::{SYN, blocked};
use crate::bench::{HOST, HOST6, STRANGER, STRANGER6, address};
use crate::case::Case;
use crate::packets::{DEST_OPTIONS, TCP, dest_options, ipv4_syn, send_ipv4, send_ipv6, tcp_syn};

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
                "atcp",
                &format!("Unknown Type: TCP Packet Flags: {flags}"),
                11,
            )),
        );
    }
    for (mode, how, kind, protocol) in [
        ("atcp", "-S", SYN, "TCP"),
        ("audp", "-2", "UDP scan", "UDP"),
    ] {
        let lines = blocked(mode, kind, 11);
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
        .sees(&blocked("atcp", SYN, 11)),
        Case::new(
            "a scan of a new address that begins like an old one is seen",
            |bench| {
                bench.start("-atcp", "");
                bench.host.ip("addr add 10.77.0.10/24 dev eth0");
                bench.stranger.nmap("-sS", "11", "10.77.0.10");
            },
        )
        .sees(&blocked("atcp", SYN, 11)),
        Case::new("a SYN in a later fragment alone is no scan", |bench| {
            bench.start("-atcp", "");
            let piece = ipv4_syn(address(STRANGER), address(HOST), 11, 64);
            send_ipv4(&bench.stranger, address(HOST), [piece]);
        }),
        Case::new("a datagram of sixty thousand bytes is a scan", |bench| {
            for host in [&bench.host, &bench.stranger] {
                host.ip("link set eth0 mtu 65535");
            }
            bench.start("-audp", "");
            bench.stranger.inside(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("some port is free");
                let sent = socket.send_to(&[0; 60_000], (HOST, 9));
                sent.expect("the link takes it")
            });
        })
        .sees(&blocked("audp", "UDP scan", 9)),
        Case::new(
            "a scan on a new link whose name begins like an old one's is seen",
            |bench| {
                bench.start("-atcp", "");
                bench.host.cable(
                    "eth01",
                    &["10.78.0.1/24"],
                    &bench.stranger,
                    "eth01",
                    &["10.78.0.2/24"],
                );
                bench.stranger.nmap("-sS", "11", "10.78.0.1");
            },
        )
        .sees(&blocked("atcp", SYN, 11).replace(STRANGER, "10.78.0.2")),
        Case::new("a host that scans itself is not blocked", |bench| {
            bench.start("-atcp", "");
            bench.host.nmap("-sS", "11", HOST);
        })
        .sees(&blocked("atcp", SYN, 11).replace(STRANGER, HOST))
        .but_ours("the host's own addresses are never banned", ""),
        Case::new("a broadcast is no scan", |bench| {
            bench.start("-audp", "");
            bench.stranger.datagrams(address("10.77.0.255"), [9]);
        })
        .sees(&blocked("audp", "UDP scan", 9))
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
        .but_ours("the original knows only IPv4", &blocked6("atcp", SYN)),
        Case::new(
            "a scan over IPv6 is seen behind a header of options",
            |bench| {
                bench.speak_ipv6();
                bench.start("-atcp", "");
                let syn = tcp_syn(STRANGER6, HOST6, 11);
                let packet = dest_options(TCP, &syn);
                send_ipv6(&bench.stranger, HOST6, DEST_OPTIONS, &packet);
            },
        )
        .but_ours("the original knows only IPv4", &blocked6("atcp", SYN)),
        Case::new("-tcp: a connection over IPv6 is seen", |bench| {
            bench.speak_ipv6();
            bench.start("-tcp", "");
            bench.stranger.nmap("-6 -sT", "11", HOST6);
        })
        .but_ours("the original knows only IPv4", &blocked6("tcp", "Connect")),
    ]);
    cases
}

/// What is seen of a scan of port 11 over IPv6, whose addresses hosts.deny has in brackets.
fn blocked6(mode: &str, kind: &str) -> String {
    let in_brackets = format!("ALL: [{STRANGER6}] ");
    blocked(mode, kind, 11)
        .replace(&format!("ALL: {STRANGER} "), &in_brackets)
        .replace(STRANGER, STRANGER6)
}
