//! Our package in place of Debian's own portsentry 1.2: its settings, whom it ignored and whom it shut out go over.

use serde_json::Value;

use crate::machine::{Machine, Release, target};
use crate::package::{INSTALL, UNIT, delivered, is_active};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    a_tutorials_settings_and_bans_go_over_and_outlast_the_old,
    what_only_logged_goes_on_to_log,
    commands_of_the_admin_keep_roots_rights,
    a_mask_of_the_old_name_stays_and_stops_nothing,
    an_old_configuration_with_mistakes_waits_to_be_corrected,
    hooks_of_the_old_do_nothing_any_more_and_go_with_it,
    the_old_can_come_back_and_ours_again,
);

const CONF: &str = "/etc/portsentry/portsentry.conf";

/// A machine on which Debian's portsentry 1.2 is installed and runs, after `edit`, a line of shell, has been run.
pub(crate) fn with_the_old(release: Release, edit: &str) -> Machine {
    let machine = delivered(release);
    let original = target(&format!("distro/original-{}.deb", release.name()));
    machine.copy(&original, "/root/original.deb");
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --install /root/original.deb");
    machine.run(edit);
    start_the_old(&machine, release);
    machine
}

fn start_the_old(machine: &Machine, release: Release) {
    // Debian 13's package enables its units on upgrades alone.
    machine.run(match release {
        Release::Debian12 => "systemctl restart portsentry",
        Release::Debian13 => {
            "/usr/lib/portsentry/portsentry-build-ignore-file
            . /etc/default/portsentry; for mode in $TCP_MODE $UDP_MODE; do systemctl enable --now portsentry@$mode; done"
        }
    });
    eventually("the old one runs", || {
        let found = machine.try_run("pgrep -x portsentry");
        found.status.success().then_some(())
    });
}

fn status(machine: &Machine) -> Value {
    let text = machine.run("portsentry status --json");
    serde_json::from_str(&text).expect("status is JSON")
}

pub(crate) fn modes(machine: &Machine) -> Vec<String> {
    let status = status(machine);
    let modes = status["modes"].as_array().expect("status has modes");
    modes
        .iter()
        .map(|mode| mode["mode"].as_str().unwrap_or_default().to_owned())
        .collect()
}

/// What a well-known tutorial for Debian says to write.
const TUTORIAL: &str = r#"
    sed -i 's/^BLOCK_\(...\)=.*/BLOCK_\1="1"/' /etc/portsentry/portsentry.conf
    echo 'KILL_RUN_CMD="/sbin/iptables -I INPUT -s $TARGET$ -j DROP"' >>/etc/portsentry/portsentry.conf
    sed -i 's/_MODE="/&a/' /etc/default/portsentry
    echo 10.77.0.3 >>/etc/portsentry/portsentry.ignore.static
    chmod 600 /etc/portsentry/portsentry.ignore*
"#;

fn a_tutorials_settings_and_bans_go_over_and_outlast_the_old(release: Release) {
    let mut machine = with_the_old(release, TUTORIAL);
    machine.net.stranger.nmap("-sS", "1-20", Pair::HOST);
    eventually("the old one has shut the scanner out", || {
        let route = machine.run("ip route");
        let rules = machine.run("iptables -S INPUT");
        let wrappers = machine.read("/etc/hosts.deny");
        let all = route.contains("unreachable 10.77.0.2")
            && rules.contains("-s 10.77.0.2/32 -j DROP")
            && wrappers.contains("ALL: 10.77.0.2");
        all.then_some(())
    });

    let said = machine.run(&format!("{INSTALL} 2>&1"));
    assert!(said.contains("portsentry.toml was made of"), "{said}");
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
    assert_eq!(modes(&machine), ["atcp", "audp"]);
    machine.is_banned(Pair::STRANGER);
    let route = machine.run("ip route");
    assert!(!route.contains("unreachable"), "{route}");
    let rules = machine.run("iptables -S INPUT");
    assert!(!rules.contains("10.77.0.2"), "{rules}");
    // It lets nobody out of sight: what would start the old one is at rest.
    assert_eq!(machine.shows("portsentry", "Id"), UNIT);
    assert_eq!(
        machine.run("find /etc/systemd/system -xtype l -name 'portsentry*'"),
        ""
    );

    assert_eq!(machine.run("systemctl --failed --no-legend --plain"), "");

    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --purge portsentry");
    for again in ["systemctl restart portsentry", "reboot"] {
        if again == "reboot" {
            machine.reboot();
        } else {
            machine.run(again);
        }
        assert_eq!(machine.shows(UNIT, "ActiveState"), "active", "{again}");
        assert_eq!(modes(&machine), ["atcp", "audp"]);
        machine.is_banned(Pair::STRANGER);
        let told = machine.run("portsentry explain 10.77.0.3");
        assert!(told.contains("portsentry.ignore"), "{told}");
        let past = machine.read("/var/lib/portsentry/portsentry.history.1.2");
        assert!(past.contains("Host: 10.77.0.2/10.77.0.2"), "{past}");
    }
}

