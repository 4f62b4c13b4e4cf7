//! A night: many runs, unattended, and what is known of them in the morning.

use super::device::{Backend, Model};
use super::id::{DeviceId, LabName, RunId, ScenarioName};
use super::run::Verdict;
use super::scenario::Instead;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of [`Record`].
pub const NIGHT_VERSION: u32 = 1;

/// What of a scenario is one line of a night: the scenario on one device, or on any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The scenario.
    pub scenario: ScenarioName,
    /// Which of the plan's devices or models it was for; empty when any would do.
    pub place: String,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.as_str() {
            "" => write!(f, "{}", self.scenario),
            place => write!(f, "{} on {place}", self.scenario),
        }
    }
}

/// A night, as it is kept. It is written when the night begins and after each run, so a night that died says how far it
/// had come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`NIGHT_VERSION`].
    pub version: u32,
    /// The lab.
    pub lab: LabName,
    /// The plan's name.
    pub plan: String,
    /// When it began: milliseconds since 1970-01-01 UTC.
    pub began_ms: u64,
    /// When it was over; none while it goes on, and of one that died.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// It was begun outside of its window: it makes up for one that was missed.
    #[serde(default)]
    pub late: bool,
    /// The nights before it that should have been and were not: days, `2026-11-27`.
    #[serde(default)]
    pub missed: Vec<String>,
    /// Relays that have most of their life behind them, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worn: Vec<String>,
    /// All runs that were planned.
    pub runs: Vec<Run>,
}

/// A planned run of a night.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What it is.
    #[serde(flatten)]
    pub cell: Cell,
    /// How it ended; none while it has not.
    pub verdict: Option<Verdict>,
    /// Why, one line.
    #[serde(default)]
    pub reason: String,
    /// On which devices it ended.
    #[serde(default)]
    pub devices: Vec<Used>,
    /// Its attempts' verdicts, in order.
    #[serde(default)]
    pub attempts: Vec<Verdict>,
    /// The devices of each of them. Of records of before, which do not say, there are none: see [`Self::tries`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<Vec<DeviceId>>,
    /// The last attempt's run, the name of its bundle.
    #[serde(default)]
    pub run: Option<RunId>,
    /// How long the last attempt took, in seconds.
    #[serde(default)]
    pub took: f64,
    /// The slowest of its devices' boots: seconds from power-on to the agent's first answer.
    #[serde(default)]
    pub boot: Option<f64>,
    /// The end of what the console had shown at the decisive event, for one that did not pass.
    #[serde(default)]
    pub excerpt: String,
    /// Why the last attempt's bundle is not there, when it is not: its evidence is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// A device that a run had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// Which.
    pub device: DeviceId,
    /// How it exists.
    pub backend: Backend,
    /// Its model.
    pub model: Model,
    /// Set when it stood in for a device that could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

impl Run {
    /// One that has not begun.
    pub fn planned(cell: Cell) -> Self {
        Self {
            cell,
            verdict: None,
            reason: String::new(),
            devices: Vec::new(),
            attempts: Vec::new(),
            tried: Vec::new(),
            run: None,
            took: 0.0,
            boot: None,
            excerpt: String::new(),
            lost: None,
        }
    }

    /// An attempt has ended.
    pub fn attempted(&mut self, verdict: Verdict, devices: Vec<DeviceId>) {
        self.attempts.push(verdict);
        self.tried.push(devices);
    }

    /// How each attempt ended, and on which devices. Records of before know the last one's devices alone, so that one is all
    /// there is of them.
    pub fn tries(&self) -> Vec<(Verdict, Vec<&DeviceId>)> {
        if self.tried.is_empty() {
            let devices = self.devices.iter().map(|used| &used.device).collect();
            return self.verdict.map(|verdict| (verdict, devices)).into_iter().collect();
        }
        let devices = self.tried.iter().map(|devices| devices.iter().collect());
        self.attempts.iter().copied().zip(devices).collect()
    }

    /// Whether it passed, but not at once.
    pub fn is_unstable(&self) -> bool {
        self.verdict == Some(Verdict::Passed) && self.attempts.len() > 1
    }
}

impl Record {
    /// Whether everything that was planned was run and passed: neither a skip nor a run that is missing is a pass.
    pub fn is_green(&self) -> bool {
        self.ended_ms.is_some()
            && !self.runs.is_empty()
            && self.runs.iter().all(|run| run.verdict == Some(Verdict::Passed))
    }

    /// How many runs ended so; those that did not end count under none.
    pub fn count(&self, verdict: Option<Verdict>) -> usize {
        self.runs.iter().filter(|run| run.verdict == verdict).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_before_knows_the_last_attempt_s_devices_and_a_new_one_those_of_each() {
        let old = r#"{"scenario":"ping","place":"","verdict":"passed","attempts":["device","passed"],
            "devices":[{"device":"lab-pi-2","backend":"pi","model":"pi4b"}]}"#;
        let mut run: Run = serde_json::from_str(old).unwrap();
        let (one, two) = (DeviceId::new("lab-pi-1").unwrap(), DeviceId::new("lab-pi-2").unwrap());
        assert_eq!(run.tries(), [(Verdict::Passed, vec![&two])]);
        run.attempts.clear();
        run.attempted(Verdict::Device, vec![one.clone()]);
        run.attempted(Verdict::Passed, vec![two.clone()]);
        let run: Run = serde_json::from_str(&serde_json::to_string(&run).unwrap()).unwrap();
        assert_eq!(run.tries(), [(Verdict::Device, vec![&one]), (Verdict::Passed, vec![&two])]);
        assert!(run.is_unstable());
    }
}
