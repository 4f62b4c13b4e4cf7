//! Adapters of the port `ByteStream`: the serial lines of wired devices. Terminal devices by their stable
//! names, TCP servers that pass bytes on as they are (ser2net in raw mode), unix sockets.
//!
//! A line that goes away, for an adapter that is pulled out or a server that is restarted, ends in a read of 0
//! bytes or an error. The console records the gap and opens the line anew, by its name: whatever has that
//! name then is the line.

mod error;
mod socket;
mod tty;

pub use error::SerialError;

use crate::console::port::ByteStream;
use crate::model::wiring::ConsoleLine;
use socket::{Tcp, Unix};
use std::sync::Arc;
use tty::Tty;

/// The line of a console. Nothing is opened yet.
pub fn line(line: ConsoleLine) -> Arc<dyn ByteStream> {
    match line {
        ConsoleLine::Tty { path, baud } => Arc::new(Tty::new(path, baud)),
        ConsoleLine::Tcp { address } => Arc::new(Tcp::new(address)),
        ConsoleLine::Unix { path } => Arc::new(Unix::new(path)),
    }
}
