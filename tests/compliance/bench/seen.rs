//! What can be seen of the implementation under test: its log, its files, and what the steps have noted. And the canaries, which
//! tell when there is nothing more to see.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::{TimeZone, offset};
use socket2::{Domain, Socket, Type};

use super::{BLOCKED, Bench, HISTORY, HOST, HOSTS_DENY, RAN, STRANGER, STRANGER6, address};
use crate::case::fits;
use crate::syslog::is_of_1_2;
use crate::{PATIENCE, within};

/// Local time on the host: five hours behind, so that it is not taken for another's.
pub(super) const ZONE: &str = "EST5";
const ZONE_HOURS: i8 = -5;

const MODES: [&str; 6] = ["tcp", "udp", "stcp", "sudp", "atcp", "audp"];

const CANARY_PORT: u16 = 1;

/// When nothing has come for so long, nothing will: far longer than any one thing takes.
const QUIET: Duration = Duration::from_secs(5);

impl Bench {
    /// Waits until a line that fits is seen.
    pub(crate) fn until(&self, like: &str) {
        self.until_times(1, like);
    }

    /// Waits until this many lines that fit are seen.
    pub(crate) fn until_times(&self, times: usize, like: &str) {
        self.while_it_runs(like, || {
            let lines = self.seen();
            (lines.iter().filter(|line| fits(line, like)).count() >= times).then_some(())
        });
    }

    /// Waits until what is seen is as it should be, or until nothing more comes.
    pub(crate) fn wait_until(&self, as_expected: impl Fn(&[String]) -> bool) {
        let mut last = (Instant::now(), Vec::new());
        within(PATIENCE, || {
            let seen = self.seen();
            if seen != last.1 {
                last = (Instant::now(), seen);
            }
            (as_expected(&last.1) || last.0.elapsed() >= QUIET).then_some(())
        });
    }

    /// Sends a canary into each mode and waits for its line. Packets are judged in their order, so all before have been.
    pub(crate) fn everything_is_judged(&mut self) {
        for mode in self.modes.clone() {
            // In a network of their own, which no ignore file names.
            let last = u8::try_from(1 + self.canaries.len()).expect("a case has few canaries");
            let address = Ipv4Addr::new(10, 99, 0, last);
            self.stranger.ip(&format!("addr add {address}/32 dev eth0"));
            self.host.ip(&format!("route add {address}/32 dev eth0"));
            self.first_song.get_or_insert(self.syslog.texts().len());
            self.canaries.push(address);
            let text = format!("/{address} ");
            self.while_it_runs(&format!("the canary {address} of {mode} sings"), || {
                self.sing(&mode, address);
                // A moment for its line, before it sings again.
                within(Duration::from_millis(200), || {
                    let texts = self.syslog.texts();
                    texts.iter().any(|line| line.contains(&text)).then_some(())
                })
            });
        }
    }

    fn sing(&self, mode: &str, from: Ipv4Addr) {
        let to = SocketAddr::new(address(HOST), CANARY_PORT);
        self.stranger.inside(|| {
            let from = SocketAddr::from((from, 0));
            if mode.ends_with("tcp") {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there is IPv4");
                socket.bind(&from.into()).expect("the address was added");
                // Refused or not, the host has had a SYN.
                let _ = socket.connect_timeout(&to.into(), Duration::from_millis(500));
            } else {
                let socket = UdpSocket::bind(from).expect("the address was added");
                let _ = socket.send_to(b"canary", to);
            }
        });
    }

