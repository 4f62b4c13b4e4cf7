//! Services as podman containers.
//!
//! Traps of podman 4.3 that this file is shaped by: a name that is taken and an image that is missing are
//! both status 500 (5.x: 404 for the image), told apart by the `cause`; a pull that fails is status 200
//! with an `error` in its answer; a container whose start failed stays `created`.

use super::api::{self, Created, Inspected, Listed, Problem, PullLine};
use super::http::{Answer, Call, Socket};
use crate::agent::ports::{
    Completed, ContainerRuntime, InitSpec, ManagedService, RuntimeError, ServiceSpec, Started,
};
use crate::model::id::{ContainerName, DeploymentName, DeviceId};
use crate::model::workload::{ContainerEnd, PullPolicy, label};
use hyper::{Method, StatusCode};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Notify;

/// How long a call may take. The first one after boot starts podman's service and may repair its storage,
/// which takes tens of seconds on a slow device.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long fetching an image may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);

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
    device: DeviceId,
    socket: Socket,
    oci_runtime: Option<String>,
}

impl PodmanTopology {
    /// The containers of `device`'s agent.
    pub fn new(device: DeviceId, options: PodmanOptions) -> Self {
        Self { device, socket: Socket::new(options.socket), oci_runtime: options.oci_runtime }
    }

    async fn call(&self, method: Method, path: String, operation: String) -> Result<Answer, RuntimeError> {
        self.socket.call(Call { operation, method, path, body: Vec::new(), timeout: CALL_TIMEOUT }).await
    }

    fn filters(&self) -> String {
        let labels =
            [format!("{}={}", label::MANAGED_BY, label::AGENT), format!("{}={}", label::DEVICE, self.device)];
        query(&serde_json::json!({ "label": labels }).to_string())
    }

    async fn image_exists(&self, image: &str) -> Result<bool, RuntimeError> {
        let operation = format!("look for image {image}");
        let answer = self.call(Method::GET, format!("/images/{image}/exists"), operation.clone()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(false),
            _ => succeeded(&answer, &operation).map(|()| true),
        }
    }

    async fn pull(&self, image: &str) -> Result<(), RuntimeError> {
        let call = Call {
            operation: format!("pull image {image}"),
            method: Method::POST,
            path: format!("/images/pull?quiet=true&reference={image}"),
            body: Vec::new(),
            timeout: PULL_TIMEOUT,
        };
        let answer = self.socket.call(call).await?;
        let lines = answer.body.split(|byte| *byte == b'\n');
        let errors = lines.filter_map(|line| serde_json::from_slice::<PullLine>(line).ok());
        let error = errors.map(|line| line.error).find(|error| !error.is_empty());
        match error {
            None if answer.status.is_success() => Ok(()),
            error => Err(RuntimeError::ImageMissing {
                image: image.to_owned(),
                cause: error.unwrap_or_else(|| problem(&answer)),
            }),
        }
    }

