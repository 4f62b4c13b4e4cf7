//! Deployments of files through the program itself: applied, changed, withdrawn, by whoever holds the devices.

use crate::coordinator::Bench;
use crate::support::program::{PATIENCE, finish};
use serde_json::Value;
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
    let ann = async |args: &[&str]| bench.as_user(&ann, args).await;
    // Put anew under the new token, which each device has yet to confirm.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = standings(&ann(&["deployments", "--json"]).await.done().json());
        if seen == running(&all) {
            break;
        }
        assert!(Instant::now() < deadline && seen.len() == all.len(), "{seen:?}");
        sleep(Duration::from_millis(50)).await;
    }
    bench.pilab(&["withdraw", "one"]).await.refused("you hold no device");

    // A file that selects another device moves it, and one that is gone is withdrawn if that is asked for.
    std::fs::write(files.join("one.toml"), one.replace(DEVICES[0], DEVICES[1])).unwrap();
    std::fs::remove_file(files.join("everywhere.toml")).unwrap();
    ann(&["apply", dir, "--wait", "--prune"]).await.done();
    let seen = ann(&["deployments", "--json"]).await.done().json();
    assert_eq!(standings(&seen), running(&[("one", DEVICES[1])]));
    let left = ann(&["status", DEVICES[0], "--json"]).await.done().json();
    assert_eq!(left, Vec::<Value>::new());

    // What was put by hand is nobody's but who put it.
    let by_hand = files.join("one.toml");
    ann(&["withdraw", "one", "--wait"]).await.done();
    ann(&["withdraw", "one"]).await.refused("there is no deployment one");
    ann(&["deploy", DEVICES[1], by_hand.to_str().unwrap()]).await.done();
    let conflict = ann(&["apply", dir, "--wait"]).await;
    assert_eq!(conflict.code, Some(1), "{conflict:?}");
    assert!(conflict.stdout.contains("Conflict"), "{conflict:?}");
    ann(&["release", &lease]).await.done();
    bench.device("its next start", |device| device["usage"]["state"] == "free").await;
    let seen = bench.pilab(&["deployments", "--json"]).await.done().json();
    assert_eq!(standings(&seen), [], "what was applied under a lease ends with it");
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
