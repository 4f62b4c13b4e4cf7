//! The arguments of `coordinator`.

use super::{JsonArgs, LabArgs, LoginArgs};
use clap::{Args, Subcommand};

/// Commands on a coordinator that runs.
#[derive(Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Read the lab file anew, without a restart; SIGHUP does the same.
    ///
    /// Devices may be new, wired otherwise, or gone, and the rules of leases may be others. What somebody has stays as it
    /// is until it comes back. A file with a mistake changes nothing; what only a restart can change is refused.
    #[command(after_long_help = "Examples:
  pilab coordinator reload
  pilab coordinator reload --json | jq .pending")]
    Reload(ReloadArgs),
}

/// Arguments of `coordinator reload`.
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print what has changed.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `coordinator`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CoordinatorArgs {
    /// A command on one that runs.
    #[command(subcommand)]
    pub command: Option<CoordinatorCommand>,
    /// Which lab.
    #[command(flatten)]
    pub lab: LabArgs,
    /// While the lab has a coordinator on another machine, wait; take the lab once that one may not act any more
    #[arg(long)]
    pub standby: bool,
    /// Simulate the boards of the lab file that have [devices.simulate]: a virtual rack
    #[arg(long)]
    pub simulate: bool,
}
