//! Boots that an admin asks for, to know how far a device can be trusted. They travel as requests in [`super::request`] do.

use crate::model::id::{DeviceId, RunId};
use serde::{Deserialize, Serialize};

/// Boot a device so often that it is known to be good. Body: [`Train`]. Answer: [`Training`].
pub const TRAIN: &str = "train";

/// Body of [`TRAIN`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Train {
    /// Which.
    pub device: DeviceId,
    /// How many boots; as many as the rule asks for when missing.
    pub boots: Option<u32>,
}

/// Answer to [`TRAIN`]: the boots are a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Training {
    /// The run.
    pub run: RunId,
    /// How many boots it makes.
    pub boots: u32,
    /// How many the rule asks for.
    pub wanted: u32,
}
