//! How far a device can be trusted, apart from what it is doing.

use super::run::Verdict;
use super::time::{Moment, Stamp};
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

/// What a run, a check or a training says of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// It did what was asked of it.
    Clean,
    /// It, or nobody who is known, was at fault.
    Fault,
    /// Nothing: the lab was at fault, or somebody stopped it.
    Nothing,
}

/// Where a finding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A run of a scenario.
    Run,
    /// A boot that the lab made to see how the device is.
    Check,
    /// Boots that an admin has asked for.
    Training,
}

/// What one use of a device came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where it comes from.
    pub origin: Origin,
    /// The run or check: one is counted once, however often it is told.
    pub of: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What that says of the device.
    pub sign: Sign,
    /// Why, one line; empty when it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// How many boots it stands for.
    pub boots: u32,
    /// When it was told.
    pub at: Moment,
    /// It lies before the device was given a new start, and counts no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub past: bool,
}

/// What is remembered of a device to tell how far it can be trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// The last findings, the last one last.
    pub findings: Vec<Finding>,
    /// Clean boots in a row.
    pub clean: u32,
    /// How often the rule has quarantined it.
    pub quarantines: u32,
    /// The rule has quarantined it, and ends that: what a person has said it leaves alone.
    pub by_rule: bool,
    /// Something went wrong that it may have to do with, and it has not been checked since.
    pub doubted: bool,
    /// How many checks were made in a row since its health changed, or since it was checked and found well.
    pub checks: u32,
    /// When the last check ended.
    pub checked: Option<Moment>,
}

impl Trust {
    /// Whether nothing is known.
    pub fn is_blank(&self) -> bool {
        *self == Self::default()
    }
}
