//! What goes into a boot loader and comes out of it, beside packets and time.

use super::Network;
use super::files::Role;
use crate::model::simulation::SimFault;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Why the board begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Its power came.
    Power,
    /// A watchdog, or its own system, restarted it.
    Warm,
}

/// What is wrong with a board or its surroundings, as far as its loader is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RomFaults {
    /// The link never comes.
    pub no_link: bool,
    /// The link is up, and the switch passes nothing on for this long (spanning tree).
    pub deaf_for: Duration,
    /// Each so-manieth packet that is sent to it is lost; 0 for none.
    pub loses: u32,
    /// It hangs when it comes to this file: it asks for it, and answers no more.
    pub stalls_at: Option<String>,
    /// This file's bytes are not those that were sent.
    pub corrupts: Option<String>,
}

impl RomFaults {
    /// What of a board's faults its loader has.
    pub fn of(faults: &[SimFault]) -> Self {
        let mut rom = Self::default();
        for fault in faults {
            match fault {
                SimFault::NoLink => rom.no_link = true,
                SimFault::StpDelay(long) => rom.deaf_for = *long,
                SimFault::LostPackets(every) => rom.loses = *every,
                SimFault::RomStall(file) => rom.stalls_at = Some(file.clone()),
                SimFault::CorruptFile(file) => rom.corrupts = Some(file.clone()),
                SimFault::BrownOut(_)
                | SimFault::UartPulled(..)
                | SimFault::DeadUart
                | SimFault::KernelPanic
                | SimFault::Welded
                | SimFault::Chatters => {}
            }
        }
        rom
    }
}

/// A file that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFile {
    /// Its name below the prefix.
    pub name: String,
    /// What for.
    pub role: Role,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All that was loaded, in that order, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The board's address.
    pub network: Network,
    /// Its files.
    pub files: Vec<LoadedFile>,
    /// Blocks that came twice without need: on a Pi 4 each may be its end.
    pub needless: u32,
}

impl Loaded {
    /// The file that is this.
    pub fn file(&self, role: Role) -> Option<&LoadedFile> {
        self.files.iter().rev().find(|file| file.role == role)
    }
}

/// Why a board does nothing any more until its power is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// It has given up on the network.
    NoNetwork,
    /// What it loaded cannot be started.
    NotBootable(&'static str),
    /// It hangs, for that is its fault.
    Stalled(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Say this on the console.
    Say(String),
    /// Send this to the DHCP servers, from one's own address if there is one.
    Ask(Vec<u8>),
    /// Have this address from now on.
    Address(Network),
    /// Open this port for the file that is asked for now; that of the file before is closed.
    Open(u16),
    /// Send this from there; to the server's port for requests, where no other is given.
    Send(Vec<u8>, Ipv4Addr, Option<u16>),
    /// Start what was loaded.
    Start(Box<Loaded>),
    /// Nothing more.
    Halt(Halt),
}
