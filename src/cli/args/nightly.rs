//! The arguments of the nightly commands.

use super::{JsonArgs, LabArgs};
use clap::{Args, Subcommand};

/// Commands on nights.
#[derive(Debug, Subcommand)]
pub enum NightlyCommand {
    /// Run a night now, in the lab's coordinator where one runs on this machine, else in a lab of its own.
    ///
    /// What a timer calls. Nights that were missed since the last one are told, and a page, a JUnit report and a record
    /// are kept in the state directory.
    #[command(after_long_help = "Examples:
  pilab nightly run --lab my-lab.toml
  pilab nightly run smoke --on container")]
    Run(NightlyArgs),
    /// Say what a night would do: order, devices, times, and what does not fit
    Plan(NightlyArgs),
    /// Say how the last night went; also of one that died half way, or that should have been
    Last(NightlyArgs),
    /// Say what has changed between the last two nights
    Compare(NightlyArgs),
}

/// Which night.
#[derive(Debug, Args)]
pub struct NightlyArgs {
    /// The plan's name in the lab file; the first when missing
    pub plan: Option<String>,
    /// Which lab.
    #[command(flatten)]
    pub lab: LabArgs,
    /// How to print.
    #[command(flatten)]
    pub json: JsonArgs,
}
