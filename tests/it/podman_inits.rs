//! Init containers on real podman, and every way in which podman misleads about them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::podman::{spec, until};
use crate::podman_host::{Podman, V1, podman_or_return};
use pilab::agent::ports::{
    Completed, ContainerRuntime, InitSpec, LeftOver, RunOutcome, RuntimeError, ServiceState,
};
use pilab::model::id::{ContainerName, DeploymentName};
use pilab::model::workload::LOG_TAIL_BYTES;
use pilab::podman::topology::PodmanTopology;
use rustix::process::{Signal, kill_process};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
/// podman itself takes 20 s to see that a monitor is gone; a loaded machine gets this long to be faster.
const SOON: Duration = Duration::from_secs(5);
const NAME: &str = "lab-1.shop.migrate";

fn init(script: &str) -> InitSpec {
    InitSpec {
        deployment: DeploymentName::new("shop").unwrap(),
        name: ContainerName::new("migrate").unwrap(),
        generation: 3,
        image: V1.into(),
        args: ["sh", "-c", script].map(str::to_owned).into(),
        env: BTreeMap::from([("WORD".to_owned(), "tables".to_owned())]),
        volumes: Vec::new(),
        timeout: MINUTE,
    }
}

/// Runs one and removes what is left of it.
async fn run(topology: &PodmanTopology, script: &str) -> Completed {
    let done = topology.run_to_completion(&init(script), MINUTE).await.unwrap();
    topology.remove(&done.id).await.unwrap();
    done
}

async fn kill_monitor(podman: &Podman) {
    kill_process(podman.process(NAME, "ConmonPid").await, Signal::KILL).unwrap();
}

#[tokio::test]
async fn an_init_container_runs_and_leaves_only_evidence() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let done = run(&topology, "echo made $WORD").await;
    assert_eq!(done.outcome, RunOutcome::Exited { exit_code: 0 });
    assert_eq!(done.end.log_tail, "made tables\n");
    assert!(done.end.image_digest.starts_with("sha256:"), "{:?}", done.end);
    assert!(done.end.ran_ms < 60_000 && !done.end.timed_out && !done.end.oom, "{:?}", done.end);

    let done = run(&topology, "seq 1 200; echo bad >&2; exit 3").await;
    assert_eq!(done.outcome, RunOutcome::Exited { exit_code: 3 });
    let lines: Vec<_> = done.end.log_tail.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[79]), (80, "122", "bad"));

    let done = run(&topology, "yes ää | head -n 2000; exit 137").await;
    assert_eq!((done.outcome, done.end.signal), (RunOutcome::Exited { exit_code: 137 }, Some(9)));
    assert!(done.end.log_tail.len() <= LOG_TAIL_BYTES && done.end.log_tail.len() > 300, "{:?}", done.end);
    assert!(!done.end.log_tail.contains('\u{FFFD}'), "{:?}", done.end.log_tail);
    assert_eq!(podman.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn while_it_runs_it_is_labelled_and_no_service() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let script = init("sleep 1000");
    let look = async {
        let labels = "{{.State.Running}} {{.HostConfig.RestartPolicy.Name}} {{.Config.Timeout}} \
                      {{index .Config.Labels \"pilab.init-container\"}}";
        let said = podman.inspected(labels, NAME, |said| said.starts_with("true")).await;
        assert_eq!(said, "true no 66 migrate");
        let ours = podman.run(&["ps", "-aq", "--filter", "label=pilab.init-container"]).await;
        assert_eq!(ours.lines().count(), 1);
        assert_eq!(topology.list_managed_services().await.unwrap(), []);
    };
    tokio::select! {
        done = topology.run_to_completion(&script, MINUTE) => panic!("{done:?}"),
        () = look => {}
    }
}

