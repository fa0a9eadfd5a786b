//! Starting, stopping, restarting, several modes at a time; banners; files.

use crate::bench::{BLOCKED, HISTORY, HOSTS_DENY};
use crate::case::Case;

const SCAN: &str =
    "attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 11";
const WRAPPERS: &str = r#"attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY""#;

const DENIED: &str = "hosts.deny: ALL: 10.77.0.2 : DENY";
const SHUTS_DOWN: &str =
    "securityalert: PortSentry is shutting down\nadminalert: PortSentry is shutting down";

/// A start that cannot succeed. `conf` is as in [`Bench::configure`](crate::bench::Bench::configure), or `nothing`.
fn refused(name: &str, mode: &'static str, conf: &'static str, what: &'static str) -> Case {
    Case::new(name, move |bench| {
        if conf != "nothing" {
            bench.configure(conf);
        }
        bench.refuses(mode, what);
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let blocked = format!(
        "{SCAN}
        {WRAPPERS}
        history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
        blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
        hosts.deny: ALL: 10.77.0.2 : DENY"
    );
    vec![
        Case::new("SIGTERM is a good end", |bench| {
            bench.start("-atcp", "");
            bench.stop();
        })
        .sees(
            "securityalert: PortSentry is shutting down
            adminalert: PortSentry is shutting down
            exit status 15",
        )
        .but_ours(
            "a service manager takes any status but 0 for a failure",
            "securityalert: PortSentry is shutting down
            adminalert: PortSentry is shutting down
            exit status 0",
        ),
        Case::new("SIGHUP ends nothing", |bench| {
            bench.start("-atcp", "");
            bench.sh("kill -HUP $(pidof portsentry)");
            bench.nmap("-sS", "11");
        })
        .sees(&blocked),
        Case::new("after a restart, history is kept and a host is blocked anew", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
            bench.until("hosts.deny: …");
            bench.stop();
            bench.start("-atcp", "");
            bench.forget_notes();
            bench.nmap("-sS", "11");
        })
        .sees(&format!(
            "{SCAN}
            {WRAPPERS}
            history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
            history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
            blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
            hosts.deny: ALL: 10.77.0.2 : DENY
            hosts.deny: ALL: 10.77.0.2 : DENY"
        ))
        .but_ours(
            "a ban outlives a restart, and hosts.deny has one line for it",
            &format!(
                "{SCAN}
                attackalert: Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring
                history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
                hosts.deny: ALL: 10.77.0.2 : DENY"
            ),
        ),
        Case::new("two modes, one process each: a scanner of both", |bench| {
            bench.start("-atcp -audp", "");
            bench.nmap("-sS", "11");
            bench.until("hosts.deny: …");
            bench.nmap("-sU", "9");
        })
        .sees(&format!(
            "{SCAN}
            {WRAPPERS}
            attackalert: UDP scan from host: 10.77.0.2/10.77.0.2 to UDP port: 9
            {WRAPPERS}
            history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
            history: Host: 10.77.0.2/10.77.0.2 Port: 9 UDP Blocked
            blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
            blocked.audp: Host: 10.77.0.2/10.77.0.2 Port: 9 UDP Blocked
            hosts.deny: ALL: 10.77.0.2 : DENY
            hosts.deny: ALL: 10.77.0.2 : DENY"
        ))
        .but_ours(
            "all modes know whom one of them has blocked",
            &format!(
                "{SCAN}
                {WRAPPERS}
                attackalert: UDP scan from host: 10.77.0.2/10.77.0.2 to UDP port: 9
                attackalert: Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring
                history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
                blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
                hosts.deny: ALL: 10.77.0.2 : DENY"
            ),
        ),
        Case::new("the same mode twice", |bench| {
            bench.start("-tcp", "TCP_PORTS=\"1\"");
            bench.refuses("-tcp", "tcp");
        })
            .sees(
                "adminalert: PortSentry … is starting.
                adminalert: Going into listen mode on TCP port: 1
                adminalert: ERROR: could not bind TCP socket: 1. Attempting to continue
                adminalert: ERROR: could not bind ANY TCP sockets. Shutting down.
                adminalert: ERROR: could not go into PortSentry mode. Shutting down.
                securityalert: PortSentry is shutting down
                adminalert: PortSentry is shutting down
                succeeds: true
                tells of tcp: false",
            )
            .but_ours("a start that failed says so to who started it", "succeeds: false\ntells of tcp: true"),
        refused("an unknown flag", "-xtcp", "", "xtcp")
            .sees(&format!("{SHUTS_DOWN}\nsucceeds: false
                tells of xtcp: false"))
            .but_ours("nothing runs yet that could shut down", "succeeds: false\ntells of xtcp: true"),
        refused("no configuration", "-atcp", "nothing", "portsentry.conf")
            .sees(&format!(
                "adminalert: PortSentry … is starting.
                adminalert: Cannot open config file: /etc/portsentry/portsentry.conf. Exiting
                adminalert: ERROR: Configuration files are missing/corrupted. Shutting down.
                {SHUTS_DOWN}
                succeeds: false
                tells of portsentry.conf: false"
            ))
            .but_ours("a configuration is read before anything starts", "succeeds: false\ntells of portsentry.conf: true"),
        refused("no TCP_PORTS", "-tcp", "#TCP_PORTS", "TCP_PORTS")
            .sees(&format!(
                "adminalert: PortSentry … is starting.
                adminalert: ERROR: Could not read TCP_PORTS option from config file
                adminalert: ERROR: could not go into PortSentry mode. Shutting down.
                {SHUTS_DOWN}
                succeeds: true
                tells of TCP_PORTS: false"
            ))
            .but_ours("a start that failed says so to who started it", "succeeds: false\ntells of TCP_PORTS: true"),
        refused("no BLOCKED_FILE", "-atcp", "#BLOCKED_FILE", "BLOCKED_FILE")
            .sees(&format!(
                "adminalert: PortSentry … is starting.
                adminalert: ERROR: Your config file is corrupted/missing mandatory option! Shutting down.
                {SHUTS_DOWN}
                succeeds: false
                tells of BLOCKED_FILE: false"
            ))
            .but_ours("a configuration is read before anything starts", "succeeds: false\ntells of BLOCKED_FILE: true"),
        Case::new("-tcp: the banner", |bench| {
            bench.start("-tcp", "PORT_BANNER=\"** UNAUTHORIZED ACCESS PROHIBITED ***\"");
            let banner = bench.nc("--recv-only", 11);
            bench.note(format!("banner: {banner}"));
        })
        .sees(
            &(format!("{blocked}\nbanner: ** UNAUTHORIZED ACCESS PROHIBITED ***")
                .replace("TCP SYN/Normal scan", "Connect")
                .replace("atcp", "tcp")),
        ),
        Case::new("-udp: the banner", |bench| {
            bench.start("-udp", "PORT_BANNER=\"go away\"");
            let banner = bench.nc("--udp --idle-timeout 2", 9);
            bench.note(format!("banner: {banner}"));
        })
        .sees(&format!("{blocked}\nbanner: go away")
            .replace("TCP SYN/Normal scan", "Connect")
            .replace("atcp", "udp")
            .replace("TCP", "UDP")
            .replace(": 11", ": 9")),
        Case::new("who may read the files", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
            bench.until("hosts.deny: …");
            bench.until("history: …");
            let blocked = format!("{BLOCKED}.atcp");
            let modes = bench.sh(&format!("stat -c '%n %a' {HISTORY} {blocked} {HOSTS_DENY}"));
            bench.report(&modes);
        })
        .sees(
            "/var/lib/portsentry/portsentry.history 600
            /var/lib/portsentry/portsentry.blocked.atcp 644
            /etc/hosts.deny 600",
        )
        .but_ours(
            "clients of tcp_wrappers need not be root",
            "/var/lib/portsentry/portsentry.history 600
            /var/lib/portsentry/portsentry.blocked.atcp 644
            /etc/hosts.deny 644",
        ),
        Case::new("hosts.deny has the line already", |bench| {
            bench.write(HOSTS_DENY, "# mine\nALL: 10.77.0.2 : DENY\n");
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
        .sees(&blocked.replace(DENIED, &format!("hosts.deny: # mine\n{DENIED}\n{DENIED}"))),
        Case::new("hosts.deny ends without a newline", |bench| {
            bench.write(HOSTS_DENY, "# mine");
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
        .sees(&blocked.replace(DENIED, "hosts.deny: # mineALL: 10.77.0.2 : DENY"))
        .but_ours(
            "a line is a line of its own",
            &blocked.replace(DENIED, &format!("hosts.deny: # mine\n{DENIED}")),
        ),
        Case::new("history is appended to", |bench| {
            bench.write(HISTORY, "1794400000 - kept\n");
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
        .sees(&blocked.replace("history: ", "history: 1794400000 - kept\nhistory: ")),
    ]
}
