//! Those who read our log and history today, with their real rule files.

use crate::bench::{Bench, HOST6, IGNORE, STRANGER6};
use crate::case::Case;
use crate::readers;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("fail2ban's stock jail finds the scanners", |bench| {
            bench.start("-tcp -udp", "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"");
            bench.nmap("-sT", "11");
            bench.until("history: … TCP Blocked");
            bench.nmap_as("10.77.0.3", "-sU", "9");
            bench.until("history: … UDP Blocked");
            bench.note(format!("reads {}", readers::fail2ban_reads()));
            let found = readers::fail2ban(&bench.history());
            bench.report(&found);
        })
        .sees(
            "reads /var/lib/portsentry/portsentry.history
            10.77.0.2
            10.77.0.3",
        ),
        Case::new(
            "fail2ban's stock jail finds nobody who is ignored",
            |bench| {
                bench.write(IGNORE, "10.77.0.2\n");
                bench.start("-atcp", "BLOCK_TCP=\"0\"");
                bench.nmap("-sS", "11");
                bench.nmap_as("10.77.0.3", "-sS", "11");
                bench.until("history: …");
                let found = readers::fail2ban(&bench.history());
                bench.report(&found);
            },
        )
        .sees("10.77.0.3"),
        Case::new("fail2ban's stock jail finds a scanner over IPv6", |bench| {
            scanned_over_ipv6(bench);
            let found = readers::fail2ban(&bench.history());
            bench.report(&found);
        })
        .but_ours("the original knows only IPv4", STRANGER6),
        Case::new("logwatch reports scans and blocks", |bench| {
            scanned_and_blocked(bench);
            let report = readers::logwatch(&bench.log());
            bench.report(&report);
        })
        .sees(
            "Warning: Portscans detected
            TCP SYN/Normal from:
            10.77.0.2: ports: 11 15
            UDP from:
            10.77.0.2: ports: 9
            Warning: Blocked route from/to 10.77.0.2 4 times(s).",
        )
        .but_ours(
            "all modes know whom one of them has blocked",
            "Warning: Portscans detected
            TCP SYN/Normal from:
            10.77.0.2: ports: 11 15
            UDP from:
            10.77.0.2: ports: 9
            Warning: Blocked route from/to 10.77.0.2 2 times(s).",
        ),
        Case::new("logwatch reports a scan over IPv6", |bench| {
            scanned_over_ipv6(bench);
            let report = readers::logwatch(&bench.log());
            bench.report(&report);
        })
        .but_ours(
            "the original knows only IPv4",
            "Warning: Portscans detected
            TCP SYN/Normal from:
            fd77::2: ports: 11",
        ),
        Case::new("prelude's rules: scan, blocked, already blocked", |bench| {
            scanned_and_blocked(bench);
            let found = readers::prelude(&bench.log());
            bench.report(&found);
        })
        .sees("1500\n1502\n1500\n1503\n1500\n1502")
        .but_ours(
            "all modes know whom one of them has blocked",
            "1500\n1502\n1500\n1503\n1500\n1503",
        ),
        Case::new(
            "logwatch and prelude read of a ban by a KILL_ROUTE that only blocks",
            |bench| {
                bench.start(
                    "-atcp",
                    "KILL_ROUTE=\"/sbin/route add -host $TARGET$ reject\"",
                );
                bench.nmap("-sS", "11");
                bench.until("history: …");
                let log = bench.log();
                let found = readers::logwatch(&log) + &readers::prelude(&log);
                bench.report(&found);
            },
        )
        .sees(
            "Warning: Portscans detected
            TCP SYN/Normal from:
            10.77.0.2: ports: 11
            Warning: Blocked route from/to 10.77.0.2 2 times(s).
            1500
            1502",
        ),
        Case::new(
            "Wazuh's and prelude's rules: a connection, already blocked",
            |bench| {
                bench.start("-tcp", "BLOCK_TCP=\"0\"");
                bench.nmap("-sT", "11");
                bench.nmap("-sT", "15");
                bench.until("…already blocked. Ignoring");
                let log = bench.log();
                let found = readers::wazuh(&log) + &readers::prelude(&log);
                bench.report(&found);
            },
        )
        .sees(
            "10.77.0.2/10.77.0.2 to TCP port: 11
            10.77.0.2/10.77.0.2 to TCP port: 15
            10.77.0.2
            1501
            1501",
        ),
    ]
}

/// Two TCP probes and one of UDP, responded to.
fn scanned_and_blocked(bench: &mut Bench) {
    // Not one that ours would carry out itself: then nothing more of the stranger would be heard.
    bench.start("-atcp -audp", "KILL_ROUTE=\"true $TARGET$\"");
    bench.nmap("-sS", "11");
    bench.until("history: …");
    bench.nmap("-sS", "15");
    bench.until("…already blocked Ignoring");
    bench.nmap("-sU", "9");
    bench.until("…UDP scan…");
    bench.everything_is_judged();
}

fn scanned_over_ipv6(bench: &mut Bench) {
    bench.speak_ipv6();
    bench.start("-atcp", "BLOCK_TCP=\"0\"");
    bench.stranger.nmap("-6 -sS", "11", HOST6);
    bench.everything_is_judged();
}
