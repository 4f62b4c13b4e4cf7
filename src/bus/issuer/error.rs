//! What can go wrong with the issuer.

use crate::bus::error::BusError;
use crate::bus::jwt::JwtError;
use crate::model::id::LabName;
use std::io;
use std::path::PathBuf;

/// What the keys of a site, or its servers, do not allow.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The keys are another lab's.
    #[error("{} holds the keys of lab {lab}, not of {wanted}", path.display())]
    OtherLab {
        /// The file.
        path: PathBuf,
        /// Whose they are.
        lab: LabName,
        /// Whose they should be.
        wanted: LabName,
    },
    /// The record of issued credentials cannot be read or written.
    #[error("what was issued cannot be recorded where the lab's next coordinator finds it")]
    Share(#[source] BusError),
    /// It holds something else.
    #[error("the record of what was issued is not understood")]
    Record(#[source] serde_json::Error),
    /// It is another program's.
    #[error("the record of what was issued has version {version}; known is {known}")]
    RecordVersion {
        /// The version.
        version: u32,
        /// The known one.
        known: u32,
    },
    /// More credentials are in use than a message holds.
    #[error("the record of what was issued has {size} bytes; at most {limit} are kept: take logins back")]
    RecordTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

/// The issuer could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// A file of the issuer cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the issuer holds something else.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never quotes the file.
        problem: String,
    },
    /// Others than the owner may read the keys.
    #[error("{} can be read by others (mode {mode:o}); it holds the lab's keys and must have mode 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name that would share its inbox with somebody else.
    #[error("{name:?} cannot be the name of a {kind} of lab {lab}: {problem}")]
    Name {
        /// The name.
        name: String,
        /// `device` or `user`.
        kind: &'static str,
        /// The lab.
        lab: LabName,
        /// Which rule it breaks.
        problem: &'static str,
    },
    /// A credential could not be made.
    #[error("cannot issue a credential")]
    Jwt(#[from] JwtError),
    /// A key pair without its seed.
    #[error("a key of the issuer has no seed")]
    Seed(#[source] nkeys::error::Error),
    /// A server of the lab's own is to be started with a site's keys.
    #[error("the keys are a site's: its servers know them")]
    NotOwn,
    /// The lab is on its site's servers, and something is amiss with that.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// The server could not be reached with a revocation. It is recorded, and part of the next push and of
    /// the server's next start.
    #[error("the lab's account is not known to the NATS server as it is recorded")]
    Push(#[source] BusError),
    /// The server did not take a revocation, which stays recorded.
    #[error("the NATS server refused the lab's account: {answer}")]
    PushRefused {
        /// Its words, cut to 300 characters.
        answer: String,
    },
}