#[tokio::test]
async fn its_time_is_bounded_and_its_log_kept() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let timeout = Duration::from_secs(2);
    let done = topology.run_to_completion(&init("echo begun; sleep 1000"), timeout).await.unwrap();
    let RunOutcome::TimedOut { waited } = done.outcome else { panic!("{done:?}") };
    assert!(waited >= timeout && waited < MINUTE, "{waited:?}");
    assert!(done.end.timed_out && done.end.log_tail == "begun\n", "{:?}", done.end);
    assert_eq!(
        (done.end.exit_code, done.end.signal),
        (137, Some(9)),
        "it is dead, and there until that is on record"
    );
    assert_eq!(podman.names().await, [NAME]);
    topology.remove(&done.id).await.unwrap();
    assert_eq!(podman.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_that_cannot_start_is_no_success() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let bad = InitSpec { args: vec!["/no/such/program".into()], ..init("") };
    let error = topology.run_to_completion(&bad, MINUTE).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Refused { cause, .. } if cause.contains("/no/such/program")),
        "{error}"
    );
    assert_eq!(podman.names().await, Vec::<String>::new(), "what was created is removed");

    let gone = InitSpec { image: "localhost/none:1".into(), ..init("") };
    let error = topology.run_to_completion(&gone, MINUTE).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageMissing { .. }), "{error}");
}

#[tokio::test]
async fn a_dead_monitor_is_told_at_once() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let script = init("echo begun; sleep 1000");
    let (killed, done) = {
        let running = topology.run_to_completion(&script, MINUTE);
        tokio::pin!(running);
        tokio::select! {
            done = &mut running => panic!("{done:?}"),
            () = kill_monitor(&podman) => {}
        }
        (Instant::now(), running.await.unwrap())
    };
    let took = killed.elapsed();
    assert!(took < SOON, "{took:?}");
    assert_eq!(
        (done.outcome, done.end.exit_code, done.end.log_tail.as_str()),
        (RunOutcome::Lost, -1, "begun\n")
    );
    // An agent that died over it finds the same.
    let there = topology.list_init_containers(&script.deployment).await.unwrap();
    let [LeftOver { completed: Some(again), .. }] = there.as_slice() else { panic!("{there:?}") };
    assert_eq!((again.outcome, again.end.log_tail.as_str()), (RunOutcome::Lost, "begun\n"));
    topology.remove(&done.id).await.unwrap();
    eprintln!("init container: monitor's death told after {took:?}, removed after {:?}", killed.elapsed());
    assert_eq!(podman.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_services_dead_monitor_wakes_the_watch_and_is_listed_as_lost() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let id = topology.create(&spec("migrate", &["sleep", "1000"])).await.unwrap().id;
    until(&topology, |seen| seen.state == ServiceState::Running).await;
    let wake = Notify::new();
    let act = async {
        // Events of the past, if there are any, are over when none comes for a while.
        while tokio::time::timeout(Duration::from_millis(500), wake.notified()).await.is_ok() {}
        kill_monitor(&podman).await;
        let killed = Instant::now();
        wake.notified().await;
        let woken = killed.elapsed();
        let seen = topology.list_managed_services().await.unwrap();
        eprintln!("service: monitor's death to wake {woken:?}, to Lost {:?}", killed.elapsed());
        assert!(killed.elapsed() < SOON, "{:?}", killed.elapsed());
        assert_eq!(seen[0].state, ServiceState::Lost);
        assert_eq!(podman.run(&["inspect", "--format", "{{.State.Status}}", NAME]).await.trim(), "running");
    };
    tokio::select! {
        ended = topology.watch(&wake) => panic!("the watch ended: {ended:?}"),
        () = act => {}
    }
    // A new agent, which never saw the monitor, says the same.
    assert_eq!(podman.topology("lab-1").list_managed_services().await.unwrap()[0].state, ServiceState::Lost);
    topology.stop(&id).await.unwrap();
    topology.remove(&id).await.unwrap();
    assert_eq!(podman.names().await, Vec::<String>::new());
}

