//! The calls into libnftnl that the nftnl crate's safe floor lacks, and two socket matters that nix cannot know of.
//!
//! Everything here has a safe signature: values in, bytes or values out. No decisions.

#![expect(
    unsafe_code,
    reason = "libnftnl is C, and nftnl wraps neither timeouts, comments, limits, logs, look-ups nor lists"
)]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nftnl::expr::Expression;
use nftnl::set::{Set, SetKey};
use nftnl::{Batch, MsgType, NlMsg, ProtoFamily, Table};
use nftnl_sys as sys;
use nix::errno::Errno;

use super::element::{Comment, Element, Key, Wire};
use super::request::HEADER_LEN;
use super::shape::SetShape;
use crate::config::LogRate;

/// `NFPROTO_INET`, in the width that message headers have.
const INET: u16 = 1;
/// Messages, from linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETED_ELEMENT: u16 = 14;
const DELETE_ELEMENT: u16 = 14;
/// `NFNL_SUBSYS_NFTABLES`, as it stands above the kind of a message.
const SUBSYSTEM: u16 = 10 << 8;
/// Header flags: `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE`.
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `NFT_SET_ELEM_INTERVAL_END`
pub(super) const INTERVAL_END: u32 = 1;

// Numbers of linux/netfilter/nf_tables.h: `NFT_REG_1`, `NFT_REG_2`, `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`,
// `NFT_SOCKET_TRANSPARENT`.
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;
const ADDRESS_TYPE: u32 = 3;
const DESTINATION: u32 = 2;
const TRANSPARENT: u32 = 0;

/// Elements in one message at most, an even number, so that an interval's two edges stay together. At up to 200 bytes each they stay well within the 64 KiB that an attribute's
/// length can tell and that a message may have.
const PER_MESSAGE: usize = 256;

/// libnftnl names its attributes by 32-bit constants and takes them in 16 bits.
const fn attr(number: u32) -> u16 {
    let [low, high, 0, 0] = number.to_le_bytes() else {
        panic!("attributes are small numbers");
    };
    u16::from_le_bytes([low, high])
}

/// The socket's number, as nix takes it.
pub(super) fn fd(socket: &mnl::Socket) -> BorrowedFd<'_> {
    // SAFETY: the number is that of an open socket, which lives as long as `socket`, and the result borrows that.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Has the kernel's errors come without a copy of the message that caused them, so that those of a whole batch
/// fit into the receive buffer.
pub(super) fn terse_errors(socket: &mnl::Socket) -> Result<(), Errno> {
    /// `NETLINK_CAP_ACK`
    const CAP_ACK: c_int = 10;
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).expect("an int has 4 bytes");
    // SAFETY: the kernel reads `length` bytes at the pointer, which is what `on` has, and keeps no pointer to it.
    // With a bad socket it would answer EBADF.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            CAP_ACK,
            (&raw const on).cast(),
            length,
        )
    };
    Errno::result(status).map(drop)
}

/// A message that asks for no answer. nftnl asks for one on each, which says 0 even in a batch that is given up,
/// and which overflows the receive buffer when there are many.
struct Quiet<'a, T>(&'a T);

// SAFETY: it writes what the inner message writes, and that keeps the trait's promise about the size.
unsafe impl<T: NlMsg> NlMsg for Quiet<'_, T> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, msg_type: MsgType) {
        // SAFETY: our caller's promise about `buf` is passed on as it is.
        unsafe { self.0.write(buf, seq, msg_type) };
        let header = buf.cast::<sys::libc::nlmsghdr>();
        // SAFETY: every NlMsg begins with a header at `buf`, which the call above has written; nftnl hands out
        // buffers aligned for it.
        let header = unsafe { &mut *header };
        header.nlmsg_flags &= !ACK;
    }
}

/// Adds the message, without a wish for an answer.
pub(super) fn add_quietly<T: NlMsg>(batch: &mut Batch, message: &T, msg_type: MsgType) {
    batch.add(&Quiet(message), msg_type);
}

/// The message that makes a table which is not there yet, with a comment; or that changes the flags of one that is.
struct NewTable {
    table: Owned<sys::nftnl_table>,
    flags: u16,
}

