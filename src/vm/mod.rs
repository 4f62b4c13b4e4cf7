//! Adapter of the ports `Power`, `Boot` and `ByteStream` over libvirt.
//!
//! A device is a transient domain: it exists while it is powered and leaves nothing behind.
//!
//! ```text
//!            set(On): create paused, console attached, resume
//!    absent ─────────────────────────────────────────────────► running
//!      ▲                                                          │
//!      └── set(Off), or the guest restarts, halts or crashes ─────┘
//! ```
//!
//! The domain is resumed only when the console's reader is connected, so not one byte is lost. A guest
//! that restarts by itself ends its domain, as each boot attempt needs a ticket of its own.
//!
//! A data disk is made with the first domain of a lease and stays for all boot attempts of that lease.
//!
//! A device with a place for saves starts from memory that was saved before it was anybody's: [`save`] keeps it, `warm`
//! makes it and starts from it, `wake` tells the device who it is. Where that cannot be, it boots, and says why.
//!
//! What libvirt needs of the host: the directory of the consoles can be entered by the user that runs
//! QEMU (it is made with mode 2711), and images can be read by that user (world-readable, below
//! directories that all may enter). libvirt makes the consoles' sockets as root, for user and group; by the
//! directory's set-group-ID bit that group is the coordinator's, which therefore need not be root.
//!
//! Without the feature `vm` the same functions exist and [`Host::connect`] answers
//! [`VmError::NotEnabled`].

pub mod capabilities;
pub mod domain;
pub mod error;
pub mod naming;
pub mod save;
pub mod xml;

#[cfg(feature = "vm")]
mod connection;
#[cfg(feature = "vm")]
mod device;
#[cfg(feature = "vm")]
mod disk;
#[cfg(feature = "vm")]
mod host;
#[cfg(feature = "vm")]
mod look;
#[cfg(feature = "vm")]
mod network;
#[cfg(feature = "vm")]
mod parts;
#[cfg(feature = "vm")]
mod wake;
#[cfg(feature = "vm")]
mod warm;
#[cfg(feature = "vm")]
pub use {device::VmDevice, host::Host, look::look};

#[cfg(not(feature = "vm"))]
mod disabled;
#[cfg(not(feature = "vm"))]
pub use disabled::{Host, VmDevice, look};

pub use error::VmError;

use crate::model::device::Arch;
use crate::model::id::DeviceId;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The system's libvirt with QEMU.
const DEFAULT_URI: &str = "qemu:///system";

/// The network that is made where it is missing. Not libvirt's own `default`: its bridge runs the spanning tree protocol,
/// whose forward delay (two times 2 s) keeps each new guest from the network for its first four seconds.
pub const NETWORK: &str = "pilab";

/// Memory of a guest that is not told otherwise: systemd, podman and a few small containers on tmpfs.
pub const DEFAULT_MEMORY_MIB: u32 = 1024;

/// What a host can do, as far as it tells without being changed.
#[derive(Debug)]
pub struct Seen {
    /// The host's address on the lab's network; none for one that is made when it is needed.
    pub gateway: Option<Ipv4Addr>,
    /// Of each architecture, whether its guests run on the host's processor or are emulated.
    pub guests: Vec<(Arch, Result<bool, VmError>)>,
}

/// How to use libvirt.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// libvirt's connection URI.
    pub uri: String,
    /// The libvirt network that guests are on. Its gateway is the coordinator's address for them.
    pub network: String,
    /// Where console sockets lie: made with mode 2711 when missing. Short: a socket's path has at most
    /// [`naming::MAX_SOCKET_PATH`] bytes.
    pub run_dir: PathBuf,
    /// Tells this coordinator's domains from those of others on the host.
    pub instance: String,
}

impl HostOptions {
    /// The libvirt that `LIBVIRT_DEFAULT_URI` names, else the system's, and the network [`NETWORK`].
    pub fn new(instance: impl Into<String>, run_dir: impl Into<PathBuf>) -> Self {
        let uri = std::env::var("LIBVIRT_DEFAULT_URI").ok().filter(|uri| !uri.is_empty());
        Self {
            uri: uri.unwrap_or_else(|| DEFAULT_URI.to_owned()),
            network: NETWORK.to_owned(),
            run_dir: run_dir.into(),
            instance: instance.into(),
        }
    }
}

/// Where memory is saved.
#[derive(Debug, Clone)]
pub struct Saves {
    /// A directory for all devices, which libvirt's user need not get into.
    pub root: PathBuf,
    /// How much of the disk all in it takes at the most.
    pub most_mib: u64,
}

/// What a virtual machine is.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// The device it is.
    pub id: DeviceId,
    /// Its architecture.
    pub arch: Arch,
    /// Its memory.
    pub memory_mib: u32,
    /// Its processors. No more than the host has: under emulation they would wait for each other.
    pub vcpus: u32,
    /// Size of its data disk, where what must outlive a reboot is kept; without, all is in its memory.
    pub data_disk_mib: Option<u32>,
    /// The file that the owning process holds locked (flock(2)) while the machine is wanted. It must be
    /// locked before the machine is switched on: whatever has a free lock is swept.
    pub owner_lock: PathBuf,
    /// Where memory is saved from which it starts, if it does.
    pub saves: Option<Saves>,
    /// It outlives the process that switched it on: neither [`Host::close`] nor a sweep removes it, and the next
    /// process finds it again by its name.
    pub lasting: bool,
}

/// How to use and to remove a machine that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepInstructions {
    /// A shell command that attaches to its console; Ctrl-] leaves.
    pub enter: String,
    /// A shell command that removes it.
    pub remove: String,
}
