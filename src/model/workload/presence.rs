//! What the agent says of itself.

use crate::model::state_note::StateNote;
use serde::{Deserialize, Serialize};

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
    /// What the NATS server did not permit the agent: empty when all is well. The first few by subject.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denied: Vec<Denied>,
    /// What is wrong with the files that the agent keeps; mostly nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<StateNote>,
}

/// Something that the NATS server did not permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// What was tried.
    pub action: DeniedAction,
    /// On which subject.
    pub subject: String,
    /// How often, on this connection and those before it.
    pub count: u64,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeniedAction {
    /// A publish or request.
    Publish,
    /// A subscription.
    Subscribe,
}
