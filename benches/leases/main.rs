//! Leases under random events, and what a decision costs.
//!
//! ```text
//! cargo bench --bench leases [-- --events 1000000] [--seed 1]
//! ```
//!
//! The simulation panics, with the seed of the lab, when something does not hold that must: see `simulator`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "a table is what was asked for")]

mod cost;
mod simulator;

use tokio::time::Instant;

/// What the issue asks for.
const EVENTS: u64 = 1_000_000;
/// Releases, handovers and requests in each lab whose decisions are measured.
const TURNS: u64 = 20_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let number = |name: &str, otherwise: u64| {
        let given = args.iter().skip_while(|arg| *arg != name).nth(1);
        given.map_or(otherwise, |text| text.parse().unwrap())
    };
    simulate(number("--seed", 1), number("--events", EVENTS));
    println!("\n| devices | waiting | decisions | mean | p99 |\n|---|---|---|---|---|");
    for devices in [100, 1_000, 10_000] {
        let cost::Cost { devices, waiting, decisions, mean, p99 } = cost::measure(devices, TURNS);
        let micros = |time: std::time::Duration| time.as_secs_f64() * 1e6;
        println!("| {devices} | {waiting} | {decisions} | {:.1} µs | {:.1} µs |", micros(mean), micros(p99));
    }
}

fn simulate(seed: u64, events: u64) {
    let began = Instant::now();
    let tally = simulator::run(seed, events);
    let took = began.elapsed();
    println!("| simulated leases | seed {seed} |\n|---|---|");
    println!("| events in labs | {} in {} |", tally.events, tally.labs);
    println!("| decisions | {} |", tally.decisions);
    println!("| leases granted | {}, {} of them after waiting |", tally.grants, tally.served_after_waiting);
    println!(
        "| crashes between writes, reboots, steps of the clock | {}, {}, {} |",
        tally.crashes, tally.reboots, tally.clock_steps
    );
    println!("| devices lent twice, tokens that did not grow, deadlocks | 0, 0, 0 |");
    let waited = |longest: simulator::Longest| {
        let seconds = |time: std::time::Duration| time.as_secs();
        format!("{} s of {} s", seconds(longest.wait), seconds(longest.bound))
    };
    println!("| longest wait of its bound, with bookings | {} |", waited(tally.longest_booked));
    println!("| longest wait of its bound, without | {} |", waited(tally.longest));
    println!("| estimates kept | {} of {} |", tally.estimates_kept, tally.estimates);
    println!("| time with all checks | {:.1} s |", took.as_secs_f64());
}
