//! Nights: how long a plan takes, how busy it keeps devices, and how soon a flaky device is found out.
//!
//! ```text
//! cargo bench --bench nights [-- --seed 1]
//! ```
//!
//! Prints tables; `--write` puts them into `docs/performance.md` as well. Nothing is run: devices and times are drawn.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what was asked for")]

#[path = "../leases/simulator/random.rs"]
#[expect(dead_code, reason = "another simulator draws more with it")]
mod random;
mod simulator;
mod trust;

use std::path::Path;

/// The lines between which the tables stand in the document.
const MARKS: (&str, &str) = ("<!-- nights: begin -->\n", "<!-- nights: end -->\n");

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let seed = args.iter().skip_while(|arg| *arg != "--seed").nth(1).map_or(1, |text| text.parse().unwrap());
    let text = simulator::table(seed) + &trust::table(seed);
    print!("{text}");
    if args.iter().any(|arg| arg == "--write") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
        let document = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = document.split_once(MARKS.0).unwrap();
        let (_, after) = rest.split_once(MARKS.1).unwrap();
        std::fs::write(path, format!("{before}{}\n{text}{}{after}", MARKS.0, MARKS.1)).unwrap();
    }
}
