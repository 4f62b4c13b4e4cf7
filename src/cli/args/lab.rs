//! The arguments of a lab's coordinator and of its users' commands.

use super::JsonArgs;
use crate::cli::console::speed;
use crate::model::device::{Arch, Backend, Model};
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{Priority, Purpose};
use crate::model::role::Role;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Which lab, and who asks.
#[derive(Debug, Clone, Default, Args)]
pub struct LoginArgs {
    /// The login file; by default that of the one coordinator of this machine
    #[arg(long, value_name = "FILE", env = "PILAB_LOGIN", global = true)]
    pub login: Option<PathBuf>,
}

/// Which lab to start, and what its file says otherwise.
#[derive(Debug, Clone, Args)]
pub struct LabArgs {
    /// The lab file
    #[arg(long = "lab", value_name = "FILE", default_value = super::DEFAULT_LAB, env = "PILAB_LAB")]
    pub file: PathBuf,
    /// On which of the lab's devices: vm (the default where the lab has some), container, or pi, its real ones alone
    #[arg(long, value_name = "BACKEND")]
    pub on: Option<Backend>,
    /// Architecture of the virtual machines, in place of the lab file's: aarch64 or x86_64
    #[arg(long)]
    pub arch: Option<Arch>,
    /// Image recipe the devices boot, in place of the lab file's
    #[arg(long, value_name = "RECIPE")]
    pub image: Option<String>,
}

impl LabArgs {
    /// Whether something is asked for that only a lab of one's own can be: one that runs already is as it is.
    pub fn asks_for_own(&self) -> bool {
        let Self { file: _, on, arch, image } = self;
        on.is_some() || arch.is_some() || image.is_some()
    }
}

/// Arguments of `devices` and `queue`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Of all labs that there are logins for: those in PILAB_LOGINS (by default ~/.config/pilab/logins), and those of
    /// this machine's coordinators
    #[arg(long)]
    pub all_labs: bool,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print them.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `reserve`.
#[derive(Debug, Args)]
pub struct ReserveArgs {
    /// Devices by name; none for any that fit
    #[arg(value_name = "DEVICE", conflicts_with_all = ["model", "label", "count"])]
    pub devices: Vec<DeviceId>,
    /// Of this model, such as pi4b, pi5, cm4, vm-aarch64 or container
    #[arg(long, value_parser = model)]
    pub model: Option<Model>,
    /// With this label; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,
    /// How many
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub count: u16,
    /// For how long, for example 90m or 2h; the lab's default when missing
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
    /// What for: one line for others to read
    #[arg(long, value_name = "TEXT", value_parser = purpose, default_value = "")]
    pub purpose: Purpose,
    /// low, normal or high
    #[arg(long, default_value_t = Priority::Normal)]
    pub priority: Priority,
    /// Not before then: a time from now (2h), or a moment in UTC (2026-12-24T18:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = start)]
    pub at: Option<SystemTime>,
    /// In whichever lab is soonest, of all that there are logins for (see `devices --all-labs`); all devices in one lab
    #[arg(long)]
    pub any_lab: bool,
    /// Fail rather than wait
    #[arg(long)]
    pub no_wait: bool,
    /// Stay, and give the devices back when this command ends; when it is killed, after 15 s without a sign of it
    #[arg(long)]
    pub hold_by_process: bool,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print the lease.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `extend`.
#[derive(Debug, Args)]
pub struct ExtendArgs {
    /// The lease
    pub lease: LeaseId,
    /// By how long, for example 30m
    #[arg(long = "by", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub longer: Duration,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print the lease.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `transfer`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    /// The lease
    pub lease: LeaseId,
    /// Whose it is to be
    #[arg(value_name = "USER")]
    pub to: UserName,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print the lease.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Leases, or requests that wait
    #[arg(required = true, value_name = "LEASE")]
    pub leases: Vec<LeaseId>,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// The commands on power.
#[derive(Debug, Subcommand)]
pub enum PowerCommand {
    /// Boot a device, if it is not on
    On(PowerArgs),
    /// Switch a device off
    Off(PowerArgs),
    /// Boot a device anew, off first when it is on
    Cycle(PowerArgs),
    /// Say what the device's power switch says
    Status(PowerStatusArgs),
}

/// Arguments of `power on`, `off` and `cycle`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// The device
    pub device: DeviceId,
    /// Also a device that another holds; for admins, with a reason
    #[arg(long, requires = "reason")]
    pub force: bool,
    /// Why: it is kept in the device's journal
    #[arg(long, value_name = "TEXT", value_parser = purpose)]
    pub reason: Option<Purpose>,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `power status`.
#[derive(Debug, Args)]
pub struct PowerStatusArgs {
    /// The device
    pub device: DeviceId,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Where `console` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConsoleStart {
    /// With the oldest byte that is kept
    Start,
    /// With the current boot attempt
    Boot,
    /// With what comes from now on
    Now,
}

/// Arguments of `console`.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// The device
    pub device: DeviceId,
    /// Where to begin
    #[arg(long, value_enum, default_value_t = ConsoleStart::Boot)]
    pub from: ConsoleStart,
    /// Only read, and follow what comes
    #[arg(long)]
    pub follow: bool,
    /// Only read what is there, and leave
    #[arg(long, conflicts_with = "follow")]
    pub dump: bool,
    /// Read what is there with the pauses that it came with, SPEED times as fast, and leave
    #[arg(long, value_name = "SPEED", num_args = 0..=1, default_missing_value = "1", value_parser = speed,
        conflicts_with_all = ["follow", "dump"])]
    pub replay: Option<f64>,
    /// Before each line, when it came (UTC)
    #[arg(long)]
    pub timestamps: bool,
    /// Bytes as they came, also where a terminal would answer them
    #[arg(long)]
    pub raw: bool,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The lab file
    #[arg(long, value_name = "FILE", default_value = super::DEFAULT_LAB, env = "PILAB_LAB")]
    pub lab: PathBuf,
    /// How to print what was found.
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct LoginMakeArgs {
    /// Who: a person, or a CI job
    pub user: UserName,
    /// viewer (looks), user (reserves and runs) or admin (acts for others)
    #[arg(long, default_value_t = Role::User)]
    pub role: Role,
    /// For how long it is good, for example 8h or 90d
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, default_value = "30d")]
    pub ttl: Duration,
    /// Where to write it, readable by its owner alone
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Where whoever logs in has the certificate that the NATS servers ask for
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Where they have its key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Whose logins
    pub user: UserName,
    /// Which lab.
    #[command(flatten)]
    pub login: LoginArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no '='")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn model(text: &str) -> Result<Model, String> {
    serde_json::from_value(text.into()).map_err(|e| e.to_string())
}

pub(super) fn purpose(text: &str) -> Result<Purpose, String> {
    Purpose::new(text).map_err(|e| e.to_string())
}

fn start(text: &str) -> Result<SystemTime, String> {
    if let Ok(from_now) = humantime::parse_duration(text) {
        return SystemTime::now().checked_add(from_now).ok_or_else(|| "it is too far away".to_owned());
    }
    humantime::parse_rfc3339_weak(text).map_err(|e| e.to_string())
}
