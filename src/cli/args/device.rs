//! Arguments of `pilab device`.

use super::JsonArgs;
use super::lab::{LoginArgs, purpose};
use crate::model::id::DeviceId;
use crate::model::lease::Purpose;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// The commands on one device.
#[derive(Debug, Subcommand)]
pub enum DeviceCommand {
    /// Who has it, how its health came about, and who had it last
    Show(DeviceShowArgs),
    /// Lend it to nobody: somebody works on it. Whoever has it keeps it
    Maintenance(DeviceHealthArgs),
    /// Lend it to nobody: something is wrong with it. Whoever has it keeps it
    Quarantine(DeviceHealthArgs),
    /// Lend it again
    Release(DeviceHealthArgs),
    /// Boot it so often in a row that it is known to be good
    ///
    /// Waits for the device like everybody, boots it into the lab's image as often as is asked for, and tells what each boot took. When all are clean the
    /// device is good, from quarantine and maintenance too; else it is told what broke, and counted. Fewer boots than the rule asks for count, and make it
    /// good by themselves of no device. For admins, as whatever says how far a device can be trusted. Ctrl-C stops it, and leaves nothing.
    #[command(
        after_help = "EXAMPLES:\n    pilab device train rack-pi-1\n    pilab device train rack-pi-1 --boots 40 --json"
    )]
    Train(DeviceTrainArgs),
    /// Find which network card, serial number and serial line belong to which board
    ///
    /// Switches all boards of the lab file off, then one after the other on alone, and notes which card asks for an address and which serial line speaks. What
    /// is certain is printed, or written into the lab file; what is not is named with what to look at. The lab must have no coordinator meanwhile.
    #[command(
        after_help = "Example: pilab device enroll --lab lab/rack.toml --tty /dev/serial/by-path/* --write"
    )]
    Enroll(EnrollArgs),
}

/// Arguments of `device enroll`.
#[derive(Debug, Args)]
pub struct EnrollArgs {
    /// The boards, by their ids in the file; all that have a power switch when none is named
    pub devices: Vec<String>,
    /// The lab file: each board has an id, a model and its power switch there; `[netboot]` says on which segment they are
    #[arg(long = "lab", value_name = "FILE")]
    pub lab: PathBuf,
    /// The serial lines that are listened to; without any, no line is looked for
    #[arg(long = "tty", value_name = "PATH", num_args = 1..)]
    pub ttys: Vec<PathBuf>,
    /// Their speed
    #[arg(long, value_name = "BAUD", default_value_t = 115_200)]
    pub baud: u32,
    /// How long a board is waited for: a Pi 3 asks for an address for some 30 s
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub within: Duration,
    /// Write what was found into the lab file; its comments and its order stay
    #[arg(long)]
    pub write: bool,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `device show`.
#[derive(Debug, Args)]
pub struct DeviceShowArgs {
    /// The device
    pub device: DeviceId,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `device train`.
#[derive(Debug, Args)]
pub struct DeviceTrainArgs {
    /// The device
    pub device: DeviceId,
    /// How many boots, at most 200; as many as the rule asks for when missing
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=200))]
    pub boots: Option<u32>,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `device maintenance`, `quarantine` and `release`.
#[derive(Debug, Args)]
pub struct DeviceHealthArgs {
    /// The device
    pub device: DeviceId,
    /// Why: one line, kept in the device's history
    #[arg(long, value_name = "TEXT", value_parser = purpose)]
    pub reason: Purpose,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}
