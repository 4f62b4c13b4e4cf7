//! What the run engine adds to each step, and how soon a browser has opened the page of a large night.
//!
//! ```text
//! cargo bench --features vm,agent,sim,gpio --bench engine [-- --steps 200 --write]
//! ```
//!
//! A run of many `ping` steps through the program itself, on an agent in a container of this host (root, podman and nats-server),
//! and its own events. The page is that of 500 runs that failed with much to say, and is opened by headless Chromium.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../shared/document.rs"]
mod document;
mod page;
mod steps;

use std::path::Path;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let steps =
        args.iter().skip_while(|arg| *arg != "--steps").nth(1).map_or(200, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut text = "| what | measured | bound | met |\n|---|---|---|---|\n".to_owned();
    text += &steps::rows(dir.path(), steps).await;
    text += &page::rows(dir.path()).await;
    document::tell("engine", &text);
}

/// The program, with a state of its own.
fn pilab(dir: &Path, args: &[&str]) -> tokio::process::Command {
    let state = dir.join("state");
    let command = pilab::support::command::Command::new(env!("CARGO_BIN_EXE_pilab"))
        .env("PILAB_STATE_DIR", state.to_str().unwrap())
        .env("USER", "local")
        .args(args);
    command.build()
}

/// The sample below which so many of a hundred are.
fn percentile(sorted: &[f64], part: usize) -> f64 {
    sorted[(sorted.len() - 1) * part / 100]
}
