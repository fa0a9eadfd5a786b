//! Messages from the kernel, turned into what the rest of this room speaks of.
//!
//! Whatever they hold: what does not make sense is left out, or foreign.

use std::ffi::c_int;
use std::net::IpAddr;
use std::time::Duration;

use nftnl_sys as sys;

use super::element::{Comment, Element, Timeout, decode_comment};
use super::ffi::{self, Object, View};
use super::shape::{ChainShape, Expr, LOG_BURST, LOG_LEVEL, LOG_PREFIX, Rule, SetShape};
use crate::config::LogRate;

/// The only register that our rules use.
const REGISTER: u32 = 1;

/// A table as the kernel lists it.
pub(super) struct TableRead {
    pub(super) handle: u64,
    pub(super) flags: u32,
    /// The port of the netlink socket it belongs to; 0: none.
    pub(super) owner: u32,
    pub(super) comment: Option<String>,
}

/// The table that a message describes.
pub(super) fn table(message: &[u8]) -> Option<TableRead> {
    let table = ffi::table(message)?;
    let table = table.view();
    Some(TableRead {
        handle: long(table, sys::NFTNL_TABLE_HANDLE).unwrap_or(0),
        flags: number(table, sys::NFTNL_TABLE_FLAGS),
        owner: number(table, sys::NFTNL_TABLE_OWNER),
        comment: table
            .data(sys::NFTNL_TABLE_USERDATA)
            .and_then(decode_comment),
    })
}

/// The set that a message describes: the name of its table, its own, its shape.
pub(super) fn set(message: &[u8]) -> Option<(String, String, SetShape)> {
    let set = ffi::set(message)?;
    let set = set.view();
    let shape = SetShape {
        key_type: number(set, sys::NFTNL_SET_KEY_TYPE),
        key_len: number(set, sys::NFTNL_SET_KEY_LEN),
        flags: number(set, sys::NFTNL_SET_FLAGS),
        size: number(set, sys::NFTNL_SET_DESC_SIZE),
        gc_interval: number(set, sys::NFTNL_SET_GC_INTERVAL),
        timeout: long(set, sys::NFTNL_SET_TIMEOUT).unwrap_or(0),
        plain: ![
            sys::NFTNL_SET_DATA_TYPE,
            sys::NFTNL_SET_OBJ_TYPE,
            sys::NFTNL_SET_DESC_CONCAT,
            sys::NFTNL_SET_EXPR,
            sys::NFTNL_SET_EXPRESSIONS,
        ]
        .into_iter()
        .any(|attribute| set.has(attribute)),
    };
    Some((
        text(set, sys::NFTNL_SET_TABLE)?,
        text(set, sys::NFTNL_SET_NAME)?,
        shape,
    ))
}

/// The chain that a message describes: the name of its table, and its shape. A chain without a hook has no type.
pub(super) fn chain(message: &[u8]) -> Option<(String, ChainShape)> {
    let chain = ffi::chain(message)?;
    let chain = chain.view();
    let shape = ChainShape {
        name: text(chain, sys::NFTNL_CHAIN_NAME)?,
        hook: number(chain, sys::NFTNL_CHAIN_HOOKNUM),
        priority: i32::from_ne_bytes(number(chain, sys::NFTNL_CHAIN_PRIO).to_ne_bytes()),
        kind: chain.chain_type().unwrap_or_default(),
        policy: number(chain, sys::NFTNL_CHAIN_POLICY),
    };
    Some((text(chain, sys::NFTNL_CHAIN_TABLE)?, shape))
}

/// The rule that a message describes. One that libnftnl cannot read is foreign, not absent.
pub(super) fn rule(message: &[u8]) -> Option<Rule> {
    let mut steps = Vec::new();
    let read = ffi::each_expr(message, |expr| steps.extend(step(expr)));
    if read.is_none() {
        steps.push(Expr::Foreign);
    }
    Some(steps)
}

/// The elements in a message that answers a look-up or a list. What has no address for a key is left out.
pub(super) fn elements(message: &[u8]) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    ffi::each_element(message, |found| elements.extend(element(found)))?;
    Some(elements)
}

