//! The calls into libnftnl that the nftnl crate's safe floor lacks, and two socket matters that nix cannot know of.
//!
//! Everything here has a safe signature: values in, bytes or values out. No decisions.

#![expect(
    unsafe_code,
    reason = "libnftnl is C, and nftnl wraps neither timeouts, comments, look-ups nor lists"
)]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nftnl::set::{Set, SetKey};
use nftnl::{Batch, MsgType, NlMsg, ProtoFamily, Table};
use nftnl_sys as sys;
use nix::errno::Errno;

use super::element::{Comment, Element, Timeout, decode_comment};
use super::request::HEADER_LEN;
use super::shape::{ChainShape, Expr, Rule, SetShape};

/// `NFPROTO_INET`, in the width that message headers have.
const INET: u16 = 1;
/// Messages, from linux/netfilter/nf_tables.h.
const NEW_TABLE: u16 = 0;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;
/// Header flags: `NLM_F_ACK`, `NLM_F_EXCL`, `NLM_F_CREATE`.
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// Elements in one message at most. At up to 200 bytes each they stay well within the 64 KiB that an attribute's
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

/// The message that makes a table which is not there yet, with a comment.
struct NewTable(Owned<sys::nftnl_table>);

/// Adds the message that makes the table. A table of that name that is already there fails the batch.
pub(super) fn add_new_table(batch: &mut Batch, name: &CStr, comment: &Comment) {
    let table = Owned::new(sys::nftnl_table_alloc, sys::nftnl_table_free);
    // SAFETY: the table is ours and alive; libnftnl copies the string, which ends in NUL.
    unsafe { sys::nftnl_table_set_str(table.as_ptr(), attr(sys::NFTNL_TABLE_NAME), name.as_ptr()) };
    // SAFETY: as above, with a number.
    unsafe { sys::nftnl_table_set_u32(table.as_ptr(), attr(sys::NFTNL_TABLE_FLAGS), 0) };
    let data = comment.encode(TABLE_COMMENT);
    // SAFETY: libnftnl copies `len` bytes from the pointer, and both are those of `data`.
    unsafe {
        sys::nftnl_table_set_data(
            table.as_ptr(),
            attr(sys::NFTNL_TABLE_USERDATA),
            data.as_ptr().cast(),
            len(&data),
        )
    };
    batch.add(&NewTable(table), MsgType::Add);
}

// SAFETY: a name of at most 255 bytes (longer ones are refused by TableName) and a comment of at most 130 are far
// below the largest message.
unsafe impl NlMsg for NewTable {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, _: MsgType) {
        // SAFETY: `buf` has room for the largest message, by our caller's promise; a header is 20 bytes of it.
        let header = unsafe {
            sys::nftnl_nlmsg_build_hdr(buf.cast(), NEW_TABLE, INET, CREATE | EXCLUSIVE, seq)
        };
        // SAFETY: `header` lies in `buf`, whose room is enough for this small table, which is alive.
        unsafe { sys::nftnl_table_nlmsg_build_payload(header, self.0.as_ptr()) };
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

/// What is said of each element in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Its key.
    Key,
    /// All of it.
    Full,
}

/// Up to [`PER_MESSAGE`] elements of a set, to be added if they are not there, or deleted.
struct Elements<'a, K>(Set<'a, K>);

/// Adds the messages that add these elements to the named set, or delete them from it. `K` says how long keys are;
/// elements with others are for the kernel to refuse.
pub(super) fn add_elements<K: SetKey>(
    batch: &mut Batch,
    table: &Table,
    set_name: &CStr,
    elements: &[&Element],
    detail: Detail,
    msg_type: MsgType,
) {
    for chunk in elements.chunks(PER_MESSAGE) {
        let set = Set::<K>::new_named(set_name, 0, table, ProtoFamily::Inet);
        for element in chunk {
            add_element(&set, element, detail);
        }
        batch.add(&Elements(set), msg_type);
    }
}

