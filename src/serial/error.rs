//! What can go wrong with a serial line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A serial line could not do its part. Consoles get it inside an [`io::Error`] of a fitting kind.
#[derive(Debug, thiserror::Error)]
pub enum SerialError {
    /// The terminal device cannot be opened: it is not there, or may not be used.
    #[error("cannot open {}", path.display())]
    Tty {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program has the terminal device.
    #[error("{} is in use by another program: ModemManager, brltty, a terminal?", path.display())]
    InUse {
        /// Its name.
        path: PathBuf,
    },
    /// Nobody accepts a connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A connection is not made in time.
    #[error("{address} did not accept a connection within {} s", timeout.as_secs())]
    TimedOut {
        /// Where.
        address: String,
        /// The bound.
        timeout: Duration,
    },
    /// A BREAK cannot be sent.
    #[error("cannot send a BREAK on {}", path.display())]
    Break {
        /// The line.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<SerialError> for io::Error {
    fn from(error: SerialError) -> Self {
        let kind = match &error {
            SerialError::Tty { source, .. }
            | SerialError::Connect { source, .. }
            | SerialError::Break { source, .. } => source.kind(),
            SerialError::InUse { .. } => io::ErrorKind::ResourceBusy,
            SerialError::TimedOut { .. } => io::ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}
