//! What is known of a container is told although the container goes: when its time was up, when its monitor was
//! killed, when it was unhealthy, and when the agent died over it. On real podman and a real NATS server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::Lab;
use crate::podman_host::{Podman, V1, kill, podman_or_return};
use pilab::bus::connect::Subscription;
use pilab::model::workload::{Phase, Status};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// The bound is a second; a loaded machine gets this long.
const SOON: Duration = Duration::from_secs(5);
/// Between two looks at a process or at podman.
const LOOK: Duration = Duration::from_millis(2);
/// How often an agent is killed at a moment that another process can miss.
const TRIES: usize = 5;

fn shared(podman: &Podman, deployment: &str) -> PathBuf {
    let path = podman.shared().join(deployment);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A container that writes a line to `runs` and one to its log when it begins.
fn container(podman: &Podman, deployment: &str, name: &str, script: &str) -> Value {
    let script = format!("echo {name} >> /shared/runs; echo begun; {script}");
    let volume = format!("{}:/shared", shared(podman, deployment).display());
    json!({ "name": name, "image": V1, "args": ["sh", "-c", script], "volumes": [volume] })
}

/// How often a container of this name has begun.
fn runs(podman: &Podman, deployment: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(shared(podman, deployment).join("runs")).unwrap_or_default();
    text.lines().filter(|line| *line == name).count()
}

/// A service, after an init container that hangs and has a second for it.
fn hanging(podman: &Podman, deployment: &str) -> Value {
    let mut init = container(podman, deployment, "wait", "sleep 1000");
    init["timeout"] = json!(1);
    let service = container(podman, deployment, "web", "exec sleep 2000");
    json!({ "init_containers": [init], "services": [service] })
}

async fn statuses(lab: &Lab) -> Subscription {
    let told = lab.bus().subscribe(format!("$KV.status.{}.>", lab.device)).await.unwrap();
    lab.bus().flush().await.unwrap();
    told
}

/// The next status that is told and is as wanted.
async fn next(told: &mut Subscription, wanted: impl Fn(&Status) -> bool) -> Status {
    let wait = async {
        loop {
            let message = told.next().await.unwrap();
            let status = serde_json::from_slice::<Status>(&message.payload);
            if let Some(status) = status.ok().filter(&wanted) {
                return status;
            }
        }
    };
    tokio::time::timeout(MINUTE, wait).await.expect("no such status is told")
}

#[tokio::test]
async fn a_time_out_that_its_agent_did_not_survive_is_told_by_the_next_one() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    for attempt in 1.. {
        assert!(attempt <= TRIES, "the agent was never killed in time");
        let shop = format!("shop-{attempt}");
        let agent = podman.agent(&lab);
        lab.deploy_score(&shop, 1, hanging(&podman, &shop)).await;
        let name = format!("lab-1.{shop}.wait");
        let pid = podman.process(&name, "Pid").await;
        // The agent has just killed it, and goes on to read how it ended.
        while test_kill_process(pid).is_ok() {
            tokio::time::sleep(LOOK).await;
        }
        kill(agent).await;
        if !podman.names().await.contains(&name) {
            lab.delete(&shop).await;
            continue;
        }
        podman.inspected("{{.State.Status}}", &name, |said| said == "exited").await;
        let agent = podman.agent(&lab);
        let status = lab.status(&shop, |status| status.reason == "InitContainerTimedOut").await;
        let end = status.init_containers[0].end.clone().unwrap();
        assert_eq!((end.timed_out, end.log_tail.as_str()), (true, "begun\n"), "{status:?}");
        assert!(status.message.contains("within 1 s: begun; try 1 failed"), "{}", status.message);
        assert_eq!(runs(&podman, &shop, "wait"), 1, "it was not run again at once");
        kill(agent).await;
        return;
    }
}

