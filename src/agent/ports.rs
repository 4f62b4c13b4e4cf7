//! What the agent needs of a container runtime, as the fewest verbs.

use super::score::{PortMapping, Volume};
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{ContainerEnd, HealthCheck, Limits, PullPolicy, RestartPolicy};
pub use crate::wire::fleet::RuntimeFacts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::time::Duration;
use tokio::sync::Notify;

/// A service to run, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Whose it is.
    pub deployment: DeploymentName,
    /// Its name in the deployment.
    pub name: ContainerName,
    /// The generation that brought this specification.
    pub generation: u64,
    /// Hash of the specification: what is equal need not be made anew.
    pub hash: String,
    /// Image reference, or the id of an image that is on the device.
    pub image: String,
    /// Arguments, in place of the image's own; empty leaves those.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// What is mounted.
    pub volumes: Vec<Volume>,
    /// What is reachable from outside.
    pub ports: Vec<PortMapping>,
    /// When the agent starts it again; the runtime never does.
    pub restart: RestartPolicy,
    /// What it may use.
    pub limits: Limits,
    /// How it is found out whether it works. The runtime gets the command, the agent runs it.
    pub health: Option<HealthCheck>,
    /// How long it may take to end after it was asked to.
    pub stop_timeout: Duration,
    /// When its image is fetched.
    pub pull: PullPolicy,
}

/// An init container to run to completion, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitSpec {
    /// Whose it is.
    pub deployment: DeploymentName,
    /// Its name in the deployment.
    pub name: ContainerName,
    /// The generation that brought this specification.
    pub generation: u64,
    /// Image reference, or the id of an image that is on the device.
    pub image: String,
    /// Arguments, in place of the image's own; empty leaves those.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// What is mounted.
    pub volumes: Vec<Volume>,
    /// How long it may take.
    pub timeout: Duration,
}

/// What came of an init container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunOutcome {
    /// It ended by itself.
    Exited {
        /// Its exit code.
        exit_code: i32,
    },
    /// Its time was up, and it was killed.
    TimedOut {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The runtime's monitor of it died: how it ended cannot be known.
    Lost,
}

/// An init container that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The runtime's id. The container is still there: whoever asked for it removes it once it is on record, so
    /// that one who dies in between finds it again.
    pub id: String,
    /// What came of it.
    pub outcome: RunOutcome,
    /// The evidence.
    pub end: ContainerEnd,
    /// The id of the image that it ran; empty when unknown.
    pub image_id: String,
}

/// An init container that an act which was broken off left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOver {
    /// The runtime's id.
    pub id: String,
    /// Its name in the deployment.
    pub name: ContainerName,
    /// What came of it; none when it still runs or never ran.
    pub completed: Option<Completed>,
}

/// A container that this device's agent made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedService {
    /// The runtime's id.
    pub id: String,
    /// Whose it is.
    pub deployment: DeploymentName,
    /// Its name in the deployment.
    pub name: ContainerName,
    /// Hash of the specification it was made from.
    pub hash: String,
    /// Its image, by the name that the runtime has for it, else by its id.
    pub image: String,
    /// The image's id; empty when unknown.
    pub image_id: String,
    /// What it does.
    pub state: ServiceState,
    /// When it was last started, in seconds since 1970 by the device's clock; 0 when never.
    pub started_at: u64,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited {
        /// Exit code; -1 when the runtime's monitor ended it.
        code: i32,
    },
    /// The runtime's monitor of it is gone: what the runtime says of it is no longer true, whatever it
    /// says. Its process may or may not run on.
    Lost,
    /// Anything else, in the runtime's words: not an end.
    Other(String),
}

impl ServiceState {
    /// Its name, in podman's words.
    pub fn name(&self) -> &str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited { .. } => "exited",
            Self::Lost => "lost",
            Self::Other(name) => name,
        }
    }
}

/// A service that was made and started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The runtime's id.
    pub id: String,
    /// Limits that the device cannot hold it to, in the runtime's words; empty when there is none.
    pub limits_not_enforced: Vec<String>,
}

/// A piece of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPage {
    /// Lines; the last may be the begin of one.
    pub text: String,
    /// Where the next page begins; opaque.
    pub cursor: String,
}

/// A program that was run in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Its exit code.
    pub exit_code: i32,
    /// The begin of what it wrote.
    pub stdout: String,
    /// The begin of what it wrote as errors.
    pub stderr: String,
    /// More was written than is here.
    pub truncated: bool,
}

