//! Who is told the banner: every connection, and those datagrams that it can do no harm to answer. Pure.
//!
//! Whoever forges a datagram's source has us send the banner to a host of his choice. What keeps that from being of use to him:
//! - At most [`A_SECOND`] banners go out in a second, whoever asks.
//! - None goes to a port below 1024, where services take it for a question and answer, as echo and chargen do, and some with more
//!   bytes than they got; nor to a port that is one of our own list, where another portsentry may answer us for ever.
//! - None goes to or from an address that stands for many or for nobody. Broadcast addresses of our links are not known here: the
//!   kernel refuses them, as sender because they are no address of this host, and as receiver because we never asked for the right.

use std::net::IpAddr;
use std::time::Duration;

use crate::clock::Mono;
use crate::probe::Probe;

/// The most datagrams that are told the banner in a second.
const A_SECOND: u32 = 10;

/// Ports below this are services', and those who ask from there are not asking.
const FIRST_CLIENT_PORT: u16 = 1024;

/// The words, and how many datagrams have got them of late.
#[derive(Default)]
pub(super) struct Banner {
    words: String,
    /// When the current second began; `None`: no datagram has been told yet.
    since: Option<Mono>,
    told: u32,
}

impl Banner {
    /// From now on these words. How many may still be told in this second stays as it is.
    pub(super) fn set(&mut self, words: String) {
        self.words = words;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// What a connection is told, perhaps nothing.
    pub(super) fn for_connection(&self) -> &[u8] {
        self.words.as_bytes()
    }

    /// What this datagram's source is told; `None`: it is not answered.
    pub(super) fn for_datagram(
        &mut self,
        probe: &Probe,
        from_one_of_our_ports: bool,
        now: Mono,
    ) -> Option<&[u8]> {
        let harmless = probe.source_port >= FIRST_CLIENT_PORT
            && !from_one_of_our_ports
            && is_one_host(probe.source)
            && is_one_host(probe.dest);
        (!self.words.is_empty() && harmless && self.is_within_the_rate(now))
            .then_some(self.words.as_bytes())
    }

    fn is_within_the_rate(&mut self, now: Mono) -> bool {
        let begins = self
            .since
            .is_none_or(|since| now.since(since) >= Duration::from_secs(1));
        if begins {
            self.since = Some(now);
            self.told = 0;
        }
        let is_within = self.told < A_SECOND;
        self.told += u32::from(is_within);
        is_within
    }
}

fn is_one_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || is_broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Protocol, ScanType};

    const T0: Mono = Mono(5_000);

    fn datagram(source: &str, source_port: u16, dest: &str) -> Probe {
        Probe {
            source: source.parse().unwrap(),
            dest: dest.parse().unwrap(),
            protocol: Protocol::Udp,
            source_port,
            port: 69,
            scan_type: ScanType::Connect,
            ip_options: false,
            odd_flags: 0,
        }
    }

    fn banner(words: &str) -> Banner {
        let mut banner = Banner::default();
        banner.set(words.to_owned());
        banner
    }

    #[test]
    fn ten_datagrams_a_second_are_told_whoever_asks() {
        let mut banner = banner("go away");
        let mut told = |now| {
            (0..50)
                .filter(|n| {
                    let probe = datagram(&format!("198.51.100.{n}"), 40_000, "192.0.2.1");
                    banner.for_datagram(&probe, false, now).is_some()
                })
                .count()
        };
        assert_eq!(told(T0), 10);
        assert_eq!(told(T0.later(Duration::from_millis(999))), 0);
        assert_eq!(told(T0.later(Duration::from_secs(1))), 10);
        assert_eq!(told(T0.later(Duration::from_secs(3600))), 10);
    }

    #[test]
    fn nobody_is_told_who_may_answer_or_be_many() {
        let (them, us) = ("198.51.100.7", "192.0.2.1");
        for (source, port, dest, told) in [
            (them, 40_000, us, true),
            (them, 1024, us, true),
            ("2001:db8::7", 40_000, "2001:db8::1", true),
            (them, 1023, us, false),
            (them, 19, us, false),
            (them, 7, us, false),
            (them, 0, us, false),
            ("224.0.0.1", 40_000, us, false),
            ("255.255.255.255", 40_000, us, false),
            ("0.0.0.0", 40_000, us, false),
            ("ff02::1", 40_000, "2001:db8::1", false),
            ("::", 40_000, "2001:db8::1", false),
            (them, 40_000, "224.0.0.251", false),
            (them, 40_000, "255.255.255.255", false),
            ("2001:db8::7", 40_000, "ff02::1", false),
        ] {
            let probe = datagram(source, port, dest);
            let words = banner("go away")
                .for_datagram(&probe, false, T0)
                .map(<[u8]>::to_vec);
            assert_eq!(words.is_some(), told, "{source} port {port} to {dest}");
        }
        let probe = datagram(them, 40_000, us);
        assert!(banner("go away").for_datagram(&probe, true, T0).is_none());
        assert!(banner("").for_datagram(&probe, false, T0).is_none());
    }

    #[test]
    fn who_is_not_told_uses_up_nothing() {
        let mut banner = banner("go away");
        for _ in 0..50 {
            let probe = datagram("198.51.100.7", 19, "192.0.2.1");
            assert!(banner.for_datagram(&probe, false, T0).is_none());
        }
        let probe = datagram("198.51.100.7", 40_000, "192.0.2.1");
        assert!(banner.for_datagram(&probe, false, T0).is_some());
    }
}
