//! What a device is told when it exchanges its boot ticket: who it is and how to reach the lab.

use super::boot::BootAttempt;
use super::id::DeviceId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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
    /// [`super::Mark`] as text: our initramfs says it on the console.
    pub const MARK: &str = "mark";
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

/// A random number of one boot attempt, which nobody knows but the lab and the device that its ticket has brought it to, until
/// the device's console says it: so it tells whose console that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// Of 64 random bits.
    pub fn from_random(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text is no [`Mark`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a mark is 16 hexadecimal digits")]
pub struct NoMark;

impl FromStr for Mark {
    type Err = NoMark;
    fn from_str(text: &str) -> Result<Self, NoMark> {
        // `from_str_radix` alone would let a sign pass.
        let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| digits).map(Self).ok_or(NoMark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_nothing_else_is_one() {
        for bits in [0, 1, u64::MAX] {
            let mark = Mark::from_random(bits);
            assert_eq!(mark.to_string().parse(), Ok(mark));
        }
        for text in ["", "1", "+00000000000000f", "00000000000000000", "0123456789abcdeg"] {
            assert_eq!(text.parse::<Mark>(), Err(NoMark), "{text:?}");
        }
    }
}