/// The deadline that podman's monitor keeps is the second one: the agent is not there when it comes.
#[tokio::test]
async fn a_time_out_while_the_agent_is_dead_is_the_failure_of_that_try() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = podman.agent(&lab);
    let good = json!({ "services": [container(&podman, "old", "web", "exec sleep 1000")], "probation": 1 });
    lab.deploy_score("old", 1, good).await;
    let ledger = podman.dir.path().join("state/ledger/old.json");
    lab.until("the first generation is good", || {
        std::fs::read_to_string(&ledger).is_ok_and(|text| text.contains(r#""good":{"#))
    })
    .await;
    let before = lab.phase("old", Phase::Running).await;
    let shops = ["old", "new"];
    for shop in shops {
        lab.deploy_score(shop, 2, hanging(&podman, shop)).await;
    }
    let names = shops.map(|shop| format!("lab-1.{shop}.wait"));
    // Both are begun before the first of them has had its second, or the agent would end it.
    let (_, _) = tokio::join!(podman.process(&names[0], "Pid"), podman.process(&names[1], "Pid"));
    kill(agent).await;
    for name in &names {
        podman.inspected("{{.State.Status}} {{.State.ExitCode}}", name, |said| said == "exited -1").await;
    }
    let agent = podman.agent(&lab);
    let told = lab.status("new", |status| status.reason == "InitContainerTimedOut").await;
    assert!(told.message.contains("within 1 s: begun; try 1 failed"), "{}", told.message);
    let end = told.init_containers[0].end.clone().unwrap();
    assert_eq!((end.timed_out, end.exit_code, end.log_tail.as_str()), (true, -1, "begun\n"));
    let undone = lab.phase("old", Phase::RolledBack).await;
    assert!(undone.rollback.unwrap().cause.contains("did not end within 1 s"), "{}", undone.message);
    assert_eq!(undone.services[0].id, before.services[0].id, "what ran was not touched");
    assert_eq!(shops.map(|shop| runs(&podman, shop, "wait")), [1, 1], "neither was run again at once");
    // After its pause the one without anything to go back to is.
    lab.until("the second try", || runs(&podman, "new", "wait") == 2).await;
    assert_eq!(runs(&podman, "old", "wait"), 1);
    kill(agent).await;
}

#[tokio::test]
async fn a_services_dead_monitor_is_told_and_what_is_known_of_it_kept() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    lab.deploy("shop", 1, &[container(&podman, "shop", "web", "exec sleep 1000")]).await;
    let before = lab.phase("shop", Phase::Running).await;
    let monitor = podman.process("lab-1.shop.web", "ConmonPid").await;
    let mut told = statuses(&lab).await;
    let killed = Instant::now();
    kill_process(monitor, Signal::KILL).unwrap();
    let lost = next(&mut told, |status| status.phase != Phase::Running).await;
    let took = killed.elapsed();
    assert_eq!((lost.phase, lost.reason.as_str()), (Phase::Pending, "RuntimeLost"), "{}", lost.message);
    let after = next(&mut told, |status| status.phase == Phase::Running).await;
    eprintln!("service: monitor's death told after {took:?}, made anew after {:?}", killed.elapsed());
    assert!(took < SOON, "{took:?}");
    assert_ne!(after.services[0].id, before.services[0].id);
    let end = after.services[0].end.clone().unwrap();
    assert_eq!((end.exit_code, end.log_tail.as_str()), (-1, "begun\n"));
    assert!(end.ran_ms > 0 && end.image_digest.starts_with("sha256:"), "{end:?}");
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn an_init_containers_dead_monitor_is_told_before_it_is_removed() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    let once = "[ -e /shared/again ] && exit 0; echo > /shared/again; sleep 1000";
    let init = container(&podman, "shop", "migrate", once);
    let service = container(&podman, "shop", "web", "exec sleep 1000");
    lab.deploy_score("shop", 1, json!({ "init_containers": [init], "services": [service] })).await;
    let name = "lab-1.shop.migrate";
    let monitor = podman.process(name, "ConmonPid").await;
    lab.until("it has begun", || shared(&podman, "shop").join("again").exists()).await;
    let mut told = statuses(&lab).await;
    let killed = Instant::now();
    kill_process(monitor, Signal::KILL).unwrap();
    let lost = next(&mut told, |status| !status.reason.is_empty()).await;
    let took = killed.elapsed();
    let failed = next(&mut told, |status| status.message.contains("try 1 failed")).await;
    eprintln!("init container: monitor's death told after {took:?}, removed after {:?}", killed.elapsed());
    assert!(!lost.message.contains("try 1 failed"), "told before it was removed: {}", lost.message);
    for status in [lost, failed] {
        assert_eq!((status.phase, status.reason.as_str()), (Phase::Pending, "RuntimeLost"));
        assert_eq!(status.init_containers[0].end.clone().unwrap().log_tail, "begun\n");
    }
    assert!(took < SOON, "{took:?}");
    lab.phase("shop", Phase::Running).await;
    assert_eq!(runs(&podman, "shop", "migrate"), 2);
    assert_eq!(podman.names().await, ["lab-1.shop.web"]);
    agent.stop().await;
}
