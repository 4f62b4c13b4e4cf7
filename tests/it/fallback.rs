//! A run that would have a board and can do without, over the real coordinator and nats-server; the devices are fakes.

use crate::device::world::World;
use crate::journal::Open;
use crate::nats::{HOUR, LOCALHOST, Lab, SOON, device_id, lab_name};
use crate::support::console::Rig;
use crate::support::coordinator::parts;
use pilab::bus::connect::Bus;
use pilab::bus::gate::Gate;
use pilab::config::scenario;
use pilab::coordinator::parts::LabDevice;
use pilab::coordinator::service::Coordinator;
use pilab::device::{self, DeviceParts};
use pilab::model::device::{Capability, Device, Model};
use pilab::model::id::{RunId, UserName};
use pilab::model::power::PowerState;
use pilab::model::run::{AssignedDevice, RunFact, Verdict};
use pilab::support::term::Term;
use pilab::wire::lending::{HEALTH, RELEASE, RESERVE};
use pilab::wire::request::{
    EVENTS, EventsPage, EventsRequest, REQUEST_VERSION, RUN, Reply, RunAccepted, RunRequest,
};
use pilab::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BOARD: &str = "lab-pi-1";
const MACHINE: &str = "lab-vm-1";

/// A lab of a board and a virtual machine. Its owner asks.
struct Scene {
    lab: Lab,
    coordinator: Coordinator,
    open: Vec<(Rig, Open)>,
    tracker: TaskTracker,
    stop: CancellationToken,
    bus: Bus,
}

impl Scene {
    async fn start() -> Self {
        let lab = Lab::start().await;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut devices, mut open) = (Vec::new(), Vec::new());
        let server = lab.server.url().strip_prefix("nats://").unwrap().parse().unwrap();
        for (id, model) in [(BOARD, Model::Pi4B), (MACHINE, Model::VmAarch64)] {
            let world = Arc::new(World::default());
            world.lock().power = Some(PowerState::Off);
            let journal = Open::at(&lab.dir.path().join(id)).await;
            let rig = Rig::new(&journal.handle);
            let device = Device {
                id: device_id(id),
                backend: model.backend(),
                model,
                labels: Default::default(),
                capabilities: [Capability::Power].into(),
            };
            let parts = DeviceParts {
                device,
                mac: String::new(),
                power: world.clone(),
                boot: world.clone(),
                reach: world.clone(),
                tickets: world.clone(),
                console: rig.console.clone(),
                journal: journal.handle.clone(),
                min_off: Duration::ZERO,
                stagger: Arc::default(),
                term: Term::endless(),
            };
            let handle = device::spawn(parts, &tracker, stop.clone());
            let gate = Gate::open(SocketAddr::new(LOCALHOST, 0), server, &tracker, stop.clone()).await;
            devices.push(LabDevice { handle, gate: gate.unwrap(), booting: Arc::default() });
            open.push((rig, journal));
        }
        let mut parts = parts(&lab, lab.coordinator().await, devices);
        parts.policy.quota.devices = 2;
        let coordinator = Coordinator::start(parts).await.unwrap();
        let ann = UserName::new("ann").unwrap();
        let bus = lab.connect("ann", &lab.issuer.user(&ann, HOUR).unwrap()).await;
        Self { lab, coordinator, open, tracker, stop, bus }
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> T {
        let subject = subject::request(&lab_name(), &UserName::new("ann").unwrap(), verb);
        let answer = self.bus.request(subject, serde_json::to_vec(body).unwrap(), SOON).await.unwrap();
        match serde_json::from_slice(&answer).unwrap() {
            Reply::Ok { body } => body,
            Reply::Refused { error, .. } => panic!("{verb}: {error}"),
        }
    }

