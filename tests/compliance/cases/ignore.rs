//! The ignore file: what an entry means, and when it is read.

use super::{SYN, blocked};
use crate::bench::{HOST6, IGNORE, STRANGER6};
use crate::case::Case;

pub(crate) fn cases() -> Vec<Case> {
    let blocked = &blocked("atcp", SYN, 11);
    let file = |name: &str, text: &'static str| {
        Case::new(format!("ignore file: {name}"), move |bench| {
            bench.write(IGNORE, text);
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
        })
    };
    let invalid = |entry: &str| {
        format!("adminalert: Invalid netmask in config file: {entry}␤  Ignoring entry.\n{blocked}")
    };
    vec![
        file("an address", "10.77.0.2\n"),
        file("another address", "10.77.0.22\n").sees(blocked),
        file(
            "a comment and an empty line before",
            "# 10.77.0.9\n\n10.77.0.2\n",
        ),
        file("lines of blanks", "   \n\t\n\n10.77.0.2\n"),
        file("blanks behind", "10.77.0.2 \t \n"),
        file("a comment behind", "10.77.0.2 # mine\n"),
        file("a prefix", "10.77.0.0/24\n"),
        file("a prefix with host bits", "10.77.0.9/24\n"),
        file("a prefix of others", "10.78.0.0/16\n").sees(blocked),
        file("a blank before", " 10.77.0.2\n")
            .sees(blocked)
            .but_ours("a blank before an entry does not void it in silence", ""),
        file("the last line without its end", "192.0.2.200\n10.77.0.2")
            .sees(blocked)
            .but_ours("the last line counts, with or without its end", ""),
        file("the only line without its end", "10.77.0.2")
            .sees(blocked)
            .but_ours("the last line counts, with or without its end", ""),
        // Without its last character, this would be the stranger.
        file("another address, without the line's end", "10.77.0.25").sees(blocked),
        file("an address cut short", "10.77.2\n"),
        file("a name", "localhost\n").sees(blocked),
        file("a prefix of 33 bits", "10.77.0.2/33\n")
            .sees(&invalid("10.77.0.2/33"))
            .but_ours("a mistake is told once, when the file is read", blocked),
        file("a netmask", "10.77.0.2/255.255.255.255\n")
            .sees(&invalid("10.77.0.2/255.255.255.255"))
            .but_ours("a mistake is told once, when the file is read", blocked),
        file("all addresses, /0", "0.0.0.0/0\n").sees(blocked),
        file("0.0.0.0", "0.0.0.0\n").sees(blocked),
        Case::new(
            "ignore file: an IPv6 address in capitals, and a comment",
            |bench| {
                bench.speak_ipv6();
                bench.write(IGNORE, format!("{} # mine\n", STRANGER6.to_uppercase()));
                bench.start("-atcp", "");
                bench.stranger.nmap("-6 -sS", "11", HOST6);
                bench.stranger.ip("addr add fd77::3/64 dev eth0 nodad");
                bench
                    .stranger
                    .nmap("-6 -sS -S fd77::3 -e eth0", "11", HOST6);
            },
        )
        .but_ours(
            "the original knows only IPv4",
            &blocked
                .replace("ALL: 10.77.0.2 ", "ALL: [fd77::3] ")
                .replace("10.77.0.2", "fd77::3"),
        ),
        Case::new("ignore file: what is ignored is counted", |bench| {
            bench.write(IGNORE, "10.77.0.2\n");
            bench.start("-atcp", "");
            bench.nmap("-sS", "11");
            bench.everything_is_judged();
            let (_, status) = bench.launch("status");
            let told = status.contains("1 from ignored sources");
            bench.report(&format!("told: {told}"));
        })
        .sees("told: false")
        .but_ours("the original says nothing of whom it ignores", "told: true"),
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
        .sees(blocked),
        Case::new("ignore file: it goes away", |bench| {
            bench.write(IGNORE, "10.77.0.2\n");
            bench.start("-atcp", "");
            bench.sh(&format!("rm {IGNORE}"));
            bench.nmap("-sS", "11");
        })
        .sees(&format!(
            "attackalert: ERROR: cannot open ignore file. Blocking host anyway.\n{blocked}"
        ))
        .but_ours("the last good list stays in force", ""),
    ]
}
