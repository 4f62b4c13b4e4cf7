//! What happens at a server of boot files, TFTP or HTTP, for those who watch a device boot.

use super::content::Refusal;
use super::packet::Malformed;
use super::path::PathError;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One fact about one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEvent {
    /// When.
    pub at: Instant,
    /// Who asked.
    pub peer: SocketAddr,
    /// What for: the path in the tree, or, if it is none, the name as it came, made printable and cut.
    pub path: Arc<str>,
    /// What happened.
    pub what: FileProgress,
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileProgress {
    /// The file is there, and the answer is on its way.
    Requested {
        /// Its length in bytes.
        length: u64,
        /// Bytes of a block; 0 over HTTP, which has none.
        block_size: u16,
        /// Blocks between two acknowledgements; 0 over HTTP.
        window: u16,
    },
    /// Its first block is on its way.
    FirstByte,
    /// The client has it all.
    Done {
        /// Its length in bytes.
        bytes: u64,
        /// From the request to the last acknowledgement.
        took: Duration,
        /// Whether the client acknowledged the last block.
        confirmed: bool,
    },
    /// It ended before the file was there.
    Aborted {
        /// How many bytes the client has.
        bytes: u64,
        /// Since the request.
        took: Duration,
        /// Why.
        cause: Abort,
    },
    /// It was not answered with a file.
    Refused(Refused),
}

/// Why a transfer ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Abort {
    /// The client ended it; with code 0 it had learnt what it wanted, which Pis do all the time.
    Client {
        /// RFC 1350's code.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The client answered nothing any more.
    Stalled,
    /// The same client began anew, or had too many at once; the oldest went.
    Replaced,
    /// The file could not be read.
    Unreadable(String),
    /// The server ends.
    Closed,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The packet is not one.
    Malformed(Malformed),
    /// The name is none.
    Path(PathError),
    /// The files' owner says so.
    File(Refusal),
    /// Only the mode `octet` is served.
    Mode,
    /// Nothing can be written here.
    Write,
    /// The address asks too fast. Told once a second; it gets no answer.
    TooFast,
    /// All transfers are taken.
    Full,
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client { code, message } => write!(f, "the client ended it: error {code} {message}"),
            Self::Stalled => f.write_str("the client answers no more"),
            Self::Replaced => f.write_str("the client began anew"),
            Self::Unreadable(cause) => write!(f, "the file cannot be read: {cause}"),
            Self::Closed => f.write_str("the server ends"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(cause) => write!(f, "the packet is not one: {cause}"),
            Self::Path(cause) => cause.fmt(f),
            Self::File(cause) => cause.fmt(f),
            Self::Mode => f.write_str("only the mode octet is served"),
            Self::Write => f.write_str("nothing can be written here"),
            Self::TooFast => f.write_str("the address asks too fast"),
            Self::Full => f.write_str("too many transfers at once"),
        }
    }
}
