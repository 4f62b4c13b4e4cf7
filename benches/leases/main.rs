//! Leases: under random events, what a decision costs, and the ledger on a real nats-server.
//!
//! ```text
//! cargo bench --bench leases [-- --seed 1 --events 1000000 --seconds 10]
//! ```
//!
//! Prints tables; `--write` puts them into `docs/performance.md` as well. The simulation panics, with the seed of
//! the lab, when something does not hold that must: see `simulator`.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

mod cost;
#[path = "../shared/document.rs"]
mod document;
mod ledger;
mod simulator;

use document::yes;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

/// Releases, handovers and requests in each lab whose decisions are measured.
const TURNS: u64 = 20_000;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let number = |name: &str, otherwise: u64| {
        let given = args.iter().skip_while(|arg| *arg != name).nth(1);
        given.map_or(otherwise, |text| text.parse().unwrap())
    };
    let (seed, events, seconds) =
        (number("--seed", 1), number("--events", 1_000_000), number("--seconds", 10));
    let ledger = ledger::measure(Duration::from_secs(seconds)).await;
    let mut text = ledger_table(ledger);
    text += &cost_table();
    text += &simulation_table(seed, events);
    document::tell("leases", &text);
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

fn ledger_table(figures: ledger::Figures) -> String {
    let ledger::Figures { mut alone, mut crowded, pace, writes_a_second, taken } = figures;
    alone.sort_unstable();
    crowded.sort_unstable();
    let (free, busy) = (percentile(&alone, 99), percentile(&crowded, 99));
    format!(
        "| the ledger, 1,000 devices | measured | bound | met |\n|---|---|---|---|\n\
         | request → granted, one client, all free | p50 {:.2} ms, p99 {free:.2} ms (n {}) | p99 < 10 ms | {} |\n\
         | acquired and released, 16 clients | {pace:.0}/s ({} in all) | ≥ 1,000/s | {} |\n\
         | request → granted meanwhile | p50 {:.2} ms, p99 {busy:.2} ms |  |  |\n\
         | writes meanwhile | {writes_a_second:.0}/s |  |  |\n\
         | the ledger taken over, all devices leased | {:.2} s | < 5 s for 100 | {} |\n\n",
        percentile(&alone, 50),
        alone.len(),
        yes(free < 10.0),
        crowded.len(),
        yes(pace >= 1000.0),
        percentile(&crowded, 50),
        taken.as_secs_f64(),
        yes(taken < Duration::from_secs(5)),
    )
}

fn cost_table() -> String {
    let mut text = "| devices | waiting | decisions | mean | p99 |\n|---|---|---|---|---|\n".to_owned();
    for devices in [100, 1_000, 10_000] {
        let cost::Cost { devices, waiting, decisions, mean, p99 } = cost::measure(devices, TURNS);
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (mean, p99) = (micros(mean), micros(p99));
        writeln!(text, "| {devices} | {waiting} | {decisions} | {mean:.1} µs | {p99:.1} µs |").unwrap();
    }
    text + "\n"
}

fn simulation_table(seed: u64, events: u64) -> String {
    let began = Instant::now();
    let tally = simulator::run(seed, events);
    let took = began.elapsed().as_secs_f64();
    let waited = |longest: simulator::Longest| {
        format!("{} s of {} s", longest.wait.as_secs(), longest.bound.as_secs())
    };
    format!(
        "| simulated leases | seed {seed} |\n|---|---|\n\
         | events | {} in {} labs |\n\
         | decisions | {} in {took:.0} s with all checks |\n\
         | leases granted | {}, {} of them after waiting |\n\
         | crashes between writes, reboots, steps of the clock | {}, {}, {} |\n\
         | devices lent twice, tokens that did not grow, requests that waited beyond their bound, deadlocks | none |\n\
         | the wait that came nearest to its bound, labs without bookings | {} |\n\
         | the same, labs with bookings | {} |\n\
         | estimates kept, of those told in labs then left alone | {} of {} |\n\n",
        tally.events,
        tally.labs,
        tally.decisions,
        tally.grants,
        tally.served_after_waiting,
        tally.crashes,
        tally.reboots,
        tally.clock_steps,
        waited(tally.longest),
        waited(tally.longest_booked),
        tally.estimates_kept,
        tally.estimates,
    )
}
