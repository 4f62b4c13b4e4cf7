//! What an agent needs to be permitted in its life, and what it tells when it is not.

use super::lab::{Lab, service};
use super::{V1, V2, lab};
use pilab::agent::facts::Facts;
use pilab::agent::pace::Pace;
use pilab::agent::policy::Policy;
use pilab::agent::presence;
use pilab::bus::observe::observe;
use pilab::bus::provision;
use pilab::model::id::DeploymentName;
use pilab::model::lease::FencingToken;
use pilab::model::state_note::StateProblem;
use pilab::model::workload::{DeniedAction, Phase, Score};
use pilab::wire::subject;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const TOKEN: FencingToken = FencingToken { epoch: 1, sequence: 1 };
/// How long a device may take to find out for itself what nobody tells it.
const BY_ITSELF: Duration = Duration::from_secs(12);

fn shop() -> DeploymentName {
    DeploymentName::new("shop").unwrap()
}

fn score(image: &str) -> Score {
    let score = json!({ "type": "PodmanV0", "data": { "services": [service("web", image)] } });
    serde_json::from_value(score).unwrap()
}

async fn put(lab: &Lab, image: &str) -> (u64, u64) {
    provision::put_desired(lab.bus(), &lab.device, &shop(), &score(image), TOKEN).await.unwrap()
}

async fn lose_durable(lab: &Lab) {
    let call = format!("CONSUMER.DELETE.{}.{}", subject::stream(subject::DESIRED), lab.device);
    lab.bus().api::<Value>(&call, &Value::Null).await.unwrap();
    assert_eq!(observe(lab.bus(), &lab.device).await.unwrap().receipt, None);
}

