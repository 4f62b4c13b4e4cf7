//! Every attack that is known, on a real nats-server with credentials of the real issuer: each is refused,
//! and what the server holds is afterwards what it was. Needs `nats-server`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod credentials;
mod people;
mod table;

use self::table::{Act, Attack, By, Refusal, attacks};
use crate::nats::{HOUR, Lab, SOON, TOKEN, device_id, device_settled, lab_name, raw_client, score, web};
use pilab::bus::connect::{Bus, Subscription};
use pilab::bus::error::BusError;
use pilab::bus::provision;
use pilab::model::id::UserName;
use pilab::model::workload::DeniedAction;
use pilab::wire::subject;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long what was refused may still be heard: the server delivers in its order, and has answered since.
const STRAY: Duration = Duration::from_millis(20);

/// What the server holds, read with the coordinator's rights.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    /// Configuration and state, the numbers of the first and last message included.
    streams: BTreeMap<String, Value>,
    /// Number and content of each key's message.
    messages: BTreeMap<String, Value>,
    /// Configuration, what was delivered and what was acknowledged.
    consumers: BTreeMap<String, Value>,
}

impl Held {
    pub(crate) async fn read(coordinator: &Bus) -> Self {
        let mut held =
            Self { streams: BTreeMap::new(), messages: BTreeMap::new(), consumers: BTreeMap::new() };
        let api = async |call: String, body: Value| coordinator.api::<Value>(&call, &body).await.unwrap();
        let names = api("STREAM.NAMES".to_owned(), Value::Null).await;
        for stream in names["streams"].as_array().unwrap() {
            let stream = stream.as_str().unwrap();
            let info = api(format!("STREAM.INFO.{stream}"), json!({ "subjects_filter": ">" })).await;
            for subject in
                info["state"]["subjects"].as_object().into_iter().flatten().map(|(subject, _)| subject)
            {
                let last = json!({ "last_by_subj": subject });
                let message = api(format!("STREAM.MSG.GET.{stream}"), last).await;
                held.messages.insert(subject.clone(), message["message"].clone());
            }
            held.streams.insert(stream.to_owned(), json!([info["config"], info["state"]]));
            let list = api(format!("CONSUMER.LIST.{stream}"), Value::Null).await;
            for consumer in list["consumers"].as_array().into_iter().flatten() {
                let name = format!("{stream} {}", consumer["name"].as_str().unwrap());
                let parts = ["config", "delivered", "ack_floor", "num_ack_pending", "num_pending"];
                held.consumers.insert(name, json!(parts.map(|part| &consumer[part])));
            }
        }
        held
    }

    /// Without what `lab-one` may change: its own status and presence, and what its durable has delivered.
    fn of_others(mut self) -> Self {
        for bucket in [subject::STATUS, subject::PRESENCE] {
            if let Some(Value::Array(parts)) = self.streams.get_mut(&subject::stream(bucket)) {
                parts.truncate(1);
            }
        }
        self.messages.retain(|subject, _| {
            !subject.starts_with("$KV.status.lab-one.") && subject != "$KV.presence.lab-one"
        });
        self.consumers.remove("KV_desired lab-one");
        self
    }
}

/// Somebody who must not hear anything of an attack.
struct Witness {
    heard: Subscription,
    /// Where the coordinator says that all of it has been said.
    end: String,
}

/// The lab with its victims.
struct Scene {
    lab: Lab,
    coordinator: Bus,
    two: Bus,
    witnesses: Vec<Witness>,
    /// Acknowledges an entry that `lab-two` has been given.
    ack: String,
}

