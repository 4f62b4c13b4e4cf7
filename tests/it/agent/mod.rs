//! The agent on a real nats-server: with a runtime that has state but no containers.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, its helpers too")]
#![expect(clippy::print_stderr, reason = "a test says what it skipped")]

mod away;
mod changes;
mod fake;
mod inits;
pub(crate) mod lab;
mod offline;
mod paced;
mod rights;

use fake::Fake;
use lab::{Lab, service};
use pilab::bus::error::BusError;
use pilab::model::workload::Phase;
use pilab::wire::fleet::{Pong, Verb};
use pilab::wire::subject;
use serde_json::json;
use std::time::Duration;

const V1: &str = "localhost/web:1";
const V2: &str = "localhost/web:2";

/// A lab with an agent on a runtime that has both images; none when nats-server is missing.
async fn lab() -> Option<(Lab, Fake)> {
    let lab = Lab::start().await?;
    Some((lab, Fake::with_images(&[V1, V2])))
}

macro_rules! lab_or_return {
    () => {
        match lab().await {
            Some(lab) => lab,
            None => return,
        }
    };
}

#[tokio::test]
async fn deploy_upgrade_delete() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 1, &[service("web", V1), service("db", V1)]).await;
    let status = lab.phase("shop", Phase::Running).await;
    assert_eq!((status.generation, status.services.len()), (1, 2));
    assert_eq!(status.message, "2 services running");
    let before = fake.ids();

    lab.deploy("shop", 2, &[service("web", V2), service("db", V1)]).await;
    let status = lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    assert_eq!(status.services[0].image, V2);
    let after = fake.ids();
    assert_ne!(before["shop/web"], after["shop/web"], "the upgraded service is a new container");
    assert_eq!(before["shop/db"], after["shop/db"], "the unchanged service is the same container");

    lab.delete("shop").await;
    lab.gone("shop").await;
    assert!(fake.ids().is_empty());
    let last = fake.journal().pop().unwrap();
    assert!(last.starts_with("remove"), "{last}: the status goes only after the containers");
    lab.acked().await;
    assert_eq!(agent.denied(), 0, "the agent needs no right that it does not have");
    agent.stop().await;
}

#[tokio::test]
async fn a_ping_tells_who_answers_and_the_heartbeat_how_it_fares() {
    let (lab, fake) = lab_or_return!();
    fake.hang_list();
    let agent = lab.agent(fake);
    let pong = lab.ping().await;
    assert_eq!((pong.device.as_str(), pong.agent_version.as_str()), ("lab-1", env!("CARGO_PKG_VERSION")));
    assert_eq!(pong.agent_sha256.len(), 64);
    assert!(!pong.boot_id.is_empty() && pong.uptime_ms > 0);
    let presence = lab.wait_key(subject::PRESENCE, "lab-1").await;
    let presence: pilab::model::workload::Presence = serde_json::from_slice(&presence).unwrap();
    assert!(presence.memory_total > presence.memory_available && presence.memory_available > 0);
    assert_eq!(presence.agent_sha256, pong.agent_sha256);
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_run_is_told_and_touches_nothing_else() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("good", 1, &[service("web", V1)]).await;
    lab.phase("good", Phase::Running).await;
    let before = fake.ids();

    lab.put("bad", "{\"version\": 1, \"genera").await;
    let status = lab.phase("bad", Phase::Failed).await;
    assert_eq!(status.reason, "MalformedDesired");
    assert!(status.message.contains("EOF while parsing"), "{}", status.message);

    lab.deploy("twice", 1, &[service("web", V1), service("web", V1)]).await;
    let status = lab.phase("twice", Phase::Failed).await;
    assert_eq!(status.reason, "InvalidScore");
    assert!(status.message.contains("services[1].name"), "{}", status.message);

    let many: Vec<_> = (0..257).map(|n| service(&format!("s{n}"), V1)).collect();
    lab.deploy("many", 1, &many).await;
    assert_eq!(lab.phase("many", Phase::Failed).await.reason, "TooLarge");

    assert_eq!(fake.ids(), before, "nothing was started for them, and what ran still runs");
    lab.deploy("bad", 1, &[service("web", V1)]).await;
    lab.phase("bad", Phase::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn an_upgrade_without_its_image_leaves_the_old_running_until_it_is_there() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    let before = fake.ids();
    lab.deploy("shop", 2, &[service("web", "localhost/web:3")]).await;
    let status = lab.status("shop", |status| status.reason == "ImageMissing").await;
    assert_eq!((status.phase, status.generation), (Phase::Pending, 2));
    assert!(status.message.contains("localhost/web:3"), "{}", status.message);
    assert_eq!(status.services[0].state, "running", "the old one");
    assert_eq!(fake.ids(), before);
    fake.add_image("localhost/web:3");
    lab.phase("shop", Phase::Running).await;
    assert_ne!(fake.ids(), before);
    agent.stop().await;
}

#[tokio::test]
async fn a_smaller_generation_or_token_changes_nothing() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 5, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    let before = fake.ids();
    lab.deploy("shop", 4, &[service("web", V2)]).await;
    let status = lab.status("shop", |s| s.message.contains("generation 4 was refused")).await;
    assert_eq!((status.phase, status.generation), (Phase::Running, 5));
    let stale = json!({ "version": 1, "generation": 6, "token": { "epoch": 1, "sequence": 0 },
        "score": { "type": "PodmanV0", "data": { "services": [] } } });
    lab.put("shop", &stale.to_string()).await;
    lab.status("shop", |s| s.message.contains("token 1.0")).await;
    assert_eq!(fake.ids(), before);
    agent.stop().await;
}

