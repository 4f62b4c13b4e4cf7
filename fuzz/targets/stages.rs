//! The target `stages`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("stages"), |bytes: &[u8]| guided::run("stages", bytes));
