//! The target `tftp`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("tftp"), |bytes: &[u8]| guided::run("tftp", bytes));
