//! Our package in place of Debian's portsentry 2.0.7, which no stable Debian has: a package that is laid out like it, with files as
//! it leaves them, stands for it.

use crate::machine::{Machine, Release};
use crate::package::{INSTALL, UNIT, delivered};
use crate::upgrade::modes;
use crate::worlds::Pair;
use crate::{eventually, on_each_debian};

on_each_debian!(
    settings_and_bans_of_2_go_over_and_outlast_it,
    what_2_only_logged_goes_on_to_log,
);

const CONF: &str = "/etc/portsentry/portsentry.conf";
const OPTIONS: &str = "/etc/systemd/system/portsentry.service.d/options.conf";
/// Where 2.x writes, a line for every packet.
const LOG: &str = "/var/log/portsentry.log";

/// As packaged, but for the comments.
const AS_PACKAGED: &str = r#"TCP_PORTS="1,7,9,11,13,15,17,19,20,21,70,79,111,113,119,389,512-515,540,543-544,873,989,990,992,1080"
UDP_PORTS="7,9,13,19,111,389,513,517-518"
IGNORE_FILE="/etc/portsentry/portsentry.ignore"
HISTORY_FILE="/var/log/portsentry.log"
BLOCKED_FILE="/tmp/portsentry.blocked"
RESOLVE_HOST="0"
BLOCK_UDP="0"
BLOCK_TCP="0"
SCAN_TRIGGER="0"
"#;

/// Makes the package in /root/old, and /root/old.deb of it.
const BUILD: &str = r#"
    cd /root/old
    install -D -m 755 /usr/bin/sleep usr/sbin/portsentry
    cat >DEBIAN/control <<-END
	Package: portsentry
	Version: 2.0.7-1
	Architecture: all
	Maintainer: nobody <nobody@portsentry.invalid>
	Description: stands for portsentry 2.0.7
	END
    cat >DEBIAN/conffiles <<-END
	/etc/portsentry/portsentry.conf
	/etc/portsentry/portsentry.ignore
	/etc/logrotate.d/portsentry
	END
    cat >DEBIAN/postinst <<-END
	#!/bin/sh
	systemctl daemon-reload && systemctl enable --now portsentry.service
	END
    cat >DEBIAN/prerm <<-END
	#!/bin/sh
	systemctl disable --now portsentry.service
	END
    cat >DEBIAN/postrm <<-END
	#!/bin/sh
	[ "\$1" != purge ] || rm -f /var/log/portsentry.log
	END
    chmod 755 DEBIAN/p*
    dpkg-deb --build --root-owner-group . /root/old.deb
"#;

/// A machine on which 2.0.7 is installed and runs, with this configuration.
fn with_2(release: Release, conf: &str) -> Machine {
    let machine = delivered(release);
    for (path, text) in [
        ("DEBIAN/control", ""),
        ("etc/portsentry/portsentry.conf", AS_PACKAGED),
        ("etc/portsentry/portsentry.ignore", "127.0.0.0/8\n::1/128\n"),
        (
            "etc/logrotate.d/portsentry",
            "/var/log/portsentry.log {\n\tmissingok\n}\n",
        ),
        (
            "usr/lib/systemd/system/portsentry.service",
            "[Service]\nExecStart=/usr/sbin/portsentry infinity\n[Install]\nWantedBy=multi-user.target\n",
        ),
    ] {
        machine.write(&format!("/root/old/{path}"), text);
    }
    machine.run(BUILD);
    machine.run("dpkg --install /root/old.deb");
    machine.write(CONF, conf);
    machine.run("echo 10.77.0.3 >>/etc/portsentry/portsentry.ignore");
    assert_eq!(machine.shows("portsentry", "ActiveState"), "active");
    machine
}

