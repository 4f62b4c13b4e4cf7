//! How far a device can be trusted, apart from what it is doing.

use super::time::Stamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How far a device can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It is lent out.
    Good,
    /// It is lent out where no good one will do.
    Suspect,
    /// It is not lent out: something is wrong with it.
    Quarantined,
    /// It is not lent out: somebody works on it.
    Maintenance,
}

impl Health {
    /// Whether nothing is wrong with it.
    pub fn is_good(self) -> bool {
        self == Self::Good
    }

    /// Whether such a device is lent to whoever asks.
    pub fn is_lendable(self) -> bool {
        matches!(self, Self::Good | Self::Suspect)
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Good => "good",
            Self::Suspect => "suspect",
            Self::Quarantined => "quarantined",
            Self::Maintenance => "maintenance",
        })
    }
}

/// A device's health with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkup {
    /// The health.
    pub health: Health,
    /// Why, one line.
    pub reason: String,
    /// Since when.
    pub since: Stamp,
}
