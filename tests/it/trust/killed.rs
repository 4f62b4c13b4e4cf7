//! A coordinator that is killed with `kill -9` between the end of a run, which whoever follows it has seen, and the word of
//! it in its device's record: the next one tells it, once.

use super::{BOARD, Bench, LOOK, PING, SOON};
use pilab::coordinator::ledger::{FailPoint, Hook};
use pilab::support::command::Command;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const DIR: &str = "PILAB_TEST_FINDING_DIR";
const WRITTEN: &str = "PILAB_TEST_FINDING_WRITTEN";

/// Not a test of its own: the coordinator that the next test has killed, once a finding has come, or once it is written.
#[tokio::test(flavor = "multi_thread")]
async fn helper_coordinator_that_is_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let written = std::env::var_os(WRITTEN).is_some();
    let came = AtomicU32::new(0);
    let hook = Hook::new(move |point| {
        let dies = match point {
            FailPoint::FindingCame => came.fetch_add(1, Ordering::Relaxed) == 0 && !written,
            // Each change is waited for: what is written next is what the finding changes.
            FailPoint::DeviceWritten => written && came.load(Ordering::Relaxed) == 1,
            _ => false,
        };
        if dies {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    });
    let bench = Bench::start_in(TempDir::new_in(dir).unwrap(), |parts| parts.hook = Some(hook)).await;
    bench.run("workload", PING).await;
    // Its end is told before what it says of its device: the kill is yet to come.
    sleep(SOON).await;
}

/// The only file or directory in one.
fn only(dir: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let only = entries.next().unwrap();
    assert_eq!(entries.next(), None);
    only
}

/// Killed there; the place that it leaves.
async fn killed(written: bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap().to_string_lossy().into_owned())
        .args(["--exact", "trust::killed::helper_coordinator_that_is_killed", "--nocapture"])
        .env(DIR, dir.path().to_string_lossy());
    if written {
        command = command.env(WRITTEN, "1");
    }
    let killed = command.build().stdout(Stdio::null()).status();
    let killed = timeout(2 * SOON, killed).await.unwrap().unwrap();
    assert_eq!(killed.signal(), Some(9), "{killed}");
    let left = tempfile::tempdir().unwrap();
    std::fs::rename(only(dir.path()), left.path()).unwrap();
    left
}

/// Waits for the bundle of the run, which is written after the finding is told. Answers the run.
async fn bundled(bench: &Bench) -> String {
    let bundles = bench.lab.lab.dir.path().join("bundles");
    let deadline = Instant::now() + 2 * SOON;
    loop {
        let files = std::fs::read_dir(&bundles).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let names: Vec<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
        if let Some(run) = names.iter().find_map(|name| name.strip_suffix(".tar")) {
            return run.to_owned();
        }
        assert!(Instant::now() < deadline, "no bundle: {names:?}");
        sleep(LOOK).await;
    }
}

fn history(shown: &Value) -> Vec<(String, String, u64)> {
    let findings = shown["findings"].as_array().into_iter().flatten();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    findings.map(|one| (word(&one["of"]), word(&one["verdict"]), one["boots"].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_says_of_its_device_is_told_once_whenever_the_coordinator_dies_after_its_end() {
    for written in [false, true] {
        let left = killed(written).await;
        let bench = Bench::start_in(left, |_| ()).await;
        let run = bundled(&bench).await;
        let once = [(run, "passed".to_owned(), 1)];
        let shown = bench.show().await;
        assert_eq!(history(&shown), once, "written: {written}: {shown:#}");
        assert_eq!((&shown["flakiness"]["seen"], &shown["health"]), (&1.into(), &"good".into()), "{shown:#}");
        // Nor does the one after that tell it again: it knows of no run.
        let left = bench.lab.leave().await;
        let bench = Bench::start_in(left, |_| ()).await;
        bench.lab.until(BOARD, |device| device["usage"]["state"] == "free").await;
        assert_eq!(history(&bench.show().await), once, "written: {written}");
        bench.lab.stop().await;
    }
}
