//! Writes the inputs that each target begins with: `corpus/<target>/seed-<n>`.

#[path = "../../tests/it/fuzz/harness/mod.rs"]
mod harness;

use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in harness::TARGETS {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        std::fs::create_dir_all(&dir)?;
        for (number, input) in (target.corpus)().into_iter().enumerate() {
            (target.run)(&input);
            std::fs::write(dir.join(format!("seed-{number}")), input)?;
        }
    }
    Ok(())
}
