//! What a lab does while its disk is full, its NATS server stands still, or a switch does not obey; and how soon it
//! is back after both of its processes were killed.

use super::stopped::Rack;
use crate::agent::lab::installed;
use crate::support::program::{end, finish, signal, signal_process};
use pilab::support::command::Command;
use rustix::process::Signal;
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A bound for what takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than a lost connection takes to be noticed: two pings of 5 s.
const SILENCE: Duration = Duration::from_secs(13);

fn nats(rack: &Rack) -> u32 {
    let pid = std::fs::read_to_string(rack.state().join("labs/rack/nats/nats-server.pid")).unwrap();
    pid.split_whitespace().next().unwrap().parse().unwrap()
}

/// Asks until the coordinator answers.
async fn answered(rack: &Rack, args: &[&str]) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = rack.pilab(args).await;
        if asked.is_done() {
            return asked.json();
        }
        assert!(Instant::now() < deadline, "{args:?}: {asked:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn reserve(rack: &Rack) -> String {
    let lease = rack.pilab(&["reserve", "rack-pi-1", "--for", "1h", "--json"]).await.done().json().remove(0);
    lease["lease"].as_str().unwrap().to_owned()
}

/// A file system of its own; none where that cannot be had.
struct Disk(std::path::PathBuf);

impl Disk {
    async fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"]).arg(at);
        mounted.output().await.ok().map(|_| Self(at.to_owned()))
    }

    /// Fills it to the last byte; answers the file to be removed.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.join("fill");
        let mut file = std::fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what still has a file open there ends by itself.
        let _ = Command::new("umount").arg("-l").arg(&self.0).build().as_std_mut().status();
    }
}

#[tokio::test]
async fn a_full_disk_costs_nothing_that_was_acknowledged() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::new();
    let Some(disk) = Disk::mount(&rack.state()).await else { return };
    let coordinator = rack.coordinator().await;
    let lease = reserve(&rack).await;
    rack.pilab(&["power", "on", "rack-pi-1"]).await.done();
    let fill = disk.fill();
    // There is still room in blocks that were begun: until something is not stored any more.
    let mut acknowledged = 0;
    let until = |rows: Vec<Value>| rows[0]["until_ms"].as_u64().unwrap();
    loop {
        let extended = rack.pilab(&["extend", &lease, "--by", "1s", "--json"]).await;
        if !extended.is_done() {
            break;
        }
        acknowledged = until(extended.json());
    }
    std::fs::remove_file(fill).unwrap();
    let rows = answered(&rack, &["queue", "--json"]).await;
    assert_eq!(rows[0]["lease"], *lease, "{rows:?}");
    assert!(until(rows) >= acknowledged);
    let told = rack.switched().len();
    answered(&rack, &["devices", "--json"]).await;
    rack.pilab(&["power", "cycle", "rack-pi-1"]).await.done();
    assert_eq!(rack.switched().split_off(told), ["off", "on"]);
    rack.pilab(&["release", &lease]).await.done();
    rack.device("its return", |device| device["usage"]["state"] == "free").await;
    finish(coordinator).await;
}

#[tokio::test]
async fn a_nats_server_that_stands_still_beyond_its_pings_costs_no_lease() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::new();
    let coordinator = rack.coordinator().await;
    let lease = reserve(&rack).await;
    rack.pilab(&["power", "on", "rack-pi-1"]).await.done();
    let (server, told) = (nats(&rack), rack.switched());
    signal_process(server, Signal::STOP);
    sleep(SILENCE).await;
    // The coordinator could not write for longer than it may act.
    assert_eq!(rack.switched(), told);
    signal_process(server, Signal::CONT);
    let rows = answered(&rack, &["queue", "--json"]).await;
    assert_eq!(rows[0]["lease"], *lease, "{rows:?}");
    let deadline = Instant::now() + PATIENCE;
    while !rack.pilab(&["power", "off", "rack-pi-1"]).await.is_done() {
        assert!(Instant::now() < deadline, "it may act again");
    }
    finish(coordinator).await;
}

#[tokio::test]
async fn a_device_that_cannot_be_made_ready_is_suspect_with_the_reason_and_lent_once_it_can() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::new();
    let coordinator = rack.coordinator().await;
    let lease = reserve(&rack).await;
    rack.pilab(&["power", "on", "rack-pi-1"]).await.done();
    rack.break_switch(true);
    rack.pilab(&["release", &lease]).await.done();
    let device = rack.device("its fault", |device| device["health"] == "suspect").await;
    let reason = device["reason"].as_str().unwrap();
    assert!(reason.starts_with("it was not switched off: "), "{reason}");
    assert_eq!(device["usage"]["state"], "handover", "nobody has it meanwhile");
    rack.break_switch(false);
    let device = rack.device("its return", |device| device["usage"]["state"] == "free").await;
    assert_eq!(device["health"], "suspect", "somebody is to look at it");
    assert_eq!(rack.switched().last().map(String::as_str), Some("off"));
    finish(coordinator).await;
}

#[tokio::test]
async fn a_hundred_devices_are_back_with_leases_times_and_queue_after_any_kill() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::of(100);
    let mut coordinator = rack.coordinator().await;
    for purpose in ["a", "b", "c"] {
        let args = ["reserve", "--count", "20", "--for", "1h", "--json", "--purpose", purpose];
        rack.pilab(&args).await.done();
    }
    let mut waiting = Vec::new();
    for place in 1..=3 {
        let purpose = format!("waits {place}");
        let child = rack.spawn(&["reserve", "--count", "50", "--for", "1h", "--json", "--purpose", &purpose]);
        waiting.push(child);
        let deadline = Instant::now() + PATIENCE;
        while rack.pilab(&["queue", "--json"]).await.done().json().len() < 3 + place {
            assert!(Instant::now() < deadline, "it waits");
        }
    }
    let shown = |rows: &[Value]| -> Vec<(String, String, Value, Value)> {
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let row = |row| {
            (text(row, "lease"), text(row, "purpose"), row["position"].clone(), row["until_ms"].clone())
        };
        rows.iter().map(row).collect()
    };
    let before = shown(&rack.pilab(&["queue", "--json"]).await.done().json());
    for (what, server, own) in
        [("coordinator", false, true), ("nats-server", true, false), ("both", true, true)]
    {
        if server {
            signal_process(nats(&rack), Signal::KILL);
        }
        if own {
            signal(&coordinator, Signal::KILL);
            coordinator.wait().await.unwrap();
        }
        let begun = Instant::now();
        if own {
            coordinator = rack.coordinator().await;
        }
        let after = shown(&answered(&rack, &["queue", "--json"]).await);
        println!("100 devices are back {:.2} s after the {what} was killed", begun.elapsed().as_secs_f64());
        assert_eq!(after, before, "after the {what} was killed");
    }
    for mut child in waiting {
        child.start_kill().unwrap();
        end(child).await;
    }
    finish(coordinator).await;
}
