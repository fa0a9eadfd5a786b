//! What becomes of bans while the machine goes on: the firewall is loaded anew, the machine boots, an admin lifts them.

use crate::machine::{Machine, Release};
use crate::worlds::{Pair, at};
use crate::{on_each_debian, unit};

on_each_debian!(
    a_flushed_ruleset_gets_its_bans_back,
    a_reboot_puts_bans_back,
    rules_of_an_admins_own_ask_our_sets_and_stay,
);

/// Debian's own /etc/nftables.conf begins with `flush ruleset`, and a stop of the service is one.
fn a_flushed_ruleset_gets_its_bans_back(release: Release) {
    let machine = unit::installed(release);
    machine.run("systemctl enable --now nftables.service portsentry-nft.service");
    unit::scan(&machine);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    for how in ["reload", "restart", "stop"] {
        machine.run(&format!("systemctl {how} nftables"));
        machine.is_banned(Pair::STRANGER);
        assert!(!machine.net.stranger.reaches(at(Pair::HOST), 80), "{how}");
    }
}

fn a_reboot_puts_bans_back(release: Release) {
    let mut machine = unit::installed(release);
    machine.run("systemctl enable nftables.service portsentry-nft.service");
    machine.run("systemctl start portsentry-nft");
    unit::scan(&machine);
    machine.reboot();
    let set = machine.is_banned(Pair::STRANGER);
    assert!(set.contains("timeout 10m expires 9m"), "{set}");
    assert!(set.contains("syn scan, 3 tcp ports"), "{set}");
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = |machine: &Machine| machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(!reaches(&machine));
    let said = machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    assert!(said.contains(Pair::STRANGER), "{said}");
    assert!(reaches(&machine));
    machine.reboot();
    assert!(reaches(&machine), "what was lifted stays so");
}

fn rules_of_an_admins_own_ask_our_sets_and_stay(release: Release) {
    let mut machine = unit::installed(release);
    for file in ["portsentry.nft", "own-rules.nft"] {
        machine.copy(
            &unit::source(&format!("nft/{file}")),
            &format!("/etc/portsentry/{file}"),
        );
    }
    machine.write(
        "/etc/nftables.conf",
        "flush ruleset\ninclude \"/etc/portsentry/portsentry.nft\"\ninclude \"/etc/portsentry/own-rules.nft\"\n",
    );
    // Early at boot, before any daemon.
    machine.run("systemctl enable nftables && systemctl disable portsentry-nft");
    machine.reboot();
    machine.fails("pgrep -x portsentry");
    machine.run("nft list set inet portsentry banned4");

    machine.run("systemctl start portsentry-nft");
    unit::scan(&machine);
    for line in [
        "true",
        "systemctl restart portsentry-nft",
        "systemctl reload nftables",
    ] {
        machine.run(line);
        machine.is_banned(Pair::STRANGER);
        machine.run("nft reset counters >/dev/null; bash -c 'echo >/dev/tcp/10.77.0.2/80' 2>/dev/null || true");
        let chain = machine.run("nft list chain inet portsentry own_output");
        assert!(
            chain.contains("@banned4 counter packets")
                && !chain.contains("@banned4 counter packets 0 "),
            "{line}: {chain}"
        );
    }
}
