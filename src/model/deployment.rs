//! Deployments as files say them: what is to run on which devices, and the record of where it is.

use super::device::{Device, Model};
use super::id::{DeploymentName, DeviceId};
use super::lease::LeaseToken;
use super::workload::{Desired, Score, Status};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of [`Record`] that this build writes.
pub const RECORD_VERSION: u32 = 2;

/// Which devices. What is left out chooses all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// By id; any when empty.
    #[serde(default)]
    pub devices: BTreeSet<DeviceId>,
    /// By model; any when missing.
    #[serde(default)]
    pub model: Option<Model>,
    /// By labels that they must have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether it chooses `device`.
    pub fn matches(&self, device: &Device) -> bool {
        (self.devices.is_empty() || self.devices.contains(&device.id))
            && device.is_kind(self.model, &self.labels)
    }
}

/// A deployment as its file says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentSpec {
    /// Its name: that of its file.
    pub name: DeploymentName,
    /// On which devices.
    pub selector: Selector,
    /// What to run.
    pub score: Score,
}

/// The value of KV `lab-<lab>`, key `deployment.<lease>.<name>`: what is applied under one lease is no other's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// What is wanted.
    pub spec: DeploymentSpec,
    /// Under what it was applied.
    pub held: LeaseToken,
    /// The devices of that lease: it is put on no other.
    pub within: BTreeSet<DeviceId>,
    /// It is to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Deleting>,
    /// The devices that it may be on, each with the last generation known to have been put there. Written
    /// before a device is touched, and taken away only when the device has confirmed the removal.
    #[serde(default)]
    pub finalizers: BTreeMap<DeviceId, u64>,
    /// The devices that were given up before they had confirmed the removal.
    #[serde(default)]
    pub orphans: BTreeMap<DeviceId, Orphaned>,
}

/// A deployment's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleting {
    /// Since when, in milliseconds since 1970-01-01 UTC.
    pub since: u64,
    /// Devices that have not confirmed are not waited for.
    pub force: bool,
}

/// What may be left on a device that was not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphaned {
    /// Since when, in milliseconds since 1970-01-01 UTC.
    pub since: u64,
    /// The generation that may still run there; 0 when none is known.
    pub generation: u64,
}

/// What NATS holds of a deployment on one device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// What is desired; none when it was deleted or never put.
    pub desired: Option<Desired>,
    /// The generation that the device's index names.
    pub indexed: Option<u64>,
    /// What the agent says.
    pub status: Option<Status>,
    /// The agent has acknowledged the last change of this deployment's key.
    pub received: bool,
    /// The agent's heartbeat is there.
    pub present: bool,
}

/// Where a deployment stands on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceState {
    /// Put, and not running yet.
    Pending,
    /// The agent says that this generation runs.
    Running,
    /// The agent says that it failed, or was rolled back.
    Failed,
    /// Taken off; the device has not confirmed that it is gone.
    Removing,
    /// Given up before the device had confirmed.
    Orphaned,
    /// Somebody else has put a deployment of this name there: it is left alone.
    Conflict,
}

/// Where a deployment stands on one device, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Where.
    pub state: DeviceState,
    /// One line for people.
    pub message: String,
}

/// Where a deployment stands on all devices that it concerns.
pub type DeploymentReport = BTreeMap<DeviceId, DeviceReport>;
