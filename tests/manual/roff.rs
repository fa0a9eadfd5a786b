//! Text as roff, the language of manual pages.

use std::fmt::Write as _;

/// A page's first lines. Its date is left out, which would change it without a reason.
pub(crate) fn head(name: &str, section: u8) -> String {
    format!(
        ".TH {name} {section} \"\" \"portsentry {}\" \"portsentry\"\n.nh\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Prose: what stands in backquotes is bold, each paragraph begins with `lead`, a macro.
pub(crate) fn prose<'a>(lead: &str, paragraphs: impl IntoIterator<Item = &'a str>) -> String {
    let mut page = String::new();
    for paragraph in paragraphs {
        let _ = writeln!(page, "{lead}\n{}", line(paragraph));
    }
    page
}

/// A line of prose.
pub(crate) fn line(text: &str) -> String {
    let mut bold = false;
    let pieces = text.split('`').map(|piece| {
        let font = if bold { "\\fB" } else { "\\fR" };
        bold = !bold;
        font.to_owned() + &escaped(piece)
    });
    let line: String = pieces.collect();
    // It begins in the roman font anyway, and a dot or quote at the beginning would be a macro.
    let line = line.strip_prefix("\\fR").unwrap_or(&line).to_owned();
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}

/// Text that means itself.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}