fn add_element<K>(set: &Set<'_, K>, element: &Element, detail: Detail) {
    // SAFETY: takes no arguments; null is caught below.
    let raw = unsafe { sys::nftnl_set_elem_alloc() };
    let Some(raw) = NonNull::new(raw) else {
        handle_alloc_error(Layout::new::<Element>());
    };
    let put = |attribute: u16, data: &[u8]| {
        // SAFETY: the element is alive; libnftnl copies `len` bytes from the pointer, and both are those of `data`.
        // A key is 4 or 16 bytes, within the 64 that libnftnl has for one.
        unsafe {
            sys::nftnl_set_elem_set(raw.as_ptr(), attribute, data.as_ptr().cast(), len(data))
        };
    };
    match element.key {
        IpAddr::V4(key) => put(attr(sys::NFTNL_SET_ELEM_KEY), &key.octets()),
        IpAddr::V6(key) => put(attr(sys::NFTNL_SET_ELEM_KEY), &key.octets()),
    }
    if detail == Detail::Full {
        if let Some(timeout) = element.timeout {
            for (attribute, value) in [
                (attr(sys::NFTNL_SET_ELEM_TIMEOUT), timeout.length()),
                (attr(sys::NFTNL_SET_ELEM_EXPIRATION), timeout.left()),
            ] {
                // SAFETY: the element is alive, and both attributes are 64-bit numbers.
                unsafe { sys::nftnl_set_elem_set_u64(raw.as_ptr(), attribute, value) };
            }
        }
        if let Some(comment) = &element.comment {
            put(
                attr(sys::NFTNL_SET_ELEM_USERDATA),
                &comment.encode(ELEMENT_COMMENT),
            );
        }
    }
    // SAFETY: both are alive; the element belongs to the set from here on, which frees it, and we forget it.
    unsafe { sys::nftnl_set_elem_add(set.as_ptr().as_ptr(), raw.as_ptr()) };
}

// SAFETY: at most PER_MESSAGE elements of at most 200 bytes (two 64-bit attributes, a key, a comment of 130 bytes,
// and their headers) and two names of at most 255 are below the 64 KiB and a page of the largest message.
unsafe impl<K> NlMsg for Elements<'_, K> {
    unsafe fn write(&self, buf: *mut c_void, seq: u32, msg_type: MsgType) {
        let (kind, flags) = match msg_type {
            MsgType::Add => (NEW_ELEMENT, CREATE),
            MsgType::Del => (DELETE_ELEMENT, 0),
        };
        // SAFETY: `buf` has room for the largest message, by our caller's promise; a header is 20 bytes of it.
        let header = unsafe { sys::nftnl_nlmsg_build_hdr(buf.cast(), kind, INET, flags, seq) };
        // SAFETY: `header` lies in `buf`, whose room is enough by the argument above; the set is alive.
        unsafe { sys::nftnl_set_elems_nlmsg_build_payload(header, self.0.as_ptr().as_ptr()) };
    }
}

/// The kind of user data that holds an element's comment, and a table's.
const ELEMENT_COMMENT: u8 = 0;
const TABLE_COMMENT: u8 = 0;

/// A table as the kernel lists it.
pub(super) struct TableRead {
    pub(super) handle: u64,
    pub(super) flags: u32,
    pub(super) comment: Option<String>,
}

/// Reads the message that describes a table.
pub(super) fn read_table(message: &[u8]) -> Option<TableRead> {
    let header = header(message)?;
    let table = Owned::new(sys::nftnl_table_alloc, sys::nftnl_table_free);
    // SAFETY: `header` is a whole message by the check in `header()`, and the table is alive.
    let status = unsafe { sys::nftnl_table_nlmsg_parse(header, table.as_ptr()) };
    if status < 0 {
        return None;
    }
    let mut length = 0;
    // SAFETY: the table is alive; the length is written to a variable of ours.
    let data = unsafe {
        sys::nftnl_table_get_data(
            table.as_ptr(),
            attr(sys::NFTNL_TABLE_USERDATA),
            &raw mut length,
        )
    };
    // SAFETY: libnftnl says how many bytes are there, and they live as long as the table.
    let data = unsafe { bytes(data, length) };
    Some(TableRead {
        // SAFETY: the table is alive; an attribute that is not set reads as 0.
        handle: unsafe { sys::nftnl_table_get_u64(table.as_ptr(), attr(sys::NFTNL_TABLE_HANDLE)) },
        // SAFETY: as above.
        flags: unsafe { sys::nftnl_table_get_u32(table.as_ptr(), attr(sys::NFTNL_TABLE_FLAGS)) },
        comment: decode_comment(&data, TABLE_COMMENT),
    })
}

