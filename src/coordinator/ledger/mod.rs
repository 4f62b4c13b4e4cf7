//! The lab's ledger: one task owns the [`Book`](crate::plan::lease::Book) and writes what it decides to one bucket.
//!
//! ```text
//!  handle ──► task: decide ──► send each change, in order ──► the book follows ──► next request
//!     ▲                              │
//!     └──── answer ◄──── stored ◄────┘   nothing is answered before all that was sent before is stored
//! ```
//!
//! **One writer.** Each write says which sequence the whole bucket must have ([`SoleWriter`]), so a coordinator
//! whose ledger another one has taken writes nothing more, under whatever key. It learns that from the failure,
//! answers [`LedgerError::Deposed`] to all and stays so.
//!
//! **Acting.** A write that is stored proves that nobody else had the ledger when it was sent, so it renews the
//! coordinator's right to act on devices ([`Term`](crate::support::term::Term)) for [`TERM`]. Who takes the ledger from another acts only when
//! that one cannot any more: `docs/decisions/0020-a-coordinator-acts-within-a-term.md`.
//!
//! **Taking it** (module `take`): the epoch becomes one more than both the bucket's and the one on this
//! coordinator's disk; it goes to the disk, fsynced, then to the bucket, and only then is the bucket read. So no
//! token is granted twice, whether the bucket is made anew, comes back from an old copy, or forgot its last
//! writes in a power cut; and what is read is what nobody else changes any more.
//!
//! **Standing by** (module `standby`): a second coordinator waits until nobody may act, and then takes it.
//!
//! **NATS away.** What was sent may be stored or not. All who wait for that are told
//! [`LedgerError::Away`]: they ask again, and a request that comes twice under one id is one. The task takes
//! the ledger again, loads the book anew and goes on; requests in between are refused with the same error.
//! Leases, queue and deadlines lie in the bucket: nothing of them is lost. A bucket that is gone with its server's
//! disk is made anew, empty: all leases have ended then, and the tokens of the new epoch fence off their holders.
//!
//! **`kill -9`.** A decision is one to some writes. One that is broken off between two of them is finished by the
//! first `Tick` of the next coordinator. [`FailPoint`] names each place where it can be broken off.

mod disk;
mod error;
mod handle;
mod options;
mod outbox;
mod points;
mod standby;
mod take;
mod task;

pub use error::{LedgerError, TakeError};
pub use handle::{DeviceRow, LedgerHandle, Place, Reserved, Wait};
pub use options::{Clock, LedgerOptions, Revive, TERM};
pub use points::{FailPoint, Hook};
pub use standby::{Silence, stand_by};
pub use task::start;

#[cfg(doc)]
use crate::bus::sole_writer::SoleWriter;
