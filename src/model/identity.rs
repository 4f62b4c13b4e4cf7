//! What a device is told when it exchanges its boot ticket: who it is and how to reach the lab.

use super::boot::BootAttempt;
use super::id::DeviceId;
use serde::{Deserialize, Serialize};

/// Names of the files in the answer to a ticket, a tar archive. Our initramfs unpacks it, mode 0600,
/// to [`Identity::DIR`].
pub mod file {
    /// [`super::Identity`] as JSON.
    pub const IDENTITY: &str = "identity.json";
    /// NATS credentials: user JWT and seed.
    pub const NATS_CREDS: &str = "nats.creds";
    /// The SSH host key, OpenSSH private key format.
    pub const SSH_HOST_KEY: &str = "ssh_host_ed25519_key";
    /// Who may log in as root, `authorized_keys` format.
    pub const AUTHORIZED_KEYS: &str = "authorized_keys";
    /// Seconds since 1970-01-01 UTC, decimal: the device sets its clock by it.
    pub const TIME: &str = "time";
}

/// The version of [`Identity`] that this build writes.
pub const IDENTITY_VERSION: u32 = 1;

/// Who a device is, for one boot attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// [`IDENTITY_VERSION`].
    pub version: u32,
    /// The device.
    pub device: DeviceId,
    /// The boot attempt that the ticket was for.
    pub attempt: BootAttempt,
    /// Where the lab's NATS server is.
    pub nats_url: String,
}

impl Identity {
    /// Where the files lie on the device: a tmpfs, gone with the power.
    pub const DIR: &str = "/run/pilab";
}
