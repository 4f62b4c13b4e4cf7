//! Who has which device, and who is next.
//!
//! ```text
//!  request ──► queue ──► lease ──(release, deadline, dead holder)──► handover ──► free
//!      └──(free now)──────┘ ▲
//!  booking ──(its start)────┘ keeps its devices free from its start
//! ```
//!
//! [`decide`] answers what is to be written, [`Book::apply`] follows what was. Each [`Change`] is one
//! key of the lab's bucket, and a decision that is broken off between any two of them is finished by the next
//! `Tick` of the book that [`Book::load`] makes from what is there. So the ledger's part is
//!
//! ```text
//!  loop { changes = decide(&book, input, &now)?; if there are none: wait for the next input, at most book.wake(&now)
//!         for each change, in order: write it, then book.apply(&change)
//!         input = Tick }
//! ```
//!
//! A decision grants at most one lease, as its first change. Its token is the sequence which the caller says
//! that change will have, so that tokens grow with the bucket.
//!
//! # Who is next
//!
//! A request's rank is the time at which it came plus the aging step for each class below the highest; the
//! smallest is first. So a request goes before all that come an aging step later and are one class above,
//! and the order of two never changes. A request that cannot be served yet gathers its devices
//! (module `choose`), so that no stream of small ones starves a gang.
//!
//! # How long a request waits
//!
//! [`Policy::longest_wait`] is the bound for a request that stays satisfiable:
//!
//! ```text
//!  (classes above its own) × aging  +  bookings  +  (ahead + 1) × (max_lease + handover)
//! ```
//!
//! with `ahead` the requests before it and the bookings, `bookings` the time until the last booking ends, both
//! once the first term has passed. For after it nobody gets ahead of the request any more. Whoever is first
//! gathers devices: each lease that is in the way ends within `max_lease` (nothing that is waited for is
//! extended or booked) and its device is ready within `handover`. So it is served within the sum of
//! the two, and so is the next. `ahead` is at most the sum of the users' quotas. A change of the inventory,
//! of a device's health or of the clock costs the first in the queue what it has gathered at most: one more
//! `max_lease + handover`. Time while leases are frozen is not counted.

mod admit;
mod book;
mod choose;
mod fold;
mod hold;
mod shelf;
mod tick;
mod view;
mod what_if;

pub use book::{Book, Usage};
pub use view::{Blocker, QueueRow};

use crate::model::device::Device;
use crate::model::health::{Finding, Health};
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{FencingToken, LeaseLost, LeaseRequest, Priority};
use crate::model::ledger::{Key, Record};
use crate::model::time::Moment;
use crate::plan::trust::{Care, Rules};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much one user may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Devices held, booked and waited for together.
    pub devices: usize,
    /// Requests that wait, bookings among them.
    pub requests: usize,
}

/// The rules of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The longest a lease may be, its extensions included.
    pub max_lease: Duration,
    /// How long a lease is when nobody says.
    pub default_lease: Duration,
    /// The bound of a handover: a device that is not ready by then is somebody's to look at.
    pub handover: Duration,
    /// How much earlier a request must come to go before one of the class above.
    pub aging: Duration,
    /// How far ahead a booking may start.
    pub booking_ahead: Duration,
    /// What a user may have.
    pub quota: Quota,
    /// What these users may have instead.
    pub quotas: BTreeMap<UserName, Quota>,
    /// How far devices are trusted.
    pub trust: Rules,
    /// What is done with devices that nobody has.
    pub care: Care,
}

impl Policy {
    /// What the user may have.
    pub fn quota(&self, user: &UserName) -> Quota {
        self.quotas.get(user).copied().unwrap_or(self.quota)
    }

    /// How much later than one of the highest class a request of this class is served.
    pub fn handicap(&self, priority: Priority) -> Duration {
        let classes = match priority {
            Priority::High => 0,
            Priority::Normal => 1,
            Priority::Low => 2,
        };
        self.aging.saturating_mul(classes)
    }

