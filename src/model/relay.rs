//! A relay on a pin: which level means what, and what becomes of the device when nobody drives the pin.

use super::power::{PowerReading, PowerState};
use serde::Serialize;
use std::fmt;

/// The greatest BCM number on the 40-pin header of a Raspberry Pi.
pub const MAX_PIN: u8 = 27;
/// The greatest BCM number that is pulled up when the chip comes out of reset; those above are pulled down
/// (BCM2835 ARM Peripherals, table 6-31; the later chips have kept that for the header's pins).
const MAX_PULLED_UP: u8 = 8;

/// The voltage of a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Near 0 V.
    Low,
    /// Near 3.3 V.
    High,
}

impl Level {
    /// High for true.
    pub fn of(high: bool) -> Self {
        if high { Self::High } else { Self::Low }
    }

    /// The other one.
    pub fn other(self) -> Self {
        Self::of(self == Self::Low)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::High => "high",
        })
    }
}

/// Which contact of the relay the device's supply runs through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// Normally open: the device has power while the relay's coil has.
    NormallyOpen,
    /// Normally closed: the device has power while the relay's coil has none.
    NormallyClosed,
}

/// What becomes of a pin when the process that drives it is gone, however it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCrash {
    /// It stays as it was driven.
    Holds,
    /// It becomes an input: its pull and the relay board decide.
    Releases,
}

impl fmt::Display for OnCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::Releases => "releases",
        })
    }
}

/// How a pin is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpioDriver {
    /// The chip's registers, mapped into memory: the crate `rppal`.
    Rppal,
    /// The kernel's character devices, `/dev/gpiochip*`.
    Cdev,
}

impl GpioDriver {
    /// What becomes of its pins when the process is gone. The registers stay as they are. The kernel takes a line back
    /// when its last handle is closed, and what it then does with the pin is the chip's driver's own affair:
    /// `kernel_keeps` tells it.
    pub fn on_crash(self, kernel_keeps: bool) -> OnCrash {
        match self {
            Self::Rppal => OnCrash::Holds,
            Self::Cdev if kernel_keeps => OnCrash::Holds,
            Self::Cdev => OnCrash::Releases,
        }
    }
}

impl fmt::Display for GpioDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rppal => "gpio-rppal",
            Self::Cdev => "gpio-cdev",
        })
    }
}

/// A pin of the header of the machine that the coordinator runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpioPin {
    /// How it is driven.
    pub driver: GpioDriver,
    /// Its chip by name, path or label; none for that of the header, whatever it is called. Only
    /// [`GpioDriver::Cdev`] asks.
    pub chip: Option<String>,
    /// Its BCM number, at most [`MAX_PIN`].
    pub number: u8,
}

impl fmt::Display for GpioPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pin {}", self.driver, self.number)
    }
}

/// What can be known of a pin without touching it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PinState {
    /// It drives its level itself.
    pub output: bool,
    /// Its level; none where it cannot be read without changing what the pin does.
    pub level: Option<Level>,
    /// Who holds its line, in their own words.
    pub user: Option<String>,
}

/// A relay between a pin and a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// The board energises its coil at a low level.
    pub active_low: bool,
    /// The contact that is used.
    pub contact: Contact,
}

/// What a device is when nobody drives the pin of its relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The pin's own pull keeps the coil without current, so the contact tells.
    Power(PowerState),
    /// The pin's own pull leads to the level at which the board energises its coil. Whether it does hangs on the board:
    /// the pull is weak, some 50 kΩ.
    Unsure {
        /// The level to which the pin is pulled.
        pull: Level,
    },
}

impl Relay {
    /// The level that switches the device so.
    pub fn level(self, state: PowerState) -> Level {
        let energised = (state == PowerState::On) == (self.contact == Contact::NormallyOpen);
        Level::of(energised != self.active_low)
    }

    /// What a level tells of the device.
    pub fn reading(self, level: Level) -> PowerReading {
        if self.level(PowerState::On) == level { PowerReading::On } else { PowerReading::Off }
    }

    /// What the device is when nobody drives this pin, given by its BCM number.
    pub fn released(self, pin: u8) -> Released {
        let pull = Level::of(pin <= MAX_PULLED_UP);
        if pull == Level::of(self.active_low) {
            Released::Power(match self.contact {
                Contact::NormallyOpen => PowerState::Off,
                Contact::NormallyClosed => PowerState::On,
            })
        } else {
            Released::Unsure { pull }
        }
    }
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Power(state) => state.fmt(f),
            Self::Unsure { .. } => f.write_str("not sure"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contact::{NormallyClosed, NormallyOpen};
    use Level::{High, Low};
    use PowerState::{Off, On};

    #[test]
    fn contact_and_polarity_tell_what_a_level_does() {
        let table = [
            (false, NormallyOpen, High, Off),
            (false, NormallyClosed, Low, On),
            (true, NormallyOpen, Low, Off),
            (true, NormallyClosed, High, On),
        ];
        for (active_low, contact, on, idle) in table {
            let relay = Relay { active_low, contact };
            assert_eq!(relay.level(On), on, "{relay:?}");
            assert_eq!(relay.level(Off), on.other(), "{relay:?}");
            assert_eq!(relay.reading(on), PowerReading::On, "{relay:?}");
            assert_eq!(relay.reading(on.other()), PowerReading::Off, "{relay:?}");
            // A pin whose pull keeps the coil without current.
            let pin = if active_low { 8 } else { 9 };
            assert_eq!(relay.released(pin), Released::Power(idle), "{relay:?}");
        }
    }

    #[test]
    fn a_pull_towards_the_boards_level_leaves_doubt() {
        let relay = |active_low| Relay { active_low, contact: NormallyOpen };
        for pin in 0..=MAX_PIN {
            let pull = if pin <= 8 { High } else { Low };
            let doubtful = Released::Unsure { pull };
            assert_eq!(relay(pull == Low).released(pin), doubtful, "{pin}");
            assert_eq!(relay(pull == High).released(pin), Released::Power(Off), "{pin}");
        }
    }

    #[test]
    fn registers_stay_and_a_line_goes_as_the_kernel_wants() {
        let table = [
            (GpioDriver::Rppal, false, OnCrash::Holds),
            (GpioDriver::Rppal, true, OnCrash::Holds),
            (GpioDriver::Cdev, false, OnCrash::Releases),
            (GpioDriver::Cdev, true, OnCrash::Holds),
        ];
        for (driver, keeps, expected) in table {
            assert_eq!(driver.on_crash(keeps), expected, "{driver} {keeps}");
        }
    }
}