/// Reads the message that describes a set: the name of its table, its own, its shape.
pub(super) fn read_set(message: &[u8]) -> Option<(String, String, SetShape)> {
    let header = header(message)?;
    let set = Owned::new(sys::nftnl_set_alloc, sys::nftnl_set_free);
    // SAFETY: `header` is a whole message by the check in `header()`, and the set is alive.
    let status = unsafe { sys::nftnl_set_nlmsg_parse(header, set.as_ptr()) };
    if status < 0 {
        return None;
    }
    let is_set = |attribute: u32| {
        // SAFETY: the set is alive.
        unsafe { sys::nftnl_set_is_set(set.as_ptr(), attr(attribute)) }
    };
    let number = |attribute: u32| {
        // SAFETY: the set is alive; an attribute that is not set reads as 0.
        unsafe { sys::nftnl_set_get_u32(set.as_ptr(), attr(attribute)) }
    };
    let name = |attribute: u32| {
        // SAFETY: the set is alive; an attribute that is not set reads as null.
        let name = unsafe { sys::nftnl_set_get_str(set.as_ptr(), attr(attribute)) };
        // SAFETY: libnftnl's strings end in NUL, and this one lives as long as the set.
        unsafe { text(name) }
    };
    let shape = SetShape {
        key_type: number(sys::NFTNL_SET_KEY_TYPE),
        key_len: number(sys::NFTNL_SET_KEY_LEN),
        flags: number(sys::NFTNL_SET_FLAGS),
        size: number(sys::NFTNL_SET_DESC_SIZE),
        gc_interval: number(sys::NFTNL_SET_GC_INTERVAL),
        // SAFETY: as `number`, wider.
        timeout: unsafe { sys::nftnl_set_get_u64(set.as_ptr(), attr(sys::NFTNL_SET_TIMEOUT)) },
        plain: ![
            sys::NFTNL_SET_DATA_TYPE,
            sys::NFTNL_SET_OBJ_TYPE,
            sys::NFTNL_SET_DESC_CONCAT,
            sys::NFTNL_SET_EXPR,
            sys::NFTNL_SET_EXPRESSIONS,
        ]
        .into_iter()
        .any(is_set),
    };
    Some((
        name(sys::NFTNL_SET_TABLE)?,
        name(sys::NFTNL_SET_NAME)?,
        shape,
    ))
}

/// Reads the message that describes a chain: the name of its table, and its shape. A chain without a hook has
/// no type.
pub(super) fn read_chain(message: &[u8]) -> Option<(String, ChainShape)> {
    let header = header(message)?;
    let chain = Owned::new(sys::nftnl_chain_alloc, sys::nftnl_chain_free);
    // SAFETY: `header` is a whole message by the check in `header()`, and the chain is alive.
    let status = unsafe { sys::nftnl_chain_nlmsg_parse(header, chain.as_ptr()) };
    if status < 0 {
        return None;
    }
    let number = |attribute: u32| {
        // SAFETY: the chain is alive; an attribute that is not set reads as 0.
        unsafe { sys::nftnl_chain_get_u32(chain.as_ptr(), attr(attribute)) }
    };
    let name = |attribute: u32| {
        // SAFETY: the chain is alive; an attribute that is not set reads as null.
        let name = unsafe { sys::nftnl_chain_get_str(chain.as_ptr(), attr(attribute)) };
        // SAFETY: libnftnl's strings end in NUL, and this one lives as long as the chain.
        unsafe { text(name) }
    };
    let shape = ChainShape {
        name: name(sys::NFTNL_CHAIN_NAME)?,
        hook: number(sys::NFTNL_CHAIN_HOOKNUM),
        // SAFETY: the chain is alive; an attribute that is not set reads as 0.
        priority: unsafe { sys::nftnl_chain_get_s32(chain.as_ptr(), attr(sys::NFTNL_CHAIN_PRIO)) },
        kind: name(sys::NFTNL_CHAIN_TYPE).unwrap_or_default(),
        policy: number(sys::NFTNL_CHAIN_POLICY),
    };
    Some((name(sys::NFTNL_CHAIN_TABLE)?, shape))
}

