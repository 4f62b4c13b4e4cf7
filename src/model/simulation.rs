//! How a simulated board is: what runs after its boot loader, and what is wrong with it.

use super::boot::BootStage;
use std::path::PathBuf;
use std::time::Duration;

/// What a simulated board does with what it has loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimTarget {
    /// It runs it, on QEMU's machine `virt`: the kernel and the initramfs, with the kernel's arguments.
    Virt,
    /// The same on QEMU's `raspi3b`, with the device tree and the arguments as they were served: what a 3B has, and as slow as its
    /// emulation is.
    Raspi3b,
    /// This program of the host, on the board's wire and console, stands in for what was loaded.
    Stub(PathBuf),
    /// It stops there.
    Rom,
}

/// By what a simulated machine's UEFI boots from the network. A real one tries one after the other, for a minute or more each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UefiBoot {
    /// PXE: TFTP.
    #[default]
    Pxe,
    /// HTTP.
    Http,
}

/// A simulated board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulation {
    /// What runs after the boot loader.
    pub target: SimTarget,
    /// What is wrong with it.
    pub faults: Vec<ScriptedFault>,
    /// For how long its capacitors keep it alive without supply.
    pub holds: Duration,
    /// Memory of its kernel, in MiB.
    pub memory_mib: u32,
    /// By what its UEFI boots, where it has one.
    pub uefi: UefiBoot,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedFault {
    /// What.
    pub fault: SimFault,
    /// In how many boots, counted from the first: power-ons and restarts; none for all.
    pub boots: Option<u32>,
}

/// What can be wrong with a simulated board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SimFault {
    /// Its cable is not plugged in.
    NoLink,
    /// The switch passes nothing on for this long after the link is up.
    StpDelay(Duration),
    /// Each so-manieth packet to its boot loader is lost.
    LostPackets(u32),
    /// Its boot loader hangs when it comes to this file: it asks for it, and answers no more.
    RomStall(String),
    /// This file arrives with other bytes than were sent.
    CorruptFile(String),
    /// When its console has shown this stage, its supply breaks down for a moment.
    BrownOut(BootStage),
    /// When its console has shown this stage, its console's adapter is pulled out for this long.
    UartPulled(BootStage, Duration),
    /// Nothing comes through its console's line.
    DeadUart,
    /// Its kernel panics.
    KernelPanic,
    /// Its relay's contact, once closed, stays so.
    Welded,
    /// Its relay's contact bounces.
    Chatters,
}

impl SimFault {
    /// Whether it is a simulated boot ROM that has it, or that hands it to its kernel.
    pub fn is_of_a_boot_rom(&self) -> bool {
        match self {
            Self::NoLink
            | Self::StpDelay(_)
            | Self::LostPackets(_)
            | Self::RomStall(_)
            | Self::CorruptFile(_)
            | Self::KernelPanic => true,
            Self::BrownOut(_) | Self::UartPulled(..) | Self::DeadUart | Self::Welded | Self::Chatters => {
                false
            }
        }
    }
}

impl Simulation {
    /// The faults of a boot, counted from 1.
    pub fn faults(&self, boot: u32) -> impl Iterator<Item = &SimFault> {
        let is_of = move |fault: &&ScriptedFault| fault.boots.is_none_or(|boots| boot <= boots);
        self.faults.iter().filter(is_of).map(|fault| &fault.fault)
    }
}
