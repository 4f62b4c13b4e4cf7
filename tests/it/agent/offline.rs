//! The agent without a server: it runs what its disk holds, and tells later what happened.

use super::lab::service;
use super::{V1, lab};
use pilab::model::report::StatusReport;
use pilab::model::state_note::StateProblem;
use pilab::model::workload::{Phase, Presence};
use pilab::wire::subject;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(20);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn it_runs_what_its_disk_holds_and_tells_what_happened_in_order() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    lab.acked().await;
    agent.stop().await;
    // As after a reboot: the disk is there, the containers are not.
    fake.remove_behind("shop", "web");

    let (agent, away) = lab.agent_without_server(fake.clone());
    fake.until(|ids| ids.contains_key("shop/web")).await;
    until("the way to Running is on the disk", || lab.waiting() >= 2).await;
    agent.stop().await;
    let kept = lab.waiting();

    // Another start without a server keeps what the first could not tell.
    let again = lab.agent_without_server(fake.clone());
    drop(away);
    let (agent, away) = again;
    fake.remove_behind("shop", "web");
    fake.until(|ids| ids.contains_key("shop/web")).await;
    until("more is on the disk", || lab.waiting() >= kept + 2).await;
    let kept = lab.waiting();

    let key = format!("{}.shop", lab.device);
    let mut told = lab.bus().subscribe(subject::key(subject::STATUS, &key)).await.unwrap();
    lab.bus().settle().await.unwrap();
    let _served = lab.serve(away);
    let (mut phases, mut times) = (Vec::new(), Vec::new());
    while phases.len() < kept {
        let message = timeout(DEADLINE, told.next()).await;
        let message = message.unwrap_or_else(|_| panic!("told {phases:?}, {} wait", lab.waiting())).unwrap();
        let report: StatusReport = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(report.dropped, 0);
        phases.push(report.status.phase);
        times.push(report.at_ms);
    }
    assert!(times.is_sorted(), "{phases:?} at {times:?}");
    assert!(phases.iter().filter(|phase| **phase == Phase::Pending).count() >= 2, "{phases:?}");
    assert_eq!(phases.last(), Some(&Phase::Running), "{phases:?}");
    until("nothing waits once it is told", || lab.waiting() == 0).await;
    assert_eq!(lab.phase("shop", Phase::Running).await.generation, 1);
    lab.ping().await;
    agent.stop().await;
}

#[tokio::test]
async fn a_spoiled_file_is_told_and_what_runs_stays() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    lab.acked().await;
    agent.stop().await;
    let before = fake.ids();
    lab.spoil("desired/shop.json", "{\"version\":1");
    let agent = lab.agent(fake.clone());
    lab.phase("shop", Phase::Running).await;
    let presence = lab
        .wait_presence(|presence: &Presence| {
            presence.state.iter().any(|note| {
                note.file == "desired/shop.json" && matches!(note.problem, StateProblem::Damaged { .. })
            })
        })
        .await;
    assert_eq!(presence.state.len(), 1, "{:?}", presence.state);
    assert_eq!(fake.ids(), before);
    agent.stop().await;
}

/// What the next agent goes by where podman lists nothing.
#[tokio::test]
async fn what_was_seen_is_on_the_disk_as_long_as_it_is_all_that_there_may_be() {
    let Some((lab, fake)) = lab().await else { return };
    let agent = lab.agent(fake.clone());
    let kept = async |what| lab.until(what, || lab.kept("seen.json")).await;
    kept("nothing is there, and that is known").await;
    lab.deploy("web", 1, &[service("web", V1)]).await;
    lab.phase("web", Phase::Running).await;
    kept("one container").await;
    fake.freeze_after(0);
    lab.deploy("shop", 1, &[service("web", V1)]).await;
    fake.wait(|| fake.is_frozen()).await;
    assert!(!lab.kept("seen.json"), "one may have been made");
    agent.stop().await;

    fake.thaw();
    let agent = lab.agent(fake.clone());
    lab.phase("shop", Phase::Running).await;
    kept("both").await;
    agent.stop().await;
}
