//! The boards that boot over a network, what each needs, and why the others cannot.

use crate::model::device::Model;
use std::fmt;
use std::time::Duration;

/// What boots by DHCP, and TFTP or HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Board {
    /// 3 Model B: the boot ROM is in the chip, with its faults.
    Pi3B,
    /// 3 Model B+: a boot ROM with most of them mended.
    Pi3BPlus,
    /// 4 Model B.
    Pi4B,
    /// 400.
    Pi400,
    /// Compute Module 4.
    Cm4,
    /// 5.
    Pi5,
    /// 500.
    Pi500,
    /// Compute Module 5.
    Cm5,
    /// A machine with UEFI, 64-bit ARM.
    UefiArm64,
}

/// How a board boots: which files its boot ROM and firmware ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Boot ROM, `bootcode.bin`, `start.elf`.
    Three,
    /// EEPROM, `start4.elf`.
    Four,
    /// EEPROM, which loads the kernel itself.
    Five,
    /// UEFI, which loads one program that holds the kernel.
    Uefi,
}

/// What a board needs of a DHCP server. That the 3B's ROM takes an offer without a REQUEST needs nothing: addresses are
/// fixed. The defaults are right for all boards that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// How long an answer waits. The 3B's ROM runs in circles when offer and first file come within some two
    /// seconds of each other (raspberrypi/firmware 859, 862, 934).
    pub reply_delay: Duration,
    /// The text of the one entry of the boot menu in option 43, by which a Pi knows that an offer is meant for
    /// it. The 3B's ROM reads three bytes more than it was told the length of.
    pub menu: &'static str,
}

impl Board {
    /// How it boots.
    pub fn generation(self) -> Generation {
        match self {
            Self::Pi3B | Self::Pi3BPlus => Generation::Three,
            Self::Pi4B | Self::Pi400 | Self::Cm4 => Generation::Four,
            Self::Pi5 | Self::Pi500 | Self::Cm5 => Generation::Five,
            Self::UefiArm64 => Generation::Uefi,
        }
    }

    /// What it needs of a DHCP server.
    pub fn quirks(self) -> Quirks {
        match self {
            Self::Pi3B => Quirks { reply_delay: Duration::from_millis(1500), menu: "Raspberry Pi Boot   " },
            _ => Quirks { reply_delay: Duration::ZERO, menu: "Raspberry Pi Boot" },
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pi3B => "pi3b",
            Self::Pi3BPlus => "pi3b-plus",
            Self::Pi4B => "pi4b",
            Self::Pi400 => "pi400",
            Self::Cm4 => "cm4",
            Self::Pi5 => "pi5",
            Self::Pi500 => "pi500",
            Self::Cm5 => "cm5",
            Self::UefiArm64 => "uefi-arm64",
        })
    }
}

/// A board that does not boot over a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{model} {why}")]
pub struct CannotNetboot {
    /// Which model.
    model: Model,
    /// Why.
    why: &'static str,
}

impl TryFrom<Model> for Board {
    type Error = CannotNetboot;
    fn try_from(model: Model) -> Result<Self, CannotNetboot> {
        let board = match model {
            Model::Pi3B => Some(Self::Pi3B),
            Model::Pi3BPlus => Some(Self::Pi3BPlus),
            Model::Pi4B => Some(Self::Pi4B),
            Model::Pi400 => Some(Self::Pi400),
            Model::Pi5 => Some(Self::Pi5),
            Model::Pi500 => Some(Self::Pi500),
            Model::Cm4 => Some(Self::Cm4),
            Model::Cm5 => Some(Self::Cm5),
            Model::UefiArm64 => Some(Self::UefiArm64),
            Model::Pi3APlus | Model::Zero2W | Model::VmAarch64 | Model::VmX86_64 | Model::Container => None,
        };
        let why = model.cannot_netboot().unwrap_or("is not known here");
        board.ok_or(CannotNetboot { model, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_model_says_holds_for_the_board() {
        use Model::*;
        let models = [
            Pi3B, Pi3BPlus, Pi3APlus, Pi4B, Pi400, Pi5, Pi500, Cm4, Cm5, Zero2W, UefiArm64, VmAarch64,
            VmX86_64, Container,
        ];
        for model in models {
            match Board::try_from(model) {
                Ok(board) => {
                    assert_eq!((model.cannot_netboot(), board.to_string()), (None, model.to_string()));
                }
                Err(error) => {
                    let why = model.cannot_netboot().expect("a board for each that can");
                    assert_eq!(error.to_string(), format!("{model} {why}"));
                }
            }
        }
    }
}
