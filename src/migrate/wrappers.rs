//! Lines that an old version has added to hosts.deny: found by the text they were made of, and taken out.
//!
//! Nothing else in the file changes. Ours, which have a mark above them, are left alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::respond::hosts_deny::is_mark;

/// 1.2's `KILL_HOSTS_DENY`: a line with places for what is filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Target,
    Port,
    Mode,
}

/// A line of the file.
struct Line<'a> {
    /// With its line break.
    bytes: &'a [u8],
    /// Whom an old version wrote it for.
    address: Option<IpAddr>,
}

/// What is filled in, and whether that is an address, a port or a mode.
const PLACES: [(&str, Piece); 3] = [
    ("$TARGET$", Piece::Target),
    ("$PORT$", Piece::Port),
    ("$MODE$", Piece::Mode),
];

/// The modes of 1.2 and of 2.x.
const MODES: [&[u8]; 8] = [
    b"tcp", b"udp", b"stcp", b"sudp", b"atcp", b"audp", b"stealth", b"connect",
];

/// Characters of the longest address.
const MAX_ADDRESS: usize = 45;

impl Template {
    /// `None` for a text that names no address.
    #[must_use]
    pub fn new(mut text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let next = |text: &str| {
            let found = PLACES
                .iter()
                .map(|(name, piece)| Some((text.find(name)?, name.len(), piece)));
            found.flatten().min_by_key(|(at, ..)| *at)
        };
        while let Some((at, length, piece)) = next(text) {
            pieces.push(Piece::Text(text[..at].to_owned()));
            pieces.push(piece.clone());
            text = &text[at + length..];
        }
        pieces.push(Piece::Text(text.to_owned()));
        pieces.contains(&Piece::Target).then_some(Self(pieces))
    }

    /// Whom the line is for, if it is made of this.
    fn address(&self, line: &[u8]) -> Option<IpAddr> {
        rest_of(&self.0, line, None)
    }
}

/// Matches the pieces from the first on; `target` is what stood in the first place for an address.
fn rest_of(pieces: &[Piece], line: &[u8], target: Option<&[u8]>) -> Option<IpAddr> {
    let Some((piece, rest)) = pieces.split_first() else {
        let address: IpAddr = std::str::from_utf8(target?).ok()?.parse().ok()?;
        return line.is_empty().then(|| address.to_canonical());
    };
    match (piece, target) {
        (Piece::Text(text), _) => rest_of(rest, line.strip_prefix(text.as_bytes())?, target),
        (Piece::Target, Some(before)) => rest_of(rest, line.strip_prefix(before)?, target),
        (Piece::Target, None) => {
            let is_part = |byte: &&u8| byte.is_ascii_hexdigit() || b".:".contains(byte);
            let longest = line.iter().take(MAX_ADDRESS).take_while(is_part).count();
            (1..=longest).rev().find_map(|length| {
                let (target, after) = line.split_at(length);
                rest_of(rest, after, Some(target))
            })
        }
        (Piece::Port, _) => {
            let digits = line.iter().take(5).take_while(|byte| byte.is_ascii_digit());
            (1..=digits.count())
                .rev()
                .find_map(|length| rest_of(rest, &line[length..], target))
        }
        (Piece::Mode, _) => MODES
            .iter()
            .find_map(|mode| rest_of(rest, line.strip_prefix(*mode)?, target)),
    }
}

/// The numbers of the lines that were made of one of these, from 1, and whom each is for.
#[must_use]
pub fn find(text: &[u8], templates: &[Template]) -> Vec<(usize, IpAddr)> {
    let numbered = lines(text, templates).zip(1..);
    numbered
        .filter_map(|(line, number)| Some((number, line.address?)))
        .collect()
}

/// The text without the lines that were made of one of these for one of `addresses`.
#[must_use]
pub fn without(text: &[u8], templates: &[Template], addresses: &BTreeSet<IpAddr>) -> Vec<u8> {
    let goes = |line: &Line<'_>| line.address.is_some_and(|it| addresses.contains(&it));
    let kept: Vec<&[u8]> = lines(text, templates)
        .filter(|line| !goes(line))
        .map(|line| line.bytes)
        .collect();
    kept.concat()
}

