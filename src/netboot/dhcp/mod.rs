//! A DHCP server for boot ROMs: a fixed address for each device that the lab file names, or, beside another DHCP
//! server, only where the boot files are. IPv4.
//!
//! ```text
//!   device                                   responder
//!     │ DISCOVER (boot ROM: option 60 "PXEClient…", 97 serial)
//!     ├────────────────────────────────────────►│ known by MAC, serial fits: OFFER, for a 3B after 1.5 s
//!     │◄────────────────────────────────────────┤ else: silence and an event
//!     │ REQUEST (not from a 3B: it takes the offer as it is)
//!     ├────────────────────────────────────────►│ names us, and its own address: ACK
//!     │◄────────────────────────────────────────┤ another address: NAK; another server: silence and an event
//!     │ TFTP to the same address
//! ```
//!
//! [`wire`] reads and writes packets, [`identity`] what a Pi says of itself, [`responder`] decides, without I/O;
//! [`server`] holds the sockets; [`probe`] asks who else
//! is there. What each board needs: [`super::board::Board::quirks`].
//!
//! UEFI firmware beside another DHCP server would also ask on UDP port 4011, which nothing here answers; no Pi does.

pub mod event;
pub mod identity;
pub mod probe;
pub mod responder;
mod seldom;
pub mod server;
pub mod wire;

pub use event::{DhcpEvent, DhcpNews};
pub use identity::Identity;
pub use responder::{Client, Mode, Responder};
pub use server::{DhcpError, DhcpOptions, DhcpServer};