/// The keys in a message that tells of deleted elements.
pub(super) fn deleted(message: &[u8]) -> Option<Vec<IpAddr>> {
    let mut keys = Vec::new();
    let found = |found: &View<sys::nftnl_set_elem>| keys.extend(key(found));
    ffi::each_deleted_element(message, found)?;
    Some(keys)
}

/// The edges in a message that answers a list of intervals: `true` for an interval's end.
pub(super) fn edges(message: &[u8]) -> Option<Vec<(IpAddr, bool)>> {
    let mut edges = Vec::new();
    ffi::each_element(message, |found| {
        let is_end = number(found, sys::NFTNL_SET_ELEM_FLAGS) & ffi::INTERVAL_END != 0;
        edges.extend(key(found).map(|key| (key, is_end)));
    })?;
    Some(edges)
}

fn key(element: &View<sys::nftnl_set_elem>) -> Option<IpAddr> {
    let key = element.data(sys::NFTNL_SET_ELEM_KEY)?;
    match key.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(key).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(key).ok()?)),
        _ => None,
    }
}

fn element(element: &View<sys::nftnl_set_elem>) -> Option<Element> {
    let key = key(element)?;
    let left = long(element, sys::NFTNL_SET_ELEM_EXPIRATION);
    // The kernel leaves the timeout out where it is the set's default one: then what is left is the best that is known.
    let length = long(element, sys::NFTNL_SET_ELEM_TIMEOUT).or(left);
    let comment = element
        .data(sys::NFTNL_SET_ELEM_USERDATA)
        .and_then(decode_comment);
    Some(Element {
        key,
        timeout: length.map(|length| Timeout::found(length, left.unwrap_or(0))),
        comment: comment.as_deref().and_then(Comment::new),
    })
}

/// One step of a rule. A range, which newer nft makes where older ones compare twice, counts as the two.
fn step(expr: &View<sys::nftnl_expr>) -> Vec<Expr> {
    let known = match text(expr, sys::NFTNL_EXPR_NAME)
        .unwrap_or_default()
        .as_str()
    {
        "meta" if in_register(expr, &[sys::NFTNL_EXPR_META_DREG]) => {
            match c_int::try_from(number(expr, sys::NFTNL_EXPR_META_KEY)) {
                Ok(libc::NFT_META_NFPROTO) => Some(Expr::Family),
                Ok(libc::NFT_META_L4PROTO) => Some(Expr::Transport),
                _ => None,
            }
        }
        "payload" if in_register(expr, &[sys::NFTNL_EXPR_PAYLOAD_DREG]) => {
            let [base, offset, length] = [
                sys::NFTNL_EXPR_PAYLOAD_BASE,
                sys::NFTNL_EXPR_PAYLOAD_OFFSET,
                sys::NFTNL_EXPR_PAYLOAD_LEN,
            ]
            .map(|attribute| number(expr, attribute));
            match (c_int::try_from(base), offset, length) {
                (Ok(libc::NFT_PAYLOAD_NETWORK_HEADER), 12, 4) => Some(Expr::Source4),
                (Ok(libc::NFT_PAYLOAD_NETWORK_HEADER), 8, 16) => Some(Expr::Source6),
                (Ok(libc::NFT_PAYLOAD_TRANSPORT_HEADER), 0, 1) => Some(Expr::IcmpType),
                _ => None,
            }
        }
        "cmp" if in_register(expr, &[sys::NFTNL_EXPR_CMP_SREG]) => {
            let data = data(expr, sys::NFTNL_EXPR_CMP_DATA);
            match c_int::try_from(number(expr, sys::NFTNL_EXPR_CMP_OP)) {
                Ok(libc::NFT_CMP_EQ) => Some(Expr::Equal(data)),
                Ok(libc::NFT_CMP_GTE) => Some(Expr::AtLeast(data)),
                Ok(libc::NFT_CMP_LTE) => Some(Expr::AtMost(data)),
                _ => None,
            }
        }
        "range"
            if in_register(expr, &[sys::NFTNL_EXPR_RANGE_SREG])
                && c_int::try_from(number(expr, sys::NFTNL_EXPR_RANGE_OP))
                    == Ok(libc::NFT_RANGE_EQ) =>
        {
            return vec![
                Expr::AtLeast(data(expr, sys::NFTNL_EXPR_RANGE_FROM_DATA)),
                Expr::AtMost(data(expr, sys::NFTNL_EXPR_RANGE_TO_DATA)),
            ];
        }
        "bitwise"
            if in_register(
                expr,
                &[sys::NFTNL_EXPR_BITWISE_SREG, sys::NFTNL_EXPR_BITWISE_DREG],
            ) && number(expr, sys::NFTNL_EXPR_BITWISE_OP) == 0
                && data(expr, sys::NFTNL_EXPR_BITWISE_XOR)
                    .iter()
                    .all(|b| *b == 0) =>
        {
            Some(Expr::Mask(data(expr, sys::NFTNL_EXPR_BITWISE_MASK)))
        }
        "lookup"
            if in_register(expr, &[sys::NFTNL_EXPR_LOOKUP_SREG])
                && number(expr, sys::NFTNL_EXPR_LOOKUP_FLAGS) == 0
                && !expr.has(sys::NFTNL_EXPR_LOOKUP_DREG) =>
        {
            Some(Expr::Lookup(
                text(expr, sys::NFTNL_EXPR_LOOKUP_SET).unwrap_or_default(),
            ))
        }
        "limit" => limit(expr),
        "counter" => Some(Expr::Counter),
        "log" if is_our_log(expr) => Some(Expr::Log),
        "immediate" if expr.has(sys::NFTNL_EXPR_IMM_VERDICT) => {
            match c_int::try_from(number(expr, sys::NFTNL_EXPR_IMM_VERDICT)) {
                Ok(libc::NF_DROP) => Some(Expr::Drop),
                Ok(libc::NF_ACCEPT) => Some(Expr::Accept),
                _ => None,
            }
        }
        _ => None,
    };
    vec![known.unwrap_or(Expr::Foreign)]
}

