//! All cases, by what they are about.

mod configuration;
mod ignore;
mod life;
mod modes;
mod names;
mod packets;
mod ports;
mod readers;
mod responses;
mod trigger;

use crate::case::Case;

/// What is seen of a scan of port 11 in the mode -atcp with the bench's own configuration.
const BLOCKED: &str = r#"
    attackalert: TCP SYN/Normal scan from host: 10.77.0.2/10.77.0.2 to TCP port: 11
    attackalert: Host 10.77.0.2 has been blocked via wrappers with string: "ALL: 10.77.0.2 : DENY"
    history: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
    blocked.atcp: Host: 10.77.0.2/10.77.0.2 Port: 11 TCP Blocked
    hosts.deny: ALL: 10.77.0.2 : DENY
"#;

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
        readers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