#[tokio::test]
async fn nothing_is_removed_before_an_index_was_seen() {
    let (lab, fake) = lab_or_return!();
    fake.place("stray", "web", "running");
    // As after a crash between a value and its index.
    lab.bus().kv_purge(subject::DESIRED, "lab-1._index").await.unwrap();
    let agent = lab.agent(fake.clone());
    let value = lab::desired(1, json!({ "services": [service("web", V1)] }));
    lab.put("shop", &value).await;
    lab.phase("shop", Phase::Running).await;
    assert!(fake.ids().contains_key("stray/web"));
    lab.put_index(&[("shop", 1)]).await;
    fake.until(|ids| !ids.contains_key("stray/web")).await;
    assert!(fake.ids().contains_key("shop/web"));
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_that_was_away_catches_up_and_leaves_the_rest_alone() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("stays", 1, &[service("web", V1)]).await;
    lab.deploy("goes", 1, &[service("web", V1)]).await;
    lab.phase("stays", Phase::Running).await;
    lab.phase("goes", Phase::Running).await;
    agent.stop().await;
    let before = fake.ids();
    assert_eq!(before.len(), 2, "containers outlive the agent");
    lab.delete("goes").await;
    let agent = lab.agent(fake.clone());
    lab.gone("goes").await;
    assert_eq!(fake.ids()["stays/web"], before["stays/web"]);
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_restarts_is_found_again() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    lab.restart_nats().await;
    lab.deploy("shop", 2, &[service("web", V2)]).await;
    lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_bucket_made_anew_under_the_agent_is_believed() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    lab.deploy("old", 1, &[service("web", V1)]).await;
    lab.phase("old", Phase::Running).await;
    let began = tokio::time::Instant::now();
    lab.remake_desired().await;
    lab.deploy("new", 1, &[service("web", V1)]).await;
    lab.phase("new", Phase::Running).await;
    lab.gone("old").await;
    fake.until(|ids| ids.len() == 1 && ids.contains_key("new/web")).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(12), "converged only after {took:?}");
    assert_eq!(agent.denied(), 0, "a lost bucket needs no further right");
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_bucket_of_statuses_is_filled_again_without_a_reconnect() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    let names = ["one", "two", "three"];
    for name in names {
        lab.deploy(name, 1, &[service("web", V1)]).await;
        lab.phase(name, Phase::Running).await;
    }
    let last = async || lab.bus().kv_last(subject::STATUS).await.unwrap();
    let (before, mut ticks) = (last().await, lab.bus().subscribe("$KV.presence.lab-1").await.unwrap());
    // Two heartbeats, in which the agent has found out once that its statuses are there.
    for _ in 0..2 {
        tokio::time::timeout(lab::DEADLINE, ticks.next()).await.unwrap().unwrap();
    }
    assert_eq!(last().await, before, "to find out writes nothing");
    lab.remake(subject::STATUS).await;
    let lost = tokio::time::Instant::now();
    for name in names {
        lab.phase(name, Phase::Running).await;
    }
    let took = lost.elapsed();
    assert!(took < Duration::from_secs(12), "said again only after {took:?}");
    assert_eq!(agent.denied(), 0, "it needs no further right");
    agent.stop().await;
}

