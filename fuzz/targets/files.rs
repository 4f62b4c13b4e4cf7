#![no_main]

#[path = "../../tests/it/fuzz/harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::files::run(data));
