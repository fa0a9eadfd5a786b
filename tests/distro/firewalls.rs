//! Beside the firewalls that Debian has: theirs go on working, and whatever they flush and load, ours does too.

use std::process::Stdio;

use crate::machine::{Machine, Release};
use crate::worlds::{Pair, at};
use crate::{eventually, on_each_debian, unit, within};

on_each_debian!(
    firewalld_reloads_and_restarts_let_no_scanner_through,
    what_firewalld_flushes_of_iptables_is_put_back,
    ufw_reloads_and_resets_let_no_scanner_through,
    what_ufw_flushes_of_iptables_is_put_back,
);

/// What is in tables of others is looked at once a minute.
const SOON: std::time::Duration = std::time::Duration::from_secs(120);

/// Our unit, with bans in iptables beside nftables.
fn with_iptables(release: Release) -> Machine {
    let machine = unit::installed(release);
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[ban]\nresponders = [\"nftables\", \"iptables\"]\n",
    );
    machine.run("systemctl enable --now portsentry-nft");
    machine
}

/// Does each of these, while the scanner, who is banned, goes on sending: none of it is answered, before, meanwhile or afterwards.
fn stays_out_through(machine: &Machine, lines: &[&str]) {
    machine.is_banned(Pair::STRANGER);
    for line in lines {
        let mut sender = machine.net.stranger.command("hping3");
        sender.args("-S -p 80 -i u2000 -c 100000 --quiet".split(' '));
        let sender = sender
            .arg(Pair::HOST)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hping3 is there");
        machine.run(line);
        machine.is_banned(Pair::STRANGER);
        assert!(!machine.net.stranger.reaches(at(Pair::HOST), 80), "{line}");
        interrupt(&sender);
        let said = sender.wait_with_output().expect("it is our child").stderr;
        let said = String::from_utf8_lossy(&said);
        assert!(
            said.contains("packets transmitted, 0 packets received"),
            "{line}: {said}"
        );
    }
}

fn interrupt(sender: &std::process::Child) {
    let sender = i32::try_from(sender.id()).expect("numbers of processes are small");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(sender),
        nix::sys::signal::Signal::SIGINT,
    )
    .expect("it is our child");
}

/// Waits until iptables has a rule for the scanner, and INPUT leads to it.
fn is_banned_by_iptables(machine: &Machine, since: &str) {
    let rules = within(SOON, || {
        let rules = machine.run("iptables -S");
        let banned = rules.contains("-A PORTSENTRY -s 10.77.0.2/32");
        (banned && rules.contains("-A INPUT -j PORTSENTRY")).then_some(())
    });
    assert!(
        rules.is_some(),
        "{since}: iptables has no rule for the scanner"
    );
}

fn firewalld_reloads_and_restarts_let_no_scanner_through(release: Release) {
    let mut machine = unit::installed(release);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    machine.run("systemctl enable --now firewalld portsentry-nft");
    let reaches = |machine: &Machine| machine.net.stranger.reaches(at(Pair::HOST), 80);
    // Debian 12's says that it is there before its rules are.
    eventually("firewalld lets nobody in", || {
        (!reaches(&machine)).then_some(())
    });
    machine.run("firewall-cmd --permanent --add-port=80/tcp && firewall-cmd --reload");
    assert!(reaches(&machine), "firewalld lets everybody in");

    // What firewalld rejects is seen all the same.
    unit::scan(&machine);
    let all = [
        "firewall-cmd --reload",
        "firewall-cmd --complete-reload",
        "systemctl reload firewalld",
        "systemctl restart firewalld",
        "systemctl stop firewalld",
        "systemctl start firewalld",
    ];
    stays_out_through(&machine, &all);
    // It had nothing to put back: firewalld keeps to its own table.
    let status = machine.run("portsentry status");
    assert!(
        status.contains("1 in force of 1 intended") && !status.contains("put back"),
        "{status}"
    );
    machine.reboot();
    stays_out_through(&machine, &["firewall-cmd --reload"]);
    machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    assert!(reaches(&machine), "nobody but us kept it out");
}

/// The older of firewalld's backends empties every chain of iptables when it begins, ours too.
fn what_firewalld_flushes_of_iptables_is_put_back(release: Release) {
    let machine = with_iptables(release);
    machine.run(
        "sed -i 's/^FirewallBackend=.*/FirewallBackend=iptables/' /etc/firewalld/firewalld.conf",
    );
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    unit::scan(&machine);
    is_banned_by_iptables(&machine, "the scan");
    for line in ["systemctl start firewalld", "firewall-cmd --reload"] {
        stays_out_through(&machine, &[line]);
        is_banned_by_iptables(&machine, line);
    }
    let status = machine.run("portsentry status");
    assert!(
        status.contains("after somebody had taken bans away from iptables"),
        "{status}"
    );
}

fn ufw_reloads_and_resets_let_no_scanner_through(release: Release) {
    let mut machine = unit::running(release);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = |machine: &Machine| machine.net.stranger.reaches(at(Pair::HOST), 80);
    machine.run("ufw --force enable && systemctl enable ufw");
    assert!(!reaches(&machine), "ufw has not let anybody in yet");
    machine.run("ufw allow 80/tcp");
    assert!(reaches(&machine), "ufw lets everybody in");

    unit::scan(&machine);
    let all = ["ufw reload", "systemctl restart ufw", "ufw allow 81/tcp"];
    stays_out_through(&machine, &all);
    machine.reboot();
    let status = machine.run("ufw status");
    assert!(status.contains("80/tcp"), "{status}");
    let all = [
        "ufw reload",
        "/lib/ufw/ufw-init flush-all",
        "ufw --force reset",
    ];
    stays_out_through(&machine, &all);
    machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    assert!(reaches(&machine), "nobody but us kept it out");
}

fn what_ufw_flushes_of_iptables_is_put_back(release: Release) {
    let machine = with_iptables(release);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    unit::scan(&machine);
    is_banned_by_iptables(&machine, "the scan");
    for line in ["ufw --force enable", "/lib/ufw/ufw-init flush-all"] {
        stays_out_through(&machine, &[line]);
        is_banned_by_iptables(&machine, line);
    }
}
