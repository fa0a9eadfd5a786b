//! Figures that only a booted Debian has. Each test leaves its lines in target/distro/figures, which `make distro` prints at its end.

use std::fs::OpenOptions;
use std::io::Write as _;

use crate::machine::{Machine, Release, target};
use crate::memory::Memory;
use crate::package::{self, UNIT};
use crate::worlds::Pair;
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    it_is_told_what_a_host_takes_on,
    it_is_told_how_long_a_boot_takes_to_protect,
    as_many_bans_as_the_limit_allows_and_a_flood_fit_the_units_memory,
);

/// As many as `ban.limit` allows.
const ALL: u32 = 200_000;

/// Adds a line to what `make distro` prints.
fn figure(line: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(target("distro").join("figures"))
        .expect("the directory is ours");
    // In one piece, for tests run beside each other.
    file.write_all(format!("{line}\n").as_bytes())
        .expect("there is room");
}

/// Bans so many sources, always the same ones.
fn import(machine: &Machine, bans: u32) {
    machine.run(&format!(
        "seq {bans} | awk '{{ printf \"20.%d.%d.%d\\n\", $1 / 65536, $1 / 256 % 256, $1 % 256 }}' | portsentry import --for 1d -"
    ));
}

fn are_in_force(machine: &Machine, bans: u32) {
    let all = format!("{bans} in force of {bans} intended");
    eventually(&format!("{bans} bans are in force"), || {
        let status = machine.try_run("portsentry status");
        let status = String::from_utf8_lossy(&status.stdout);
        status.contains(&all).then_some(())
    });
}

/// How much the package adds, and how far its unit is exposed, by systemd's own judgement: 2.0 at most.
fn it_is_told_what_a_host_takes_on(release: Release) {
    let machine = package::installed(release);
    let judged = machine.run(&format!(
        "systemd-analyze security --no-pager --threshold=20 {UNIT}"
    ));
    let (_, exposure) = judged
        .trim_end()
        .rsplit_once(": ")
        .expect("the last line has the sum");
    let exposure = exposure.split(' ').next().unwrap_or_default();
    let size = machine.run("dpkg-query -W -f '${Installed-Size}' portsentry-nft");
    figure(&format!(
        "{}, package: {size} KiB installed; exposure of its unit {exposure}",
        release.name()
    ));
}

/// Boots with a ban, with many, and with as many as `ban.limit` allows; the package's program, which is the optimised one.
fn it_is_told_how_long_a_boot_takes_to_protect(release: Release) {
    let mut machine = package::installed(release);
    unit::scan(&machine);
    for bans in [1, 10_000, ALL] {
        import(&machine, bans - 1);
        machine.reboot();
        are_in_force(&machine, bans);
        let boot = Boot::of(&machine);
        figure(&format!(
            "{}, boot with {bans} bans: protected {} ms after systemd began, {} ms after the unit did; everything was up after {} ms",
            release.name(),
            boot.protected,
            boot.unit,
            boot.whole
        ));
    }
}

/// Milliseconds, by systemd's clock.
struct Boot {
    /// From systemd's first moment until the unit has said that all bans are in force.
    protected: u64,
    /// From when the unit was started.
    unit: u64,
    /// Until everything had been started.
    whole: u64,
}

impl Boot {
    fn of(machine: &Machine) -> Self {
        let at = |unit: &str, event: &str| -> u64 {
            let at = machine.shows(unit, &format!("{event}TimestampMonotonic"));
            at.parse().expect("systemd counts in microseconds")
        };
        let ready = at(UNIT, "ActiveEnter");
        let begin = at("", "Userspace");
        Self {
            protected: (ready - begin) / 1000,
            unit: (ready - at(UNIT, "InactiveExit")) / 1000,
            whole: (at("", "Finish") - begin) / 1000,
        }
    }
}

/// The unit's `MemoryMax=` bears every ban that may be, put back from nothing again and again, and a flood of sources beside it.
fn as_many_bans_as_the_limit_allows_and_a_flood_fit_the_units_memory(release: Release) {
    let machine = package::installed(release);
    let pid = machine.shows(UNIT, "MainPID");
    let limit = machine.shows(UNIT, "MemoryMax");
    let limit = limit.parse().expect("the unit has a limit, in bytes");
    let memory = Memory::held_to(limit, &machine, &pid);
    unit::scan(&machine);
    import(&machine, ALL - 1);
    are_in_force(&machine, ALL);
    let quiet = memory.now();
    let flood = "-S --rand-source -p ++1 -i u10";
    machine.net.stranger.hping3(200_000, flood, Pair::HOST);
    for _ in 0..4 {
        machine.run("nft flush ruleset");
        are_in_force(&machine, ALL);
    }
    machine.run("systemctl reload portsentry-nft && portsentry list >/dev/null && portsentry export >/dev/null");
    assert_eq!(machine.shows(UNIT, "MainPID"), pid, "it was never killed");
    let most = memory.most();
    // What the kernel keeps of the bans is counted too, or this would show nothing: 100 bytes each.
    assert!(quiet > u64::from(ALL) * 100, "{quiet} bytes");
    assert!(most < limit, "{most} bytes of {limit}");
    let mib = |bytes: u64| bytes / (1024 * 1024);
    figure(&format!(
        "{}, {ALL} bans: {} MiB with the kernel's sets, {} MiB at most, flooded and flushed, of the {} MiB that the unit allows",
        release.name(),
        mib(quiet),
        mib(most),
        mib(limit)
    ));
}