    /// The bound of a satisfiable request's waiting: see the module's text for `ahead` and `bookings`.
    pub fn longest_wait(&self, priority: Priority, ahead: u32, bookings: Duration) -> Duration {
        let turn = self.max_lease.saturating_add(self.handover);
        let turns = turn.saturating_mul(ahead.saturating_add(1));
        self.handicap(priority).saturating_add(bookings).saturating_add(turns)
    }
}

/// What a decision needs to know beside the book and the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time.
    pub moment: Moment,
    /// Since when holders could be heard without a break, on the boot clock in nanoseconds: since the
    /// coordinator's start, or since it has NATS again. No holder is taken for dead for what it missed.
    pub hearing_ns: u64,
    /// The ledger's epoch, and the sequence that the next write to it will have.
    pub next: FencingToken,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: UserName,
    /// Whether it is an admin, who may act for others.
    pub admin: bool,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody asks for devices.
    Reserve {
        /// Who.
        by: Caller,
        /// For what.
        request: LeaseRequest,
    },
    /// A lease is to last longer.
    Extend {
        /// Who asks.
        by: Caller,
        /// The lease.
        lease: LeaseId,
        /// By how much its deadline is to move.
        longer: Duration,
        /// A number by which this very request is known when it comes again: then nothing moves.
        once: u64,
    },
    /// A lease is to be another user's. Its devices stay as they are, its deadline too.
    Transfer {
        /// Who asks.
        by: Caller,
        /// The lease.
        lease: LeaseId,
        /// Whose it is to be.
        to: UserName,
    },
    /// A lease is to end; a request, or a booking, is withdrawn.
    Release {
        /// Who asks.
        by: Caller,
        /// The lease or request.
        lease: LeaseId,
    },
    /// The process by which a lease is held is alive.
    Heartbeat {
        /// Who says so.
        by: Caller,
        /// The lease.
        lease: LeaseId,
    },
    /// Time has passed, or more may follow from the last decision.
    Tick,
    /// A device is ready for the next holder.
    DeviceReady {
        /// The device.
        device: DeviceId,
    },
    /// A device's health has changed. It stays with its holder.
    DeviceHealth {
        /// The device.
        device: DeviceId,
        /// How it is.
        health: Health,
        /// Why, one line.
        reason: String,
    },
    /// What a run, a check or a training says of a device.
    DeviceFinding {
        /// The device.
        device: DeviceId,
        /// What.
        finding: Finding,
    },
    /// A device is to be made ready anew, though nobody has had it: it is wired otherwise from then on. One that is lent, or
    /// being made ready, is anyway before its next holder has it.
    Renew {
        /// The device.
        device: DeviceId,
    },
    /// The inventory, as it is to be. What is leased is not disturbed.
    Inventory {
        /// All devices of the lab.
        devices: Vec<Device>,
        /// The health of one that is new.
        newcomers: Health,
    },
}

