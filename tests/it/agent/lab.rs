//! A lab for one agent: the coordinator's embedded server and issuer, so the device has the rights it has
//! in the field.

use super::away::{Away, Served};
use pilab::agent::policy::Policy;
use pilab::agent::ports::ContainerRuntime;
use pilab::agent::run::{Resources, run};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::issuer::{COORDINATOR, Credentials, Issuer};
use pilab::bus::kv::Entry;
use pilab::bus::provision;
use pilab::bus::server::{EmbeddedServer, ServerOptions, ServerState};
use pilab::model::id::{DeviceId, LabName};
use pilab::model::lease::FencingToken;
use pilab::model::workload::{Phase, Presence, Status};
use pilab::wire::fleet::{Pong, Verb};
use pilab::wire::subject;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Longest wait for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// Between two looks at a key.
const LOOK: Duration = Duration::from_millis(20);

/// The token of the device's first holder.
const FIRST: FencingToken = FencingToken { epoch: 1, sequence: 1 };

fn lab_name() -> LabName {
    LabName::new("lab").unwrap()
}

pub(crate) struct Lab {
    _stop: DropGuard,
    server: EmbeddedServer,
    issuer: Arc<Issuer>,
    bus: Bus,
    pub(crate) device: DeviceId,
    dir: tempfile::TempDir,
}

/// A running agent.
pub(crate) struct Agent {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    alive: watch::Receiver<()>,
    nats_log: std::path::PathBuf,
}

impl Agent {
    /// How often the server refused the device something.
    pub(crate) fn denied(&self) -> usize {
        let log = std::fs::read_to_string(&self.nats_log).unwrap();
        log.lines().filter(|line| line.contains("Violation")).inspect(|line| eprintln!("{line}")).count()
    }

    /// Stops the agent as a signal does.
    pub(crate) async fn stop(self) {
        assert!(self.alive.has_changed().is_ok(), "the agent ended by itself");
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(DEADLINE, self.tasks.wait()).await.expect("the agent did not stop");
    }
}

/// A service of a score.
pub(crate) fn service(name: &str, image: &str) -> Value {
    json!({ "name": name, "image": image })
}

/// A desired value under the token that all tests use.
pub(crate) fn desired(generation: u64, score: Value) -> String {
    json!({ "version": 1, "generation": generation, "token": { "epoch": 1, "sequence": 1 },
        "score": { "type": "PodmanV0", "data": score } })
    .to_string()
}

/// Says why a test cannot run here; fails instead where `PILAB_REQUIRE` names its level.
pub(crate) fn skip(level: &str, why: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == level), "PILAB_REQUIRE has {level}, but {why}");
    eprintln!("skipped: {why}");
}

/// Whether a program is installed; when it is not, and `level` is required, fails.
pub(crate) fn installed(program: &str, level: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        skip(level, &format!("{program} is not installed"));
    }
    found
}

async fn connect(server: &EmbeddedServer, credentials: Credentials, name: &str) -> Bus {
    let (url, inbox_prefix) = (server.url(), subject::inbox(name));
    let options =
        BusOptions { url: url.into(), creds: credentials.creds, name: name.to_owned(), inbox_prefix };
    Bus::connect(options, Some(DEADLINE)).await.unwrap()
}