impl Scene {
    async fn start() -> Self {
        let lab = Lab::start().await;
        let coordinator = lab.coordinator().await;
        // Presence ages away, which no attack must be blamed for.
        let info: Value = coordinator.api("STREAM.INFO.KV_presence", &Value::Null).await.unwrap();
        let mut config = info["config"].clone();
        config["max_age"] = json!(0);
        coordinator.api::<Value>("STREAM.UPDATE.KV_presence", &config).await.unwrap();
        for name in ["lab-one", "lab-two"] {
            let device = device_id(name);
            provision::device(&coordinator, &device, crate::nats::TOKEN).await.unwrap();
            provision::put_desired(&coordinator, &device, &web(), &score(), TOKEN).await.unwrap();
            let key = subject::deployment_key(&device, &web());
            coordinator.kv_put(subject::STATUS, &key, "mine").await.unwrap();
            coordinator.kv_put(subject::PRESENCE, name, "mine").await.unwrap();
        }
        coordinator.kv_put(&format!("lab-{}", lab_name()), "lease.x", "mine").await.unwrap();
        let two = lab.device("lab-two").await;
        let raw = raw_client(&lab, &lab.issuer.device(&device_id("lab-two"), HOUR).unwrap(), "lab-two").await;
        let pull =
            async_nats::Request::new().payload(r#"{"batch":1,"no_wait":true}"#.into()).inbox(raw.new_inbox());
        let entry = raw.send_request("$JS.API.CONSUMER.MSG.NEXT.KV_desired.lab-two", pull).await.unwrap();
        let ack = entry.reply.unwrap().into_string();
        let mut witnesses = Vec::new();
        for (bus, subject) in [
            (&two, "fleet.lab-two.>"),
            (&two, "_INBOX.lab-two.witness.>"),
            (&coordinator, "_INBOX.coordinator.witness.>"),
            (&coordinator, "lab.>"),
        ] {
            let heard = bus.subscribe(subject).await.unwrap();
            // A device's inbox is in the devices' account, where the coordinator's word does not come.
            let end = if subject == "_INBOX.lab-two.witness.>" { "" } else { subject };
            witnesses.push(Witness { heard, end: end.replace('>', "end") });
        }
        coordinator.settle().await.unwrap();
        device_settled(&two, "lab-two").await;
        Self { lab, coordinator, two, witnesses, ack }
    }

    async fn attacker(&self, by: By) -> Bus {
        match by {
            By::Device => self.lab.device("lab-one").await,
            By::Person => {
                let ann = self.lab.issuer.user(&UserName::new("ann").unwrap(), HOUR).unwrap();
                self.lab.connect("ann", &ann).await
            }
        }
    }

    async fn raw_attacker(&self, by: By) -> async_nats::Client {
        let (name, credentials) = match by {
            By::Device => ("lab-one", self.lab.issuer.device(&device_id("lab-one"), HOUR)),
            By::Person => ("ann", self.lab.issuer.user(&UserName::new("ann").unwrap(), HOUR)),
        };
        raw_client(&self.lab, &credentials.unwrap(), name).await
    }

    /// What the witnesses have heard up to now.
    async fn heard(&mut self) -> Vec<pilab::bus::connect::Message> {
        let mut heard = Vec::new();
        for Witness { heard: subscription, end } in &mut self.witnesses {
            if end.is_empty() {
                while let Ok(Some(message)) = timeout(STRAY, subscription.next()).await {
                    heard.push(message);
                }
                continue;
            }
            self.coordinator.publish(end.clone(), "").await.unwrap();
            loop {
                let message = timeout(SOON, subscription.next()).await.unwrap().unwrap();
                if message.subject == *end {
                    break;
                }
                heard.push(message);
            }
        }
        heard
    }
}

/// Carries out `act`; answers how it was refused.
async fn carry_out(
    scene: &Scene,
    bus: &Bus,
    raw: &async_nats::Client,
    attack: &Attack,
) -> Result<Refusal, String> {
    match &attack.act {
        Act::Ask { subject, header: None, body } => {
            match bus.request(subject.clone(), body.clone(), Duration::from_secs(3)).await {
                Err(BusError::Denied { .. }) => Ok(Refusal::Violation),
                other => Err(format!("{other:?}")),
            }
        }
        Act::Ask { subject, header: Some((name, value)), body } => {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(*name, *value);
            let answer = raw.request_with_headers(subject.clone(), headers, body.clone().into()).await;
            let answer: Value = serde_json::from_slice(&answer.map_err(|e| e.to_string())?.payload).unwrap();
            answer["error"]["err_code"].as_u64().map(Refusal::Error).ok_or_else(|| answer.to_string())
        }
        Act::Hear { subject } => {
            let mut connection = bus.connection();
            let mut subscription = bus.subscribe(subject.clone()).await.unwrap();
            let told = connection.wait_for(|now| {
                let denied = now.denied.as_ref();
                denied.is_some_and(|d| d.action == DeniedAction::Subscribe && d.subject == *subject)
            });
            timeout(SOON, told).await.map_err(|_| "not told".to_owned())?.unwrap();
            // What somebody who hears the victims would hear: a request, and an answer.
            scene.coordinator.publish("fleet.lab-two.probe", "x").await.unwrap();
            scene.coordinator.publish("lab.other.event.x", "x").await.unwrap();
            scene.coordinator.flush().await.unwrap();
            scene.two.kv_get(subject::DESIRED, "lab-two.web").await.unwrap();
            match timeout(STRAY, subscription.next()).await {
                Err(_) => Ok(Refusal::Violation),
                Ok(heard) => Err(format!("heard {heard:?}")),
            }
        }
        Act::Aim { subject, body, reply } => {
            raw.publish_with_reply(subject.clone(), reply.clone(), body.clone().into()).await.unwrap();
            // Answered by the same stream after what came before.
            for key in ["$JS.API.DIRECT.GET.KV_desired.$KV.desired.lab-one.web", "$KV.status.lab-one.fence"] {
                raw.request(key, "".into()).await.map_err(|e| e.to_string())?;
            }
            Ok(attack.refusal)
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_is_refused_and_changes_nothing() {
    let mut scene = Scene::start().await;
    let rows = attacks(&scene.ack);
    let (device, person) = (scene.attacker(By::Device).await, scene.attacker(By::Person).await);
    let (raw_device, raw_person) =
        (scene.raw_attacker(By::Device).await, scene.raw_attacker(By::Person).await);
    let mut wrong = Vec::new();
    let mut before = Held::read(&scene.coordinator).await;
    for attack in &rows {
        let (bus, raw) = match attack.by {
            By::Device => (&device, &raw_device),
            By::Person => (&person, &raw_person),
        };
        let seen = carry_out(&scene, bus, raw, attack).await;
        let mut heard = scene.heard().await;
        heard
            .retain(|message| !message.subject.ends_with(".probe") && message.subject != "lab.other.event.x");
        let now = Held::read(&scene.coordinator).await;
        if seen != Ok(attack.refusal) {
            wrong.push(format!("{:?}: {}: {seen:?}", attack.by, attack.name));
        }
        let same = match attack.refusal {
            Refusal::Violation | Refusal::Error(_) => now == before,
            Refusal::AnswerLost | Refusal::NoRequest => now.clone().of_others() == before.of_others(),
        };
        if !same {
            wrong.push(format!("{:?}: {}: the server holds something else", attack.by, attack.name));
        }
        if attack.refusal == Refusal::NoRequest {
            let two = device_id("lab-two");
            heard.retain(|m| m.reply.is_some() && subject::parse_fleet(&two, &m.subject).is_some());
        }
        if !heard.is_empty() {
            wrong.push(format!("{:?}: {}: heard by others: {heard:?}", attack.by, attack.name));
        }
        before = now;
    }
    println!("{} attacks, {} not refused", rows.len(), wrong.len());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let told = device.denials();
    assert!(!told.is_empty() && told.len() <= 16, "what was denied is told, and bounded: {told:?}");
    for name in ["lab-one", "lab-two"] {
        let bus = scene.lab.device(name).await;
        assert!(bus.kv_get(subject::DESIRED, &format!("{name}.web")).await.unwrap().is_some());
    }
    scene.lab.stop().await;
}

/// Shows that the comparison would have seen an attack that succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_acts_with_the_coordinator_s_rights_are_seen() {
    let template = attacks("$ACK");
    let harmful: Vec<_> = (0..template.len()).filter(|at| template[*at].harms).collect();
    assert!(harmful.len() > 20, "{}", harmful.len());
    for at in harmful {
        let scene = Scene::start().await;
        let attack = attacks(&scene.ack).remove(at);
        let Act::Ask { subject, body, .. } = &attack.act else { panic!("{attack:?}") };
        let before = Held::read(&scene.coordinator).await;
        // An acknowledgement has no answer.
        let _ = scene.coordinator.request(subject.clone(), body.clone(), Duration::from_millis(200)).await;
        let deadline = Instant::now() + SOON;
        while Held::read(&scene.coordinator).await == before {
            assert!(Instant::now() < deadline, "{}: has no effect", attack.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.lab.stop().await;
    }
}