/// As Debian delivers it, in the modes in which it is started there.
fn what_only_logged_goes_on_to_log(release: Release) {
    let machine = with_the_old(release, "true");
    machine.run(INSTALL);
    is_active(&machine);
    assert_eq!(modes(&machine), ["tcp", "udp"]);
    let told = machine.run("portsentry status");
    assert!(told.contains("logging only"), "{told}");
    machine.net.stranger.nmap("-sT", "1,11,15,79", Pair::HOST);
    // Fail2ban's jail follows this file.
    eventually("the scan is written down", || {
        let lines = machine.read("/var/lib/portsentry/portsentry.history");
        lines
            .contains("Host: 10.77.0.2/10.77.0.2 Port: 1 TCP")
            .then_some(())
    });
    let list = machine.run("portsentry list");
    assert!(!list.contains(Pair::STRANGER), "{list}");
    // Nobody asked for more, so an upgrade changes nothing.
    machine.run(INSTALL);
    let told = machine.run("portsentry status");
    assert!(told.contains("logging only"), "{told}");

    // Purged before the old one is, ours leaves it what it had.
    machine.run("dpkg --purge portsentry-nft");
    machine.run(&format!(
        "test -f {CONF} && test -f /var/lib/portsentry/portsentry.history"
    ));
    machine.run(
        "systemctl daemon-reload && DEBIAN_FRONTEND=noninteractive dpkg --install /root/original.deb",
    );
    machine.run("portsentry -atcp");
    machine.run("pgrep -x portsentry");
}

fn commands_of_the_admin_keep_roots_rights(release: Release) {
    let edit = format!(
        "{TUTORIAL}\nsed -i 's|^KILL_RUN_CMD=.*|KILL_RUN_CMD=\"touch /root/$TARGET$\"|' {CONF}"
    );
    let machine = with_the_old(release, &edit);
    machine.run(INSTALL);
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
    unit::scan(&machine);
    eventually("the command has run", || {
        let made = machine.try_run("test -f /root/10.77.0.2");
        made.status.success().then_some(())
    });
}

fn a_mask_of_the_old_name_stays_and_stops_nothing(release: Release) {
    let machine = with_the_old(release, "true");
    machine.run("systemctl stop portsentry 'portsentry@*'; ln -sf /dev/null /etc/systemd/system/portsentry.service");
    machine.run(INSTALL);
    is_active(&machine);
    let link = machine.run("readlink /etc/systemd/system/portsentry.service");
    assert_eq!(link, "/dev/null\n");
}

fn an_old_configuration_with_mistakes_waits_to_be_corrected(release: Release) {
    let machine = with_the_old(release, "true");
    let set = |value: &str| {
        machine.run(&format!(
            "sed -i 's/^TCP_PORTS=.*/TCP_PORTS=\"{value}\"/' {CONF}"
        ))
    };
    set("lots");
    let said = machine.run(&format!("{INSTALL} 2>&1"));
    assert!(said.contains("TCP_PORTS"), "{said}");
    eventually("it has refused to start", || {
        (machine.shows(UNIT, "ActiveState") == "failed").then_some(())
    });
    let status = machine.status_of_failed("portsentry");
    assert!(
        status.contains("TCP_PORTS") && status.contains("lots"),
        "{status}"
    );
    set("1,11,15");
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg-reconfigure portsentry-nft");
    is_active(&machine);
}

/// Of ppp, and of DHCP's clients: they restarted the old one when an address changed.
fn hooks_of_the_old_do_nothing_any_more_and_go_with_it(release: Release) {
    let machine = with_the_old(release, "true");
    machine.run(INSTALL);
    let pid = machine.shows(UNIT, "MainPID");
    let find =
        "find /etc/ppp /etc/dhcp /etc/dhcp3 /etc/network -name '*portsentry*' 2>/dev/null; true";
    let hooks = machine.run(find);
    assert!(hooks.contains("/etc/ppp/ip-up.d/portsentry"), "{hooks}");
    for hook in hooks.lines() {
        machine.run(&format!("sh -e {hook}"));
    }
    is_active(&machine);
    assert_eq!(machine.shows(UNIT, "MainPID"), pid);
    assert_eq!(machine.run("pgrep --count --exact portsentry"), "1\n");
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --purge portsentry");
    assert_eq!(machine.run(find), "");
    is_active(&machine);
}

/// For who is not content, and then changes his mind.
fn the_old_can_come_back_and_ours_again(release: Release) {
    let mut machine = with_the_old(release, TUTORIAL);
    let before = machine.run(&format!("md5sum {CONF} /etc/init.d/portsentry"));
    let failed = |machine: &Machine| machine.run("systemctl --failed --no-legend --plain");
    for _ in 0..2 {
        machine.run(&format!("umask 077; {INSTALL}"));
        assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
        assert_eq!(modes(&machine), ["atcp", "audp"]);
        assert_eq!(machine.run("pgrep --count --exact portsentry"), "1\n");
        assert_eq!(failed(&machine), "");

        machine.run("dpkg --remove portsentry-nft");
        machine.run("DEBIAN_FRONTEND=noninteractive dpkg --install /root/original.deb");
        let after = machine.run(&format!("md5sum {CONF} /etc/init.d/portsentry"));
        assert_eq!(after, before);
        machine.run("test -x /etc/init.d/portsentry");
        start_the_old(&machine, release);
        assert_eq!(failed(&machine), "");
    }
    machine.run(INSTALL);
    machine.reboot();
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
    assert_eq!(machine.run("pgrep --count --exact portsentry"), "1\n");
}
