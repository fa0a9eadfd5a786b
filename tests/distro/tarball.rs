//! Installed from the tree by `make install`, below /usr/local, with the program that the package has.

use std::process::Command;

use crate::machine::{Machine, Release, target};
use crate::package::is_active;
use crate::worlds::Pair;
use crate::{on_each_debian, unit};

on_each_debian!(what_make_install_puts_there_is_a_service);

fn install(machine: &Machine) {
    let output = Command::new("make")
        .args(["install", "PREFIX=/usr/local"])
        .arg(format!("DESTDIR={}", machine.path("/").display()))
        .env("CARGO_TARGET_DIR", target("deb/cargo"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("make is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

fn what_make_install_puts_there_is_a_service(release: Release) {
    let machine = Machine::boot_bare(release);
    install(&machine);
    // As the README says.
    machine.run(
        "systemd-sysusers && systemctl daemon-reload && systemctl enable --now portsentry-nft",
    );
    is_active(&machine);
    unit::scan(&machine);
    machine.run("systemctl reload portsentry && /usr/local/sbin/portsentry list | grep 10.77.0.2");
    machine.run("test -f /usr/local/share/man/man8/portsentry.8 && test -f /usr/local/share/portsentry/portsentry.nft");

    // Again, as for a newer one: what was edited stays.
    machine.run("echo '# mine' >>/etc/portsentry/portsentry.toml");
    install(&machine);
    machine.run("systemctl daemon-reload && systemctl restart portsentry-nft");
    assert!(
        machine
            .read("/etc/portsentry/portsentry.toml")
            .ends_with("# mine\n")
    );
    machine.is_banned(Pair::STRANGER);
}