/// A write to the ledger: of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The record as it is to stand, under [`Record::key`].
    Put(Record),
    /// The key goes.
    Delete(Key),
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The lab can never meet the needs.
    #[error("need {role:?} can never be met: {cause}")]
    Never {
        /// The need.
        role: String,
        /// Why.
        cause: String,
    },
    /// A request without needs.
    #[error("a lease has at least one device")]
    Nothing,
    /// The lease would be too short or too long.
    #[error("a lease lasts between 1 s and {} s", .max.as_secs())]
    Length {
        /// The longest.
        max: Duration,
    },
    /// The holder's process would be heard too rarely or too often.
    #[error("a process that holds a lease is heard every 1 s to {} s", .max.as_secs())]
    Heartbeat {
        /// The longest period.
        max: Duration,
    },
    /// More devices than the user's quota.
    #[error("{user} has {used} devices, waiting ones included, and asks for {asked}: the quota is {quota}")]
    DeviceQuota {
        /// The user.
        user: UserName,
        /// What it has, and waits for.
        used: usize,
        /// What it asks for.
        asked: usize,
        /// What it may have.
        quota: usize,
    },
    /// More requests in the queue than the user's quota.
    #[error("{user} has {quota} requests in the queue already, which is the quota")]
    RequestQuota {
        /// The user.
        user: UserName,
        /// How many it may have.
        quota: usize,
    },
    /// There is a lease or request of that id, and it is another one.
    #[error("{lease} is there already")]
    Duplicate {
        /// The id.
        lease: LeaseId,
    },
    /// A booking too far ahead.
    #[error("a booking starts within {} s", .ahead.as_secs())]
    TooFarAhead {
        /// How far it may be.
        ahead: Duration,
    },
    /// No devices can be kept free for a booking.
    #[error("too few devices are sure to be free then for need {role:?}")]
    NotFreeThen {
        /// The need that is left without one.
        role: String,
    },
    /// The wall clock counts for it, and is not synchronised.
    #[error(
        "the coordinator's clock is not synchronised yet: leases from before its host's reboot are frozen"
    )]
    Frozen,
    /// It is not the caller's.
    #[error("{lease} is {holder}'s")]
    NotYours {
        /// The lease or request.
        lease: LeaseId,
        /// Whose it is.
        holder: UserName,
    },
    /// Only an admin may.
    #[error("only an admin may {what}")]
    NotAdmin {
        /// What.
        what: &'static str,
    },
    /// The lease has ended.
    #[error(transparent)]
    LeaseLost(#[from] LeaseLost),
    /// An extension beyond the longest lease.
    #[error("a lease lasts at most {} s, its extensions included: {} s more are possible", .max.as_secs(), .left.as_secs())]
    TooLong {
        /// The longest lease.
        max: Duration,
        /// How much longer it may get.
        left: Duration,
    },
    /// An extension while somebody waits.
    #[error("{user} waits for {device} ({request})")]
    WaitedFor {
        /// The device.
        device: DeviceId,
        /// The request.
        request: LeaseId,
        /// Whose it is.
        user: UserName,
    },
    /// An extension into a booking.
    #[error("{device} is booked by {user} ({booking})")]
    Booked {
        /// The device.
        device: DeviceId,
        /// The booking.
        booking: LeaseId,
        /// Whose it is.
        user: UserName,
    },
    /// There is no such device.
    #[error("there is no device {device}")]
    NoSuchDevice {
        /// The device.
        device: DeviceId,
    },
    /// The ledger's sequence has gone back: nothing may be granted on it.
    #[error("the ledger would write {next}, and {floor} was granted already")]
    LedgerWentBack {
        /// What the next write would be.
        next: FencingToken,
        /// The greatest token granted.
        floor: FencingToken,
    },
}

/// What is to be written, in this order; nothing when nothing follows. After each decision that has changes
/// a `Tick` is due.
pub fn decide(book: &Book, input: Input, now: &Now) -> Result<Vec<Change>, Refusal> {
    match input {
        Input::Reserve { by, request } => book.reserve(&by, request, now),
        Input::Extend { by, lease, longer, once } => book.extend(&by, &lease, longer, once, now),
        Input::Transfer { by, lease, to } => book.transfer(&by, &lease, to, now),
        Input::Release { by, lease } => book.release(&by, &lease, now),
        Input::Heartbeat { by, lease } => book.heartbeat(&by, &lease, now),
        Input::Tick => book.tick(now),
        Input::DeviceReady { device } => book.device_ready(&device, now),
        Input::DeviceHealth { device, health, reason } => book.device_health(&device, health, reason, now),
        Input::DeviceFinding { device, finding } => book.device_finding(&device, finding, now),
        Input::Renew { device } => book.ready_anew(&device, now),
        Input::Inventory { devices, newcomers } => Ok(book.inventory(devices, newcomers, now)),
    }
}

#[cfg(test)]
mod tests;
