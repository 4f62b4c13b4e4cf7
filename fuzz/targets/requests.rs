//! The target `requests`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("requests"), |bytes: &[u8]| guided::run("requests", bytes));
