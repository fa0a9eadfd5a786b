//! The six modes: which packets each of them takes for a scan, and what it says.

use crate::bench::STRANGER;
use crate::case::Case;

/// What the stranger does: a name for it, nmap's scan type.
const PROBES: [(&str, &str); 6] = [
    ("SYN scan", "-sS"),
    ("FIN scan", "-sF"),
    ("NULL scan", "-sN"),
    ("XMAS scan", "-sX"),
    ("connection", "-sT"),
    ("UDP scan", "-sU"),
];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for mode in ["tcp", "udp", "stcp", "sudp", "atcp", "audp"] {
        for (probe, how) in PROBES {
            cases.push(probed(mode, probe, how));
        }
    }
    cases
}

/// One probe of one kind in one mode: silence, or the line, the record and the response.
fn probed(mode: &'static str, probe: &str, how: &'static str) -> Case {
    let kind = match (mode, how) {
        ("tcp", "-sT") | ("udp", "-sU") => "Connect",
        ("stcp" | "atcp", "-sS" | "-sT") => "TCP SYN/Normal scan",
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
    let (port, protocol) = if how == "-sU" {
        ("9", "UDP")
    } else {
        ("11", "TCP")
    };
    let case = Case::new(format!("-{mode}: a {probe} {verdict}"), move |bench| {
        bench.start(&format!("-{mode}"), "");
        bench.nmap(how, port);
    });
    if kind.is_empty() {
        return case;
    }
    case.sees(&format!(
        r#"
        attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {port}
        attackalert: Host {STRANGER} has been blocked via wrappers with string: "ALL: {STRANGER} : DENY"
        history: Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked
        blocked.{mode}: Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked
        hosts.deny: ALL: {STRANGER} : DENY
        "#
    ))
}
