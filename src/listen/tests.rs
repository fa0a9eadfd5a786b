//! Real visitors, each test in a network of its own.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{
    IpAddr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Type};

use super::missing::PATIENCE;
use super::*;
use crate::probe::ScanType;

const T0: Mono = Mono(1_000_000);
const WORDS: &str = "** UNAUTHORIZED ACCESS PROHIBITED **";
const IN_USE: Errno = Errno::EADDRINUSE;

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// Leaves out what other tests have open: a table of one's own begins as a copy of theirs, and would keep it open for them.
fn close_what_is_others() {
    let open = fs::read_dir("/proc/thread-self/fd").unwrap();
    let numbers = open.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let numbers: Vec<i32> = numbers.filter(|number| *number > 2).collect();
    for number in numbers {
        // The list itself is closed by now.
        let _ = nix::unistd::close(number);
    }
}

/// Runs a test in a network where lo has addresses of a host, with a table of descriptors that no other test changes.
fn in_a_network(test: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_FILES).expect("this test needs root");
        close_what_is_others();
        // For the visitors too. The limit is the whole process's: what the first test does holds for all.
        descriptors::make_room(2_000).unwrap();
        for words in [
            "link set lo up",
            "addr add 192.0.2.1/24 broadcast 192.0.2.255 dev lo",
            "addr add 192.0.2.2/24 dev lo",
            "addr add 2001:db8::1/64 dev lo nodad",
            "addr add 2001:db8::2/64 dev lo nodad",
        ] {
            let mut ip = Command::new("ip");
            let done = ip.args(words.split(' ')).status();
            assert!(done.expect("this test needs ip").success(), "ip {words}");
        }
        settle(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
        for address in ["[2001:db8::1]:0", "[2001:db8::2]:0"] {
            settle(address.parse().unwrap());
        }
        test();
    })
    .join()
    .unwrap();
}

/// Waits until a new IPv6 address has its route, which the kernel makes a moment later.
#[track_caller]
fn settle(own: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let socket = UdpSocket::bind(own).unwrap();
    let to = socket.local_addr().unwrap();
    while socket.send_to(b"?", to).is_err() || heard_by(&socket).is_none() {
        assert!(Instant::now() < deadline, "{own} cannot be reached");
        thread::sleep(Duration::from_millis(1));
    }
}

fn settings(tcp: &[u16], udp: &[u16]) -> Settings {
    let ranges = |ports: &[u16]| ports.iter().map(|port| *port..=*port).collect();
    Settings {
        tcp: ranges(tcp),
        udp: ranges(udp),
        banner: WORDS.to_owned(),
        traps: false,
    }
}

