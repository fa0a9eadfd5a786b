//! Rules found in the kernel, turned back into the steps that ours are made of.

use std::ffi::c_int;

use nftnl_sys as sys;

use super::ffi::{self, ReadExpr};
use super::shape::{Expr, Rule};

/// The only register that our rules use.
const REGISTER: u32 = 1;

/// Reads the message that describes a rule.
pub(super) fn read_rule(message: &[u8]) -> Option<Rule> {
    ffi::read_rule(message, read_expr)
}

/// One step of a rule. A range, which newer nft makes where older ones compare twice, counts as the two.
fn read_expr(expr: &ReadExpr) -> Vec<Expr> {
    let known = match expr.text(sys::NFTNL_EXPR_NAME).as_str() {
        "meta" if in_register(expr, &[sys::NFTNL_EXPR_META_DREG]) => {
            match c_int::try_from(expr.number(sys::NFTNL_EXPR_META_KEY)) {
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
            .map(|attribute| expr.number(attribute));
            match (c_int::try_from(base), offset, length) {
                (Ok(libc::NFT_PAYLOAD_NETWORK_HEADER), 12, 4) => Some(Expr::Source4),
                (Ok(libc::NFT_PAYLOAD_NETWORK_HEADER), 8, 16) => Some(Expr::Source6),
                (Ok(libc::NFT_PAYLOAD_TRANSPORT_HEADER), 0, 1) => Some(Expr::IcmpType),
                _ => None,
            }
        }
        "cmp" if in_register(expr, &[sys::NFTNL_EXPR_CMP_SREG]) => {
            let data = expr.data(sys::NFTNL_EXPR_CMP_DATA);
            match c_int::try_from(expr.number(sys::NFTNL_EXPR_CMP_OP)) {
                Ok(libc::NFT_CMP_EQ) => Some(Expr::Equal(data)),
                Ok(libc::NFT_CMP_GTE) => Some(Expr::AtLeast(data)),
                Ok(libc::NFT_CMP_LTE) => Some(Expr::AtMost(data)),
                _ => None,
            }
        }
        "range"
            if in_register(expr, &[sys::NFTNL_EXPR_RANGE_SREG])
                && c_int::try_from(expr.number(sys::NFTNL_EXPR_RANGE_OP))
                    == Ok(libc::NFT_RANGE_EQ) =>
        {
            return vec![
                Expr::AtLeast(expr.data(sys::NFTNL_EXPR_RANGE_FROM_DATA)),
                Expr::AtMost(expr.data(sys::NFTNL_EXPR_RANGE_TO_DATA)),
            ];
        }
        "bitwise"
            if in_register(
                expr,
                &[sys::NFTNL_EXPR_BITWISE_SREG, sys::NFTNL_EXPR_BITWISE_DREG],
            ) && expr.number(sys::NFTNL_EXPR_BITWISE_OP) == 0
                && expr
                    .data(sys::NFTNL_EXPR_BITWISE_XOR)
                    .iter()
                    .all(|b| *b == 0) =>
        {
            Some(Expr::Mask(expr.data(sys::NFTNL_EXPR_BITWISE_MASK)))
        }
        "lookup"
            if in_register(expr, &[sys::NFTNL_EXPR_LOOKUP_SREG])
                && expr.number(sys::NFTNL_EXPR_LOOKUP_FLAGS) == 0
                && !expr.is_set(sys::NFTNL_EXPR_LOOKUP_DREG) =>
        {
            Some(Expr::Lookup(expr.text(sys::NFTNL_EXPR_LOOKUP_SET)))
        }
        "counter" => Some(Expr::Counter),
        "immediate" if expr.is_set(sys::NFTNL_EXPR_IMM_VERDICT) => {
            match c_int::try_from(expr.number(sys::NFTNL_EXPR_IMM_VERDICT)) {
                Ok(libc::NF_DROP) => Some(Expr::Drop),
                Ok(libc::NF_ACCEPT) => Some(Expr::Accept),
                _ => None,
            }
        }
        _ => None,
    };
    vec![known.unwrap_or(Expr::Foreign)]
}

/// Whether these registers are the one that we use.
fn in_register(expr: &ReadExpr, attributes: &[u32]) -> bool {
    attributes
        .iter()
        .all(|attribute| expr.number(*attribute) == REGISTER)
}
