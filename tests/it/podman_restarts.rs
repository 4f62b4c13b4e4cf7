//! Services that end, on real podman: started again by the agent, with a pause and with the evidence.

use crate::agent::lab::{Lab, service};
use crate::podman::until;
use crate::podman_host::{Podman, V1, podman_or_return};
use pilab::agent::ports::{ContainerRuntime, ServiceState};
use pilab::model::workload::{Phase, Status};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// For how long a crash loop is looked at: longer than its first pause, and shorter than its first three.
const WINDOW: Duration = Duration::from_secs(20);

/// A service that says in a file that it was started, and then does what the script says.
fn counted(podman: &Podman, script: &str) -> Value {
    let mut web = service("web", V1);
    web["args"] = json!(["sh", "-c", format!("echo started >> /shared/starts; {script}")]);
    web["volumes"] = json!([format!("{}:/shared", podman.shared().display())]);
    web["stop_timeout"] = json!(0);
    web
}

fn starts(podman: &Podman) -> usize {
    std::fs::read_to_string(podman.shared().join("starts")).unwrap_or_default().lines().count()
}

const CRASHES: &str = "echo no config; exit 5";

#[tokio::test]
async fn an_upgrade_that_crashes_is_rolled_back_with_its_last_words() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    let good = json!({ "services": [counted(&podman, "exec sleep 1000")], "probation": 1 });
    lab.deploy_score("shop", 1, good).await;
    lab.phase("shop", Phase::Running).await;
    lab.ledger("shop", |ledger| ledger["good"].is_object()).await;
    let before = starts(&podman);
    lab.deploy_score("shop", 2, json!({ "services": [counted(&podman, CRASHES)], "probation": 30 })).await;
    let status = lab.phase("shop", Phase::RolledBack).await;
    let rollback = status.rollback.unwrap();
    assert_eq!((rollback.from, rollback.to), (2, 1));
    assert_eq!(rollback.cause, "web ended with exit code 5 within its probation: no config");
    lab.until("generation 1 has begun again", || starts(&podman) == before + 2).await;
    agent.stop().await;
}

#[tokio::test]
async fn a_crash_loop_is_slowed_and_told_with_its_evidence_also_by_the_next_agent() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    lab.deploy("shop", 1, &[counted(&podman, CRASHES)]).await;
    let loops = |status: &Status| status.phase == Phase::Pending && status.reason == "CrashLoop";
    let status = lab.status("shop", |status| loops(status) && status.message.contains("restart")).await;
    let message = "web ended with exit code 5: no config; restart 2 follows in ";
    assert!(status.message.starts_with(message), "{}", status.message);
    let end = status.services[0].end.clone().unwrap();
    assert_eq!((end.exit_code, end.log_tail.lines().last()), (5, Some("no config")));
    assert_eq!(starts(&podman), 2, "the first restart was at once");

    // Observed for a while, it is told steadily; only the restart that is due is seen to run.
    let (until, mut told) = (Instant::now() + WINDOW, vec![(status.phase, status.reason)]);
    while Instant::now() < until {
        let status = lab.status("shop", |_| true).await;
        let now = (status.phase, status.reason);
        if told.last() != Some(&now) {
            told.push(now);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reasons =
        told.iter().filter(|(phase, _)| *phase == Phase::Pending).map(|(_, reason)| reason.as_str());
    assert!(reasons.clone().all(|reason| reason == "CrashLoop"), "{told:?}");
    assert!(told.len() <= 3, "it flaps: {told:?}");
    assert_eq!(starts(&podman), 3, "one restart within its first pause and the begin of its second");
    let status = lab.status("shop", |status| status.message.contains("restart 3 follows in ")).await;
    agent.stop().await;

    // Another agent knows how often it has ended: it waits too.
    let agent = lab.agent(podman.topology("lab-1"));
    lab.deploy("other", 1, &[]).await;
    lab.phase("other", Phase::Running).await;
    let after = lab.status("shop", |status| loops(status) && status.message.contains("restart")).await;
    assert_eq!((after.message, starts(&podman)), (status.message, 3));
    agent.stop().await;
}

#[tokio::test]
async fn on_failure_starts_again_what_failed_and_not_what_is_done() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    let once = "[ $(grep -c started /shared/starts) -gt 1 ] && exec sleep 1000; echo not yet; exit 3";
    let mut fails_once = counted(&podman, once);
    fails_once["restart"] = json!("on-failure");
    let mut done = service("done", V1);
    done["args"] = json!(["sh", "-c", "exit 0"]);
    done["restart"] = json!("on-failure");
    lab.deploy_score("shop", 1, json!({ "services": [fails_once, done], "probation": 1 })).await;
    // Before its end it runs as well.
    let again = |status: &Status| {
        status.message == "1 service running, 1 completed" && status.services[0].end.is_some()
    };
    let status = lab.status("shop", again).await;
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Running, ""));
    let end = status.services[0].end.clone().unwrap();
    assert_eq!((end.exit_code, end.log_tail.as_str()), (3, "not yet\n"), "told until it has settled");
    assert_eq!((starts(&podman), status.services[1].exit_code), (2, Some(0)));
    // It may become what a later failure goes back to, although it ended once.
    lab.ledger("shop", |ledger| ledger["good"].is_object()).await;
    let format = "{{.HostConfig.RestartPolicy.Name}} {{.RestartCount}}";
    assert_eq!(podman.run(&["inspect", "--format", format, "lab-1.shop.web"]).await.trim(), "no 0");
    agent.stop().await;
}

/// Somebody stops a service that does not want to end: for some seconds podman calls it `stopping`.
#[tokio::test]
async fn what_somebody_stops_is_seen_stopping_and_started_again() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    lab.deploy("shop", 1, &[counted(&podman, "trap '' TERM; while :; do sleep 1; done")]).await;
    lab.phase("shop", Phase::Running).await;
    let before = podman.topology("lab-1").list_managed_services().await.unwrap().remove(0).id;
    // Where the agent has started it again before podman has cleaned up behind its stop, that stop fails: its end
    // alone counts.
    let mut stop = podman.spawn(&["stop", "--time", "4", "lab-1.shop.web"]);
    let topology = podman.topology("lab-1");
    until(&topology, |seen| seen.state == ServiceState::Other("stopping".to_owned())).await;
    let status = lab.status("shop", |status| status.phase == Phase::Pending).await;
    let meanwhile = (status.reason.as_str(), starts(&podman));
    assert_eq!(meanwhile, ("", 1), "nothing is begun beside it: {status:?}");
    stop.wait().await.unwrap();
    let status = lab.phase("shop", Phase::Running).await;
    lab.until("it was started again", || starts(&podman) == 2).await;
    let after = podman.topology("lab-1").list_managed_services().await.unwrap().remove(0).id;
    assert_eq!(after, before, "the same container: {status:?}");
    agent.stop().await;
}
