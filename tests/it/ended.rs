//! What is left with a coordinator: of a run that has ended events on the disk and devices as long as their lease lasts, of
//! somebody who does not come back nothing.

use crate::nats::SOON;
use crate::support::fake_lab::FakeLab;
use pilab::config::scenario;
use pilab::coordinator::parts::Parts;
use pilab::model::device::Model;
use pilab::model::id::RunId;
use pilab::model::run::{RunFact, Verdict};
use pilab::wire::lending::RELEASE;
use pilab::wire::request::{
    BUNDLE, CANCEL, EVENTS, EventsPage, EventsRequest, REQUEST_VERSION, RUN, RunAccepted, RunOptions, RunRef,
    RunRequest,
};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

const DEVICE: &str = "lab-vm-1";
/// How many runs' events are kept.
const FILES: usize = 1000;

async fn lab(change: impl FnOnce(&mut Parts)) -> FakeLab {
    FakeLab::start_with(&[(DEVICE, Model::VmAarch64)], &[], change).await
}

fn files(lab: &FakeLab) -> PathBuf {
    lab.lab.dir.path().join("runs")
}

/// A run that has ended.
async fn run(lab: &FakeLab, options: RunOptions) -> RunId {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("try.toml");
    let text =
        "summary = \"s\"\nunder_test = \"image\"\n[needs.dut]\n[[steps]]\npower_cycle = { on = \"dut\" }\n";
    fs::write(&path, text).unwrap();
    let scenario = scenario::load(&path).unwrap();
    let request = RunRequest { version: REQUEST_VERSION, scenario, options };
    let run: RunId = lab.ask::<RunAccepted>(RUN, &request).await.run;
    let deadline = Instant::now() + SOON;
    loop {
        let events = events(lab, &run).await.unwrap();
        if let Some(RunFact::Ended { outcome, .. }) = events.last() {
            assert_eq!(outcome.verdict, Verdict::Passed, "{events:?}");
            return run;
        }
        assert!(Instant::now() < deadline, "{events:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn events(lab: &FakeLab, run: &RunId) -> Result<Vec<RunFact>, String> {
    let asked = EventsRequest { run: run.clone(), from: 0 };
    let page: EventsPage = lab.try_ask(EVENTS, &asked).await?;
    Ok(page.events.into_iter().map(|event| event.fact).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_run_that_has_ended_are_on_the_disk_alone_and_those_of_long_ago_go() {
    let lab = lab(|_| ()).await;
    fs::create_dir_all(files(&lab)).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for name in 0..FILES {
        File::create(files(&lab).join(format!("{name}.jsonl"))).unwrap().set_modified(long_ago).unwrap();
    }
    let run = run(&lab, RunOptions::default()).await;
    let until = async |what: &str, is_so: &dyn Fn(usize, bool) -> bool| {
        let deadline = Instant::now() + SOON;
        loop {
            let (count, known) =
                (fs::read_dir(files(&lab)).unwrap().count(), events(&lab, &run).await.is_ok());
            if is_so(count, known) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {count} files, {known}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    until("the oldest goes", &|count, known| count == FILES && known).await;
    lab.ask::<Value>(CANCEL, &RunRef { run: run.clone() }).await;
    fs::remove_file(files(&lab).join(format!("{run}.jsonl"))).unwrap();
    until("nothing is left in memory", &|_, known| !known).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_a_run_keeps_are_forgotten_with_their_lease() {
    let lab = lab(|parts| parts.keep_lines = Box::new(|_, _| vec!["how to enter".to_owned()])).await;
    let run = run(&lab, RunOptions { keep: true, ..RunOptions::default() }).await;
    let kept = async || {
        let told: Value = lab.ask(BUNDLE, &RunRef { run: run.clone() }).await;
        told["kept"].as_array().unwrap().len()
    };
    assert_eq!(kept().await, 1);
    lab.ask::<Value>(RELEASE, &json!({"lease": run})).await;
    let deadline = Instant::now() + SOON;
    while kept().await > 0 {
        assert!(Instant::now() < deadline, "they are still kept");
        sleep(Duration::from_millis(10)).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_somebody_who_does_not_come_back_go() {
    let dir = tempfile::tempdir().unwrap();
    let sent = dir.path().join("uploads/bob/old");
    fs::create_dir_all(sent.parent().unwrap()).unwrap();
    let old = SystemTime::now() - Duration::from_secs(25 * 3600);
    File::create(&sent).unwrap().set_modified(old).unwrap();
    let lab = FakeLab::start_in(dir, &[(DEVICE, Model::VmAarch64)], &[], |_| ()).await;
    let deadline = Instant::now() + SOON;
    while sent.parent().unwrap().exists() {
        assert!(Instant::now() < deadline, "it is still there");
        sleep(Duration::from_millis(10)).await;
    }
    lab.stop().await;
}
