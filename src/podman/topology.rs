//! Services as podman containers.
//!
//! Traps of podman 4.3 that this file is shaped by: a name that is taken and an image that is missing are
//! both status 500 (5.x: 404 for the image), told apart by the `cause`; a container whose start failed
//! stays `created`; one whose monitor was killed reads `running` for ever.

use super::api::{Created, HostInfo, Info, Problem};
use super::create::{self, Create};
use super::http::{Answer, Call, Socket};
use super::images::{self, PullTimes};
use super::inspect::Inspected;
use super::look::Looks;
use super::monitor::Monitors;
use super::{access, init};
use crate::agent::ports::{
    Completed, ContainerRuntime, Executed, InitSpec, LeftOver, LogPage, ManagedService, RuntimeError,
    RuntimeFacts, ServiceSpec, ServiceState, Started,
};
use crate::model::id::{ContainerName, DeploymentName, DeviceId};
use crate::model::workload::{ContainerEnd, PullPolicy, label};
use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{Notify, OnceCell};

/// How long a call may take. The first one after boot starts podman's service and may repair its storage,
/// which takes tens of seconds on a slow device.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// The most bytes of a log that are read.
const MAX_LOG: usize = 256 * 1024;
/// How often a container is made whose name turns out to be taken by a left-over of ours.
const TRIES: usize = 3;
/// The longest text of podman's that is kept, in characters.
const MAX_PROBLEM: usize = 500;

/// How podman is reached and used.
#[derive(Debug, Clone)]
pub struct PodmanOptions {
    /// The libpod socket.
    pub socket: PathBuf,
    /// The OCI runtime for new containers, where podman's default does not work (`runc` on hosts with
    /// cgroups v1).
    pub oci_runtime: Option<String>,
}

/// The containers of one device's agent.
#[derive(Debug)]
pub struct PodmanTopology {
    pub(super) device: DeviceId,
    pub(super) socket: Socket,
    pub(super) oci_runtime: Option<String>,
    pub(super) monitors: Monitors,
    pub(super) looks: Looks,
    host: OnceCell<HostInfo>,
    pub(super) shares_processes: OnceCell<bool>,
    exec: bool,
    pub(super) pull: PullTimes,
}

impl PodmanTopology {
    /// The containers of `device`'s agent.
    pub fn new(device: DeviceId, options: PodmanOptions) -> Self {
        Self {
            device,
            socket: Socket::new(options.socket),
            oci_runtime: options.oci_runtime,
            monitors: Monitors::default(),
            looks: Looks::default(),
            host: OnceCell::new(),
            shares_processes: OnceCell::new(),
            exec: false,
            pull: PullTimes::default(),
        }
    }

    /// Gives the fetching of images other times.
    pub fn with_pull_times(self, pull: PullTimes) -> Self {
        Self { pull, ..self }
    }

    /// Lets programs be run in its containers.
    pub fn with_exec(self) -> Self {
        Self { exec: true, ..self }
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: String,
        operation: String,
    ) -> Result<Answer, RuntimeError> {
        self.socket.call(Call { operation, method, path, body: Vec::new(), timeout: CALL_TIMEOUT }).await
    }

    async fn info(&self) -> Result<Info, RuntimeError> {
        let operation = "ask about the host".to_owned();
        let answer = self.call(Method::GET, "/info".to_owned(), operation.clone()).await?;
        succeeded(&answer, &operation)?;
        decode(&answer, &operation)
    }

    /// What podman's host can do; asked once.
    async fn host(&self) -> Result<&HostInfo, RuntimeError> {
        self.host.get_or_try_init(|| async { Ok(self.info().await?.host) }).await
    }

    /// Creates a container; none when its name is taken.
    async fn try_create(&self, body: &Create) -> Result<Option<Created>, RuntimeError> {
        let operation = format!("create container {}", body.name);
        let call = Call {
            operation: operation.clone(),
            method: Method::POST,
            path: "/containers/create".into(),
            body: serde_json::to_vec(body).map_err(|error| RuntimeError::Malformed {
                operation: operation.clone(),
                problem: error.to_string(),
            })?,
            timeout: CALL_TIMEOUT,
        };
        let answer = self.socket.call(call).await?;
        if answer.status.is_success() {
            return decode(&answer, &operation).map(Some);
        }
        let cause = problem(&answer);
        if cause.contains("name is already in use") {
            return Ok(None);
        }
        if cause.contains("image not known") || cause.contains("no such image") {
            return Err(RuntimeError::ImageMissing { image: body.image.clone(), cause });
        }
        Err(RuntimeError::Refused { operation, status: answer.status.as_u16(), cause })
    }

