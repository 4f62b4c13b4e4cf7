//! A pin that is held, by either driver.

use super::GpioError;
use super::registers::{self, Registers};
use super::request::{self, Request};
use crate::model::relay::{GpioDriver, GpioPin, Level, PinState};

/// A pin that this process drives.
pub struct Line {
    pin: u8,
    way: Way,
}

enum Way {
    Request(Request),
    Registers(Registers),
}

impl Line {
    /// Takes the pin, at the level it has. None of the calls blocks for longer than the kernel takes for a register.
    pub fn take(pin: &GpioPin) -> Result<Self, GpioError> {
        let way = match pin.driver {
            GpioDriver::Cdev => Way::Request(Request::take(pin.chip.as_deref(), pin.number)?),
            GpioDriver::Rppal => Way::Registers(Registers::take(pin.number)?),
        };
        Ok(Self { pin: pin.number, way })
    }

    /// Drives the pin, and looks whether it shows.
    pub fn set(&self, level: Level) -> Result<(), GpioError> {
        match &self.way {
            Way::Request(line) => line.set(level)?,
            Way::Registers(line) => line.set(level),
        }
        if self.level()? == level { Ok(()) } else { Err(GpioError::Stuck { pin: self.pin, level }) }
    }

    /// The pin's level, as it is and not as it was set.
    pub fn level(&self) -> Result<Level, GpioError> {
        match &self.way {
            Way::Request(line) => line.level(),
            Way::Registers(line) => Ok(line.level()),
        }
    }
}

/// Looks at a pin and changes nothing of it.
pub fn look(pin: &GpioPin) -> Result<PinState, GpioError> {
    match pin.driver {
        GpioDriver::Cdev => request::look(pin.chip.as_deref(), pin.number),
        GpioDriver::Rppal => registers::look(pin.number),
    }
}