/// Adds the message that makes the table. A table of that name that is already there fails the batch.
pub(super) fn add_new_table(batch: &mut Batch, name: &CStr, comment: Option<&Comment>, flags: u32) {
    let table = flagged_table(name, flags);
    if let Some(data) = comment.map(Comment::encode) {
        // SAFETY: libnftnl copies `len` bytes from the pointer, and both are those of `data`.
        unsafe {
            sys::nftnl_table_set_data(
                table.as_ptr(),
                attr(sys::NFTNL_TABLE_USERDATA),
                data.as_ptr().cast(),
                len(&data),
            )
        };
    }
    let flags = CREATE | EXCLUSIVE;
    batch.add(&NewTable { table, flags }, MsgType::Add);
}

/// Adds the message that gives these flags to a table that is there.
pub(super) fn add_table_flags(batch: &mut Batch, name: &CStr, flags: u32) {
    let table = flagged_table(name, flags);
    batch.add(&NewTable { table, flags: 0 }, MsgType::Add);
}

fn flagged_table(name: &CStr, flags: u32) -> Owned<sys::nftnl_table> {
    let table = Owned::<sys::nftnl_table>::new();
    // SAFETY: the table is ours and alive; libnftnl copies the string, which ends in NUL.
    unsafe { sys::nftnl_table_set_str(table.as_ptr(), attr(sys::NFTNL_TABLE_NAME), name.as_ptr()) };
    // SAFETY: as above, with a number.
    unsafe { sys::nftnl_table_set_u32(table.as_ptr(), attr(sys::NFTNL_TABLE_FLAGS), flags) };
    table
}

// SAFETY: a name of at most 255 bytes (longer ones are refused by TableName) and a comment of at most 130 are far
// below the largest message.
unsafe impl NlMsg for NewTable {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: `buf` has room for the largest message, by our caller's promise; a header is 20 bytes of it.
        let header =
            unsafe { sys::nftnl_nlmsg_build_hdr(buf.cast(), NEW_TABLE, INET, self.flags, seq) };
        // SAFETY: `header` lies in `buf`, whose room is enough for this small table, which is alive.
        unsafe { sys::nftnl_table_nlmsg_build_payload(header, self.table.as_ptr()) };
    }
}

/// Gives a set that is about to be made its flags, its size and its collection interval, and tells nft that its
/// keys are in network order.
pub(super) fn shape_set<K>(set: &Set<'_, K>, shape: &SetShape) {
    let set = set.as_ptr().as_ptr();
    for (attribute, value) in [
        (attr(sys::NFTNL_SET_FLAGS), shape.flags),
        (attr(sys::NFTNL_SET_DESC_SIZE), shape.size),
        (attr(sys::NFTNL_SET_GC_INTERVAL), shape.gc_interval),
    ] {
        if value == 0 {
            continue;
        }
        // SAFETY: the set is alive while it is borrowed, and each of these attributes is a 32-bit number.
        unsafe { sys::nftnl_set_set_u32(set, attribute, value) };
    }
    // NFTNL_UDATA_SET_KEYBYTEORDER, four bytes: big endian.
    let mut order = vec![0, 4];
    order.extend(2u32.to_ne_bytes());
    // SAFETY: libnftnl copies `len` bytes from the pointer, and both are those of `order`.
    unsafe {
        sys::nftnl_set_set_data(
            set,
            attr(sys::NFTNL_SET_USERDATA),
            order.as_ptr().cast(),
            len(&order),
        )
    };
}

/// A step of a rule that nftnl has no type for.
pub(super) enum Statement<'a> {
    /// Goes on unless more packets came than this, and a burst.
    Limit { rate: LogRate, burst: u32 },
    /// Writes the packet to the kernel's log.
    Log { prefix: &'a CStr, level: u32 },
    /// Loads what kind of address the packet's destination is to this host: `fib daddr type`.
    DestType,
    /// Loads something of the socket that the packet belongs to, or that waits for it; goes on only if there is one.
    Socket,
    /// Hands the packet to the socket that listens at the address in register 1 and the port in register 2.
    Lead { is_ipv6: bool },
}

