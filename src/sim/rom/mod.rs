//! What a Raspberry Pi does between power-on and its kernel, as a state machine without I/O: packets and the time in,
//! packets, console text and, in the end, the files that it has loaded, out.
//!
//! ```text
//!   power ──► Start ──► Link ──► Dhcp ──────────► Files ──────────► Loaded
//!                        │        │ no answer       │ a file is missing, or does not come
//!                        │        ▼                 ▼
//!                     no link   3B: dead        4, 5: a pause, again, up to 3 times; then restart
//!                               4, 5: again
//! ```
//!
//! Which packets, in which order, and what of the answers is believed, is that of the boards (sources: the packet captures
//! and boot logs in the issues of raspberrypi/firmware and raspberrypi/rpi-eeprom that the comments name, and
//! raspberrypi/documentation). It is written for itself, and shares nothing with the servers that it tries.
//!
//! The times of silicon are shortened: a board takes two to five seconds until its link is up, this one half a second.
//! Time-outs and retries are the boards' own.

mod act;
pub mod config_txt;
pub mod dhcp;
pub mod files;
mod machine;
pub mod tftp;
mod uart;

pub use act::{Act, Halt, Loaded, LoadedFile, Reset, RomFaults};
pub use machine::Rom;

use crate::model::device::Model;
use std::net::Ipv4Addr;

/// How a board boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chip {
    /// Boot ROM of BCM2837, `bootcode.bin`, `start.elf`.
    Three,
    /// EEPROM of a Pi 4, `start4.elf`.
    Four,
    /// EEPROM of a Compute Module 4, `start4.elf`.
    FourModule,
    /// EEPROM of a Pi 5, which loads the kernel itself.
    Five,
}

impl Chip {
    /// That of a model; none for what is no Raspberry Pi.
    pub fn of(model: Model) -> Option<Self> {
        match model {
            Model::Pi3B => Some(Self::Three),
            Model::Pi4B => Some(Self::Four),
            Model::Cm4 => Some(Self::FourModule),
            Model::Pi5 => Some(Self::Five),
            _ => None,
        }
    }

    /// The device tree that its firmware takes when nobody names another.
    pub fn device_tree(self) -> &'static str {
        match self {
            Self::Three => "bcm2710-rpi-3-b.dtb",
            Self::Four => "bcm2711-rpi-4-b.dtb",
            Self::FourModule => "bcm2711-rpi-cm4.dtb",
            Self::Five => "bcm2712-rpi-5-b.dtb",
        }
    }

    /// The revision code of a common board of its kind (raspberrypi/documentation, `revision-codes`).
    pub fn revision(self) -> u32 {
        match self {
            Self::Three => 0x00a0_2082,
            Self::Four => 0x00c0_3111,
            Self::FourModule => 0x00c0_3140,
            Self::Five => 0x00c0_4170,
        }
    }
}

/// One board, as its fuses have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How it boots.
    pub chip: Chip,
    /// Its network card.
    pub mac: [u8; 6],
    /// The low 32 bits of its serial number; none where the lab does not know it, and then its EEPROM is set to ask by its
    /// MAC address (`TFTP_PREFIX=2`).
    pub serial: Option<u32>,
}

impl Identity {
    /// The serial number, or one that is as good as any.
    pub fn any_serial(&self) -> u32 {
        let [.., a, b, c, d] = self.mac;
        self.serial.unwrap_or(u32::from_be_bytes([a, b, c, d]))
    }

    /// With colons.
    pub fn mac_text(&self) -> String {
        pairs(&self.mac, ":")
    }

    /// What its paths begin with, a slash at the end. A Pi 5 writes two (raspberrypi/rpi-eeprom 687).
    pub fn prefix(&self) -> String {
        let name = match self.serial {
            Some(serial) => format!("{serial:08x}"),
            None => pairs(&self.mac, "-"),
        };
        if self.chip == Chip::Five { format!("{name}//") } else { format!("{name}/") }
    }
}

/// A card's address, each two digits with this between.
pub(super) fn pairs(mac: &[u8; 6], between: &str) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(between)
}

/// What a DHCP server has told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// One's own address.
    pub address: Ipv4Addr,
    /// The network's mask.
    pub mask: Ipv4Addr,
    /// The way out.
    pub router: Option<Ipv4Addr>,
    /// Where the files are.
    pub tftp: Ipv4Addr,
}
