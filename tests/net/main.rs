//! Tests on real packets: each builds a few hosts out of network namespaces, runs the real daemon on one of them and real
//! scanners on others, and looks at what an admin or a stranger would see.
//!
//! They need root and the tools that `packaging/setup` installs, and say so where they lack them. Each test has namespaces
//! and directories of its own, so that any number of them can run at a time; nothing of this host is touched.

/// Hosts, cables, the daemon, and ways to send packets.
mod lab;

/// Scans lead to bans: every scan type, both ways to see packets.
mod scans;

/// What adds up to a scan, and what a scan leads to, as configured.
mod detection;

/// IPv6: extension headers, prefixes.
mod ipv6;

/// Probes that come in pieces.
mod fragments;

/// Traffic of others, and to everybody, is no probe of this host.
mod forwarding;

/// What somebody listens on is no trap.
mod services;

/// What innocents send is no evidence, in any way of watching.
mod evidence;

/// Who is never banned.
mod friends;

/// The gateways, the name servers, and from where somebody is logged in.
mod neighbours;

/// Where names in the ignore lists lead to.
mod names;

/// Whom the kernel lets through whatever is banned.
mod ignored;

/// The table and its sets, as an admin reads them and as others change them.
mod table;

/// Floods.
mod flood;

/// What a flood may cost: memory, lines of the log, bans.
mod bounds;

/// Disks that are full, and histories that somebody spoils.
mod storage;

/// Wall clocks that leap, or are wrong.
mod clock;

/// Traps that take connections.
mod traps;

/// Many banned neighbours that become one ban.
mod rollup;

/// What others do to our table.
mod meddling;

/// A table that is the daemon's alone.
mod own;

/// Several responders together.
mod responders;

/// Lines in hosts.deny.
mod wrappers;

/// A chain of iptables, and ipsets.
mod iptables;

/// Routes that lead nowhere.
mod route;

/// Stops, restarts and crashes: what stays, what comes back.
mod restart;

/// `ban` and `unban`, with and without a daemon.
mod commands;

/// Those who fill the control socket.
mod callers;

/// `import` and `export`: many bans at once.
mod lists;

/// Moving house: what an old portsentry left behind.
mod migrate;

/// Starting, stopping, reloading, and refusing to start.
mod lifecycle;

/// One process for each mode, as 1.2 was started: each is there for its own, whatever befalls the others.
mod leases;