/// Listens on ports that are all to be had.
#[track_caller]
fn listen(tcp: &[u16], udp: &[u16]) -> Listeners {
    let (listeners, report) = Listeners::open(settings(tcp, udp), T0).unwrap();
    assert_eq!(report.skipped, [], "nobody has these ports");
    assert_eq!(report.listening.len(), tcp.len() + udp.len());
    listeners
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn is_readable(listeners: &Listeners) -> bool {
    let mut ready = [PollFd::new(listeners.fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::ZERO).unwrap() == 1
}

/// Reads until so many probes are there, going by the descriptor alone.
#[track_caller]
fn read(listeners: &mut Listeners, probes: usize, now: Mono) -> Vec<Probe> {
    let mut out = Vec::new();
    while out.len() < probes {
        let mut ready = [PollFd::new(listeners.fd(), PollFlags::POLLIN)];
        let count = poll(&mut ready, PollTimeout::from(5000_u16)).unwrap();
        assert!(
            count > 0,
            "nothing more within 5 s; until then {out:?}, {:?}",
            listeners.counters()
        );
        let report = listeners.read(&mut out, now);
        assert!(report.probes <= BATCH);
    }
    assert_eq!(out.len(), probes);
    out
}

/// All that a peer hears until we close, and how that ended.
fn hear(mut stream: &TcpStream) -> (String, Option<ErrorKind>) {
    let timeout = Some(Duration::from_secs(5));
    stream.set_read_timeout(timeout).unwrap();
    let mut heard = Vec::new();
    let end = stream.read_to_end(&mut heard).err();
    (
        String::from_utf8(heard).unwrap(),
        end.map(|error| error.kind()),
    )
}

fn heard_by(socket: &UdpSocket) -> Option<(String, SocketAddr)> {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 200];
    let (len, from) = socket.recv_from(&mut bytes).ok()?;
    Some((String::from_utf8(bytes[..len].to_vec()).unwrap(), from))
}

fn probe(protocol: Protocol, from: SocketAddr, to: SocketAddr) -> Probe {
    Probe {
        source: from.ip(),
        dest: to.ip(),
        protocol,
        source_port: from.port(),
        port: to.port(),
        scan_type: ScanType::Connect,
        ip_options: false,
        odd_flags: 0,
    }
}

#[test]
fn who_connects_is_a_probe_and_hears_the_banner() {
    in_a_network(|| {
        let mut listeners = listen(&[23, 40_421], &[]);
        for address in addresses(&["192.0.2.1", "192.0.2.2", "2001:db8::2", "::1"]) {
            for port in [23, 40_421] {
                let to = SocketAddr::new(address, port);
                let visitor = TcpStream::connect(to).unwrap();
                let seen = read(&mut listeners, 1, T0);
                let from = visitor.local_addr().unwrap();
                assert_eq!(seen, [probe(TCP, from, to)]);
                assert_eq!(hear(&visitor), (WORDS.to_owned(), None));
            }
        }
        assert_eq!(listeners.counters().connections, 8);
        assert!(!is_readable(&listeners));
    });
}

#[test]
fn who_sends_a_datagram_is_a_probe_and_hears_the_banner_from_where_he_sent_it() {
    in_a_network(|| {
        let mut listeners = listen(&[], &[69, 31_337]);
        let mut now = T0;
        for (us, them) in [
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.2", "192.0.2.1"),
            ("127.0.0.9", "127.0.0.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8::2", "2001:db8::1"),
        ] {
            for (port, content) in [(69, &b""[..]), (31_337, &[b'?'; 1400])] {
                now = now.later(Duration::from_secs(1));
                let to = SocketAddr::new(us.parse().unwrap(), port);
                let visitor = UdpSocket::bind((them, 0)).unwrap();
                visitor.send_to(content, to).unwrap();
                let seen = read(&mut listeners, 1, now);
                assert_eq!(seen, [probe(UDP, visitor.local_addr().unwrap(), to)]);
                assert_eq!(heard_by(&visitor), Some((WORDS.to_owned(), to)));
            }
        }
        let counters = listeners.counters();
        assert_eq!((counters.datagrams, counters.unanswered), (10, 0));
    });
}

#[test]
fn a_datagram_within_a_link_is_answered_on_that_link() {
    in_a_network(|| {
        let mut ip = Command::new("ip");
        let done = ip
            .args("addr add fe80::1/64 dev lo nodad".split(' '))
            .status();
        assert!(done.unwrap().success());
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        let on_link =
            |port| SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, lo));
        settle(on_link(0));
        let mut listeners = listen(&[23], &[69]);
        let visitor = UdpSocket::bind(on_link(0)).unwrap();
        visitor.send_to(b"?", on_link(69)).unwrap();
        let from = visitor.local_addr().unwrap();
        assert_eq!(read(&mut listeners, 1, T0), [probe(UDP, from, on_link(69))]);
        assert_eq!(heard_by(&visitor), Some((WORDS.to_owned(), on_link(69))));
        let visitor = TcpStream::connect(on_link(23)).unwrap();
        let from = visitor.local_addr().unwrap();
        assert_eq!(read(&mut listeners, 1, T0), [probe(TCP, from, on_link(23))]);
    });
}

#[test]
fn a_reload_does_not_wake_a_port_that_is_closed_and_comes_back_twice() {
    in_a_network(|| {
        let mut listeners = listen(&[23], &[]);
        listeners.rest(Door::Port((TCP, 23)), T0);
        listeners
            .epoll
            .delete(&listeners.listening[&(TCP, 23)])
            .unwrap();
        listeners.set(Settings::default(), T0).unwrap();
        listeners.set(settings(&[23], &[]), T0).unwrap();
        listeners.retry(T0.later(REST));
        assert_eq!(listeners.next_deadline(), None, "it rests no more");
        TcpStream::connect("192.0.2.1:23").unwrap();
        read(&mut listeners, 1, T0);
    });
}

