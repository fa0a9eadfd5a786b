//! 1.2's log lines, to the byte: other people's log rules match on them.
//!
//! Here are the words alone. When a line is due is decided by whoever has something to tell.

use std::fmt;
use std::net::IpAddr;

use crate::config::Mode;
use crate::policy::Alarm;
use crate::probe::{Protocol, ScanType};
use crate::respond::Deed;

/// Name and address with a slash between; the address twice where it has no name, or none was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Cleaned of whatever a log or a terminal could take amiss.
    pub name: Option<&'a str>,
    /// Its address.
    pub address: IpAddr,
}

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{name}/{}", self.address),
            None => write!(f, "{0}/{0}", self.address),
        }
    }
}

/// What was seen: the line that names scan, host and port, and a second one where the packet had IP options.
pub fn seen<'a>(alarm: &'a Alarm, host: Host<'a>) -> impl Iterator<Item = String> + 'a {
    let Alarm { probe, .. } = alarm;
    let to = protocol(probe.protocol);
    let port = probe.port;
    let seen = format!(
        "attackalert: {} from host: {host} to {to} port: {port}",
        what(alarm)
    );
    let options = probe.ip_options.then(|| {
        format!(
            "attackalert: Packet from host: {host} to {to} port: {port} has IP options set (detection avoidance technique)."
        )
    });
    std::iter::once(seen).chain(options)
}

/// The scan's name. A null scan's begins with a blank, as ever.
fn what(alarm: &Alarm) -> String {
    // The order of the bits is that of the header: FIN is the lowest.
    let flag = |bit: u8| (alarm.probe.odd_flags >> bit) & 1;
    match alarm.probe.scan_type {
        ScanType::Connect => "Connect".to_owned(),
        ScanType::Syn => "TCP SYN/Normal scan".to_owned(),
        ScanType::Fin => "TCP FIN scan".to_owned(),
        ScanType::Null => " TCP NULL scan".to_owned(),
        ScanType::Xmas => "TCP XMAS scan".to_owned(),
        // 1.2 never saw one: its sockets get whole packets.
        ScanType::Fragment => "TCP fragment scan".to_owned(),
        ScanType::Udp => "UDP scan".to_owned(),
        ScanType::Odd => format!(
            "Unknown Type: TCP Packet Flags: SYN: {} FIN: {} ACK: {} PSH: {} URG: {} RST: {}",
            flag(1),
            flag(0),
            flag(4),
            flag(3),
            flag(5),
            flag(2),
        ),
    }
}

/// Its source is dealt with already.
#[must_use]
pub fn already(alarm: &Alarm, host: Host<'_>) -> String {
    if alarm.mode.mode == Mode::Connect {
        return format!(
            "attackalert: Host: {} is already blocked. Ignoring",
            host.address
        );
    }
    format!("attackalert: Host: {host} is already blocked Ignoring")
}

/// The configuration says to leave it at that.
#[must_use]
pub fn let_be(of: Protocol) -> String {
    format!(
        "attackalert: Ignoring {} response per configuration file setting.",
        protocol(of)
    )
}

/// A responder has banned `address`.
#[must_use]
pub fn done(address: IpAddr, deed: &Deed) -> String {
    match deed {
        Deed::Route(command) => format!(
            "attackalert: Host {address} has been blocked via dropped route using command: \"{command}\""
        ),
        Deed::Wrappers(line) => {
            format!(
                "attackalert: Host {address} has been blocked via wrappers with string: \"{line}\""
            )
        }
    }
}

/// A program of the admin's has been told of it.
#[must_use]
pub fn told(address: IpAddr, command: &str) -> String {
    format!("attackalert: External command run for host: {address} using command: \"{command}\"")
}

/// No responder could ban it. How the host is named differs from mode to mode, as ever.
#[must_use]
pub fn failed(alarm: &Alarm, host: Host<'_>) -> String {
    let stealth_tcp = (Mode::Stealth, Protocol::Tcp);
    match (alarm.mode.mode, alarm.mode.protocol) {
        (Mode::Connect, _) => format!(
            "attackalert: ERROR: Could not block host {} !!",
            host.address
        ),
        mode if mode == stealth_tcp => {
            format!("attackalert: ERROR: Could not block host {host} !!")
        }
        _ => format!("attackalert: ERROR: Could not block host {host}!!"),
    }
}

/// A line of an ignore file is passed over.
#[must_use]
pub fn bad_netmask(line: &str) -> String {
    format!("adminalert: Invalid netmask in config file: {line}  Ignoring entry.")
}

