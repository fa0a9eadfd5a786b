//! Installed from the package that `packaging/deb` makes, with dpkg; and removed again.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::machine::{Machine, Release, target};
use crate::worlds::{Pair, at};
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    a_fresh_installation_bans_through_reload_and_reboot,
    who_wants_no_bans_yet_says_so_once,
    a_broken_configuration_does_not_stop_an_upgrade,
    a_removal_takes_down_and_a_purge_leaves_nothing,
    a_removal_takes_down_what_every_responder_has_put_up,
    it_comes_after_other_firewalls_and_needs_none,
    its_text_is_rotated_and_written_on,
    without_systemd_the_init_script_gives_the_same_rights,
    what_commands_write_is_no_business_of_dpkgs,
    whoever_installs_may_keep_files_from_others,
    a_directory_that_is_closed_to_the_service_is_named,
);

pub(crate) const UNIT: &str = "portsentry-nft.service";
pub(crate) const INSTALL: &str =
    "DEBIAN_FRONTEND=noninteractive dpkg --install /root/portsentry-nft.deb";

/// A machine that has our package, but not installed.
pub(crate) fn delivered(release: Release) -> Machine {
    let machine = Machine::boot_bare(release);
    deliver(&machine);
    machine
}

/// Gives a machine our package.
pub(crate) fn deliver(machine: &Machine) {
    machine.copy(&package(), "/root/portsentry-nft.deb");
}

/// A machine that our package is installed on.
pub(crate) fn installed(release: Release) -> Machine {
    let machine = delivered(release);
    machine.run(INSTALL);
    machine
}

fn package() -> PathBuf {
    made("deb", "portsentry-nft_", ".deb")
}

/// What `make` has left below target, by how its name begins and ends.
pub(crate) fn made(dir: &str, begin: &str, end: &str) -> PathBuf {
    let made = fs::read_dir(target(dir)).ok().and_then(|directory| {
        let mut files = directory.filter_map(|entry| Some(entry.ok()?.path()));
        files.find(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(begin) && name.ends_with(end)
        })
    });
    made.unwrap_or_else(|| panic!("the package is not there: run make {dir}, or make distro"))
}

pub(crate) fn is_active(machine: &Machine) {
    assert_eq!(machine.shows(UNIT, "ActiveState"), "active");
    assert_eq!(machine.shows(UNIT, "User"), "portsentry");
}

fn a_fresh_installation_bans_through_reload_and_reboot(release: Release) {
    let mut machine = installed(release);
    is_active(&machine);
    assert_eq!(machine.shows("portsentry", "Id"), UNIT);
    assert_eq!(
        machine.run("stat -c '%U %a' /var/lib/portsentry /etc/portsentry /run/portsentry"),
        "portsentry 750\nroot 755\nportsentry 755\n"
    );
    // For those who follow it: it is there before the first scan.
    machine.run("test -f /var/lib/portsentry/history.log");

    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = |machine: &Machine| machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(reaches(&machine));
    unit::scan(&machine);
    assert!(!reaches(&machine));

    machine.run("sed -i '/^flush ruleset/a include \"/usr/share/portsentry/portsentry.nft\"' /etc/nftables.conf");
    machine.run("systemctl enable --now nftables && systemctl reload nftables");
    machine.is_banned(Pair::STRANGER);
    assert!(!reaches(&machine));
    machine.reboot();
    is_active(&machine);
    machine.is_banned(Pair::STRANGER);
    assert!(!reaches(&machine));
    machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    assert!(reaches(&machine));
}

fn who_wants_no_bans_yet_says_so_once(release: Release) {
    let machine = delivered(release);
    machine
        .run("echo portsentry-nft portsentry-nft/enforce boolean false | debconf-set-selections");
    machine.run(INSTALL);
    let answer = "/etc/portsentry/portsentry.toml.d/10-debconf.toml";
    let only_logs = |machine: &Machine| {
        is_active(machine);
        let status = machine.run("portsentry status");
        assert!(status.contains("logging only"), "{status}");
        assert!(machine.read(answer).contains("response = \"log\""));
    };
    only_logs(&machine);
    machine.net.stranger.nmap("-sS", "1-100", Pair::HOST);
    eventually("the scan is written down", || {
        let lines = machine.read("/var/lib/portsentry/history.log");
        lines.contains("Host: 10.77.0.2/10.77.0.2").then_some(())
    });
    let list = machine.run("portsentry list");
    assert!(!list.contains(Pair::STRANGER), "{list}");

    // An upgrade asks nothing, and a file edited by hand is the newer answer.
    machine.run(INSTALL);
    only_logs(&machine);
    machine.write(answer, "# none\n");
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg-reconfigure portsentry-nft");
    assert_eq!(machine.read(answer), "# none\n");
    unit::scan(&machine);
}

