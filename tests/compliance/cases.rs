//! All cases, by what they are about.

mod configuration;
mod flood;
mod ignore;
mod life;
mod modes;
mod names;
mod packets;
mod ports;
mod readers;
mod responses;
mod trigger;

use crate::bench::STRANGER;
use crate::case::Case;

/// What a SYN is called that is a scan.
const SYN: &str = "TCP SYN/Normal scan";

/// A SYN scan of port 11, as it is told,
const SCAN: &str =
    "attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 11";
/// the response that the bench's own configuration has, as it is told,
const WRAPPERS: &str = r#"attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY""#;
/// the records of it in mode -atcp,
const RECORDED: &str = "
    history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
    blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
";
/// and what is there of it in the end.
const DENIED: &str = "hosts.deny: ALL: 10.77.0.2 : DENY";

/// All that is seen of one probe with the bench's own configuration.
fn blocked(mode: &str, kind: &str, port: u16) -> String {
    let protocol = if mode.ends_with("udp") { "UDP" } else { "TCP" };
    let record = format!("Host: {STRANGER}/{STRANGER} Port: {port} {protocol} Blocked");
    format!(
        "attackalert: {kind} from host: {STRANGER}/{STRANGER} to {protocol} port: {port}
        {WRAPPERS}
        history: {record}
        blocked.{mode}: {record}
        {DENIED}
        "
    )
}

pub(crate) fn all() -> Vec<Case> {
    [
        modes::cases(),
        packets::cases(),
        trigger::cases(),
        responses::cases(),
        ignore::cases(),
        ports::cases(),
        names::cases(),
        configuration::cases(),
        life::cases(),
        flood::cases(),
        readers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
