//! What a lab's DHCP, TFTP and HTTP servers see of a booting device, as its journal holds it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;

/// One fact. Times are seconds; what a client wrote is made printable and cut before it comes here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum NetbootFact {
    /// The device asked who is there (DHCP DISCOVER).
    Discovered {
        /// Its boot ROM asked; otherwise a system that runs on it.
        boots: bool,
    },
    /// It was offered its address; none beside another server: it was told where its files are.
    Offered {
        /// The address.
        address: Option<Ipv4Addr>,
    },
    /// It has its address.
    Acknowledged {
        /// The address.
        address: Ipv4Addr,
    },
    /// It asked for an address that is not its own, and was told so.
    Denied {
        /// What it asked for.
        asked: Option<Ipv4Addr>,
    },
    /// It found its address in use by somebody else on the wire.
    Declined {
        /// The address.
        address: Option<Ipv4Addr>,
    },
    /// Its MAC address came with a serial number that is not its own: it got no answer.
    Contradicted {
        /// The lab file's, hex.
        known: String,
        /// What was sent, hex.
        sent: String,
    },
    /// Somebody asked whom the lab does not know, and got no answer, while the device was on and had not been heard: it
    /// may be this one, under another MAC address than the lab file's.
    Stranger {
        /// The network card.
        mac: String,
        /// Its class (DHCP option 60).
        class: Option<String>,
        /// The low 32 bits of the serial number that it sent, hex.
        serial: Option<String>,
        /// That is the device's serial number.
        ours: bool,
    },
    /// Another DHCP server answers on the wire.
    OtherServer {
        /// Its address, as it says.
        server: Ipv4Addr,
        /// The address that it gave, if that was seen.
        gave: Option<Ipv4Addr>,
        /// Whether it is the one that the lab's is set beside.
        expected: bool,
    },
    /// It asked for a file, which is there.
    FileAsked {
        /// The path in the device's tree.
        path: String,
        /// The file's length.
        bytes: u64,
    },
    /// It has a file.
    FileDone {
        /// The path.
        path: String,
        /// The file's length.
        bytes: u64,
        /// How long that took.
        took: f64,
    },
    /// It wanted to know whether a file is there, and no more: Pis do that all the time.
    FileProbed {
        /// The path.
        path: String,
    },
    /// It stopped answering within a file.
    FileStalled {
        /// The path.
        path: String,
        /// How much of it the device has.
        bytes: u64,
        /// Since it was asked for.
        took: f64,
    },
    /// A file ended early for another reason.
    FileAborted {
        /// The path.
        path: String,
        /// How much of it the device has.
        bytes: u64,
        /// Why.
        cause: String,
    },
    /// It asked for a file that is not in its tree. Usual: a Pi asks for many that it can do without.
    FileMissing {
        /// The path.
        path: String,
    },
    /// It asked for what it must not have, or what cannot be read.
    FileRefused {
        /// The path.
        path: String,
        /// Why.
        cause: String,
    },
    /// A layer of the root filesystem is on its way over HTTP. Told at its begin, its end, and each tenth between.
    Layer {
        /// Its SHA-256, hex.
        sha256: String,
        /// How many bytes have been sent.
        sent: u64,
        /// How many it has.
        bytes: u64,
    },
}

impl fmt::Display for NetbootFact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovered { boots: true } => f.write_str("the boot ROM asks for an address"),
            Self::Discovered { boots: false } => f.write_str("its system asks for an address"),
            Self::Offered { address: Some(address) } => write!(f, "offered {address}"),
            Self::Offered { address: None } => f.write_str("told where its files are"),
            Self::Acknowledged { address } => write!(f, "has {address}"),
            Self::Denied { asked: Some(asked) } => write!(f, "asked for {asked}, which is not its own"),
            Self::Denied { asked: None } => f.write_str("asked for no address"),
            Self::Declined { .. } => f.write_str("somebody else on the wire has its address"),
            Self::Contradicted { known, sent } => {
                write!(f, "its MAC address came with the serial number {sent}, the lab file says {known}")
            }
            Self::Stranger { mac, ours: true, .. } => {
                write!(f, "{mac}, which is not in the lab file, asks with its serial number")
            }
            Self::Stranger { mac, .. } => {
                write!(f, "{mac}, which is not in the lab file, asks for an address")
            }
            Self::OtherServer { server, expected: true, .. } => {
                write!(f, "the DHCP server {server} serves it")
            }
            Self::OtherServer { server, .. } => {
                write!(f, "there is another DHCP server on this wire: {server}")
            }
            Self::FileAsked { path, bytes } => write!(f, "{path} asked for, {bytes} bytes"),
            Self::FileDone { path, bytes, took } => write!(f, "{path}, {bytes} bytes in {took:.1} s"),
            Self::FileProbed { path } => write!(f, "{path} is there"),
            Self::FileStalled { path, bytes, .. } => {
                write!(f, "{path}: the device answers no more after {bytes} bytes")
            }
            Self::FileAborted { path, bytes, cause } => {
                write!(f, "{path} ended after {bytes} bytes: {cause}")
            }
            Self::FileMissing { path } => write!(f, "{path} is not there"),
            Self::FileRefused { path, cause } => write!(f, "{path} refused: {cause}"),
            Self::Layer { sent, bytes, .. } => {
                let percent = sent.saturating_mul(100).checked_div(*bytes).unwrap_or(100);
                write!(f, "root filesystem, {percent} % of {bytes} bytes")
            }
        }
    }
}
