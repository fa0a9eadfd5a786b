//! Starting, stopping, restarting, several modes at a time; banners; files.

use super::{DENIED, RECORDED, SCAN, SYN, WRAPPERS, blocked};
use crate::bench::{BLOCKED, HISTORY, HOSTS_DENY};
use crate::case::Case;

/// The second of the records.
const IN_BLOCKED: &str = "blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked";

const SHUTS_DOWN: &str =
    "securityalert: PortSentry is shutting down\nadminalert: PortSentry is shutting down";

const IGNORED: &str = "attackalert: Ignoring TCP response per configuration file setting.";

/// A start that cannot succeed. `conf` is as in [`Bench::configure`](crate::bench::Bench::configure), or `nothing`.
fn refused(name: &str, mode: &'static str, conf: &'static str, what: &'static str) -> Case {
    Case::new(name, move |bench| {
        if conf != "nothing" {
            bench.configure(conf);
        }
        bench.refuses(mode, what);
    })
}

/// A hosts.deny that could be appended to, but that no new file can take the place of, and what ours tells of it.
fn not_replaced(name: &str, made: &str, what: &'static str) -> Case {
    let made = made.to_owned();
    Case::new(name, move |bench| {
        bench.sh(&made);
        if bench.is_ours() {
            bench.configure("");
            bench.refuses("-atcp", what);
        } else {
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        }
    })
    .sees(&blocked("atcp", SYN, 11))
    .but_ours(
        "a file that is replaced whole, or not at all, must let itself be replaced, which is told before it starts",
        &format!(
            "adminalert: PortSentry … is starting.
            succeeds: false
            tells of {what}: true"
        ),
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let blocked = &blocked("atcp", SYN, 11);
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
        .sees(blocked),
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
        Case::new("history survives a restart", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
            bench.until("hosts.deny: …");
            bench.until("history: …");
            bench.stop();
            bench.start("-atcp", "");
            bench.forget_notes();
        })
        .sees(&format!("{}{DENIED}", RECORDED.replace(IN_BLOCKED, ""))),
        Case::new("who stood in a blocked file before the start is blocked all the same", |bench| {
            bench.write(
                &format!("{BLOCKED}.atcp"),
                "1795366059 - 11/22/2026 16:47:39 Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked\n",
            );
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
        .sees(blocked),
        Case::new("a blocked file that is a link of somebody's making", |bench| {
            // Where everybody may write; /tmp is this host's own.
            bench.sh("mkdir -m 777 /run/tmp");
            bench.write("/etc/theirs", "a line\n");
            bench.sh("ln -s /etc/theirs /run/tmp/portsentry.blocked.atcp");
            bench.configure("BLOCKED_FILE=\"/run/tmp/portsentry.blocked\"");
            bench.start_again("-atcp");
            bench.nmap("-sS", "11");
            bench.until("history: …");
            bench.everything_is_judged();
            let told = bench.log().contains("ERROR: Cannot open blocked file: /run/tmp/portsentry.blocked.atcp");
            let theirs = bench.read("/etc/theirs");
            let is_whole = theirs.starts_with("a line\n");
            let is_ours = theirs.contains("10.77.0.2");
            bench.report(&format!(
                "told: {told}
                what it leads to has its line: {is_whole}
                what it leads to has a record: {is_ours}"
            ));
        })
        .sees(
            "told: false
            what it leads to has its line: false
            what it leads to has a record: true",
        )
        .but_ours(
            "who may make a link must not choose what is written over",
            "told: true
            what it leads to has its line: true
            what it leads to has a record: false",
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
            .but_ours(
                "a mode that is watched already is watched for one more, who goes on when the first ends",
                "adminalert: PortSentry … is starting.
                adminalert: PortSentry is now active and listening.
                succeeds: true
                tells of tcp: false",
            ),
        Case::new("two modes, one process each: the second is ended", |bench| {
            bench.start("-atcp -audp", "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"");
            bench.end("-audp");
            bench.nmap("-sU", "9");
            bench.nmap("-sS", "11");
        })
        .sees(&format!("{SHUTS_DOWN}\n{SCAN}\n{IGNORED}{RECORDED}exit status 15"))
        .but_ours(
            "a service manager takes any status but 0 for a failure",
            &format!("{SHUTS_DOWN}\n{SCAN}\n{IGNORED}{RECORDED}exit status 0"),
        ),
        Case::new("two modes, one process each: the first is ended", |bench| {
            bench.start("-audp -atcp", "BLOCK_TCP=\"0\"\nBLOCK_UDP=\"0\"");
            bench.end("-audp");
            if bench.is_ours() {
                bench.until("adminalert: PortSentry is now active and listening.");
            }
            bench.nmap("-sU", "9");
            bench.nmap("-sS", "11");
        })
        .sees(&format!("{SHUTS_DOWN}\n{SCAN}\n{IGNORED}{RECORDED}exit status 15"))
        .but_ours(
            "the one that is left becomes the daemon, and says so; any exit status but 0 is taken for a failure",
            &format!(
                "{SHUTS_DOWN}
                adminalert: Advanced mode will monitor first 1024 ports
                adminalert: Advanced mode will manually exclude port: 113\x20
                adminalert: Advanced mode will manually exclude port: 139\x20
                adminalert: Advanced Stealth scan detection mode activated. Ignored TCP port: 113
                adminalert: Advanced Stealth scan detection mode activated. Ignored TCP port: 139
                adminalert: PortSentry is now active and listening.
                {SCAN}\n{IGNORED}{RECORDED}exit status 0"
            ),
        ),
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
        Case::new("BLOCKED_FILE is empty", |bench| {
            bench.configure("BLOCKED_FILE=\"\"");
            bench.refuses("-atcp", "BLOCKED_FILE");
            let made = bench.sh("ls -A");
            bench.report(&format!("a file without a name is made: {}", made.contains(".atcp")));
        })
        .sees(
            "succeeds: true
            tells of BLOCKED_FILE: false
            a file without a name is made: true",
        )
        .but_ours(
            "a configuration is read before anything starts",
            "succeeds: false
            tells of BLOCKED_FILE: true
            a file without a name is made: false",
        ),
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
        Case::new("hosts.deny keeps its mode", |bench| {
            bench.sh(&format!("install -m 640 /dev/null {HOSTS_DENY}"));
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
            bench.until(DENIED);
            let mode = bench.sh(&format!("stat -c %a {HOSTS_DENY}"));
            bench.report(&mode);
        })
        .sees("640"),
        not_replaced(
            "hosts.deny belongs to another group",
            &format!("install -m 640 -g 4 /dev/null {HOSTS_DENY}"),
            "belongs to uid 0 and gid 4",
        ),
        not_replaced(
            "hosts.deny is a link",
            &format!("ln -s elsewhere {HOSTS_DENY}"),
            "it is a symbolic link",
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
