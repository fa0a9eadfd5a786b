//! Changes to our table, gathered into one transaction.
//!
//! Messages are written as they are added. Nothing happens before [`Line::commit`](super::Line::commit).

use std::ffi::{CStr, CString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftnl::expr::{
    Bitwise, Cmp, CmpOp, Counter, Icmpv6HeaderField, Immediate, Ipv4HeaderField, Ipv6HeaderField,
    Lookup, Meta, NetworkHeaderField, Payload, Register, TcpHeaderField, TransportHeaderField,
    Verdict,
};
use nftnl::set::{Set, SetKey};
use nftnl::{Batch, Chain, ChainType, FinalizedBatch, Hook, MsgType, Policy, ProtoFamily, Table};
use nix::errno::Errno;

use super::element::{Comment, Element, Wire};
use super::ffi::{self, Statement, Verb};
use super::friends::{FriendSet, Friends};
use super::line::Line;
use super::shape::{
    BanSet, ChainShape, Expr, LOG_BURST, LOG_LEVEL, LOG_PREFIX, OWNED, Rule, SetShape,
};
use super::traps::{PORT_SET, PortKey, Traps};

/// A name that a table can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName(CString);

impl TableName {
    /// `NFT_NAME_MAXLEN`, less the NUL.
    const MAX_LEN: usize = 255;

    /// The name, unless the kernel could not take it: empty, too long, or with a NUL in it.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        if name.is_empty() || name.len() > Self::MAX_LEN {
            return None;
        }
        CString::new(name).ok().map(Self)
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

impl Line {
    /// Whether this kernel knows tables that belong to who has made them: 6.9 and later do. Makes one and deletes it, which nobody
    /// sees.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn can_own(&mut self) -> Result<bool, Errno> {
        let name = format!("portsentry-{}", self.port()?);
        let name = TableName::new(&name).ok_or(Errno::EINVAL)?;
        let mut change = Change::new(&name);
        ffi::add_new_table(&mut change.batch, &name.0, None, OWNED);
        change.delete_table();
        match self.commit(&change.finish()) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

/// A transaction in the making.
pub struct Change {
    table: Table,
    batch: Batch,
    sets: u32,
}

impl Change {
    /// Nothing yet.
    #[must_use]
    pub fn new(table: &TableName) -> Self {
        Self {
            table: Table::new(table.as_c_str(), ProtoFamily::Inet),
            batch: Batch::new(),
            sets: 0,
        }
    }

    /// Makes the table, with this comment, and where it `is_owned` as one that the line which commits this alone may change.
    /// The transaction fails if there is one of that name, and on kernels before 6.9 if it `is_owned`.
    pub fn create_table(&mut self, comment: &Comment, is_owned: bool) {
        let flags = if is_owned { OWNED } else { 0 };
        ffi::add_new_table(&mut self.batch, self.table.get_name(), Some(comment), flags);
    }

    /// Makes a table whose owner is gone that of the line which commits this.
    pub fn own_table(&mut self) {
        ffi::add_table_flags(&mut self.batch, self.table.get_name(), OWNED);
    }

    /// Deletes the table with all that is in it.
    pub fn delete_table(&mut self) {
        ffi::add_quietly(&mut self.batch, &self.table, MsgType::Del);
    }

    /// Makes a set.
    pub fn create_set(&mut self, name: &str, shape: &SetShape) {
        if shape.is_ipv6() {
            self.create_set_of::<Ipv6Addr>(name, shape);
        } else {
            self.create_set_of::<Ipv4Addr>(name, shape);
        }
    }

    fn create_set_of<K: SetKey>(&mut self, name: &str, shape: &SetShape) {
        self.sets += 1;
        let name = c_name(name);
        let set = Set::<K>::new_named(&name, self.sets, &self.table, ProtoFamily::Inet);
        ffi::shape_set(&set, shape);
        ffi::add_quietly(&mut self.batch, &set, MsgType::Add);
    }

    /// Deletes a set. The transaction fails if a rule still refers to it.
    pub fn delete_set(&mut self, name: &str) {
        let name = c_name(name);
        let set = Set::<Ipv4Addr>::new_named(&name, 0, &self.table, ProtoFamily::Inet);
        ffi::add_quietly(&mut self.batch, &set, MsgType::Del);
    }

    /// Makes a base chain with these rules. The sets that they look into must be there, or made before.
    pub fn create_chain(&mut self, shape: &ChainShape, rules: &[Rule]) {
        let mut chain = Chain::new(c_name(&shape.name), &self.table);
        chain.set_type(ChainType::Filter);
        let hook = if shape.is_prerouting() {
            Hook::PreRouting
        } else {
            Hook::In
        };
        chain.set_hook(hook, shape.priority);
        chain.set_policy(Policy::Accept);
        ffi::add_quietly(&mut self.batch, &chain, MsgType::Add);
        for steps in rules {
            let mut rule = nftnl::Rule::new(&chain);
            for step in steps {
                add_step(&mut rule, step, &self.table);
            }
            ffi::add_quietly(&mut self.batch, &rule, MsgType::Add);
        }
    }

    /// Deletes a chain with its rules. The transaction fails if another chain still refers to it.
    pub fn delete_chain(&mut self, name: &str) {
        let chain = Chain::new(c_name(name), &self.table);
        ffi::add_quietly(&mut self.batch, &chain, MsgType::Del);
    }

    /// Adds elements that are not there. Of those that are, kernels before 6.12 change nothing, later ones the
    /// timeout but not the comment.
    pub fn add(&mut self, set: BanSet, elements: &[&Element]) {
        self.elements(set, whole(elements), Verb::Add);
    }

    /// Adds elements that are not there. The transaction fails if one is, or if a key occurs twice: a third of a
    /// [`refresh`](Self::refresh)'s work.
    pub fn add_new(&mut self, set: BanSet, elements: &[&Element]) {
        self.elements(set, whole(elements), Verb::AddNew);
    }

    /// Adds elements, there or not, with the timeout and the comment they have now. No key may occur twice.
    pub fn refresh(&mut self, set: BanSet, elements: &[&Element]) {
        // The same on all kernels: whatever was there is there, then gone, then new.
        self.sweep(set, elements);
        self.elements(set, whole(elements), Verb::Add);
    }

    /// Deletes elements by their keys. The transaction fails if one is not there, or a key occurs twice.
    pub fn delete(&mut self, set: BanSet, elements: &[&Element]) {
        self.elements(set, keys(elements), Verb::Delete);
    }

    /// Deletes elements by their keys, there or not. The transaction fails if a key occurs twice, or a set is full.
    pub fn sweep(&mut self, set: BanSet, elements: &[&Element]) {
        self.elements(set, keys(elements), Verb::Add);
        self.elements(set, keys(elements), Verb::Delete);
    }

    /// Lets `friends` through in place of `before`, who are let through now. Whoever is in both is not touched.
    pub fn befriend(&mut self, friends: &Friends, before: &Friends) {
        self.edges(&before.without(friends), Verb::Delete);
        self.edges(&friends.without(before), Verb::Add);
    }

    /// Makes the set of the ports that are traps, and the chain that leads to the listener.
    pub fn create_traps(&mut self, traps: &Traps) {
        self.create_set_of::<PortKey>(PORT_SET, &traps.set());
        let name = c_name(PORT_SET);
        ffi::add_elements::<PortKey>(
            &mut self.batch,
            &self.table,
            &name,
            traps.edges(),
            Verb::Add,
        );
        self.create_chain(&traps.chain(), &traps.rules());
    }

    /// The transaction, to be committed.
    #[must_use]
    pub fn finish(self) -> FinalizedBatch {
        self.batch.finalize()
    }

    fn edges(&mut self, friends: &Friends, verb: Verb) {
        let (batch, table) = (&mut self.batch, &self.table);
        let [name4, name6] = FriendSet::ALL.map(|set| c_name(set.name()));
        let [edges4, edges6] = FriendSet::ALL.map(|set| friends.edges(set));
        ffi::add_elements::<Ipv4Addr>(batch, table, &name4, edges4, verb);
        ffi::add_elements::<Ipv6Addr>(batch, table, &name6, edges6, verb);
    }

    fn elements(&mut self, set: BanSet, elements: impl Iterator<Item = Wire>, verb: Verb) {
        let (batch, table, name) = (&mut self.batch, &self.table, c_name(&set.name()));
        if set.is_ipv6() {
            ffi::add_elements::<Ipv6Addr>(batch, table, &name, elements, verb);
        } else {
            ffi::add_elements::<Ipv4Addr>(batch, table, &name, elements, verb);
        }
    }
}

fn whole(elements: &[&Element]) -> impl Iterator<Item = Wire> {
    elements.iter().map(|element| Wire::from(*element))
}

fn keys(elements: &[&Element]) -> impl Iterator<Item = Wire> {
    elements.iter().map(|element| Wire::key(element.key))
}

fn add_step(rule: &mut nftnl::Rule<'_>, step: &Expr, table: &Table) {
    match step {
        Expr::Family => rule.add_expr(&Meta::NfProto),
        Expr::Transport => rule.add_expr(&Meta::L4Proto),
        Expr::Source4 => {
            let field = NetworkHeaderField::Ipv4(Ipv4HeaderField::Saddr);
            rule.add_expr(&Payload::Network(field));
        }
        Expr::Source6 => {
            let field = NetworkHeaderField::Ipv6(Ipv6HeaderField::Saddr);
            rule.add_expr(&Payload::Network(field));
        }
        Expr::IcmpType => {
            let field = TransportHeaderField::Icmpv6(Icmpv6HeaderField::Type);
            rule.add_expr(&Payload::Transport(field));
        }
        Expr::Interface => rule.add_expr(&Meta::Iif),
        Expr::InterfaceName => rule.add_expr(&Meta::IifName),
        Expr::DestPort => {
            let field = TransportHeaderField::Tcp(TcpHeaderField::Dport);
            rule.add_expr(&Payload::Transport(field));
        }
        Expr::DestType => rule.add_expr(&Statement::DestType),
        Expr::Socket => rule.add_expr(&Statement::Socket),
        Expr::Lead(to) => {
            match to.ip() {
                IpAddr::V4(v4) => rule.add_expr(&Immediate::new(v4.octets(), Register::Reg1)),
                IpAddr::V6(v6) => rule.add_expr(&Immediate::new(v6.octets(), Register::Reg1)),
            }
            rule.add_expr(&Immediate::new(to.port().to_be_bytes(), Register::Reg2));
            let is_ipv6 = to.is_ipv6();
            rule.add_expr(&Statement::Lead { is_ipv6 });
        }
        Expr::Differs(value) => rule.add_expr(&Cmp::new(CmpOp::Neq, value.as_slice())),
        Expr::Equal(value) => rule.add_expr(&Cmp::new(CmpOp::Eq, value.as_slice())),
        Expr::AtLeast(value) => rule.add_expr(&Cmp::new(CmpOp::Gte, value.as_slice())),
        Expr::AtMost(value) => rule.add_expr(&Cmp::new(CmpOp::Lte, value.as_slice())),
        Expr::Mask(mask) => {
            let nothing = vec![0_u8; mask.len()];
            rule.add_expr(&Bitwise::new(mask.as_slice(), nothing.as_slice()));
        }
        Expr::Lookup(name) => {
            let name = c_name(name);
            let set = Set::<Ipv4Addr>::new_named(&name, 0, table, ProtoFamily::Inet);
            rule.add_expr(&Lookup::new(&set));
        }
        Expr::Limit(rate) => rule.add_expr(&Statement::Limit {
            rate: *rate,
            burst: LOG_BURST,
        }),
        Expr::Counter => rule.add_expr(&Counter),
        Expr::Log => rule.add_expr(&Statement::Log {
            prefix: LOG_PREFIX,
            level: LOG_LEVEL,
        }),
        Expr::Accept => rule.add_expr(&Verdict::Accept),
        Expr::Drop => rule.add_expr(&Verdict::Drop),
        // Only ever found: a rule that is made consists of the steps in `shape::rules`.
        Expr::Foreign => {}
    }
}

/// The names of our own sets and chains.
fn c_name(name: &str) -> CString {
    CString::new(name).expect("names of our sets and chains are made of letters, digits and _")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogRate;
    use crate::nft::{MARK, Timeout, decode, rules};
    use std::time::Duration;

    /// The messages of a batch: type, flags, and all behind the header.
    fn messages(batch: &FinalizedBatch) -> Vec<(u16, u16, Vec<u8>)> {
        batch
            .iter()
            .flat_map(mnl::NlMessages::new)
            .map(|message| {
                let message = message.unwrap();
                let number = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
                (number(4), number(6), message[16..].to_vec())
            })
            .collect()
    }

    fn name() -> TableName {
        TableName::new("portsentry").unwrap()
    }

    fn log() -> Option<LogRate> {
        let per = Duration::from_secs(60);
        Some(LogRate { packets: 3, per })
    }

    fn element(key: Ipv4Addr) -> Element {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Element {
            key: key.into(),
            timeout: Some(Timeout::new(minutes(10), minutes(4))),
            comment: Comment::new("syn scan, 3 tcp ports, last 23"),
        }
    }

    /// Clears what pads attributes: libmnl 1.0.4 leaves there what was in memory.
    fn clear_padding(mut attributes: &mut [u8]) {
        while attributes.len() >= 4 {
            let number = |at: usize| u16::from_ne_bytes([attributes[at], attributes[at + 1]]);
            let (length, kind) = (usize::from(number(0)), number(2));
            let (attribute, rest) = attributes.split_at_mut(length.next_multiple_of(4));
            attribute[length..].fill(0);
            if kind & 0x8000 != 0 {
                clear_padding(&mut attribute[4..length]);
            }
            attributes = rest;
        }
    }

    /// What nft 1.0.6 sends for `add element inet portsentry banned4 { 192.0.2.10 timeout 10m expires 4m comment
    /// "syn scan, 3 tcp ports, last 23" }`, but for the order of the names and for
    /// the set's number, which matters in the transaction that makes the set only.
    #[test]
    fn an_element_is_written_as_nft_writes_it() {
        let captured: &[&[u8]] = &[
            b"\x01\x00\x00\x00",
            b"\x0c\x00\x02\x00banned4\0",
            b"\x0f\x00\x01\x00portsentry\0\0",
            b"\x54\x00\x03\x80",
            b"\x50\x00\x01\x80",
            b"\x0c\x00\x04\x00\x00\x00\x00\x00\x00\x09\x27\xc0",
            b"\x0c\x00\x05\x00\x00\x00\x00\x00\x00\x03\xa9\x80",
            b"\x0c\x00\x01\x80\x08\x00\x01\x00\xc0\x00\x02\x0a",
            b"\x25\x00\x06\x00\x00\x1fsyn scan, 3 tcp ports, last 23\0\0\0\0",
        ];
        let mut change = Change::new(&name());
        change.add(BanSet::ADDRESSES4, &[&element([192, 0, 2, 10].into())]);
        let captured = captured.concat().escape_ascii().to_string();
        assert_eq!(new_elements(change), captured);
    }

    /// What nft 1.0.6 sends for `add element inet portsentry ignored4 { 10.0.0.0/8, 240.0.0.0/4 }`, but for the above, and for
    /// the end without a beginning that it puts before the first interval of an empty set.
    #[test]
    fn intervals_are_written_as_nft_writes_them() {
        let captured: &[&[u8]] = &[
            b"\x01\x00\x00\x00",
            b"\x0d\x00\x02\x00ignored4\0\0\0\0",
            b"\x0f\x00\x01\x00portsentry\0\0",
            b"\x48\x00\x03\x80",
            b"\x10\x00\x01\x80\x0c\x00\x01\x80\x08\x00\x01\x00\x0a\x00\x00\x00",
            b"\x18\x00\x02\x80\x08\x00\x03\x00\x00\x00\x00\x01",
            b"\x0c\x00\x01\x80\x08\x00\x01\x00\x0b\x00\x00\x00",
            b"\x1c\x00\x03\x80\x0c\x00\x01\x80\x08\x00\x01\x00\xf0\x00\x00\x00",
            b"\x0a\x00\x06\x00\x01\x04\x01\x00\x00\x00\x00\x00",
        ];
        let nets = ["10.0.0.0/8", "240.0.0.0/4"].map(|net| net.parse().unwrap());
        let mut change = Change::new(&name());
        change.befriend(&Friends::new(&nets, 2).0, &Friends::default());
        let captured = captured.concat().escape_ascii().to_string();
        assert_eq!(new_elements(change), captured);
    }

    /// The message that adds elements, without its header and without the number of the set.
    fn new_elements(change: Change) -> String {
        let (kind, flags, mut body) = messages(&change.finish()).swap_remove(1);
        assert_eq!((kind, flags), (0x0a0c, 0x401), "NEWSETELEM, REQUEST|CREATE");
        clear_padding(&mut body[4..]);
        let set_number = b"\x08\x00\x04\x00\x00\x00\x00\x00";
        let at = body.windows(8).position(|window| window == set_number);
        let without_number = match at {
            Some(at) => [&body[..at], &body[at + 8..]].concat(),
            None => body,
        };
        without_number.escape_ascii().to_string()
    }

    #[test]
    fn no_message_but_the_ends_of_a_batch_asks_for_an_answer() {
        const ACK: u16 = 4;
        let sets = BanSet::for_prefixes(24, 64);
        let mut change = Change::new(&name());
        change.delete_table();
        change.create_table(&Comment::new(MARK).unwrap(), false);
        for set in &sets {
            change.create_set(&set.name(), &set.shape(1));
        }
        let chain = ChainShape::at(crate::config::Hook::Input, 0);
        change.create_chain(&chain, &rules(&sets, log()));
        let element = element([192, 0, 2, 10].into());
        change.refresh(BanSet::ADDRESSES4, &[&element]);
        change.delete(BanSet::ADDRESSES4, &[&element]);
        change.delete_chain("input");
        change.delete_set("banned4");
        let friends = Friends::new(&["192.0.2.0/24".parse().unwrap()], 1).0;
        change.befriend(&friends, &Friends::default());
        change.befriend(&Friends::default(), &friends);
        let messages = messages(&change.finish());
        assert_eq!(messages.len(), 1 + 2 + 4 + 1 + 11 + 3 + 1 + 2 + 2 + 1);
        for (kind, flags, _) in &messages[1..messages.len() - 1] {
            assert_eq!(flags & ACK, 0, "{kind:#x}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_cut_short_does_no_harm() {
        let sets = BanSet::for_prefixes(24, 64);
        let wanted = ChainShape::at(crate::config::Hook::Input, -310);
        let banned = element([192, 0, 2, 10].into());
        let mut change = Change::new(&name());
        change.create_table(&Comment::new(MARK).unwrap(), false);
        change.create_set(&sets[3].name(), &sets[3].shape(1));
        change.create_chain(&wanted, &rules(&sets, log()));
        change.add(BanSet::ADDRESSES4, &[&banned]);
        let batch = change.finish();
        let pages: Vec<&[u8]> = batch.iter().collect();
        let messages: Vec<&[u8]> = mnl::NlMessages::new(pages[0]).map(Result::unwrap).collect();
        assert_eq!(decode::table(messages[1]).unwrap().comment.unwrap(), MARK);
        let (_, set_name, shape) = decode::set(messages[2]).unwrap();
        assert_eq!((set_name, shape), (sets[3].name(), sets[3].shape(1)));
        assert_eq!(decode::chain(messages[3]).unwrap().1, wanted);
        for (message, rule) in messages[4..].iter().zip(rules(&sets, log())) {
            assert_eq!(decode::rule(message), Some(rule));
        }
        let elements = decode::elements(messages[messages.len() - 2]);
        assert_eq!(elements.unwrap(), [banned]);

        for message in messages {
            for length in 0..message.len() {
                let mut cut = message.to_vec();
                cut[length..].fill(0);
                cut[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
                let _ = decode::table(&cut);
                let _ = decode::set(&cut);
                let _ = decode::chain(&cut);
                let _ = decode::rule(&cut);
                let _ = decode::elements(&cut);
            }
        }
    }

    #[test]
    fn however_many_elements_no_message_outgrows_an_attribute() {
        let longest = Element {
            comment: Comment::new(&"x".repeat(200)),
            ..element([192, 0, 2, 10].into())
        };
        let mut change = Change::new(&name());
        change.refresh(BanSet::ADDRESSES4, &vec![&longest; 5000]);
        let messages = messages(&change.finish());
        assert_eq!(messages.len(), 2 + 3 * 20);
        for (_, _, body) in messages {
            assert!(body.len() < 0xffff, "{}", body.len());
        }
    }
}