#[test]
fn a_kernel_without_ipv6_gets_sockets_for_ipv4_that_do_the_same() {
    in_a_network(|| {
        let socket = socket::bind(Domain::IPV4, Type::DGRAM, 69, udp::prepare).unwrap();
        let to: SocketAddr = "192.0.2.2:69".parse().unwrap();
        let visitor = UdpSocket::bind("192.0.2.1:0").unwrap();
        visitor.send_to(b"?", to).unwrap();
        let datagram = udp::receive(&socket, 69).unwrap();
        let from = visitor.local_addr().unwrap();
        assert_eq!(datagram.probe, probe(UDP, from, to));
        udp::answer(&socket, &datagram, WORDS.as_bytes()).unwrap();
        assert_eq!(heard_by(&visitor), Some((WORDS.to_owned(), to)));

        visitor.set_broadcast(true).unwrap();
        visitor.send_to(b"?", "192.0.2.255:69").unwrap();
        let datagram = udp::receive(&socket, 69).unwrap();
        let dest: IpAddr = "192.0.2.255".parse().unwrap();
        assert_eq!(datagram.probe.dest, dest);
        udp::answer(&socket, &datagram, WORDS.as_bytes()).unwrap_err();
    });
}

#[test]
fn without_a_banner_nothing_is_said() {
    in_a_network(|| {
        let silent = Settings {
            banner: String::new(),
            ..settings(&[23], &[69])
        };
        let (mut listeners, _) = Listeners::open(silent, T0).unwrap();
        let stream = TcpStream::connect("192.0.2.1:23").unwrap();
        let visitor = UdpSocket::bind("192.0.2.1:0").unwrap();
        visitor.send_to(b"?", "192.0.2.1:69").unwrap();
        read(&mut listeners, 2, T0);
        assert_eq!(hear(&stream), (String::new(), None));
        assert_eq!(heard_by(&visitor), None);
        assert_eq!(listeners.counters().unanswered, 0);
    });
}

#[test]
fn the_banner_reaches_who_talks_first() {
    in_a_network(|| {
        let mut listeners = listen(&[80], &[]);
        let mut visitor = TcpStream::connect("192.0.2.1:80").unwrap();
        visitor.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        read(&mut listeners, 1, T0);
        assert_eq!(hear(&visitor), (WORDS.to_owned(), None));
    });
}

#[test]
fn ten_datagrams_in_a_second_are_answered_and_all_are_probes() {
    in_a_network(|| {
        let mut listeners = listen(&[], &[69, 70]);
        let visitor = UdpSocket::bind("192.0.2.1:0").unwrap();
        let mut burst = |now| {
            for port in [69, 70] {
                for _ in 0..15 {
                    visitor.send_to(b"?", ("192.0.2.1", port)).unwrap();
                }
            }
            read(&mut listeners, 30, now);
            std::iter::from_fn(|| heard_by(&visitor)).count()
        };
        assert_eq!(burst(T0), 10);
        assert_eq!(burst(T0.later(Duration::from_millis(999))), 0);
        assert_eq!(burst(T0.later(Duration::from_secs(1))), 10);
        assert_eq!(listeners.counters().unanswered, 70);
    });
}

#[test]
fn datagrams_from_ports_that_would_answer_and_to_many_are_probes_without_an_answer() {
    in_a_network(|| {
        // 31337 is somebody else's here, as it would be on the host where another portsentry is.
        let other = UdpSocket::bind("192.0.2.2:31337").unwrap();
        let (mut listeners, _) = Listeners::open(settings(&[], &[69, 31_337]), T0).unwrap();
        let echo = UdpSocket::bind("192.0.2.2:7").unwrap();
        let crowd = UdpSocket::bind("192.0.2.2:0").unwrap();
        crowd.set_broadcast(true).unwrap();
        for (visitor, to) in [
            (&other, "192.0.2.1:69"),
            (&echo, "192.0.2.1:69"),
            (&crowd, "192.0.2.255:69"),
        ] {
            visitor.send_to(b"?", to).unwrap();
            let from = visitor.local_addr().unwrap();
            let seen = read(&mut listeners, 1, T0);
            assert_eq!(seen, [probe(UDP, from, to.parse().unwrap())]);
            assert_eq!(heard_by(visitor), None, "{from} to {to}");
        }
    });
}

