//! Requests from the coordinator to an agent: `fleet.<device>.<verb>`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What an agent can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Are you there, and who are you? Answer: [`Pong`].
    Ping,
}

impl Verb {
    /// The last token of the subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
        }
    }

    /// The verb of a subject's last token.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Ping].into_iter().find(|verb| verb.name() == name)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Version of the answers in this file.
pub const FLEET_VERSION: u32 = 1;

/// The answer to [`Verb::Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// [`FLEET_VERSION`].
    pub version: u32,
    /// The device.
    pub device: String,
    /// The agent's version.
    pub agent_version: String,
    /// SHA-256 of the agent's executable, hex: must equal the image manifest's.
    pub agent_sha256: String,
    /// `/proc/sys/kernel/random/boot_id` of the device.
    pub boot_id: String,
    /// Milliseconds since the device started.
    pub uptime_ms: u64,
}
