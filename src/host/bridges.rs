//! Bridges whose packets netfilter sees on the bridge already, as if they had come to IP (br_netfilter, which container engines
//! and virtual machines turn on).
//!
//! What is decided there holds, but the socket that a packet is given there is taken from it on its way up (net/ipv4/ip_input.c,
//! ip_rcv_core: `skb_orphan`), and IP does not ask again.

use std::fs;
use std::path::Path;

/// Those of these interfaces that are such bridges. `root` is where `/proc` and `/sys` are.
#[must_use]
pub fn filtered<'a>(interfaces: impl IntoIterator<Item = &'a str>, root: &Path) -> Vec<&'a str> {
    let is_on = |path: &Path| fs::read_to_string(path).is_ok_and(|value| value.trim() == "1");
    let settings = ["iptables", "ip6tables"];
    let all = root.join("proc/sys/net/bridge");
    let is_general = settings.map(|it| is_on(&all.join(format!("bridge-nf-call-{it}"))));
    let is_filtered = |interface: &&str| {
        let bridge = root.join("sys/class/net").join(interface).join("bridge");
        let own = || settings.map(|it| is_on(&bridge.join(format!("nf_call_{it}"))));
        bridge.is_dir() && (is_general.contains(&true) || own().contains(&true))
    };
    interfaces.into_iter().filter(is_filtered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_is_filtered_where_all_are_or_it_is() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let found = || filtered(["eth0", "br0", "br1"], root.path());
        write("sys/class/net/eth0/mtu", "1500\n");
        for bridge in ["br0", "br1"] {
            write(
                &format!("sys/class/net/{bridge}/bridge/nf_call_iptables"),
                "0\n",
            );
        }
        assert_eq!(found(), [""; 0], "br_netfilter is not there");
        write("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n");
        write("proc/sys/net/bridge/bridge-nf-call-ip6tables", "0\n");
        assert_eq!(found(), [""; 0]);
        write("sys/class/net/br1/bridge/nf_call_ip6tables", "1\n");
        assert_eq!(found(), ["br1"]);
        write("proc/sys/net/bridge/bridge-nf-call-ip6tables", "1\n");
        assert_eq!(found(), ["br0", "br1"]);
    }
}
