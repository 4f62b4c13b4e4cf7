//! The same functions in a build without pins. A [`Line`] never exists here.

use super::GpioError;
use crate::model::relay::{GpioPin, Level, PinState};

/// Never exists in this build.
pub enum Line {}

impl Line {
    /// Answers [`GpioError::NotEnabled`].
    pub fn take(_pin: &GpioPin) -> Result<Self, GpioError> {
        Err(GpioError::NotEnabled)
    }

    /// Drives the pin.
    pub fn set(&self, _level: Level) -> Result<(), GpioError> {
        match *self {}
    }

    /// The pin's level.
    pub fn level(&self) -> Result<Level, GpioError> {
        match *self {}
    }
}

/// Answers [`GpioError::NotEnabled`].
pub fn look(_pin: &GpioPin) -> Result<PinState, GpioError> {
    Err(GpioError::NotEnabled)
}
