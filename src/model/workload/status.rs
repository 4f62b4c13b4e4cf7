//! What the agent says of a deployment and its containers.

use crate::model::id::ContainerName;
use serde::{Deserialize, Serialize};

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, not all running yet.
    Pending,
    /// All services run.
    Running,
    /// Will not run as it is.
    Failed,
    /// The last change failed, and what ran before it runs again: see [`Status::rollback`].
    RolledBack,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Failed => "Failed",
            Self::RolledBack => "RolledBack",
        })
    }
}

/// The value of KV `status`, key `<device>.<deployment>`; deleted when the deployment is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`WORKLOAD_VERSION`].
    pub version: u32,
    /// Where it stands.
    pub phase: Phase,
    /// The generation that this speaks of.
    pub generation: u64,
    /// The KV revision of the desired value that this speaks of.
    pub revision: u64,
    /// One line for people: what was done or what went wrong.
    pub message: String,
    /// A name for the cause of a phase that is not `Running`, for machines; empty when there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The init containers, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<ContainerStatus>,
    /// The services, as last seen.
    #[serde(default)]
    pub services: Vec<ContainerStatus>,
    /// What was rolled back, when the phase is `RolledBack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Rollback>,
    /// What holds beside the phase: `LimitsNotEnforced` …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A change that was undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The generation that failed.
    pub from: u64,
    /// The generation that runs again.
    pub to: u64,
    /// Why it failed, one line.
    pub cause: String,
}

/// Something that holds beside the phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its name, for machines: `LimitsNotEnforced` …
    pub name: String,
    /// One line for people.
    pub message: String,
}

/// One container, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name in the deployment.
    pub name: ContainerName,
    /// podman's container id; empty when there is none.
    #[serde(default)]
    pub id: String,
    /// podman's word for its state.
    pub state: String,
    /// Its image.
    pub image: String,
    /// Its exit code when it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What is known of its last end; kept although the container is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<ContainerEnd>,
}

/// How a container ended: the evidence that is kept of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEnd {
    /// Its exit code; -1 when the runtime's monitor ended it, or when none is known: the monitor died, or the
    /// container was still running when it had to go.
    pub exit_code: i32,
    /// The signal that ended it, as the exit code tells (128 + n, the shells' convention).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// The kernel ended it for want of memory.
    #[serde(default)]
    pub oom: bool,
    /// The init container was ended because its time was up.
    #[serde(default)]
    pub timed_out: bool,
    /// Digest of its image (`sha256:…`), or the image's id where it has no digest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_digest: String,
    /// How long it ran, in milliseconds.
    pub ran_ms: u64,
    /// The last lines it wrote: at most [`LOG_TAIL_LINES`] and [`LOG_TAIL_BYTES`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_tail: String,
}

/// The most lines of a failed container's log in a status: Kubernetes' `FallbackToLogsOnError`.
pub const LOG_TAIL_LINES: usize = 80;
/// The most bytes of a failed container's log in a status: Kubernetes' `FallbackToLogsOnError`.
pub const LOG_TAIL_BYTES: usize = 2048;
