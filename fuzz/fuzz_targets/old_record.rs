//! An old version's history, with the names that strangers' hosts have in it: no text stops the reader, and none makes a record
//! out of part of a line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portsentry::migrate::record;

fuzz_target!(|text: &[u8]| {
    let lines = text.split(|&byte| byte == b'\n').count();
    let mut records = 0;
    record::read(text, |_| records += 1).expect("a slice can be read");
    assert!(records <= lines);
});