    /// Everything that is to be seen, a line each: log lines that are 1.2's, then the lines of the files by their names, then
    /// the notes.
    pub(crate) fn seen(&self) -> Vec<String> {
        if self.only_notes {
            return self.notes.clone();
        }
        let mut lines = self.logged();
        lines.extend(self.records("history", HISTORY));
        for mode in MODES {
            lines.extend(self.records(&format!("blocked.{mode}"), &format!("{BLOCKED}.{mode}")));
        }
        for (name, path) in [("hosts.deny", HOSTS_DENY), ("ran", RAN)] {
            let text = self.read(path);
            // Ours marks its lines; the marks are no client's business.
            let is_a_mark = |line: &str| {
                line.starts_with("# portsentry: ") || line.starts_with("# portsentry (")
            };
            let others = text
                .lines()
                .filter(|line| !self.is_a_canarys(line) && !is_a_mark(line));
            lines.extend(others.map(|line| format!("{name}: {line}")));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }

    /// Log lines that are 1.2's, or that are not as syslog has them. Once a canary has sung, those that name the stranger.
    fn logged(&self) -> Vec<String> {
        let quiet = self.first_song.unwrap_or(usize::MAX);
        let is_theirs = |text: &str| is_of_1_2(text) || text.starts_with('<');
        let texts = self.syslog.texts().into_iter().enumerate().skip(self.from);
        texts
            .filter(|(at, text)| is_theirs(text) && (*at < quiet || names_the_stranger(text)))
            .map(|(_, text)| text.replace('\n', "␤"))
            .collect()
    }

    /// The lines of a history or blocked file: without their time, where it is a good one.
    fn records(&self, name: &str, path: &str) -> Vec<String> {
        let text = self.read(path);
        text.lines()
            .filter(|line| !self.is_a_canarys(line))
            .map(|line| format!("{name}: {}", self.undated(line).unwrap_or(line)))
            .collect()
    }

    /// A record without its time. The time must be one since the case began, and the same in both of its forms.
    fn undated<'a>(&self, line: &'a str) -> Option<&'a str> {
        let (epoch, rest) = line.split_once(" - ")?;
        let time = Timestamp::from_second(epoch.parse().ok()?).ok()?;
        let zone = TimeZone::fixed(offset(ZONE_HOURS));
        let local = time
            .to_zoned(zone)
            .strftime("%m/%d/%Y %H:%M:%S ")
            .to_string();
        let plausible =
            (self.begin.as_second()..=Timestamp::now().as_second()).contains(&time.as_second());
        rest.strip_prefix(&local).filter(|_| plausible)
    }

    fn is_a_canarys(&self, line: &str) -> bool {
        self.canaries.iter().any(|canary| {
            let address = canary.to_string();
            line.match_indices(&address).any(|(at, _)| {
                let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
                !digit(line.as_bytes().get(at + address.len()))
            })
        })
    }

    /// What is seen is nothing but these lines: what a reader of the log has found in it.
    pub(crate) fn report(&mut self, found: &str) {
        self.only_notes = true;
        self.notes
            .extend(found.lines().map(|line| line.trim_start().to_owned()));
        self.notes.retain(|line| !line.is_empty());
    }

    /// The log of 1.2's words, without the canaries'.
    pub(crate) fn log(&self) -> String {
        self.logged().join("\n")
    }

    /// History, without the canaries'.
    pub(crate) fn history(&self) -> String {
        let text = self.read(HISTORY);
        let others = text.lines().filter(|line| !self.is_a_canarys(line));
        others.map(|line| format!("{line}\n")).collect()
    }

    /// Adds a line to what is seen.
    pub(crate) fn note(&mut self, line: impl Into<String>) {
        self.notes.push(line.into());
    }

    /// All there is to tell when a case fails.
    pub(crate) fn everything(&self) -> String {
        let mut text = String::from("log:\n");
        for line in self.syslog.datagrams() {
            writeln!(text, "  {}", String::from_utf8_lossy(&line)).expect("a string takes it");
        }
        for path in [HISTORY, HOSTS_DENY, RAN, "/run/said"] {
            for line in self.read(path).lines() {
                writeln!(text, "  {path}: {line}").expect("a string takes it");
            }
        }
        text
    }
}

/// Whether the line is about the stranger as a host, not as an entry of a file.
fn names_the_stranger(text: &str) -> bool {
    let addresses = [STRANGER, STRANGER6];
    let parts = text.split([' ', '/']);
    text.contains("ost")
        && parts
            .into_iter()
            .any(|part| addresses.contains(&part.trim_end_matches('!')))
}
