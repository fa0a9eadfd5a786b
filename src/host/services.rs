//! [`Services`]: does anybody on this host use a port? Asked of the kernel's socket tables, never by binding.
//!
//! Sockets alone: ports that are answered without one (DNAT, published container ports) are [`Flows`](super::Flows)' to know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{NLM_F_DUMP, NlasIterator};
use nix::errno::Errno;

use super::inet_diag::{
    AF_INET, AF_INET6, Answer, INET_DIAG_SKV6ONLY, IPPROTO_TCP, IPPROTO_UDP, Question, SocketId,
    TCP_LISTEN,
};
use super::netlink::{Answered, Conversation};
use super::{Error, Link, NETLINK_SOCK_DIAG, NetlinkError};
use crate::probe::Protocol;

/// Looks up who uses a port. Sees the network namespace of the thread that opened it.
///
/// A single look-up by address and port finds most services. It passes over those that are bound to an interface
/// (`SO_BINDTODEVICE`, or a link-local address), and for UDP those that are connected to somebody. On a host with few links
/// TCP is looked up on each of them; otherwise, when nothing was found, the sockets of that port are listed.
pub struct Services {
    kernel: Conversation,
}

/// A socket as the kernel describes it.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    state: u8,
    local: IpAddr,
    port: u16,
    v6_only: bool,
}

/// Links that are looked up one by one: a list takes as long as some five look-ups, since it walks a table that is made for
/// as many listeners as the memory could hold.
const FEW_LINKS: usize = 4;

/// Any interface.
const ANY: u32 = 0;

