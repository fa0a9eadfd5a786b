//! The micro benches by instructions, which repeat on a noisy machine: what `benches/instructions` prints, as a table.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Run;
use crate::table::{Side, Table, Unit};

pub(crate) fn instructions(run: &Run) -> Vec<Table> {
    let mut table = Table::new(
        "single steps of a probe's trip: instructions, by callgrind",
        Unit::Count,
    );
    let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok();
    if !has_valgrind {
        table.note("missing: valgrind");
        return vec![table];
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(root.join("benches/instructions"))
        .args(run.size([].as_slice(), ["parse_ipv4"].as_slice()))
        .stderr(Stdio::inherit())
        .output()
        .expect("the script is there");
    assert!(
        output.status.success(),
        "benches/instructions: {}",
        output.status
    );
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let (step, count) = line.rsplit_once(' ').expect("a name and a number");
        let count = count.parse().expect("a name and a number");
        table.add(step.trim(), Side::Ours, vec![count]);
    }
    vec![table]
}
