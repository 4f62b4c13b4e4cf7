//! The embedded nats-server and its credentials: a lab without devices, for tests of what crosses it.
//! Needs `nats-server`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod desired;
mod revocation;
mod rights;
mod server;

use bytes::Bytes;
use pilab::bus::connect::{Bus, BusOptions};
use pilab::bus::error::BusError;
use pilab::bus::issuer::{COORDINATOR, Credentials, Issuer};
use pilab::bus::provision;
use pilab::bus::server::{EmbeddedServer, ServerOptions, ServerState};
use pilab::model::id::{DeploymentName, DeviceId, LabName};
use pilab::model::lease::FencingToken;
use pilab::model::workload::{PodmanV0Score, Score};
use pilab::wire::subject;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// A bound for what takes milliseconds.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long a connection that must be refused is tried: more than once.
pub(crate) const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// How long an answer that must not come is waited for.
pub(crate) const NEVER: Duration = Duration::from_millis(300);
pub(crate) const TOKEN: FencingToken = FencingToken { epoch: 1, sequence: 1 };

pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) server: EmbeddedServer,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tracker: TaskTracker,
}

pub(crate) fn lab_name() -> LabName {
    LabName::new("lab").unwrap()
}

pub(crate) fn device_id(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

pub(crate) fn web() -> DeploymentName {
    DeploymentName::new("web").unwrap()
}

pub(crate) fn score() -> Score {
    Score::PodmanV0(PodmanV0Score::default())
}

pub(crate) fn options(dir: &Path) -> ServerOptions {
    ServerOptions { dir: dir.join("nats"), listen: LOCALHOST, port: None, program: None, tls: None }
}

impl Lab {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn start_in(dir: TempDir) -> Self {
        let issuer = Arc::new(Issuer::open(dir.path().join("issuer"), &lab_name()).unwrap());
        let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let server = EmbeddedServer::start(options(dir.path()), issuer.clone(), &tracker, shutdown.clone());
        let server = server.await.unwrap();
        Self { dir, issuer, server, shutdown, tracker }
    }

    /// Stops the server and waits until its task has ended.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.tracker.close();
        tokio::time::timeout(SOON, self.tracker.wait()).await.unwrap();
        assert_eq!(self.server.status().borrow().state, ServerState::Stopped);
        self.dir
    }

    pub(crate) async fn try_connect(
        &self,
        name: &str,
        credentials: &Credentials,
        patience: Duration,
    ) -> Result<Bus, BusError> {
        let options = BusOptions {
            url: self.server.url().into(),
            creds: credentials.creds.clone(),
            name: name.to_owned(),
            inbox_prefix: subject::inbox(name),
        };
        Bus::connect(options, Some(patience)).await
    }

    /// A connection that must come about.
    pub(crate) async fn connect(&self, name: &str, credentials: &Credentials) -> Bus {
        self.try_connect(name, credentials, SOON).await.unwrap()
    }

    /// A connection that must not.
    pub(crate) async fn refused(&self, name: &str, credentials: &Credentials) {
        let tried = self.try_connect(name, credentials, REFUSED_WITHIN).await;
        assert!(matches!(tried, Err(BusError::Connect { .. })), "{name}: {tried:?}");
    }

    /// The coordinator's connection, with the buckets made.
    pub(crate) async fn coordinator(&self) -> Bus {
        let bus = self.connect(COORDINATOR, &self.issuer.coordinator(HOUR).unwrap()).await;
        provision::buckets(&bus, &lab_name()).await.unwrap();
        bus
    }

    pub(crate) async fn device(&self, name: &str) -> Bus {
        self.connect(name, &self.issuer.device(&device_id(name), HOUR).unwrap()).await
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.server.status().borrow().state {
            ServerState::Running { pid } => *pid,
            other => panic!("not running: {other:?}"),
        }
    }
}

/// Whether a process is there and not a zombie.
pub(crate) fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

pub(crate) async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the server has come to all that a device sent, its subscriptions above all: reading one of its own
/// keys is answered after them.
pub(crate) async fn device_settled(bus: &Bus, name: &str) {
    bus.kv_get(subject::DESIRED, &subject::index_key(&device_id(name))).await.unwrap();
}

/// The request must be refused for want of rights, and not by time-out.
pub(crate) async fn denied(bus: &Bus, subject: &str, body: impl Into<Bytes>) {
    let answer = bus.request(subject, body, Duration::from_secs(3)).await;
    assert!(matches!(answer, Err(BusError::Denied { .. })), "{subject}: {answer:?}");
}

/// A connection by async-nats itself, for what `Bus` offers nobody.
pub(crate) async fn raw_client(lab: &Lab, credentials: &Credentials, name: &str) -> async_nats::Client {
    async_nats::ConnectOptions::with_credentials(&credentials.creds)
        .unwrap()
        .custom_inbox_prefix(subject::inbox(name))
        .connect(lab.server.url())
        .await
        .unwrap()
}