/// No address of anybody's.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Services {
    /// Opens the socket, and sees that the kernel can answer for both protocols.
    ///
    /// # Errors
    /// When it cannot: [`Error::NoDiag`] names the module that is missing.
    pub fn open() -> Result<Self, Error> {
        let mut services = Self {
            kernel: Conversation::new(NETLINK_SOCK_DIAG),
        };
        // Only a list tells a missing module from a missing socket; that of this port is sure to be short.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            services.listed(protocol, nobody)?;
        }
        Ok(services)
    }

    /// Whether something is bound to the address and port of `at`, or to the port on all addresses. For TCP it has to
    /// listen: connections and their remains are not services. A socket bound to one interface counts for all. `links` are
    /// all that this host has; none: that is not known.
    ///
    /// # Errors
    /// When the kernel refuses to tell, or takes longer than a second. The next call starts afresh.
    pub fn bound(
        &mut self,
        protocol: Protocol,
        at: SocketAddr,
        links: &[Link],
    ) -> Result<bool, Error> {
        // In the kernel's questions port 0 means any port.
        if at.port() == 0 {
            return Ok(false);
        }
        if protocol == Protocol::Udp || links.is_empty() || links.len() > FEW_LINKS {
            return Ok(self.found(protocol, at, [ANY])? || self.listed(protocol, at)?);
        }
        self.found(protocol, at, links.iter().map(|link| link.index))
    }

    /// The ports that something is bound to, on whatever address. For TCP it has to listen.
    ///
    /// # Errors
    /// As [`bound`](Self::bound).
    pub fn ports(&mut self, protocol: Protocol) -> Result<BTreeSet<u16>, Error> {
        let mut ports = BTreeSet::new();
        for any in [
            IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Ipv6Addr::UNSPECIFIED.into(),
        ] {
            let question = request(protocol, family(any), SocketId::any(any));
            let at = SocketAddr::new(any, 0);
            let answered = self.kernel.ask(question, NLM_F_DUMP, |answer| {
                let bound = Bound::read(answer)
                    .filter(|bound| protocol == Protocol::Udp || bound.state == TCP_LISTEN);
                ports.extend(bound.map(|bound| bound.port));
            });
            match answered.map_err(|cause| failed(protocol, at, cause))? {
                Answered::Whole | Answered::Interrupted => {}
                Answered::Refused(errno) => return Err(refused(protocol, at, errno)),
            }
        }
        Ok(ports)
    }

    /// Which of these packets of TCP, each from somebody to an address of ours, were answered by somebody, who may have closed the
    /// port since: then there is a connection of these two, or what remains of one.
    ///
    /// # Errors
    /// As [`bound`](Self::bound).
    pub fn connected(&mut self, packets: &[(SocketAddr, SocketAddr)]) -> Result<Vec<bool>, Error> {
        let mut connected = vec![false; packets.len()];
        // In the kernel's questions port 0 means any port.
        let asked: Vec<(usize, SocketAddr, SocketAddr)> = packets
            .iter()
            .enumerate()
            .filter(|(_, (from, to))| from.port() != 0 && to.port() != 0)
            .map(|(number, (from, to))| (number, *from, *to))
            .collect();
        let questions = asked.iter();
        let questions = questions.map(|(_, from, to)| single(Protocol::Tcp, *to, Some(*from), ANY));
        let answered = self.kernel.ask_many(questions, 0, |number, answer| {
            let (packet, _, to) = asked[number];
            connected[packet] |= Bound::read(answer)
                .is_some_and(|bound| bound.state != TCP_LISTEN && bound.port == to.port());
        });
        let at = |number: usize| asked.get(number).map_or(NOWHERE, |(_, _, to)| *to);
        let answered = answered.map_err(|cause| failed(Protocol::Tcp, at(0), cause))?;
        for (number, answered) in answered.into_iter().enumerate() {
            nobody_or(answered).map_err(|errno| refused(Protocol::Tcp, at(number), errno))?;
        }
        Ok(connected)
    }

    /// Looks for the socket that would get a packet to `at` from nowhere in particular, arriving by one of these interfaces.
    fn found(
        &mut self,
        protocol: Protocol,
        at: SocketAddr,
        interfaces: impl IntoIterator<Item = u32>,
    ) -> Result<bool, Error> {
        let questions = interfaces.into_iter();
        let questions = questions.map(|interface| single(protocol, at, None, interface));
        let mut found = false;
        let answered = self.kernel.ask_many(questions, 0, |_, answer| {
            found |= Bound::read(answer).is_some_and(|bound| bound.serves(protocol, at));
        });
        for answered in answered.map_err(|cause| failed(protocol, at, cause))? {
            nobody_or(answered).map_err(|errno| refused(protocol, at, errno))?;
        }
        Ok(found)
    }

    /// Looks through all sockets of the port.
    fn listed(&mut self, protocol: Protocol, at: SocketAddr) -> Result<bool, Error> {
        // A socket for IPv6 may also serve IPv4; the other way round never.
        let families: &[u8] = match at.ip().to_canonical() {
            IpAddr::V4(_) => &[AF_INET, AF_INET6],
            IpAddr::V6(_) => &[AF_INET6],
        };
        let mut found = false;
        for family in families {
            // The kernel leaves out other ports itself (net/ipv4/inet_diag.c, inet_diag_dump_icsk; udp_diag.c,
            // udp_dump): no filter program is needed.
            let mut id = SocketId::any(at.ip());
            id.source.1 = at.port();
            let question = request(protocol, *family, id);
            let answered = self.kernel.ask(question, NLM_F_DUMP, |answer| {
                found |= Bound::read(answer).is_some_and(|bound| bound.serves(protocol, at));
            });
            match answered.map_err(|cause| failed(protocol, at, cause))? {
                Answered::Whole | Answered::Interrupted if found => return Ok(true),
                Answered::Whole | Answered::Interrupted => {}
                // An empty list is no error: this one is for the want of a module, after the kernel tried to load it
                // (net/ipv4/inet_diag.c, inet_diag_lock_handler; net/core/sock_diag.c, __sock_diag_cmd).
                Answered::Refused(Errno::ENOENT) => {
                    let protocol = protocol.name();
                    return Err(Error::NoDiag { protocol });
                }
                Answered::Refused(errno) => return Err(refused(protocol, at, errno)),
            }
        }
        Ok(false)
    }
}

impl Bound {
    /// Reads an answer; `None` if it cannot be read.
    fn read(answer: &[u8]) -> Option<Self> {
        let (answer, attributes) = Answer::read(answer)?;
        Some(Self {
            state: answer.state,
            local: answer.source.0,
            port: answer.source.1,
            // Sent for listening and unconnected sockets of IPv6, asked for or not (inet_diag_msg_attrs_fill).
            v6_only: NlasIterator::new(attributes)
                .map_while(Result::ok)
                .any(|attribute| {
                    attribute.kind() == INET_DIAG_SKV6ONLY
                        && attribute.value().first().is_some_and(|value| *value != 0)
                }),
        })
    }

