//! 1.2's way of starting: the template units of Debian's own package, one a mode, over 1.2's own configuration.

use serde_json::Value;

use crate::machine::{Machine, Release, target};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian};

on_each_debian!(
    each_unit_is_there_for_its_own_mode,
    both_units_may_be_started_at_once_by_a_boot,
    restarting_either_unit_loses_neither_mode,
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

fn processes(machine: &Machine) -> usize {
    let found = machine.run("pgrep -x portsentry; true");
    found.lines().count()
}

fn state(machine: &Machine, mode: &str) -> String {
    let output = machine.try_run(&format!("systemctl is-active portsentry@{mode}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits until these modes are watched, each for its own unit, and no other.
fn watches(machine: &Machine, modes: &[&str]) {
    let main: Vec<String> = modes
        .iter()
        .map(|mode| {
            assert_eq!(state(machine, mode), "active", "{mode}");
            machine.shows(&format!("portsentry@{mode}"), "MainPID")
        })
        .collect();
    assert_eq!(processes(machine), modes.len());
    let wanted: Vec<(&str, &str)> = modes
        .iter()
        .copied()
        .zip(main.iter().map(String::as_str))
        .collect();
    eventually(&format!("these are watched, by these: {wanted:?}"), || {
        let output = machine.try_run("portsentry status --json");
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        let held: Vec<(String, String)> = status["modes"]
            .as_array()?
            .iter()
            .map(|mode| {
                let name = mode["mode"].as_str().unwrap_or_default().to_owned();
                (name, mode["holders"].to_string())
            })
            .collect();
        let wanted = wanted
            .iter()
            .map(|(mode, pid)| ((*mode).to_owned(), format!("[{pid}]")));
        held.into_iter().eq(wanted).then_some(())
    });
}

fn each_unit_is_there_for_its_own_mode(release: Release) {
    let machine = installed(release);
    machine.run("systemctl start portsentry@atcp");
    machine.run("systemctl start portsentry@audp");
    watches(&machine, &["atcp", "audp"]);
    scan_in(&machine, &["atcp", "audp"]);

    machine.run("systemctl stop portsentry@audp");
    assert_eq!(state(&machine, "audp"), "inactive");
    assert_eq!(machine.shows("portsentry@audp", "Result"), "success");
    watches(&machine, &["atcp"]);
    scan_in(&machine, &["atcp"]);
    machine.run("systemctl start portsentry@audp");
    watches(&machine, &["atcp", "audp"]);

    // That one was the daemon; now the other is.
    machine.run("systemctl stop portsentry@atcp");
    assert_eq!(state(&machine, "atcp"), "inactive");
    assert_eq!(machine.shows("portsentry@atcp", "Result"), "success");
    watches(&machine, &["audp"]);
    scan_in(&machine, &["audp"]);

    machine.run("systemctl stop portsentry@audp");
    assert_eq!(processes(&machine), 0);
}

fn both_units_may_be_started_at_once_by_a_boot(release: Release) {
    let mut machine = installed(release);
    machine.run("systemctl enable portsentry@atcp portsentry@audp");
    machine.reboot();
    watches(&machine, &["atcp", "audp"]);
    scan_in(&machine, &["atcp", "audp"]);
}

fn restarting_either_unit_loses_neither_mode(release: Release) {
    let machine = installed(release);
    machine.run("systemctl start portsentry@atcp portsentry@audp");
    watches(&machine, &["atcp", "audp"]);
    for units in [
        "portsentry@audp",
        "portsentry@atcp",
        "portsentry@audp",
        "portsentry@atcp portsentry@audp",
    ] {
        machine.run(&format!("systemctl restart {units}"));
        watches(&machine, &["atcp", "audp"]);
    }
    scan_in(&machine, &["atcp", "audp"]);
    // A daemon that dies fails its unit alone.
    let status: Value =
        serde_json::from_str(&machine.run("portsentry status --json")).expect("--json prints JSON");
    let daemon = &status["pid"];
    let (dead, alive) = if machine.shows("portsentry@atcp", "MainPID") == *daemon.to_string() {
        ("atcp", "audp")
    } else {
        ("audp", "atcp")
    };
    machine.run(&format!("kill -KILL {daemon}"));
    eventually("systemd has noticed", || {
        (state(&machine, dead) == "failed").then_some(())
    });
    watches(&machine, &[alive]);
    scan_in(&machine, &[alive]);
    machine.run(&format!("systemctl start portsentry@{dead}"));
    watches(&machine, &["atcp", "audp"]);
}

/// Each of these modes bans, and tells its own file.
fn scan_in(machine: &Machine, modes: &[&str]) {
    for mode in modes {
        let how = if mode.ends_with("tcp") { "-sS" } else { "-sU" };
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
    assert_eq!(processes(&machine), 0);
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "inactive");
    assert_eq!(machine.shows("portsentry@atcp", "Result"), "success");
    machine.entry("securityalert: PortSentry is shutting down");
}

fn a_broken_configuration_fails_the_unit_and_says_why(release: Release) {
    let machine = installed(release);
    machine.run("sed -i 's/^ADVANCED_PORTS_TCP=.*/ADVANCED_PORTS_TCP=\"lots\"/' /etc/portsentry/portsentry.conf");
    machine.fails("systemctl start portsentry@atcp");
    assert_eq!(machine.shows("portsentry@atcp", "ActiveState"), "failed");
    assert_eq!(processes(&machine), 0);
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