impl Lab {
    /// Starts a server with the buckets and the device's durable; none without nats-server.
    pub(crate) async fn start() -> Option<Self> {
        if !installed("nats-server", "podman") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let device = DeviceId::new("lab-1").unwrap();
        let issuer = Arc::new(Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let options = ServerOptions {
            dir: dir.path().join("nats"),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: None,
            program: None,
            tls: None,
        };
        let server = EmbeddedServer::start(options, issuer.clone(), &tasks, shutdown.clone()).await.unwrap();
        let bus = connect(&server, issuer.coordinator(HOUR).unwrap(), COORDINATOR).await;
        provision::buckets(&bus, &lab_name()).await.unwrap();
        provision::device(&bus, &device, FIRST).await.unwrap();
        Some(Self { dir, issuer, server, _stop: shutdown.drop_guard(), bus, device })
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// A connection with the device's rights.
    pub(crate) async fn device_bus(&self) -> Bus {
        connect(&self.server, self.issuer.device(&self.device, HOUR).unwrap(), self.device.as_str()).await
    }

    /// Starts an agent; its state outlives it.
    pub(crate) fn agent<R: ContainerRuntime>(&self, runtime: R) -> Agent {
        self.agent_at(self.server.url(), Policy::default(), runtime)
    }

    /// Starts an agent that lets containers have only what `policy` allows.
    pub(crate) fn agent_under<R: ContainerRuntime>(&self, policy: Policy, runtime: R) -> Agent {
        self.agent_at(self.server.url(), policy, runtime)
    }

    fn agent_at<R: ContainerRuntime>(&self, nats_url: String, policy: Policy, runtime: R) -> Agent {
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (_, nats_creds) = self.identity();
        let resources = Resources {
            facts: std::sync::Arc::default(),
            policy,
            device: self.device.clone(),
            nats_url,
            nats_creds,
            state_dir: self.dir.path().join("state"),
            runtime,
        };
        let token = shutdown.clone();
        let (held, alive) = watch::channel(());
        tasks.spawn(async move {
            run(resources, token).await.unwrap();
            drop(held);
        });
        Agent { tasks, shutdown, alive, nats_log: self.dir.path().join("nats/nats-server.log") }
    }

    /// Starts an agent that finds no server where it looks for one, until the address is served.
    pub(crate) fn agent_without_server<R: ContainerRuntime>(&self, runtime: R) -> (Agent, Away) {
        let away = Away::new();
        let agent = self.agent_at(away.url(), Policy::default(), runtime);
        (agent, away)
    }

    /// Serves the address at which an agent looks for a server, until what is answered is dropped.
    pub(crate) fn serve(&self, away: Away) -> Served {
        let to = self.server.url().trim_start_matches("nats://").to_owned();
        away.serve(to)
    }

    /// The bytes of the agent's state file `name`, replaced.
    pub(crate) fn spoil(&self, name: &str, content: &str) {
        std::fs::write(self.dir.path().join("state").join(name), content).unwrap();
    }

    /// Takes the place of the agent's state file `name`, so that it cannot be written; answers what to take away.
    pub(crate) fn obstruct(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join("state").join(name);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Whether the agent has this state file.
    pub(crate) fn kept(&self, name: &str) -> bool {
        self.dir.path().join("state").join(name).exists()
    }

    /// How many transitions wait on the agent's disk.
    pub(crate) fn waiting(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("state/outbox")).map_or(0, Iterator::count)
    }

    /// Where the server is, and what the device needs to join.
    pub(crate) fn identity(&self) -> (String, String) {
        (self.server.url(), self.issuer.device(&self.device, HOUR).unwrap().creds)
    }

    /// Loses a bucket and makes it anew.
    pub(crate) async fn remake(&self, bucket: &str) {
        let call = format!("STREAM.DELETE.{}", subject::stream(bucket));
        self.bus.api::<Value>(&call, &Value::Null).await.unwrap();
        provision::buckets(&self.bus, &lab_name()).await.unwrap();
    }

    /// Loses the bucket of desired state, and makes it and the device's durable anew.
    pub(crate) async fn remake_desired(&self) {
        self.remake(subject::DESIRED).await;
        provision::device(&self.bus, &self.device, FIRST).await.unwrap();
    }

    /// Kills the server; its keeper starts it again.
    pub(crate) async fn restart_nats(&self) {
        let ServerState::Running { pid } = self.server.status().borrow().state.clone() else {
            panic!("the server does not run")
        };
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let mut connection = self.bus.connection();
        let back = connection.wait_for(|now| now.up && now.epoch > 1);
        tokio::time::timeout(DEADLINE, back).await.expect("the lab did not reconnect").unwrap();
    }

    /// Puts raw bytes on a deployment's key.
    pub(crate) async fn put(&self, deployment: &str, value: &str) {
        let key = format!("{}.{deployment}", self.device);
        self.bus.kv_put(subject::DESIRED, &key, value.to_owned()).await.unwrap();
    }

    pub(crate) async fn put_index(&self, deployments: &[(&str, u64)]) {
        let map: serde_json::Map<_, _> =
            deployments.iter().map(|(n, g)| ((*n).to_owned(), json!(g))).collect();
        let body = json!({ "version": 1, "deployments": map }).to_string();
        self.bus.kv_put(subject::DESIRED, &subject::index_key(&self.device), body).await.unwrap();
    }

    async fn index(&self) -> Vec<(String, u64)> {
        let entry = self.bus.kv_get(subject::DESIRED, &subject::index_key(&self.device)).await.unwrap();
        let Some(entry) = entry else { return Vec::new() };
        let index: Value = serde_json::from_slice(&entry.value).unwrap();
        let map = index["deployments"].as_object().unwrap();
        map.iter().map(|(name, generation)| (name.clone(), generation.as_u64().unwrap())).collect()
    }

    pub(crate) async fn deploy_score(&self, deployment: &str, generation: u64, score: Value) {
        self.put(deployment, &desired(generation, score)).await;
        let mut index = self.index().await;
        index.retain(|(name, _)| name != deployment);
        index.push((deployment.to_owned(), generation));
        self.put_index(&index.iter().map(|(n, g)| (n.as_str(), *g)).collect::<Vec<_>>()).await;
    }

    pub(crate) async fn deploy(&self, deployment: &str, generation: u64, services: &[Value]) {
        self.deploy_score(deployment, generation, json!({ "services": services })).await;
    }

    pub(crate) async fn delete(&self, deployment: &str) {
        let mut index = self.index().await;
        index.retain(|(name, _)| name != deployment);
        self.put_index(&index.iter().map(|(n, g)| (n.as_str(), *g)).collect::<Vec<_>>()).await;
        let key = format!("{}.{deployment}", self.device);
        self.bus.kv_delete(subject::DESIRED, &key).await.unwrap();
    }

    async fn wait_entry(
        &self,
        bucket: &str,
        key: &str,
        wanted: impl Fn(Option<&Entry>) -> bool,
    ) -> Option<Entry> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let entry = self.bus.kv_get(bucket, key).await.unwrap();
            if wanted(entry.as_ref()) {
                return entry;
            }
            assert!(Instant::now() < deadline, "{bucket} {key}: not in {DEADLINE:?}; last: {entry:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn wait_key(&self, bucket: &str, key: &str) -> bytes::Bytes {
        self.wait_entry(bucket, key, |entry| entry.is_some()).await.unwrap().value
    }

    /// Waits for a heartbeat.
    pub(crate) async fn wait_presence(&self, wanted: impl Fn(&Presence) -> bool) -> Presence {
        let read = |entry: Option<&Entry>| serde_json::from_slice::<Presence>(&entry?.value).ok();
        let fits = |entry: Option<&Entry>| read(entry).is_some_and(|presence| wanted(&presence));
        let entry = self.wait_entry(subject::PRESENCE, self.device.as_str(), fits).await;
        read(entry.as_ref()).unwrap()
    }

    /// Waits for a status.
    pub(crate) async fn status(&self, deployment: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let read = |entry: Option<&Entry>| serde_json::from_slice::<Status>(&entry?.value).ok();
        let key = format!("{}.{deployment}", self.device);
        let entry =
            self.wait_entry(subject::STATUS, &key, |entry| read(entry).is_some_and(|s| wanted(&s))).await;
        read(entry.as_ref()).unwrap()
    }

    pub(crate) async fn phase(&self, deployment: &str, phase: Phase) -> Status {
        self.status(deployment, |status| status.phase == phase).await
    }

    /// Waits for what the agent's ledger of a deployment says: a line of header, then JSON.
    pub(crate) async fn ledger(&self, deployment: &str, wanted: impl Fn(&Value) -> bool) {
        let path = self.dir.path().join(format!("state/ledger/{deployment}.json"));
        let deadline = Instant::now() + DEADLINE;
        loop {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let json = bytes.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
            let ledger: Value = serde_json::from_slice(json).unwrap_or_default();
            if wanted(&ledger) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the ledger of {deployment}: not in {DEADLINE:?}; last: {ledger}"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for what is told in no key.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !wanted() {
            assert!(Instant::now() < deadline, "not in {DEADLINE:?}: {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a status has been deleted.
    pub(crate) async fn gone(&self, deployment: &str) {
        let key = format!("{}.{deployment}", self.device);
        self.wait_entry(subject::STATUS, &key, |entry| entry.is_some_and(|entry| entry.deleted)).await;
    }

    pub(crate) async fn ping(&self) -> Pong {
        let subject = subject::fleet(&self.device, Verb::Ping.name());
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.bus.request(subject.clone(), "", Duration::from_secs(2)).await {
                Ok(answer) => return serde_json::from_slice(&answer).unwrap(),
                Err(error) => assert!(Instant::now() < deadline, "no pong: {error}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the device has acknowledged all that was delivered.
    pub(crate) async fn acked(&self) {
        let call = format!("CONSUMER.INFO.{}.{}", subject::stream(subject::DESIRED), self.device);
        let deadline = Instant::now() + DEADLINE;
        loop {
            let info: Value = self.bus.api(&call, &Value::Null).await.unwrap();
            if info["num_ack_pending"] == 0 && info["num_pending"] == 0 {
                return;
            }
            assert!(Instant::now() < deadline, "not acknowledged: {info}");
            tokio::time::sleep(LOOK).await;
        }
    }
}