impl Expression for Statement<'_> {
    fn to_expr(&self, _: &nftnl::Rule<'_>) -> NonNull<sys::nftnl_expr> {
        let name = match self {
            Self::Limit { .. } => c"limit",
            Self::Log { .. } => c"log",
            Self::DestType => c"fib",
            Self::Socket => c"socket",
            Self::Lead { .. } => c"tproxy",
        };
        // SAFETY: libnftnl only compares the string, which ends in NUL; null, for want of memory, is caught.
        let expr = unsafe { sys::nftnl_expr_alloc(name.as_ptr()) };
        let Some(expr) = NonNull::new(expr) else {
            handle_alloc_error(Layout::new::<Self>());
        };
        let put = |attribute: u32, data: &[u8]| {
            let (raw, start) = (expr.as_ptr(), data.as_ptr().cast());
            // SAFETY: the expression is alive. libnftnl copies `len` bytes, or up to a NUL, into a place as wide as the
            // attribute: the values below are as wide as theirs, 64 or 32 bits, and the string ends in NUL.
            unsafe { sys::nftnl_expr_set(raw, attr(attribute), start, len(data)) };
        };
        match self {
            Self::Limit { rate, burst } => {
                let (packets, seconds) = (u64::from(rate.packets), rate.per.as_secs());
                put(sys::NFTNL_EXPR_LIMIT_RATE, &packets.to_ne_bytes());
                put(sys::NFTNL_EXPR_LIMIT_UNIT, &seconds.to_ne_bytes());
                put(sys::NFTNL_EXPR_LIMIT_BURST, &burst.to_ne_bytes());
            }
            Self::Log { prefix, level } => {
                put(sys::NFTNL_EXPR_LOG_PREFIX, prefix.to_bytes_with_nul());
                put(sys::NFTNL_EXPR_LOG_LEVEL, &level.to_ne_bytes());
            }
            Self::DestType => {
                put(sys::NFTNL_EXPR_FIB_RESULT, &ADDRESS_TYPE.to_ne_bytes());
                put(sys::NFTNL_EXPR_FIB_FLAGS, &DESTINATION.to_ne_bytes());
                put(sys::NFTNL_EXPR_FIB_DREG, &REGISTER_1.to_ne_bytes());
            }
            Self::Socket => {
                put(sys::NFTNL_EXPR_SOCKET_KEY, &TRANSPARENT.to_ne_bytes());
                put(sys::NFTNL_EXPR_SOCKET_DREG, &REGISTER_1.to_ne_bytes());
            }
            Self::Lead { is_ipv6 } => {
                let family = if *is_ipv6 {
                    libc::NFPROTO_IPV6
                } else {
                    libc::NFPROTO_IPV4
                };
                put(sys::NFTNL_EXPR_TPROXY_FAMILY, &family.to_ne_bytes());
                put(sys::NFTNL_EXPR_TPROXY_REG_ADDR, &REGISTER_1.to_ne_bytes());
                put(sys::NFTNL_EXPR_TPROXY_REG_PORT, &REGISTER_2.to_ne_bytes());
            }
        }
        expr
    }
}

/// What is done with elements.
#[derive(Clone, Copy)]
pub(super) enum Verb {
    /// Those are added that are not there.
    Add,
    /// All are added; none may be there.
    AddNew,
    /// All are deleted; each must be there.
    Delete,
}

/// Up to [`PER_MESSAGE`] elements of a set, and what is done with them.
struct Elements<'a, K>(Set<'a, K>, Verb);

/// Adds the messages that add these elements to the named set, or delete them from it. `K` says how long keys are;
/// elements with others are for the kernel to refuse.
pub(super) fn add_elements<K: SetKey>(
    batch: &mut Batch,
    table: &Table,
    set_name: &CStr,
    elements: impl Iterator<Item = Wire>,
    verb: Verb,
) {
    let mut elements = elements.peekable();
    while elements.peek().is_some() {
        let set = Set::<K>::new_named(set_name, 0, table, ProtoFamily::Inet);
        for element in elements.by_ref().take(PER_MESSAGE) {
            add_element(&set, &element);
        }
        // What is done stands in the message's own words.
        batch.add(&Elements(set, verb), MsgType::Add);
    }
}

