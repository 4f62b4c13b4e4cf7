//! From one holder to the next, over fakes: each thing that may be left of the last one is planted and gone, and a part
//! that cannot be done makes the device suspect, with the reason.

use crate::device::world::Fault;
use crate::journal::{read_all, records};
use crate::nats::{HOUR, LOCALHOST, REFUSED_WITHIN, SOON};
use crate::support::fake_lab::FakeLab;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::issuer::COORDINATOR;
use pilab::console::WriteError;
use pilab::device::ports::TicketFate;
use pilab::journal::{Entry, Since};
use pilab::model::device::{Capability, Model};
use pilab::model::event::Event;
use pilab::model::identity::file;
use pilab::model::lease::FencingToken;
use pilab::model::power::PowerState;
use pilab::wire::console::{CONSOLE_WRITE, ConsoleWrite};
use pilab::wire::deploying::{APPLY, DEPLOYMENTS};
use pilab::wire::lending::{POWER, RELEASE};
use pilab::wire::subject;
use pilab::wire::tunnel::TUNNEL_OPEN;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const DEVICE: &str = "lab-vm-1";

/// What a holder may leave. Containers and copies of a device's keys need a podman and an agent: `coordinator`.
#[derive(Debug, Clone, Copy)]
enum Left {
    Machine,
    BootTree,
    Ticket,
    WayIn,
    Port,
    ConsoleWriter,
    Credential,
    DesiredKey,
    StatusKey,
}

const ALL: [Left; 9] = [
    Left::Machine,
    Left::BootTree,
    Left::Ticket,
    Left::WayIn,
    Left::Port,
    Left::ConsoleWriter,
    Left::Credential,
    Left::DesiredKey,
    Left::StatusKey,
];

/// A device that is held and up, and with all of that on it.
struct Scene {
    lab: FakeLab,
    bus: Bus,
    token: FencingToken,
    /// The device's end of a tunnel.
    port: TcpStream,
    /// What the device's ticket brought it.
    creds: String,
    _line: tokio::io::DuplexStream,
}

impl Scene {
    async fn plant() -> Self {
        let lab = FakeLab::start(&[(DEVICE, Model::VmAarch64)], &[Capability::Boot, Capability::Ssh]).await;
        let fake = &lab.devices[DEVICE];
        let line = fake.rig.plug().await;
        lab.reserve("l1", DEVICE).await;
        lab.ask::<Value>(POWER, &json!({"device": DEVICE, "act": "cycle", "force": null})).await;
        let fate = TicketFate::Redeemed { address: LOCALHOST };
        fake.world.lock().fate.as_ref().unwrap().send_replace(fate);
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let open = json!({"device": DEVICE, "port": listener.local_addr().unwrap().port()});
        let until = async {
            while lab.try_ask::<Value>(TUNNEL_OPEN, &open).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, until).await.unwrap();
        let (port, _) = listener.accept().await.unwrap();
        let write = ConsoleWrite { device: DEVICE.parse().unwrap(), bytes: b"x".to_vec() };
        lab.ask::<Value>(CONSOLE_WRITE, &write).await;
        let bus = lab.lab.connect(COORDINATOR, &lab.lab.issuer.coordinator(HOUR).unwrap()).await;
        for bucket in [subject::DESIRED, subject::STATUS] {
            bus.kv_put(bucket, &format!("{DEVICE}.planted"), "{}").await.unwrap();
        }
        let files = fake.world.lock().files.clone();
        let creds = files.into_iter().find(|(name, _)| name == file::NATS_CREDS).unwrap().1;
        let written = records(read_all(&fake.journal.handle, Since::Start).await);
        let token = written.into_iter().find_map(|record| match record.entry {
            Entry::Event(Event::ConsoleWritten { token, .. }) => Some(token),
            _ => None,
        });
        let (token, creds) = (token.unwrap(), String::from_utf8(creds).unwrap());
        Self { lab, bus, token, port, creds, _line: line }
    }