/// Reads the message that describes a rule, each expression by `read`. One that libnftnl cannot read is foreign.
pub(super) fn read_rule(message: &[u8], read: impl Fn(&ReadExpr) -> Rule) -> Option<Rule> {
    let header = header(message)?;
    let rule = Owned::new(sys::nftnl_rule_alloc, sys::nftnl_rule_free);
    // SAFETY: `header` is a whole message by the check in `header()`, and the rule is alive.
    let status = unsafe { sys::nftnl_rule_nlmsg_parse(header, rule.as_ptr()) };
    if status < 0 {
        return Some(vec![Expr::Foreign]);
    }
    // SAFETY: the rule is alive, and outlives the iterator.
    let iterator = unsafe { sys::nftnl_expr_iter_create(rule.as_ptr()) };
    let Some(iterator) = NonNull::new(iterator) else {
        handle_alloc_error(Layout::new::<Rule>());
    };
    let mut steps = Vec::new();
    loop {
        // SAFETY: the iterator is alive until the loop ends.
        let expr = unsafe { sys::nftnl_expr_iter_next(iterator.as_ptr()) };
        let Some(expr) = NonNull::new(expr) else {
            break;
        };
        steps.extend(read(&ReadExpr(expr)));
    }
    // SAFETY: it came from nftnl_expr_iter_create and is not used after this.
    unsafe { sys::nftnl_expr_iter_destroy(iterator.as_ptr()) };
    Some(steps)
}

/// An expression of a rule that is alive.
pub(super) struct ReadExpr(NonNull<sys::nftnl_expr>);

impl ReadExpr {
    /// The number; 0 if it is not set.
    pub(super) fn number(&self, attribute: u32) -> u32 {
        // SAFETY: the expression is alive. libnftnl checks the attribute and its width, and answers 0.
        unsafe { sys::nftnl_expr_get_u32(self.0.as_ptr(), attr(attribute)) }
    }

    /// The bytes; none if it is not set.
    pub(super) fn data(&self, attribute: u32) -> Vec<u8> {
        let mut length = 0;
        // SAFETY: the expression is alive; the length is written to a variable of ours.
        let data =
            unsafe { sys::nftnl_expr_get(self.0.as_ptr(), attr(attribute), &raw mut length) };
        // SAFETY: libnftnl says how many bytes are there, and they live as long as the expression.
        unsafe { bytes(data, length) }
    }

    /// The string; empty if it is not set.
    pub(super) fn text(&self, attribute: u32) -> String {
        // SAFETY: the expression is alive.
        let string = unsafe { sys::nftnl_expr_get_str(self.0.as_ptr(), attr(attribute)) };
        // SAFETY: libnftnl's strings end in NUL, and this one lives as long as the expression.
        unsafe { text(string) }.unwrap_or_default()
    }

    pub(super) fn is_set(&self, attribute: u32) -> bool {
        // SAFETY: the expression is alive.
        unsafe { sys::nftnl_expr_is_set(self.0.as_ptr(), attr(attribute)) }
    }
}

