//! What a device that is a virtual machine is made of.

use super::VmSpec;
use super::capabilities::GuestSupport;
use super::connection::Connection;
use super::domain::Owner;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// What a device is made of.
pub(super) struct Parts {
    pub(super) name: String,
    pub(super) mac: String,
    pub(super) console: PathBuf,
    /// The socket of the channel on which it is woken.
    pub(super) channel: PathBuf,
    /// The host's processor, where the guest sees it.
    pub(super) processor: String,
    /// Who makes a save.
    pub(super) saving: Arc<Semaphore>,
    /// The names of all devices of the host that start from saved memory.
    pub(super) slots: Arc<Mutex<BTreeSet<String>>>,
    pub(super) owner: Owner,
    pub(super) spec: VmSpec,
    pub(super) support: GuestSupport,
    pub(super) qemu_user: Option<String>,
    pub(super) network: String,
    pub(super) uri: String,
    pub(super) connection: Connection,
}
