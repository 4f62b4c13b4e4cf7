//! What can go wrong with a virtual rack.

use crate::support::command::CommandError;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// A virtual rack could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// Its wires need root.
    #[error("the wires of a virtual rack need root")]
    NotRoot,
    /// Another process has the rack of this lab.
    #[error("another process has this virtual rack ({} is locked)", lock.display())]
    InUse {
        /// The lock.
        lock: PathBuf,
    },
    /// The model is none that there is a boot loader of.
    #[error("{model} cannot be simulated: it is no Raspberry Pi")]
    Model {
        /// The model.
        model: String,
    },
    /// A board needs QEMU.
    #[error("{program} is not installed")]
    NoQemu {
        /// The program.
        program: &'static str,
    },
    /// A machine needs its firmware.
    #[error("the firmware of machines with UEFI is not installed")]
    NoUefi,
    /// A board needs wires to run a kernel.
    #[error("a kernel needs the wires of a rack, which the loopback is not")]
    NoWires,
    /// A program failed.
    #[error("a tool of the virtual rack failed")]
    Tool(#[from] CommandError),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A socket, a thread or a pseudo terminal cannot be had.
    #[error("cannot open a socket of a simulated board")]
    Socket(#[source] io::Error),
    /// A console's line cannot be had.
    #[error("cannot make the console {}", path.display())]
    Console {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was loaded holds no kernel.
    #[error("what the board has loaded holds no kernel")]
    NoKernel,
    /// What ran in place of a board's processor ended with a failure.
    #[error("{} ended with {status}: {words}", program.display())]
    Machine {
        /// QEMU, or a stub.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
}

impl SimError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot => Some(
                "start it as root; or give the lab a [netboot] address below 127.0.0.0/8, ports from 1024 on, and target = \"rom\""
                    .to_owned(),
            ),
            Self::InUse { .. } => Some("end the other coordinator first".to_owned()),
            Self::NoQemu { .. } => Some("Debian's package qemu-system-arm has it".to_owned()),
            Self::NoUefi => Some("Debian's package qemu-efi-aarch64 has it".to_owned()),
            Self::NoWires => Some("give the lab a [netboot] address of its own, such as 10.77.0.1".to_owned()),
            Self::Tool(CommandError::Missing { program, .. }) if program == "ip" => {
                Some("Debian's package iproute2 has it".to_owned())
            }
            _ => None,
        }
    }
}
