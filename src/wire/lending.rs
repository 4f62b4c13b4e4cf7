//! Requests on devices and leases, and their answers. They travel as those in [`super::request`] do.

use crate::model::boot::{BootAttempt, BootStage};
use crate::model::device::Device;
use crate::model::health::{Checkup, Finding, Health};
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{Priority, Purpose};
use crate::model::ledger::Past;
use crate::model::power::PowerReading;
use crate::model::role::Role;
use crate::model::scenario::Need;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// All devices of the lab. No body. Answer: [`Devices`].
pub const DEVICES: &str = "devices";
/// Ask for devices. Body: [`Reserve`]. Answer: [`LeaseState`].
pub const RESERVE: &str = "reserve";
/// How a lease or request stands. Body: [`LeaseAsked`]. Answer: [`LeaseState`].
pub const LEASE: &str = "lease";
/// Let a lease last longer. Body: [`Extend`]. Answer: [`LeaseState`].
pub const EXTEND: &str = "extend";
/// Give a lease to another user. Body: [`Transfer`]. Answer: [`LeaseState`].
pub const TRANSFER: &str = "transfer";
/// End a lease, or withdraw a request. Body: [`LeaseRef`]. Answer: nothing.
pub const RELEASE: &str = "release";
/// The process that holds a lease lives. Body: [`LeaseRef`]. Answer: nothing.
pub const HEARTBEAT: &str = "heartbeat";
/// All leases and all requests that wait. No body. Answer: [`Queue`].
pub const QUEUE: &str = "queue";
/// One device, with its history. Body: [`DeviceAsked`]. Answer: [`DeviceShown`].
pub const DEVICE: &str = "device";
/// Say how far a device can be trusted. Body: [`HealthSaid`]. Answer: nothing.
pub const HEALTH: &str = "health";
/// Switch a device. Body: [`Power`]. Answer: [`PowerDone`].
pub const POWER: &str = "power";

/// Ask the agent of a device that one holds. Body: [`DeviceAsked`]. Answer: [`super::fleet::Pong`].
pub const PING: &str = "ping";

/// Answer to [`DEVICES`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Devices {
    /// In the order of their ids.
    pub devices: Vec<DeviceRow>,
}

/// Body of [`DEVICE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceAsked {
    /// Which.
    pub device: DeviceId,
}

/// Answer to [`DEVICE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceShown {
    /// As it stands.
    #[serde(flatten)]
    pub row: DeviceRow,
    /// Its health, the last one last.
    pub checkups: Vec<Checkup>,
    /// What runs, checks and trainings came to, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// Who had it last, the last one last.
    pub past: Vec<Past>,
}

/// Body of [`HEALTH`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HealthSaid {
    /// Which.
    pub device: DeviceId,
    /// How far it can be trusted.
    pub health: Health,
    /// Why.
    pub reason: Purpose,
}

/// How often a device was at fault, over the last times that count.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Flakiness {
    /// Of so many.
    pub seen: usize,
    /// So many were faults.
    pub bad: usize,
    /// The lower bound of the rate's 95 % interval, 0 to 1.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// A device as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeviceRow {
    /// What it is.
    #[serde(flatten)]
    pub device: Device,
    /// What its power switch said last.
    pub power: PowerReading,
    /// How often that has switched through the lab, on and off each once.
    #[serde(default)]
    pub switched: u64,
    /// How many cycles of on and off its relay is rated for; none for what is not known to wear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rated_cycles: Option<u64>,
    /// Its current boot attempt.
    pub attempt: BootAttempt,
    /// The last boot stage of that attempt; none before the first.
    pub stage: Option<BootStage>,
    /// How far it can be trusted.
    pub health: Health,
    /// Why.
    pub reason: String,
    /// How flaky it is; none when nothing is known that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flakiness: Option<Flakiness>,
    /// Who has it.
    pub usage: Usage,
    /// What becomes of it once it is back: the lab file says otherwise than it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// What becomes of a device before anybody has it next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pending {
    /// It is what the lab file says now.
    Changed,
    /// It leaves the lab.
    Removed,
}

/// What would become of a [`Reserve`]: answers with a [`LeaseState`], and nothing is asked for. The estimate of one that would be
/// granted at once is none.
pub const ESTIMATE: &str = "estimate";

/// Reads the lab file anew; for admins. The body is empty, the answer [`Reloaded`].
pub const RELOAD: &str = "reload";

/// Answer to [`RELOAD`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// New devices.
    pub added: Vec<DeviceId>,
    /// Devices that nobody has, and that are being made what the file says.
    pub changed: Vec<DeviceId>,
    /// Devices that are gone.
    pub removed: Vec<DeviceId>,
    /// Devices that somebody has, and that change or go when they come back.
    pub pending: Vec<DeviceId>,
}

/// Who has a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Usage {
    /// Nobody.
    Free,
    /// A lease.
    Leased {
        /// Which.
        lease: LeaseId,
        /// Whose.
        holder: UserName,
        /// When it ends, in milliseconds since 1970-01-01 UTC.
        until_ms: u64,
        /// What for.
        purpose: Purpose,
    },
    /// Nobody yet: it is being made ready for the next holder.
    Handover,
}

