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

/// How often a switch has switched: what wears a relay out. Only what was done through the lab is counted, and what was
/// so already is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wear {
    /// Changes so far, on and off each one.
    pub switched: u64,
    /// What it was set to last, where that is known.
    pub last: Option<PowerState>,
}

impl Wear {
    /// It was set.
    pub fn done(&mut self, state: PowerState) {
        if self.last.replace(state) != Some(state) {
            self.switched += 1;
        }
    }

    /// Setting it failed, or nobody knows: it may be either.
    pub fn doubt(&mut self) {
        self.last = None;
    }
}

/// The part of its life, in percent, from which on a relay's wear is told.
const WORN: u64 = 80;

/// How much of its life a relay has behind it, in percent, once that is to be told. A cycle is on and off: two changes.
pub fn worn(switched: u64, rated_cycles: u64) -> Option<u64> {
    let part = (switched / 2).saturating_mul(100) / rated_cycles.max(1);
    (part >= WORN).then_some(part)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_s_wear_is_told_from_four_fifths_of_its_life_on() {
        assert_eq!(worn(159_998, 100_000), None);
        assert_eq!(worn(160_000, 100_000), Some(80));
        assert_eq!(worn(300_000, 100_000), Some(150));
        assert_eq!(worn(0, 100_000), None);
    }

    #[test]
    fn only_what_changes_wears() {
        use PowerState::{Off, On};
        let mut wear = Wear::default();
        let table =
            [(Some(Off), 1), (Some(Off), 1), (Some(On), 2), (Some(Off), 3), (None, 3), (Some(Off), 4)];
        for (done, expected) in table {
            match done {
                Some(state) => wear.done(state),
                None => wear.doubt(),
            }
            assert_eq!(wear.switched, expected);
        }
    }
}