#[tokio::test]
async fn left_overs_of_its_name_make_way() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    // The agent dies in the middle of a try: its container runs on.
    let script = init("sleep 1000");
    tokio::select! {
        done = topology.run_to_completion(&script, MINUTE) => panic!("{done:?}"),
        _ = podman.inspected("{{.State.Running}}", NAME, |said| said == "true") => {}
    }
    assert_eq!(podman.names().await, [NAME]);
    assert_eq!(run(&topology, "true").await.outcome, RunOutcome::Exited { exit_code: 0 });

    podman.run(&["create", "--name", NAME, V1, "sleep", "1"]).await;
    let error = topology.run_to_completion(&init("true"), MINUTE).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::NameTaken { name } if name == NAME), "{error}");
    assert_eq!(podman.names().await, [NAME], "what is somebody else's stays");
}

#[tokio::test]
async fn with_a_dead_agent_conmon_ends_it_and_the_next_start_tells() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let timeout = Duration::from_secs(1);
    let script = init("echo begun; sleep 1000");
    tokio::select! {
        done = topology.run_to_completion(&script, timeout) => panic!("{done:?}"),
        _ = podman.inspected("{{.State.Running}}", NAME, |said| said == "true") => {}
    }
    podman.inspected("{{.State.Status}} {{.State.ExitCode}}", NAME, |said| said == "exited -1").await;
    let deployment = DeploymentName::new("shop").unwrap();
    let there = topology.list_init_containers(&deployment).await.unwrap();
    let [LeftOver { id, name, completed: Some(Completed { outcome, end, .. }) }] = there.as_slice() else {
        panic!("{there:?}")
    };
    assert_eq!(*outcome, RunOutcome::TimedOut { waited: timeout });
    assert_eq!((name.as_str(), end.exit_code, end.timed_out), ("migrate", -1, true), "{end:?}");
    assert_eq!(end.log_tail, "begun\n");
    topology.remove(id).await.unwrap();
    assert_eq!(podman.names().await, Vec::<String>::new());
    assert_eq!(topology.list_init_containers(&deployment).await.unwrap(), []);
}

#[tokio::test]
async fn those_of_a_deployment_are_listed_without_its_services() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let id = topology.create(&spec("web", &["sh", "-c", "echo hello; exit 4"])).await.unwrap().id;
    let script = init("sleep 1000");
    tokio::select! {
        done = topology.run_to_completion(&script, MINUTE) => panic!("{done:?}"),
        _ = podman.inspected("{{.State.Running}}", NAME, |said| said == "true") => {}
    }
    let deployment = DeploymentName::new("shop").unwrap();
    let there = topology.list_init_containers(&deployment).await.unwrap();
    let [LeftOver { id: running, completed: None, .. }] = there.as_slice() else { panic!("{there:?}") };
    topology.remove(running).await.unwrap();
    assert_eq!(podman.names().await, ["lab-1.shop.web"]);
    until(&topology, |seen| seen.state == ServiceState::Exited { code: 4 }).await;
    let end = topology.end_of(&id).await.unwrap().unwrap();
    assert_eq!((end.exit_code, end.log_tail.as_str()), (4, "hello\n"));
    topology.remove(&id).await.unwrap();
    assert_eq!(topology.end_of(&id).await.unwrap(), None);
}

#[tokio::test]
async fn podmans_service_may_restart_meanwhile() {
    let mut podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let script = init("sleep 3; echo done");
    let running = topology.run_to_completion(&script, MINUTE);
    tokio::pin!(running);
    tokio::select! {
        done = &mut running => panic!("{done:?}"),
        _ = podman.inspected("{{.State.Running}}", NAME, |said| said == "true") => {}
    }
    let (_, done) = tokio::join!(podman.restart_service(), running);
    let done = done.unwrap();
    assert_eq!((done.outcome, done.end.log_tail.as_str()), (RunOutcome::Exited { exit_code: 0 }, "done\n"));
}
