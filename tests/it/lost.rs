//! Whoever has lost a device and goes on asking is told who has it, whatever is asked.

use crate::nats::{HOUR, Lab, SOON, lab_name};
use crate::support::fake_lab::FakeLab;
use pilab::bus::connect::Bus;
use pilab::model::device::{Capability, Model};
use pilab::model::id::UserName;
use pilab::model::role::Role;
use pilab::wire::boot::{BOOT, UPLOAD_LACKS};
use pilab::wire::console::{CONSOLE_BREAK, CONSOLE_WRITE, ConsoleWrite};
use pilab::wire::deploying::{DEPLOY, UNDEPLOY, VERIFY};
use pilab::wire::lending::{EXTEND, HEARTBEAT, LOGIN, LoginAsked, PING, POWER, RELEASE, RESERVE, TRANSFER};
use pilab::wire::request::Reply;
use pilab::wire::subject;
use pilab::wire::tunnel::{ADMIT, TUNNEL_OPEN};
use serde_json::{Value, json};

/// Given on by its holder.
const GIVEN: &str = "lab-vm-1";
/// Given back, and reserved by another.
const BACK: &str = "lab-vm-2";

pub(crate) struct User {
    name: UserName,
    bus: Bus,
}

impl User {
    pub(crate) async fn new(lab: &FakeLab, name: &str) -> Self {
        let name = UserName::new(name).unwrap();
        lab.ask::<Value>(LOGIN, &LoginAsked { user: name.clone(), role: Role::User, ttl: HOUR }).await;
        let Lab { issuer, .. } = &lab.lab;
        let bus = lab.lab.connect(name.as_str(), &issuer.user(&name, HOUR).unwrap()).await;
        Self { name, bus }
    }

    pub(crate) async fn ask(&self, verb: &str, body: &Value) -> Reply<Value> {
        let subject = subject::request(&lab_name(), &self.name, verb);
        let answer = self.bus.request(subject, serde_json::to_vec(body).unwrap(), SOON).await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    async fn done(&self, verb: &str, body: Value) -> Value {
        match self.ask(verb, &body).await {
            Reply::Ok { body } => body,
            Reply::Refused { error, .. } => panic!("{verb}: {error}"),
        }
    }

    pub(crate) async fn reserve(&self, lease: &str, device: &str) {
        let need =
            json!({"role": "device", "device": device, "model": null, "labels": {}, "capabilities": []});
        let body = json!({
            "version": 1, "id": lease, "purpose": "", "needs": [need], "duration": null, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": false,
        });
        self.done(RESERVE, body).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_has_lost_a_device_is_told_to_whom_by_every_verb() {
    let devices = [(GIVEN, Model::VmAarch64), (BACK, Model::VmAarch64)];
    let lab = FakeLab::start(&devices, &[Capability::Boot, Capability::Ssh]).await;
    let (cid, bob) = (User::new(&lab, "cid").await, User::new(&lab, "bob").await);
    cid.reserve("given", GIVEN).await;
    cid.done(TRANSFER, json!({"lease": "given", "to": "bob"})).await;
    cid.reserve("back", BACK).await;
    cid.done(RELEASE, json!({"lease": "back"})).await;
    bob.reserve("next", BACK).await;
    lab.until(BACK, |device| device["usage"]["holder"] == "bob").await;

    let hour = json!({"secs": 60, "nanos": 0});
    for (device, lease, now) in [(GIVEN, "given", "given"), (BACK, "back", "next")] {
        let write = ConsoleWrite { device: device.parse().unwrap(), bytes: vec![b'x'] };
        let score = json!({"type": "PodmanV0", "data": {"services": []}});
        let asked = [
            (POWER, json!({"device": device, "act": "on", "force": null})),
            (POWER, json!({"device": device, "act": "cycle", "force": null})),
            (POWER, json!({"device": device, "act": "off", "force": null})),
            (BOOT, json!({"device": device, "what": {"kind": "image", "image": null}})),
            (UPLOAD_LACKS, json!({"device": device, "files": []})),
            (PING, json!({"device": device})),
            (CONSOLE_WRITE, serde_json::to_value(&write).unwrap()),
            (CONSOLE_BREAK, json!({"device": device})),
            (ADMIT, json!({"device": device, "key": "ssh-ed25519 AAAAcid"})),
            (TUNNEL_OPEN, json!({"device": device, "port": 22})),
            (DEPLOY, json!({"device": device, "deployment": "web", "score": score})),
            (UNDEPLOY, json!({"device": device, "deployment": "web"})),
            (VERIFY, json!({"device": device, "within": {"secs": 0, "nanos": 0}})),
            (EXTEND, json!({"lease": lease, "longer": hour, "once": null})),
            (HEARTBEAT, json!({"lease": lease})),
            (TRANSFER, json!({"lease": lease, "to": "cid"})),
            (RELEASE, json!({"lease": lease})),
        ];
        lab.devices[device].world.take();
        for (verb, body) in asked {
            let answer = cid.ask(verb, &body).await;
            let Reply::Refused { error, lost: Some(lost), .. } = answer else {
                panic!("{verb} of {device}: {answer:?}");
            };
            let present = lost.present.unwrap_or_else(|| panic!("{verb} of {device}: {error}"));
            assert_eq!(
                (present.device.as_str(), present.lease.as_str(), present.holder.as_str()),
                (device, now, "bob"),
                "{verb}"
            );
        }
        assert_eq!(lab.devices[device].world.take(), Vec::<String>::new(), "nothing was done to it");
    }
    lab.stop().await;
}
