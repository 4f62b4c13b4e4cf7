//! The real coordinator as a person's accomplice: a request names where its answer goes.

use super::{By, Held, Scene};
use crate::nats::lab_name;
use pilab::coordinator::parts::{BootImage, KeyPair, Parts};
use pilab::coordinator::service::Coordinator;
use pilab::model::id::UserName;
use pilab::model::time::{Moment, Stamp};
use pilab::plan::lease::{Policy, Quota};
use pilab::support::term::Term;
use pilab::wire::request::{HELLO, RUN, Reply};
use pilab::wire::subject;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Some boot of some host.
const BOOT: &str = "0f3c2a51-9d0e-4b6a-8c11-00000000beef";

fn policy() -> Policy {
    let hour = Duration::from_secs(3600);
    let quota = Quota { devices: 1, requests: 1 };
    Policy {
        max_lease: hour,
        default_lease: hour,
        handover: hour,
        aging: hour,
        booking_ahead: hour,
        quota,
        quotas: BTreeMap::new(),
    }
}

/// A coordinator without devices on the scene's server.
async fn coordinator(scene: &Scene) -> Coordinator {
    let image = BootImage {
        id: String::new(),
        manifest: String::new(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        layers: Vec::new(),
        cmdline: Vec::new(),
        agent_sha256: String::new(),
    };
    let parts = Parts {
        lab: lab_name(),
        bus: scene.coordinator.clone(),
        issuer: scene.lab.issuer.clone(),
        nats_url: scene.lab.server.url(),
        lasting: false,
        owner: UserName::new("ann").unwrap(),
        policy: policy(),
        clock: Arc::new(|| {
            let at = Stamp { boot_ns: 1, wall_ms: 1 };
            Moment { boot: BOOT.parse().unwrap(), at, synchronised: true }
        }),
        term: Term::endless(),
        longest_act: std::time::Duration::ZERO,
        revive: Arc::new(|| ()),
        dir: scene.lab.dir.path().to_owned(),
        devices: Vec::new(),
        image,
        keys: |_| Ok(KeyPair { private: String::new(), public: String::new() }),
        bundles: scene.lab.dir.path().join("bundles"),
        keep_lines: Box::new(|_, _| Vec::new()),
        broke: tokio::sync::watch::channel(String::new()).1,
    };
    Coordinator::start(parts).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_answers_into_the_caller_s_inbox_and_nowhere_else() {
    let mut scene = Scene::start().await;
    let coordinator = coordinator(&scene).await;
    let ann = scene.attacker(By::Person).await;
    let raw = scene.raw_attacker(By::Person).await;
    let mut bob = scene.coordinator.subscribe("_INBOX.bob.>").await.unwrap();
    let mut alike = scene.coordinator.subscribe("_INBOX.annx.>").await.unwrap();
    scene.coordinator.settle().await.unwrap();
    let before = Held::read(&scene.coordinator).await;
    let targets = [
        "$KV.desired.lab-two.web",
        "$KV.desired.lab-two._index",
        "$KV.desired.other",
        "$KV.status.lab-two.web",
        "$KV.presence.lab-two",
        "$KV.lab-lab.lease.x",
        "$JS.API.STREAM.DELETE.KV_status",
        "$JS.API.STREAM.PURGE.KV_desired",
        "$JS.API.CONSUMER.DELETE.KV_desired.lab-two",
        &scene.ack.clone(),
        "_INBOX.coordinator.witness.x",
        "_INBOX.bob.x",
        "_INBOX.annx.y",
        "_INBOX.ann",
        "fleet.lab-two.ping",
        "lab.lab.event.lab-two",
        "lab.lab.run.r1",
    ];
    for reply in targets {
        for (verb, body) in [(HELLO, ""), (RUN, "{"), ("nothing", "x"), ("x.y", "")] {
            let asked = format!("lab.lab.req.ann.{verb}");
            raw.publish_with_reply(asked, reply.to_owned(), body.into()).await.unwrap();
        }
    }
    raw.publish("lab.lab.req.ann.hello", "".into()).await.unwrap();
    // The coordinator serves one after the other: once this is answered, all before it are done with.
    raw.flush().await.unwrap();
    let hello = subject::request(&lab_name(), &"ann".parse().unwrap(), HELLO);
    let answer = raw.request(hello.clone(), "".into()).await.unwrap();
    let answer: Reply<()> = serde_json::from_slice(&answer.payload).unwrap();
    assert!(matches!(answer, Reply::Ok { .. }));
    assert!(ann.request(hello, "", crate::nats::SOON).await.is_ok());

    let heard = scene.heard().await;
    let answers: Vec<_> = heard.iter().filter(|m| !m.subject.starts_with("lab.lab.req.ann.")).collect();
    assert!(answers.is_empty(), "{answers:?}");
    for inbox in [&mut bob, &mut alike] {
        assert!(tokio::time::timeout(super::STRAY, inbox.next()).await.is_err());
    }
    assert_eq!(Held::read(&scene.coordinator).await, before);
    coordinator.shutdown().await;
    scene.lab.stop().await;
}
