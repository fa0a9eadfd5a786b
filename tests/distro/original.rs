//! 1.2's way of starting: the template units of Debian's own package, one a mode, over 1.2's own configuration.

use crate::machine::{Machine, Release, target};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian};

on_each_debian!(
    both_modes_end_in_one_daemon,
    both_units_may_be_started_at_once_by_a_boot,
    stopping_the_unit_stops_the_daemon,
    a_broken_configuration_fails_the_unit_and_says_why,
    the_journal_has_the_words_of_1_2,
);

/// A machine with what Debian's portsentry 1.2 has installed, and our program in its place. `BLOCK_TCP` and `BLOCK_UDP` are 1.
fn installed(release: Release) -> Machine {
    let machine = Machine::boot(release);
    let original = target("distro/original");
    for file in [
        "usr/lib/systemd/system/portsentry@.service",
        "usr/lib/portsentry/portsentry-build-ignore-file",
        "etc/portsentry/portsentry.conf",
        "etc/portsentry/portsentry.ignore.static",
    ] {
        machine.copy(&original.join(file), &format!("/{file}"));
    }
    // As its postinst does.
    machine.run("mkdir -p /var/lib/portsentry && touch /var/lib/portsentry/portsentry.history");
    machine.run("sed -i 's/^BLOCK_\\(...\\)=.*/BLOCK_\\1=\"1\"/' /etc/portsentry/portsentry.conf");
    machine.run("systemctl daemon-reload");
    machine
}

fn daemons(machine: &Machine) -> usize {
    let found = machine.run("pgrep -x portsentry; true");
    found.lines().count()
}

fn both_modes_end_in_one_daemon(release: Release) {
    let machine = installed(release);
    machine.run("systemctl start portsentry@atcp");
    machine.run("systemctl start portsentry@audp");
    assert_eq!(daemons(&machine), 1);
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "active");
    // The process that handed its mode over has nothing left to do.
    assert_eq!(machine.shows("portsentry@audp", "ActiveState"), "inactive");
    assert_eq!(machine.shows("portsentry@audp", "Result"), "success");
    scan_in_both_modes(&machine);
}

fn both_units_may_be_started_at_once_by_a_boot(release: Release) {
    let mut machine = installed(release);
    machine.run("systemctl enable portsentry@atcp portsentry@audp");
    machine.reboot();
    assert_eq!(daemons(&machine), 1);
    scan_in_both_modes(&machine);
}

/// Each of the two modes bans, and tells its own file.
fn scan_in_both_modes(machine: &Machine) {
    for (how, mode) in [("-sS", "atcp"), ("-sU", "audp")] {
        machine.net.stranger.nmap(how, "1-20", Pair::HOST);
        machine.is_banned(Pair::STRANGER);
        let file = format!("/var/lib/portsentry/portsentry.blocked.{mode}");
        eventually(&format!("{file} has the scanner"), || {
            let blocked = machine.read(&file);
            blocked.contains("Host: 10.77.0.2/10.77.0.2").then_some(())
        });
        machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    }
}

fn stopping_the_unit_stops_the_daemon(release: Release) {
    let machine = installed(release);
    machine.run("systemctl start portsentry@atcp");
    machine.net.stranger.nmap("-sS", "1-20", Pair::HOST);
    machine.is_banned(Pair::STRANGER);
    let before = machine.shows("portsentry@atcp", "MainPID");
    machine.run("systemctl restart portsentry@atcp");
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "active");
    assert_ne!(machine.shows("portsentry@atcp", "MainPID"), before);
    let list = machine.run("portsentry list");
    assert!(list.contains(Pair::STRANGER), "{list}");

    machine.run("systemctl stop portsentry@atcp");
    assert_eq!(daemons(&machine), 0);
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "inactive");
    assert_eq!(machine.shows("portsentry@atcp", "Result"), "success");
    machine.entry("securityalert: PortSentry is shutting down");
}

fn a_broken_configuration_fails_the_unit_and_says_why(release: Release) {
    let machine = installed(release);
    machine.run("sed -i 's/^ADVANCED_PORTS_TCP=.*/ADVANCED_PORTS_TCP=\"lots\"/' /etc/portsentry/portsentry.conf");
    machine.fails("systemctl start portsentry@atcp");
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "failed");
    assert_eq!(daemons(&machine), 0);
    let status = machine.status_of_failed("portsentry@atcp");
    assert!(
        status.contains("ADVANCED_PORTS_TCP") && status.contains("lots"),
        "{status}"
    );
}

fn the_journal_has_the_words_of_1_2(release: Release) {
    let machine = installed(release);
    machine.run("systemctl start portsentry@atcp");
    machine.net.stranger.nmap("-sS", "1-20", Pair::HOST);
    let words = "attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 1";
    let seen = machine.entry(words);
    for (field, value) in [
        ("SYSLOG_IDENTIFIER", "portsentry"),
        // daemon.notice
        ("SYSLOG_FACILITY", "3"),
        ("PRIORITY", "5"),
        ("_SYSTEMD_UNIT", "portsentry@atcp.service"),
    ] {
        assert_eq!(seen[field], value, "{field} of {seen}");
    }
    machine.entry("adminalert: PortSentry is now active and listening.");
}