/// As 2.x bans, with a command of the admin's and a line in hosts.deny.
fn settings_and_bans_of_2_go_over_and_outlast_it(release: Release) {
    let banning = AS_PACKAGED.replace("=\"0\"\nBLOCK_TCP=\"0\"", "=\"1\"\nBLOCK_TCP=\"1\"");
    let kills = "KILL_ROUTE=\"/sbin/iptables -I INPUT -s $TARGET$ -j DROP\"\nKILL_HOSTS_DENY=\"ALL: $TARGET$\"\n";
    let mut machine = with_2(release, &format!("{banning}{kills}"));
    // Its one way of being told more.
    machine.write(
        OPTIONS,
        "[Service]\nExecStart=\nExecStart=/usr/sbin/portsentry --stealth -m raw -i host0 --interface=ALL\n",
    );
    machine.run("iptables -I INPUT -s 10.77.0.2 -j DROP; echo 'ALL: 10.77.0.2' >>/etc/hosts.deny");
    // The family in two bytes, and the address.
    machine.run("printf '\\002\\000\\012\\115\\000\\002' >/tmp/portsentry.blocked");
    let seen = "2026-02-22T10:11:12.345+0100 Scan from: [10.77.0.2] (10.77.0.2) protocol: [TCP] port: [11] type: [TCP SYN/Normal scan] \
                IP opts: [not set] ignored: [false] triggered: [true] noblock: [false] blocked: [true]\n";
    machine.write(LOG, seen);

    let said = machine.run(&format!("{INSTALL} 2>&1"));
    assert!(said.contains("portsentry.toml was made of"), "{said}");
    assert!(said.contains("options.conf.old"), "{said}");
    let native = machine.read("/etc/portsentry/portsentry.toml");
    for line in [
        "method = \"packet\"",
        "interfaces = [\"host0\"]",
        "mode = \"stealth\"",
        "file = \"/var/lib/portsentry/history.db\"",
        "text = \"/var/lib/portsentry/history.log\"",
        "blocked = \"\"",
    ] {
        assert!(native.lines().any(|it| it == line), "{line} in {native}");
    }
    assert!(native.contains("\"512-515\""), "{native}");
    machine.is_banned(Pair::STRANGER);
    let rules = machine.run("iptables -S INPUT");
    assert!(!rules.contains("10.77.0.2"), "{rules}");
    machine.fails("test -e /tmp/portsentry.blocked");

    machine.run("dpkg --purge portsentry");
    for again in ["systemctl restart portsentry", "reboot"] {
        if again == "reboot" {
            machine.reboot();
        } else {
            machine.run(again);
        }
        assert_eq!(machine.shows(UNIT, "ActiveState"), "active", "{again}");
        assert_eq!(modes(&machine), ["stcp", "sudp"]);
        machine.is_banned(Pair::STRANGER);
        let told = machine.run("portsentry explain 10.77.0.3");
        assert!(told.contains("portsentry.ignore"), "{told}");
        assert_eq!(machine.read("/var/lib/portsentry/portsentry.log.old"), seen);
    }
}

/// As packaged, but listening. That 1.2 was there before it, with a mode of its own, means nothing.
fn what_2_only_logged_goes_on_to_log(release: Release) {
    let machine = with_2(release, AS_PACKAGED);
    machine.write(
        OPTIONS,
        "[Service]\nExecStart=\nExecStart=/usr/sbin/portsentry --connect\n",
    );
    machine.write(
        "/etc/default/portsentry",
        "TCP_MODE=\"atcp\"\nUDP_MODE=\"audp\"\n",
    );
    machine.run(&format!("{INSTALL} && dpkg --purge portsentry"));
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
    assert_eq!(modes(&machine), ["tcp", "udp"]);
    let told = machine.run("portsentry status");
    assert!(told.contains("logging only"), "{told}");
    machine.net.stranger.nmap("-sT", "1,7,513,1080", Pair::HOST);
    eventually("the scan is written down", || {
        let lines = machine.read("/var/lib/portsentry/history.log");
        lines.contains("Host: 10.77.0.2/10.77.0.2").then_some(())
    });
    let list = machine.run("portsentry list");
    assert!(!list.contains(Pair::STRANGER), "{list}");
}
