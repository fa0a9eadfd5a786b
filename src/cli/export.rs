//! `portsentry export`: the running bans as a list that `import` takes.

use std::io::{self, Write};

use jiff::Timestamp;

use super::list::each_running;
use super::{Client, Failure, print};
use crate::control::Listed;

/// Prints the sources of the running bans, a line each, as they arrive.
pub(super) fn run(client: &Client) -> Result<(), Failure> {
    let mut failure = None;
    print(
        |out| match each_running(client, |listed| write(out, listed)) {
            Ok(written) => written,
            Err(error) => {
                failure = Some(error);
                Ok(())
            }
        },
    )?;
    failure.map_or(Ok(()), Err)
}

/// `203.0.113.7 # until 2026-11-22T16:47:39Z: syn scan, 3 tcp ports, last 23`. No reason has a line's end in it.
fn write(out: &mut dyn Write, listed: &Listed) -> io::Result<()> {
    let end = listed.length.map(|length| {
        let seconds = listed
            .start
            .div_euclid(1000)
            .saturating_add_unsigned(length);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    });
    write!(out, "{} # ", listed.source)?;
    match end {
        Some(end) => writeln!(out, "until {end}: {}", listed.reason),
        None => writeln!(out, "for ever: {}", listed.reason),
    }
}