fn add_element<K>(set: &Set<'_, K>, element: &Wire) {
    // SAFETY: takes no arguments; null is caught below.
    let raw = unsafe { sys::nftnl_set_elem_alloc() };
    let Some(raw) = NonNull::new(raw) else {
        handle_alloc_error(Layout::new::<Element>());
    };
    let put = |attribute: u16, data: &[u8]| {
        // SAFETY: the element is alive; libnftnl copies `len` bytes from the pointer, and both are those of `data`.
        // A key is 2, 4 or 16 bytes, within the 64 that libnftnl has for one, and flags are a 32-bit number.
        unsafe {
            sys::nftnl_set_elem_set(raw.as_ptr(), attribute, data.as_ptr().cast(), len(data))
        };
    };
    match element.key {
        Key::Address(IpAddr::V4(key)) => put(attr(sys::NFTNL_SET_ELEM_KEY), &key.octets()),
        Key::Address(IpAddr::V6(key)) => put(attr(sys::NFTNL_SET_ELEM_KEY), &key.octets()),
        Key::Port(key) => put(attr(sys::NFTNL_SET_ELEM_KEY), &key.to_be_bytes()),
    }
    if let Some(timeout) = element.timeout {
        for (attribute, value) in [
            (attr(sys::NFTNL_SET_ELEM_TIMEOUT), timeout.length()),
            (attr(sys::NFTNL_SET_ELEM_EXPIRATION), timeout.left()),
        ] {
            // SAFETY: the element is alive, and both attributes are 64-bit numbers.
            unsafe { sys::nftnl_set_elem_set_u64(raw.as_ptr(), attribute, value) };
        }
    }
    if element.is_end {
        let flags = INTERVAL_END.to_ne_bytes();
        put(attr(sys::NFTNL_SET_ELEM_FLAGS), &flags);
    }
    if !element.user_data.is_empty() {
        put(attr(sys::NFTNL_SET_ELEM_USERDATA), &element.user_data);
    }
    // SAFETY: both are alive; the element belongs to the set from here on, which frees it, and we forget it.
    unsafe { sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), raw.as_ptr()) };
}

// SAFETY: at most PER_MESSAGE elements of at most 200 bytes (two 64-bit attributes, a key, a comment of 130 bytes,
// and their headers) and two names of at most 255 are below the 64 KiB and a page of the largest message.
unsafe impl<K> NlMsg for Elements<'_, K> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        let (kind, flags) = match self.1 {
            Verb::Add => (NEW_ELEMENT, CREATE),
            Verb::AddNew => (NEW_ELEMENT, CREATE | EXCLUSIVE),
            Verb::Delete => (DELETE_ELEMENT, 0),
        };
        // SAFETY: `buf` has room for the largest message, by our caller's promise; a header is 20 bytes of it.
        let header = unsafe { sys::nftnl_nlmsg_build_hdr(buf.cast(), kind, INET, flags, seq) };
        // SAFETY: `header` lies in `buf`, whose room is enough by the argument above; the set is alive.
        unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr().as_ptr()) };
    }
}

/// A kind of object that libnftnl reads messages into, or that is part of such a one.
///
/// # Safety
/// The functions are libnftnl's own for this kind. `GET` returns null for an attribute that is not set, else where
/// its value lies within the object, and says how long it is.
pub(super) unsafe trait Object: Sized {
    const IS_SET: unsafe extern "C" fn(*const Self, u16) -> bool;
    const GET: unsafe extern "C" fn(*const Self, u16, *mut u32) -> *const c_void;
}

/// An object that libnftnl makes and frees by itself.
///
/// # Safety
/// As [`Object`].
pub(super) unsafe trait Whole: Object {
    const ALLOC: unsafe extern "C" fn() -> *mut Self;
    const FREE: unsafe extern "C" fn(*const Self);
}

macro_rules! objects {
    ($($object:ident: $is_set:path, $get:path $(, $alloc:path, $free:path)?;)*) => {$(
        // SAFETY: they are libnftnl's own for this kind.
        unsafe impl Object for sys::$object {
            const IS_SET: unsafe extern "C" fn(*const Self, u16) -> bool = $is_set;
            const GET: unsafe extern "C" fn(*const Self, u16, *mut u32) -> *const c_void = $get;
        }
        $(
            // SAFETY: as above.
            unsafe impl Whole for sys::$object {
                const ALLOC: unsafe extern "C" fn() -> *mut Self = $alloc;
                const FREE: unsafe extern "C" fn(*const Self) = $free;
            }
        )?
    )*};
}

