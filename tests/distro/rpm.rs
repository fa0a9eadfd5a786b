//! Our RPM, installed by rpm itself: on a host that has nothing, and in place of a portsentry of old.
//!
//! The host is a Debian that has rpm, which is asked for no dependencies: it knows of no libraries here. As in newer ones elsewhere,
//! its scriptlets have a network and a /tmp of their own. The old package is one that is laid out like it, with 1.2's own configuration.

use crate::machine::{Machine, target};
use crate::package::{UNIT, everything, is_active, made};
use crate::unit;
use crate::upgrade::modes;
use crate::worlds::{Pair, at};

const NATIVE: &str = "/etc/portsentry/portsentry.toml";
const CONF: &str = "/etc/portsentry/portsentry.conf";
const HISTORY: &str = "/var/lib/portsentry/portsentry.history";
const SEEN: &str =
    "1795366059 - 11/22/2026 16:47:39 Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked\n";

/// A machine that has our RPM, but not installed.
fn delivered() -> Machine {
    let machine = Machine::boot_rpm();
    // What was packaged, and no RPM of Debian's own: each host has its packages in one place.
    machine.write("/etc/rpm/macros", "%_dbpath /var/lib/rpm\n");
    machine.copy(
        &made("rpm", "portsentry-nft-", ".rpm"),
        "/root/portsentry-nft.rpm",
    );
    machine
}

/// Has rpm do something with packages; what it said.
fn rpm(machine: &Machine, line: &str) -> String {
    machine.run(&format!("rpm --nodeps {line} 2>&1"))
}

fn install(machine: &Machine) -> String {
    rpm(machine, "-U /root/portsentry-nft.rpm")
}

#[test]
fn an_rpm_is_installed_upgraded_and_erased() {
    let machine = delivered();
    machine.run("rpm --initdb; systemd-sysusers; passwd -S root; groupadd x; groupdel x; useradd x; userdel x");
    let before = everything(&machine);
    install(&machine);
    assert_eq!(
        machine.run("stat -c '%U %a' /var/lib/portsentry /etc/portsentry /usr/sbin/portsentry"),
        "portsentry 750\nroot 755\nroot 755\n"
    );
    assert_eq!(machine.run("rpm -V --nodeps portsentry-nft; true"), "");
    machine.run("systemctl enable --now portsentry-nft");
    is_active(&machine);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = || machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(reaches());
    unit::scan(&machine);
    assert!(!reaches());

    // What has been edited stays, and bans go on; the program is another process.
    machine.run(&format!("sed -i 's/^limit = .*/limit = 77/' {NATIVE}"));
    let old = machine.shows(UNIT, "MainPID");
    rpm(&machine, "-U --replacepkgs /root/portsentry-nft.rpm");
    is_active(&machine);
    assert_ne!(machine.shows(UNIT, "MainPID"), old);
    assert!(machine.read(NATIVE).contains("\nlimit = 77\n"));
    machine.is_banned(Pair::STRANGER);

    rpm(&machine, "-e portsentry-nft");
    assert_eq!(machine.run("nft list tables"), "");
    assert!(reaches());
    machine.fails("pgrep portsentry");
    // As everywhere where there are RPMs: what was edited, what was learned, and the user stay.
    let after = everything(&machine);
    let kept = [
        "portsentry:",
        "/etc/portsentry/portsentry.toml.rpmsave",
        "/var/lib/portsentry/history.",
        "/var/lib/rpm",
        // Every host of RPMs has it.
        "/usr/share/licenses",
    ];
    let left: Vec<&String> = after
        .difference(&before)
        .filter(|it| !["/etc/portsentry", "/var/lib/portsentry"].contains(&it.as_str()))
        .filter(|it| !kept.iter().any(|prefix| it.starts_with(prefix)))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    machine.run("test -f /var/lib/portsentry/history.db");
}

/// A machine on which an RPM of that version is installed, enabled and runs, with this configuration and a host shut out.
fn with_the_old(version: &str, conf: &str) -> Machine {
    let machine = delivered();
    machine.write(
        "/root/old.spec",
        &format!(
            r#"Name: portsentry
Version: {version}
Release: 1
Summary: Stands for portsentry
License: CPL
%define __os_install_post %{{nil}}
%define debug_package %{{nil}}
%description
It stands for portsentry.
%install
install -D -m 755 /usr/bin/sleep %{{buildroot}}/usr/sbin/portsentry
install -D -m 644 /root/old.service %{{buildroot}}/usr/lib/systemd/system/portsentry.service
install -D -m 600 /root/old.conf %{{buildroot}}{CONF}
install -D -m 600 /root/old.ignore %{{buildroot}}/etc/portsentry/portsentry.ignore
%post
systemctl daemon-reload
%preun
[ $1 -ne 0 ] || systemctl disable --now portsentry.service
%postun
systemctl daemon-reload
%files
/usr/sbin/portsentry
/usr/lib/systemd/system/portsentry.service
%config(noreplace) {CONF}
%config(noreplace) /etc/portsentry/portsentry.ignore
"#
        ),
    );
    machine.write("/root/old.service", "[Service]\nExecStart=/usr/sbin/portsentry infinity\n[Install]\nWantedBy=multi-user.target\n");
    machine.write("/root/old.conf", conf);
    machine.write("/root/old.ignore", "127.0.0.1\n10.77.0.3\n");
    machine.run("rpmbuild -bb --nodeps --define '_rpmdir /root/rpms' --define '_topdir /root/build' /root/old.spec 2>&1");
    rpm(&machine, "-U /root/rpms/*/portsentry-*.rpm");
    machine.run("systemctl enable --now portsentry");
    machine.write(HISTORY, SEEN);
    machine.run("ip route add unreachable 10.77.0.2");
    machine
}

