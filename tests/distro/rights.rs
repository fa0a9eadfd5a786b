//! A responder that needs more than our unit gives is found at the start, not at the first ban.

use std::path::Path;

use crate::machine::{Machine, Release};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    iptables_that_speaks_nf_tables_needs_no_more,
    iptables_legacy_is_refused_at_the_start_and_its_drop_in_is_enough,
    iptables_legacy_and_a_user_who_is_not_root_are_refused_before_the_start,
);

fn with_iptables(release: Release, variant: &str) -> Machine {
    let machine = unit::installed(release);
    for family in ["iptables", "ip6tables"] {
        machine.run(&format!(
            "update-alternatives --set {family} /usr/sbin/{family}-{variant}"
        ));
    }
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[ban]\nresponders = [\"iptables\"]\n",
    );
    machine
}

fn bans(machine: &Machine) {
    machine.net.stranger.nmap("-sS", "1-100", Pair::HOST);
    eventually("a rule shuts the scanner out", || {
        let rules = machine.run("iptables -w 30 -S PORTSENTRY");
        rules.contains(Pair::STRANGER).then_some(())
    });
}

fn iptables_that_speaks_nf_tables_needs_no_more(release: Release) {
    let machine = with_iptables(release, "nft");
    machine.run("systemctl start portsentry-nft");
    bans(&machine);
}

fn iptables_legacy_is_refused_at_the_start_and_its_drop_in_is_enough(release: Release) {
    let machine = with_iptables(release, "legacy");
    // As an earlier visitor leaves it.
    machine.run("install -m 600 /dev/null /run/xtables.lock");
    machine.fails("systemctl start portsentry-nft");
    let status = machine.status_of_failed("portsentry-nft");
    for word in ["xtables.lock", "iptables-nft", "iptables-legacy.conf"] {
        assert!(status.contains(word), "{word} in {status}");
    }
    let drop_in = "packaging/systemd/examples/iptables-legacy.conf";
    machine.copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(drop_in),
        "/etc/systemd/system/portsentry-nft.service.d/iptables-legacy.conf",
    );
    machine
        .run("systemctl daemon-reload && systemctl reset-failed && systemctl start portsentry-nft");
    bans(&machine);
}

fn iptables_legacy_and_a_user_who_is_not_root_are_refused_before_the_start(release: Release) {
    let machine = with_iptables(release, "legacy");
    let local = "/etc/portsentry/portsentry.toml.d/local.toml";
    let with_user = |more: &str| {
        let text =
            format!("[daemon]\nuser = \"portsentry\"\n[ban]\nresponders = [\"iptables\"]\n{more}");
        machine.write(local, &text);
    };
    with_user("");
    machine.run("install -d -o portsentry /var/lib/portsentry");
    // What check foresees is what a start says.
    for line in ["portsentry check", "timeout 20 portsentry run"] {
        let said = machine.fails(line);
        for word in ["iptables-legacy", "iptables-nft", "leave daemon.user out"] {
            assert!(said.contains(word), "{word} in {line}: {said}");
        }
    }
    with_user("[iptables]\noptional = true\n");
    let said = machine.run("portsentry check 2>&1");
    assert!(said.contains("but see the warnings"), "{said}");
    machine.run("update-alternatives --set iptables /usr/sbin/iptables-nft");
    machine.run("update-alternatives --set ip6tables /usr/sbin/ip6tables-nft");
    with_user("");
    let said = machine.run("portsentry check 2>&1");
    assert!(said.ends_with("no mistakes found\n"), "{said}");
}
