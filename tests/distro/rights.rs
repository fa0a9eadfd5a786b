//! A responder that needs more than our unit gives is found at the start, not at the first ban.

use std::path::Path;

use crate::machine::{Machine, Release};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    iptables_that_speaks_nf_tables_needs_no_more,
    iptables_legacy_is_refused_at_the_start_and_its_drop_in_is_enough,
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
