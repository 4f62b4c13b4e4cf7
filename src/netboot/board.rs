//! The boards that boot over a network, what each needs, and why the others cannot.

use crate::model::device::Model;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A Raspberry Pi that boots by DHCP and TFTP.
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

const NAMES: [(Board, &str); 8] = [
    (Board::Pi3B, "pi3b"),
    (Board::Pi3BPlus, "pi3b+"),
    (Board::Pi4B, "pi4b"),
    (Board::Pi400, "pi400"),
    (Board::Cm4, "cm4"),
    (Board::Pi5, "pi5"),
    (Board::Pi500, "pi500"),
    (Board::Cm5, "cm5"),
];

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(board, _)| board == self).map_or("", |(_, name)| name))
    }
}

/// A board that does not boot over a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotNetboot {
    /// It has no Ethernet, and Wi-Fi boot does not exist.
    #[error("{board} has no Ethernet, and no Pi boots over Wi-Fi: boot it from an SD card")]
    NoEthernet {
        /// Its name.
        board: String,
    },
    /// Its boot ROM is too old.
    #[error("the boot ROM of {board} knows no network: boot it from an SD card")]
    OldRom {
        /// Its name.
        board: String,
    },
    /// It is no Raspberry Pi.
    #[error(
        "{board} is no Raspberry Pi that boots over a network: known are pi3b, pi3b+, pi4b, pi400, cm4, pi5, pi500, cm5"
    )]
    Unknown {
        /// Its name.
        board: String,
    },
}

impl FromStr for Board {
    type Err = CannotNetboot;
    fn from_str(name: &str) -> Result<Self, CannotNetboot> {
        if let Some((board, _)) = NAMES.iter().find(|(_, known)| *known == name) {
            return Ok(*board);
        }
        let board = name.chars().take(40).collect();
        Err(match name {
            "zero" | "zero-w" | "zero2w" | "pi3a+" | "pi1a" | "pi1a+" | "cm1" | "cm3" | "cm3+" => {
                CannotNetboot::NoEthernet { board }
            }
            "pi1b" | "pi1b+" | "pi2b" => CannotNetboot::OldRom { board },
            _ => CannotNetboot::Unknown { board },
        })
    }
}

impl TryFrom<Model> for Board {
    type Error = CannotNetboot;
    fn try_from(model: Model) -> Result<Self, CannotNetboot> {
        match model {
            Model::Pi3B => Ok(Self::Pi3B),
            Model::Pi4B => Ok(Self::Pi4B),
            Model::Pi5 => Ok(Self::Pi5),
            Model::Cm4 => Ok(Self::Cm4),
            Model::VmAarch64 | Model::VmX86_64 | Model::Container => {
                Err(CannotNetboot::Unknown { board: model.to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boards_are_known_by_name_and_others_refused_with_the_reason() {
        for (board, name) in NAMES {
            assert_eq!((name.parse(), board.to_string().as_str()), (Ok(board), name));
        }
        let refused = |name: &str| name.parse::<Board>().unwrap_err().to_string();
        assert!(refused("zero2w").contains("no Ethernet"));
        assert!(refused("pi2b").contains("knows no network"));
        assert!(refused("beaglebone").contains("known are pi3b"));
        assert_eq!(Board::try_from(Model::Cm4), Ok(Board::Cm4));
        assert!(Board::try_from(Model::VmAarch64).is_err());
    }
}
