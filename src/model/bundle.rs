//! A run's bundle, its evidence: what it says of itself.

use super::id::{LabName, RunId, ScenarioName};
use super::run::{AssignedDevice, RunEvent, RunFact, Verdict};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Version of the bundle's layout. A reader knows all up to its own.
pub const BUNDLE_VERSION: u32 = 2;
/// The name of a bundle's list of files, in a directory and in an archive.
pub const LIST: &str = "bundle.json";

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFile {
    /// Relative path, `/` between parts, no `..`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Hex.
    pub sha256: String,
}

/// The content of [`LIST`]: what the bundle is of, what it consists of, and what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleContents {
    /// [`BUNDLE_VERSION`].
    pub version: u32,
    /// What the bundle is of; version 1 does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<About>,
    /// What could not be written. Version 1 has no bundle then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<BundleGap>,
    /// How it was made fit to be shared; none in what a coordinator wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redacted: Option<Redacted>,
    /// All files but this one.
    pub files: Vec<BundleFile>,
}

/// The run that a bundle is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The run.
    pub run: RunId,
    /// Its lab, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<LabName>,
    /// Its scenario; none when the run's events do not say.
    pub scenario: Option<ScenarioName>,
    /// How it ended; none when its events stop before.
    pub verdict: Option<Verdict>,
    /// Why, one line.
    #[serde(default)]
    pub reason: String,
    /// Its devices.
    #[serde(default)]
    pub devices: Vec<AssignedDevice>,
    /// When its first event was: milliseconds since 1970-01-01 UTC.
    pub began_ms: u64,
    /// When its last event was.
    pub ended_ms: u64,
    /// The version of pilab that wrote it; empty when nobody knows.
    #[serde(default)]
    pub writer: String,
}

/// A file that is not in the bundle, though it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleGap {
    /// Its path.
    pub path: String,
    /// Why, one line.
    pub cause: String,
}

/// A copy was made in which things are hidden.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redacted {
    /// When: milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// What kinds of things were looked for.
    pub rules: Vec<String>,
    /// How many were found and hidden.
    pub hidden: u64,
}

impl About {
    /// What a run's events tell of it; none when there are none.
    pub fn of(events: &[RunEvent]) -> Option<Self> {
        let (first, last) = (events.first()?, events.last()?);
        let mut about = Self {
            run: first.run.clone(),
            lab: None,
            scenario: None,
            verdict: None,
            reason: String::new(),
            devices: Vec::new(),
            began_ms: first.at.wall_ms,
            ended_ms: last.at.wall_ms,
            writer: String::new(),
        };
        for event in events {
            match &event.fact {
                RunFact::Queued { scenario, .. } => about.scenario = Some(scenario.clone()),
                RunFact::Started { devices, .. } => about.devices.clone_from(devices),
                RunFact::Ended { outcome, .. } => {
                    about.verdict = Some(outcome.verdict);
                    about.reason.clone_from(&outcome.reason);
                }
                _ => {}
            }
        }
        Some(about)
    }
}

/// How many bundles are kept. What is none has no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// How many.
    pub count: Option<usize>,
    /// For how long.
    pub age: Option<Duration>,
    /// How many bytes in sum.
    pub bytes: Option<u64>,
}
