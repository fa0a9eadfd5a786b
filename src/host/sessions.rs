//! [`Sessions`]: who is logged in from another host.
//!
//! logind's files tell, by name. Where it knows nothing of a login (there is none, or sshd does not report to it), a connection to
//! sshd that is older than the time which it leaves for logging in: whoever has not by then is hung up on. The kernel does not tell
//! how old a connection is, nor which program has it (to whom has our few rights), but enough to know that it is no younger
//! than so much; and sshd's ports are in its configuration. Where that leaves doubts, a connection is taken for a young one.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use netlink_sys::constants::NETLINK_SOCK_DIAG;

use super::inet_diag::{
    AF_INET, AF_INET6, Answer, INET_DIAG_INFO, IPPROTO_TCP, Question, SocketId, TCP_ESTABLISHED,
    TCP_LISTEN, TIMER_KEEPALIVE,
};
use super::login_files::LoginFiles;
use super::netlink::{Answered, Conversation};
pub use super::sshd::Sources;
use super::sshd::{self, Sshd};
use super::{Error, NetlinkError};

/// Who is logged in, found out when asked for. Sees the network namespace of the thread that first asks.
pub struct Sessions {
    kernel: Conversation,
    files: LoginFiles,
    logins: Vec<Login>,
    /// Until when looking is paid for, by time that went by without it.
    paid_until: Option<Instant>,
    /// The connections to sshd and its listeners, by the kernel's number for them.
    seen: HashMap<u64, Seen>,
    listed: Option<Listed>,
}

/// A socket of sshd's.
#[derive(Clone, Copy)]
struct Seen {
    first: Instant,
    /// The longest time to log in that the configuration has had since. sshd reads it when it starts, not when somebody edits it,
    /// and then listens on a new socket; who has been accepted before keeps the time that was.
    grace: Duration,
}

/// What connections to sshd there were when they were last listed.
struct Listed {
    sshd: Sshd,
    at: Instant,
    /// From where, and how old it was by all that could be known, less what it is left longer than the configuration says now.
    connections: Vec<(IpAddr, Duration)>,
}

/// A login from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// From where.
    pub from: IpAddr,
    /// How that is known.
    pub by: LoginBy,
}

/// How a login is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginBy {
    /// logind has a session.
    Session {
        /// Its name: `3`, `c1`.
        id: String,
        /// Who.
        user: String,
    },
    /// A connection to sshd, of somebody who has logged in.
    Connection {
        /// sshd's port.
        port: u16,
    },
}

/// Where logind keeps a file for each session. Not promised by systemd, but so since it has sessions; elogind has the same.
const DIR: &str = "/run/systemd/sessions";

const SSHD_CONFIG: &str = "/etc/ssh/sshd_config";

/// Connections to sshd that are heeded at most.
const MAX_CONNECTIONS: usize = 16 * 1024;

/// Looking may take one part in so many of our time, or a flood has us do little else.
const SHARE: u32 = 10;
/// How much of that may be used in advance: a single verdict always goes by what is, not by what was a moment ago.
const CREDIT: Duration = Duration::from_secs(1);

