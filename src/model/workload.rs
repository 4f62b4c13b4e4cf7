//! What containers a device should run, and what the agent says of them.
//!
//! The wire form of a [`Score`] is the fleet's contract: its field names are fixed.

mod presence;
mod status;

use super::id::{ContainerName, DeploymentName};
use super::lease::FencingToken;
pub use presence::{Denied, DeniedAction, Presence};
use serde::{Deserialize, Serialize};
pub use status::{
    Condition, ContainerEnd, ContainerStatus, LOG_TAIL_BYTES, LOG_TAIL_LINES, Phase, Rollback, Status,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long an init container may take when its payload does not say.
pub const DEFAULT_INIT_CONTAINER_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the services of an upgrade must run before it counts as good, when its payload does not say.
pub const DEFAULT_PROBATION: Duration = Duration::from_secs(10);

/// How long a service may take to end after it was asked to, when its payload does not say: podman's own
/// default (podman-stop(1)).
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodmanV0Score {
    /// Run to completion in order, before any service starts. Missing means none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<InitContainer>,
    /// Kept running.
    #[serde(default)]
    pub services: Vec<PodmanService>,
    /// How long the services must run after an upgrade before it counts as good, in whole seconds on the
    /// wire; [`DEFAULT_PROBATION`] when missing. What fails within it is rolled back.
    #[serde(
        default = "default_probation",
        with = "whole_seconds",
        skip_serializing_if = "is_default_probation"
    )]
    pub probation: Duration,
}

impl Default for PodmanV0Score {
    fn default() -> Self {
        Self { init_containers: Vec::new(), services: Vec::new(), probation: DEFAULT_PROBATION }
    }
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
    /// When the agent starts it again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What it may use; no bound when missing.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// How the agent finds out whether it works; not at all when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// How long it may take to end after it was asked to, in whole seconds on the wire;
    /// [`DEFAULT_STOP_TIMEOUT`] when missing.
    #[serde(
        default = "default_stop_timeout",
        with = "whole_seconds",
        skip_serializing_if = "is_default_stop_timeout"
    )]
    pub stop_timeout: Duration,
    /// When its image is fetched.
    #[serde(default, skip_serializing_if = "PullPolicy::is_default")]
    pub pull: PullPolicy,
}

/// What a service may use. A device whose kernel cannot hold it to a bound says `LimitsNotEnforced` in the
/// status' conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Thousandths of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl Limits {
    /// Whether there is no bound.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A command in the container that exits 0 as long as the service works. The agent runs it: podman's own
/// health checks need systemd timers. All times are whole seconds on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// The pause between two checks; 30 s when missing.
    #[serde(default = "default_health_interval", with = "whole_seconds")]
    pub interval: Duration,
    /// How long a check may take; 5 s when missing.
    #[serde(default = "default_health_timeout", with = "whole_seconds")]
    pub timeout: Duration,
    /// How many checks in a row must fail for the service to be unhealthy; 3 when missing.
    #[serde(default = "default_health_retries")]
    pub retries: u32,
    /// Failures within this time after the start do not count; 0 s when missing.
    #[serde(default, with = "whole_seconds")]
    pub start_period: Duration,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PullPolicy {
    /// When it is not on the device.
    #[default]
    IfMissing,
    /// Before each new container; what is on the device is used when the registry cannot be reached.
    Always,
    /// Never: it must have been loaded onto the device.
    Never,
}

impl PullPolicy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
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

fn default_probation() -> Duration {
    DEFAULT_PROBATION
}

fn is_default_probation(value: &Duration) -> bool {
    *value == DEFAULT_PROBATION
}

fn default_stop_timeout() -> Duration {
    DEFAULT_STOP_TIMEOUT
}

fn is_default_stop_timeout(value: &Duration) -> bool {
    *value == DEFAULT_STOP_TIMEOUT
}

// Docker's and podman's defaults of a health check, but for the timeout, which is 30 s there: a check that
// hangs would go unnoticed for minutes.
fn default_health_interval() -> Duration {
    Duration::from_secs(30)
}

fn default_health_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_health_retries() -> u32 {
    3
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
    /// Who looks after it.
    #[serde(default, skip_serializing_if = "Owner::is_hand")]
    pub owner: Owner,
    /// What to run.
    pub score: Score,
}

/// Who put a desired value, and so who may change or delete it unasked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A person or a step: nobody else touches it.
    #[default]
    Hand,
    /// The operator, for a deployment that a file describes.
    Operator,
}

impl Owner {
    fn is_hand(&self) -> bool {
        *self == Self::Hand
    }
}

/// The value of KV `desired`, key `<device>._index`: every deployment the device should have. What is
/// not in it is removed, so that a deletion is seen even when the key's tombstone was lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// [`WORKLOAD_VERSION`].
    pub version: u32,
    /// The generation of each deployment.
    pub deployments: BTreeMap<DeploymentName, u64>,
    /// The token of the last holder: what comes under an earlier one, and is not named above at its generation, is
    /// not to be run. It outlives the deployments, so that no earlier holder deploys after a handover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<FencingToken>,
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
    /// On init containers alone, with the init container's name: they carry no [`SERVICE`].
    pub const INIT_CONTAINER_LABEL: &str = "pilab.init-container";
}
