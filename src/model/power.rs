//! Power states.

use serde::{Deserialize, Serialize};

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

impl From<PowerState> for PowerReading {
    fn from(state: PowerState) -> Self {
        match state {
            PowerState::On => Self::On,
            PowerState::Off => Self::Off,
        }
    }
}
