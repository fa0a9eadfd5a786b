//! Words of a line as iptables and ipset write them: apart by spaces, in quotes where they have some.

/// The words of a line; `None` where a quote has no end.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            '\\' if is_quoted => word.get_or_insert_default().push(chars.next()?),
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    (!is_quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_iptables_meant_by_its_line() {
        for (line, words) in [
            ("-A INPUT  -j X", Some(vec!["-A", "INPUT", "-j", "X"])),
            (
                r#"--comment "a \"b\" \\ c" -j"#,
                Some(vec!["--comment", r#"a "b" \ c"#, "-j"]),
            ),
            (r#"comment """#, Some(vec!["comment", ""])),
            ("", Some(vec![])),
            (r#"--comment "a"#, None),
            (r#"--comment "a\"#, None),
        ] {
            let words = words.map(|words| words.into_iter().map(str::to_owned).collect());
            assert_eq!(split(line), words, "{line}");
        }
    }
}