/// A limit in packets, not in bytes, that holds up what is over it, not what is below, and has our burst.
fn limit(expr: &View<sys::nftnl_expr>) -> Option<Expr> {
    let [burst, kind, flags] = [
        sys::NFTNL_EXPR_LIMIT_BURST,
        sys::NFTNL_EXPR_LIMIT_TYPE,
        sys::NFTNL_EXPR_LIMIT_FLAGS,
    ]
    .map(|attribute| number(expr, attribute));
    let packets = u32::try_from(long(expr, sys::NFTNL_EXPR_LIMIT_RATE)?).ok()?;
    let per = Duration::from_secs(long(expr, sys::NFTNL_EXPR_LIMIT_UNIT)?);
    ((burst, kind, flags) == (LOG_BURST, 0, 0)).then_some(Expr::Limit(LogRate { packets, per }))
}

/// Whether it logs to the kernel's log rather than to a program, with our prefix and level, and no more than usual.
fn is_our_log(expr: &View<sys::nftnl_expr>) -> bool {
    !expr.has(sys::NFTNL_EXPR_LOG_GROUP)
        && number(expr, sys::NFTNL_EXPR_LOG_FLAGS) == 0
        && number(expr, sys::NFTNL_EXPR_LOG_LEVEL) == LOG_LEVEL
        && text(expr, sys::NFTNL_EXPR_LOG_PREFIX)
            .is_some_and(|p| p.as_bytes() == LOG_PREFIX.to_bytes())
}

/// Whether these registers are the one that we use.
fn in_register(expr: &View<sys::nftnl_expr>, attributes: &[u32]) -> bool {
    attributes
        .iter()
        .all(|attribute| number(expr, *attribute) == REGISTER)
}

/// A number of 32 bits; 0 if it is not set.
fn number<T: Object>(object: &View<T>, attribute: u32) -> u32 {
    let bytes = object.data(attribute).and_then(|data| data.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

/// A number of 64 bits.
fn long<T: Object>(object: &View<T>, attribute: u32) -> Option<u64> {
    let bytes = object.data(attribute)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes))
}

/// A string, up to its NUL.
fn text<T: Object>(object: &View<T>, attribute: u32) -> Option<String> {
    let bytes = object.data(attribute)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// Bytes; none if they are not set.
fn data<T: Object>(object: &View<T>, attribute: u32) -> Vec<u8> {
    object.data(attribute).unwrap_or_default().to_vec()
}
