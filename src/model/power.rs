//! Power states.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a power switch can be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Powered.
    On,
    /// Not powered.
    Off,
}

/// What a power switch says it is. A driver that cannot read back says `Unknown`, never `Off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerReading {
    /// Read back as powered.
    On,
    /// Read back as not powered.
    Off,
    /// Cannot be read back.
    Unknown,
}

impl fmt::Display for PowerReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Unknown => "unknown",
        })
    }
}

impl From<PowerState> for PowerReading {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::On => Self::On,
            PowerState::Off => Self::Off,
        }
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PowerReading::from(*self).fmt(f)
    }
}
