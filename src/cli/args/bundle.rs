//! The arguments of the commands on runs that have been: bundles, replay, logs, comparison.

use super::{JsonArgs, LoginArgs};
use crate::cli::console::speed;
use crate::config::bundles::bytes;
use crate::model::id::DeviceId;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Commands on bundles.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// List the bundles of this machine, nights' too, the oldest first
    #[command(after_long_help = "Examples:
  pilab bundle ls
  pilab bundle ls --json | jq -r 'select(.whole | not) | .path'")]
    Ls(BundleLsArgs),
    /// Show what a bundle is of, what is in it, and what is missing
    #[command(after_long_help = "Examples:
  pilab bundle show ping-17                an unambiguous beginning of the run's id is enough
  pilab bundle show ./ping-1790000000-3f9c-1.tar --json | jq .about")]
    Show(BundleShowArgs),
    /// Read bundles again and compare each file with its SHA-256.
    ///
    /// What is damaged or missing is named; a bundle that was cut short is told from a whole one. The exit code is 4
    /// when one of them is not whole.
    #[command(after_long_help = "Examples:
  pilab bundle verify                      all of this machine
  pilab bundle verify ./shared.tar")]
    Verify(BundleVerifyArgs),
    /// Remove old bundles, by count, age and size.
    ///
    /// Runs and nights do so by themselves, as the lab file's [bundles] says. The newest always stays. Without --keep,
    /// --age and --size the usual bounds hold: 1000 bundles, 90 days, 10 GiB.
    #[command(after_long_help = "Examples:
  pilab bundle prune --keep 50
  pilab bundle prune --age 30d --size '2 GiB' --dry-run
  pilab bundle prune --dir ./bundles --keep 10")]
    Prune(BundlePruneArgs),
    /// Write a run's bundle as one compressed file
    #[command(after_long_help = "Examples:
  pilab bundle export ping-17 -o evidence.tar
  tar tf evidence.tar                      any tar and gunzip read it")]
    Export(BundleExportArgs),
    /// Write a copy that can be shown to others, marked as such: addresses, people, keys, passwords and tickets are hidden.
    ///
    /// What is hidden becomes as many x, so the copy can be replayed and compared. It is a help and no proof: look through
    /// the copy, and name what else is to be hidden with --hide.
    #[command(after_long_help = "Examples:
  pilab bundle redact ping-17 -o shared.tar --hide 'corp-[a-z]+'")]
    Redact(BundleRedactArgs),
}

/// Arguments of `bundle ls`.
#[derive(Debug, Args)]
pub struct BundleLsArgs {
    /// Those of this directory alone
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print them.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `bundle show`.
#[derive(Debug, Args)]
pub struct BundleShowArgs {
    /// A run's id or an unambiguous beginning of it, or a bundle's path
    pub run: String,
    /// Which lab, for a run whose bundle is not here.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `bundle verify`.
#[derive(Debug, Args)]
pub struct BundleVerifyArgs {
    /// Runs' ids or unambiguous beginnings of them, or bundles' paths; none for all
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
    /// Look in this directory alone
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print what was found.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `bundle prune`.
#[derive(Debug, Args)]
pub struct BundlePruneArgs {
    /// How many stay
    #[arg(long, value_name = "COUNT")]
    pub keep: Option<usize>,
    /// How old those that stay may be, for example 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub age: Option<Duration>,
    /// How much room those that stay may take, for example '2 GiB'
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub size: Option<u64>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// In this directory; by default where `pilab run` puts bundles
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// How to print what is removed.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `bundle export`.
#[derive(Debug, Args)]
pub struct BundleExportArgs {
    /// A run's id or an unambiguous beginning of it, or a bundle's path
    pub run: String,
    /// The file; by default the run's id with .tar, in the working directory
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Which lab, for a run whose bundle is not here.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print where it is.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `bundle redact`.
#[derive(Debug, Args)]
pub struct BundleRedactArgs {
    /// A run's id or an unambiguous beginning of it, or a bundle's path
    pub run: String,
    /// The file; by default the run's id with -redacted.tar, in the working directory
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Hide what this regular expression matches as well; may be given several times
    #[arg(long, value_name = "PATTERN")]
    pub hide: Vec<String>,
    /// Which lab, for a run whose bundle is not here.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print where it is.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// A run's id or an unambiguous beginning of it, or a bundle's path
    pub bundle: String,
    /// How many times as fast as it was
    #[arg(long, value_name = "N", default_value = "1", value_parser = speed)]
    pub speed: f64,
    /// Begin with this step: its number from 1, or its name
    #[arg(long, value_name = "STEP")]
    pub from: Option<String>,
    /// All at once
    #[arg(long, conflicts_with = "speed")]
    pub no_pause: bool,
    /// Which lab, for a run whose bundle is not here.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// A run's id or an unambiguous beginning of it, or a bundle's path
    pub run: String,
    /// Of this device alone
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceId>,
    /// From this step on: its number from 1, or its name
    #[arg(long, value_name = "STEP")]
    pub since_step: Option<String>,
    /// Go on until the run has ended
    #[arg(long, short)]
    pub follow: bool,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The earlier run: its id or an unambiguous beginning of it, or a bundle's path
    pub before: String,
    /// The later run
    pub after: String,
    /// Which lab, for runs whose bundles are not here.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print what differs.
    #[command(flatten)]
    pub json: JsonArgs,
}