/// Reads the elements in a message that answers a look-up or a list. What has no address for a key is left out.
pub(super) fn read_elements(message: &[u8]) -> Option<Vec<Element>> {
    let header = header(message)?;
    let set = Owned::new(sys::nftnl_set_alloc, sys::nftnl_set_free);
    // SAFETY: `header` is a whole message by the check in `header()`, and the set is alive.
    let status = unsafe { sys::nftnl_set_elems_nlmsg_parse(header, set.as_ptr()) };
    if status < 0 {
        return None;
    }
    // SAFETY: the set is alive, and outlives the iterator.
    let iterator = unsafe { sys::nftnl_set_elems_iter_create(set.as_ptr()) };
    let Some(iterator) = NonNull::new(iterator) else {
        handle_alloc_error(Layout::new::<Element>());
    };
    let mut elements = Vec::new();
    loop {
        // SAFETY: the iterator is alive until the loop ends.
        let element = unsafe { sys::nftnl_set_elems_iter_next(iterator.as_ptr()) };
        let Some(element) = NonNull::new(element) else {
            break;
        };
        elements.extend(read_element(element));
    }
    // SAFETY: it came from nftnl_set_elems_iter_create and is not used after this.
    unsafe { sys::nftnl_set_elems_iter_destroy(iterator.as_ptr()) };
    Some(elements)
}

fn read_element(element: NonNull<sys::nftnl_set_elem>) -> Option<Element> {
    let data = |attribute: u16| {
        let mut length = 0;
        // SAFETY: the caller's iterator has just handed it out, so the element is alive; the length is written to a
        // variable of ours.
        let data = unsafe { sys::nftnl_set_elem_get(element.as_ptr(), attribute, &raw mut length) };
        // SAFETY: libnftnl says how many bytes are there, and they live as long as the element.
        unsafe { bytes(data, length) }
    };
    let number = |attribute: u16| {
        let bytes = data(attribute);
        bytes.try_into().ok().map(u64::from_ne_bytes)
    };
    let key = data(attr(sys::NFTNL_SET_ELEM_KEY));
    let key = match key.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(key).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(key).ok()?),
        _ => return None,
    };
    let timeout = number(attr(sys::NFTNL_SET_ELEM_TIMEOUT)).map(|length| {
        let left = number(attr(sys::NFTNL_SET_ELEM_EXPIRATION));
        Timeout::found(length, left.unwrap_or(0))
    });
    let comment = decode_comment(&data(attr(sys::NFTNL_SET_ELEM_USERDATA)), ELEMENT_COMMENT);
    Some(Element {
        key,
        timeout,
        comment: comment.as_deref().and_then(Comment::new),
    })
}

/// An object of libnftnl, freed when it goes.
struct Owned<T> {
    object: NonNull<T>,
    free: unsafe extern "C" fn(*const T),
}

impl<T> Owned<T> {
    /// `free` must be the one that belongs to `alloc`.
    fn new(alloc: unsafe extern "C" fn() -> *mut T, free: unsafe extern "C" fn(*const T)) -> Self {
        // SAFETY: libnftnl's allocators take nothing and return null or an object of ours; all callers are above.
        let object = unsafe { alloc() };
        let Some(object) = NonNull::new(object) else {
            handle_alloc_error(Layout::new::<T>());
        };
        Self { object, free }
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object came from the allocator that belongs to `free`, and nobody else frees it.
        unsafe { (self.free)(self.object.as_ptr()) };
    }
}

/// The message as libnftnl takes it: `None` unless it is whole, aligned, and long enough for what opens each.
fn header(message: &[u8]) -> Option<*const sys::libc::nlmsghdr> {
    let (length, _) = message.split_first_chunk()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let header = message.as_ptr().cast::<sys::libc::nlmsghdr>();
    (header.is_aligned() && (HEADER_LEN..=message.len()).contains(&length)).then_some(header)
}

fn len(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("comments and keys are short")
}

/// # Safety
/// `string` is null, or ends in NUL and lives through the call.
unsafe fn text(string: *const c_char) -> Option<String> {
    if string.is_null() {
        return None;
    }
    // SAFETY: not null, so the caller's promise holds.
    let string = unsafe { CStr::from_ptr(string) };
    Some(string.to_string_lossy().into_owned())
}

/// # Safety
/// `data` is null, or `length` bytes lie there and live through the call.
unsafe fn bytes(data: *const c_void, length: u32) -> Vec<u8> {
    let Ok(length) = usize::try_from(length) else {
        return Vec::new();
    };
    if data.is_null() {
        return Vec::new();
    }
    // SAFETY: not null, so the caller's promise holds; bytes need no alignment.
    unsafe { std::slice::from_raw_parts(data.cast::<u8>(), length) }.to_vec()
}
