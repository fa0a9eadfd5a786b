//! Questions to nf_tables, as bytes: a table, the sets, chains and rules in it, the elements of a set.
//!
//! Small and fixed enough to be written out by hand. What the kernel answers is for `ffi` to parse.

use super::BanSet;
use std::ffi::CStr;
use std::net::IpAddr;

/// `struct nlmsghdr` and `struct nfgenmsg`, which open every message.
pub(super) const HEADER_LEN: usize = 20;

/// Messages, from linux/netfilter/nf_tables.h.
const GET_TABLE: u8 = 1;
const GET_CHAIN: u8 = 4;
const GET_RULE: u8 = 7;
const GET_SET: u8 = 10;
const GET_ELEMENT: u8 = 13;
const GET_GENERATION: u8 = 16;

/// Attributes, from the same. The table's name has number 1 in every message.
const TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const ELEMENT_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const VALUE: u16 = 1;

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u8 = 10;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NFPROTO_INET`
const INET: u8 = 1;

/// A question.
pub(super) struct Request {
    kind: u8,
    flags: u16,
    attributes: Vec<u8>,
}

impl Request {
    /// The table itself.
    pub(super) fn table(table: &CStr) -> Self {
        Self::new(GET_TABLE, ACK).with(TABLE, table.to_bytes_with_nul())
    }

    /// All sets in the table.
    pub(super) fn sets(table: &CStr) -> Self {
        Self::new(GET_SET, DUMP).with(TABLE, table.to_bytes_with_nul())
    }

    /// All chains. Kernels before 6.4 do not heed the table's name here.
    pub(super) fn chains(table: &CStr) -> Self {
        Self::new(GET_CHAIN, DUMP).with(TABLE, table.to_bytes_with_nul())
    }

    /// The rules of one chain.
    pub(super) fn rules(table: &CStr, chain: &CStr) -> Self {
        Self::new(GET_RULE, DUMP)
            .with(TABLE, table.to_bytes_with_nul())
            .with(RULE_CHAIN, chain.to_bytes_with_nul())
    }

    /// All elements of a set.
    pub(super) fn elements(table: &CStr, set_name: &str) -> Self {
        Self::new(GET_ELEMENT, DUMP)
            .with(TABLE, table.to_bytes_with_nul())
            .with(ELEMENT_SET, &with_nul(set_name))
    }

    /// One element of a set.
    pub(super) fn element(table: &CStr, set: BanSet, key: IpAddr) -> Self {
        let value = match key {
            IpAddr::V4(key) => attribute(VALUE, &key.octets()),
            IpAddr::V6(key) => attribute(VALUE, &key.octets()),
        };
        let key = attribute(ELEMENT_KEY | NESTED, &value);
        let element = attribute(LIST_ELEMENT | NESTED, &key);
        Self::new(GET_ELEMENT, ACK)
            .with(TABLE, table.to_bytes_with_nul())
            .with(ELEMENT_SET, &with_nul(&set.name()))
            .with(ELEMENTS | NESTED, &element)
    }

    /// The number of the ruleset's generation.
    pub(super) fn generation() -> Self {
        Self::new(GET_GENERATION, ACK)
    }

    /// The message, numbered `seq`.
    pub(super) fn encode(&self, seq: u32) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + self.attributes.len())
            .expect("names are cut to what an attribute holds");
        let mut message = Vec::with_capacity(HEADER_LEN + self.attributes.len());
        message.extend(length.to_ne_bytes());
        message.extend(u16::from_be_bytes([SUBSYSTEM, self.kind]).to_ne_bytes());
        message.extend((REQUEST | self.flags).to_ne_bytes());
        message.extend(seq.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend([INET, 0, 0, 0]);
        message.extend(&self.attributes);
        message
    }

    fn new(kind: u8, flags: u16) -> Self {
        Self {
            kind,
            flags,
            attributes: Vec::new(),
        }
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        self.attributes.extend(attribute(kind, value));
        self
    }
}

fn with_nul(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// Length, kind, value, padded to four bytes. A value beyond an attribute's 64 KiB is cut: the kernel refuses any
/// name of more than 255.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const MAX: usize = 0xfff0;
    let value = &value[..value.len().min(MAX)];
    let length = u16::try_from(value.len() + 4).expect("cut to less than 64 KiB just above");
    let mut bytes = Vec::with_capacity(value.len() + 7);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nft 1.0.6 sends for `get element inet portsentry banned4 { 192.0.2.10 }`, with the first two names in
    /// our order.
    #[test]
    fn a_look_up_is_written_as_nft_writes_it() {
        let captured: &[&[u8]] = &[
            b"\x44\x00\x00\x00\x0d\x0a\x05\x00\x01\x00\x00\x00\x00\x00\x00\x00",
            b"\x01\x00\x00\x00",
            b"\x0f\x00\x01\x00portsentry\0\0",
            b"\x0c\x00\x02\x00banned4\0",
            b"\x14\x00\x03\x80\x10\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\xc0\x00\x02\x0a",
        ];
        let key = IpAddr::from([192, 0, 2, 10]);
        let request = Request::element(c"portsentry", BanSet::ADDRESSES4, key);
        let escaped = request.encode(1).escape_ascii().to_string();
        assert_eq!(escaped, captured.concat().escape_ascii().to_string());
    }
}
