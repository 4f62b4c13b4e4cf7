//! The target `dhcp`: docs/fuzzing.md.

#![no_main]

#[path = "../guided.rs"]
mod guided;

libfuzzer_sys::fuzz_target!(init: guided::plant("dhcp"), |bytes: &[u8]| guided::run("dhcp", bytes));
