//! What it costs to keep 64 serial consoles, and how late a reader has their bytes: the coordinator beside conserver, one
//! after the other in one run.
//!
//! ```text
//! cargo bench --features sim --bench console [-- --lines 64 --seconds 30]
//! ```
//!
//! Each line is a pseudo terminal that gets what a busy serial line at 115200 baud gives: 115 bytes every 10 ms. Prints a
//! table; `--write` puts it into `docs/performance.md` as well. Needs nats-server, and for the comparison Debian's
//! conserver-server and conserver-client.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../shared/document.rs"]
mod document;
mod keepers;
mod load;
#[path = "../shared/process.rs"]
mod process;

use keepers::{Conserver, Keeper, Pilab};
use load::Load;
use std::fmt::Write as _;
use std::time::Duration;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let number = |name: &str, otherwise: u64| {
        let after = args.iter().skip_while(|arg| *arg != name).nth(1);
        after.map_or(otherwise, |text| text.parse().unwrap())
    };
    let lines = usize::try_from(number("--lines", 64)).unwrap();
    let time = Duration::from_secs(number("--seconds", 30));
    let mut text = "| keeper | readers | CPU, % of a core | bytes lost | late, p50 ms | p99 ms |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for stalled in [0, 1] {
        let keeper = Pilab::start(lines, stalled).await;
        row(&mut text, keeper, time, if stalled == 0 { "1" } else { "3, of which 1 stalled" }).await;
    }
    match Conserver::start(lines).await {
        Some(keeper) => row(&mut text, keeper, time, "1").await,
        None => writeln!(text, "\nconserver is not installed.").unwrap(),
    }
    document::tell("console", &text);
}

/// Measures one that keeps consoles; a line of the table.
async fn row(text: &mut String, mut keeper: impl Keeper, time: Duration, readers: &str) {
    let mut load = Load::plug(keeper.names());
    keeper.attach().await;
    // What it takes to open 64 lines is not what it takes to keep them.
    load.run(Duration::from_secs(2)).await;
    keeper.forget();
    let before = keeper.processor();
    load.run(time).await;
    let cpu = (keeper.processor() - before) / time.as_secs_f64() * 100.0;
    let kept = keeper.kept(load.written()).await;
    let lost: u64 =
        load.written().iter().zip(&kept).map(|(written, kept)| written.saturating_sub(*kept)).sum();
    let mut late = keeper.late();
    late.sort_unstable();
    let at = |part: usize| late.get(late.len() * part / 100).map_or(f64::NAN, |ns| *ns as f64 / 1e6);
    writeln!(text, "| {} | {readers} | {cpu:.0} | {lost} | {:.2} | {:.2} |", keeper.name(), at(50), at(99))
        .unwrap();
    keeper.stop().await;
}
