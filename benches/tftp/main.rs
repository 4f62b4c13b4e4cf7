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
mod group;
mod peers;

use peers::Peer;
use std::fmt::Write as _;
use tokio::time::Instant;

/// Clients at once, and blocks between acknowledgements.
const CASES: [(u64, u16); 5] = [(1, 1), (32, 1), (1, 16), (32, 16), (256, 1)];

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
        "| server | clients | window | MB/s | server CPU s/GB | memory, MiB |\n|---|---|---|---|---|---|\n"
            .to_owned();
    for (clients, window) in CASES {
        for peer in &peers {
            let mut best: Option<Figures> = None;
            for _ in 0..rounds {
                let Some(figures) = measure(peer, clients, window).await else { break };
                best = Some(best.map_or(figures, |best| best.better(figures)));
            }
            let figures = best.map_or("no windows | |".to_owned(), |Figures { rate, cost, memory }| {
                format!("{rate:.0} | {cost:.2} | {memory:.1}")
            });
            writeln!(text, "| {} | {clients} | {window} | {figures} |", peer.name).unwrap();
        }
    }
    for peer in peers {
        peer.stop().await;
    }
    document::tell("tftp", &text);
}

/// What a server did for all clients together.
#[derive(Clone, Copy)]
struct Figures {
    /// Megabytes a second.
    rate: f64,
    /// Processor seconds of the server for 1000 megabytes.
    cost: f64,
    /// Proportional memory of all its processes at most, in MiB.
    memory: f64,
}

impl Figures {
    /// The fastest rate, the least cost; the most memory.
    fn better(self, other: Self) -> Self {
        Self {
            rate: self.rate.max(other.rate),
            cost: self.cost.min(other.cost),
            memory: self.memory.max(other.memory),
        }
    }
}

/// None when the server does not do it.
async fn measure(peer: &Peer, clients: u64, window: u16) -> Option<Figures> {
    let (address, name) = (peer.address, clients.to_string());
    let (before, began) = (peer.group.processor(), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let name = name.clone();
        tasks.spawn_blocking(move || client::fetch(address, &name, window).unwrap());
    }
    let (mut bytes, mut memory) = (0, 0.0_f64);
    let mut look = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = look.tick() => memory = memory.max(peer.group.memory()),
            fetched = tasks.join_next() => match fetched {
                Some(fetched) => bytes += fetched.unwrap()?,
                None => break,
            },
        }
    }
    let (took, megabytes) = (began.elapsed().as_secs_f64(), bytes as f64 / 1e6);
    let cost = (peer.group.processor() - before) / megabytes * 1e3;
    Some(Figures { rate: megabytes / took, cost, memory })
}
