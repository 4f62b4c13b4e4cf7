//! Requests on what devices run, and their answers. They travel as those in [`super::request`] do.

use crate::model::deployment::{DeploymentReport, DeploymentSpec};
use crate::model::id::{DeploymentName, DeviceId, LeaseId};
use crate::model::workload::{Score, Status};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Put a deployment on a device. Body: [`Deploy`]. Answer: [`Deployed`].
pub const DEPLOY: &str = "deploy";
/// Take a deployment off a device. Body: [`Undeploy`]. Answer: [`Deployed`].
pub const UNDEPLOY: &str = "undeploy";
/// What a device's agent says of its deployments. Body: [`StatusAsked`]. Answer: [`Statuses`].
pub const STATUS: &str = "status";
/// Whether what is desired, what the agent says and what podman shows agree. Body: [`VerifyAsked`]. Answer:
/// [`Verified`].
pub const VERIFY: &str = "verify";
/// Keep a deployment, as its file says it, on those of a lease's devices that it selects. Body: [`Apply`]. Answer: [`Applied`].
pub const APPLY: &str = "apply";
/// Take such a deployment off all devices. Body: [`Withdraw`]. Answer: [`Applied`].
pub const WITHDRAW: &str = "withdraw";
/// Where the deployments of files stand. Body: none. Answer: [`Deployments`].
pub const DEPLOYMENTS: &str = "deployments";

/// Body of [`APPLY`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Apply {
    /// On devices of which lease; of the caller's only one when missing.
    #[serde(default)]
    pub lease: Option<LeaseId>,
    /// What.
    pub spec: DeploymentSpec,
}

/// Body of [`WITHDRAW`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Withdraw {
    /// Under which lease it was applied; under the caller's only one when missing.
    #[serde(default)]
    pub lease: Option<LeaseId>,
    /// Which.
    pub deployment: DeploymentName,
    /// Devices that do not confirm are not waited for.
    #[serde(default)]
    pub force: bool,
}

/// Answer to [`APPLY`] and [`WITHDRAW`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Under which lease.
    pub lease: LeaseId,
    /// Where it stands now; none when it is gone, and as long as it has not been looked at.
    pub devices: Option<DeploymentReport>,
}

/// Answer to [`DEPLOYMENTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployments {
    /// By lease, then by name.
    pub deployments: Vec<DeploymentRow>,
}

/// A deployment of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentRow {
    /// Under which lease it was applied.
    pub lease: LeaseId,
    /// Which.
    pub deployment: DeploymentName,
    /// Where it stands; none until it has been looked at.
    pub devices: Option<DeploymentReport>,
}

/// Body of [`DEPLOY`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deploy {
    /// Where.
    pub device: DeviceId,
    /// Under which name.
    pub deployment: DeploymentName,
    /// What.
    pub score: Score,
}

/// Body of [`UNDEPLOY`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Undeploy {
    /// Where.
    pub device: DeviceId,
    /// Which.
    pub deployment: DeploymentName,
}

/// Answer to [`DEPLOY`] and [`UNDEPLOY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The generation of what was put; none where it was taken off.
    pub generation: Option<u64>,
    /// The revision at which it was written; none where there was nothing to take off.
    pub revision: Option<u64>,
}

/// Body of [`STATUS`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusAsked {
    /// Which device.
    pub device: DeviceId,
}

/// Answer to [`STATUS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statuses {
    /// By deployment.
    pub deployments: BTreeMap<DeploymentName, Status>,
}

/// Body of [`VERIFY`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifyAsked {
    /// Which device.
    pub device: DeviceId,
    /// For how long they may disagree before that is told: at most 60 s.
    pub within: Duration,
}

/// Answer to [`VERIFY`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// How many deployments are as desired.
    pub deployments: usize,
    /// How many containers.
    pub containers: usize,
    /// Everything that disagrees, one line each.
    pub mismatches: Vec<String>,
}
