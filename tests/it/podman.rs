//! The podman adapter and the agent on real podman: a service of its own on its own storage.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, service};
use crate::podman_host::{V1, V2, podman_or_return};
use pilab::agent::ports::{ContainerRuntime, ManagedService, RuntimeError, ServiceSpec, ServiceState};
use pilab::model::id::{ContainerName, DeploymentName, DeviceId};
use pilab::model::workload::{HealthCheck, Limits, Phase, PullPolicy, RestartPolicy};
use pilab::podman::topology::{PodmanOptions, PodmanTopology};
use pilab::support::command::Command;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn spec(name: &str, args: &[&str]) -> ServiceSpec {
    ServiceSpec {
        deployment: DeploymentName::new("shop").unwrap(),
        name: ContainerName::new(name).unwrap(),
        generation: 1,
        hash: "h1".into(),
        image: V1.into(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: BTreeMap::new(),
        volumes: Vec::new(),
        ports: Vec::new(),
        restart: RestartPolicy::No,
        limits: Limits::default(),
        health: None,
        stop_timeout: Duration::from_secs(10),
        pull: PullPolicy::IfMissing,
    }
}

/// Waits until the only container is as wanted.
pub(crate) async fn until(
    topology: &PodmanTopology,
    wanted: impl Fn(&ManagedService) -> bool,
) -> ManagedService {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let seen = topology.list_managed_services().await.unwrap();
        if let [one] = seen.as_slice()
            && wanted(one)
        {
            return one.clone();
        }
        assert!(Instant::now() < deadline, "not in {DEADLINE:?}; last: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A service that ends at once when asked to.
fn sleeper(name: &str, image: &str) -> serde_json::Value {
    let mut service = service(name, image);
    service["args"] = json!(["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"]);
    service
}

#[tokio::test]
async fn a_container_lives_and_dies_as_the_port_says() {
    let podman = podman_or_return!();
    let (topology, other) = (podman.topology("lab-1"), podman.topology("lab-2"));
    assert_eq!(topology.list_managed_services().await.unwrap(), []);

    let mut failing = spec("web", &["sh", "-c", "echo $GREETING; cat /data/file; exit 3"]);
    std::fs::write(podman.dir.path().join("file"), "from the host\n").unwrap();
    failing.env.insert("GREETING".into(), "hello".into());
    failing.volumes = vec![pilab::agent::score::Volume {
        source: podman.dir.path().to_str().unwrap().into(),
        target: "/data".into(),
        options: vec!["ro".into()],
    }];
    let id = topology.create(&failing).await.unwrap().id;
    let seen = until(&topology, |seen| seen.state == ServiceState::Exited { code: 3 }).await;
    assert_eq!((&seen.id, seen.hash.as_str(), seen.image.as_str()), (&id, "h1", V1));
    assert_eq!(topology.logs(&id, 5).await.unwrap(), "hello\nfrom the host\n");
    assert_eq!(other.list_managed_services().await.unwrap(), [], "devices are kept apart by labels");
    assert_eq!(podman.names().await, ["lab-1.shop.web"]);

    let again = topology.create(&spec("web", &["sleep", "1000"])).await.unwrap().id;
    assert_ne!(again, id, "a left-over of ours makes way");
    until(&topology, |seen| seen.state == ServiceState::Running).await;
    topology.start(&again).await.unwrap();
    let began = Instant::now();
    topology.remove(&again).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "removal does not wait for a process that ignores TERM"
    );
    topology.remove(&again).await.unwrap();
    topology.stop(&again).await.unwrap();
}

#[tokio::test]
async fn what_podman_refuses_is_typed() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let missing =
        topology.ensure_image("localhost/none:1", PullPolicy::IfMissing, &|_| {}).await.unwrap_err();
    assert!(
        matches!(&missing, RuntimeError::ImageMissing { image, .. } if image == "localhost/none:1"),
        "{missing}"
    );
    // Port 1 of this host: nothing answers, so the pull fails as an answer with status 200.
    let pulled =
        topology.ensure_image("127.0.0.1:1/none:1", PullPolicy::IfMissing, &|_| {}).await.unwrap_err();
    assert!(matches!(&pulled, RuntimeError::ImageMissing { .. }), "{pulled}");
    topology.ensure_image(V1, PullPolicy::IfMissing, &|_| {}).await.unwrap();

    let mut gone = spec("web", &[]);
    gone.image = "localhost/none:1".into();
    let error = topology.create(&gone).await.unwrap_err();
    assert!(matches!(error, RuntimeError::ImageMissing { .. }), "{error}");

    let error = topology.create(&spec("bad", &["/no/such/program"])).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Refused { cause, .. } if cause.contains("no/such/program")),
        "{error}"
    );
    until(&topology, |seen| seen.state == ServiceState::Created).await;

    podman.run(&["create", "--name", "lab-1.shop.web", V1, "sleep", "1"]).await;
    let error = topology.create(&spec("web", &["sleep", "1"])).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::NameTaken { name } if name == "lab-1.shop.web"), "{error}");

    let nowhere = PodmanOptions { socket: podman.dir.path().join("none.sock"), oci_runtime: None };
    let nowhere = PodmanTopology::new(DeviceId::new("lab-1").unwrap(), nowhere);
    let error = nowhere.list_managed_services().await.unwrap_err();
    assert!(matches!(error, RuntimeError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn changes_of_own_containers_are_told() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let wake = Notify::new();
    let act = async {
        // The first may come before the watch is open: repeat until one is told.
        let deadline = Instant::now() + DEADLINE;
        loop {
            let id = topology.create(&spec("web", &["sleep", "1000"])).await.unwrap().id;
            topology.remove(&id).await.unwrap();
            if tokio::time::timeout(Duration::from_secs(2), wake.notified()).await.is_ok() {
                return;
            }
            assert!(Instant::now() < deadline, "no change was told");
        }
    };
    tokio::select! {
        ended = topology.watch(&wake) => panic!("the watch ended: {ended:?}"),
        () = act => {}
    }
}

#[tokio::test]
async fn the_agent_deploys_upgrades_and_deletes_on_podman() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    lab.ping().await;
    lab.deploy("shop", 1, &[sleeper("web", V1), sleeper("db", V1)]).await;
    let first = lab.phase("shop", Phase::Running).await;
    assert_eq!(podman.names().await, ["lab-1.shop.db", "lab-1.shop.web"]);

    lab.deploy("shop", 2, &[sleeper("web", V2), sleeper("db", V1)]).await;
    let second = lab.status("shop", |s| s.generation == 2 && s.phase == Phase::Running).await;
    assert_ne!(first.services[0].id, second.services[0].id);
    assert_eq!(first.services[1].id, second.services[1].id, "the unchanged service is the same container");
    let image = podman.run(&["inspect", "--format", "{{.ImageName}}", "lab-1.shop.web"]).await;
    assert_eq!(image.trim(), V2);

    podman.run(&["kill", "lab-1.shop.db"]).await;
    podman.run(&["rm", "-f", "-t", "0", "lab-1.shop.web"]).await;
    let healed = |s: &pilab::model::workload::Status| {
        s.phase == Phase::Running && s.services[0].id != second.services[0].id
    };
    lab.status("shop", healed).await;

    lab.deploy("ghost", 1, &[service("web", "localhost/none:1")]).await;
    let status = lab.status("ghost", |status| status.reason == "ImageMissing").await;
    assert_eq!(status.reason, "ImageMissing");
    assert!(status.message.contains("localhost/none:1"), "{}", status.message);
    lab.delete("ghost").await;
    lab.gone("ghost").await;

    agent.stop().await;
    assert_eq!(podman.names().await.len(), 2, "containers outlive the agent");
    let agent = lab.agent(podman.topology("lab-1"));
    lab.delete("shop").await;
    lab.gone("shop").await;
    assert_eq!(podman.names().await, Vec::<String>::new());
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn the_program_joins_by_its_identity_and_leaves_containers_at_a_signal() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let program = |args: Vec<OsString>| Command::new(env!("CARGO_BIN_EXE_pilab-agent")).args(args);
    let nowhere = program(vec!["--identity-dir".into(), podman.dir.path().join("none").into_os_string()]);
    let refused = nowhere.output().await.unwrap_err().to_string();
    assert!(refused.contains("identity.json: No such file"), "{refused}");

    let mut agent = program(podman.agent_args(&lab)).build().spawn().unwrap();
    lab.ping().await;
    lab.deploy("shop", 1, &[sleeper("web", V1)]).await;
    lab.phase("shop", Phase::Running).await;
    let pid = rustix::process::Pid::from_raw(agent.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(DEADLINE, agent.wait()).await.expect("the agent did not end").unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(podman.names().await, ["lab-1.shop.web"]);
}

#[tokio::test]
async fn limits_reach_the_container_or_are_named_and_its_health_is_found_out() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let mut limited = spec("web", &["sleep", "1000"]);
    limited.limits = Limits { memory: Some(32 << 20), cpu_millis: Some(500), pids: Some(20) };
    limited.stop_timeout = Duration::from_secs(3);
    limited.health = Some(HealthCheck {
        command: ["sh", "-c", "cat /state; [ -e /state ]"].map(str::to_owned).into(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(20),
        retries: 3,
        start_period: Duration::ZERO,
    });
    let started = topology.create(&limited).await.unwrap();
    until(&topology, |seen| seen.state == ServiceState::Running).await;
    let format =
        "{{.HostConfig.Memory}} {{.HostConfig.CpuQuota}} {{.HostConfig.PidsLimit}} {{.Config.StopTimeout}}";
    let said = podman.run(&["inspect", "--format", format, "lab-1.shop.web"]).await;
    let expected = [("memory", "33554432"), ("cpu", "50000"), ("pids", "20"), ("stop", "3")];
    let told = started.limits_not_enforced.join(" ").to_lowercase();
    for ((what, value), said) in expected.into_iter().zip(said.split_whitespace()) {
        // Without root and with cgroups v1, where it can hold none, podman names none of them.
        let unheld = told.contains(what) || told.contains("resource limits");
        assert!(said == value || unheld, "{what}: {said}; not enforced: {:?}", started.limits_not_enforced);
    }
    let (passed, output) = topology.check_health(&started.id, DEADLINE).await.unwrap();
    assert!(!passed && output.contains("/state"), "{output:?}");
    podman.run(&["exec", "lab-1.shop.web", "sh", "-c", "echo good > /state"]).await;
    let found = topology.check_health(&started.id, DEADLINE).await.unwrap();
    assert_eq!(found, (true, "good".to_owned()));
    assert_eq!(podman.run(&["ps", "-q", "--filter", "label=pilab.service"]).await.lines().count(), 1);
}

#[tokio::test]
async fn an_image_is_fetched_as_its_policy_says() {
    let podman = podman_or_return!();
    let topology = podman.topology("lab-1");
    let missing = "127.0.0.1:1/none:1";
    let error = topology.ensure_image(missing, PullPolicy::Never, &|_| {}).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::ImageMissing { cause, .. } if cause.contains("must not")),
        "{error}"
    );
    topology.ensure_image(V1, PullPolicy::Never, &|_| {}).await.unwrap();
    topology.ensure_image(V1, PullPolicy::Always, &|_| {}).await.unwrap();
    // On the device, and its registry does not answer: what is there is used, and that is told.
    podman.run(&["tag", V1, missing]).await;
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |line: &str| told.lock().unwrap().push(line.to_owned());
    topology.ensure_image(missing, PullPolicy::Always, &progress).await.unwrap();
    let told = told.into_inner().unwrap();
    assert!(told.last().is_some_and(|line| line.contains("what is on the device is used")), "{told:?}");
}
