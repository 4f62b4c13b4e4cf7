//! A container that is stuck, on real podman: one whose lock is held by a process of podman's that does not go on.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, service};
use crate::podman_host::{Podman, V1, V2, podman_or_return};
use pilab::model::workload::{Phase, Status};
use pilab::wire::subject;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// How long podman's list takes at the most when no lock is held.
const PROMPT: Duration = Duration::from_secs(2);

/// A container that is stuck until this is dropped.
struct Stuck {
    monitor: Pid,
    /// It holds the container's lock.
    _holder: Child,
}

impl Stuck {
    /// podman holds a container's lock for 5 s while it waits for what a monitor has to say of the end of a container
    /// that was killed. The monitor is stopped, and then podman, too.
    async fn make(podman: &Podman, container: &str) -> Self {
        let monitor = podman.process(container, "ConmonPid").await;
        kill_process(monitor, Signal::STOP).unwrap();
        let holder = podman.spawn(&["kill", container]);
        let deadline = Instant::now() + MINUTE;
        while Self::lists(podman).await {
            assert!(Instant::now() < deadline, "no lock is held");
        }
        kill_process(Pid::from_raw(holder.id().unwrap().try_into().unwrap()).unwrap(), Signal::STOP).unwrap();
        Self { monitor, _holder: holder }
    }

    async fn lists(podman: &Podman) -> bool {
        tokio::time::timeout(PROMPT, podman.run(&["ps"])).await.is_ok()
    }
}

/// podman's locks are given up by those that die; the holder dies with this.
impl Drop for Stuck {
    fn drop(&mut self) {
        // It may have ended with its container.
        let _ = kill_process(self.monitor, Signal::CONT);
    }
}

fn web(image: &str) -> Value {
    let mut web = service("web", image);
    web["args"] = json!(["sleep", "1000"]);
    web["stop_timeout"] = json!(0);
    web
}

#[tokio::test]
async fn one_stuck_container_stalls_no_other_deployment() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    for name in ["one", "two"] {
        lab.deploy(name, 1, &[web(V1)]).await;
        lab.phase(name, Phase::Running).await;
    }
    let stuck = Stuck::make(&podman, "lab-1.one.web").await;
    let began = Instant::now();
    lab.deploy("three", 1, &[web(V1)]).await;
    lab.deploy("two", 2, &[web(V2)]).await;
    lab.phase("three", Phase::Running).await;
    let upgraded = |status: &Status| {
        status.generation == 2 && status.phase == Phase::Running && status.services[0].image == V2
    };
    lab.status("two", upgraded).await;
    let took = began.elapsed();
    eprintln!("one container stuck: another deployed and a third one upgraded in {took:?}");
    assert!(took < MINUTE, "{took:?}");
    let told = lab.status("one", |status| status.services[0].state == "stuck").await;
    assert_eq!(told.phase, Phase::Pending, "{}", told.message);
    assert!(!Stuck::lists(&podman).await, "its lock was held all the time");

    drop(stuck);
    let before = |status: &Status| status.phase == Phase::Running && status.services[0].state == "running";
    lab.status("one", before).await;
    agent.stop().await;
}

/// An agent that starts while a lock is held has never seen a list of podman's.
#[tokio::test]
async fn an_agent_that_starts_beside_a_stuck_container_goes_on_with_all_others() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    for name in ["one", "two"] {
        lab.deploy(name, 1, &[web(V1)]).await;
        lab.phase(name, Phase::Running).await;
    }
    let ids = async || {
        let listed = podman.run(&["ps", "-a", "--no-trunc", "--format", "{{.Names}} {{.ID}}"]).await;
        listed.lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = ids().await;
    lab.until("what was seen is kept", || lab.kept("seen.json")).await;
    agent.stop().await;
    let stuck = Stuck::make(&podman, "lab-1.one.web").await;
    lab.deploy("three", 1, &[web(V1)]).await;
    lab.delete("one").await;
    let agent = lab.agent(podman.topology("lab-1"));
    lab.phase("three", Phase::Running).await;
    lab.phase("two", Phase::Running).await;
    lab.until("three was seen", || lab.kept("seen.json")).await;
    let told = lab.wait_key(subject::STATUS, "lab-1.one").await;
    assert!(!told.is_empty(), "its deletion is not confirmed while it may run");
    assert!(!Stuck::lists(&podman).await, "its lock was held all the time");

    drop(stuck);
    lab.gone("one").await;
    let after = ids().await;
    let stayed: Vec<_> = after.intersection(&before).collect();
    assert!(after.len() == 2 && stayed.len() == 1 && stayed[0].contains(".two."), "{before:?} {after:?}");
    agent.stop().await;
}