impl Sessions {
    /// Asks nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            kernel: Conversation::new(NETLINK_SOCK_DIAG),
            files: files(),
            logins: Vec::new(),
            paid_until: None,
            seen: HashMap::new(),
            listed: None,
        }
    }

    /// Who is logged in, each address once, a session before a connection. `None`: that was found out often enough lately, and is
    /// not to be `anew`.
    ///
    /// # Errors
    /// When logind's files cannot be read, or the kernel does not tell of connections.
    pub fn look(&mut self, anew: bool) -> Result<Option<&[Login]>, Error> {
        let begin = Instant::now();
        let paid_until = self.paid_until.map_or(begin, |until| until.max(begin));
        if !anew && paid_until > begin + CREDIT {
            return Ok(None);
        }
        self.files.look()?;
        let mut logins = self.files.sessions.clone();
        let sshd = self.files.sshd.clone();
        let tells_all = |listed: &Listed| listed.tells_all(&sshd, &logins, begin);
        if anew || !self.listed.as_ref().is_some_and(tells_all) {
            let mut found = self.connections(&sshd, begin)?;
            found.retain(|(from, _)| !logins.contains_key(from));
            // Asked last, for it takes a look at each process.
            if !found.is_empty() && sshd::may_run() {
                for (from, port) in found {
                    let by = LoginBy::Connection { port };
                    logins.entry(from).or_insert(by);
                }
            }
        }
        self.logins = logins
            .into_iter()
            .map(|(from, by)| Login { from, by })
            .collect();
        self.paid_until = Some(paid_until + begin.elapsed() * SHARE);
        Ok(Some(&self.logins))
    }

    /// From where connections to sshd come that are older than its time to log in.
    fn connections(&mut self, sshd: &Sshd, now: Instant) -> Result<Vec<(IpAddr, u16)>, Error> {
        let endless = |grace: Option<Duration>| grace.unwrap_or(Duration::MAX);
        let grace = endless(sshd.grace);
        let before = self.listed.take();
        let before = before.map_or(grace, |listed| endless(listed.sshd.grace));
        let keepalive = keepalive_time();
        let mut found = Vec::new();
        let mut seen = HashMap::new();
        let mut connections = Vec::new();
        for &port in &sshd.ports {
            let sockets = self.sockets(port)?;
            let mut know = |cookie, grace: Duration| {
                let known = self.seen.get(&cookie).copied();
                let known = known.unwrap_or(Seen { first: now, grace });
                let grace = known.grace.max(grace);
                seen.insert(cookie, Seen { grace, ..known });
                (known.first, grace)
            };
            // It is root's, or its port is not sshd's.
            let served = sockets
                .iter()
                .filter(|(socket, _)| socket.state == TCP_LISTEN && socket.uid == 0)
                .map(|(listener, _)| know(listener.cookie, grace).1)
                .max();
            for (socket, quiet) in sockets {
                if socket.state != TCP_ESTABLISHED {
                    continue;
                }
                // One that is new to us may have come before the last edit.
                let is_new = !self.seen.contains_key(&socket.cookie);
                let at_least = if is_new { before.max(grace) } else { grace };
                let (first, left) = know(socket.cookie, at_least.max(served.unwrap_or_default()));
                let age = (now - first).max(quiet).max(kept_alive(&socket, keepalive));
                let from = socket.destination.0.to_canonical();
                connections.push((from, age.saturating_sub(left - grace)));
                if served.is_some() && age > left {
                    found.push((from, port));
                }
            }
        }
        self.seen = seen;
        self.listed = Some(Listed {
            sshd: sshd.clone(),
            at: now,
            connections,
        });
        Ok(found)
    }

    /// The sockets of a port that listen or are connected, and for how long nothing has passed.
    fn sockets(&mut self, port: u16) -> Result<Vec<(Answer, Duration)>, Error> {
        let failed = |cause| Error::Services {
            protocol: "tcp",
            port,
            cause,
        };
        let mut sockets = Vec::new();
        for (family, any) in [
            (AF_INET, IpAddr::from([0; 4])),
            (AF_INET6, IpAddr::from([0; 16])),
        ] {
            let mut id = SocketId::any(any);
            id.source.1 = port;
            let question = Question {
                family,
                protocol: IPPROTO_TCP,
                with_info: true,
                states: 1 << TCP_LISTEN | 1 << TCP_ESTABLISHED,
                socket: id,
            };
            let answered = self.kernel.ask(question, NLM_F_DUMP, |answer| {
                if sockets.len() < MAX_CONNECTIONS {
                    let socket = Answer::read(answer);
                    sockets.extend(socket.map(|(socket, rest)| (socket, quiet(rest))));
                }
            });
            match answered.map_err(failed)? {
                Answered::Whole | Answered::Interrupted => {}
                Answered::Refused(errno) => {
                    return Err(failed(NetlinkError::Refused(errno.into())));
                }
            }
        }
        Ok(sockets)
    }
}

impl Listed {
    /// Whether nobody can be logged in by a connection now but who has a session too: who was there is too young still, or has
    /// one, and so is whoever came since. To list connections anew takes the kernel a walk through a table that is made for as
    /// many as the memory could hold.
    fn tells_all(&self, sshd: &Sshd, sessions: &BTreeMap<IpAddr, LoginBy>, now: Instant) -> bool {
        let since = now - self.at;
        let is_young = |age: Duration| {
            let age = age.saturating_add(since);
            sshd.grace.is_none_or(|grace| age <= grace)
        };
        let mut connections = self.connections.iter();
        self.sshd == *sshd
            && is_young(Duration::ZERO)
            && connections.all(|(from, age)| is_young(*age) || sessions.contains_key(from))
    }
}

/// What [`Sessions`] reads: to be looked at anew when that changes. A connection to sshd that is first seen after an edit may have
/// come before it, with more time to log in.
#[must_use]
pub fn sources() -> Sources {
    files().sources()
}

fn files() -> LoginFiles {
    LoginFiles::new(Path::new(DIR), Path::new(SSHD_CONFIG))
}