#[tokio::test]
async fn a_download_that_hangs_holds_up_nothing_else() {
    let (lab, fake) = lab_or_return!();
    fake.hang_image("localhost/slow:1");
    let agent = lab.agent(fake.clone());
    lab.deploy("slow", 1, &[service("web", "localhost/slow:1")]).await;
    lab.phase("slow", Phase::Pending).await;
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_ends_is_started_again_or_told() {
    let (lab, fake) = lab_or_return!();
    let agent = lab.agent(fake.clone());
    let mut once = service("once", V1);
    once["restart"] = json!("no");
    lab.deploy("shop", 1, &[service("web", V1), once]).await;
    lab.phase("shop", Phase::Running).await;
    let before = fake.ids();
    fake.end("shop", "web", 1);
    fake.until_journal("start").await;
    lab.phase("shop", Phase::Running).await;
    assert_eq!(fake.ids(), before, "the same container runs again");
    fake.remove_behind("shop", "web");
    fake.until(|ids| ids.contains_key("shop/web")).await;
    fake.end("shop", "once", 3);
    let status = lab.phase("shop", Phase::Failed).await;
    assert_eq!(status.reason, "ServiceExited");
    let status = lab.status("shop", |s| s.message.contains("exit code 3: last words")).await;
    assert_eq!(status.services[1].exit_code, Some(3));
    agent.stop().await;
}

#[tokio::test]
async fn a_refusal_by_the_server_is_told_at_once_and_by_name() {
    let (lab, _) = lab_or_return!();
    let device = lab.device_bus().await;
    for (bucket, key) in [(subject::STATUS, "lab-2.web"), (subject::DESIRED, "lab-1.web")] {
        let error = device.kv_put(bucket, key, "x").await.unwrap_err();
        assert!(matches!(&error, BusError::Denied { subject } if subject.contains(key)), "{error}");
    }
    let error = device.kv_get(subject::DESIRED, "lab-2.web").await.unwrap_err();
    assert!(matches!(error, BusError::Denied { .. }), "{error}");
    let other = subject::fleet(&pilab::model::id::DeviceId::new("lab-2").unwrap(), Verb::Ping.name());
    let error = device.request(other, "", Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(error, BusError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn keys_are_compared_before_they_are_set() {
    let (lab, _) = lab_or_return!();
    let bus = lab.bus();
    let first = bus.kv_put_if(subject::DESIRED, "lab-1.x", "1", 0).await.unwrap();
    let error = bus.kv_put_if(subject::DESIRED, "lab-1.x", "2", 0).await.unwrap_err();
    assert!(matches!(error, BusError::Conflict { expected: 0, .. }), "{error}");
    bus.kv_put_if(subject::DESIRED, "lab-1.x", "2", first).await.unwrap();
    assert_eq!(bus.kv_get(subject::DESIRED, "lab-1.x").await.unwrap().unwrap().value, "2");
    assert_eq!(bus.kv_get(subject::DESIRED, "lab-1.y").await.unwrap(), None);
    bus.kv_put(subject::DESIRED, "lab-1.z", "3").await.unwrap();
    bus.kv_delete(subject::DESIRED, "lab-1.x").await.unwrap();
    assert!(bus.kv_get(subject::DESIRED, "lab-1.x").await.unwrap().unwrap().deleted);
    assert_eq!(bus.kv_keys(subject::DESIRED, "lab-1.>").await.unwrap(), ["lab-1._index", "lab-1.z"]);
    let nobody = bus.request("nobody.there", "", Duration::from_secs(5)).await.unwrap_err();
    assert!(matches!(nobody, BusError::NoResponders { .. }), "{nobody}");
}

/// Checks the answer's form once, so that the tests can trust `Lab::ping`.
#[test]
fn a_pong_names_its_fields() {
    let pong =
        r#"{"version":1,"device":"d","agent_version":"0","agent_sha256":"s","boot_id":"b","uptime_ms":1}"#;
    assert!(serde_json::from_str::<Pong>(pong).is_ok());
}
