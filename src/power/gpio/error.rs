//! What can go wrong with a pin.

use crate::model::relay::Level;
use std::io;
use std::path::PathBuf;

/// A pin cannot be used, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum GpioError {
    /// This build has no such part.
    #[error("pins are not enabled in this build")]
    NotEnabled,
    /// There is no such chip.
    #[error("this machine has no GPIO chip {}", wanted.as_deref().unwrap_or("of a Raspberry Pi's header"))]
    NoChip {
        /// Its name, path or label; none for that of the header.
        wanted: Option<String>,
    },
    /// The chip is there and is not the header's.
    #[error("{} is {label}, and not the chip of a Raspberry Pi's header", path.display())]
    Foreign {
        /// The chip.
        path: PathBuf,
        /// What it calls itself.
        label: String,
    },
    /// A device file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has the pin.
    #[error("pin {pin} is in use by {by:?}")]
    Busy {
        /// The pin's BCM number.
        pin: u8,
        /// Who, in their own words.
        by: String,
    },
    /// The pin does something else, such as a serial port.
    #[error("pin {pin} is neither input nor output, but has another function ({function})")]
    Function {
        /// The pin's BCM number.
        pin: u8,
        /// Which, in the words of the chip's manual.
        function: String,
    },
    /// The kernel did not do its part.
    #[error("cannot {doing} pin {pin}")]
    Call {
        /// What was tried, for example `read the level of`.
        doing: &'static str,
        /// The pin's BCM number.
        pin: u8,
        /// Why.
        source: io::Error,
    },
    /// The chip's registers cannot be used.
    #[error("cannot use the chip's registers")]
    Registers(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The pin is driven, and does not show it.
    #[error("pin {pin} was set {level} and reads back {}", level.other())]
    Stuck {
        /// The pin's BCM number.
        pin: u8,
        /// What it was set to.
        level: Level,
    },
}

impl GpioError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotEnabled => "build pilab with the feature gpio: cargo build --features gpio",
            Self::NoChip { wanted: None } => {
                "run the coordinator on the Raspberry Pi that the relays are wired to; its kernel must show \
                 /dev/gpiochip* (pinctrl-bcm2835, pinctrl-rp1)"
            }
            Self::NoChip { .. } | Self::Foreign { .. } => {
                "leave `chip` out, then the header's is taken; for other chips use driver = \"command\" with a \
                 program of yours"
            }
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "add the user that the lab runs as to the group gpio"
            }
            Self::Busy { .. } => {
                "end what has it (another coordinator, gpioset, a device tree overlay), or use another pin"
            }
            Self::Function { .. } => {
                "use another pin, or turn that function off in config.txt (enable_uart, dtparam=i2c_arm, …)"
            }
            Self::Registers(_) => {
                "gpio-rppal needs /dev/gpiomem, which Raspberry Pi's own kernels have, or /dev/mem with \
                 iomem=relaxed on the kernel's command line; gpio-cdev needs neither"
            }
            Self::Stuck { .. } => "something else drives this pin: look for a short circuit, and measure it",
            Self::Open { .. } | Self::Call { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