    async fn is_there(&mut self, left: Left) -> bool {
        let fake = &self.lab.devices[DEVICE];
        let kept =
            async |bucket| !self.bus.kv_keys(bucket, &format!("{DEVICE}.planted")).await.unwrap().is_empty();
        match left {
            Left::Machine => fake.world.lock().power == Some(PowerState::On),
            Left::BootTree => fake.world.lock().offered,
            Left::Ticket => fake.world.lock().fate.is_some(),
            Left::WayIn => self.lab.lab.dir.path().join("ways-in").join(DEVICE).exists(),
            Left::Port => {
                let read = timeout(Duration::from_millis(100), self.port.read(&mut [0])).await;
                !matches!(read, Ok(Ok(0) | Err(_)))
            }
            Left::ConsoleWriter => {
                !matches!(fake.rig.console.write(self.token, vec![b'y']).await, Err(WriteError::Fenced(_)))
            }
            Left::Credential => {
                let options = BusOptions {
                    url: self.lab.lab.server.url().into(),
                    creds: self.creds.clone(),
                    name: DEVICE.to_owned(),
                    inbox_prefix: subject::inbox(DEVICE),
                };
                Bus::connect(options, Some(REFUSED_WITHIN)).await.is_ok()
            }
            Left::DesiredKey => kept(subject::DESIRED).await,
            Left::StatusKey => kept(subject::STATUS).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_a_holder_leaves_is_found_and_gone() {
    let mut scene = Scene::plant().await;
    for left in ALL {
        assert!(scene.is_there(left).await, "{left:?} is not planted: this tells nothing");
    }
    scene.lab.ask::<Value>(RELEASE, &json!({"lease": "l1"})).await;
    scene.lab.until(DEVICE, |device| device["usage"]["state"] == "free").await;
    let device = scene.lab.device(DEVICE).await;
    assert_eq!((&device["health"], &device["power"]), (&"good".into(), &"off".into()), "{device}");
    for left in ALL {
        assert!(!scene.is_there(left).await, "{left:?} is left");
    }
    scene.lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cleaned_makes_the_device_suspect_with_the_reason() {
    let wrong = [
        (
            "lab-a",
            Fault::SwitchFails,
            "it was not switched off: cannot switch power off: cannot switch the relay",
        ),
        (
            "lab-b",
            Fault::SwitchSticks,
            "it was not switched off: power was switched off but reads back as on",
        ),
        ("lab-c", Fault::WithdrawFails, "it was not switched off: cannot withdraw what to boot"),
        ("lab-d", Fault::VoidFails, "it was not switched off: cannot manage the boot ticket"),
        ("lab-e", Fault::None, "its keys were not deleted"),
    ];
    let devices = wrong.map(|(id, ..)| (id, Model::VmAarch64));
    let lab = FakeLab::start(&devices, &[Capability::Boot]).await;
    for (id, fault, _) in wrong {
        lab.reserve(id, id).await;
        lab.ask::<Value>(POWER, &json!({"device": id, "act": "cycle", "force": null})).await;
        lab.devices[id].world.lock().fault = fault;
    }
    let bus = lab.lab.connect(COORDINATOR, &lab.lab.issuer.coordinator(HOUR).unwrap()).await;
    bus.api::<Value>("STREAM.DELETE.KV_status", &Value::Null).await.unwrap();
    for (id, ..) in wrong {
        lab.ask::<Value>(RELEASE, &json!({"lease": id})).await;
    }
    for (id, _, why) in wrong {
        lab.until(id, |device| device["health"] == "suspect").await;
        let device = lab.device(id).await;
        assert!(device["reason"].as_str().unwrap().starts_with(why), "{device}");
    }
    lab.stop().await;
}

/// Its wires are nobody's then; what it has in NATS is the lab's to take back.
#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_has_left_the_lab_file_leaves_nothing_in_nats() {
    let Scene { lab, creds, .. } = Scene::plant().await;
    let score = json!({"type": "PodmanV0", "data": {"services": []}});
    let spec = json!({"name": "kept", "selector": {"devices": [DEVICE]}, "score": score});
    lab.ask::<Value>(APPLY, &json!({"lease": "l1", "spec": spec})).await;
    let told: Value = lab.ask(DEPLOYMENTS, &json!({})).await;
    assert_eq!(told["deployments"].as_array().unwrap().len(), 1, "{told}");
    let dir = lab.leave().await;

    let lab = FakeLab::start_in(dir, &[("lab-vm-2", Model::VmAarch64)], &[Capability::Boot], |_| ()).await;
    let bus = lab.lab.connect(COORDINATOR, &lab.lab.issuer.coordinator(HOUR).unwrap()).await;
    lab.ask::<Value>(RELEASE, &json!({"lease": "l1"})).await;
    let left = async || {
        let mut left = Vec::new();
        for bucket in [subject::DESIRED, subject::STATUS] {
            left.extend(bus.kv_keys(bucket, &format!("{DEVICE}.planted")).await.unwrap());
        }
        let told: Value = lab.ask(DEPLOYMENTS, &json!({})).await;
        left.extend(told["deployments"].as_array().unwrap().iter().map(Value::to_string));
        left
    };
    let deadline = Instant::now() + SOON;
    loop {
        let left = left().await;
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let options = BusOptions {
        url: lab.url().into(),
        creds,
        name: DEVICE.to_owned(),
        inbox_prefix: subject::inbox(DEVICE),
    };
    assert!(Bus::connect(options, Some(REFUSED_WITHIN)).await.is_err(), "its credentials are good");
    lab.stop().await;
}
