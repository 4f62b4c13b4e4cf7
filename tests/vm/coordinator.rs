//! A lab that lasts, on virtual machines: what is lent runs on whatever becomes of the coordinator.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::pilab::{Bench, domains};

const DEVICE: &str = "laptop-vm-1";

#[tokio::test]
async fn a_machine_runs_on_while_its_coordinator_is_killed() {
    let Some(bench) = Bench::new().await else { return };
    let first = bench.coordinator().await;
    bench.call("reserve", &[DEVICE, "--for", "1h", "--json"]).await.exits(0).says("granted");
    bench.call("power", &["on", DEVICE]).await.exits(0);
    bench.device(DEVICE, "its agent", |row| row["stage"] == "agent" || row["stage"] == "login").await;
    first.signal("KILL").await;
    first.end().await;

    // Another lab sweeps what killed labs have left, and nothing of one that is to last.
    bench.run(&["ping"]).await.exits(0);
    assert!(domains().await.contains(&format!("-lab-laptop-{DEVICE}")), "{}", domains().await);

    let second = bench.coordinator().await;
    bench.device(DEVICE, "its holder", |row| row["power"] == "on" && row["usage"]["state"] == "leased").await;
    let console = bench.call("console", &[DEVICE, "--from", "start", "--dump"]).await.exits(0);
    console.says("Linux version").says("[bytes may be missing here: the coordinator was not running]");
    bench.call("power", &["cycle", DEVICE]).await.exits(0).says("boot attempt 2");
    bench.device(DEVICE, "the kernel's first words", |row| !row["stage"].is_null()).await;

    bench.call("release", &[&lease(&bench).await]).await.exits(0);
    bench.device(DEVICE, "its return", |row| row["usage"]["state"] == "free" && row["power"] == "off").await;
    assert!(!domains().await.contains("-lab-laptop-"), "{}", domains().await);
    second.signal("TERM").await;
    second.end().await.exits(0);
    bench.is_clean().await;
}

async fn lease(bench: &Bench) -> String {
    let told = bench.call("queue", &["--json"]).await.exits(0).stdout;
    let row: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    row["lease"].as_str().unwrap().to_owned()
}