    /// Creates a container; none when its name is taken.
    async fn try_create(&self, spec: &ServiceSpec) -> Result<Option<Created>, RuntimeError> {
        let body = api::create(&self.device, self.oci_runtime.as_deref(), spec);
        let operation = format!("create container of {}", spec.name);
        let call = Call {
            operation: operation.clone(),
            method: Method::POST,
            path: "/containers/create".into(),
            body: serde_json::to_vec(&body).map_err(|error| RuntimeError::Malformed {
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
            return Err(RuntimeError::ImageMissing { image: spec.image.clone(), cause });
        }
        Err(RuntimeError::Refused { operation, status: answer.status.as_u16(), cause })
    }

    /// Removes a left-over of ours that holds a name; refuses if it is somebody else's.
    async fn free_name(&self, name: &str) -> Result<(), RuntimeError> {
        let operation = format!("inspect container {name}");
        let answer = self.call(Method::GET, format!("/containers/{name}/json"), operation.clone()).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        succeeded(&answer, &operation)?;
        let there: Inspected = decode(&answer, &operation)?;
        if !there.is_of(&self.device) {
            return Err(RuntimeError::NameTaken { name: name.to_owned() });
        }
        self.remove(&there.id).await
    }
}

impl ContainerRuntime for PodmanTopology {
    async fn list_managed_services(&self) -> Result<Vec<ManagedService>, RuntimeError> {
        let operation = "list containers".to_owned();
        let path = format!("/containers/json?all=true&filters={}", self.filters());
        let answer = self.call(Method::GET, path, operation.clone()).await?;
        succeeded(&answer, &operation)?;
        // podman answers `null` for none.
        let listed: Option<Vec<Listed>> = decode(&answer, &operation)?;
        Ok(listed.into_iter().flatten().filter_map(Listed::managed).collect())
    }

    async fn ensure_image(
        &self,
        image: &str,
        _policy: PullPolicy,
        _progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<(), RuntimeError> {
        if self.image_exists(image).await? {
            return Ok(());
        }
        // Only a first part that is a host can be pulled from; `localhost` means made here.
        let host = image.split_once('/').map_or("", |(host, _)| host);
        if host.contains(['.', ':']) {
            return self.pull(image).await;
        }
        let cause = "it is not on the device, and its name does not say where to fetch it from".to_owned();
        Err(RuntimeError::ImageMissing { image: image.to_owned(), cause })
    }

    async fn create(&self, spec: &ServiceSpec) -> Result<Started, RuntimeError> {
        let name = api::container_name(&self.device, &spec.deployment, &spec.name);
        let created = match self.try_create(spec).await? {
            Some(created) => Some(created),
            None => {
                self.free_name(&name).await?;
                self.try_create(spec).await?
            }
        };
        let Some(Created { id, warnings }) = created else { return Err(RuntimeError::NameTaken { name }) };
        for warning in warnings.unwrap_or_default() {
            tracing::warn!(container = name, warning, "podman warns");
        }
        self.start(&id).await?;
        Ok(Started { id, limits_not_enforced: Vec::new() })
    }

    async fn run_to_completion(
        &self,
        spec: &InitSpec,
        _timeout: Duration,
    ) -> Result<Completed, RuntimeError> {
        Err(not_built(&spec.name.to_string()))
    }

    async fn clear_init_containers(
        &self,
        deployment: &DeploymentName,
    ) -> Result<Vec<(ContainerName, ContainerEnd)>, RuntimeError> {
        Err(not_built(&deployment.to_string()))
    }

    async fn end_of(&self, id: &str) -> Result<Option<ContainerEnd>, RuntimeError> {
        Err(not_built(id))
    }

    async fn check_health(&self, id: &str, _timeout: Duration) -> Result<(bool, String), RuntimeError> {
        Err(not_built(id))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let operation = format!("start container {id}");
        let answer = self.call(Method::POST, format!("/containers/{id}/start"), operation.clone()).await?;
        succeeded(&answer, &operation)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
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
        let answer = self.call(Method::DELETE, path, operation.clone()).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            _ => succeeded(&answer, &operation),
        }
    }

    async fn logs(&self, id: &str, lines: usize) -> Result<String, RuntimeError> {
        let operation = format!("read the log of container {id}");
        let path = format!("/containers/{id}/logs?stdout=true&stderr=true&tail={lines}");
        let answer = self.call(Method::GET, path, operation.clone()).await?;
        succeeded(&answer, &operation)?;
        Ok(api::log_text(&answer.body))
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
        let status = status.await?;
        succeeded(&Answer { status, body: Vec::new() }, &operation)
    }
}

fn not_built(what: &str) -> RuntimeError {
    RuntimeError::Malformed { operation: what.to_owned(), problem: "not built".to_owned() }
}

fn succeeded(answer: &Answer, operation: &str) -> Result<(), RuntimeError> {
    // 304: it is so already.
    if answer.status.is_success() || answer.status == StatusCode::NOT_MODIFIED {
        return Ok(());
    }
    let (operation, status) = (operation.to_owned(), answer.status.as_u16());
    Err(RuntimeError::Refused { operation, status, cause: problem(answer) })
}

/// What podman says is wrong: its message, which ends with the cause; or the start of whatever it sent.
fn problem(answer: &Answer) -> String {
    let told: Problem = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = if told.message.is_empty() { told.cause } else { told.message };
    let text = if text.is_empty() { String::from_utf8_lossy(&answer.body).into_owned() } else { text };
    text.trim().chars().take(500).collect()
}

fn decode<T: DeserializeOwned>(answer: &Answer, operation: &str) -> Result<T, RuntimeError> {
    serde_json::from_slice(&answer.body).map_err(|error| RuntimeError::Malformed {
        operation: operation.to_owned(),
        problem: error.to_string(),
    })
}

/// Percent-encodes a query value (RFC 3986 §2.1, §2.3).
fn query(text: &str) -> String {
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
