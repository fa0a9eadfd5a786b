//! A set's element: its key, how long it lasts, and the comment that says why it is there.
//!
//! Pure. Comments are held to what survives `nft list ruleset | nft -f -`.

use std::net::IpAddr;
use std::time::Duration;

/// The kind of user data that holds a comment: `NFTNL_UDATA_SET_ELEM_COMMENT`, and the same for a table.
const COMMENT: u8 = 0;

/// User data by which nft knows an interval without an end: `NFTNL_UDATA_SET_ELEM_FLAGS`, four bytes,
/// `NFTNL_SET_ELEM_F_INTERVAL_OPEN`.
const OPEN: [u8; 2] = [1, 4];
const IS_OPEN: u32 = 1;

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The address, or the first of a prefix.
    pub key: IpAddr,
    /// How long it lasts; `None`: until it is taken out.
    pub timeout: Option<Timeout>,
    /// What stands beside it in a listing.
    pub comment: Option<Comment>,
}

/// What is written of an element, or of an interval's edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) key: Key,
    pub(super) timeout: Option<Timeout>,
    pub(super) user_data: Vec<u8>,
    pub(super) is_end: bool,
}

/// What an element is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Address(IpAddr),
    Port(u16),
}

impl From<IpAddr> for Key {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

impl From<u16> for Key {
    fn from(port: u16) -> Self {
        Self::Port(port)
    }
}

impl Wire {
    /// A key alone.
    pub(super) fn key(key: impl Into<Key>) -> Self {
        Self {
            key: key.into(),
            timeout: None,
            user_data: Vec::new(),
            is_end: false,
        }
    }

    /// The first key of an interval.
    pub(super) fn first(key: impl Into<Key>, is_open: bool) -> Self {
        let user_data = if is_open {
            [&OPEN[..], &IS_OPEN.to_ne_bytes()].concat()
        } else {
            Vec::new()
        };
        Self {
            user_data,
            ..Self::key(key)
        }
    }

    /// The first key behind an interval.
    pub(super) fn end(key: impl Into<Key>) -> Self {
        Self {
            is_end: true,
            ..Self::key(key)
        }
    }
}

impl From<&Element> for Wire {
    fn from(element: &Element) -> Self {
        let comment = element.comment.as_ref();
        Self {
            timeout: element.timeout,
            user_data: comment.map(Comment::encode).unwrap_or_default(),
            ..Self::key(element.key)
        }
    }
}

/// The whole length of an element's life and the time left of it, in milliseconds, as the kernel takes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    length: u64,
    left: u64,
}

impl Timeout {
    /// Zero means "no timeout", and zero left "the whole length": a ban about to end would last for ever, or all
    /// over again. Less than a tick is fine, the kernel makes it one.
    const MIN: u64 = 1;

    /// A hundred years. The kernel refuses what overflows in nanoseconds.
    const MAX: u64 = 100 * 366 * 24 * 3600 * 1000;

    /// An element that lives for `length` and has `left` to go, brought within what the kernel takes.
    #[must_use]
    pub fn new(length: Duration, left: Duration) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let length = millis(length).clamp(Self::MIN, Self::MAX);
        Self {
            length,
            left: millis(left).clamp(Self::MIN, length),
        }
    }

    /// As the kernel tells it. One that has just run out has nothing left.
    pub(super) fn found(length: u64, left: u64) -> Self {
        Self { length, left }
    }

    /// From start to end.
    #[must_use]
    pub fn length(self) -> u64 {
        self.length
    }

    /// From now to the end; 0 for an element that has run out and is not collected yet.
    #[must_use]
    pub fn left(self) -> u64 {
        self.left
    }
}

/// Text that is safe in an nft comment: at most 127 of `A-Za-z0-9 ._:/,=-`. Anything else would make a saved
/// ruleset unloadable, since nft lists comments as they are and refuses longer ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment(String);

impl Comment {
    /// The longest comment that nft loads.
    pub const MAX_LEN: usize = 127;

    /// What stands in for a character that is not safe.
    const STAND_IN: char = '_';

    /// Makes `text` safe; `None` if nothing is left of it.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let safe: String = text
            .chars()
            .take(Self::MAX_LEN)
            .map(|c| {
                if c.is_ascii_alphanumeric() || " ._:/,=-".contains(c) {
                    c
                } else {
                    Self::STAND_IN
                }
            })
            .collect();
        (!safe.is_empty()).then_some(Self(safe))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As user data: type, length, text, NUL.
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = u8::try_from(self.0.len() + 1)
            .expect("a comment has at most 127 bytes by construction");
        let mut data = vec![COMMENT, length];
        data.extend_from_slice(self.0.as_bytes());
        data.push(0);
        data
    }
}

/// The comment in user data, as far as it makes sense.
pub(super) fn decode_comment(mut data: &[u8]) -> Option<String> {
    while let Some(([found, length], rest)) = data.split_first_chunk() {
        let value = rest.get(..usize::from(*length))?;
        if *found == COMMENT {
            let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        data = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_disarmed_and_cut() {
        for (text, safe) in [
            (
                "syn scan, 3 tcp ports, last 23",
                "syn scan, 3 tcp ports, last 23",
            ),
            ("a \"quoted\"\nline; \\ é", "a _quoted__line_ _ _"),
            ("2001:db8::/64 a=b_c-d", "2001:db8::/64 a=b_c-d"),
        ] {
            assert_eq!(Comment::new(text).unwrap().as_str(), safe);
        }
        assert_eq!(Comment::new(""), None);
        let long = Comment::new(&"é".repeat(500)).unwrap();
        assert_eq!(long.as_str().len(), Comment::MAX_LEN);
        assert_eq!(long.encode().len(), 2 + Comment::MAX_LEN + 1);
    }

    #[test]
    fn user_data_is_read_whatever_it_holds() {
        let comment = Comment::new("why").unwrap();
        assert_eq!(comment.encode(), b"\0\x04why\0");
        for (data, text) in [
            (&b"\0\x04why\0"[..], Some("why")),
            (b"\x01\x02xx\0\x04why\0", Some("why")),
            (b"\0\x03why", Some("why")),
            (b"\0\x04why", None),
            (b"\0", None),
            (b"", None),
            (b"\x01\xff", None),
        ] {
            assert_eq!(decode_comment(data).as_deref(), text, "{data:?}");
        }
    }

    #[test]
    fn a_timeout_stays_within_what_the_kernel_takes() {
        let ms = Duration::from_millis;
        for (length, left, expected) in [
            (ms(600_000), ms(240_000), (600_000, 240_000)),
            (ms(1000), ms(5000), (1000, 1000)),
            (ms(1000), ms(0), (1000, Timeout::MIN)),
            (ms(0), ms(0), (Timeout::MIN, Timeout::MIN)),
            (Duration::MAX, Duration::MAX, (Timeout::MAX, Timeout::MAX)),
        ] {
            let timeout = Timeout::new(length, left);
            assert_eq!((timeout.length(), timeout.left()), expected);
        }
    }
}
