//! What happens at the DHCP responder, for those who watch a device boot.

use super::super::mac::Mac;
use super::wire::Malformed;
use crate::model::id::DeviceId;
use std::fmt;
use std::net::Ipv4Addr;
use tokio::time::Instant;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpEvent {
    /// When.
    pub at: Instant,
    /// What.
    pub what: DhcpNews,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DhcpNews {
    /// A device asks who is there.
    Discovered {
        /// Which.
        device: DeviceId,
        /// Whether its boot ROM asks; otherwise a system that runs on it.
        boots: bool,
    },
    /// It was offered an address, or, beside another server, its boot files.
    Offered {
        /// Which.
        device: DeviceId,
        /// The address; none beside another server.
        address: Option<Ipv4Addr>,
    },
    /// It has its address.
    Acknowledged {
        /// Which.
        device: DeviceId,
        /// The address.
        address: Ipv4Addr,
    },
    /// It asked for an address that is not its own, and was told so.
    Denied {
        /// Which.
        device: DeviceId,
        /// What it asked for.
        asked: Option<Ipv4Addr>,
    },
    /// It found its address in use by somebody else on the wire.
    Declined {
        /// Which.
        device: DeviceId,
        /// The address.
        address: Option<Ipv4Addr>,
    },
    /// Somebody asked whom the lab does not know, and got no answer. Told once in half a minute.
    Stranger {
        /// Its network card.
        mac: Mac,
        /// Its class (option 60).
        class: Option<String>,
        /// The low 32 bits of the serial number that it sent.
        serial: Option<u32>,
        /// The device that is said to have that serial number: then its MAC address is wrong in the lab file.
        looks_like: Option<DeviceId>,
    },
    /// The MAC address is a device's, the serial number is not: the lab file or the cables are wrong. It got no
    /// answer. Told once in half a minute.
    Contradiction {
        /// Whose MAC address it is.
        device: DeviceId,
        /// The serial number of that device.
        known: u32,
        /// The one that was sent.
        sent: u32,
    },
    /// Packets come as a device's, more than any device sends, and get no answer beyond a bound. Told once in half a minute.
    Flooded {
        /// Whose MAC address they bear.
        device: DeviceId,
    },
    /// Another DHCP server answers on this wire. Told once in half a minute.
    OtherServer {
        /// Its address, as it says.
        server: Ipv4Addr,
        /// Whether it is the one that we are set beside.
        expected: bool,
        /// About whose network card.
        mac: Mac,
        /// The address that it gave, if that was seen.
        gave: Option<Ipv4Addr>,
    },
    /// Something came that is no DHCP. Told once in half a minute.
    Malformed(Malformed),
}

impl fmt::Display for DhcpNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovered { device, boots: true } => {
                write!(f, "{device}: the boot ROM asks for an address")
            }
            Self::Discovered { device, .. } => write!(f, "{device}: its system asks for an address"),
            Self::Offered { device, address: Some(address) } => write!(f, "{device}: offered {address}"),
            Self::Offered { device, .. } => write!(f, "{device}: told where its files are"),
            Self::Acknowledged { device, address } => write!(f, "{device}: has {address}"),
            Self::Denied { device, asked } => match asked {
                Some(asked) => write!(f, "{device}: asked for {asked}, which is not its own"),
                None => write!(f, "{device}: asked for no address"),
            },
            Self::Declined { device, .. } => write!(f, "{device}: somebody else on the wire has its address"),
            Self::Stranger { mac, looks_like: Some(device), .. } => {
                write!(f, "{mac} is not in the lab file, but has the serial number of {device}")
            }
            Self::Stranger { mac, .. } => write!(f, "{mac} is not in the lab file"),
            Self::Contradiction { device, known, sent } => {
                write!(f, "{device}: the serial number is {sent:08x}, the lab file says {known:08x}")
            }
            Self::Flooded { device } => {
                write!(
                    f,
                    "{device}: asks so often that not all of it is answered, or somebody does in its name"
                )
            }
            Self::OtherServer { server, mac, expected: true, .. } => {
                write!(f, "the DHCP server {server} serves {mac}")
            }
            Self::OtherServer { server, mac, .. } => {
                write!(f, "there is another DHCP server on this wire: {server}, and {mac} heard it")
            }
            Self::Malformed(cause) => write!(f, "a packet is no DHCP: {cause}"),
        }
    }
}
