//! The main job and its faults, end to end: the program, its NATS server, libvirt, guests, agents.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::image::files;
use crate::pilab::{Bench, Call, SECRETS, arch};
use ::pilab::support::command::Command;
use serde_json::Value;
use std::path::Path;

/// The console's file holds each byte of the journal once, from where the run found it.
fn console_is_whole(bundle: &Path, device: &str) {
    let console = std::fs::read(bundle.join(format!("console/{device}.log"))).unwrap();
    let journal = std::fs::read_to_string(bundle.join(format!("journal/{device}.jsonl"))).unwrap();
    let mut next: Option<u64> = None;
    let mut bytes = 0;
    for line in journal.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert!(record.get("missing_from").is_none(), "a hole in the journal: {line}");
        let Some(offset) = record.get("console_offset").and_then(Value::as_u64) else { continue };
        assert!(next.is_none_or(|next| next == offset), "a hole in the console: {line} comes after {next:?}");
        let length = record["bytes"].as_u64().unwrap();
        next = Some(offset + length);
        bytes += length;
    }
    assert_eq!(bytes, console.len() as u64);
    let console = String::from_utf8_lossy(&console);
    let first = console.find("Booting Linux").or_else(|| console.find("Linux version"));
    assert!(first.is_some(), "the kernel's first line is missing:\n{console}");
    assert!(console.contains("pilab: switch-root"), "{console}");
}

/// A console holds its boot's ticket in clear, which is worth nothing then: it was redeemed, and is so only once.
fn tickets_are_spent(bundle: &Path, device: &str) {
    let console = std::fs::read_to_string(bundle.join(format!("console/{device}.log"))).unwrap();
    let journal = std::fs::read_to_string(bundle.join(format!("journal/{device}.jsonl"))).unwrap();
    let words = console.split_whitespace().filter_map(|word| word.strip_prefix("pilab.ticket="));
    let tickets: std::collections::BTreeSet<&str> = words.collect();
    assert_eq!(tickets.len(), 1, "one cold boot has one ticket");
    assert_eq!(journal.matches("\"event\":\"ticket_redeemed\"").count(), tickets.len(), "{journal}");
}

fn holds_none(secrets: &[String], what: &str, content: &[u8]) {
    for secret in secrets {
        let found = content.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!found, "{what} holds {secret:?}");
    }
}

#[tokio::test]
async fn the_shipped_scenarios_pass_and_leave_nothing_but_evidence() {
    let Some(bench) = Bench::new().await else { return };
    let (junit, bundles) = (bench.path("report.xml"), bench.path("bundles"));
    let options = ["--junit", junit.to_str().unwrap(), "--bundle", bundles.to_str().unwrap(), "--json"];
    // Each console begins with the kernel's first line.
    let mut args = vec!["ping", "isolation", "deploy-lifecycle", "--cold"];
    args.extend(options);
    let call = bench.start(&args);
    let instance = bench.booting().await;
    let mut secrets = bench.seeds(&instance);
    assert_eq!(secrets.len(), 6, "the keys of the lab that runs");
    secrets.extend(SECRETS.map(str::to_owned));
    let ended = call.end().await.exits(0).says("3 runs: 3 passed");
    bench.is_clean().await;

    for line in ended.stdout.lines() {
        let _: Value = serde_json::from_str(line).unwrap();
    }
    let report = std::fs::read_to_string(&junit).unwrap();
    assert!(report.contains("tests=\"3\"") && report.contains("failures=\"0\""), "{report}");
    let files = files(&bundles);
    for file in &files {
        holds_none(&secrets, &file.display().to_string(), &std::fs::read(file).unwrap());
    }
    holds_none(&secrets, "the output", ended.stdout.as_bytes());
    holds_none(&secrets, "the output", ended.stderr.as_bytes());
    holds_none(&secrets, "the report", report.as_bytes());
    let consoles: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|e| e == "log")).collect();
    assert_eq!(consoles.len(), 4, "one device, two, one: {files:?}");
    for console in consoles {
        let bundle = console.parent().unwrap().parent().unwrap();
        let device = console.file_stem().unwrap().to_str().unwrap();
        console_is_whole(bundle, device);
        tickets_are_spent(bundle, device);
    }
}