objects! {
    nftnl_table: sys::nftnl_table_is_set, sys::nftnl_table_get_data, sys::nftnl_table_alloc, sys::nftnl_table_free;
    nftnl_set: sys::nftnl_set_is_set, sys::nftnl_set_get_data, sys::nftnl_set_alloc, sys::nftnl_set_free;
    nftnl_chain: sys::nftnl_chain_is_set, sys::nftnl_chain_get_data, sys::nftnl_chain_alloc, sys::nftnl_chain_free;
    nftnl_rule: sys::nftnl_rule_is_set, sys::nftnl_rule_get_data, sys::nftnl_rule_alloc, sys::nftnl_rule_free;
    nftnl_expr: sys::nftnl_expr_is_set, sys::nftnl_expr_get;
    nftnl_set_elem: sys::nftnl_set_elem_is_set, element_get;
}

/// `nftnl_set_elem_get` as the others are: it does not change the element either.
unsafe extern "C" fn element_get(
    element: *const sys::nftnl_set_elem,
    attribute: u16,
    length: *mut u32,
) -> *const c_void {
    // SAFETY: our caller's promise is passed on as it is.
    unsafe { sys::nftnl_set_elem_get(element.cast_mut(), attribute, length) }
}

/// An object that is alive, to be asked for its attributes.
#[repr(transparent)]
pub(super) struct View<T>(NonNull<T>);

impl<T: Object> View<T> {
    /// Whether the attribute is set.
    pub(super) fn has(&self, attribute: u32) -> bool {
        // SAFETY: the object is alive.
        unsafe { T::IS_SET(self.0.as_ptr(), attr(attribute)) }
    }

    /// The attribute's value, byte for byte, as long as libnftnl says it is.
    pub(super) fn data(&self, attribute: u32) -> Option<&[u8]> {
        let mut length = 0;
        // SAFETY: the object is alive; the length is written to a variable of ours.
        let data = unsafe { T::GET(self.0.as_ptr(), attr(attribute), &raw mut length) };
        let (data, length) = (
            NonNull::new(data.cast_mut())?,
            usize::try_from(length).ok()?,
        );
        // SAFETY: not null, so libnftnl says where the value lies and how long it is; it lives as long as the object,
        // which nobody changes while it is borrowed. Bytes need no alignment.
        Some(unsafe { std::slice::from_raw_parts(data.as_ptr().cast::<u8>(), length) })
    }
}

impl View<sys::nftnl_chain> {
    /// The chain's type, if it has one. libnftnl says 4 for the length of this attribute, whatever it is.
    pub(super) fn chain_type(&self) -> Option<String> {
        // SAFETY: the chain is alive; the result is null or a string of libnftnl's, which ends in NUL.
        let kind =
            unsafe { sys::nftnl_chain_get_str(self.0.as_ptr(), attr(sys::NFTNL_CHAIN_TYPE)) };
        let kind = NonNull::new(kind.cast_mut())?;
        // SAFETY: not null, so it is as said above, and lives as long as the chain.
        let kind = unsafe { CStr::from_ptr(kind.as_ptr()) };
        Some(kind.to_string_lossy().into_owned())
    }
}

/// An object of libnftnl, freed when it goes.
pub(super) struct Owned<T: Whole>(View<T>);

impl<T: Whole> Owned<T> {
    fn new() -> Self {
        // SAFETY: it takes nothing, and null is caught.
        let object = unsafe { T::ALLOC() };
        let Some(object) = NonNull::new(object) else {
            handle_alloc_error(Layout::new::<T>());
        };
        Self(View(object))
    }

    /// The object itself, for attributes.
    pub(super) fn view(&self) -> &View<T> {
        &self.0
    }

    fn as_ptr(&self) -> *mut T {
        self.0.0.as_ptr()
    }
}

impl<T: Whole> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object came from the allocator that belongs to FREE, and nobody else frees it.
        unsafe { T::FREE(self.as_ptr()) };
    }
}

/// The table that a message describes; `None` if libnftnl cannot read it, here and below.
pub(super) fn table(message: &[u8]) -> Option<Owned<sys::nftnl_table>> {
    parse(message, NEW_TABLE, sys::nftnl_table_nlmsg_parse)
}

