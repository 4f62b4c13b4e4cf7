//! A lab for one agent: a real nats-server that confines the device as the coordinator's issuer would.

use pilab::agent::ports::ContainerRuntime;
use pilab::agent::run::{Resources, run};
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::kv::Entry;
use pilab::model::id::DeviceId;
use pilab::model::workload::{Phase, Status};
use pilab::support::command::Command;
use pilab::wire::fleet::{Pong, Verb};
use pilab::wire::subject;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at a key.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) struct Lab {
    nats: tokio::process::Child,
    port: u16,
    dir: tempfile::TempDir,
    bus: Bus,
    pub(crate) device: DeviceId,
}

/// A running agent.
pub(crate) struct Agent {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    log: watch::Receiver<()>,
    nats_log: std::path::PathBuf,
}

impl Agent {
    /// How often the server refused the device something.
    pub(crate) fn denied(&self) -> usize {
        let log = std::fs::read_to_string(&self.nats_log).unwrap_or_default();
        log.lines().filter(|line| line.contains("Violation")).inspect(|line| eprintln!("{line}")).count()
    }

    /// Stops the agent as a signal does.
    pub(crate) async fn stop(self) {
        assert!(!self.log.has_changed().is_err(), "the agent ended by itself");
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

fn configuration(device: &str, port: &str, dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"listen: "127.0.0.1:{port}"
ports_file_dir: "{dir}"
log_file: "{dir}/nats.log"
jetstream: {{ store_dir: "{dir}/js" }}
authorization {{ users: [
  {{ user: lab, password: lab }}
  {{ user: device, password: device, permissions: {{
    publish: {{ allow: [
      "$JS.API.DIRECT.GET.KV_desired.$KV.desired.{device}.>",
      "$JS.API.CONSUMER.INFO.KV_desired.{device}",
      "$JS.API.CONSUMER.MSG.NEXT.KV_desired.{device}",
      "$JS.ACK.KV_desired.{device}.>",
      "$KV.status.{device}.>",
      "$KV.presence.{device}" ] }}
    subscribe: {{ allow: [ "_INBOX.{device}.>", "fleet.{device}.>" ] }}
    allow_responses: {{ max: 1, expires: "5s" }} }} }} ] }}
"#
    )
}

fn missing(program: &str, level: &str) {
    let required = std::env::var("PILAB_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name == level), "{program} is required and not installed");
    eprintln!("skipped: {program} is not installed");
}

/// Whether a program is installed; when it is not, and `level` is required, fails.
pub(crate) fn installed(program: &str, level: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !found {
        missing(program, level);
    }
    found
}

async fn connect(port: u16, user: &str, inbox: &str) -> Bus {
    let options = BusOptions {
        url: format!("nats://{user}:{user}@127.0.0.1:{port}"),
        creds: String::new(),
        name: user.to_owned(),
        inbox_prefix: subject::inbox(inbox),
    };
    Bus::connect(options, Some(DEADLINE)).await.unwrap()
}

impl Lab {
    /// Starts a server with the three buckets and the device's durable; none without nats-server.
    pub(crate) async fn start() -> Option<Self> {
        if !installed("nats-server", "podman") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let device = DeviceId::new("lab-1").unwrap();
        let (nats, port) = serve(&device, "-1", dir.path()).await;
        let bus = connect(port, "lab", "lab").await;
        let lab = Self { nats, port, dir, bus, device };
        for bucket in [subject::STATUS, subject::PRESENCE] {
            lab.make_bucket(bucket).await;
        }
        lab.make_desired().await;
        Some(lab)
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// A connection with the device's rights.
    pub(crate) async fn device_bus(&self) -> Bus {
        connect(self.port, "device", self.device.as_str()).await
    }

    /// Starts an agent; its state outlives it.
    pub(crate) fn agent<R: ContainerRuntime>(&self, runtime: R) -> Agent {
        let shutdown = CancellationToken::new();
        let tasks = TaskTracker::new();
        let resources = Resources {
            device: self.device.clone(),
            nats_url: self.device_url(),
            nats_creds: String::new(),
            state_dir: self.dir.path().join("state"),
            runtime,
        };
        let token = shutdown.clone();
        let (alive, log) = watch::channel(());
        tasks.spawn(async move {
            run(resources, token).await.unwrap();
            drop(alive);
        });
        Agent { tasks, shutdown, log, nats_log: self.dir.path().join("nats.log") }
    }

    /// Where the device finds the server.
    pub(crate) fn device_url(&self) -> String {
        format!("nats://device:device@127.0.0.1:{}", self.port)
    }

    async fn make_bucket(&self, bucket: &str) {
        let config = json!({ "name": subject::stream(bucket), "subjects": [subject::key(bucket, ">")],
            "max_msgs_per_subject": 1, "allow_direct": true, "discard": "new", "storage": "file" });
        let call = format!("STREAM.CREATE.{}", subject::stream(bucket));
        self.bus.api::<Value>(&call, &config).await.unwrap();
    }

    async fn make_desired(&self) {
        self.make_bucket(subject::DESIRED).await;
        let stream = subject::stream(subject::DESIRED);
        let filter = subject::key(subject::DESIRED, &subject::device_keys(&self.device));
        let config = json!({ "durable_name": self.device, "filter_subject": filter, "ack_policy": "explicit",
            "deliver_policy": "last_per_subject" });
        let call = format!("CONSUMER.DURABLE.CREATE.{stream}.{}", subject::durable(&self.device));
        let body = json!({ "stream_name": stream, "config": config });
        self.bus.api::<Value>(&call, &body).await.unwrap();
    }

    /// Loses the bucket of desired state and makes it anew.
    pub(crate) async fn remake_desired(&self) {
        let call = format!("STREAM.DELETE.{}", subject::stream(subject::DESIRED));
        self.bus.api::<Value>(&call, &Value::Null).await.unwrap();
        self.make_desired().await;
    }

    /// Kills the server and starts it again.
    pub(crate) async fn restart_nats(&mut self) {
        self.nats.kill().await.unwrap();
        let (nats, port) = serve(&self.device, &self.port.to_string(), self.dir.path()).await;
        self.nats = nats;
        assert_eq!(port, self.port);
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

async fn serve(device: &DeviceId, port: &str, dir: &Path) -> (tokio::process::Child, u16) {
    let config = dir.join("nats.conf");
    std::fs::write(&config, configuration(device.as_str(), port, dir)).unwrap();
    let child = Command::new("nats-server").arg("-c").arg(config).build().spawn().unwrap();
    let ports = dir.join(format!("nats-server_{}.ports", child.id().unwrap()));
    let deadline = Instant::now() + DEADLINE;
    loop {
        let text = std::fs::read_to_string(&ports).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(url) = value["nats"][0].as_str() {
            let port = url.rsplit(':').next().unwrap().parse().unwrap();
            return (child, port);
        }
        assert!(Instant::now() < deadline, "nats-server did not start: {}", log(dir));
        tokio::time::sleep(LOOK).await;
    }
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("nats.log")).unwrap_or_default()
}
