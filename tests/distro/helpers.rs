//! 1.2's helpers, which scripts of admins' call, in our package.

use crate::machine::Release;
use crate::on_each_debian;
use crate::package::INSTALL;
use crate::upgrade::with_the_old;

on_each_debian!(scripts_that_call_the_helpers_of_1_2_go_on_working);

const HELPERS: &str = "/usr/lib/portsentry/portsentry";

fn scripts_that_call_the_helpers_of_1_2_go_on_working(release: Release) {
    let machine = with_the_old(release, "true");
    machine.run(INSTALL);
    let explained = || machine.run("portsentry explain 10.77.0.9");
    let ignored = "/etc/portsentry/1.2/portsentry.ignore";
    assert!(!explained().contains(ignored));
    machine.run(&format!("{HELPERS}-add-ip 10.77.0.9"));
    machine.run(&format!("{HELPERS}-build-ignore-file"));
    let told = explained();
    assert!(told.contains(ignored), "{told}");
    machine.run(&format!("{HELPERS}-rm-ip 10.77.0.9"));
    assert!(!explained().contains(ignored));

    // What would have no effect says so.
    machine.run("echo 10.77.0.9 >>/etc/portsentry/portsentry.ignore.static");
    let said = machine.fails(&format!("{HELPERS}-build-ignore-file"));
    assert!(said.contains("portsentry ignore add"), "{said}");
    machine.run("DEBIAN_FRONTEND=noninteractive dpkg --purge portsentry");
    machine.run(&format!("{HELPERS}-build-ignore-file"));
}
