//! What the ledger of a lab holds: one key of its bucket for each record, and what it tells.

use super::device::Device;
use super::health::{Checkup, Trust};
use super::id::{DeviceId, IdError, LeaseId, UserName};
use super::lease::{FencingToken, Lease, LeaseRequest};
use super::time::{Deadline, Moment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// A key of the lab's bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `device.<id>`
    Device(DeviceId),
    /// `lease.<id>`
    Lease(LeaseId),
    /// `renewal.<id>`
    Renewal(LeaseId),
    /// `queue.<id>`
    Queue(LeaseId),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => write!(f, "device.{id}"),
            Self::Lease(id) => write!(f, "lease.{id}"),
            Self::Renewal(id) => write!(f, "renewal.{id}"),
            Self::Queue(id) => write!(f, "queue.{id}"),
        }
    }
}

/// A text is no key of a lease, a renewal, a request or a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It begins otherwise: the key of something else.
    #[error("{0:?} is the key of no lease, renewal, request or device")]
    OtherKind(String),
    /// What follows is no id.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl std::str::FromStr for Key {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text.split_once('.') {
            Some(("device", id)) => Ok(Self::Device(id.parse()?)),
            Some(("lease", id)) => Ok(Self::Lease(id.parse()?)),
            Some(("renewal", id)) => Ok(Self::Renewal(id.parse()?)),
            Some(("queue", id)) => Ok(Self::Queue(id.parse()?)),
            _ => Err(KeyError::OtherKind(text.chars().take(80).collect())),
        }
    }
}

/// What one key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A device.
    Device(Box<DeviceRecord>),
    /// A lease.
    Lease(Box<Lease>),
    /// What has changed of a lease since it was granted.
    Renewal(Renewal),
    /// A request that waits, or a booking.
    Queue(Box<Queued>),
}

/// The version of what the ledger's keys hold.
pub const LEDGER_VERSION: u32 = 1;

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// [`LEDGER_VERSION`].
    pub version: u32,
    /// What it holds.
    pub record: Record,
}

/// Whose ledger it is now: written by each coordinator that takes it, before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// [`LEDGER_VERSION`].
    pub version: u32,
    /// Grows each time that the ledger is taken.
    pub epoch: u64,
    /// Who took it: a number that each coordinator draws at its start.
    pub by: u64,
    /// For how long after its last write, this one among them, it may still act on devices. Who takes the ledger from
    /// another waits for that.
    #[serde(default)]
    pub acts_for: Duration,
    /// It has ended, and acts no more.
    #[serde(default)]
    pub resigned: bool,
}

impl Record {
    /// Where it is kept.
    pub fn key(&self) -> Key {
        match self {
            Self::Device(record) => Key::Device(record.device.id.clone()),
            Self::Lease(lease) => Key::Lease(lease.request.id.clone()),
            Self::Renewal(renewal) => Key::Renewal(renewal.lease.clone()),
            Self::Queue(queued) => Key::Queue(queued.request.id.clone()),
        }
    }
}

/// Who had a device, under a lease that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// The lease.
    pub lease: LeaseId,
    /// Its holder.
    pub holder: UserName,
}

/// A device of the lab. That it is leased, its lease says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// What it is.
    pub device: Device,
    /// How far it can be trusted.
    pub checkup: Checkup,
    /// How far it could be trusted before, the last one last, at most [`MAX_CHECKUPS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Checkup>,
    /// What that follows from.
    #[serde(default, skip_serializing_if = "Trust::is_blank")]
    pub trust: Trust,
    /// It is being made ready for the next holder.
    #[serde(default)]
    pub handover: Option<Handover>,
    /// It is no longer in the inventory, and goes when it comes back.
    #[serde(default)]
    pub removed: bool,
    /// Who had it last, the last one last, at most [`MAX_FORMER`](super::lease::MAX_FORMER).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past: Vec<Past>,
}

/// A device is being made ready for the next holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// The lease it comes back from; none when it is new.
    #[serde(default)]
    pub after: Option<LeaseId>,
    /// Since when.
    pub since: Moment,
}

/// What has changed of a lease since it was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The lease.
    pub lease: LeaseId,
    /// Its token: a renewal from before a transfer counts for nothing.
    pub token: FencingToken,
    /// When it ends.
    pub deadline: Deadline,
    /// When its holder's process was last heard.
    pub heard: Moment,
    /// The numbers of the last extensions, at most [`MAX_EXTENSIONS`]: one that comes again is not made again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<u64>,
}

/// How many earlier states of a device's health are remembered.
pub const MAX_CHECKUPS: usize = 16;

/// How many extensions of a lease are known again.
pub const MAX_EXTENSIONS: usize = 8;

/// A request's place in the queue: the smaller one is served first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// When it came, in nanoseconds of the queue's own clock, and its class's handicap.
    pub time_ns: u64,
    /// The sequence that the bucket gave to the request, for two that came at one time.
    pub sequence: u64,
}

/// A request that waits, or a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// What is asked for.
    pub request: LeaseRequest,
    /// When it came.
    pub arrived: Moment,
    /// The same on the queue's own clock, in nanoseconds.
    pub clock_ns: u64,
    /// Its place.
    pub rank: Rank,
    /// The devices that a booking keeps free from its start, one for each need; none once it waits like others.
    #[serde(default)]
    pub booked: Option<Vec<DeviceId>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let device = Key::Device(DeviceId::new("lab-pi").unwrap());
        let lease = LeaseId::new("l1").unwrap();
        for key in [device, Key::Lease(lease.clone()), Key::Renewal(lease.clone()), Key::Queue(lease)] {
            assert_eq!(key.to_string().parse(), Ok(key));
        }
        assert!(matches!("run.r1".parse::<Key>(), Err(KeyError::OtherKind(_))));
        assert!(matches!("lease.A".parse::<Key>(), Err(KeyError::Id(_))));
    }
}
