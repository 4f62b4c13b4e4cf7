//! Nights: how long a plan takes, how busy it keeps devices, and how soon a flaky device is found out.
//!
//! ```text
//! cargo bench --bench nights [-- --seed 1]
//! ```
//!
//! Prints tables; `--write` puts them into `docs/performance.md` as well. Nothing is run: devices and times are drawn.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../shared/document.rs"]
mod document;
#[path = "../leases/simulator/random.rs"]
#[expect(dead_code, reason = "another simulator draws more with it")]
mod random;
mod simulator;
mod trust;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let seed = args.iter().skip_while(|arg| *arg != "--seed").nth(1).map_or(1, |text| text.parse().unwrap());
    let text = simulator::table(seed) + &trust::table(seed);
    document::tell("nights", &text);
}
