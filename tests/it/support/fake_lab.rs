//! A lab of fake devices over the real coordinator and nats-server. Its owner asks.

use super::console::Rig;
use super::coordinator::parts;
use crate::device::world::World;
use crate::journal::Open;
use crate::nats::{HOUR, LOCALHOST, Lab, SOON, device_id, lab_name};
use pilab::bus::connect::Bus;
use pilab::bus::gate::Gate;
use pilab::coordinator::parts::{LabDevice, Parts};
use pilab::coordinator::service::Coordinator;
use pilab::device::{self, DeviceParts};
use pilab::model::device::{Capability, Device, Model};
use pilab::model::id::UserName;
use pilab::model::power::PowerState;
use pilab::support::term::Term;
use pilab::wire::lending::{DEVICES, RESERVE};
use pilab::wire::request::Reply;
use pilab::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What there is of each device beside the coordinator.
pub struct Fake {
    pub world: Arc<World>,
    pub rig: Rig,
    pub journal: Open,
}

pub struct FakeLab {
    pub lab: Lab,
    coordinator: Coordinator,
    pub devices: BTreeMap<&'static str, Fake>,
    tracker: TaskTracker,
    stop: CancellationToken,
    bus: Bus,
}

/// A device whose every port is a fake. It has a power switch and these capabilities besides.
pub async fn fake(
    lab: &Lab,
    id: &str,
    model: Model,
    capabilities: &[Capability],
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> (LabDevice, Fake) {
    let world = Arc::new(World::default());
    world.lock().power = Some(PowerState::Off);
    fake_in(world, lab, id, model, capabilities, tracker, stop).await
}

/// The same in a world that was there before.
pub async fn fake_in(
    world: Arc<World>,
    lab: &Lab,
    id: &str,
    model: Model,
    capabilities: &[Capability],
    tracker: &TaskTracker,
    stop: &CancellationToken,
) -> (LabDevice, Fake) {
    let journal = Open::at(&lab.dir.path().join(id)).await;
    let rig = Rig::new(&journal.handle);
    let device = Device {
        id: device_id(id),
        backend: model.backend(),
        model,
        labels: Default::default(),
        capabilities: capabilities.iter().copied().chain([Capability::Power]).collect(),
    };
    let parts = DeviceParts {
        device,
        mac: "52:54:00:00:00:01".to_owned(),
        power: world.clone(),
        boot: world.clone(),
        reach: world.clone(),
        tickets: world.clone(),
        console: rig.console.clone(),
        journal: journal.handle.clone(),
        min_off: Duration::ZERO,
        stagger: Arc::default(),
        term: Term::endless(),
        way_in: Some(lab.dir.path().join("ways-in").join(id)),
    };
    let handle = device::spawn(parts, tracker, stop.clone());
    let way = SocketAddr::new(LOCALHOST, 0);
    let gate = Gate::open(way, lab.server.address(), tracker, stop.clone()).await.unwrap();
    (LabDevice { handle, gate, booting: Arc::default(), rated_cycles: None }, Fake { world, rig, journal })
}

impl FakeLab {
    /// Each device has a power switch and these capabilities besides.
    pub async fn start(devices: &[(&'static str, Model)], capabilities: &[Capability]) -> Self {
        Self::start_with(devices, capabilities, |_| ()).await
    }

    /// The same, with other parts of the coordinator.
    pub async fn start_with(
        devices: &[(&'static str, Model)],
        capabilities: &[Capability],
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), devices, capabilities, change).await
    }

    /// The same over what another has left in a directory.
    pub async fn start_in(
        dir: TempDir,
        devices: &[(&'static str, Model)],
        capabilities: &[Capability],
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let lab = Lab::start_in(dir).await;
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut owned, mut fakes) = (Vec::new(), BTreeMap::new());
        for (id, model) in devices {
            let (device, fake) = fake(&lab, id, *model, capabilities, &tracker, &stop).await;
            owned.push(device);
            fakes.insert(*id, fake);
        }
        let mut parts = parts(&lab, lab.coordinator().await, owned);
        parts.policy.quota.devices = devices.len();
        change(&mut parts);
        let coordinator = Coordinator::start(parts).await.unwrap();
        let ann = UserName::new("ann").unwrap();
        let bus = lab.connect("ann", &lab.issuer.user(&ann, HOUR).unwrap()).await;
        Self { lab, coordinator, devices: fakes, tracker, stop, bus }
    }

    /// Where its NATS server is.
    pub fn url(&self) -> String {
        self.lab.server.url()
    }

    pub async fn ask<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> T {
        self.try_ask(verb, body).await.unwrap_or_else(|error| panic!("{verb}: {error}"))
    }

    pub async fn try_ask<T: DeserializeOwned>(&self, verb: &str, body: &impl Serialize) -> Result<T, String> {
        let subject = subject::request(&lab_name(), &UserName::new("ann").unwrap(), verb);
        let answer = self.bus.request(subject, serde_json::to_vec(body).unwrap(), SOON).await.unwrap();
        match serde_json::from_slice(&answer).unwrap() {
            Reply::Ok { body } => Ok(body),
            Reply::Refused { error, .. } => Err(error),
        }
    }

    /// How a device is.
    pub async fn device(&self, id: &str) -> Value {
        let told: Value = self.ask(DEVICES, &json!({})).await;
        let mut rows = told["devices"].as_array().unwrap().iter();
        rows.find(|row| row["id"] == id || row["device"]["id"] == id)
            .unwrap_or_else(|| panic!("{told}"))
            .clone()
    }

    /// Waits until a device is so.
    pub async fn until(&self, id: &str, is_so: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + SOON;
        loop {
            let device = self.device(id).await;
            if is_so(&device) {
                return;
            }
            assert!(Instant::now() < deadline, "{device}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Reserves a device under this lease.
    pub async fn reserve(&self, lease: &str, device: &str) {
        let need =
            json!({"role": "device", "device": device, "model": null, "labels": {}, "capabilities": []});
        let body = json!({
            "version": 1, "id": lease, "purpose": "", "needs": [need], "duration": null, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": true,
        });
        assert_eq!(self.ask::<Value>(RESERVE, &body).await["state"], "granted");
    }

    pub async fn stop(self) {
        self.leave().await;
    }

    /// Stops it; what it had on the disk stays.
    pub async fn leave(self) -> TempDir {
        // What a fake holds its kept devices for is of no interest.
        let _ = self.coordinator.shutdown().await;
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        for fake in self.devices.into_values() {
            fake.rig.stop().await;
            fake.journal.close().await;
        }
        self.lab.stop().await
    }
}
