//! Deployments of files through the program itself: applied, changed, withdrawn, by whoever holds the devices.

use crate::coordinator::Bench;
use crate::support::program::{PATIENCE, finish, signal};
use crate::support::script;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

const DEVICES: [&str; 2] = ["team-box-1", "team-box-2"];

/// `(deployment, device, state)` of each line.
fn standings(rows: &[Value]) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for row in rows {
        for (device, told) in row["devices"].as_object().unwrap() {
            let state = told["state"].as_str().unwrap().to_owned();
            all.push((row["deployment"].as_str().unwrap().to_owned(), device.clone(), state));
        }
    }
    all
}

/// Waits until these run, and no others, as this user sees it.
async fn until_running(bench: &Bench, user: &Path, wanted: &[(&str, &str)]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = standings(&bench.as_user(user, &["deployments", "--json"]).await.done().json());
        if seen == running(wanted) {
            return;
        }
        assert!(Instant::now() < deadline && seen.len() == wanted.len(), "{seen:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn running(wanted: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let row =
        |(name, device): &(&str, &str)| ((*name).to_owned(), (*device).to_owned(), "Running".to_owned());
    wanted.iter().map(row).collect()
}

#[tokio::test]
async fn what_files_say_is_kept_on_the_devices_of_whoever_holds_them() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let (ann, eve) = (bench.login("ann", "user").await, bench.login("eve", "viewer").await);
    let files = bench.path("deployments");
    let (dir, hello) =
        (files.to_str().unwrap(), std::fs::read_to_string("lab/deployments/hello.toml").unwrap());
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("everywhere.toml"), &hello).unwrap();
    let one = hello.replace("[selector]", "[selector]\ndevices = [\"team-box-1\"]");
    std::fs::write(files.join("one.toml"), &one).unwrap();

    bench.pilab(&["apply", dir]).await.refused("you hold no device");
    let lease = bench.reserve(&["--count", "2"]).await;
    for device in DEVICES {
        bench.pilab(&["power", "on", device]).await.done();
    }
    let applied = bench.pilab(&["apply", dir, "--wait", "--json"]).await.done().json();
    let all = [("everywhere", DEVICES[0]), ("everywhere", DEVICES[1]), ("one", DEVICES[0])];
    assert_eq!(standings(&applied), running(&all));
    for device in DEVICES {
        bench.pilab(&["verify", device, "--within", "30s"]).await.done();
    }

    // Whoever does not hold them has no say, and all may look.
    bench.as_user(&eve, &["apply", dir]).await.refused("eve is a viewer");
    bench.as_user(&ann, &["apply", dir]).await.refused("you hold no device");
    bench.as_user(&ann, &["withdraw", "one", "--lease", &lease]).await.refused("no lease of yours");
    let seen = bench.as_user(&eve, &["deployments", "--json"]).await.done().json();
    assert_eq!(standings(&seen), running(&all));

    // Given on, it stays, and is the next one's to change.
    bench.pilab(&["transfer", &lease, "ann"]).await.done();
    let as_ann = async |args: &[&str]| bench.as_user(&ann, args).await;
    // Put anew under the new token, which each device has yet to confirm.
    until_running(&bench, &ann, &all).await;
    bench.pilab(&["withdraw", "one"]).await.refused("you hold no device");

    // A file that selects another device moves it, and one that is gone is withdrawn if that is asked for.
    std::fs::write(files.join("one.toml"), one.replace(DEVICES[0], DEVICES[1])).unwrap();
    std::fs::remove_file(files.join("everywhere.toml")).unwrap();
    as_ann(&["apply", dir, "--wait", "--prune"]).await.done();
    let seen = as_ann(&["deployments", "--json"]).await.done().json();
    assert_eq!(standings(&seen), running(&[("one", DEVICES[1])]));
    let left = as_ann(&["status", DEVICES[0], "--json"]).await.done().json();
    assert_eq!(left, Vec::<Value>::new());

    // What was put by hand is nobody's but who put it.
    let by_hand = files.join("one.toml");
    as_ann(&["withdraw", "one", "--wait"]).await.done();
    as_ann(&["withdraw", "one"]).await.refused("there is no deployment one");
    as_ann(&["deploy", DEVICES[1], by_hand.to_str().unwrap()]).await.done();
    let conflict = as_ann(&["apply", dir, "--wait"]).await;
    assert_eq!(conflict.code, Some(1), "{conflict:?}");
    assert!(conflict.stdout.contains("Conflict"), "{conflict:?}");
    as_ann(&["release", &lease]).await.done();
    bench.device("its next start", |device| device["usage"]["state"] == "free").await;
    let seen = bench.pilab(&["deployments", "--json"]).await.done().json();
    assert_eq!(standings(&seen), [], "what was applied under a lease ends with it");
    finish(coordinator).await;
}