/// The container runtime could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// It cannot be reached.
    #[error("cannot reach the container runtime at {socket}")]
    Unreachable {
        /// Where it was looked for.
        socket: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke during a call.
    #[error("the container runtime broke off: {operation}")]
    Broken {
        /// What was tried.
        operation: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("the container runtime did not answer within {} s: {operation}", timeout.as_secs())]
    TimedOut {
        /// What was tried.
        operation: String,
        /// The bound.
        timeout: Duration,
    },
    /// The image is not on the device and cannot be had.
    #[error("image {image} is missing: {cause}")]
    ImageMissing {
        /// The image reference.
        image: String,
        /// Why it could not be had.
        cause: String,
    },
    /// The container's monitor died: how the container ended, or whether it did, cannot be known.
    #[error("the runtime lost container {container}: its monitor is gone")]
    RuntimeLost {
        /// Which.
        container: String,
    },
    /// Its start was accepted, and yet it never ran.
    #[error("container {container} never started")]
    NeverStarted {
        /// Which.
        container: String,
    },
    /// This device's agent has no such container.
    #[error("there is no container {container}")]
    NoSuchContainer {
        /// Which.
        container: String,
    },
    /// This runtime cannot, or must not.
    #[error("not enabled: {operation}")]
    NotEnabled {
        /// What was tried.
        operation: &'static str,
    },
    /// A container that is not ours has the name.
    #[error("a container named {name} exists that this agent did not make")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// It refused.
    #[error("the container runtime refused ({status}): {operation}: {cause}")]
    Refused {
        /// What was tried.
        operation: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        cause: String,
    },
    /// Its answer cannot be understood.
    #[error("the container runtime's answer cannot be understood: {operation}: {problem}")]
    Malformed {
        /// What was tried.
        operation: String,
        /// What is wrong.
        problem: String,
    },
}

/// Runs containers. Every call has a bound on its time. Ids are the runtime's own.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// All containers that this device's agent made, running or not.
    fn list_managed_services(&self)
    -> impl Future<Output = Result<Vec<ManagedService>, RuntimeError>> + Send;

    /// These are all that there may be, although nothing has been listed yet: the agent before this one saw them last.
    fn recall(&self, seen: Vec<ManagedService>);

    /// Makes sure that the image is on the device as `policy` says. `progress` is told how a fetch goes, one
    /// line at a time.
    fn ensure_image(
        &self,
        image: &str,
        policy: PullPolicy,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes and starts a service whose name is free or held by a left-over of ours.
    fn create(&self, spec: &ServiceSpec) -> impl Future<Output = Result<Started, RuntimeError>> + Send;

    /// Runs an init container from start to end: frees its name of an earlier try's left-over, makes it
    /// without restart policy, starts it, waits for its end or until `timeout` is over and reads the evidence.
    /// However it ended, it is left there for the caller to remove; only one that never ran is not. Of two deadlines
    /// the runtime's own, a little later, holds when the agent is dead.
    fn run_to_completion(
        &self,
        spec: &InitSpec,
        timeout: Duration,
    ) -> impl Future<Output = Result<Completed, RuntimeError>> + Send;

    /// What is there of a deployment's init containers, running or not, oldest first.
    fn list_init_containers(
        &self,
        deployment: &DeploymentName,
    ) -> impl Future<Output = Result<Vec<LeftOver>, RuntimeError>> + Send;

    /// How a container ended; of one that runs, or whose monitor died, what is known, with exit code -1. One that is
    /// gone or never ran is `None`.
    fn end_of(&self, id: &str) -> impl Future<Output = Result<Option<ContainerEnd>, RuntimeError>> + Send;

    /// Runs a container's health check once: whether it passed, and what it printed.
    fn check_health(
        &self,
        id: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<(bool, String), RuntimeError>> + Send;

    /// Starts a container that was made. One that runs already is fine.
    fn start(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Asks a container to end, and ends it after the time that its own specification gave it. One that is gone or
    /// ended is fine.
    fn stop(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes a container, killing it if it runs. One that is gone is fine.
    fn remove(&self, id: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last `lines` lines that a container wrote, also after it ended.
    fn logs(&self, id: &str, lines: usize) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Notifies `wake` whenever one of this device's containers changes. Ends when the runtime stops
    /// telling; what happened meanwhile is then unknown.
    fn watch(&self, wake: &Notify) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// At most `most` bytes of the lines that a container wrote after `cursor`; empty is the beginning.
    /// A runtime without it answers `NotEnabled`.
    fn read_log(
        &self,
        _deployment: &DeploymentName,
        _container: &ContainerName,
        _cursor: &str,
        _most: usize,
    ) -> impl Future<Output = Result<LogPage, RuntimeError>> + Send {
        async { Err(RuntimeError::NotEnabled { operation: "read logs by pages" }) }
    }

    /// Runs a program in a container, ends it after `timeout`, and keeps the first `most` bytes of each of
    /// its streams. A runtime without it, or where it is off, answers `NotEnabled`.
    fn exec(
        &self,
        _deployment: &DeploymentName,
        _container: &ContainerName,
        _command: &[String],
        _timeout: Duration,
        _most: usize,
    ) -> impl Future<Output = Result<Executed, RuntimeError>> + Send {
        async { Err(RuntimeError::NotEnabled { operation: "run programs in containers" }) }
    }

    /// What is known of the runtime itself. A runtime without it answers `NotEnabled`.
    fn facts(&self) -> impl Future<Output = Result<RuntimeFacts, RuntimeError>> + Send {
        async { Err(RuntimeError::NotEnabled { operation: "tell facts" }) }
    }
}
