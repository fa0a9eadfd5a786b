//! An address or prefix as people and files write it: what is read is written so that it reads the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portsentry::source::Source;

fuzz_target!(|text: &str| {
    if let Ok(source) = text.parse::<Source>() {
        assert_eq!(source.to_string().parse::<Source>().ok(), Some(source));
    }
});