/// A board whose switch takes for ever to switch it on holds up its fence, and with it all that follows a transfer.
fn slow_board(dir: &Path) -> String {
    let switch = dir.join("switch");
    let text =
        "#!/bin/sh\ncd \"$(dirname \"$0\")\" && touch began\nwhile [ -e began ]; do sleep 0.05; done\n";
    script::write(&switch, text);
    let power = format!("{{ driver = \"command\", on = [{switch:?}], off = [\"true\"] }}");
    format!("[[devices]]\nid = \"pi-1\"\nmodel = \"pi4b\"\npower = {power}\n")
}

/// Waits for the board's switch to have begun.
async fn until_there(began: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !began.exists() {
        assert!(Instant::now() < deadline, "it is not switched");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_coordinator_that_dies_as_a_lease_is_given_on_leaves_no_deployment_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let Some(bench) = Bench::with(&format!("max = \"2h\"\n{}", slow_board(dir.path()))) else { return };
    let mut coordinator = bench.coordinator().await;
    let ann = bench.login("ann", "user").await;
    let lease = bench.reserve(&[DEVICES[0], "team-pi-1"]).await;
    bench.pilab(&["power", "on", DEVICES[0]]).await.done();
    let (file, hello) =
        (dir.path().join("hello.toml"), std::fs::read_to_string("lab/deployments/hello.toml").unwrap());
    std::fs::write(&file, hello.replace("[selector]", "[selector]\nmodel = \"container\"")).unwrap();
    bench.pilab(&["apply", file.to_str().unwrap(), "--wait"]).await.done();

    let (power, began) = (bench.spawn(&["power", "on", "team-pi-1"]), dir.path().join("began"));
    until_there(&began).await;
    let mut transfer = bench.spawn(&["transfer", &lease, "ann"]);
    let is_hers = |device: &Value| device["usage"]["holder"] == "ann";
    bench.device_until(DEVICES[0], "its next holder", is_hers).await;
    assert_eq!(transfer.try_wait().unwrap(), None, "nothing has followed yet");
    signal(&coordinator, Signal::KILL);
    coordinator.wait().await.unwrap();
    std::fs::remove_file(began).unwrap();
    drop((power, transfer));

    let coordinator = bench.coordinator().await;
    bench.pilab(&["withdraw", "hello"]).await.refused("you hold no device");
    // A container ends with its coordinator.
    bench.as_user(&ann, &["power", "on", DEVICES[0]]).await.done();
    until_running(&bench, &ann, &[("hello", DEVICES[0])]).await;
    bench.as_user(&ann, &["withdraw", "hello", "--wait"]).await.done();
    let left = bench.as_user(&ann, &["status", DEVICES[0], "--json"]).await.done().json();
    assert_eq!(left, Vec::<Value>::new());
    bench.as_user(&ann, &["release", &lease]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn a_transfer_says_when_what_the_last_holder_began_has_not_ended() {
    let dir = tempfile::tempdir().unwrap();
    let Some(bench) = Bench::with(&slow_board(dir.path())) else { return };
    let coordinator = bench.coordinator().await;
    let ann = bench.login("ann", "user").await;
    let lease = bench.reserve(&["team-pi-1"]).await;
    let mut power = bench.spawn(&["power", "on", "team-pi-1"]);
    let began = dir.path().join("began");
    until_there(&began).await;
    bench
        .pilab(&["transfer", &lease, "ann"])
        .await
        .refused("what its last holder has begun may not have ended");
    std::fs::remove_file(began).unwrap();
    tokio::time::timeout(PATIENCE, power.wait()).await.expect("it has ended").unwrap();
    bench.as_user(&ann, &["power", "off", "team-pi-1"]).await.done();
    finish(coordinator).await;
}

#[tokio::test]
async fn a_device_s_credentials_last_as_long_as_a_lease_can() {
    let Some(bench) = Bench::with("max = \"100h\"") else { return };
    let coordinator = bench.coordinator().await;
    bench.reserve(&[DEVICES[0], "--for", "90h"]).await;
    bench.pilab(&["power", "on", DEVICES[0]]).await.done();
    let issued = bench.state().join("labs/team/keys/issued.json");
    let issued: Value = serde_json::from_slice(&std::fs::read(issued).unwrap()).unwrap();
    let expires = issued[DEVICES[0]].as_array().unwrap().last().unwrap()["expires"].as_u64().unwrap();
    let left = Duration::from_secs(expires) - SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let hours = |n: u64| Duration::from_secs(n * 3600);
    assert!(left > hours(99) && left <= hours(100), "{left:?}");
    finish(coordinator).await;
}
