//! What it costs to keep 64 serial consoles, and how late a reader has their bytes: the coordinator beside conserver, one
//! after the other in one run.
//!
//! ```text
//! cargo bench --features sim --bench console [-- --lines 64 --seconds 30]
//! ```
//!
//! Each line is a pseudo terminal that gets what a busy serial line at 115200 baud gives: 115 bytes every 10 ms, at once or a few each
//! millisecond. With `--memory`, what a device takes instead. Prints a table; `--write` puts it into `docs/performance.md` as well. Needs nats-server, and for the comparison Debian's
//! conserver-server and conserver-client.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../shared/document.rs"]
mod document;
mod keepers;
mod load;
#[path = "../shared/process.rs"]
mod process;

use keepers::{Conserver, Keeper, Pilab};
use load::{Grain, Load};
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
    if args.iter().any(|arg| arg == "--memory") {
        return memory().await;
    }
    let mut text = "| keeper | bytes come | readers | CPU, % of a core | bytes lost | late, p50 ms | p99 ms |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for grain in [Grain::Whole, Grain::Fine] {
        for stalled in [0, 1] {
            let keeper = Pilab::start(lines, stalled).await;
            let readers = if stalled == 0 { "1" } else { "3, of which 1 stalled" };
            row(&mut text, keeper, grain, time, readers).await;
        }
        if let Some(keeper) = Conserver::start(lines).await {
            row(&mut text, keeper, grain, time, "1").await;
        }
    }
    document::tell("console", &text);
}

/// What a coordinator and its nats-server take with so many devices, each with a console that has written for two seconds.
async fn memory() {
    let mut text = "| devices | coordinator, PSS KiB | a device more | its nats-server, PSS KiB | a device more |\n|---|---|---|---|---|\n"
        .to_owned();
    let mut before: Option<(usize, [u64; 2])> = None;
    for devices in [100, 500, 1000] {
        let mut keeper = Pilab::start(devices, 0).await;
        let mut load = Load::plug(keeper.names(), Grain::Whole);
        keeper.attach().await;
        load.run(Duration::from_secs(2)).await;
        assert_eq!(keeper.kept(load.written()).await, load.written(), "all of it is journaled");
        let now = keeper.memory();
        let more = |at: usize| {
            before.map_or(String::new(), |(fewer, before)| {
                format!("{:.1}", (now[at] as f64 - before[at] as f64) / (devices - fewer) as f64)
            })
        };
        writeln!(text, "| {devices} | {} | {} | {} | {} |", now[0], more(0), now[1], more(1)).unwrap();
        before = Some((devices, now));
        keeper.stop().await;
    }
    document::tell("memory", &text);
}

/// Measures one that keeps consoles; a line of the table.
async fn row(text: &mut String, mut keeper: impl Keeper, grain: Grain, time: Duration, readers: &str) {
    let mut load = Load::plug(keeper.names(), grain);
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
    let come = if grain == Grain::Whole { "115 each 10 ms" } else { "10 each ms" };
    writeln!(
        text,
        "| {} | {come} | {readers} | {cpu:.1} | {lost} | {:.2} | {:.2} |",
        keeper.name(),
        at(50),
        at(99)
    )
    .unwrap();
    keeper.stop().await;
}