/// A line below our mark is ours, and one below a line that ends with a backslash is a part of that one.
fn lines<'a>(text: &'a [u8], templates: &[Template]) -> impl Iterator<Item = Line<'a>> {
    let mut before: &[u8] = b"";
    text.split_inclusive(|&byte| byte == b'\n')
        .map(move |bytes| {
            let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
            let is_its_own = !is_mark(before) && !before.ends_with(b"\\") && !line.ends_with(b"\\");
            let address = templates
                .iter()
                .filter(|_| is_its_own)
                .find_map(|template| template.address(line));
            before = line;
            Line { bytes, address }
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> Template {
        Template::new(text).unwrap()
    }

    fn addresses(text: &[&str]) -> BTreeSet<IpAddr> {
        text.iter().map(|it| it.parse().unwrap()).collect()
    }

    #[test]
    fn a_line_is_recognised_by_what_it_was_made_of() {
        for (made_of, line, address) in [
            ("ALL: $TARGET$", "ALL: 10.9.0.2", Some("10.9.0.2")),
            (
                "ALL: $TARGET$ : DENY",
                "ALL: 10.9.0.2 : DENY",
                Some("10.9.0.2"),
            ),
            ("ALL: $TARGET$: DENY", "ALL: fd09::2: DENY", Some("fd09::2")),
            ("ALL: $TARGET$:", "ALL: fd09:::", Some("fd09::")),
            ("$TARGET$ $TARGET$", "10.9.0.2 10.9.0.2", Some("10.9.0.2")),
            ("$TARGET$ $TARGET$", "10.9.0.2 10.9.0.3", None),
            (
                "ALL: $TARGET$ # $PORT$ $MODE$",
                "ALL: 10.9.0.2 # 11 stcp",
                Some("10.9.0.2"),
            ),
            (
                "ALL: $TARGET$ # $PORT$$MODE$",
                "ALL: 10.9.0.2 # 65535audp",
                Some("10.9.0.2"),
            ),
            ("ALL: $TARGET$ # $PORT$", "ALL: 10.9.0.2 # 111111", None),
            ("ALL: $TARGET$", "ALL: 10.9.0.2 ", None),
            ("ALL: $TARGET$", "all: 10.9.0.2", None),
            ("ALL: $TARGET$", "#ALL: 10.9.0.2", None),
            ("ALL: $TARGET$", "ALL: 10.9.0.", None),
            ("ALL: $TARGET$", "ALL: .example.net", None),
            ("ALL: $TARGET$", "ALL: ", None),
        ] {
            let found = template(made_of).address(line.as_bytes());
            assert_eq!(
                found.map(|it| it.to_string()).as_deref(),
                address,
                "{made_of}: {line}"
            );
        }
        assert_eq!(Template::new("ALL: ALL"), None);
    }

    const FILE: &[u8] = b"# mine\n\
        ALL: 10.9.0.2 : DENY\n\
        sshd: 10.9.0.2\n\
        ALL: 10.9.0.9 : DENY\n\
        # portsentry: 10.9.0.2 from 2026-11-22T16:47:39Z until 2026-11-23T16:47:39Z: by hand\n\
        ALL: 10.9.0.2 : DENY\n\
        ALL: 10.9.0.3 \\\n\
        ALL: 10.9.0.2 : DENY\n\
        \xff\r\n\
        ALL: 10.9.0.2 : DENY";

    #[test]
    fn lines_of_old_go_and_everything_else_stays_to_the_byte() {
        let made_of = [template("ALL: $TARGET$"), template("ALL: $TARGET$ : DENY")];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            find(FILE, &made_of),
            [
                (2, ip("10.9.0.2")),
                (4, ip("10.9.0.9")),
                (10, ip("10.9.0.2"))
            ]
        );
        let left = without(FILE, &made_of, &addresses(&["10.9.0.2", "10.9.0.8"]));
        let expected: Vec<&[u8]> = FILE
            .split_inclusive(|&byte| byte == b'\n')
            .zip(1..)
            .filter(|(_, number)| ![2, 10].contains(number))
            .map(|(line, _)| line)
            .collect();
        assert_eq!(left, expected.concat());
        assert_eq!(without(FILE, &[], &addresses(&["10.9.0.2"])), FILE);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(
            made_of in proptest::collection::vec(prop::sample::select(vec![
                "$TARGET$", "$PORT$", "$MODE$", "ALL: ", ":", "$", " ", "1",
            ]), 0..6),
            text in proptest::collection::vec(prop::sample::select(vec![
                "10.9.0.2", "ALL: ", ":", "1", "tcp", " ", "\n", "\\", "$", "é",
            ]), 0..20),
        ) {
            let templates: Vec<Template> = Template::new(&made_of.concat()).into_iter().collect();
            let text = text.concat();
            let found: BTreeSet<IpAddr> =
                find(text.as_bytes(), &templates).into_iter().map(|(_, address)| address).collect();
            let left = without(text.as_bytes(), &templates, &found);
            prop_assert_eq!(left == text.as_bytes(), found.is_empty());
        }
    }
}
