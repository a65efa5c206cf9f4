//! One binary for all targets: `WEFT_FUZZ_TARGET` names the one.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let run = TARGET.get_or_init(|| {
        let name = std::env::var("WEFT_FUZZ_TARGET").unwrap_or_default();
        weft_fuzz::target_named(&name)
            .unwrap_or_else(|| panic!("WEFT_FUZZ_TARGET is {name:?}, no target"))
    });
    run(data);
});
