//! RESOLVE_HOST: names that the scanner's own name server gives.

use super::{SYN, blocked};
use crate::bench::{HISTORY, HOSTS_DENY};
use crate::case::Case;
use crate::eventually;

const RESOLVE: &str = "RESOLVE_HOST=\"1\"";

pub(crate) fn cases() -> Vec<Case> {
    // The C library lets only names through that a host may have; the address stands in for others.
    let unnamed = blocked("atcp", SYN, 11);
    vec![
        Case::new("a name is told and recorded", |bench| {
            bench.name_server(&[b"scanner", b"example", b"net"]);
            bench.start("-atcp", RESOLVE);
            bench.nmap("-sS", "11");
        })
        .sees(&unnamed.replace("10.77.0.2/", "scanner.example.net/")),
        Case::new("a name that begins with the address", |bench| {
            bench.name_server(&[b"10", b"77", b"0", b"2", b"evil", b"example"]);
            bench.start("-atcp", RESOLVE);
            for (times, port) in [(1, "11"), (2, "12"), (3, "13")] {
                bench.nmap("-sS", port);
                bench.until_times(times, "attackalert: TCP SYN/Normal scan …");
            }
        })
        .sees(
            r#"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 11
            attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 12
            attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 13
            attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY"
            history: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 11 TCP Blocked
            history: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 12 TCP Blocked
            history: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 13 TCP Blocked
            blocked.atcp: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 11 TCP Blocked
            blocked.atcp: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 12 TCP Blocked
            blocked.atcp: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 13 TCP Blocked
            hosts.deny: ALL: 10.77.0.2 : DENY
            hosts.deny: ALL: 10.77.0.2 : DENY
            hosts.deny: ALL: 10.77.0.2 : DENY
            "#,
        )
        .but_ours(
            "who is blocked is known by the address",
            r#"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 11
            attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY"
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 12
            attackalert: Host: 10.77.0.2.evil.example/10.77.0.2 is already blocked Ignoring
            attackalert: TCP SYN/Normal scan from host: 10.77.0.2.evil.example/10.77.0.2 to TCP port: 13
            attackalert: Host: 10.77.0.2.evil.example/10.77.0.2 is already blocked Ignoring
            history: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 11 TCP Blocked
            blocked.atcp: Host: 10.77.0.2.evil.example/10.77.0.2 Port: 11 TCP Blocked
            hosts.deny: ALL: 10.77.0.2 : DENY
            "#,
        ),
        Case::new("a name with blanks and a record in it", |bench| {
            bench.name_server(&[b"x/192.0.2.1 Port: 1 TCP Blocked", b"evil"]);
            bench.start("-atcp", RESOLVE);
            bench.nmap("-sS", "11");
        })
        .sees(&unnamed),
        Case::new("a name with a slash, quotes and shell in it", |bench| {
            bench.name_server(&[b"a/192.0.2.1\"$(reboot)`;'", b"evil"]);
            bench.start("-atcp", RESOLVE);
            bench.nmap("-sS", "11");
        })
        .sees(&unnamed),
        Case::new("a name with a line's end and control characters", |bench| {
            bench.name_server(&[b"a\nb\x1b[2J\x07", b"evil"]);
            bench.start("-atcp", RESOLVE);
            bench.nmap("-sS", "11");
        })
        .sees(&unnamed),
        Case::new("a name server that does not answer", |bench| {
            bench.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n");
            bench.name_server(&[b"slow", b"example"]).hold_answers();
            bench.start("-atcp", RESOLVE);
            bench.nmap("-sS", "11");
            let blocked = eventually("the name is asked for, or the host blocked", || {
                let blocked = !bench.read(HOSTS_DENY).is_empty();
                (blocked || bench.asked() > 0).then_some(blocked)
            });
            // Whoever does not wait for the name has blocked it by the time a second packet could come.
            let blocked = blocked
                || crate::within(std::time::Duration::from_secs(2), || {
                    (!bench.read(HOSTS_DENY).is_empty()).then_some(())
                })
                .is_some();
            bench.note(format!("blocked while the name is asked for: {blocked}"));
            eventually("it is recorded", || (!bench.read(HISTORY).is_empty()).then_some(()));
        })
        .sees(&format!("{unnamed}\nblocked while the name is asked for: false"))
        .but_ours(
            "names are asked for beside the packets' path",
            &format!("{unnamed}\nblocked while the name is asked for: true"),
        ),
    ]
}
