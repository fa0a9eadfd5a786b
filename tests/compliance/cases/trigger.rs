//! SCAN_TRIGGER: how many hits a host has before it is one too many.

use std::fmt::Write as _;

use super::{SYN, blocked};
use crate::bench::HOST;
use crate::case::Case;

/// Six hits, one a port.
const PORTS: [u16; 6] = [11, 12, 13, 14, 15, 16];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = (0..=4).map(hits).collect();
    cases.push(
        Case::new(
            "a host's hits are not forgotten for those of a hundred others",
            |bench| {
                bench.hear_any_source();
                bench.start("-atcp", "SCAN_TRIGGER=\"2\"");
                bench.nmap("-sS", "11");
                // Some of these are no sources that the kernel takes: more than fifty are left.
                bench.stranger.hping3(120, "--rand-source -S -p 11", HOST);
                bench.nmap("-sS", "12");
            },
        )
        .but_ours(
            "the original keeps fifty hits in all",
            &blocked("atcp", SYN, 12),
        ),
    );
    cases.push(
        Case::new("the trigger counts hits, not ports", |bench| {
            bench.start("-atcp", "SCAN_TRIGGER=\"3\"");
            for _ in 0..3 {
                bench.nmap("-sS", "11");
            }
        })
        .sees(&blocked("atcp", SYN, 11)),
    );
    cases
}

/// 0 and 1 are the same; from 2 on, the Nth hit is told, and each after it.
fn hits(trigger: usize) -> Case {
    let told = &PORTS[trigger.saturating_sub(1)..];
    let mut seen = String::new();
    for (number, port) in told.iter().enumerate() {
        let what_then = if number == 0 {
            "Ignoring TCP response per configuration file setting."
        } else {
            "Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring"
        };
        writeln!(
            seen,
            "attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: {port}\nattackalert: {what_then}",
        )
        .expect("a string takes it");
    }
    let first = told[0];
    for file in ["history", "blocked.atcp"] {
        writeln!(
            seen,
            "{file}: Host: 10.77.0.2/10.77.0.2 Port: {first} TCP Blocked"
        )
        .expect("a string takes it");
    }
    Case::new(
        format!(
            "SCAN_TRIGGER={trigger}: of six hits, {} are told",
            told.len()
        ),
        move |bench| {
            bench.start(
                "-atcp",
                &format!("SCAN_TRIGGER=\"{trigger}\"\nBLOCK_TCP=\"0\""),
            );
            bench.nmap("-sS", "11-16");
        },
    )
    .sees(&seen)
}