/// [`Sessions::look`], for whoever does not know of sessions.
pub fn finder() -> impl FnMut(bool) -> Result<Option<Vec<Login>>, String> {
    let mut sessions = Sessions::new();
    move |anew| {
        let looked = sessions.look(anew).map_err(|error| error.to_string())?;
        Ok(looked.map(<[Login]>::to_vec))
    }
}

impl Default for Sessions {
    fn default() -> Self {
        Self::new()
    }
}

/// For how long no data has passed at least, by an answer's attributes.
fn quiet(attributes: &[u8]) -> Duration {
    // include/uapi/linux/tcp.h, struct tcp_info: tcpi_last_data_sent and tcpi_last_data_recv, both counted from the connection's
    // beginning where there was no data yet (net/ipv4/tcp_minisocks.c, tcp_create_openreq_child).
    const LAST_SENT: usize = 44;
    const LAST_RECEIVED: usize = 52;
    let info = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == INET_DIAG_INFO);
    let last = |at: usize| {
        let info = info.as_ref()?.value();
        Some(u32::from_ne_bytes(*info.get(at..)?.first_chunk()?))
    };
    let longest = last(LAST_SENT).max(last(LAST_RECEIVED));
    Duration::from_millis(longest.unwrap_or_default().into())
}

/// How old a connection is at least, by its keepalive timer, which sshd has every connection run: it is wound up to `whole` when
/// the connection begins, and again when it has run down, but not before (net/ipv4/tcp_timer.c, tcp_keepalive_timer).
fn kept_alive(socket: &Answer, whole: Duration) -> Duration {
    match socket.timer {
        (TIMER_KEEPALIVE, left) => whole.saturating_sub(Duration::from_millis(left.into())),
        _ => Duration::ZERO,
    }
}