/// Waits until the agent has acknowledged `revision`.
async fn receipted(lab: &Lab, revision: u64) {
    let deadline = Instant::now() + BY_ITSELF;
    loop {
        let observed = observe(lab.bus(), &lab.device).await.unwrap();
        if observed.receipt.is_some_and(|receipt| receipt >= revision) {
            return;
        }
        assert!(Instant::now() < deadline, "revision {revision} has no receipt: {observed:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_whole_life_meets_no_refusal() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    put(&lab, V1).await;
    lab.phase("shop", Phase::Running).await;
    lab.ping().await;
    put(&lab, V2).await;
    lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    lab.restart_nats().await;
    let (_, revision) = put(&lab, V1).await;
    lab.status("shop", |s| s.generation == 3 && s.phase == Phase::Running).await;
    receipted(&lab, revision).await;
    agent.stop().await;
    let agent = lab.agent(fake.clone());
    lose_durable(&lab).await;
    put(&lab, V2).await;
    lab.status("shop", |s| s.generation == 4 && s.phase == Phase::Running).await;
    lab.remake_desired().await;
    lab.deploy("new", 1, &[service("web", V1)]).await;
    lab.phase("new", Phase::Running).await;
    lab.gone("shop").await;
    lab.delete("new").await;
    lab.gone("new").await;
    lab.acked().await;
    assert!(fake.ids().is_empty(), "{:?}", fake.ids());
    assert!(lab.wait_presence(|_| true).await.denied.is_empty());
    assert_eq!(agent.denied(), 0, "the server's log and the heartbeat know of no violation");
    agent.stop().await;
}

#[tokio::test]
async fn what_cannot_be_written_to_disk_has_no_receipt() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    put(&lab, V1).await;
    lab.phase("shop", Phase::Running).await;
    let before = fake.ids();
    let obstacle = lab.obstruct("desired/shop.json");
    let (_, revision) = put(&lab, V2).await;
    let presence = lab.wait_presence(|presence| !presence.state.is_empty()).await;
    let [note] = &presence.state[..] else { panic!("{presence:?}") };
    assert_eq!(note.file, "desired/shop.json");
    assert!(matches!(note.problem, StateProblem::NotWritten { .. }), "{note:?}");
    let receipt = observe(lab.bus(), &lab.device).await.unwrap().receipt;
    assert!(receipt < Some(revision), "{receipt:?} is the receipt of what lies on no disk, {revision}");
    assert_eq!(fake.ids(), before, "what is not on disk is not begun");

    std::fs::remove_dir(obstacle).unwrap();
    lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    // Sooner than the server delivers again what nobody asks for (`ack_wait`, 30 s).
    receipted(&lab, revision).await;
    lab.wait_presence(|presence| presence.state.is_empty()).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_is_put_while_a_device_is_away_and_its_durable_lost_is_received_on_its_return() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    let (_, revision) = put(&lab, V1).await;
    lab.phase("shop", Phase::Running).await;
    receipted(&lab, revision).await;
    agent.stop().await;
    let (agent, away) = lab.agent_without_server(fake.clone());
    lose_durable(&lab).await;
    let (_, revision) = put(&lab, V2).await;
    assert!(
        observe(lab.bus(), &lab.device).await.unwrap().receipt < Some(revision),
        "nobody has received it"
    );
    let _served = lab.serve(away);
    lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    receipted(&lab, revision).await;
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_volume_outside_what_the_device_allows_is_refused_and_what_runs_stays() {
    let Some((lab, fake)) = lab().await else { return };
    let policy = Policy { allowed_volumes: Some(vec!["/data".into()]) };
    let agent = lab.agent_under(policy, fake.clone());
    put(&lab, V1).await;
    lab.phase("shop", Phase::Running).await;
    let before = fake.ids();
    let mut service = service("web", V2);
    service["volumes"] = json!(["kept:/kept", "/etc:/host"]);
    lab.deploy("shop", 2, &[service]).await;
    let status = lab.status("shop", |status| status.phase == Phase::Failed).await;
    assert_eq!(status.reason, "NotAllowed", "{status:?}");
    assert!(status.message.starts_with("services[0].volumes[1]: \"/etc\" is in none of"), "{status:?}");
    assert_eq!(fake.ids(), before);
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_durable_is_made_anew_by_the_next_put_and_missed_by_nobody() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    let (_, revision) = put(&lab, V1).await;
    lab.phase("shop", Phase::Running).await;
    receipted(&lab, revision).await;

    lose_durable(&lab).await;
    let (_, revision) = put(&lab, V2).await;
    lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    receipted(&lab, revision).await;

    // Somebody writes keys and does not make it anew: the device reads by itself.
    lose_durable(&lab).await;
    let began = Instant::now();
    lab.deploy("shop", 3, &[service("web", V1)]).await;
    lab.status("shop", |s| s.generation == 3 && s.phase == Phase::Running).await;
    assert!(began.elapsed() < BY_ITSELF, "converged only after {:?}", began.elapsed());
    provision::ensure_durable(lab.bus(), &lab.device).await.unwrap();
    let observed = observe(lab.bus(), &lab.device).await.unwrap();
    receipted(&lab, observed.desired[&shop()].0).await;
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn what_the_server_refused_is_in_the_heartbeat_by_subject() {
    let Some((lab, fake)) = lab().await else { return };
    let bus = lab.device_bus().await;
    for _ in 0..2 {
        bus.kv_put(subject::STATUS, "lab-2.web", "x").await.unwrap_err();
    }
    let ear = bus.subscribe("fleet.>").await.unwrap();
    bus.flush().await.unwrap();
    let mut connection = bus.connection();
    connection.wait_for(|now| now.denials.len() == 2).await.unwrap();

    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let (_notes, notes) = watch::channel(Vec::new());
    let (facts, pace) = (Arc::new(Facts::default()), Pace::begin());
    tasks.spawn(presence::run(lab.device.clone(), bus, facts, notes, pace, shutdown.clone()));
    let presence = lab.wait_presence(|presence| !presence.denied.is_empty()).await;
    let denied: Vec<_> =
        presence.denied.iter().map(|denied| (denied.action, denied.subject.as_str(), denied.count)).collect();
    let wanted =
        [(DeniedAction::Publish, "$KV.status.lab-2.web", 2), (DeniedAction::Subscribe, "fleet.>", 1)];
    assert_eq!(denied, wanted);
    drop(ear);
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    // The same count that the tests of a whole life go by.
    let agent = lab.agent(fake);
    assert_eq!(agent.denied(), 3);
    agent.stop().await;
}
