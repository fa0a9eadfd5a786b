//! Started by our unit: as a user of its own, in its sandbox.

use std::path::Path;

use crate::machine::{Machine, Release};
use crate::worlds::{Pair, at};
use crate::{eventually, on_each_debian};

on_each_debian!(
    a_scanner_is_banned_from_within_the_sandbox,
    the_journal_has_the_words_of_1_2_and_fields_beside_them,
    a_broken_configuration_fails_the_unit_and_says_why,
    after_a_crash_it_runs_again_with_its_bans,
    commands_of_root_leave_the_daemon_its_files,
    the_drop_in_for_hosts_deny_is_enough,
    the_drop_in_for_low_ports_is_enough,
    a_configuration_of_1_2_needs_no_more_than_its_modes_do,
);

const UNIT: &str = "portsentry-nft.service";

/// A machine with what a package would install; nothing is started.
pub(crate) fn installed(release: Release) -> Machine {
    let machine = Machine::boot(release);
    for (from, to) in [
        (
            "packaging/systemd/portsentry-nft.service",
            "/usr/lib/systemd/system/portsentry-nft.service",
        ),
        (
            "packaging/systemd/portsentry-nft.sysusers",
            "/usr/lib/sysusers.d/portsentry-nft.conf",
        ),
        ("config/portsentry.toml", "/etc/portsentry/portsentry.toml"),
        ("config/ignore.list", "/etc/portsentry/ignore.list"),
    ] {
        machine.copy(&source(from), to);
    }
    machine.run("systemd-sysusers && systemctl daemon-reload");
    machine
}

/// The same, with the unit enabled and started under its old name.
pub(crate) fn running(release: Release) -> Machine {
    let machine = installed(release);
    machine.run("systemctl enable portsentry-nft.service && systemctl start portsentry");
    machine
}

