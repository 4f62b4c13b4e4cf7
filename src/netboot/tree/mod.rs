//! What a board finds on the network: one tree of files for each boot attempt of each device. Nothing of it
//! is written anywhere.
//!
//! ```text
//!   artefacts (path → file on disk or bytes) ─┐
//!   kernel, initramfs, device tree            ├─► build ──► BootTree ──┐
//!   config.txt, cmdline.txt: made             ┘                        ▼
//!                                  who asks, for which path ──► Forest ──► Source, or why not
//! ```
//!
//! - A path begins with a **prefix**: the low 32 bits of the serial number (`9ffefdef/`), or the MAC address
//!   (`dc-a6-32-01-36-c2/`, EEPROM setting `TFTP_PREFIX=2`).
//! - At the root there is nothing but `bootcode.bin`, for a Pi 3. A Pi that finds no firmware under its prefix looks at the
//!   root; whatever lay there, it would boot another board's files.
//! - A machine with UEFI finds one program, `vmlinuz.efi`, which holds kernel, initramfs and arguments.
//! - Files with which a Pi rewrites its EEPROM are never in a tree (`pieeprom.*`, `recovery.*` and their like).

mod build;
mod forest;
mod uefi;

pub use build::{Firmware, TreeError, TreeSpec, UEFI_STUB};
pub use forest::{Forest, Resident};

use super::tftp::content::{Content, Refusal};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Here.
    Bytes(Bytes),
    /// On disk.
    File(PathBuf),
    /// Several, one after the other.
    Joined(Vec<Source>),
}

impl Source {
    /// Opens what is on disk.
    pub(super) fn open(&self) -> Result<Content, Refusal> {
        match self {
            Self::Bytes(bytes) => Ok(Content::Bytes(bytes.clone())),
            Self::File(file) => Content::open(file)
                .map_err(|error| Refusal::Unreadable(format!("{}: {error}", file.display()))),
            Self::Joined(parts) => parts.iter().map(Self::open).collect::<Result<_, _>>().map(Content::join),
        }
    }
}

/// The files of one boot attempt, by their paths below the prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTree {
    files: BTreeMap<String, Source>,
    /// What a Pi 3 finds at the root.
    bootcode: Option<Source>,
}

impl BootTree {
    /// The file at a path below the prefix.
    pub fn get(&self, path: &str) -> Option<&Source> {
        self.files.get(path)
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }
}
