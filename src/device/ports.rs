//! What a device needs from the world, as the fewest verbs. Every call that acts takes the caller's
//! fencing token and is refused with [`PortError::Fenced`] when a greater one has been seen.

use crate::model::boot::BootAttempt;
use crate::model::id::DeviceId;
use crate::model::lease::{Fenced, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A boxed future: ports are chosen by the lab's configuration, so they are used as `dyn`.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, PortError>> + Send + 'a>>;

/// A port could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The caller's lease has passed.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// This build has no such part.
    #[error("{part} is not enabled in this build")]
    NotEnabled {
        /// The part and the feature that brings it.
        part: &'static str,
    },
    /// The operation failed.
    #[error("cannot {operation}")]
    Failed {
        /// What was tried, for example `create domain pilab-vm-1`.
        operation: String,
        /// What to try, for people.
        hint: Option<String>,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How what all devices of a lab stand on has broken last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Broken {
    /// One line.
    pub cause: String,
    /// It could not be mended so far: whoever comes finds it broken.
    pub lasting: bool,
}

/// The power switch of one device.
pub trait Power: Send + Sync + 'static {
    /// Switches; done when it took effect as far as the driver can tell. Setting what is set is fine.
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()>;
    /// Reads back.
    fn get(&self) -> PortFuture<'_, PowerReading>;
}

/// What a device boots in one attempt.
#[derive(Debug, Clone, Default)]
pub struct BootOffer {
    /// The attempt.
    pub attempt: BootAttempt,
    /// Kernel file; none when it is in the tree.
    pub kernel: Option<PathBuf>,
    /// Initramfs file.
    pub initramfs: Option<PathBuf>,
    /// Device tree file; none for the one that firmware or backend choose.
    pub device_tree: Option<PathBuf>,
    /// All that a boot ROM is to find, by path, in place of the lab's firmware; none for that.
    pub tree: Option<BTreeMap<String, PathBuf>>,
    /// Layers, bottom first.
    pub layers: Vec<BootLayer>,
    /// Kernel arguments beyond what the backend itself needs (console, root): ticket, layers.
    pub cmdline: Vec<String>,
    /// What a device gets that starts from saved memory instead; backends without such a thing leave it alone.
    pub wake: Option<Arc<Wake>>,
}

/// What a device is given when it starts from memory that was saved before it was anybody's, in place of a ticket.
pub struct Wake {
    /// Why it must boot all the same.
    pub cold: Option<String>,
    /// Kernel arguments of the boot that is saved: those of the offer without the ticket.
    pub cmdline: Vec<String>,
    /// The files that the ticket's exchange answers: [`TicketGrant::files`].
    pub files: Vec<(String, Vec<u8>)>,
    /// What became of it, told before the power switch answers.
    pub fate: watch::Sender<WakeFate>,
}

/// The files are secret.
impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake")
            .field("cold", &self.cold)
            .field("cmdline", &self.cmdline)
            .finish_non_exhaustive()
    }
}

/// How a device that might start from saved memory was started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum WakeFate {
    /// As any other: the backend has no saved memory for it.
    #[default]
    None,
    /// From saved memory.
    Woken {
        /// Where it is.
        address: IpAddr,
        /// The memory was saved just now.
        saved: bool,
    },
    /// By a boot, though it could have been from saved memory.
    Cold {
        /// Why.
        cause: String,
    },
}

/// One layer of an image: a read-only squashfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootLayer {
    /// The file on the coordinator's host.
    pub path: PathBuf,
    /// SHA-256 of its bytes, hex. A virtio disk carries the first 20 characters as its serial number,
    /// which is all that virtio-blk has room for (virtio 1.2 §5.2.6.1).
    pub sha256: String,
}

/// Where a device's next power-on boots from.
pub trait Boot: Send + Sync + 'static {
    /// From now on the device boots this.
    fn offer(&self, token: FencingToken, offer: BootOffer) -> PortFuture<'_, ()>;
    /// From now on the device boots nothing.
    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()>;
}

/// What a command on a device came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachOutput {
    /// Its exit code; none when a signal ended it.
    pub exit_code: Option<i32>,
    /// Standard output, at most [`REACH_OUTPUT_LIMIT`].
    pub stdout: Vec<u8>,
    /// Standard error, at most [`REACH_OUTPUT_LIMIT`].
    pub stderr: Vec<u8>,
}

/// The most bytes kept of each stream of a command on a device.
pub const REACH_OUTPUT_LIMIT: usize = 1024 * 1024;

/// How to log in to a device in one boot attempt.
#[derive(Clone)]
pub struct ReachTarget {
    /// Its address.
    pub address: IpAddr,
    /// The host key issued with the ticket, OpenSSH public key format: the only one accepted.
    pub host_key: String,
    /// The coordinator's private key, OpenSSH format.
    pub client_key: String,
}

/// Commands on a device, without going through its agent.
pub trait Reach: Send + Sync + 'static {
    /// Runs program and arguments (quoted for the remote shell by the adapter) and waits for the end.
    fn run<'a>(
        &'a self,
        token: FencingToken,
        target: &'a ReachTarget,
        command: &'a [String],
        timeout: Duration,
    ) -> PortFuture<'a, ReachOutput>;
}

/// What a ticket is good for.
pub struct TicketGrant {
    /// The device.
    pub device: DeviceId,
    /// The MAC address that the exchange must come from, lower-case with colons.
    pub mac: String,
    /// For how long it is good.
    pub window: Duration,
    /// The files of the answer (names: [`crate::model::identity::file`]), without `time`, which the
    /// office adds when it answers.
    pub files: Vec<(String, Vec<u8>)>,
    /// What became of the ticket. `Pending` at first; the office sends each change.
    pub fate: watch::Sender<TicketFate>,
}

/// What became of a ticket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TicketFate {
    /// Not exchanged yet.
    #[default]
    Pending,
    /// Exchanged by the device at this address.
    Redeemed {
        /// The device's address.
        address: IpAddr,
    },
    /// An exchange was refused after the ticket had been used, or before; the device did not get it.
    Refused {
        /// From where.
        address: IpAddr,
        /// Why.
        cause: TicketRefusal,
        /// The address of the earlier, rightful exchange, if there was one.
        redeemed: Option<IpAddr>,
    },
}

/// Why a ticket exchange was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketRefusal {
    /// No such ticket.
    #[error("no such ticket")]
    Unknown,
    /// It was exchanged before.
    #[error("the ticket has been used")]
    Used,
    /// The exchange came from another address than the device's.
    #[error("the ticket is for another device's address")]
    WrongAddress,
    /// The boot window is over.
    #[error("the ticket has expired")]
    Expired,
}

/// Issues single-use boot tickets and answers their exchange over HTTP.
pub trait TicketOffice: Send + Sync + 'static {
    /// Makes a ticket; an older one of the same device is void at once. Answers the kernel arguments
    /// that carry it.
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>>;
    /// Voids the device's ticket.
    fn revoke<'a>(&'a self, device: &'a DeviceId) -> PortFuture<'a, ()>;
}
