//! The target `plug`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("plug"), |bytes: &[u8]| guided::run("plug", bytes));
