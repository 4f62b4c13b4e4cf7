//! What can go wrong with the ledger.

use crate::bus::error::BusError;
use crate::bus::provision::ProvisionError;
use crate::plan::lease::Refusal;
use std::io;
use std::path::PathBuf;

/// The ledger does not answer as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The rules of the lab refuse it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// NATS does not answer. What was asked may have been done: to ask again is safe.
    #[error("the ledger cannot be reached: it may have been done, ask again")]
    Away,
    /// Another coordinator has the lab's ledger.
    #[error("another coordinator has taken the lab's ledger, with epoch {epoch}")]
    Deposed {
        /// Its epoch.
        epoch: u64,
    },
    /// More requests than the ledger takes at a time.
    #[error("the ledger has too many requests before this one")]
    Busy,
    /// The ledger's task has ended.
    #[error("the ledger has been closed")]
    Gone,
}

/// The ledger could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Another coordinator has taken it since.
    #[error("another coordinator has taken the lab's ledger, with epoch {epoch}")]
    Deposed {
        /// Its epoch.
        epoch: u64,
    },
    /// What was read is from before what was written.
    #[error("the ledger was read with epoch {epoch}, after {written} was written")]
    Stale {
        /// What was read.
        epoch: u64,
        /// What was written.
        written: u64,
    },
    /// The bucket could not be made.
    #[error("cannot make the bucket of the ledger")]
    Provision(#[source] ProvisionError),
    /// NATS refused or did not answer.
    #[error("cannot {what}")]
    Bus {
        /// What was tried.
        what: &'static str,
        /// Why.
        source: BusError,
    },
    /// The file with the epoch.
    #[error("cannot {what} the ledger's epoch in {}", path.display())]
    Disk {
        /// Read or write.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key holds something else than it should. Nothing is guessed: what stands there is somebody's lease.
    #[error("key {key} of the ledger at revision {revision} is not understood: {problem}")]
    Malformed {
        /// The key.
        key: String,
        /// The revision.
        revision: u64,
        /// Why.
        problem: String,
    },
}