fn a_broken_configuration_does_not_stop_an_upgrade(release: Release) {
    let machine = installed(release);
    unit::scan(&machine);
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[detect]\ntriger = 1\n",
    );
    machine.run(INSTALL);
    let state = machine.run("dpkg-query -W -f '${db:Status-Abbrev}' portsentry-nft");
    assert_eq!(state.trim(), "ii");
    eventually("it has refused to start", || {
        (machine.shows(UNIT, "ActiveState") == "failed").then_some(())
    });
    let status = machine.status_of_failed("portsentry");
    assert!(status.contains("local.toml:2"), "{status}");
    machine.is_banned(Pair::STRANGER);

    // Nor does it keep what is ours from being taken down.
    machine.run("dpkg --remove portsentry-nft");
    let tables = machine.run("nft list tables");
    assert!(!tables.contains("portsentry"), "{tables}");
    assert_eq!(machine.run("systemctl --failed --no-legend --plain"), "");
}

fn what_commands_write_is_no_business_of_dpkgs(release: Release) {
    let machine = installed(release);
    let list = "/etc/portsentry/ignore.list";
    machine.run("portsentry ignore add 192.0.2.7");
    machine.run(INSTALL);
    assert!(machine.read(list).contains("\n192.0.2.7"));
    assert_eq!(machine.run("dpkg --verify portsentry-nft"), "");
    // Who wants none has none.
    machine.run(&format!("rm {list}"));
    machine.run(INSTALL);
    machine.fails(&format!("test -e {list}"));
    is_active(&machine);
}

fn whoever_installs_may_keep_files_from_others(release: Release) {
    let machine = delivered(release);
    machine
        .run("echo portsentry-nft portsentry-nft/enforce boolean false | debconf-set-selections");
    machine.run(&format!("umask 077; {INSTALL}"));
    is_active(&machine);
    let closed = "find /etc/portsentry /usr/share/portsentry -not -perm -044";
    assert_eq!(machine.run(closed), "");
    let status = machine.run("portsentry status");
    assert!(status.contains("logging only"), "{status}");
}

fn a_directory_that_is_closed_to_the_service_is_named(release: Release) {
    let machine = installed(release);
    unit::scan(&machine);
    machine.run("chmod 700 /etc/portsentry; systemctl restart portsentry-nft || true");
    eventually("it has refused to start", || {
        (machine.shows(UNIT, "ActiveState") == "failed").then_some(())
    });
    let status = machine.status_of_failed(UNIT);
    for words in [
        "/etc/portsentry/portsentry.toml",
        "its directories open to that user",
    ] {
        assert!(status.contains(words), "{words} in {status}");
    }
    machine.is_banned(Pair::STRANGER);
    machine.run("chmod 755 /etc/portsentry; systemctl restart portsentry-nft");
    is_active(&machine);
    machine.is_banned(Pair::STRANGER);
}

