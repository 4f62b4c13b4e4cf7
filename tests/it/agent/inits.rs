//! Init containers: order, failures, and an agent that is killed at every step.

use super::fake::Fake;
use super::lab::{Lab, service};
use super::{V1, lab};
use pilab::agent::ports::RunOutcome;
use pilab::model::workload::{Phase, Status};
use serde_json::{Value, json};
use std::time::Duration;

const INITS: [&str; 3] = ["fetch", "migrate", "seed"];

fn score() -> Value {
    let inits: Vec<Value> =
        INITS.iter().map(|name| json!({ "name": name, "image": V1, "timeout": 7 })).collect();
    json!({ "init_containers": inits, "services": [service("web", V1), service("db", V1)] })
}

async fn deploy(lab: &Lab) {
    lab.deploy_score("shop", 1, score()).await;
}

#[tokio::test]
async fn services_start_after_all_of_them_in_their_order() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    let status = lab.phase("shop", Phase::Running).await;
    assert_eq!(status.message, "3 init containers completed, 2 services running");
    let names: Vec<_> = status.init_containers.iter().map(|init| init.name.as_str()).collect();
    assert_eq!(names, INITS);
    assert!(status.init_containers.iter().all(|init| init.state == "exited" && init.exit_code == Some(0)));
    let begins = |word: &str| fake.journal().iter().position(|line| line.starts_with(word)).unwrap();
    let order = ["init fetch", "init migrate", "init seed", "create"].map(begins);
    assert!(order.is_sorted(), "{:?}", fake.journal());
    agent.stop().await;

    let agent = lab.agent(fake.clone());
    fake.end("shop", "web", 1);
    fake.until_journal("start").await;
    lab.phase("shop", Phase::Running).await;
    assert_eq!(runs(&fake), [1, 1, 1], "neither an agent's restart nor a service's end runs them again");
    agent.stop().await;
}

/// How often each init container was run to its end.
fn runs(fake: &Fake) -> [usize; 3] {
    INITS.map(|init| fake.journal().iter().filter(|line| **line == format!("init {init} ended 0")).count())
}

#[tokio::test]
async fn one_that_fails_keeps_the_services_from_starting() {
    let Some((lab, fake)) = lab().await else { return };
    fake.outcome("migrate", RunOutcome::Exited { exit_code: 3 });
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    let status = lab.status("shop", |status| status.reason == "InitContainerFailed").await;
    assert_eq!(status.phase, Phase::Pending, "it is tried again");
    assert!(
        status.message.starts_with("init container migrate exited with code 3: last words; try 1 failed")
    );
    let states: Vec<_> =
        status.init_containers.iter().map(|init| (init.state.as_str(), init.exit_code)).collect();
    assert_eq!(states, [("exited", Some(0)), ("exited", Some(3)), ("waiting", None)]);
    let end = status.init_containers[1].end.clone().unwrap();
    assert_eq!((end.exit_code, end.log_tail.as_str()), (3, "first\nlast words\n\n"));
    assert!(fake.ids().is_empty(), "no service was made");
    agent.stop().await;

    // Another agent tries at once; what had succeeded stays so.
    fake.outcome("migrate", RunOutcome::Exited { exit_code: 0 });
    let agent = lab.agent(fake.clone());
    lab.phase("shop", Phase::Running).await;
    assert_eq!(runs(&fake), [1, 1, 1]);
    agent.stop().await;
}

#[tokio::test]
async fn one_that_takes_too_long_is_told_as_such() {
    let Some((lab, fake)) = lab().await else { return };
    fake.outcome("fetch", RunOutcome::TimedOut { waited: Duration::from_secs(7) });
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    let status = lab.status("shop", |status| status.reason == "InitContainerTimedOut").await;
    assert!(status.message.starts_with("init container fetch did not end within 7 s: last words"));
    assert!(status.init_containers[0].end.as_ref().unwrap().timed_out);
    assert!(fake.ids().is_empty());
    agent.stop().await;
}

