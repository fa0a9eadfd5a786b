//! The six modes: which packets each of them takes for a scan, and what it says.

use super::{SYN, blocked};
use crate::bench::STRANGER;
use crate::case::Case;

/// What the stranger does: a name for it, nmap's scan type.
const PROBES: [(&str, &str); 6] = [
    ("a SYN scan", "-sS"),
    ("a FIN scan", "-sF"),
    ("a NULL scan", "-sN"),
    ("an XMAS scan", "-sX"),
    ("a connection", "-sT"),
    ("a UDP scan", "-sU"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in ["tcp", "udp", "stcp", "sudp", "atcp", "audp"] {
        for (probe, how) in PROBES {
            cases.push(probed(mode, probe, how));
        }
    }
    for mode in ["tcp", "udp", "stcp", "sudp", "atcp", "audp"] {
        cases.push(probed_again(mode));
    }
    cases
}

/// A second probe is told, and nothing else is done about it.
fn probed_again(mode: &'static str) -> Case {
    let (how, first, second, protocol) = if mode.ends_with("udp") {
        ("-sU", 9, 513, "UDP")
    } else if mode == "tcp" {
        ("-sT", 11, 15, "TCP")
    } else {
        ("-sS", 11, 15, "TCP")
    };
    let (kind, again) = match mode {
        "tcp" | "udp" => ("Connect", "Host: 10.77.0.2 is already blocked. Ignoring"),
        "sudp" | "audp" => (
            "UDP scan",
            "Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring",
        ),
        _ => (
            "TCP SYN/Normal scan",
            "Host: 10.77.0.2/10.77.0.2 is already blocked Ignoring",
        ),
    };
    Case::new(format!("-{mode}: a second probe is told"), move |bench| {
        bench.start(&format!("-{mode}"), &format!("BLOCK_{protocol}=\"0\""));
        bench.nmap(how, &first.to_string());
        bench.until("history: …");
        bench.nmap(how, &second.to_string());
    })
    .sees(&format!(
        "attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {first}
        attackalert: Ignoring {protocol} response per configuration file setting.
        attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {second}
        attackalert: {again}
        history: Host: {STRANGER}/{STRANGER} Port: {first} {protocol} Blocked
        blocked.{mode}: Host: {STRANGER}/{STRANGER} Port: {first} {protocol} Blocked"
    ))
}

/// One probe of one kind in one mode: silence, or the line, the record and the response.
fn probed(mode: &'static str, probe: &str, how: &'static str) -> Case {
    let kind = match (mode, how) {
        ("tcp", "-sT") | ("udp", "-sU") => "Connect",
        ("stcp" | "atcp", "-sS" | "-sT") => SYN,
        ("stcp" | "atcp", "-sF") => "TCP FIN scan",
        ("stcp" | "atcp", "-sN") => " TCP NULL scan",
        ("stcp" | "atcp", "-sX") => "TCP XMAS scan",
        ("sudp" | "audp", "-sU") => "UDP scan",
        _ => "",
    };
    let verdict = if kind.is_empty() {
        "is no scan"
    } else {
        "is one"
    };
    let port = if how == "-sU" { 9 } else { 11 };
    let case = Case::new(format!("-{mode}: {probe} {verdict}"), move |bench| {
        bench.start(&format!("-{mode}"), "");
        bench.nmap(how, &port.to_string());
    });
    if kind.is_empty() {
        return case;
    }
    case.sees(&blocked(mode, kind, port))
}
