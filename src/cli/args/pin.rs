//! Arguments of the commands on pins.

use crate::model::relay::{GpioDriver, GpioPin, Level, MAX_PIN};
use clap::{Args, Subcommand, ValueEnum};

/// Commands on pins.
#[derive(Debug, Subcommand)]
pub enum PinCommand {
    /// Say how a pin is, and who has it; nothing of it is changed
    #[command(after_long_help = "Examples:
  pilab pin look 17
  pilab pin look 17 --driver gpio-rppal --json")]
    Look(PinLookArgs),
    /// Take a pin at the level it has, drive it if a level is given, and hold it until Ctrl-C
    #[command(after_long_help = "Examples:
  pilab pin hold 17 high                  does the relay click?
  pilab pin hold 17                       take it as a coordinator does when it starts: nothing may click")]
    Hold(PinHoldArgs),
}

/// Which pin.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// The BCM number: GPIO17 is 17, and the 11th pin of the header
    #[arg(value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_PIN)))]
    pub pin: u8,
    /// How it is driven
    #[arg(long, value_enum, default_value = "gpio-cdev")]
    pub driver: Driver,
}

/// Arguments of `pin look`.
#[derive(Debug, Args)]
pub struct PinLookArgs {
    /// Which pin.
    #[command(flatten)]
    pub pin: PinArgs,
    /// How to print it.
    #[command(flatten)]
    pub json: super::JsonArgs,
}

/// Arguments of `pin hold`.
#[derive(Debug, Args)]
pub struct PinHoldArgs {
    /// Which pin.
    #[command(flatten)]
    pub pin: PinArgs,
    /// The level to drive; without, the one that it has
    #[arg(value_enum)]
    pub level: Option<Drive>,
}

/// A driver, by its name in the lab file.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Driver {
    /// The kernel's lines
    GpioCdev,
    /// The chip's registers
    GpioRppal,
}

/// A level.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Drive {
    /// Near 0 V
    Low,
    /// Near 3.3 V
    High,
}

impl From<PinArgs> for GpioPin {
    fn from(args: PinArgs) -> Self {
        let driver = match args.driver {
            Driver::GpioCdev => GpioDriver::Cdev,
            Driver::GpioRppal => GpioDriver::Rppal,
        };
        Self { driver, chip: None, number: args.pin }
    }
}

impl From<Drive> for Level {
    fn from(drive: Drive) -> Self {
        match drive {
            Drive::Low => Self::Low,
            Drive::High => Self::High,
        }
    }
}