    /// Whether packets to `at` may be for this socket.
    fn serves(&self, protocol: Protocol, at: SocketAddr) -> bool {
        let dest = at.ip().to_canonical();
        self.port == at.port()
            && (protocol == Protocol::Udp || self.state == TCP_LISTEN)
            && match (self.local.to_canonical(), dest) {
                (IpAddr::V6(local), IpAddr::V4(_)) if local.is_unspecified() => !self.v6_only,
                (local, dest) if local.is_ipv4() == dest.is_ipv4() => {
                    local.is_unspecified() || local == dest
                }
                _ => false,
            }
    }
}

/// The answer to a question for a single socket.
fn nobody_or(answered: Answered) -> Result<(), Errno> {
    match answered {
        // Nobody, or no module: the list will tell.
        Answered::Refused(Errno::ENOENT) => Ok(()),
        answered => answered.into_result(),
    }
}

/// Asks for the one socket that would get a packet to `at`, from `from` or from nowhere in particular, arriving by this interface.
fn single(
    protocol: Protocol,
    at: SocketAddr,
    from: Option<SocketAddr>,
    interface: u32,
) -> Question {
    let ip = at.ip().to_canonical();
    // TCP has local and remote where their names say. UDP has them swapped, "for historical reasons"
    // (net/ipv4/udp_diag.c, udp_dump_one; when listing, they are in their places).
    let mut id = SocketId::any(ip);
    match protocol {
        Protocol::Tcp => id.source = (ip, at.port()),
        Protocol::Udp => id.destination = (ip, at.port()),
    }
    if let Some(from) = from {
        id.destination = (from.ip().to_canonical(), from.port());
    }
    if let (SocketAddr::V6(v6), IpAddr::V6(_)) = (at, ip) {
        id.interface = v6.scope_id();
    }
    if interface != ANY {
        id.interface = interface;
    }
    request(protocol, family(ip), id)
}

fn request(protocol: Protocol, family: u8, socket: SocketId) -> Question {
    let (protocol, states) = match protocol {
        Protocol::Tcp => (IPPROTO_TCP, 1 << TCP_LISTEN),
        Protocol::Udp => (IPPROTO_UDP, u32::MAX),
    };
    Question {
        family,
        protocol,
        with_info: false,
        states,
        socket,
    }
}

