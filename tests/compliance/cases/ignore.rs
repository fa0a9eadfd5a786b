//! The ignore file: what an entry means, and when it is read.

use super::BLOCKED;
use crate::bench::IGNORE;
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let file = |name: &str, text: &'static str| {
        Case::new(format!("ignore file: {name}"), move |bench| {
            bench.write(IGNORE, text);
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
    };
    let invalid = |entry: &str| {
        format!("adminalert: Invalid netmask in config file: {entry}␤  Ignoring entry.{BLOCKED}")
    };
    vec![
        file("an address", "10.77.0.2\n"),
        file("another address", "10.77.0.22\n").sees(BLOCKED),
        file(
            "a comment and an empty line before",
            "# 10.77.0.9\n\n10.77.0.2\n",
        ),
        file("a comment behind", "10.77.0.2 # mine\n"),
        file("a prefix", "10.77.0.0/24\n"),
        file("a prefix with host bits", "10.77.0.9/24\n"),
        file("a prefix of others", "10.78.0.0/16\n").sees(BLOCKED),
        file("a blank before", " 10.77.0.2\n")
            .sees(BLOCKED)
            .but_ours("a blank before an entry does not void it in silence", ""),
        file("the last line without its end", "192.0.2.200\n10.77.0.2")
            .sees(BLOCKED)
            .but_ours("the last line counts, with or without its end", ""),
        file("an address cut short", "10.77.2\n"),
        file("a name", "localhost\n").sees(BLOCKED),
        file("a prefix of 33 bits", "10.77.0.2/33\n")
            .sees(&invalid("10.77.0.2/33"))
            .but_ours("a mistake is told once, when the file is read", BLOCKED),
        file("a netmask", "10.77.0.2/255.255.255.255\n")
            .sees(&invalid("10.77.0.2/255.255.255.255"))
            .but_ours("a mistake is told once, when the file is read", BLOCKED),
        file("all addresses, /0", "0.0.0.0/0\n").sees(BLOCKED),
        file("0.0.0.0", "0.0.0.0\n").sees(BLOCKED),
        Case::new("ignore file: an edit applies at once", |bench| {
            bench.start("-atcp", "");
            bench.write(IGNORE, "10.77.0.2\n");
            bench.nmap("-sS", "11");
        }),
        Case::new(
            "ignore file: an entry taken away applies at once",
            |bench| {
                bench.write(IGNORE, "10.77.0.2\n");
                bench.start("-atcp", "");
                bench.write(IGNORE, "# nobody\n");
                bench.nmap("-sS", "11");
            },
        )
        .sees(BLOCKED),
        Case::new("ignore file: it goes away", |bench| {
            bench.write(IGNORE, "10.77.0.2\n");
            bench.start("-atcp", "");
            bench.sh(&format!("rm {IGNORE}"));
            bench.nmap("-sS", "11");
        })
        .sees(&format!(
            "attackalert: ERROR: cannot open ignore file. Blocking host anyway.{BLOCKED}"
        ))
        .but_ours("the last good list stays in force", ""),
    ]
}