/// A file of this tree.
pub(crate) fn source(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A scan from outside, and the ban that it leads to.
pub(crate) fn scan(machine: &Machine) {
    machine.net.stranger.nmap("-sS", "1-100", Pair::HOST);
    machine.is_banned(Pair::STRANGER);
}

/// Not by `systemctl kill`, which hits what systemd starts next as well.
fn crash(machine: &Machine) {
    machine.run(&format!("kill -KILL {}", machine.shows(UNIT, "MainPID")));
}

fn a_scanner_is_banned_from_within_the_sandbox(release: Release) {
    let machine = running(release);
    // `systemctl start` has come back: the daemon has said that it is ready.
    assert_eq!(machine.shows(UNIT, "Type"), "notify");
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");

    let pid = machine.shows(UNIT, "MainPID");
    assert_eq!(
        machine.run(&format!("ps -o user= -p {pid}")),
        "portsentry\n"
    );
    let status = machine.run(&format!("cat /proc/{pid}/status"));
    // CAP_NET_ADMIN is number 12, CAP_NET_RAW number 13.
    for line in [
        "CapPrm:\t0000000000003000",
        "CapEff:\t0000000000003000",
        "CapBnd:\t0000000000003000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    // In tenths: 1.9 when this was written.
    machine.run(&format!("systemd-analyze security --threshold=20 {UNIT}"));

    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = || machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(reaches());
    scan(&machine);
    assert!(!reaches());
    machine.run("systemctl reload portsentry");
    machine.run("systemctl restart portsentry");
    let list = machine.run("portsentry list");
    assert!(list.contains("syn scan, 3 tcp ports"), "{list}");
    assert!(!reaches());
    machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    assert!(reaches());
    machine.run("systemctl stop portsentry");
    assert_eq!(machine.shows(UNIT, "Result"), "success");
}

fn the_journal_has_the_words_of_1_2_and_fields_beside_them(release: Release) {
    let machine = running(release);
    scan(&machine);
    let seen = machine
        .entry("attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 3");
    for (field, value) in [
        ("SYSLOG_IDENTIFIER", "portsentry"),
        ("PRIORITY", "5"),
        ("_SYSTEMD_UNIT", UNIT),
        ("PORTSENTRY_SOURCE", Pair::STRANGER),
        ("PORTSENTRY_PORT", "3"),
        ("PORTSENTRY_PROTOCOL", "tcp"),
        ("PORTSENTRY_MODE", "atcp"),
        ("PORTSENTRY_REASON", "syn scan, 3 tcp ports, last 3"),
    ] {
        assert_eq!(seen[field], value, "{field} of {seen}");
    }
    machine.entry(
        "attackalert: Host 10.77.0.2 has been blocked via dropped route using command: \
         \"nft add element inet portsentry banned4 { 10.77.0.2 timeout 10m }\"",
    );
    // As one looks for them.
    let found = machine.run("journalctl --no-pager PORTSENTRY_SOURCE=10.77.0.2");
    assert!(found.contains(" portsentry["), "{found}");
}

fn a_broken_configuration_fails_the_unit_and_says_why(release: Release) {
    let machine = running(release);
    scan(&machine);
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[detect]\ntriger = 1\n",
    );
    machine.fails("systemctl restart portsentry");
    assert_eq!(machine.shows(UNIT, "ExecMainStatus"), "78");
    assert_eq!(machine.shows(UNIT, "ActiveState"), "failed");
    assert_eq!(machine.shows(UNIT, "NRestarts"), "0");
    let status = machine.status_of_failed("portsentry");
    assert!(
        status.contains("local.toml:2") && status.contains("triger"),
        "{status}"
    );
    // Who was banned stays so.
    machine.is_banned(Pair::STRANGER);
}

fn after_a_crash_it_runs_again_with_its_bans(release: Release) {
    let machine = running(release);
    scan(&machine);
    let before = machine.shows(UNIT, "MainPID");
    crash(&machine);
    eventually("it is started again", || {
        let now = machine.shows(UNIT, "MainPID");
        let is_active = machine.shows(UNIT, "ActiveState") == "active";
        (is_active && now != "0" && now != before).then_some(())
    });
    let list = machine.run("portsentry list");
    assert!(list.contains(Pair::STRANGER), "{list}");
    machine.is_banned(Pair::STRANGER);
}

fn commands_of_root_leave_the_daemon_its_files(release: Release) {
    let machine = running(release);
    machine.run("systemctl stop portsentry");
    // There, and all missing.
    for prepare in ["true", "rm /var/lib/portsentry/*"] {
        machine.run(prepare);
        machine.run("portsentry ban 203.0.113.7");
        machine.run("systemctl start portsentry");
        let list = machine.run("portsentry list");
        assert!(list.contains("203.0.113.7"), "{list}");
        machine.run("portsentry unban 203.0.113.7");
        machine.run("systemctl stop portsentry");
    }
    let owners = machine.run("stat -c '%U %n' /var/lib/portsentry/*");
    assert!(
        owners.lines().all(|line| line.starts_with("portsentry ")),
        "{owners}"
    );
}

fn the_drop_in_for_hosts_deny_is_enough(release: Release) {
    let machine = installed(release);
    machine.write("/etc/hosts.deny", "# mine\nin.telnetd: ALL\n");
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[ban]\nresponders = [\"nftables\", \"hosts-deny\"]\n",
    );
    machine.fails("systemctl start portsentry-nft");
    let status = machine.status_of_failed("portsentry-nft");
    assert!(
        status.contains("Status: \"hosts-deny: no file can be made in /etc")
            && status.contains("User=root"),
        "{status}"
    );
    machine.copy(
        &source("packaging/systemd/examples/hosts-deny.conf"),
        "/etc/systemd/system/portsentry-nft.service.d/hosts-deny.conf",
    );
    machine
        .run("systemctl daemon-reload && systemctl reset-failed && systemctl start portsentry-nft");
    scan(&machine);
    eventually("hosts.deny has a line", || {
        machine
            .read("/etc/hosts.deny")
            .contains("ALL: 10.77.0.2\n")
            .then_some(())
    });
    // A crash leaves no line behind, whether it is started again or not.
    machine.write(
        "/etc/systemd/system/portsentry-nft.service.d/once.conf",
        "[Service]\nRestart=no\n",
    );
    machine.run("systemctl daemon-reload");
    crash(&machine);
    eventually("the unit has failed", || {
        (machine.shows(UNIT, "ActiveState") == "failed").then_some(())
    });
    assert_eq!(machine.read("/etc/hosts.deny"), "# mine\nin.telnetd: ALL\n");
}

fn the_drop_in_for_low_ports_is_enough(release: Release) {
    let machine = installed(release);
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[tcp]\nmode = \"connect\"\nports = [7, 11, 79]\n[listen]\nbanner = \"go away\"\n",
    );
    machine.fails("systemctl start portsentry-nft");
    let status = machine.status_of_failed("portsentry-nft");
    assert!(
        status.contains("CAP_NET_BIND_SERVICE is missing"),
        "{status}"
    );
    machine.copy(
        &source("packaging/systemd/examples/listen.conf"),
        "/etc/systemd/system/portsentry-nft.service.d/listen.conf",
    );
    machine
        .run("systemctl daemon-reload && systemctl reset-failed && systemctl start portsentry-nft");
    machine.net.stranger.nmap("-sT", "7,11,79", Pair::HOST);
    machine.is_banned(Pair::STRANGER);
}

fn a_configuration_of_1_2_needs_no_more_than_its_modes_do(release: Release) {
    let machine = installed(release);
    machine.run("rm -r /etc/portsentry && mkdir /etc/portsentry");
    machine.write(
        "/etc/portsentry/portsentry.conf",
        "TCP_PORTS=\"1,11,15\"\nUDP_PORTS=\"1,7,9\"\nADVANCED_PORTS_TCP=\"1024\"\nADVANCED_PORTS_UDP=\"1024\"\n\
         IGNORE_FILE=\"/etc/portsentry/portsentry.ignore\"\nHISTORY_FILE=\"/var/lib/portsentry/portsentry.history\"\n\
         BLOCKED_FILE=\"/var/lib/portsentry/portsentry.blocked\"\nBLOCK_TCP=\"1\"\nBLOCK_UDP=\"1\"\nSCAN_TRIGGER=\"0\"\n\
         KILL_ROUTE=\"/sbin/route add -host $TARGET$ reject\"\n",
    );
    machine.write("/etc/portsentry/portsentry.ignore", "127.0.0.1\n");
    machine.write(
        "/etc/portsentry/portsentry.conf.d/modes.toml",
        "[tcp]\nmode = \"advanced\"\n[udp]\nmode = \"advanced\"\n",
    );
    machine.run("systemctl start portsentry-nft");
    scan(&machine);
    eventually("the file of blocked hosts has the scanner", || {
        let blocked = machine.read("/var/lib/portsentry/portsentry.blocked.atcp");
        blocked.contains("Host: 10.77.0.2/10.77.0.2").then_some(())
    });
}
