//! A host: a network namespace with a name of its own, which is gone when the test is.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

/// A network namespace. Removed on drop.
pub(crate) struct Host {
    name: String,
    /// A line of shell before each program, which sees files as it leaves them.
    sees: Option<String>,
}

/// An element of a set, as `nft -j list set` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// An address, or the first one of a prefix.
    pub(crate) key: String,
    /// Seconds; `None`: permanent.
    pub(crate) timeout: Option<u64>,
    /// Seconds left.
    pub(crate) expires: Option<u64>,
    /// Why.
    pub(crate) comment: Option<String>,
}

/// A TCP service that takes every connection, until it is dropped.
pub(crate) struct Service {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU32>,
    thread: Option<JoinHandle<()>>,
}

/// How long a connection is tried. On a cable between two namespaces an answer takes less than a millisecond.
const CONNECT: Duration = Duration::from_millis(1500);

impl Host {
    /// A host with nothing but a loopback interface, without IPv6's wait for others with the same address.
    ///
    /// # Panics
    /// Without root or the tools.
    pub(crate) fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // The first `ip netns add` on a host sets up /run/netns, which two at a time get wrong.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        require_root_and_tools();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let host = Self {
            name: format!("pst-{}-{number}-{role}", std::process::id()),
            sees: None,
        };
        {
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            done(Command::new("ip").args(["netns", "add", &host.name]));
        }
        host.inside(|| {
            for which in ["all", "default"] {
                fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0")
                    .expect("a namespace's own setting");
            }
        });
        host.ip("link set lo up");
        host
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// `ip` with these arguments, on this host.
    pub(crate) fn ip(&self, args: &str) {
        done(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(args.split_whitespace()),
        );
    }

    /// Makes a cable to another host; each end gets a name and addresses, and is up.
    pub(crate) fn cable(
        &self,
        interface: &str,
        addresses: &[&str],
        peer: &Host,
        peer_interface: &str,
        peer_addresses: &[&str],
    ) {
        self.ip(&format!(
            "link add {interface} type veth peer name {peer_interface} netns {}",
            peer.name
        ));
        for (host, interface, addresses) in [
            (self, interface, addresses),
            (peer, peer_interface, peer_addresses),
        ] {
            host.ip(&format!("link set {interface} up"));
            for address in addresses {
                host.ip(&format!("addr add {address} dev {interface}"));
            }
        }
    }

    /// Forwards what is for others.
    pub(crate) fn be_a_router(&self) {
        self.inside(|| {
            for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{setting}"), "1")
                    .expect("a namespace's own setting");
            }
        });
    }

    /// A program to be run on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        if let Some(line) = &self.sees {
            command.args(["sh", "-c", &format!("{line} && exec \"$0\" \"$@\"")]);
        }
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Has programs on this host see one file in the place of another: `ip netns exec` gives each mounts of its own.
    pub(crate) fn see(&mut self, file: &str, in_place_of: &str) {
        let line = self.sees.take().map_or(String::new(), |line| line + " && ");
        self.sees = Some(format!("{line}mount --bind {file} {in_place_of}"));
    }

    /// Runs `line` on this host; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program's name");
        done(self.command(program).args(words))
    }

    /// Runs this piece of code on this host: its sockets are the host's.
    pub(crate) fn inside<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let work = scope.spawn(|| {
                self.enter();
                job()
            });
            work.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread to this host for good.
    fn enter(&self) {
        let namespace = File::open(self.namespace()).expect("the namespace was made above");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
    }

    /// Whether a TCP connection comes about.
    pub(crate) fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port).is_ok()
    }

    /// Tries a TCP connection. Refused or not, the other side has had one SYN by then.
    pub(crate) fn connect(&self, address: IpAddr, port: u16) -> std::io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT))
    }

    /// Sends a SYN to each of these ports, in this order, by trying to connect.
    pub(crate) fn knock(&self, address: IpAddr, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            let _ = self.connect(address, port);
        }
    }

    /// Sends a datagram to each of these ports, in this order. Broadcast and multicast addresses are fine.
    pub(crate) fn datagrams(&self, address: IpAddr, ports: impl IntoIterator<Item = u16> + Send) {
        self.inside(|| {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).expect("some port is free");
            socket.set_broadcast(true).expect("any UDP socket may");
            for port in ports {
                let to = match address {
                    IpAddr::V6(group) if group.is_multicast() => {
                        let interface = if_nametoindex("eth0").expect("every host has one");
                        SocketAddr::V6(SocketAddrV6::new(group, port, 0, interface))
                    }
                    _ => SocketAddr::new(address, port),
                };
                socket
                    .send_to(b"knock", to)
                    .unwrap_or_else(|error| panic!("cannot send to {to}: {error}"));
            }
        });
    }

    /// Scans with nmap: `how` is its scan type and other options. Ports go out in their order, each once.
    pub(crate) fn nmap(&self, how: &str, ports: &str, target: &str) -> String {
        self.run(&format!(
            "nmap -n -Pn -r {how} --max-retries 0 --initial-rtt-timeout 100ms --max-rtt-timeout 300ms -p {ports} {target}"
        ))
    }

    /// Sends this many packets a millisecond apart; what they are is said in hping3's options.
    pub(crate) fn hping3(&self, count: u32, how: &str, target: &str) {
        let line = format!("-q -c {count} -i u1000 {how} {target}");
        let output = self
            .command("hping3")
            .args(line.split_whitespace())
            .output()
            .expect("hping3 is there");
        // It fails when nothing answers, which is fine.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains(&format!("{count} packets transmitted")),
            "hping3 {line}: {said}"
        );
    }

    /// A TCP service on this host that greets and hangs up.
    pub(crate) fn serve(&self, address: IpAddr, port: u16) -> Service {
        let listener = self
            .inside(|| TcpListener::bind((address, port)))
            .expect("a fresh host's ports are free");
        Self::serve_on(listener)
    }

    /// The same, which takes connections to other ports too, those that a rule of tproxy leads to it.
    pub(crate) fn serve_for_others(&self, address: IpAddr, port: u16) -> Service {
        let address = SocketAddr::new(address, port);
        let listener = self.inside(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            // The option is the same one for both protocols, by either name.
            socket.set_ip_transparent_v4(true)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(128)?;
            Ok::<_, std::io::Error>(TcpListener::from(socket))
        });
        Self::serve_on(listener.expect("a fresh host's ports are free"))
    }

    fn serve_on(listener: TcpListener) -> Service {
        listener
            .set_nonblocking(true)
            .expect("a socket can be made non-blocking");
        let (stop, taken) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let (stopping, counter) = (Arc::clone(&stop), Arc::clone(&taken));
        let thread = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, _)) => {
                        counter.fetch_add(1, Ordering::Relaxed);
                        let _ = stream.write_all(b"welcome\n");
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        thread::sleep(Duration::from_millis(2))
                    }
                    Err(_) => {}
                }
            }
            // Between its fork and its exec, a child that another test starts holds the listener too: to close it is not enough.
            let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        });
        Service {
            stop,
            taken,
            thread: Some(thread),
        }
    }

    /// `nft` on this host; what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn nft(&self, args: &str) -> String {
        done(self.command("nft").arg(args))
    }

    /// `nft` on this host, which may fail.
    pub(crate) fn try_nft(&self, args: &str) -> Output {
        self.command("nft")
            .arg(args)
            .output()
            .expect("nft is there")
    }

    /// What stands in a set of ours; nothing where there is no such set.
    pub(crate) fn elements(&self, set: &str) -> Vec<Element> {
        let output = self
            .command("nft")
            .args(["-j", "list", "set", "inet", "portsentry", set])
            .output()
            .expect("nft is there");
        if !output.status.success() {
            return Vec::new();
        }
        let listing: Value = serde_json::from_slice(&output.stdout).expect("nft -j prints JSON");
        let objects = listing["nftables"]
            .as_array()
            .expect("nft's JSON is a list of objects");
        let elements = objects
            .iter()
            .filter_map(|object| object["set"]["elem"].as_array())
            .flatten();
        elements.map(Element::read).collect()
    }

    /// The element of a set of ours with this key.
    pub(crate) fn element(&self, set: &str, key: &str) -> Option<Element> {
        self.elements(set)
            .into_iter()
            .find(|element| element.key == key)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

impl Element {
    fn read(json: &Value) -> Self {
        let plain = json.as_str().map(str::to_owned);
        let element = &json["elem"];
        Self {
            key: plain
                .or_else(|| element["val"].as_str().map(str::to_owned))
                .expect("our keys are addresses"),
            timeout: element["timeout"].as_u64(),
            expires: element["expires"].as_u64(),
            comment: element["comment"].as_str().map(str::to_owned),
        }
    }
}

impl Service {
    /// How many connections it has taken.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a command that must succeed; what it printed.
fn done(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{command:?} failed ({}): {out}{err}",
        output.status
    );
    out.into_owned()
}

fn require_root_and_tools() {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    let missing = MISSING.get_or_init(|| {
        if !nix::unistd::geteuid().is_root() {
            return Some("root (these tests make network namespaces)".to_owned());
        }
        let tools = [
            "ip", "ipset", "iptables", "nft", "nmap", "hping3", "setpriv",
        ];
        let absent = |tool: &&str| {
            Command::new(tool)
                .arg("--version")
                .stdin(Stdio::null())
                .output()
                .is_err()
        };
        let absent: Vec<&str> = tools.into_iter().filter(absent).collect();
        (!absent.is_empty()).then(|| {
            format!(
                "{} (packaging/setup installs what is missing)",
                absent.join(", ")
            )
        })
    });
    if let Some(missing) = missing {
        panic!("this test needs {missing}");
    }
}
