//! A pin by the chip's registers, mapped into memory. They stay as they are when the process ends.

use super::{GpioError, request, store_name};
use crate::model::relay::{Level, PinState};
use crate::support::fdstore;
use crate::support::lock::lock;
use rppal::gpio::{Error, Gpio, Mode, OutputPin, Pin};
use std::io;
use std::sync::Mutex;

/// A pin that is driven.
pub(super) struct Registers(Mutex<OutputPin>);

impl Registers {
    /// Takes the pin, at the level it has. The kernel knows nothing of that, so what it has lent to others is asked first.
    pub(super) fn take(number: u8) -> Result<Self, GpioError> {
        // It was driven by the other driver. The manager lets go of the line a moment later, so this may be refused once.
        if fdstore::take(&store_name(number)).is_some() {
            let _ = fdstore::remove(&store_name(number));
        }
        if let Some(by) = request::user(number) {
            return Err(GpioError::Busy { pin: number, by });
        }
        let pin = pin(number)?;
        match pin.mode() {
            Mode::Input | Mode::Output => {}
            other => return Err(GpioError::Function { pin: number, function: other.to_string() }),
        }
        // Each sets the output register first and makes an output of the pin then: no edge.
        let mut pin = match level(&pin) {
            Level::High => pin.into_output_high(),
            Level::Low => pin.into_output_low(),
        };
        pin.set_reset_on_drop(false);
        Ok(Self(Mutex::new(pin)))
    }

    pub(super) fn set(&self, level: Level) {
        let mut pin = lock(&self.0);
        match level {
            Level::High => pin.set_high(),
            Level::Low => pin.set_low(),
        }
    }

    pub(super) fn level(&self) -> Level {
        Level::of(lock(&self.0).is_set_high())
    }
}

/// Looks at a pin: reading registers changes none.
pub(super) fn look(number: u8) -> Result<PinState, GpioError> {
    let pin = pin(number)?;
    let look = PinState {
        output: pin.mode() == Mode::Output,
        level: Some(level(&pin)),
        user: request::user(number),
    };
    Ok(look)
}

fn level(pin: &Pin) -> Level {
    Level::of(pin.read() == rppal::gpio::Level::High)
}

fn pin(number: u8) -> Result<Pin, GpioError> {
    Gpio::new().and_then(|gpio| gpio.get(number)).map_err(|error| match error {
        Error::PinUsed(pin) => GpioError::Busy { pin, by: super::CONSUMER.to_owned() },
        Error::UnknownModel => GpioError::NoChip { wanted: None },
        Error::PermissionDenied(path) => {
            GpioError::Open { path: path.into(), source: io::ErrorKind::PermissionDenied.into() }
        }
        error => GpioError::Registers(error.into()),
    })
}