#[test]
fn a_port_in_use_is_skipped_and_taken_up_when_it_stays_free() {
    in_a_network(|| {
        // What a server library sets, and what it binds to.
        for address in addresses(&["192.0.2.1", "127.0.0.1", "0.0.0.0", "2001:db8::1", "::"]) {
            let service = TcpListener::bind((address, 80)).unwrap();
            let datagrams = UdpSocket::bind((address, 53)).unwrap();
            let (mut listeners, report) =
                Listeners::open(settings(&[23, 80], &[53, 69]), T0).unwrap();
            assert_eq!(report.listening, [(TCP, 23), (UDP, 69)], "{address}");
            let skipped = [((TCP, 80), IN_USE), ((UDP, 53), IN_USE)];
            assert_eq!(report.skipped, skipped, "{address}");
            assert!(listeners.holds(TCP, 23) && !listeners.holds(TCP, 80));
            assert!(listeners.holds(UDP, 69) && !listeners.holds(UDP, 53));
            assert_eq!(listeners.troubles().len(), 2, "one for each protocol");

            let due = T0.later(RETRY);
            assert_eq!(listeners.next_deadline(), Some(due));
            drop(service);
            assert_eq!(listeners.retry(Mono(due.0 - 1)), Report::default());
            let look = |listeners: &mut Listeners| {
                let due = listeners.next_deadline().expect("a port is missing");
                let report = listeners.retry(due);
                assert_eq!(report.skipped, []);
                (due, report.listening)
            };
            // Looks every few seconds until something is taken up; when that was.
            let until_taken = |listeners: &mut Listeners| loop {
                let (due, listening) = look(listeners);
                if !listening.is_empty() {
                    return (due, listening);
                }
            };
            // A service that restarts has its port back.
            assert_eq!(look(&mut listeners), (due, vec![]));
            assert_eq!(look(&mut listeners), (due.later(RETRY), vec![]));
            let service = TcpListener::bind((address, 80)).unwrap();
            let (back, none) = look(&mut listeners);
            assert_eq!(none, []);
            drop(service);
            let (taken, ports) = until_taken(&mut listeners);
            assert_eq!(ports, [(TCP, 80)]);
            assert_eq!(taken, back.later(RETRY).later(PATIENCE));
            drop(datagrams);
            let (due, ports) = until_taken(&mut listeners);
            assert_eq!(ports, [(UDP, 53)]);
            assert_eq!(due, taken.later(RETRY).later(PATIENCE));
            assert_eq!(listeners.next_deadline(), None);

            TcpStream::connect("192.0.2.1:80").unwrap();
            assert_eq!(read(&mut listeners, 1, due)[0].port, 80);
        }
    });
}

#[test]
fn a_port_is_not_taken_from_a_service_that_would_share_it() {
    in_a_network(|| {
        for kind in [Type::STREAM, Type::DGRAM] {
            let service = Socket::new(Domain::IPV4, kind, None).unwrap();
            service.set_reuse_address(true).unwrap();
            service.set_reuse_port(true).unwrap();
            let at: SocketAddr = "192.0.2.1:80".parse().unwrap();
            service.bind(&at.into()).unwrap();
            if kind == Type::STREAM {
                service.listen(5).unwrap();
            }
            let (tcp, udp): (&[u16], &[u16]) = if kind == Type::STREAM {
                (&[80], &[])
            } else {
                (&[], &[80])
            };
            let (_, report) = Listeners::open(settings(tcp, udp), T0).unwrap();
            assert_eq!(report.listening, []);
            assert_eq!(report.skipped[0].1, IN_USE);
        }
    });
}

/// The states of the sockets whose local port it is, as the kernel's tables have them.
fn states(port: u16) -> Vec<String> {
    let mut states = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1].ends_with(&format!(":{port:04X}")) {
                states.push(fields[3].to_owned());
            }
        }
    }
    states
}

const LISTEN: &str = "0A";
const TIME_WAIT: &str = "06";

#[test]
fn remains_of_connections_are_no_reason_to_leave_a_port_out() {
    in_a_network(|| {
        let service = TcpListener::bind("192.0.2.1:80").unwrap();
        let visitor = TcpStream::connect("192.0.2.1:80").unwrap();
        let (stream, _) = service.accept().unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(hear(&visitor), (String::new(), None));
        drop(visitor);
        assert_eq!(hear(&stream), (String::new(), None));
        drop((stream, service));
        assert_eq!(states(80), [TIME_WAIT], "this test is to leave remains");

        listen(&[80], &[]);
    });
}

#[test]
fn the_kernel_keeps_nothing_of_a_connection_that_its_peer_holds() {
    in_a_network(|| {
        let mut listeners = listen(&[23], &[]);
        let held: Vec<TcpStream> = (0..10)
            .map(|_| TcpStream::connect("192.0.2.1:23").unwrap())
            .collect();
        read(&mut listeners, 10, T0);
        let deadline = Instant::now() + Duration::from_secs(5);
        while states(23) != [LISTEN] {
            assert!(Instant::now() < deadline, "{:?}", states(23));
            thread::sleep(Duration::from_millis(1));
        }
        for visitor in held {
            assert_eq!(hear(&visitor), (WORDS.to_owned(), None), "still there");
        }
    });
}

