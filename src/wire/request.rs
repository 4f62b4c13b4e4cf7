//! Requests to a coordinator: `lab.<lab>.req.<user>.<verb>`. JSON bodies; each answer is a [`Reply`].

pub use crate::model::bundle::BundleFile;
use crate::model::id::RunId;
use crate::model::lease::LeaseLost;
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use serde::{Deserialize, Serialize};

/// Version of the bodies in this file.
pub const REQUEST_VERSION: u32 = 1;

/// Start a run.
pub const RUN: &str = "run";
/// Read the events of a run from a sequence number.
pub const EVENTS: &str = "events";
/// Stop a run.
pub const CANCEL: &str = "cancel";
/// List a finished run's bundle.
pub const BUNDLE: &str = "bundle";
/// Read a piece of a bundle's file.
pub const BUNDLE_READ: &str = "bundle-read";
/// Is the coordinator there?
pub const HELLO: &str = "hello";

/// Body of [`RUN`]. Answer: [`RunAccepted`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRequest {
    /// [`REQUEST_VERSION`].
    pub version: u32,
    /// What to run, checked again by the coordinator.
    pub scenario: Scenario,
    /// How.
    #[serde(flatten)]
    pub options: RunOptions,
}

/// How a scenario is to be run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// Leave the devices up when the run ends.
    pub keep: bool,
    /// Boot them also where they could start from saved memory.
    #[serde(default)]
    pub cold: bool,
}

/// Answer to [`RUN`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunAccepted {
    /// Its id.
    pub run: RunId,
}

/// Body of [`EVENTS`]. Answer: [`EventsPage`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsRequest {
    /// The run.
    pub run: RunId,
    /// The first wanted sequence number.
    pub from: u64,
}

/// Answer to [`EVENTS`]: as many as fit a message, none when the run has not got there yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsPage {
    /// In order, without holes.
    pub events: Vec<RunEvent>,
}

/// Body of [`CANCEL`] and [`BUNDLE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRef {
    /// The run.
    pub run: RunId,
}

/// Answer to [`BUNDLE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleList {
    /// The files, paths relative to the bundle; none where it is one file.
    pub files: Vec<BundleFile>,
    /// The one file that it is, compressed: its path for [`BUNDLE_READ`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<BundleFile>,
    /// It is being written: ask again.
    #[serde(default)]
    pub pending: bool,
    /// How to enter each device that was kept, and how to remove it: lines for people.
    pub kept: Vec<String>,
}

/// Body of [`BUNDLE_READ`]. Answer: raw bytes from `offset`, at most [`BUNDLE_PIECE`]; empty at the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleRead {
    /// The run.
    pub run: RunId,
    /// A path of the list.
    pub path: String,
    /// Where to read.
    pub offset: u64,
}

/// The most bytes one [`BUNDLE_READ`] answers: half a NATS message (1 MB by default).
pub const BUNDLE_PIECE: usize = 512 * 1024;

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply<T> {
    /// Done.
    Ok {
        /// The answer.
        body: T,
    },
    /// Not done.
    Refused {
        /// Why, one line.
        error: String,
        /// What to try.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        /// Who came after, when it was asked under a lease that the caller has lost.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<LeaseLost>,
    },
}
