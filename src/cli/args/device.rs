//! Arguments of `pilab device`.

use super::JsonArgs;
use super::lab::{LoginArgs, purpose};
use crate::config::wiring::is_user;
use crate::model::id::DeviceId;
use crate::model::lease::Purpose;
use clap::{Args, Subcommand};
use std::net::IpAddr;
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
    /// Put the agent on a device that boots from its own card, or take it off again
    ///
    /// Logs in as the lab file says (`ssh = { address, port, user, identity }`), shows what it would make or change, asks, and does it under a lease: the
    /// agent, its unit, and nothing else. Then the agent is started with credentials of that one start and must answer with its own SHA-256. A second call
    /// changes nothing, or mends what was broken off. What needs root is done by sudo for another user, without a password.
    #[command(after_long_help = "Examples:
  pilab device setup rack-pi-7 --lab lab/rack.toml --dry-run      what it would change
  pilab device setup rack-pi-7 --lab lab/rack.toml                asks for the host key the first time, then for the changes
  pilab device setup rack-pi-7 --lab lab/rack.toml --yes --fingerprint SHA256:…     in a script
  pilab device setup rack-pi-7 --lab lab/rack.toml --remove       leaves nothing of the lab's there

On the device, `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` shows the fingerprint.")]
    Setup(SetupArgs),
}

/// Arguments of `device setup`.
#[derive(Debug, Args)]
pub struct SetupArgs {
    /// The device, such as rack-pi-7
    pub device: DeviceId,
    /// The lab file
    #[arg(long = "lab", value_name = "FILE", default_value = super::DEFAULT_LAB, env = "PILAB_LAB")]
    pub lab: PathBuf,
    /// Log in there, this time
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// On this port, this time
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// As this user, this time
    #[arg(long, value_name = "NAME", value_parser = user)]
    pub user: Option<String>,
    /// With this private key, this time
    #[arg(long, short, value_name = "FILE")]
    pub identity: Option<PathBuf>,
    /// The only host key to accept the first time, as `ssh-keygen -l` shows it
    #[arg(long, value_name = "SHA256:…", conflicts_with = "accept_host_key")]
    pub fingerprint: Option<String>,
    /// Accept whatever host key is shown the first time: whoever is on the way now may be taken for the device
    #[arg(long)]
    pub accept_host_key: bool,
    /// The agent's executable; by default where lab/agent or a package puts it
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Let apt-get install podman where it is missing. It stays when the agent is removed
    #[arg(long, conflicts_with = "remove")]
    pub install_podman: bool,
    /// Take the agent off, with all that it knows and has made
    #[arg(long)]
    pub remove: bool,
    /// Only show what there is to do
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it without asking
    #[arg(long, short)]
    pub yes: bool,
    /// How long the agent may take to answer
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

fn user(name: &str) -> Result<String, String> {
    if is_user(name) { Ok(name.to_owned()) } else { Err(format!("{name:?} is not the name of a user")) }
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
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}