#[test]
fn a_peer_that_resets_is_a_probe_all_the_same() {
    in_a_network(|| {
        let mut listeners = listen(&[23], &[]);
        let to: SocketAddr = "192.0.2.1:23".parse().unwrap();
        let visitor = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        visitor.set_linger(Some(Duration::ZERO)).unwrap();
        visitor.connect(&to.into()).unwrap();
        let from = visitor.local_addr().unwrap().as_socket().unwrap();
        drop(visitor);
        assert_eq!(read(&mut listeners, 1, T0), [probe(TCP, from, to)]);
    });
}

/// How many descriptors this thread's own table has.
fn descriptors() -> usize {
    fs::read_dir("/proc/thread-self/fd").unwrap().count()
}

#[test]
fn hundreds_of_ports_and_a_thousand_connections_cost_a_descriptor_a_port() {
    in_a_network(|| {
        let before = descriptors();
        let ports = Settings {
            tcp: vec![2001..=2150],
            udp: vec![2001..=2150],
            banner: WORDS.to_owned(),
            traps: false,
        };
        let (mut listeners, report) = Listeners::open(ports, T0).unwrap();
        assert_eq!(report.listening.len(), 300);
        let open = descriptors();
        assert_eq!(open, before + 300 + 1, "the ports and the one to watch");

        let mut held = Vec::new();
        let mut batch = Vec::new();
        let mut probes = 0;
        for round in 0..7 {
            for port in 2001..=2150 {
                held.push(TcpStream::connect(("192.0.2.1", port)).unwrap());
            }
            assert!(is_readable(&listeners), "round {round}");
            while is_readable(&listeners) {
                batch.clear();
                let report = listeners.read(&mut batch, T0);
                assert_eq!(report.probes, batch.len());
                assert!(report.probes <= BATCH);
                assert_eq!(report.full, report.probes == BATCH);
                probes += report.probes;
            }
        }
        assert_eq!((held.len(), probes), (1050, 1050));
        assert_eq!(descriptors(), open + held.len(), "theirs alone came");
        drop(held);
        drop(listeners);
        assert_eq!(descriptors(), before);
    });
}

#[test]
fn a_busy_port_does_not_keep_another_waiting() {
    in_a_network(|| {
        let mut listeners = listen(&[], &[69, 31_337]);
        let visitor = UdpSocket::bind("192.0.2.1:0").unwrap();
        for port in [[69; 20], [31_337; 20]].concat() {
            visitor.send_to(b"?", ("192.0.2.1", port)).unwrap();
        }
        let seen = read(&mut listeners, 40, T0);
        let ports: Vec<u16> = seen[..2].iter().map(|probe| probe.port).collect();
        assert!(ports.contains(&69) && ports.contains(&31_337), "{ports:?}");
    });
}

#[test]
fn for_want_of_descriptors_a_port_rests_and_loses_nothing() {
    in_a_network(|| {
        let mut listeners = listen(&[23], &[69]);
        let visitor = TcpStream::connect("192.0.2.1:23").unwrap();
        let null: OwnedFd = fs::File::open("/dev/null").unwrap().into();
        let mut hoard = Vec::new();
        while let Ok(one) = null.try_clone() {
            hoard.push(one);
        }
        let mut out = Vec::new();
        assert_eq!(listeners.read(&mut out, T0), ReadReport::default());
        assert_eq!(listeners.counters().rests, 1);
        assert!(!is_readable(&listeners), "the loop is not to spin");
        let due = T0.later(REST);
        assert_eq!(listeners.next_deadline(), Some(due));
        // Nothing is missing for a datagram.
        hoard.pop();
        let other = UdpSocket::bind("192.0.2.1:0").unwrap();
        other.send_to(b"?", "192.0.2.1:69").unwrap();
        assert_eq!(read(&mut listeners, 1, T0)[0].port, 69);

        // The lack goes on: it rests again. A reload that it survives changes nothing about that.
        listeners.set(settings(&[23], &[69]), due).unwrap();
        assert_eq!(listeners.retry(due), Report::default());
        listeners.read(&mut out, due);
        assert_eq!(listeners.counters().rests, 2);
        let due = due.later(REST);
        assert_eq!(listeners.next_deadline(), Some(due));
        drop(hoard);
        listeners.retry(due);
        assert_eq!(listeners.next_deadline(), None);
        assert_eq!(read(&mut listeners, 1, due)[0].port, 23);
        assert_eq!(hear(&visitor), (WORDS.to_owned(), None));
    });
}