    /// Creates a container, removing left-overs of ours that hold its name.
    pub(super) async fn make(&self, body: &Create) -> Result<Created, RuntimeError> {
        for _ in 0..TRIES {
            if let Some(created) = self.try_create(body).await? {
                return Ok(created);
            }
            self.free_name(&body.name).await?;
        }
        Err(RuntimeError::NameTaken { name: body.name.clone() })
    }

    /// Removes a left-over of ours that holds a name; refuses if it is somebody else's.
    async fn free_name(&self, name: &str) -> Result<(), RuntimeError> {
        let Some(there) = self.inspect(name).await? else { return Ok(()) };
        if !there.is_of(&self.device) {
            return Err(RuntimeError::NameTaken { name: name.to_owned() });
        }
        self.remove(&there.id).await
    }
}

impl ContainerRuntime for PodmanTopology {
    fn recall(&self, seen: Vec<ManagedService>) {
        self.looks.recall(seen);
    }

    async fn list_managed_services(&self) -> Result<Vec<ManagedService>, RuntimeError> {
        let listed = self.look().await?;
        self.monitors.retain(|id| listed.iter().any(|service| service.id == id));
        let check = |service: ManagedService| async move {
            let state = match service.state {
                ServiceState::Running => self.running(&service.id).await,
                state => state,
            };
            ManagedService { state, ..service }
        };
        Ok(join_all(listed.into_iter().map(check)).await)
    }

    async fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<(), RuntimeError> {
        images::ensure(self, image, policy, progress).await
    }

    async fn create(&self, spec: &ServiceSpec) -> Result<Started, RuntimeError> {
        let unknown = HostInfo::default();
        let host = if spec.limits.is_none() { &unknown } else { self.host().await? };
        let (body, mut limits_not_enforced) =
            create::service(&self.device, self.oci_runtime.as_deref(), host, spec);
        let Created { id, warnings } = self.make(&body).await?;
        self.looks.made(ManagedService {
            id: id.clone(),
            deployment: spec.deployment.clone(),
            name: spec.name.clone(),
            hash: spec.hash.clone(),
            image: spec.image.clone(),
            image_id: String::new(),
            state: ServiceState::Created,
            started_at: 0,
        });
        for warning in warnings.unwrap_or_default() {
            tracing::warn!(container = body.name, warning, "podman warns");
            // "Your kernel does not support … Limitation discarded."; rootless with cgroups v1: "Resource limits
            // are not supported and ignored on …".
            let dropped = ["discarded", "ignored"].iter().any(|word| warning.to_lowercase().contains(word));
            if !spec.limits.is_none() && dropped {
                limits_not_enforced.push(warning.chars().take(MAX_PROBLEM).collect());
            }
        }
        self.start(&id).await?;
        Ok(Started { id, limits_not_enforced })
    }

    async fn run_to_completion(&self, spec: &InitSpec, timeout: Duration) -> Result<Completed, RuntimeError> {
        init::run(self, spec, timeout).await
    }

    async fn list_init_containers(&self, deployment: &DeploymentName) -> Result<Vec<LeftOver>, RuntimeError> {
        init::list(self, deployment).await
    }

    async fn end_of(&self, id: &str) -> Result<Option<ContainerEnd>, RuntimeError> {
        match self.inspect(id).await?.filter(Inspected::has_run) {
            Some(seen) => Ok(Some(self.evidence(&seen).await)),
            None => Ok(None),
        }
    }

    async fn check_health(&self, id: &str, timeout: Duration) -> Result<(bool, String), RuntimeError> {
        self.health(id, timeout).await
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let operation = format!("start container {id}");
        let answer = self.call(Method::POST, format!("/containers/{id}/start"), operation.clone()).await?;
        succeeded(&answer, &operation)
    }