/// `TCP` or `UDP`.
#[must_use]
pub fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::WatchMode;
    use crate::probe::Probe;

    fn alarm(mode: &str, scan_type: ScanType, port: u16) -> Alarm {
        let mode = WatchMode::from_name(mode).unwrap();
        Alarm {
            probe: Probe {
                source: "10.9.0.2".parse().unwrap(),
                dest: "10.9.0.1".parse().unwrap(),
                protocol: mode.protocol,
                source_port: 4711,
                port,
                scan_type,
                ip_options: false,
                odd_flags: 0,
            },
            mode,
        }
    }

    fn lines(alarm: &Alarm) -> Vec<String> {
        let host = Host {
            name: None,
            address: alarm.probe.source,
        };
        seen(alarm, host)
            .chain([already(alarm, host), failed(alarm, host)])
            .collect()
    }

    #[test]
    fn each_mode_has_its_own_punctuation() {
        for (mode, scan_type, expected) in [
            (
                "tcp",
                ScanType::Connect,
                [
                    "attackalert: Connect from host: 10.9.0.2/10.9.0.2 to TCP port: 23",
                    "attackalert: Host: 10.9.0.2 is already blocked. Ignoring",
                    "attackalert: ERROR: Could not block host 10.9.0.2 !!",
                ],
            ),
            (
                "udp",
                ScanType::Connect,
                [
                    "attackalert: Connect from host: 10.9.0.2/10.9.0.2 to UDP port: 23",
                    "attackalert: Host: 10.9.0.2 is already blocked. Ignoring",
                    "attackalert: ERROR: Could not block host 10.9.0.2 !!",
                ],
            ),
            (
                "stcp",
                ScanType::Syn,
                [
                    "attackalert: TCP SYN/Normal scan from host: 10.9.0.2/10.9.0.2 to TCP port: 23",
                    "attackalert: Host: 10.9.0.2/10.9.0.2 is already blocked Ignoring",
                    "attackalert: ERROR: Could not block host 10.9.0.2/10.9.0.2 !!",
                ],
            ),
            (
                "atcp",
                ScanType::Null,
                [
                    "attackalert:  TCP NULL scan from host: 10.9.0.2/10.9.0.2 to TCP port: 23",
                    "attackalert: Host: 10.9.0.2/10.9.0.2 is already blocked Ignoring",
                    "attackalert: ERROR: Could not block host 10.9.0.2/10.9.0.2!!",
                ],
            ),
            (
                "audp",
                ScanType::Udp,
                [
                    "attackalert: UDP scan from host: 10.9.0.2/10.9.0.2 to UDP port: 23",
                    "attackalert: Host: 10.9.0.2/10.9.0.2 is already blocked Ignoring",
                    "attackalert: ERROR: Could not block host 10.9.0.2/10.9.0.2!!",
                ],
            ),
        ] {
            assert_eq!(lines(&alarm(mode, scan_type, 23)), expected);
        }
    }

    #[test]
    fn odd_flags_and_ip_options_are_told() {
        let mut alarm = alarm("stcp", ScanType::Odd, 11);
        alarm.probe.odd_flags = 0b00_1011; // FIN, SYN, PSH
        alarm.probe.ip_options = true;
        let host = Host {
            name: Some("scan.example"),
            address: "2001:db8::7".parse().unwrap(),
        };
        assert_eq!(
            seen(&alarm, host).collect::<Vec<_>>(),
            [
                "attackalert: Unknown Type: TCP Packet Flags: SYN: 1 FIN: 1 ACK: 0 PSH: 1 URG: 0 RST: 0 \
                 from host: scan.example/2001:db8::7 to TCP port: 11",
                "attackalert: Packet from host: scan.example/2001:db8::7 to TCP port: 11 has IP options set \
                 (detection avoidance technique).",
            ]
        );
    }

    #[test]
    fn what_was_done_is_told() {
        let address = "10.9.0.2".parse().unwrap();
        for (line, expected) in [
            (
                done(address, &Deed::Route("nft add x".to_owned())),
                "attackalert: Host 10.9.0.2 has been blocked via dropped route using command: \"nft add x\"",
            ),
            (
                done(address, &Deed::Wrappers("ALL: 10.9.0.2".to_owned())),
                "attackalert: Host 10.9.0.2 has been blocked via wrappers with string: \"ALL: 10.9.0.2\"",
            ),
            (
                told(address, "/bin/notify 10.9.0.2"),
                "attackalert: External command run for host: 10.9.0.2 using command: \"/bin/notify 10.9.0.2\"",
            ),
            (
                let_be(Protocol::Udp),
                "attackalert: Ignoring UDP response per configuration file setting.",
            ),
        ] {
            assert_eq!(line, expected);
        }
    }
}