fn family(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn failed(protocol: Protocol, at: SocketAddr, cause: NetlinkError) -> Error {
    Error::Services {
        protocol: protocol.name(),
        port: at.port(),
        cause,
    }
}

fn refused(protocol: Protocol, at: SocketAddr, errno: Errno) -> Error {
    failed(protocol, at, NetlinkError::Refused(errno.into()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{SocketAddrV6, TcpListener, TcpStream, UdpSocket};

    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};

    use super::super::tests::{in_a_network, ip, wait};
    use super::*;
    use crate::probe::Protocol::{Tcp, Udp};

    /// A network with lo, and a link `v0` that has 10.9.0.1, 10.9.0.2 and 2001:db8::1.
    fn in_a_lab(test: impl FnOnce(&mut Services) + Send + 'static) {
        in_a_network(|| {
            ip("link add v0 type veth peer name v1");
            ip("link set v1 up");
            ip("link set v0 up");
            ip("addr add 10.9.0.1/24 dev v0");
            ip("addr add 10.9.0.2/24 dev v0");
            ip("addr add 2001:db8::1/64 dev v0 nodad");
            test(&mut Services::open().unwrap());
        });
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[track_caller]
    fn expect(services: &mut Services, protocol: Protocol, expected: &[(&str, bool)]) {
        let links = links();
        for (text, bound) in expected {
            // By a list, and by a look-up on each link.
            for links in [&[], links.as_slice()] {
                assert_eq!(
                    services.bound(protocol, at(text), links).unwrap(),
                    *bound,
                    "{protocol} {text}, {} links",
                    links.len()
                );
            }
        }
    }

    /// Those of the lab: lo, v0 and v1.
    fn links() -> Vec<Link> {
        let named = |name: &str| Link {
            index: nix::net::if_::if_nametoindex(name).unwrap(),
            name: name.to_owned(),
            loopback: name == "lo",
        };
        ["lo", "v0", "v1"].map(named).to_vec()
    }

    /// Waits for a socket that was closed to be gone: another test's child process may hold it open until it executes.
    #[track_caller]
    fn expect_gone(services: &mut Services, protocol: Protocol, text: &str) {
        wait(text, || !services.bound(protocol, at(text), &[]).unwrap());
    }

    fn v6(kind: Type, text: &str, only: bool) -> Socket {
        let socket = Socket::new(Domain::IPV6, kind, None).unwrap();
        socket.set_only_v6(only).unwrap();
        socket.bind(&at(text).into()).unwrap();
        socket
    }

    #[test]
    fn a_tcp_listener_on_all_addresses_serves_them_all() {
        in_a_lab(|services| {
            let listener = TcpListener::bind("0.0.0.0:80").unwrap();
            expect(
                services,
                Tcp,
                &[
                    ("127.0.0.1:80", true),
                    ("10.9.0.1:80", true),
                    ("[::ffff:10.9.0.1]:80", true),
                    ("203.0.113.1:80", true),
                    ("10.9.0.1:81", false),
                    ("10.9.0.1:0", false),
                    ("[2001:db8::1]:80", false),
                    ("[::1]:80", false),
                ],
            );
            expect(services, Udp, &[("10.9.0.1:80", false)]);
            drop(listener);
            expect_gone(services, Tcp, "10.9.0.1:80");
        });
    }

    #[test]
    fn all_ports_in_use_are_listed() {
        in_a_lab(|services| {
            let listeners = ["0.0.0.0:80", "127.0.0.1:25", "[::]:443"].map(TcpListener::bind);
            let sockets = ["10.9.0.1:53", "[2001:db8::1]:546"].map(UdpSocket::bind);
            assert!(listeners.iter().all(Result::is_ok) && sockets.iter().all(Result::is_ok));
            assert_eq!(services.ports(Tcp).unwrap(), [25, 80, 443].into());
            assert_eq!(services.ports(Udp).unwrap(), [53, 546].into());
        });
    }

    #[test]
    fn a_tcp_listener_on_one_address_serves_no_other() {
        in_a_lab(|services| {
            let _outside = TcpListener::bind("10.9.0.1:80").unwrap();
            let _loopback = TcpListener::bind("127.0.0.1:25").unwrap();
            let _v6 = TcpListener::bind("[2001:db8::1]:22").unwrap();
            expect(
                services,
                Tcp,
                &[
                    ("10.9.0.1:80", true),
                    ("10.9.0.2:80", false),
                    ("127.0.0.1:80", false),
                    ("127.0.0.1:25", true),
                    ("10.9.0.1:25", false),
                    ("[2001:db8::1]:22", true),
                    ("[::1]:22", false),
                    ("10.9.0.1:22", false),
                ],
            );
        });
    }

    #[test]
    fn a_v6_listener_serves_v4_only_when_it_may() {
        in_a_lab(|services| {
            let _dual = TcpListener::bind("[::]:80").unwrap();
            let only = v6(Type::STREAM, "[::]:81", true);
            only.listen(1).unwrap();
            let mapped = v6(Type::STREAM, "[::ffff:10.9.0.1]:82", false);
            mapped.listen(1).unwrap();
            let mapped_all = v6(Type::STREAM, "[::ffff:0.0.0.0]:83", false);
            mapped_all.listen(1).unwrap();
            expect(
                services,
                Tcp,
                &[
                    ("10.9.0.1:80", true),
                    ("[2001:db8::1]:80", true),
                    ("10.9.0.1:81", false),
                    ("[2001:db8::1]:81", true),
                    ("10.9.0.1:82", true),
                    ("10.9.0.2:82", false),
                    ("[2001:db8::1]:82", false),
                    ("10.9.0.2:83", true),
                    ("[2001:db8::1]:83", false),
                ],
            );
        });
    }

    #[test]
    fn a_connection_is_known_by_both_its_ends_also_when_its_listener_is_gone() {
        in_a_lab(|services| {
            let listener = TcpListener::bind("10.9.0.1:80").unwrap();
            let client = TcpStream::connect("10.9.0.1:80").unwrap();
            let from = client.local_addr().unwrap();
            let (server, _) = listener.accept().unwrap();
            let mut ask = |from, to| services.connected(&[(from, at(to))]).unwrap() == [true];
            let stranger = at("10.9.0.2:40000");
            assert!(ask(from, "10.9.0.1:80"));
            assert!(
                !ask(stranger, "10.9.0.1:80"),
                "the listener is no connection"
            );
            drop(listener);
            assert!(ask(from, "10.9.0.1:80"));
            drop(server);
            drop(client);
            wait("the connection waits for its end", || {
                ask(from, "10.9.0.1:80")
            });
            assert!(!ask(stranger, "10.9.0.1:80"));
            assert!(!ask(from, "10.9.0.1:81"));
            let v6 = TcpListener::bind("[::]:81").unwrap();
            let client = TcpStream::connect("10.9.0.1:81").unwrap();
            let (_server, _) = v6.accept().unwrap();
            assert!(ask(client.local_addr().unwrap(), "10.9.0.1:81"));
        });
    }

    #[test]
    fn tcp_connections_and_their_remains_are_not_services() {
        in_a_lab(|services| {
            let listener = TcpListener::bind("10.9.0.1:80").unwrap();
            let client = TcpStream::connect("10.9.0.1:80").unwrap();
            let (server, _) = listener.accept().unwrap();
            drop(listener);
            expect_gone(services, Tcp, "10.9.0.1:80");
            let own = client.local_addr().unwrap();
            assert!(
                !services.bound(Tcp, own, &[]).unwrap(),
                "a client's own port"
            );

            drop(server);
            drop(client);
            // 10.9.0.1:80 in state 6, TIME_WAIT.
            let remains = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.get(1) == Some(&"0100090A:0050") && words.get(3) == Some(&"06")
            };
            wait("TIME_WAIT", || {
                let table = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
                table.lines().any(remains)
            });
            expect(services, Tcp, &[("10.9.0.1:80", false)]);
        });
    }

    #[test]
    fn an_answer_about_a_connection_is_not_taken_for_a_service() {
        let mut bound = Bound {
            state: 1, // TCP_ESTABLISHED
            local: "10.9.0.1".parse().unwrap(),
            port: 80,
            v6_only: false,
        };
        assert!(!bound.serves(Tcp, at("10.9.0.1:80")));
        assert!(bound.serves(Udp, at("10.9.0.1:80")));
        bound.state = TCP_LISTEN;
        assert!(bound.serves(Tcp, at("10.9.0.1:80")));
        assert!(!bound.serves(Tcp, at("10.9.0.1:81")));
    }

    #[test]
    fn a_tcp_socket_that_does_not_listen_is_no_service() {
        in_a_lab(|services| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&at("10.9.0.1:80").into()).unwrap();
            expect(services, Tcp, &[("10.9.0.1:80", false)]);
            socket.listen(1).unwrap();
            expect(services, Tcp, &[("10.9.0.1:80", true)]);
        });
    }

    #[test]
    fn a_socket_bound_to_an_interface_counts_for_all() {
        in_a_lab(|services| {
            for (protocol, kind) in [(Tcp, Type::STREAM), (Udp, Type::DGRAM)] {
                let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
                socket.bind_device(Some(b"v0")).unwrap();
                socket.bind(&at("0.0.0.0:80").into()).unwrap();
                if protocol == Tcp {
                    socket.listen(1).unwrap();
                }
                assert!(!services.found(protocol, at("10.9.0.1:80"), [ANY]).unwrap());
                expect(services, protocol, &[("10.9.0.1:80", true)]);
                drop(socket);
                expect_gone(services, protocol, "10.9.0.1:80");
            }
        });
    }

    #[test]
    fn a_listener_on_a_link_local_address_is_found_with_and_without_the_link() {
        in_a_lab(|services| {
            ip("addr add fe80::7/64 dev v0 nodad");
            let index = nix::net::if_::if_nametoindex("v0").unwrap();
            let address: Ipv6Addr = "fe80::7".parse().unwrap();
            let on_link = SocketAddr::from(SocketAddrV6::new(address, 80, 0, index));
            let _listener = TcpListener::bind(on_link).unwrap();
            assert!(services.found(Tcp, on_link, [ANY]).unwrap());
            expect(
                services,
                Tcp,
                &[("[fe80::7]:80", true), ("[fe80::8]:80", false)],
            );
        });
    }

    #[test]
    fn a_udp_socket_serves_the_addresses_it_is_bound_to() {
        in_a_lab(|services| {
            let all = UdpSocket::bind("0.0.0.0:53").unwrap();
            let _one = UdpSocket::bind("10.9.0.1:54").unwrap();
            let _dual = UdpSocket::bind("[::]:55").unwrap();
            let _only = v6(Type::DGRAM, "[::]:56", true);
            let _v6 = UdpSocket::bind("[2001:db8::1]:57").unwrap();
            expect(
                services,
                Udp,
                &[
                    ("127.0.0.1:53", true),
                    ("10.9.0.1:53", true),
                    ("[2001:db8::1]:53", false),
                    ("10.9.0.1:54", true),
                    ("10.9.0.2:54", false),
                    ("10.9.0.1:55", true),
                    ("[::ffff:10.9.0.1]:55", true),
                    ("[2001:db8::1]:55", true),
                    ("10.9.0.1:56", false),
                    ("[2001:db8::1]:56", true),
                    ("[2001:db8::1]:57", true),
                    ("[::1]:57", false),
                    ("10.9.0.1:58", false),
                    ("10.9.0.1:0", false),
                ],
            );
            expect(services, Tcp, &[("10.9.0.1:53", false)]);
            drop(all);
            expect_gone(services, Udp, "10.9.0.1:53");
        });
    }

    #[test]
    fn the_single_look_up_of_udp_takes_local_and_remote_swapped() {
        in_a_lab(|services| {
            let _one = UdpSocket::bind("10.9.0.1:54").unwrap();
            let _dual = UdpSocket::bind("[::]:55").unwrap();
            for (text, found) in [
                ("10.9.0.1:54", true),
                ("10.9.0.2:54", false),
                ("10.9.0.1:55", true),
                ("[2001:db8::1]:55", true),
            ] {
                assert_eq!(
                    services.found(Udp, at(text), [ANY]).unwrap(),
                    found,
                    "{text}"
                );
            }
        });
    }

    #[test]
    fn a_connected_udp_socket_counts_on_its_own_address() {
        in_a_lab(|services| {
            let v4 = UdpSocket::bind("0.0.0.0:4000").unwrap();
            v4.connect("10.9.0.77:53").unwrap();
            let v6 = UdpSocket::bind("[::]:4001").unwrap();
            v6.connect("[2001:db8::77]:53").unwrap();
            let mapped = UdpSocket::bind("[::]:4002").unwrap();
            mapped.connect("[::ffff:10.9.0.77]:53").unwrap();
            let local = v4.local_addr().unwrap();
            assert!(
                !services.found(Udp, local, [ANY]).unwrap(),
                "listing is needed"
            );
            assert!(services.bound(Udp, local, &[]).unwrap(), "{local}");
            expect(
                services,
                Udp,
                &[
                    ("127.0.0.1:4000", false),
                    ("[2001:db8::1]:4001", true),
                    ("10.9.0.1:4001", false),
                    ("127.0.0.1:4002", false),
                ],
            );
            let local = mapped.local_addr().unwrap();
            assert!(services.bound(Udp, local, &[]).unwrap(), "{local}");
        });
    }

    #[test]
    fn many_sockets_hide_none_and_lend_none_to_others() {
        in_a_lab(|services| {
            // Some 40 KiB of answers: several datagrams.
            let crowd: Vec<UdpSocket> = (0..500_u16)
                .map(|n| {
                    let [high, low] = n.to_be_bytes();
                    UdpSocket::bind(SocketAddr::from(([127, 0, high, low], 4000))).unwrap()
                })
                .collect();
            let _others: Vec<TcpListener> = (5000..5300_u16)
                .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
                .collect();
            for _ in 0..3 {
                expect(
                    services,
                    Udp,
                    &[("10.9.0.1:4000", false), ("127.0.1.243:4000", true)],
                );
                expect(
                    services,
                    Tcp,
                    &[("127.0.0.1:5299", true), ("127.0.0.1:5300", false)],
                );
            }
            drop(crowd);
            expect_gone(services, Udp, "127.0.1.243:4000");
        });
    }

    #[test]
    fn a_protocol_without_a_module_is_refused_when_listed() {
        in_a_lab(|services| {
            let question = || {
                let any = SocketId::any("10.9.0.1".parse().unwrap());
                // 254 is for experiments: nobody has a module for it.
                Question {
                    protocol: 254,
                    ..request(Udp, AF_INET, any)
                }
            };
            for flags in [0, NLM_F_DUMP] {
                let answered = services.kernel.ask(question(), flags, |_| {}).unwrap();
                assert_eq!(answered, Answered::Refused(Errno::ENOENT));
            }
            expect(services, Udp, &[("10.9.0.1:53", false)]);
        });
    }

    #[test]
    fn a_missing_module_is_named_with_the_remedy() {
        let error = Error::NoDiag { protocol: "udp" }.to_string();
        assert!(error.contains("module udp_diag is missing"), "{error}");
        assert!(error.contains("modprobe inet_diag tcp_diag udp_diag"));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
            family in prop::sample::select(vec![AF_INET, AF_INET6, 0]),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = family;
            }
            let _ = Bound::read(&bytes).map(|bound| bound.serves(Tcp, at("10.9.0.1:80")));
        }
    }
}
