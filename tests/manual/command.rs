//! portsentry(8), made of what `--help` is made of.

use std::fmt::Write as _;

use clap::Command;
use clap_mangen::Man;

use crate::roff;

const DESCRIPTION: [&str; 3] = [
    "portsentry watches the ports of this host that nothing listens on. Who tries several of them within a time is banned: in the \
     kernel, through a set of nftables whose elements end by themselves. Connecting to a service never counts.",
    "`portsentry run` is the daemon, which the unit `portsentry-nft.service` starts. The other commands ask it over a socket that \
     only root may open; `ban`, `unban`, `list`, `history` and `withdraw` work without it too.",
    "Who you cannot do without, such as the address you administer from, belongs into an ignore list: `portsentry ignore add`.",
];

const LOCKED_OUT: [&str; 2] = [
    "From another address, or at the console: `portsentry unban ADDRESS`, with or without the daemon. Without portsentry: `nft delete \
     table inet portsentry` lifts everything, until the daemon puts it back.",
    "Then `portsentry ignore add ADDRESS`, which takes effect at once.",
];

const STATUS: [(&str, &str); 4] = [
    ("0", "done"),
    (
        "1",
        "failed; for `status`: no daemon runs, or bans are not in force",
    ),
    ("2", "what was typed cannot be meant"),
    ("78", "the configuration has mistakes"),
];

const FILES: [(&str, &str); 7] = [
    (
        "/etc/portsentry/portsentry.toml",
        "the configuration, see portsentry.toml(5)",
    ),
    (
        "/etc/portsentry/portsentry.conf",
        "that of portsentry 1.2, see portsentry.conf(5), where there is no portsentry.toml",
    ),
    ("/etc/portsentry/ignore.list", "who is never banned"),
    ("/var/lib/portsentry/history.db", "the record of bans"),
    (
        "/var/lib/portsentry/history.log",
        "a line for every scan, as portsentry 1.2 wrote it",
    ),
    (
        "/run/portsentry/control.sock",
        "where commands reach the daemon",
    ),
    (
        "/usr/share/portsentry/portsentry.nft",
        "the table, for those who include it in their nftables.conf",
    ),
];

pub(crate) fn page() -> String {
    let mut page = roff::head("PORTSENTRY", 8);
    let mut command = portsentry::cli::command();
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let about = about.trim_end_matches('.');
    let _ = writeln!(
        page,
        ".SH NAME\nportsentry \\- {}",
        roff::escaped(&about.to_lowercase())
    );
    page += ".SH SYNOPSIS\n\\fBportsentry\\fR [\\fB\\-c\\fR \\fIFILE\\fR] \\fICOMMAND\\fR …\n.br\n";
    page += "\\fBportsentry\\fR [\\fB\\-tcp\\fR] [\\fB\\-udp\\fR] [\\fB\\-stcp\\fR] [\\fB\\-sudp\\fR] [\\fB\\-atcp\\fR] [\\fB\\-audp\\fR]\n";
    page += ".SH DESCRIPTION\n";
    page += &roff::prose(".PP", DESCRIPTION);
    page += ".SH OPTIONS\n";
    page += &body(&Man::new(command.clone()), false);
    page += ".SH COMMANDS\n";
    for (name, leaf) in leaves() {
        let _ = writeln!(page, ".SS {}", roff::escaped(&name));
        page += &body(&Man::new(leaf), true);
    }
    page += ".SH AS PORTSENTRY 1.2\n";
    command.build();
    let flags = command
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    page += &roff::prose(".PP", [flags.as_str()]);
    page += ".SH LOCKED OUT?\n";
    page += &roff::prose(".PP", LOCKED_OUT);
    page += ".SH EXIT STATUS\n";
    for (status, what) in STATUS {
        let _ = writeln!(page, ".TP\n.B {status}\n{}", roff::line(what));
    }
    page += ".SH FILES\n";
    for (file, what) in FILES {
        let _ = writeln!(page, ".TP\n.I {file}\n{}", roff::line(what));
    }
    page + ".SH SEE ALSO\n.BR portsentry.toml (5),\n.BR portsentry.conf (5),\n.BR nft (8)\n"
}

/// Every command that does something, by the words that it is typed with.
pub(crate) fn leaves() -> Vec<(String, Command)> {
    let mut leaves = Vec::new();
    collect("portsentry", &portsentry::cli::command(), &mut leaves);
    leaves
}

fn collect(name: &str, command: &Command, leaves: &mut Vec<(String, Command)>) {
    for sub in command.get_subcommands() {
        let name = format!("{name} {}", sub.get_name());
        if sub.has_subcommands() {
            collect(&name, sub, leaves);
        } else {
            let leaf = sub.clone().disable_help_flag(true).bin_name(&name);
            leaves.push((name, leaf));
        }
    }
}

/// What clap_mangen says of a command, without its headings.
fn body(man: &Man, is_leaf: bool) -> String {
    let mut bytes = Vec::new();
    let rendered = if is_leaf {
        man.render_synopsis_section(&mut bytes)
            .and_then(|()| man.render_description_section(&mut bytes))
            .and_then(|()| man.render_options_section(&mut bytes))
    } else {
        man.render_options_section(&mut bytes)
    };
    rendered.expect("memory takes everything");
    let text = String::from_utf8(bytes).expect("a page is text");
    let lines = text.lines().filter_map(|line| match line {
        ".SH SYNOPSIS" | ".SH OPTIONS" => None,
        ".SH DESCRIPTION" => Some(".PP"),
        // What is defined for the page's head.
        line if line.starts_with(".ie") || line.starts_with(".el") => None,
        line => Some(line),
    });
    lines
        .map(|line| line.trim_end().replace("\\*(Aq", "\\(aq") + "\n")
        .collect()
}
