//! How fast a rack gets its files by TFTP, and what that costs the server: ours beside those of others, over loopback.
//!
//! ```text
//! cargo bench --bench tftp [-- --megabytes 256 --rounds 3]
//! ```
//!
//! Prints a table; `--write` puts it into `docs/performance.md` as well. Needs root for dnsmasq, whose port is 69.
#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

mod client;
#[path = "../shared/document.rs"]
mod document;
mod peers;
#[path = "../shared/process.rs"]
mod process;

use peers::Peer;
use std::fmt::Write as _;
use tokio::time::Instant;

/// Clients at once, and blocks between acknowledgements.
const CASES: [(u64, u16); 4] = [(1, 1), (32, 1), (1, 16), (32, 16)];

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1).cloned();
    if let Some(dir) = after("--serve") {
        peers::serve(dir.into(), "127.0.0.1:6901".parse().unwrap()).await;
        return;
    }
    // Called by `cargo test`, which asks for no measurement.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let number = |name: &str, otherwise: u64| after(name).map_or(otherwise, |text| text.parse().unwrap());
    let (megabytes, rounds) = (number("--megabytes", 256), number("--rounds", 3));
    let dir = tempfile::tempdir().unwrap();
    // For servers that give their rights away.
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("small"), "x").unwrap();
    for (clients, _) in CASES {
        let bytes = vec![b'x'; usize::try_from(megabytes * 1_000_000 / clients).unwrap()];
        std::fs::write(dir.path().join(clients.to_string()), bytes).unwrap();
    }
    let peers = peers::start(dir.path()).await;
    let mut text =
        "| server | clients | window | MB/s | server CPU s/GB |\n|---|---|---|---|---|\n".to_owned();
    for (clients, window) in CASES {
        for peer in &peers {
            let mut best: Option<(f64, f64)> = None;
            for _ in 0..rounds {
                let Some((rate, cost)) = measure(peer, clients, window).await else { break };
                let (fastest, cheapest) = best.unwrap_or((0.0, f64::MAX));
                best = Some((fastest.max(rate), cheapest.min(cost)));
            }
            let figures = match best {
                None => "no windows |".to_owned(),
                Some((rate, cost)) if cost > 0.0 => format!("{rate:.0} | {cost:.2}"),
                Some((rate, _)) => format!("{rate:.0} | not told"),
            };
            writeln!(text, "| {} | {clients} | {window} | {figures} |", peer.name).unwrap();
        }
    }
    for peer in &peers {
        writeln!(text, "\n{}: {:.1} MiB at most in the process that listens.", peer.name, peer.memory())
            .unwrap();
    }
    document::tell("tftp", &text);
}

/// Megabytes a second of all clients together, and the server's processor seconds for 1000 megabytes; none when
/// the server does not do it.
async fn measure(peer: &Peer, clients: u64, window: u16) -> Option<(f64, f64)> {
    let (address, name) = (peer.address, clients.to_string());
    let (before, began) = (peer.processor(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let name = name.clone();
        tasks.spawn_blocking(move || client::fetch(address, &name, window).unwrap());
    }
    let fetched: Option<Vec<u64>> = tasks.join_all().await.into_iter().collect();
    let bytes: u64 = fetched?.into_iter().sum();
    let took = began.elapsed().as_secs_f64();
    let megabytes = bytes as f64 / 1e6;
    // A server that forks counts a child when it has been waited for.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    Some((megabytes / took, (peer.processor() - before) / megabytes * 1e3))
}