/// Body of [`RESERVE`]. Who asks is who is to hold it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reserve {
    /// [`super::request::REQUEST_VERSION`].
    pub version: u32,
    /// Its id, chosen by who asks, so that a request which is sent twice is one.
    pub id: LeaseId,
    /// What for.
    pub purpose: Purpose,
    /// The devices: all of them or none.
    pub needs: Vec<Need>,
    /// For how long; the lab's default when missing.
    pub duration: Option<Duration>,
    /// How much it matters.
    pub priority: Priority,
    /// It ends with the holder's process, which sends [`HEARTBEAT`] this often.
    pub hold_by_process: Option<Duration>,
    /// Not before then, in milliseconds since 1970-01-01 UTC.
    pub start_ms: Option<u64>,
    /// Refuse it rather than let it wait.
    pub no_wait: bool,
}

/// Body of [`LEASE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseAsked {
    /// Which.
    pub lease: LeaseId,
    /// Answer only when it no longer stands as it did when this was asked, or after this long: at most 20 s.
    pub wait: Duration,
}

/// Body of [`EXTEND`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Extend {
    /// Which.
    pub lease: LeaseId,
    /// By how much its deadline moves.
    pub longer: Duration,
    /// A number chosen by who asks, so that a request which is sent twice is one.
    #[serde(default)]
    pub once: Option<u64>,
}

/// Body of [`TRANSFER`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transfer {
    /// Which.
    pub lease: LeaseId,
    /// Whose it is to be.
    pub to: UserName,
}

/// Body of [`RELEASE`] and [`HEARTBEAT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseRef {
    /// Which.
    pub lease: LeaseId,
}

/// How a lease or request stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LeaseState {
    /// It waits, or is a booking.
    Waiting(WaitingRow),
    /// Its holder has the devices.
    Granted(LeaseRow),
    /// It is no more: released, withdrawn, or at its deadline.
    Ended,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// Its id.
    pub lease: LeaseId,
    /// Who holds it.
    pub holder: UserName,
    /// What for.
    pub purpose: Purpose,
    /// Its devices.
    pub devices: Vec<DeviceId>,
    /// When it ends, in milliseconds since 1970-01-01 UTC.
    pub until_ms: u64,
    /// What is left of it; none while it is frozen, because the coordinator's host was started anew and has
    /// no synchronised clock yet.
    pub left: Option<Duration>,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingRow {
    /// Its id, that of the lease to be.
    pub lease: LeaseId,
    /// Who asks.
    pub holder: UserName,
    /// What for.
    pub purpose: Purpose,
    /// How many devices.
    pub devices: usize,
    /// Its place, from 1; none for a booking.
    pub position: Option<usize>,
    /// What it waits for, one line.
    pub blocker: String,
    /// After how long it is served at the latest, as far as can be foreseen.
    pub estimate: Option<Duration>,
}

/// Answer to [`QUEUE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Queue {
    /// In the order of their ids.
    pub leases: Vec<LeaseRow>,
    /// In the order in which they are served, bookings last.
    pub waiting: Vec<WaitingRow>,
}

/// Body of [`POWER`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Power {
    /// Which device.
    pub device: DeviceId,
    /// What to do.
    pub act: PowerAct,
    /// Why an admin switches a device that another holds.
    pub force: Option<Purpose>,
}

/// What to do with a device's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAct {
    /// Boot it, off first when it is on.
    Cycle,
    /// Boot it, if it is not on.
    On,
    /// Switch it off.
    Off,
}

/// Answer to [`POWER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerDone {
    /// What its power switch says.
    pub power: PowerReading,
    /// Its boot attempt.
    pub attempt: BootAttempt,
}

/// Let somebody log in. Body: [`LoginAsked`]. Answer: [`LoginMade`].
pub const LOGIN: &str = "login";

/// Body of [`LOGIN`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoginAsked {
    /// Who.
    pub user: UserName,
    /// What they may do; that of an earlier login is replaced.
    pub role: Role,
    /// For how long the login is good.
    pub ttl: Duration,
}

/// Take back all logins of somebody, and the role. Body: [`LogoutAsked`]. Answer: [`LogoutDone`].
pub const LOGOUT: &str = "logout";

/// Body of [`LOGOUT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogoutAsked {
    /// Whose.
    pub user: UserName,
}

/// Answer to [`LOGOUT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogoutDone {
    /// How many logins were good until then.
    pub logins: usize,
    /// The leases that are the user's still.
    pub leases: Vec<LeaseId>,
}

/// Answer to [`LOGIN`]. Secret.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginMade {
    /// Where the lab's NATS server is.
    pub url: String,
    /// The text of a NATS credentials file.
    pub creds: String,
    /// How the server is known, where it speaks TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsTold>,
}

/// How a lab's NATS servers are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsTold {
    /// Who signs for them, in PEM; none for those whom each machine trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// They ask their clients for a certificate.
    #[serde(default)]
    pub mutual: bool,
}