/// 1.2's own configuration, changed.
fn conf(change: impl Fn(String) -> String) -> String {
    let path = target("distro/original").join(&CONF[1..]);
    let shipped = std::fs::read(path).expect("tests/distro/roots has put it there");
    change(String::from_utf8_lossy(&shipped).into_owned())
}

fn is_ours_and_outlasts_a_boot(machine: &mut Machine, wanted: &[&str]) {
    machine.fails("rpm -q portsentry");
    for boots in 0..2 {
        if boots == 1 {
            machine.reboot();
        }
        assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
        assert_eq!(machine.shows("portsentry", "Id"), UNIT);
        assert_eq!(modes(machine), wanted);
        let told = machine.run("portsentry explain 10.77.0.3");
        assert!(told.contains("portsentry.ignore"), "{told}");
    }
    assert_eq!(
        machine.run("find /etc/systemd/system -xtype l -name 'portsentry*'"),
        ""
    );
    assert_eq!(machine.run("systemctl --failed --no-legend --plain"), "");
}

#[test]
fn an_rpm_takes_over_the_settings_and_bans_of_1_2() {
    let mut machine = with_the_old(
        "1.2",
        &conf(|text| {
            text.replace("BLOCK_TCP=\"0\"", "BLOCK_TCP=\"1\"")
                .replace("BLOCK_UDP=\"0\"", "BLOCK_UDP=\"1\"")
        }),
    );
    machine.write(
        "/etc/default/portsentry",
        "TCP_MODE=\"atcp\"\nUDP_MODE=\"audp\"\n",
    );
    let said = install(&machine);
    assert!(said.contains("portsentry.toml was made of"), "{said}");
    machine.is_banned(Pair::STRANGER);
    let route = machine.run("ip route");
    assert!(!route.contains("unreachable"), "{route}");
    is_ours_and_outlasts_a_boot(&mut machine, &["atcp", "audp"]);
    machine.is_banned(Pair::STRANGER);
    assert_eq!(machine.read(&format!("{HISTORY}.1.2")), SEEN);

    // When it goes, the rights that it was given for the old one's responders go with it.
    machine.run("test -L /etc/systemd/system/portsentry-nft.service.d/hosts-deny.conf");
    rpm(&machine, "-e portsentry-nft");
    machine.fails("test -e /etc/systemd/system/portsentry-nft.service.d");
    assert_eq!(machine.run("nft list tables"), "");
}

#[test]
fn an_rpm_takes_over_what_2_only_logged() {
    let mut machine = with_the_old("2.0.7", &conf(|text| text));
    machine.run("ip route del unreachable 10.77.0.2");
    install(&machine);
    let native = machine.read(NATIVE);
    for line in [
        "method = \"packet\"",
        "mode = \"stealth\"",
        "blocked = \"\"",
    ] {
        assert!(native.lines().any(|it| it == line), "{line} in {native}");
    }
    is_ours_and_outlasts_a_boot(&mut machine, &["stcp", "sudp"]);
    let told = machine.run("portsentry status");
    assert!(told.contains("logging only"), "{told}");
}

#[test]
fn an_rpm_keeps_an_old_configuration_with_mistakes_and_starts_nothing() {
    let machine = with_the_old(
        "1.2",
        &conf(|text| text.replace("\nTCP_PORTS=\"1,11,15,79,111", "\nTCP_PORTS=\"lots\"\n#")),
    );
    let said = install(&machine);
    assert!(
        said.contains("TCP_PORTS") && said.contains("lots"),
        "{said}"
    );
    machine.fails("rpm -q portsentry");
    machine.fails("systemctl is-active portsentry-nft");
    let kept = machine.read("/etc/portsentry/1.2/portsentry.conf");
    assert!(kept.contains("TCP_PORTS=\"lots\""), "{kept}");
    machine.run("sed -i 's/=\"lots\"/=\"1\"/' /etc/portsentry/1.2/portsentry.conf && portsentry convert --modes tcp /etc/portsentry/1.2/portsentry.conf >/dev/null");
}
