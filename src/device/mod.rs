//! One device as an actor, and the ports through which it acts: power, boot, reach, tickets.
//!
//! The actor is the only writer of the device's state. It does one thing at a time; commands on the
//! device ([`DeviceHandle::run`]) go on beside it, and reading the state never waits. Each verb that
//! acts takes a fencing token and has no effect when a greater one has been seen. Each act of several asks anew, right
//! before it: a holder that loses the device halfway ([`DeviceHandle::fence`]) goes no further.
//!
//! ```text
//!  start: read back ─ settle the intent that the last process left
//!  boot:  off if on ─ number the attempt ─ ticket ─ offer ─ power up
//!  on:    number the attempt ─ power up
//!  cycle: off ─ withdraw ─ on
//!  off:   intent, off, read back ─ withdraw the offer ─ void the ticket
//!
//!  power up: least time off ─ turn among the lab's devices ─ intent, on, read back
//! ```
//!
//! Power is switched only after the intent is on the disk. When the process dies in between, the next
//! one finds the intent and asks the switch: the journal then holds for each intent whether it was done, was not,
//! or that nobody can know. Shutting down switches nothing. What opens a device that is up is in a file meanwhile, so
//! that the next process can enter it.

mod actor;
mod fence;
mod handle;
pub mod ports;
mod power;
mod stagger;
mod way_in;

pub use handle::{BootRequest, DeviceError, DeviceHandle, DeviceState, FilesOf, TicketRequest};
pub use stagger::Stagger;

use crate::console::ConsoleHandle;
use crate::journal::JournalHandle;
use crate::model::device::Device;
use crate::model::power::PowerReading;
use crate::support::term::Term;
use fence::DeviceFence;
use ports::{Boot, Power, Reach, TicketOffice};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a board must stay without power so that its capacitors discharge and it really resets.
/// What LAVA's and pdudaemon's racks use for such boards; longer with USB disks behind it.
pub const MIN_OFF: Duration = Duration::from_secs(5);

/// How many commands may wait for the actor; more are refused as busy.
const COMMANDS: usize = 4;

/// What a device is made of.
pub struct DeviceParts {
    /// The device.
    pub device: Device,
    /// Its MAC address, lower-case with colons.
    pub mac: String,
    /// Its power switch.
    pub power: Arc<dyn Power>,
    /// Where it boots from.
    pub boot: Arc<dyn Boot>,
    /// How to run commands on it.
    pub reach: Arc<dyn Reach>,
    /// Who issues its tickets.
    pub tickets: Arc<dyn TicketOffice>,
    /// Its console.
    pub console: ConsoleHandle,
    /// Its journal. The journal's task must outlive the device.
    pub journal: JournalHandle,
    /// The least time without power between off and on: [`MIN_OFF`] for a board, zero for a VM.
    pub min_off: Duration,
    /// When it may switch on: the same for all devices of a lab.
    pub stagger: Arc<Stagger>,
    /// Whether this process may act on it at all: the same for all devices of a lab.
    pub term: Term,
    /// Where what opens it is kept while it does, for the coordinator after this one; nowhere when none.
    pub way_in: Option<PathBuf>,
}

/// Starts the actor; it ends soon after `token` is cancelled.
pub fn spawn(parts: DeviceParts, tracker: &TaskTracker, token: CancellationToken) -> DeviceHandle {
    let (commands, received) = mpsc::channel(COMMANDS);
    let (state, watched) = watch::channel(DeviceState {
        power: PowerReading::Unknown,
        wear: parts.journal.recovered().wear,
        attempt: parts.journal.recovered().attempt,
        address: None,
        host_key: None,
        mark: None,
        powered_on_at: None,
    });
    let fence = DeviceFence::new(parts.term.clone());
    let handle = DeviceHandle::new(&parts, commands, watched, fence.clone());
    tracker.spawn(actor::Actor::new(parts, state, fence).run(received, token));
    handle
}