fn a_removal_takes_down_and_a_purge_leaves_nothing(release: Release) {
    let machine = delivered(release);
    // What installing leaves of its own accord: backups, logs, directories of tools used for the first time.
    machine.run("systemd-sysusers; ucf --purge /nothing; passwd -S root; groupadd x; groupdel x; useradd x; userdel x");
    let before = everything(&machine);
    machine.run(INSTALL);
    unit::scan(&machine);
    machine.run("portsentry ignore add 192.0.2.7");
    assert!(everything(&machine).len() > before.len());

    machine.run("dpkg --remove portsentry-nft");
    assert_eq!(machine.run("nft list tables"), "");
    machine.fails("pgrep portsentry");
    machine
        .run("test -f /var/lib/portsentry/history.db && test -f /etc/portsentry/portsentry.toml");

    machine.run("dpkg --purge portsentry-nft && systemctl daemon-reload");
    let after = everything(&machine);
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// Files, users, groups, units.
pub(crate) fn everything(machine: &Machine) -> BTreeSet<String> {
    let transient = [
        "/var/cache/debconf/",
        "/var/lib/dpkg/",
        "/var/lib/ucf/",
        "/var/log/",
        "/tmp/",
        "/root/",
    ];
    let files = machine.run("find / -xdev");
    let others =
        machine.run("getent passwd; getent group; systemctl list-unit-files --no-legend --plain");
    files
        .lines()
        .filter(|file| !transient.iter().any(|prefix| file.starts_with(prefix)))
        .chain(others.lines())
        .map(str::to_owned)
        .collect()
}

fn without_systemd_the_init_script_gives_the_same_rights(release: Release) {
    let machine = installed(release);
    machine.run("systemctl disable --now portsentry-nft");
    let script = |verb: &str| {
        machine.run(&format!(
            "SYSTEMCTL_SKIP_REDIRECT=1 /etc/init.d/portsentry-nft {verb}"
        ))
    };
    script("start");
    let pid = eventually("it answers", || {
        let status = machine.try_run("portsentry status");
        status
            .status
            .success()
            .then(|| machine.run("cat /run/portsentry-nft.pid"))
    });
    let pid = pid.trim();
    assert_eq!(
        machine.run(&format!("ps -o user= -p {pid}")),
        "portsentry\n"
    );
    let status = machine.run(&format!("cat /proc/{pid}/status"));
    for line in [
        "CapPrm:\t0000000000003000",
        "CapBnd:\t0000000000003000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    unit::scan(&machine);
    let seen = machine
        .entry("attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 3");
    assert_eq!(seen["SYSLOG_FACILITY"], "3");
    script("restart");
    eventually("it answers again", || {
        let list = machine.try_run("portsentry list");
        String::from_utf8_lossy(&list.stdout)
            .contains(Pair::STRANGER)
            .then_some(())
    });
    script("stop");
    machine.fails("pgrep portsentry");
}

fn a_removal_takes_down_what_every_responder_has_put_up(release: Release) {
    let machine = installed(release);
    machine.run(
        "mkdir -p /etc/systemd/system/portsentry-nft.service.d
        ln -s /usr/share/portsentry/drop-ins/hosts-deny.conf /usr/share/portsentry/drop-ins/iptables-legacy.conf \
            /etc/systemd/system/portsentry-nft.service.d/
        echo '# mine' >/etc/hosts.deny; iptables -A INPUT -s 203.0.113.9 -j DROP; ip route add unreachable 203.0.113.9",
    );
    let world = |what: &str| {
        let asks = "ip -o route show table all; iptables -S; ip6tables -S; cat /etc/hosts.deny; nft list tables inet";
        let lines = machine.run(asks);
        let found: Vec<&str> = lines.lines().filter(|line| line.contains(what)).collect();
        found.join("\n")
    };
    let (mine, before) = (world("203.0.113.9"), world("# mine"));
    machine.write(
        "/etc/portsentry/portsentry.toml.d/local.toml",
        "[ban]\nresponders = [\"nftables\", \"route\", \"iptables\", \"hosts-deny\"]\n",
    );
    machine.run("systemctl daemon-reload && systemctl restart portsentry-nft");
    unit::scan(&machine);
    eventually("every responder has the scanner", || {
        let traces = world(Pair::STRANGER) + &world("PORTSENTRY");
        let all = [
            "unreachable 10.77.0.2",
            "-s 10.77.0.2/32",
            "ALL: 10.77.0.2",
            "-A INPUT -j PORTSENTRY",
        ];
        all.iter().all(|trace| traces.contains(trace)).then_some(())
    });

    machine.run("dpkg --remove portsentry-nft");
    for trace in [
        "unreachable 10.77.0.2",
        "10.77.0.2/32",
        "ALL: 10.77.0.2",
        "PORTSENTRY",
        "portsentry",
    ] {
        assert_eq!(world(trace), "", "{trace}");
    }
    assert_eq!((world("203.0.113.9"), world("# mine")), (mine, before));
    machine.run("dpkg --purge portsentry-nft");
    machine.fails("test -e /etc/systemd/system/portsentry-nft.service.d");
}

fn it_comes_after_other_firewalls_and_needs_none(release: Release) {
    let machine = installed(release);
    let after = machine.shows(UNIT, "After");
    let needed = ["Requires", "Wants", "BindsTo", "Requisite"].map(|it| machine.shows(UNIT, it));
    for other in ["nftables.service", "firewalld.service", "ufw.service"] {
        assert!(after.contains(other), "{other} in {after}");
        assert!(!needed.concat().contains(other), "{other} in {needed:?}");
    }
    let depends = machine.run("dpkg-query -W -f '${Pre-Depends} ${Depends}' portsentry-nft");
    for other in ["nftables", "firewalld", "ufw", "iptables"] {
        assert!(!depends.contains(other), "{other} in {depends}");
    }
    // It starves packet sockets.
    assert_eq!(machine.shows(UNIT, "IPAddressDeny"), "");
}

fn its_text_is_rotated_and_written_on(release: Release) {
    let machine = installed(release);
    let text = "/var/lib/portsentry/history.log";
    unit::scan(&machine);
    eventually("the scan is written down", || {
        machine.read(text).contains(Pair::STRANGER).then_some(())
    });
    machine.run("logrotate --force /etc/logrotate.d/portsentry-nft");
    assert!(machine.read(&format!("{text}.1")).contains(Pair::STRANGER));
    machine.run(&format!("portsentry unban {}", Pair::STRANGER));
    unit::scan(&machine);
    eventually("the next scan is written down anew", || {
        let lines = machine.try_run(&format!("cat {text}")).stdout;
        let lines = String::from_utf8_lossy(&lines);
        (lines.lines().count() == 1 && lines.contains(Pair::STRANGER)).then_some(())
    });
    is_active(&machine);
}
