//! portsentry.toml(5), made of the comments in config/portsentry.toml.

use std::fmt::Write as _;

use crate::roff;

/// The configuration that is installed: every key, explained, with its default.
pub(crate) const SAMPLE: &str = include_str!("../../config/portsentry.toml");

const DESCRIPTION: [&str; 3] = [
    "What portsentry does is said in `/etc/portsentry/portsentry.toml`, a file in TOML: sections in brackets, and keys with \
     values. A missing key means the default, which stands here beside each key's name. An unknown key is a mistake, and \
     with a mistake portsentry does not start; `portsentry check` names them all, with file and line.",
    "Where this file is missing and `/etc/portsentry/portsentry.conf` is there, that one is read, in the form of portsentry 1.2: \
     see portsentry.conf(5).",
    "What other programs set, and what is yours alone on one host of many, belongs into files in `/etc/portsentry/portsentry.toml.d`.",
];

pub(crate) fn page() -> String {
    let mut page = roff::head("PORTSENTRY.TOML", 5);
    page += ".SH NAME\nportsentry.toml \\- configuration of portsentry, which bans port scanners\n.SH DESCRIPTION\n";
    page += &roff::prose(".PP", DESCRIPTION);
    let mut said: Vec<&str> = Vec::new();
    let mut in_sections = false;
    for line in SAMPLE.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            said.push(comment.trim());
        } else if line.starts_with('[') {
            if !in_sections {
                page += ".SH SETTINGS\n";
            }
            in_sections = true;
            let _ = writeln!(page, ".SS {}", roff::escaped(line));
            page += &roff::prose(".PP", paragraphs(&said).iter().map(String::as_str));
            said.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            let _ = writeln!(
                page,
                ".TP\n\\fB{}\\fR = {}",
                roff::escaped(key),
                roff::escaped(value)
            );
            let text = paragraphs(&said);
            let mut text = text.iter().map(String::as_str);
            if let Some(first) = text.next() {
                let _ = writeln!(page, "{}", roff::line(first));
            }
            page += &roff::prose(".IP", text);
            said.clear();
        } else if !in_sections && !said.is_empty() {
            // The head of the file.
            page += &roff::prose(".PP", paragraphs(&said).iter().map(String::as_str));
            said.clear();
        }
    }
    page += ".SH FILES\n";
    for (file, what) in [
        ("/etc/portsentry/portsentry.toml", "the configuration"),
        (
            "/etc/portsentry/portsentry.toml.d/*.toml",
            "read after it, in the order of their names",
        ),
        ("/etc/portsentry/ignore.list", "who is never banned"),
    ] {
        let _ = writeln!(page, ".TP\n.I {file}\n{what}");
    }
    page + ".SH SEE ALSO\n.BR portsentry (8),\n.BR portsentry.conf (5),\n.BR nft (8)\n"
}

/// Lines of a comment as paragraphs: a blank line begins one, and so does a value that is explained (`"log": …`).
fn paragraphs(lines: &[&str]) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut begins = true;
    for line in lines {
        if line.is_empty() {
            begins = true;
            continue;
        }
        let explains = line.starts_with('"')
            && line
                .split_once("\": ")
                .is_some_and(|(value, _)| !value[1..].contains(' '));
        match paragraphs.last_mut() {
            Some(last) if !begins && !explains => {
                last.push(' ');
                last.push_str(line);
            }
            _ => paragraphs.push((*line).to_owned()),
        }
        begins = false;
    }
    paragraphs
}