#[tokio::test]
async fn the_agent_keeps_its_promises_on_a_virtual_machine() {
    let Some(bench) = Bench::new().await else { return };
    bench.run(&["init-containers", "rollback", "services"]).await.exits(0).says("3 runs: 3 passed");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_killed_agent_goes_on_where_it_was() {
    let Some(bench) = Bench::new().await else { return };
    bench.run(&["agent-crash"]).await.exits(0).says("1 run: 1 passed");
    bench.is_clean().await;
}

#[tokio::test]
async fn the_agent_goes_on_without_nats_and_over_a_reboot() {
    let Some(bench) = Bench::new().await else { return };
    bench.run(&["nats-loss", "offline-boot"]).await.exits(0).says("2 runs: 2 passed");
    bench.is_clean().await;
}

#[tokio::test]
async fn deployments_of_files_follow_their_selectors() {
    let Some(bench) = Bench::new().await else { return };
    bench.run(&["operator"]).await.exits(0).says("1 run: 1 passed");
    bench.is_clean().await;
}

#[tokio::test]
async fn what_cannot_be_run_is_told_from_what_fails() {
    let Some(bench) = Bench::new().await else { return };
    let ended = bench
        .run(&["tests/vm/scenarios/refusals.toml", "tests/vm/scenarios/missing-image.toml"])
        .await
        .exits(1)
        .says("2 runs: 1 passed, 1 failed");
    ended.says("ImageMissing");
    bench.is_clean().await;
}

#[tokio::test]
async fn a_panic_and_a_silent_agent_are_named() {
    let Some(bench) = Bench::new().await else { return };
    let lab = bench.lab("rdinit=/nonexistent");
    bench
        .run(&["boot", "--lab", &lab])
        .await
        .exits(1)
        .says("the kernel panicked: ")
        .says("Kernel panic - not syncing");
    bench.is_clean().await;
    // Everything up to here is there, the agent's target is not.
    let lab = bench.lab("systemd.unit=basic.target");
    let ended = bench.run(&["tests/vm/scenarios/silent.toml", "--lab", &lab]).await;
    ended.exits(5).says("the agent did not answer within 25 s; the last boot stage reached is ");
    bench.is_clean().await;
}

#[tokio::test]
async fn whoever_stops_it_leaves_nothing() {
    let Some(bench) = Bench::new().await else { return };
    let call = bench.start(&["ping"]);
    bench.booting().await;
    call.interrupt().await;
    call.end().await.exits(130).says("cancelled");
    bench.is_clean().await;

    let mut call = bench.start(&["tests/vm/scenarios/long.toml", "--json"]);
    call.shows("step_started").await;
    call.interrupt().await;
    call.end().await.exits(130);
    bench.is_clean().await;
}

/// The line that tells how to do `what` with a device that was kept.
fn told<'a>(stdout: &'a str, what: &str) -> &'a str {
    let line = stdout.lines().find_map(|line| line.trim().strip_prefix(&format!("laptop-vm-1: {what}:")));
    line.unwrap_or_else(|| panic!("no {what} of laptop-vm-1: {stdout}")).trim()
}

async fn shell(line: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(line).output().await;
    String::from_utf8(output.unwrap_or_else(|error| panic!("{error}"))).unwrap()
}

#[tokio::test]
async fn what_is_kept_is_entered_and_removed_as_told() {
    let Some(bench) = Bench::new().await else { return };
    // The second has the same place and the same address, and another host key.
    for _ in 0..2 {
        let kept = bench.run(&["ping", "--keep"]).await.exits(0).stdout;
        let ssh = told(&kept, "shell");
        assert_eq!(shell(&format!("{ssh} cat /etc/hostname")).await, "laptop-vm-1\n");
        let mut console = Call::terminal(told(&kept, "console"));
        console.types(b"\n").await;
        console.shows("root@laptop-vm-1:~#").await;
        // Ctrl-] leaves.
        console.types(b"\x1d").await;
        console.end().await.exits(0);
        shell(told(&kept, "remove")).await;
    }
    bench.run(&["ping"]).await.exits(0);
    bench.is_clean().await;
}

/// While an image is built, too: with its first packages there, whatever asked for it.
#[tokio::test]
async fn whoever_stops_the_building_of_an_image_leaves_nothing() {
    let Some(bench) = Bench::new().await else { return };
    let arch = arch();
    let images = bench.path("images");
    let (build, run) = (["image", "build", "--arch", &arch], ["run", "ping", "--arch", &arch]);
    let building = async |args: &[&str]| {
        let call = bench.start_with_images(&images, args);
        bench
            .becomes("the first packages", || {
                let work = std::fs::read_dir(images.join("work")).into_iter().flatten().flatten().next();
                work.is_some_and(|work| work.path().join("base/root/usr/bin/dpkg").exists())
            })
            .await;
        call
    };
    for args in [build.as_slice(), &run] {
        let call = building(args).await;
        call.interrupt().await;
        call.end().await.exits(130);
        for of in ["work", "images", "parts"] {
            let left: Vec<_> = std::fs::read_dir(images.join(of)).unwrap().flatten().collect();
            assert!(left.is_empty(), "{args:?} left {left:?} in {of}");
        }
        bench.is_clean().await;
    }
    let call = building(&run).await;
    call.signal("TERM").await;
    call.end().await.exits(130);
    bench.is_clean().await;
    // Twice, at once: it leaves, and takes all its processes with it.
    let call = building(&build).await;
    call.interrupt().await;
    call.interrupt().await;
    call.end().await.exits(130);
    bench.becomes("its processes to be gone", || bench.processes().is_empty()).await;
}

#[tokio::test]
async fn what_a_killed_run_left_is_swept_by_two_at_once() {
    let Some(bench) = Bench::new().await else { return };
    let call = bench.start(&["ping"]);
    bench.booting().await;
    call.signal("KILL").await;
    assert_eq!(call.end().await.code, None);
    let (one, other) = tokio::join!(bench.run(&["ping"]), bench.run(&["ping"]));
    one.exits(0);
    other.exits(0);
    bench.is_clean().await;
}
