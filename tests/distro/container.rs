//! As packaging/container has it run: process 1 of namespaces of its own on the host's network, root by name with two capabilities, on
//! a file system that it cannot write to, with a volume for its state, and of the host's files logind's sessions alone.
//!
//! No image is built here: what is in it, our program and three libraries, is in the machine too.

use crate::logins::Login;
use crate::machine::{Machine, Release};
use crate::worlds::{Pair, at};
use crate::{eventually, on_each_debian, unit};

on_each_debian!(with_a_containers_rights_it_protects_the_host);

/// What `podman run` is told in packaging/container/README.md, in words of util-linux.
const RUN: &str = "
    mkdir -p /volume /var/lib/portsentry
    unshare --mount --pid --ipc --uts --fork --kill-child sh -ec '
        mount --bind / /mnt
        mount --bind /usr/sbin/portsentry /mnt/usr/sbin/portsentry
        mount --bind /volume /mnt/var/lib/portsentry
        mount --bind /dev /mnt/dev
        mount -t proc none /mnt/proc
        mount -t tmpfs none /mnt/run
        mkdir -p /mnt/run/portsentry /mnt/run/systemd/sessions
        mount --bind /run/systemd/sessions /mnt/run/systemd/sessions
        mount -o remount,bind,ro /mnt
        exec chroot /mnt setpriv --bounding-set=-all,+net_admin,+net_raw --inh-caps=-all --no-new-privs portsentry run
    ' >>/volume.log 2>&1 </dev/null &";

/// Starts it, and waits until it answers.
fn start(machine: &Machine) {
    machine.run(RUN);
    eventually("the container answers", || {
        let status = machine.try_run(&exec("status"));
        status.status.success().then_some(())
    });
}

/// What `podman exec` would run.
fn exec(command: &str) -> String {
    format!("nsenter --target=$(pgrep -x portsentry) --mount --pid --root portsentry {command}")
}

fn with_a_containers_rights_it_protects_the_host(release: Release) {
    let machine = Machine::boot(release);
    for file in ["portsentry.toml", "ignore.list"] {
        machine.copy(
            &unit::source(&format!("config/{file}")),
            &format!("/etc/portsentry/{file}"),
        );
    }
    machine.run("systemctl start ssh");
    start(&machine);
    let process = machine.run("cat /proc/$(pgrep -x portsentry)/status");
    for line in [
        "Uid:\t0\t0\t0\t0",
        "CapPrm:\t0000000000003000",
        "CapBnd:\t0000000000003000",
        "NoNewPrivs:\t1",
    ] {
        assert!(process.contains(line), "{line} in {process}");
    }
    assert!(
        process
            .lines()
            .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1")),
        "{process}"
    );

    let login = Login::to(&machine);
    let told = machine.run(&exec("explain 10.77.0.2"));
    assert!(told.contains("root is logged in from 10.77.0.2"), "{told}");
    drop(login);

    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = || machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(reaches());
    eventually("who has logged out scans, and is banned", || {
        machine.net.stranger.nmap("-sS", "1-21", Pair::HOST);
        let list = machine.run(&exec("list"));
        list.contains(Pair::STRANGER).then_some(())
    });
    assert!(!reaches());

    // What is process 1 hears of a signal only if it asked to.
    machine.run("pkill -TERM -x portsentry");
    eventually("it ends", || {
        let left = machine.try_run("pgrep -x portsentry");
        (!left.status.success()).then_some(())
    });
    machine.is_banned(Pair::STRANGER);
    machine.run("nft flush ruleset");
    assert!(reaches());
    start(&machine);
    machine.is_banned(Pair::STRANGER);
    assert!(!reaches());
    machine.run(&exec("unban 10.77.0.2"));
    assert!(reaches());
}
