//! Where sysvinit starts it, and no systemd is there: installed by dpkg, begun with the runlevel, asked and told by `service`.

use crate::machine::Machine;
use crate::package::{INSTALL, deliver};
use crate::worlds::{Pair, at};
use crate::{eventually, unit};

/// A machine that our package is installed on.
fn installed() -> Machine {
    let machine = Machine::boot_sysvinit();
    deliver(&machine);
    machine.run(INSTALL);
    machine
}

fn service(machine: &Machine, verb: &str) -> String {
    machine.run(&format!("service portsentry-nft {verb}"))
}

/// What `service … status` exits with: 0 runs, 1 has died, 3 runs not.
fn status(machine: &Machine) -> Option<i32> {
    machine
        .try_run("service portsentry-nft status")
        .status
        .code()
}

fn is_banned(machine: &Machine) -> bool {
    machine.run("portsentry list").contains(Pair::STRANGER)
}

#[test]
fn a_boot_starts_it_with_its_bans_and_a_purge_leaves_nothing() {
    let mut machine = installed();
    assert_eq!(status(&machine), Some(0));
    unit::scan(&machine);
    machine.reboot();
    assert_eq!(machine.run("runlevel"), "N 2\n");
    assert_eq!(status(&machine), Some(0));
    assert!(is_banned(&machine));
    machine.is_banned(Pair::STRANGER);
    let _service = machine.net.host.serve(at(Pair::HOST), 80);
    let reaches = |machine: &Machine| machine.net.stranger.reaches(at(Pair::HOST), 80);
    assert!(!reaches(&machine));
    machine.run("dpkg --purge portsentry-nft");
    assert!(reaches(&machine));
    assert_eq!(
        machine.run("nft list tables; find /etc -name '*portsentry*'; getent passwd portsentry; pgrep portsentry; true"),
        ""
    );
}

#[test]
fn service_starts_stops_restarts_and_knows() {
    let machine = installed();
    unit::scan(&machine);
    // As soon as it has come back, it answers.
    for verb in ["start", "restart", "force-reload", "reload"] {
        service(&machine, verb);
        assert_eq!(status(&machine), Some(0), "{verb}");
        assert!(is_banned(&machine), "{verb}");
        assert_eq!(
            machine.run("pgrep --count --exact portsentry"),
            "1\n",
            "{verb}"
        );
    }
    for _ in 0..2 {
        let said = service(&machine, "stop");
        assert_eq!(said, "Stopping port scan firewall: portsentry.\n");
        assert_eq!(status(&machine), Some(3));
        machine.fails("pgrep portsentry");
        machine.is_banned(Pair::STRANGER);
    }
    service(&machine, "start");
    assert!(is_banned(&machine));
}

#[test]
fn after_a_crash_its_number_is_not_taken_for_it() {
    let machine = installed();
    machine.run("kill -KILL $(cat /run/portsentry-nft.pid)");
    eventually("service knows that it has died", || {
        (status(&machine) == Some(1)).then_some(())
    });
    // Somebody else has the number now, who is neither stopped nor believed to be the daemon.
    machine.run("sleep 1000 >/dev/null 2>&1 & echo $! >/run/portsentry-nft.pid");
    service(&machine, "stop");
    machine.run("pgrep -x sleep | tee /run/portsentry-nft.pid");
    service(&machine, "start");
    assert_eq!(status(&machine), Some(0));
    machine.run("pgrep -x sleep");
}

#[test]
fn service_tells_of_a_start_that_fails() {
    let machine = installed();
    let local = "/etc/portsentry/portsentry.toml.d/local.toml";
    machine.write(local, "[detect]\ntriger = 1\n");
    // The one that runs goes on.
    let said = machine.fails("service portsentry-nft restart");
    assert!(said.contains("local.toml:2"), "{said}");
    assert_eq!(status(&machine), Some(0));
    machine.run(&format!("rm {local}"));

    // Nothing is wrong with the configuration, but it gives up.
    machine.write("/etc/default/portsentry-nft", "CAPABILITIES=+net_raw\n");
    machine.fails("service portsentry-nft restart");
    assert_eq!(status(&machine), Some(1));
    machine.run("rm /etc/default/portsentry-nft");
    service(&machine, "start");
    assert_eq!(status(&machine), Some(0));
}