    /// Runs a scenario of one device to its end; answers the device, if it got one, how it ended and why.
    async fn run(&self, need: &str) -> (Option<AssignedDevice>, Verdict, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("try.toml");
        let text = format!(
            "summary = \"s\"\nunder_test = \"image\"\n[needs.dut]\n{need}\n[[steps]]\npower_cycle = {{ on = \"dut\" }}\n"
        );
        std::fs::write(&path, text).unwrap();
        let scenario = scenario::load(&path).unwrap();
        let request = RunRequest { version: REQUEST_VERSION, scenario, keep: false };
        let run: RunId = self.ask::<RunAccepted>(RUN, &request).await.run;
        let mut device = None;
        let ended = async {
            let mut from = 0;
            loop {
                let page: EventsPage = self.ask(EVENTS, &EventsRequest { run: run.clone(), from }).await;
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

    async fn reserve_board(&self) {
        let need =
            json!({"role": "device", "device": BOARD, "model": null, "labels": {}, "capabilities": []});
        let body = json!({
            "version": 1, "id": "l1", "purpose": "", "needs": [need], "duration": null, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": true,
        });
        assert_eq!(self.ask::<Value>(RESERVE, &body).await["state"], "granted");
    }

    async fn stop(self) {
        // What a fake holds its kept devices for is of no interest.
        let _ = self.coordinator.shutdown().await;
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        for (rig, journal) in self.open {
            rig.stop().await;
            journal.close().await;
        }
        self.lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_its_board_or_says_why_not() {
    let scene = Scene::start().await;
    const WANTED: &str = "model = \"pi4b\"\nfallback = \"vm\"\nfallback_after = \"1s\"";

    let (device, verdict, reason) = scene.run(WANTED).await;
    let device = device.unwrap();
    assert_eq!((device.device.as_str(), device.instead), (BOARD, None), "it is free");
    assert_eq!(verdict, Verdict::Passed, "{reason}");

    scene.reserve_board().await;
    let (device, verdict, reason) = scene.run(WANTED).await;
    let device = device.unwrap();
    let instead = device.instead.unwrap();
    assert_eq!((device.device.as_str(), instead.of.as_str()), (MACHINE, "model pi4b"));
    assert_eq!(instead.because, "none was free within 1 s; lab-pi-1 is ann's");
    assert_eq!(verdict, Verdict::Passed, "{reason}");
    scene.ask::<Value>(RELEASE, &json!({"lease": "l1"})).await;

    // Nothing is waited for that cannot come.
    let said = json!({"device": BOARD, "health": "quarantined", "reason": "it smokes"});
    scene.ask::<Value>(HEALTH, &said).await;
    let (device, ..) = scene.run("requires = \"pi\"\nmodel = \"pi5\"").await;
    assert_eq!(device, None);
    let (device, ..) = scene.run("fallback = \"vm\"\nfallback_after = \"1h\"").await;
    let instead = device.unwrap().instead.unwrap();
    assert_eq!(instead.of, "backend pi");
    assert_eq!(instead.because, "lab-pi-1 is quarantined: it smokes (ann)");
    let (device, ..) = scene.run("model = \"pi5\"\nfallback = \"vm\"\nfallback_after = \"1h\"").await;
    assert_eq!(device.unwrap().instead.unwrap().because, "no device is a fit for it: model pi5");

    // A board that must be one, and a fallback that can do no more than the board.
    let (device, verdict, reason) = scene.run("requires = \"pi\"\ncapabilities = [\"ssh\"]").await;
    assert_eq!((device, verdict), (None, Verdict::Skipped));
    assert!(reason.contains("lab-pi-1 (a pi) lacks: ssh"), "{reason}");
    let (device, verdict, reason) = scene.run("fallback = \"vm\"\ncapabilities = [\"ssh\"]").await;
    assert_eq!((device, verdict), (None, Verdict::Skipped));
    assert!(
        reason.contains("and for its fallback: ") && reason.contains("lab-vm-1 (a vm) lacks: ssh"),
        "{reason}"
    );
    scene.stop().await;
}