/// To how much keepalive timers are wound up here, unless a program says otherwise.
fn keepalive_time() -> Duration {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    // Zero makes every connection a young one.
    socket
        .and_then(|socket| socket.tcp_keepalive_time())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

    use super::super::tests::{in_a_network, wait};
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Listens as soon as it can be: a child that another test starts may hold an earlier listener until its exec.
    fn listen_anew(at: &str) -> TcpListener {
        let mut listener = None;
        wait("the port is free", || {
            listener = TcpListener::bind(at).ok();
            listener.is_some()
        });
        listener.unwrap()
    }

    /// Ends connections, whoever else holds their sockets for a moment yet.
    fn end<const N: usize>(connections: [(TcpStream, (TcpStream, SocketAddr)); N]) {
        for (here, (there, _)) in connections {
            here.shutdown(Shutdown::Both).unwrap();
            there.shutdown(Shutdown::Both).unwrap();
        }
    }

    #[test]
    fn it_is_looked_anew_until_that_takes_too_much_of_our_time() {
        in_a_network(|| {
            let mut sessions = Sessions::new();
            for _ in 0..3 {
                assert!(sessions.look(false).unwrap().is_some());
            }
            sessions.paid_until = Some(Instant::now() + 100 * CREDIT);
            assert_eq!(sessions.look(false).unwrap(), None);
            assert!(sessions.look(true).unwrap().is_some());
        });
    }

    #[test]
    fn a_connection_to_sshd_is_a_login_when_it_is_older_than_the_time_to_log_in() {
        in_a_network(|| {
            let mut sessions = Sessions::new();
            let sshd = |grace| Sshd {
                ports: [22, 2222].into(),
                grace,
            };
            let short = sshd(Some(Duration::from_millis(300)));
            let mut look = |sshd: &Sshd| sessions.connections(sshd, Instant::now()).unwrap();
            let listener = TcpListener::bind("[::]:2222").unwrap();
            let other = TcpListener::bind("127.0.0.1:23").unwrap();
            let _here = TcpStream::connect("127.0.0.1:2222").unwrap();
            let _there = TcpStream::connect("127.0.0.1:23").unwrap();
            let _taken = (listener.accept().unwrap(), other.accept().unwrap());
            assert_eq!(look(&short), [], "it has just come");
            let old = [(at("127.0.0.1"), 2222)];
            wait("it is old enough", || look(&short) == old);
            drop(listener);
            wait("nobody serves it", || look(&short).is_empty());
        });
    }

    #[test]
    fn a_shorter_time_to_log_in_is_heeded_when_sshd_has_begun_anew() {
        in_a_network(|| {
            let sshd = |grace| Sshd {
                ports: [22].into(),
                grace,
            };
            let now = Instant::now();
            let minutes = |count: u64| Duration::from_secs(60 * count);
            for before in [Some(minutes(10)), None] {
                let (before, after) = (sshd(before), sshd(Some(minutes(1))));
                let mut sessions = Sessions::new();
                let mut look =
                    |sshd: &Sshd, later| sessions.connections(sshd, now + minutes(later)).unwrap();
                let listener = listen_anew("127.0.0.1:22");
                assert_eq!(look(&before, 0), []);
                let early = TcpStream::connect("127.0.0.1:22").unwrap();
                let early = (early, listener.accept().unwrap());
                // Edited, and sshd does not know.
                assert_eq!(look(&after, 1), []);
                let late = TcpStream::connect("127.0.0.1:22").unwrap();
                let late = (late, listener.accept().unwrap());
                assert_eq!(look(&after, 2), []);
                assert_eq!(look(&after, 9), [], "sshd goes by what it has read");
                // Restarted: it is bound anew, and whoever was there is left as long as before.
                drop(listener);
                let listener = listen_anew("127.0.0.1:22");
                assert_eq!(look(&after, 10), []);
                let new = TcpStream::connect("127.0.0.1:22").unwrap();
                let new = (new, listener.accept().unwrap());
                end([early, late]);
                assert_eq!(look(&after, 10), []);
                assert_eq!(look(&after, 12), [(at("127.0.0.1"), 22)]);
                end([new]);
                drop(listener);
            }
        });
    }

    #[test]
    fn connections_are_listed_anew_as_soon_as_somebody_may_have_logged_in() {
        in_a_network(|| {
            let minute = Duration::from_secs(60);
            let sshd = Sshd {
                ports: [22].into(),
                grace: Some(minute),
            };
            let session = LoginBy::Session {
                id: "3".to_owned(),
                user: "root".to_owned(),
            };
            let session = BTreeMap::from([(at("127.0.0.1"), session)]);
            let mut sessions = Sessions::new();
            let mut list = |sshd: &Sshd, now| {
                sessions.connections(sshd, now).unwrap();
                sessions.listed.take().unwrap()
            };
            let now = Instant::now();
            let listed = list(&sshd, now);
            let late = now + minute + Duration::from_millis(1);
            assert!(listed.tells_all(&sshd, &BTreeMap::new(), now + minute));
            assert!(!listed.tells_all(&sshd, &session, late));

            let listener = TcpListener::bind("127.0.0.1:22").unwrap();
            let _here = TcpStream::connect("127.0.0.1:22").unwrap();
            let _taken = listener.accept().unwrap();
            // Seen first half a minute ago, and again now: also while its listener is away.
            drop(listener);
            let first = list(&sshd, now);
            assert_eq!(first.connections.len(), 1);
            let listed = list(&sshd, now + minute / 2);
            assert_eq!(listed.connections[0].0, at("127.0.0.1"));
            for (later, without, with) in [(29, true, true), (31, false, true), (61, false, false)]
            {
                let later = now + minute / 2 + Duration::from_secs(later);
                assert_eq!(listed.tells_all(&sshd, &BTreeMap::new(), later), without);
                assert_eq!(listed.tells_all(&sshd, &session, later), with);
            }
            let other = Sshd {
                ports: [2222].into(),
                ..sshd
            };
            assert!(!listed.tells_all(&other, &session, now + minute / 2));
        });
    }

    #[test]
    fn the_kernel_tells_how_old_a_connection_is_at_least() {
        in_a_network(|| {
            let mut sessions = Sessions::new();
            let listener = TcpListener::bind("127.0.0.1:22").unwrap();
            let _here = TcpStream::connect("127.0.0.1:22").unwrap();
            let (taken, _) = listener.accept().unwrap();
            socket2::SockRef::from(&taken).set_keepalive(true).unwrap();
            let whole = keepalive_time();
            assert_eq!(whole, Duration::from_secs(7200));
            let began = Instant::now();
            wait("it grows older", || {
                let sockets = sessions.sockets(22).unwrap();
                let (socket, quiet) = sockets
                    .iter()
                    .find(|(socket, _)| socket.state == TCP_ESTABLISHED)
                    .unwrap();
                let age = kept_alive(socket, whole);
                // The kernel's ticks are 10 ms at the most.
                let limit = began.elapsed() + Duration::from_millis(20);
                assert!(age <= limit, "{age:?} {limit:?}");
                assert!(*quiet < Duration::from_secs(60), "{quiet:?}");
                age > Duration::from_millis(200) && *quiet > Duration::from_millis(200)
            });
        });
    }
}