#[test]
fn a_reload_keeps_what_stays_with_all_that_waits_there() {
    in_a_network(|| {
        let mut listeners = listen(&[23, 25], &[69, 70]);
        let visitors = [23, 25].map(|port| TcpStream::connect(("192.0.2.1", port)).unwrap());
        let watched = listeners.fd().try_clone_to_owned().unwrap();

        let new = Settings {
            banner: "go away".to_owned(),
            ..settings(&[23, 79], &[70, 71])
        };
        let report = listeners.set(new, T0).unwrap();
        assert_eq!(report.listening, [(TCP, 79), (UDP, 71)], "23 and 70 stay");
        assert_eq!(report.skipped, []);
        let held = [(TCP, 23), (TCP, 79), (UDP, 70), (UDP, 71)];
        assert!(listeners.listening.keys().eq(held.iter()));

        let mut ready = [PollFd::new(watched.as_fd(), PollFlags::POLLIN)];
        assert_eq!(
            poll(&mut ready, PollTimeout::ZERO),
            Ok(1),
            "the same descriptor"
        );
        assert_eq!(read(&mut listeners, 1, T0)[0].port, 23);
        assert_eq!(hear(&visitors[0]), ("go away".to_owned(), None));
        assert_eq!(hear(&visitors[1]).1, Some(ErrorKind::ConnectionReset));
        TcpListener::bind("0.0.0.0:25").expect("it is free again");
        UdpSocket::bind("0.0.0.0:69").expect("it is free again");

        let report = listeners.set(Settings::default(), T0).unwrap();
        assert_eq!(report, Report::default());
        assert!(!listeners.holds(TCP, 23));
        assert_eq!(listeners.troubles(), [""; 0], "none is wanted");
        assert_eq!(listeners.next_deadline(), None);
    });
}

#[test]
fn a_reload_tries_at_once_what_was_missing_and_forgets_what_is_no_longer_wanted() {
    in_a_network(|| {
        let first = TcpListener::bind("192.0.2.1:80").unwrap();
        let _second = TcpListener::bind("192.0.2.1:81").unwrap();
        let (mut listeners, report) = Listeners::open(settings(&[80, 81], &[]), T0).unwrap();
        assert_eq!(report.skipped.len(), 2);
        drop(first);
        let report = listeners.set(settings(&[80], &[]), T0).unwrap();
        assert_eq!(report.listening, [(TCP, 80)]);
        assert_eq!(listeners.next_deadline(), None);
    });
}

#[test]
fn low_ports_are_out_of_reach_without_the_right_to_them_whoever_has_them() {
    in_a_network(|| {
        let low = settings(&[23, 2323], &[69]);
        assert!(low.may_be_had(TCP) && low.may_be_had(UDP));
        let _service = TcpListener::bind("0.0.0.0:23").unwrap();
        assert!(low.may_be_had(TCP));
        caps::drop(
            None,
            caps::CapSet::Effective,
            caps::Capability::CAP_NET_BIND_SERVICE,
        )
        .unwrap();
        assert!(!low.may_be_had(TCP) && !low.may_be_had(UDP));
        assert!(settings(&[2323], &[]).may_be_had(TCP), "it is high");
        assert!(settings(&[], &[]).may_be_had(TCP), "it is none");
        let (listeners, _) = Listeners::open(low.clone(), T0).unwrap();
        let troubles = listeners.troubles();
        assert!(
            troubles[0].starts_with("tcp 23 not listened on: permission denied; restart"),
            "{troubles:?}"
        );
        assert!(listeners.holds(TCP, 2323));
        // The kernel has a setting for which ports are low.
        fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "24").unwrap();
        assert!(!low.may_be_had(TCP) && low.may_be_had(UDP));
    });
}

#[test]
fn lists_may_overlap_and_port_0_is_none() {
    let settings = Settings {
        tcp: vec![0..=2, 2..=3, 65_535..=65_535],
        udp: vec![0..=0, 2..=2],
        banner: String::new(),
        traps: true,
    };
    let ports = [(TCP, 1), (TCP, 2), (TCP, 3), (TCP, 65_535), (UDP, 2)];
    assert!(settings.ports().into_iter().eq(ports));
    let doors = settings.ports().into_iter().map(Door::Port);
    for door in doors.chain(Family::ALL.map(Door::Trap)) {
        assert_eq!(Door::of(door.data()), door);
    }
}
