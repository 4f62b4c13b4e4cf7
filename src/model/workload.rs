//! What containers a device should run, and what the agent says of them.
//!
//! The wire form of a [`Score`] is the fleet's contract: its field names are fixed.

use super::id::{ContainerName, DeploymentName};
use super::lease::FencingToken;
use super::state_note::StateNote;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an init container may take when its payload does not say.
pub const DEFAULT_INIT_CONTAINER_TIMEOUT: Duration = Duration::from_secs(300);

/// The version of [`Desired`], [`Index`] and [`Status`] that this build writes.
pub const WORKLOAD_VERSION: u32 = 1;

/// What to run; one variant per runtime and contract version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Score {
    /// podman containers.
    PodmanV0(PodmanV0Score),
}

/// Containers for podman.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodmanV0Score {
    /// Run to completion in order, before any service starts. Missing means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<InitContainer>,
    /// Kept running.
    #[serde(default)]
    pub services: Vec<PodmanService>,
}

/// A container that must exit 0 before the next one starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitContainer {
    /// Unique in its deployment.
    pub name: ContainerName,
    /// Fully qualified image reference.
    pub image: String,
    /// Arguments, in place of the image's own.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `source:target[:options]`.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Whole seconds on the wire; [`DEFAULT_INIT_CONTAINER_TIMEOUT`] when missing.
    #[serde(default = "default_timeout", with = "whole_seconds")]
    pub timeout: Duration,
}

/// A container that is kept running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodmanService {
    /// Unique in its deployment.
    pub name: ContainerName,
    /// Fully qualified image reference.
    pub image: String,
    /// Arguments, in place of the image's own.
    #[serde(default)]
    pub args: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// `source:target[:options]`.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// `[address:]host:container[/protocol]`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// When podman starts it again.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// When a service is started again after it ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Always.
    #[default]
    Always,
    /// When it failed.
    OnFailure,
    /// Never.
    No,
}

fn default_timeout() -> Duration {
    DEFAULT_INIT_CONTAINER_TIMEOUT
}

mod whole_seconds {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.as_secs())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_secs)
    }
}

/// The value of KV `desired`, key `<device>.<deployment>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// [`WORKLOAD_VERSION`].
    pub version: u32,
    /// Grows with each change of this deployment.
    pub generation: u64,
    /// The lease under which it was deployed.
    pub token: FencingToken,
    /// What to run.
    pub score: Score,
}

/// The value of KV `desired`, key `<device>._index`: every deployment the device should have. What is
/// not in it is removed, so that a deletion is seen even when the key's tombstone was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// [`WORKLOAD_VERSION`].
    pub version: u32,
    /// The generation of each deployment.
    pub deployments: BTreeMap<DeploymentName, u64>,
}

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, not all running yet.
    Pending,
    /// All services run.
    Running,
    /// Will not run as it is.
    Failed,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Failed => "Failed",
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
    /// A name for the cause of `Failed`, for machines; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The services, as last seen.
    #[serde(default)]
    pub services: Vec<ContainerStatus>,
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
}

/// The value of KV `presence`, key `<device>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// [`WORKLOAD_VERSION`].
    pub version: u32,
    /// The agent's version.
    pub agent_version: String,
    /// SHA-256 of the agent's executable, hex.
    pub agent_sha256: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Seconds since the device started.
    pub uptime: u64,
    /// Load average of one minute.
    pub load: f64,
    /// Bytes of memory in all.
    pub memory_total: u64,
    /// Bytes of memory available.
    pub memory_available: u64,
    /// Degrees Celsius of the hottest sensor, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// What is wrong with the files that the agent keeps; mostly nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateNote>,
}

/// Labels on every container that the agent makes. They are how the agent finds its own, and how
/// `podman ps` on the device can be read as ground truth.
pub mod label {
    /// Always [`AGENT`].
    pub const MANAGED_BY: &str = "pilab.managed-by";
    /// Value of [`MANAGED_BY`].
    pub const AGENT: &str = "pilab-agent";
    /// The device's id: several agents may share one podman.
    pub const DEVICE: &str = "pilab.device";
    /// The deployment's name.
    pub const DEPLOYMENT: &str = "pilab.deployment";
    /// The service's name in the deployment.
    pub const SERVICE: &str = "pilab.service";
    /// The generation that made it.
    pub const GENERATION: &str = "pilab.generation";
    /// SHA-256 of what it was made from: unchanged means it is left alone.
    pub const SPEC_HASH: &str = "pilab.spec-hash";
}
