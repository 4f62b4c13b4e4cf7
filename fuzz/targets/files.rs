//! The target `files`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("files"), |bytes: &[u8]| guided::run("files", bytes));
