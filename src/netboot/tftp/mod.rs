//! A TFTP server for boot ROMs: read only, `octet` only, from files that somebody else names.
//!
//! ```text
//!   port 69 ──► requests ─┐                ┌─► pace    how often an address asks
//!   a few ports ◄─► ACK,  ├─► server ──► table        which transfer; the bounds ──► events
//!   DATA, OACK, ERROR ────┘ (one thread)  └─► transfer  one file to one client
//!                                  ▲
//!                                  └── BootFiles: (who, path) → bytes, a file, or a refusal
//! ```
//!
//! [`packet`], [`pace`], [`transfer`] and [`table`] decide, without I/O; [`server`] holds the sockets. The answer
//! comes from another port than the request went to, as RFC 1350 §4 has it; boot ROMs rely on that.
//!
//! Memory: 64 KiB for each running transfer of a file on disk, so 16 MiB for 256 (`content`), and 64 KiB for
//! the packets on their way.

pub mod content;
pub mod event;
pub mod packet;
pub mod path;
pub mod server;
mod socket;
pub mod table;
pub mod transfer;

pub use content::{BootFiles, Content, Refusal};
pub use event::{Abort, FileEvent, FileProgress, Refused};
pub use path::BootPath;
pub use server::{TftpError, TftpOptions, TftpServer};
pub use table::Limits;
