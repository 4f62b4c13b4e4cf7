//! Simulated parts of a lab, for its tests and for demonstrations: they behave as the real ones do, faults
//! included, and know nothing of the drivers that they are to try.
//!
//! [`Rack`] is all of a board's way from its relay to its kernel, without a board:
//!
//! ```text
//!   port Power ──► supply: relay, contact, supply, charge ──► board ──► rom: DHCP, TFTP, as a Pi does it
//!   pseudo terminal ◄── uart ◄── what loader and kernel say ◄──┤
//!                                                              └──► qemu, or a stub: the kernel that came, on a card in net
//! ```

mod board;
mod error;
mod line;
mod net;
mod plug;
mod qemu;
mod rack;
pub mod rom;
mod stub;
pub mod supply;
mod sweep;
mod trigger;
mod uart;

pub use board::{BoardState, Doing};
pub use error::SimError;
pub use line::PtyLine;
pub use net::Ports;
pub use plug::{Plug, PlugFault, PlugKind, PlugOptions};
pub use rack::{BoardSpec, Rack, RackOptions, Wires, tty_of};
pub use sweep::sweep;