/// The agent is killed while the runtime does the n-th thing, for every n.
#[tokio::test]
async fn an_agent_that_is_killed_at_any_step_ends_where_it_would_have() {
    // Three init containers, each run and removed, and two services are eight calls: later ones never come.
    for step in 0..10 {
        let Some((lab, fake)) = lab().await else { return };
        fake.freeze_after(step);
        let agent = lab.agent(fake.clone());
        deploy(&lab).await;
        if step < 8 {
            fake.wait(|| fake.is_frozen()).await;
        } else {
            lab.phase("shop", Phase::Running).await;
        }
        agent.stop().await;
        let services = fake.ids().len();
        assert!(services == 0 || runs(&fake) == [1, 1, 1], "step {step}: {:?}", fake.journal());
        fake.thaw();
        let agent = lab.agent(fake.clone());
        lab.phase("shop", Phase::Running).await;
        assert_eq!(runs(&fake), [1, 1, 1], "step {step}: {:?}", fake.journal());
        assert_eq!(fake.ids().len(), 2, "step {step}");
        agent.stop().await;
    }
}

/// The agent is killed while the runtime removes what has failed, before and after it has done so.
#[tokio::test]
async fn a_failed_try_counts_although_its_agent_is_killed_before_it_is_told() {
    for is_removed in [false, true] {
        let Some((lab, fake)) = lab().await else { return };
        fake.outcome("fetch", RunOutcome::TimedOut { waited: Duration::from_secs(7) });
        fake.freeze_after(1);
        let agent = lab.agent(fake.clone());
        deploy(&lab).await;
        lab.ledger("shop", |ledger| !ledger["inits"]["failed"].is_null()).await;
        fake.wait(|| fake.is_frozen()).await;
        agent.stop().await;
        if is_removed {
            fake.lose_left_over();
        }
        fake.thaw();
        let agent = lab.agent(fake.clone());
        let status = lab.status("shop", |status| !status.reason.is_empty()).await;
        assert_eq!((status.phase, status.reason.as_str()), (Phase::Pending, "InitContainerTimedOut"));
        let told = "init container fetch did not end within 7 s: last words; try 1 failed";
        assert!(status.message.starts_with(told), "{}", status.message);
        let begun = fake.journal().iter().filter(|line| *line == "init fetch").count();
        assert_eq!((begun, fake.left_over()), (1, 0), "removed: {is_removed}: {:?}", fake.journal());
        lab.ledger("shop", |ledger| ledger["inits"]["failed"].is_null()).await;
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_deployment_deleted_in_mid_init_leaves_nothing() {
    let Some((lab, fake)) = lab().await else { return };
    fake.freeze_after(2);
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    fake.wait(|| fake.journal().iter().any(|line| line == "init migrate")).await;
    agent.stop().await;
    fake.thaw();
    lab.delete("shop").await;
    let agent = lab.agent(fake.clone());
    lab.gone("shop").await;
    assert_eq!((fake.left_over(), fake.ids().len()), (0, 0));
    agent.stop().await;
}

#[tokio::test]
async fn one_whose_monitor_died_is_told_before_it_is_removed() {
    let Some((lab, fake)) = lab().await else { return };
    fake.outcome("fetch", RunOutcome::Lost);
    fake.freeze_after(1);
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    let status = lab.status("shop", |status| !status.reason.is_empty()).await;
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Pending, "RuntimeLost"));
    assert_eq!(status.init_containers[0].end.as_ref().unwrap().log_tail, "first\nlast words\n\n");
    assert_eq!(fake.left_over(), 1);
    agent.stop().await;
}

/// An agent that removes what its predecessor left running kills it; its successor must not take that for its end.
#[tokio::test]
async fn one_that_is_killed_to_be_removed_has_not_failed() {
    let Some((lab, fake)) = lab().await else { return };
    fake.freeze_after(0);
    let agent = lab.agent(fake.clone());
    deploy(&lab).await;
    fake.wait(|| fake.left_over() == 1).await;
    agent.stop().await;
    let agent = lab.agent(fake.clone());
    lab.ledger("shop", |ledger| ledger["inits"]["abandoned"] == true).await;
    agent.stop().await;
    fake.kill_left_over();
    fake.thaw();
    let agent = lab.agent(fake.clone());
    let done = |status: &Status| status.phase == Phase::Running || !status.reason.is_empty();
    let status = lab.status("shop", done).await;
    assert_eq!(status.phase, Phase::Running, "{}", status.message);
    agent.stop().await;
}
