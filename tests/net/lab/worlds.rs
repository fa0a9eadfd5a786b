//! Small worlds of a few hosts.

use std::net::IpAddr;

use super::Host;

/// A host and a stranger on one cable.
pub(crate) struct Pair {
    pub(crate) host: Host,
    pub(crate) stranger: Host,
}

/// A stranger, a router and a host behind it: the stranger is not on the host's own link.
pub(crate) struct Routed {
    pub(crate) host: Host,
    pub(crate) router: Host,
    pub(crate) stranger: Host,
}

/// A host that carries two containers on a bridge, and a stranger outside.
pub(crate) struct Bridge {
    pub(crate) host: Host,
    pub(crate) container: Host,
    pub(crate) neighbour: Host,
    pub(crate) stranger: Host,
}

impl Pair {
    pub(crate) const HOST: &str = "10.77.0.1";
    pub(crate) const STRANGER: &str = "10.77.0.2";
    /// A second address of the stranger.
    pub(crate) const OTHER: &str = "10.77.0.3";
    pub(crate) const HOST6: &str = "fd77::1";
    pub(crate) const STRANGER6: &str = "fd77::2";

    pub(crate) fn new() -> Self {
        let (host, stranger) = (Host::new("host"), Host::new("stranger"));
        host.cable(
            "eth0",
            &["10.77.0.1/24 broadcast 10.77.0.255", "fd77::1/64 nodad"],
            &stranger,
            "eth0",
            &[
                "10.77.0.2/24 broadcast 10.77.0.255",
                "10.77.0.3/24",
                "fd77::2/64 nodad",
            ],
        );
        Self { host, stranger }
    }
}

impl Routed {
    pub(crate) const HOST: &str = "192.0.2.2";
    pub(crate) const ROUTER: &str = "198.51.100.1";
    pub(crate) const STRANGER: &str = "198.51.100.2";
    pub(crate) const HOST6: &str = "2001:db8:2::2";
    pub(crate) const STRANGER6: &str = "2001:db8:1::2";
    /// What a ban of the stranger names where prefixes of 64 bits are banned.
    pub(crate) const STRANGER6_PREFIX: &str = "2001:db8:1::";

    pub(crate) fn new() -> Self {
        let (host, router, stranger) = (
            Host::new("host"),
            Host::new("router"),
            Host::new("stranger"),
        );
        router.be_a_router();
        stranger.cable(
            "eth0",
            &["198.51.100.2/24", "2001:db8:1::2/64 nodad"],
            &router,
            "out",
            &["198.51.100.1/24", "2001:db8:1::1/64 nodad"],
        );
        host.cable(
            "eth0",
            &["192.0.2.2/24", "2001:db8:2::2/64 nodad"],
            &router,
            "in",
            &["192.0.2.1/24", "2001:db8:2::1/64 nodad"],
        );
        host.ip("route add default via 192.0.2.1");
        host.ip("-6 route add default via 2001:db8:2::1");
        stranger.ip("route add default via 198.51.100.1");
        stranger.ip("-6 route add default via 2001:db8:1::1");
        Self {
            host,
            router,
            stranger,
        }
    }
}

impl Bridge {
    /// The host's address on the bridge.
    pub(crate) const HOST: &str = "10.88.0.1";
    pub(crate) const CONTAINER: &str = "10.88.0.2";
    pub(crate) const NEIGHBOUR: &str = "10.88.0.3";
    pub(crate) const STRANGER: &str = "10.77.0.2";

    pub(crate) fn new() -> Self {
        let Pair { host, stranger } = Pair::new();
        let (container, neighbour) = (Host::new("container"), Host::new("neighbour"));
        host.be_a_router();
        host.ip("link add br0 type bridge");
        host.ip("link set br0 up");
        host.ip("addr add 10.88.0.1/24 dev br0");
        for (port, guest, address) in [
            ("port0", &container, "10.88.0.2/24"),
            ("port1", &neighbour, "10.88.0.3/24"),
        ] {
            host.cable(port, &[], guest, "eth0", &[address]);
            host.ip(&format!("link set {port} master br0"));
            guest.ip("route add default via 10.88.0.1");
        }
        stranger.ip("route add 10.88.0.0/24 via 10.77.0.1");
        Self {
            host,
            container,
            neighbour,
            stranger,
        }
    }
}

/// An address as a type, for code that wants one.
pub(crate) fn at(address: &str) -> IpAddr {
    address.parse().expect("the worlds' addresses are good")
}
