//! The targets that the tests try at random, guided by coverage.

#[path = "../tests/it/fuzz/harness/mod.rs"]
mod harness;

use harness::{TARGETS, Target};
use std::path::Path;

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}

/// Puts the target's good inputs where `cargo fuzz` begins.
pub(crate) fn plant(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    std::fs::create_dir_all(&dir).expect("a directory for inputs");
    for (number, input) in (target(name).corpus)().into_iter().enumerate() {
        std::fs::write(dir.join(format!("good-{number}")), input).expect("room for inputs");
    }
}

/// Tries one input.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    (target(name).run)(bytes);
}
