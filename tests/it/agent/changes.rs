//! Upgrades that fail: back to what ran before, and not tried again.

use super::lab::service;
use super::{V1, V2, lab};
use pilab::agent::ports::RunOutcome;
use pilab::model::workload::{Phase, Status};
use serde_json::{Value, json};

fn good() -> Value {
    json!({ "services": [service("web", V1)], "probation": 1 })
}

fn with_init() -> Value {
    json!({ "init_containers": [{ "name": "migrate", "image": V1 }], "services": [service("web", V2)], "probation": 1 })
}

fn once(image: &str) -> Value {
    let mut web = service("web", image);
    web["restart"] = json!("no");
    json!({ "services": [web], "probation": 600 })
}

fn undone(status: &Status) -> bool {
    status.phase == Phase::RolledBack
}

/// Deploys the good one as generation 1 and waits until it has passed its probation.
async fn settled(lab: &super::Lab) {
    lab.deploy_score("shop", 1, good()).await;
    lab.phase("shop", Phase::Running).await;
    lab.ledger("shop", |ledger| ledger["good"].is_object()).await;
}

#[tokio::test]
async fn a_failed_init_container_undoes_the_upgrade_without_touching_what_runs() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    settled(&lab).await;
    let before = fake.ids();
    fake.outcome("migrate", RunOutcome::Exited { exit_code: 4 });
    lab.deploy_score("shop", 2, with_init()).await;
    let status = lab.status("shop", undone).await;
    let rollback = status.rollback.clone().unwrap();
    assert_eq!((rollback.from, rollback.to, status.generation), (2, 1, 2));
    assert_eq!(rollback.cause, "init container migrate exited with code 4: last words");
    assert_eq!(status.init_containers[0].end.as_ref().unwrap().exit_code, 4, "the evidence is kept");
    assert_eq!(fake.ids(), before, "what ran was not touched");
    agent.stop().await;

    // It is known to fail, also after the agent's restart and when it is put again.
    let tried = fake.journal().len();
    let agent = lab.agent(fake.clone());
    lab.deploy_score("shop", 3, with_init()).await;
    let status = lab.status("shop", |status| undone(status) && status.generation == 3).await;
    assert_eq!(status.rollback.unwrap().from, 3);
    assert_eq!(fake.journal().len(), tried, "it was not tried again");

    lab.deploy_score("shop", 4, json!({ "services": [service("web", V2)] })).await;
    let status = lab.status("shop", |status| status.generation == 4 && status.phase == Phase::Running).await;
    assert_eq!((status.services[0].image.as_str(), status.rollback), (V2, None));
    agent.stop().await;
}

#[tokio::test]
async fn a_service_that_ends_within_its_probation_is_replaced_by_the_one_before() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    settled(&lab).await;
    lab.deploy_score("shop", 2, once(V2)).await;
    lab.status("shop", |status| status.generation == 2 && status.phase == Phase::Running).await;
    fake.end("shop", "web", 5);
    let status = lab.status("shop", undone).await;
    let rollback = status.rollback.unwrap();
    assert_eq!((rollback.from, rollback.to), (2, 1));
    assert_eq!(rollback.cause, "web ended with exit code 5 within its probation: last words");
    assert_eq!(status.services[0].image, V1, "generation 1 runs again");
    agent.stop().await;
}

#[tokio::test]
async fn a_look_from_before_the_change_was_made_judges_nothing() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    settled(&lab).await;
    let looks = fake.hold_looks();
    // The look that was under way may have begun before that.
    lab.deploy_score("shop", 2, once(V2)).await;
    looks.add_permits(1);
    // Not the first generation's.
    fake.until_journal("create c2").await;
    // The act has ended; the next look began while it was under way.
    lab.status("shop", |status| status.message.starts_with("not running yet")).await;
    fake.end("shop", "web", 5);
    looks.add_permits(1);
    let status = lab.status("shop", |status| status.message.contains("exit code 5")).await;
    assert_eq!(status.phase, Phase::Pending, "nobody has judged yet whether it is undone");
    looks.add_permits(1000);
    lab.status("shop", undone).await;
    agent.stop().await;
}

#[tokio::test]
async fn without_a_good_one_before_it_nothing_is_undone() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    lab.deploy_score("shop", 1, once(V1)).await;
    lab.phase("shop", Phase::Running).await;
    fake.end("shop", "web", 5);
    let status = lab.phase("shop", Phase::Failed).await;
    assert_eq!((status.reason.as_str(), status.rollback), ("ServiceExited", None));
    let status = lab.status("shop", |status| status.services[0].end.is_some()).await;
    assert_eq!(status.message, "web ended with exit code 5: last words");
    agent.stop().await;
}
