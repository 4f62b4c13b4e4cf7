//! What can go wrong on the bus. async-nats' errors print their source and also return it, so they are
//! wrapped here, once, in [`NatsError`], which has no source of its own.

use std::fmt;
use std::time::Duration;

/// An async-nats error with its sources, as one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsError(String);

impl NatsError {
    /// Keeps the text of `error`, which is that of its sources too.
    pub fn new(error: &dyn fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for NatsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NatsError {}

/// An operation on the bus failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The credentials are not a NATS creds file's text.
    #[error("the NATS credentials cannot be read")]
    Credentials {
        /// Why.
        source: std::io::Error,
    },
    /// The files for TLS cannot be used.
    #[cfg(feature = "coordinator")]
    #[error("no connection by TLS can be made")]
    Tls(#[source] super::tls::TlsError),
    /// No connection within the time given.
    #[error("cannot connect to NATS at {url}")]
    Connect {
        /// Where.
        url: String,
        /// The last attempt's failure.
        source: NatsError,
    },
    /// The servers know their clients by certificates.
    #[cfg(feature = "coordinator")]
    #[error("{url} asks for a certificate, and none is named: `cert` and `key`")]
    NoCertificate {
        /// Where.
        url: String,
    },
    /// This process may not change what is kept.
    #[error("nothing is written: {cause}")]
    Lapsed {
        /// Why not.
        cause: String,
    },
    /// The message could not be handed to the connection.
    #[error("cannot publish to {subject}")]
    Publish {
        /// Where to.
        subject: String,
        /// Why.
        source: NatsError,
    },
    /// What was published could not be written out.
    #[error("cannot flush the NATS connection")]
    Flush {
        /// Why.
        source: NatsError,
    },
    /// The subscription was not accepted by the connection.
    #[error("cannot subscribe to {subject}")]
    Subscribe {
        /// To what.
        subject: String,
        /// Why.
        source: NatsError,
    },
    /// The request could not be made.
    #[error("cannot request {subject}")]
    Request {
        /// What was asked.
        subject: String,
        /// Why.
        source: NatsError,
    },
    /// Nobody listens there: no such responder, stream or consumer.
    #[error("nobody answers on {subject}")]
    NoResponders {
        /// What was asked.
        subject: String,
    },
    /// No answer in time.
    #[error("no answer on {subject} within {} ms", timeout.as_millis())]
    TimedOut {
        /// What was asked.
        subject: String,
        /// The bound.
        timeout: Duration,
    },
    /// The server refused: these credentials may not publish there.
    #[error("these credentials may not publish to {subject}")]
    Denied {
        /// Where to.
        subject: String,
    },
    /// JetStream answered with an error.
    #[error("JetStream refused {subject}: {description} (code {code}, error {err_code})")]
    Refused {
        /// What was asked.
        subject: String,
        /// HTTP-like status.
        code: u64,
        /// nats-server's error number (`errors.json` in its source).
        err_code: u64,
        /// In words.
        description: String,
    },
    /// A compare-and-set lost: somebody else wrote the key.
    #[error("{key} in bucket {bucket} is no longer at revision {expected}")]
    Conflict {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The revision that was expected; 0 means that the key had never been written.
        expected: u64,
    },
    /// An answer does not have the form that JetStream documents.
    #[error("the answer on {subject} cannot be understood: {problem}")]
    Malformed {
        /// What was asked.
        subject: String,
        /// What is wrong with it.
        problem: String,
    },
}
