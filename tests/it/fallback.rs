//! A run that would have a board and can do without, over the real coordinator and nats-server; the devices are fakes.

use crate::nats::SOON;
use crate::support::fake_lab::FakeLab;
use pilab::config::scenario;
use pilab::model::device::Model;
use pilab::model::id::RunId;
use pilab::model::run::{AssignedDevice, RunFact, Verdict};
use pilab::wire::lending::{HEALTH, RELEASE};
use pilab::wire::request::{
    EVENTS, EventsPage, EventsRequest, REQUEST_VERSION, RUN, RunAccepted, RunOptions, RunRequest,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

const BOARD: &str = "lab-pi-1";
const MACHINE: &str = "lab-vm-1";

/// Runs a scenario of one device to its end; answers the device, if it got one, how it ended and why.
async fn run(lab: &FakeLab, need: &str) -> (Option<AssignedDevice>, Verdict, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("try.toml");
    let text = format!(
        "summary = \"s\"\nunder_test = \"image\"\n[needs.dut]\n{need}\n[[steps]]\npower_cycle = {{ on = \"dut\" }}\n"
    );
    std::fs::write(&path, text).unwrap();
    let scenario = scenario::load(&path).unwrap();
    let request = RunRequest { version: REQUEST_VERSION, scenario, options: RunOptions::default() };
    let run: RunId = lab.ask::<RunAccepted>(RUN, &request).await.run;
    let mut device = None;
    let ended = async {
        let mut from = 0;
        loop {
            let page: EventsPage = lab.ask(EVENTS, &EventsRequest { run: run.clone(), from }).await;
            for event in page.events {
                from = event.seq + 1;
                match event.fact {
                    RunFact::Started { mut devices, .. } => device = devices.pop(),
                    RunFact::Ended { outcome, .. } => return (outcome.verdict, outcome.reason),
                    _ => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (verdict, reason) = timeout(SOON, ended).await.unwrap();
    (device, verdict, reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_its_board_or_says_why_not() {
    let lab = FakeLab::start(&[(BOARD, Model::Pi4B), (MACHINE, Model::VmAarch64)], &[]).await;
    const WANTED: &str = "model = \"pi4b\"\nfallback = \"vm\"\nfallback_after = \"1s\"";

    let (device, verdict, reason) = run(&lab, WANTED).await;
    let device = device.unwrap();
    assert_eq!((device.device.as_str(), device.instead), (BOARD, None), "it is free");
    assert_eq!(verdict, Verdict::Passed, "{reason}");

    // After the run it is made ready.
    let free = async {
        while lab.device(BOARD).await["usage"]["state"] != "free" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, free).await.unwrap();
    lab.reserve("l1", BOARD).await;
    let (device, verdict, reason) = run(&lab, WANTED).await;
    let device = device.unwrap();
    let instead = device.instead.unwrap();
    assert_eq!((device.device.as_str(), instead.of.as_str()), (MACHINE, "model pi4b"));
    assert_eq!(instead.because, "none was free within 1 s; lab-pi-1 is ann's");
    assert_eq!(verdict, Verdict::Passed, "{reason}");
    lab.ask::<Value>(RELEASE, &json!({"lease": "l1"})).await;

    // Nothing is waited for that cannot come.
    let said = json!({"device": BOARD, "health": "quarantined", "reason": "it smokes"});
    lab.ask::<Value>(HEALTH, &said).await;
    let (device, ..) = run(&lab, "requires = \"pi\"\nmodel = \"pi5\"").await;
    assert_eq!(device, None);
    let (device, ..) = run(&lab, "fallback = \"vm\"\nfallback_after = \"1h\"").await;
    let instead = device.unwrap().instead.unwrap();
    assert_eq!(instead.of, "backend pi");
    assert_eq!(instead.because, "lab-pi-1 is quarantined: it smokes (ann)");
    let (device, ..) = run(&lab, "model = \"pi5\"\nfallback = \"vm\"\nfallback_after = \"1h\"").await;
    assert_eq!(device.unwrap().instead.unwrap().because, "no device is a fit for it: model pi5");

    // A board that must be one, and a fallback that can do no more than the board.
    let (device, verdict, reason) = run(&lab, "requires = \"pi\"\ncapabilities = [\"ssh\"]").await;
    assert_eq!((device, verdict), (None, Verdict::Skipped));
    assert!(reason.contains("lab-pi-1 (a pi) lacks: ssh"), "{reason}");
    let (device, verdict, reason) = run(&lab, "fallback = \"vm\"\ncapabilities = [\"ssh\"]").await;
    assert_eq!((device, verdict), (None, Verdict::Skipped));
    assert!(
        reason.contains("and for its fallback: ") && reason.contains("lab-vm-1 (a vm) lacks: ssh"),
        "{reason}"
    );
    lab.stop().await;
}
