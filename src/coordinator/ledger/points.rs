//! The places at which a coordinator that is killed leaves the ledger in another state.

use crate::model::ledger::{Key, Record};
use crate::plan::lease::Change;
use std::fmt;
use std::sync::Arc;

/// A place between two steps that are kept. A test kills the coordinator at each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailPoint {
    /// The new epoch is on the disk, not in the bucket.
    EpochOnDisk,
    /// The new epoch is in the bucket, which has not been read.
    EpochInBucket,
    /// What a run, a check or a training says of a device has come, and nothing of it is written.
    FindingCame,
    /// A lease is written: granted, or transferred.
    LeaseWritten,
    /// A renewal is written: an extension, a heartbeat, or a deadline on the clocks of another boot.
    RenewalWritten,
    /// A place in the queue is written, or a booking.
    QueueWritten,
    /// A device is written.
    DeviceWritten,
    /// A lease is deleted.
    LeaseDeleted,
    /// A renewal is deleted.
    RenewalDeleted,
    /// A place in the queue is deleted.
    QueueDeleted,
    /// A device is deleted.
    DeviceDeleted,
}

impl FailPoint {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::EpochOnDisk,
        Self::EpochInBucket,
        Self::FindingCame,
        Self::LeaseWritten,
        Self::RenewalWritten,
        Self::QueueWritten,
        Self::DeviceWritten,
        Self::LeaseDeleted,
        Self::RenewalDeleted,
        Self::QueueDeleted,
        Self::DeviceDeleted,
    ];

    /// The place after this change.
    pub(super) fn after(change: &Change) -> Self {
        match change {
            Change::Put(Record::Lease(_)) => Self::LeaseWritten,
            Change::Put(Record::Renewal(_)) => Self::RenewalWritten,
            Change::Put(Record::Queue(_)) => Self::QueueWritten,
            Change::Put(Record::Device(_)) => Self::DeviceWritten,
            Change::Delete(Key::Lease(_)) => Self::LeaseDeleted,
            Change::Delete(Key::Renewal(_)) => Self::RenewalDeleted,
            Change::Delete(Key::Queue(_)) => Self::QueueDeleted,
            Change::Delete(Key::Device(_)) => Self::DeviceDeleted,
        }
    }
}

/// Called at each fail point that is reached. With one, each write is waited for before the next is sent, so
/// that the bucket stands exactly there.
#[derive(Clone)]
pub struct Hook(Arc<dyn Fn(FailPoint) + Send + Sync>);

impl Hook {
    /// Calls `reached`.
    pub fn new(reached: impl Fn(FailPoint) + Send + Sync + 'static) -> Self {
        Self(Arc::new(reached))
    }

    pub(super) fn reached(&self, point: FailPoint) {
        (self.0)(point);
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}
