//! The arguments of what is deployed.

use super::{JsonArgs, LoginArgs};
use crate::model::id::{DeploymentName, DeviceId, LeaseId};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The device
    pub device: DeviceId,
    /// A deployment's file, as those in lab/deployments; its name is the deployment's, its selector is not asked
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `undeploy`.
#[derive(Debug, Args)]
pub struct UndeployArgs {
    /// The device
    pub device: DeviceId,
    /// The deployment
    pub deployment: DeploymentName,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The device
    pub device: DeviceId,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The device
    pub device: DeviceId,
    /// For how long they may disagree, at most 60s: what was put a moment ago is not there yet
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    pub within: Duration,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Which lease, and how long to wait for what comes of it.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// The lease; by default your only one
    #[arg(long, value_name = "LEASE")]
    pub lease: Option<LeaseId>,
    /// Wait until it is so on all devices, at most for this long (60s when it is not said); exit 1 when it does not become so
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print where they stand.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Deployments' files, or directories of them; a file's name is the deployment's
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Withdraw what was applied under the lease before and is none of these
    #[arg(long)]
    pub prune: bool,
    /// On what, and until when.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// Arguments of `withdraw`.
#[derive(Debug, Args)]
pub struct WithdrawArgs {
    /// The deployments
    #[arg(value_name = "DEPLOYMENT", required = true)]
    pub deployments: Vec<DeploymentName>,
    /// Do not wait for devices that are offline: each is told as Orphaned until it is back and has removed it
    #[arg(long)]
    pub force: bool,
    /// Of what, and until when.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// Arguments of `deployments`.
#[derive(Debug, Args)]
pub struct DeploymentsArgs {
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print them.
    #[command(flatten)]
    pub json: JsonArgs,
}
