//! A packet as a socket delivers it, whole or cut: no panic, and never another port for having been cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portsentry::probe::{ScanType, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for len in 0..bytes.len() {
        match (parse(&bytes[..len]), whole) {
            (Ok(cut), Ok(whole)) => {
                assert_eq!(
                    (cut.source, cut.dest, cut.protocol, cut.port, cut.ip_options),
                    (
                        whole.source,
                        whole.dest,
                        whole.protocol,
                        whole.port,
                        whole.ip_options
                    )
                );
            }
            // Cut before the flags that make it an answer.
            (Ok(cut), Err(_)) => assert_eq!(cut.scan_type, ScanType::Fragment),
            (Err(_), _) => {}
        }
    }
});