    async fn stop(&self, id: &str) -> Result<(), RuntimeError> {
        if self.monitors.ended(id) && self.running(id).await == ServiceState::Lost {
            // Nobody would tell podman of its end: only removal ends it.
            return Ok(());
        }
        // podman knows it too; here it bounds the call.
        let Some(grace) = self.inspect(id).await?.map(|seen| seen.stop_timeout()) else { return Ok(()) };
        let operation = format!("stop container {id}");
        let call = Call {
            operation: operation.clone(),
            method: Method::POST,
            path: format!("/containers/{id}/stop?ignore=true&timeout={}", grace.as_secs()),
            body: Vec::new(),
            timeout: CALL_TIMEOUT + grace,
        };
        let answer = self.socket.call(call).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            _ => succeeded(&answer, &operation),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let operation = format!("remove container {id}");
        let path = format!("/containers/{id}?force=true&ignore=true&timeout=0&v=true");
        let mut answer = self.call(Method::DELETE, path.clone(), operation.clone()).await?;
        // One whose process and monitor both ended unnoticed: podman finds out while it tries to end it,
        // and refuses that once.
        if problem(&answer).contains("container state improper") {
            answer = self.call(Method::DELETE, path, operation.clone()).await?;
        }
        if answer.status != StatusCode::NOT_FOUND {
            succeeded(&answer, &operation)?;
        }
        self.looks.removed(id);
        Ok(())
    }

    async fn logs(&self, id: &str, lines: usize) -> Result<String, RuntimeError> {
        self.tail(id, lines, MAX_LOG, CALL_TIMEOUT).await
    }

    async fn read_log(
        &self,
        deployment: &DeploymentName,
        container: &ContainerName,
        cursor: &str,
        most: usize,
    ) -> Result<LogPage, RuntimeError> {
        access::read_log(self, deployment, container, cursor, most).await
    }

    async fn exec(
        &self,
        deployment: &DeploymentName,
        container: &ContainerName,
        command: &[String],
        timeout: Duration,
        most: usize,
    ) -> Result<Executed, RuntimeError> {
        if !self.exec {
            return Err(RuntimeError::NotEnabled { operation: "run programs in containers" });
        }
        access::exec(self, deployment, container, command, timeout, most).await
    }

    async fn facts(&self) -> Result<RuntimeFacts, RuntimeError> {
        let info = self.info().await?;
        Ok(RuntimeFacts {
            version: format!("podman {}", info.version.version),
            cgroup_version: info.host.cgroup_version,
            images: info.store.image_store.number,
            exec_enabled: self.exec,
        })
    }

    async fn watch(&self, wake: &Notify) -> Result<(), RuntimeError> {
        let filters = serde_json::json!({
            "type": ["container"],
            "label": [format!("{}={}", label::DEVICE, self.device)],
        });
        let operation = "watch events".to_owned();
        let call = Call {
            operation: operation.clone(),
            method: Method::GET,
            path: format!("/events?stream=true&filters={}", query(&filters.to_string())),
            body: Vec::new(),
            timeout: CALL_TIMEOUT,
        };
        // What happened is not read: it only means "look again".
        let status = self.socket.stream(call, |_| {
            wake.notify_one();
            Ok(())
        });
        let status = tokio::select! {
            status = status => status?,
            never = self.monitors.tell(wake) => match never {},
        };
        succeeded(&Answer { status, body: Vec::new() }, &operation)
    }
}

pub(super) fn succeeded(answer: &Answer, operation: &str) -> Result<(), RuntimeError> {
    // 304: it is so already.
    if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
        return Ok(());
    }
    let (operation, status) = (operation.to_owned(), answer.status.as_u16());
    Err(RuntimeError::Refused { operation, status, cause: problem(answer) })
}

/// What podman says is wrong: its message, which ends with the cause; or the start of whatever it sent.
pub(super) fn problem(answer: &Answer) -> String {
    let told: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = if told.message.is_empty() { told.cause } else { told.message };
    let text = if text.is_empty() { String::from_utf8_lossy(&answer.body).into_owned() } else { text };
    text.trim().chars().take(MAX_PROBLEM).collect()
}

pub(super) fn decode<T: DeserializeOwned>(answer: &Answer, operation: &str) -> Result<T, RuntimeError> {
    serde_json::from_slice(&answer.body).map_err(|error| RuntimeError::Malformed {
        operation: operation.to_owned(),
        problem: error.to_string(),
    })
}

/// Percent-encodes a query value (RFC 3986 §2.1, §2.3).
pub(super) fn query(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_encoded() {
        assert_eq!(query("{\"a b\":1}"), "%7B%22a%20b%22%3A1%7D");
    }

    #[test]
    fn a_problem_is_told_in_podmans_words() {
        let answer = |body: &str| Answer { status: StatusCode::INTERNAL_SERVER_ERROR, body: body.into() };
        assert_eq!(problem(&answer(r#"{"cause":"c","message":"m: c","response":500}"#)), "m: c");
        assert_eq!(problem(&answer("Not Found\n")), "Not Found");
    }
}
