//! A run: one scenario executed under one lease, a stream of typed events that ends in one verdict.

use super::boot::{BootAttempt, BootStage};
use super::device::{Backend, Model};
use super::event::Event;
use super::id::{DeploymentName, DeviceId, RunId, ScenarioName};
use super::scenario::Instead;
use super::time::Stamp;
use super::workload::Phase;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a run ended. Exit codes of the command line follow from it: `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All expectations held.
    Passed,
    /// A fault in what is under test.
    Failed,
    /// This device is at fault.
    Device,
    /// The lab is at fault.
    Lab,
    /// Time ran out; the decisive event names a suspect.
    Timeout,
    /// Somebody stopped it.
    Cancelled,
    /// It could not be run here; never counts as passed.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Device => "device",
            Self::Lab => "lab",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        })
    }
}

/// The verdict with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// One line: the decisive event, quoted. Empty when passed.
    pub reason: String,
    /// The number of the decisive event in the run's stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decisive: Option<u64>,
    /// Who is to be looked at first when nobody can say whose fault it is: every time-out has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
    /// Whether that is the device, where neither the lab nor what is under test may have done it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspects_device: bool,
    /// The device on which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The index, from 0, of the step during which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
}

/// What part of the world a fault was seen in, before the scenario's `under_test` makes a verdict of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// An expectation of a step did not hold: something was seen that contradicts it.
    Expectation,
    /// What a step waited for had not come when its time was up, though whoever was asked for it answered.
    Awaited,
    /// What the console was to show had not been seen when the step's time was up.
    Unseen,
    /// The same, and the console has shown nothing at all in this boot attempt, not even its boot loader.
    Mute,
    /// The device was not reached over SSH.
    Unreachable,
    /// The device's kernel panicked.
    Panic,
    /// The device went away in mid-run, though nobody switched it off.
    Gone,
    /// The device did not get to its agent in time.
    BootTimeout,
    /// A step's time ran out.
    StepTimeout,
    /// The agent did not answer, or answered nonsense.
    Agent,
    /// The agent that answered is not the one in the image.
    AgentMismatch,
    /// The lab itself could not do its part: libvirt, NATS, image, disk.
    Lab,
    /// Somebody stopped the run.
    Cancelled,
    /// A need could not be met.
    Unmet,
}

/// A fault that ended a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// One line, with the decisive evidence quoted.
    pub cause: String,
    /// The device on which it happened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum StepResult {
    /// Its expectation held.
    Ok {
        /// What was seen, one line.
        seen: String,
    },
    /// It did not.
    Fault {
        /// What went wrong.
        fault: Fault,
    },
}

/// A device as a run got it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedDevice {
    /// The scenario's name for it.
    pub role: String,
    /// The device.
    pub device: DeviceId,
    /// How it exists: a VM pass never counts as a Pi pass.
    pub backend: Backend,
    /// Its model.
    pub model: Model,
    /// Set when it stands in for a device that could not be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

/// One fact of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunFact {
    /// The run waits for devices.
    Queued {
        /// The scenario.
        scenario: ScenarioName,
        /// The names of its steps, in order.
        steps: Vec<String>,
    },
    /// It has its devices.
    Started {
        /// The devices.
        devices: Vec<AssignedDevice>,
        /// The image's manifest hash.
        image: String,
    },
    /// A device's journal holds something new.
    Device {
        /// The device.
        device: DeviceId,
        /// The boot attempt.
        attempt: BootAttempt,
        /// What.
        event: Event,
    },
    /// A device got to a boot stage.
    Stage {
        /// The device.
        device: DeviceId,
        /// The boot attempt.
        attempt: BootAttempt,
        /// The stage.
        stage: BootStage,
        /// Seconds since power-on.
        after: f64,
        /// In which boot of the attempt, from 1.
        #[serde(default = "super::event::first", skip_serializing_if = "super::event::is_first")]
        boot: u32,
        /// The console's line that showed it, cut to 200 characters.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        line: String,
    },
    /// A device's agent said where a deployment stands.
    Phase {
        /// The device.
        device: DeviceId,
        /// The deployment.
        deployment: DeploymentName,
        /// Where it stands; none when it is gone.
        phase: Option<Phase>,
        /// The generation that this speaks of.
        generation: u64,
        /// The agent's words, one line.
        message: String,
    },
    /// Something went wrong beside the steps: in a boot, with a device, at the hand-back; or the run was stopped.
    Fault {
        /// What.
        fault: Fault,
    },
    /// A step begins.
    StepStarted {
        /// Its index from 0.
        step: usize,
        /// Its name.
        name: String,
    },
    /// A step ended.
    StepEnded {
        /// Its index from 0.
        step: usize,
        /// Its name.
        name: String,
        /// What it came to.
        result: StepResult,
        /// How long it took, in seconds.
        took: f64,
    },
    /// The run ended; the last fact of every run.
    Ended {
        /// The verdict.
        outcome: Outcome,
        /// How long it took from `Queued`, in seconds.
        took: f64,
        /// The run that tries again what this one could not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<RunId>,
    },
}

/// A fact of a run with its place in the stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// The run.
    pub run: RunId,
    /// Counts from 0 without holes, so that a reader sees what it missed.
    pub seq: u64,
    /// When.
    pub at: Stamp,
    /// What.
    #[serde(flatten)]
    pub fact: RunFact,
}