/// The set that a message describes.
pub(super) fn set(message: &[u8]) -> Option<Owned<sys::nftnl_set>> {
    parse(message, NEW_SET, sys::nftnl_set_nlmsg_parse)
}

/// The chain that a message describes.
pub(super) fn chain(message: &[u8]) -> Option<Owned<sys::nftnl_chain>> {
    parse(message, NEW_CHAIN, sys::nftnl_chain_nlmsg_parse)
}

/// Hands each expression of the rule that a message describes to `see`.
pub(super) fn each_expr(message: &[u8], mut see: impl FnMut(&View<sys::nftnl_expr>)) -> Option<()> {
    let rule = parse(message, NEW_RULE, sys::nftnl_rule_nlmsg_parse)?;
    // SAFETY: the rule is alive, and outlives the iterator.
    let iterator = unsafe { sys::nftnl_expr_iter_create(rule.as_ptr()) };
    let Some(iterator) = NonNull::new(iterator) else {
        handle_alloc_error(Layout::new::<Element>());
    };
    let next = || {
        // SAFETY: the iterator is alive until after the loop.
        unsafe { sys::nftnl_expr_iter_next(iterator.as_ptr()) }
    };
    while let Some(expr) = NonNull::new(next()) {
        see(&View(expr));
    }
    // SAFETY: it is not used after this.
    unsafe { sys::nftnl_expr_iter_destroy(iterator.as_ptr()) };
    Some(())
}

/// Hands each element in a message that answers a look-up or a list, or that tells of new ones, to `see`.
pub(super) fn each_element(
    message: &[u8],
    see: impl FnMut(&View<sys::nftnl_set_elem>),
) -> Option<()> {
    each_element_of(message, NEW_ELEMENT, see)
}

/// Hands each element in a message that tells of deleted ones to `see`.
pub(super) fn each_deleted_element(
    message: &[u8],
    see: impl FnMut(&View<sys::nftnl_set_elem>),
) -> Option<()> {
    each_element_of(message, DELETED_ELEMENT, see)
}

fn each_element_of(
    message: &[u8],
    kind: u16,
    mut see: impl FnMut(&View<sys::nftnl_set_elem>),
) -> Option<()> {
    let set = parse(message, kind, sys::nftnl_set_elems_nlmsg_parse)?;
    // SAFETY: the set is alive, and outlives the iterator.
    let iterator = unsafe { sys::nftnl_set_elems_iter_create(set.as_ptr()) };
    let Some(iterator) = NonNull::new(iterator) else {
        handle_alloc_error(Layout::new::<Element>());
    };
    let next = || {
        // SAFETY: the iterator is alive until after the loop.
        unsafe { sys::nftnl_set_elems_iter_next(iterator.as_ptr()) }
    };
    while let Some(element) = NonNull::new(next()) {
        see(&View(element));
    }
    // SAFETY: it is not used after this.
    unsafe { sys::nftnl_set_elems_iter_destroy(iterator.as_ptr()) };
    Some(())
}

/// Reads a message of this kind into a new object, with libnftnl's parser for it: that checks each attribute against
/// the message's length. Messages of another kind are kept from it, because it ends the process over an attribute
/// that has another width than it should.
fn parse<T: Whole>(
    message: &[u8],
    kind: u16,
    parse: unsafe extern "C" fn(*const sys::libc::nlmsghdr, *mut T) -> c_int,
) -> Option<Owned<T>> {
    let ([l0, l1, l2, l3, k0, k1], _) = message.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes([*l0, *l1, *l2, *l3])).ok()?;
    let found = u16::from_ne_bytes([*k0, *k1]);
    let header = message.as_ptr().cast::<sys::libc::nlmsghdr>();
    if found != SUBSYSTEM | kind
        || !header.is_aligned()
        || !(HEADER_LEN..=message.len()).contains(&length)
    {
        return None;
    }
    let object = Owned::new();
    // SAFETY: by the check above `header` is a whole message, long enough for what opens each, and aligned; the
    // object is alive.
    let status = unsafe { parse(header, object.as_ptr()) };
    (status >= 0).then_some(object)
}

fn len(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("comments, keys and prefixes are short")
}
