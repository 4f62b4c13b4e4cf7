//! What can go wrong with bundles.

use std::io;
use std::path::PathBuf;

/// A bundle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is there is no bundle.
    #[error("{} is no bundle: {cause}", path.display())]
    NotOne {
        /// What.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// A newer version wrote it.
    #[error("{} has layout {version}; known are layouts up to {known}", path.display())]
    Newer {
        /// Which bundle.
        path: PathBuf,
        /// Its layout.
        version: u32,
        /// The greatest that this program knows.
        known: u32,
    },
    /// A file of the bundle is not as it was written.
    #[error("{file:?} of {}: {cause}", path.display())]
    Damaged {
        /// The bundle.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// What is wrong.
        cause: String,
    },
    /// A file of the bundle has more than is held in memory.
    #[error("{file:?} of {} has more than the {most} bytes that are read of a file", path.display())]
    TooLarge {
        /// The bundle.
        path: PathBuf,
        /// The file in it.
        file: String,
        /// How much is read.
        most: u64,
    },
    /// The bundle has no such file.
    #[error("{} has no file {file:?}", path.display())]
    NoSuchFile {
        /// The bundle.
        path: PathBuf,
        /// The file's path, cut to 200 characters.
        file: String,
    },
    /// A value has no JSON form.
    #[error("cannot write {what} as JSON")]
    Json {
        /// What.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// A pattern of what to hide makes no sense.
    #[error("{pattern:?} is no pattern")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// Why.
        source: Box<regex::Error>,
    },
}

impl BundleError {
    /// What to try, if anything is known to help.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Newer { .. } => Some("use the version of pilab that wrote it, or a newer one"),
            Self::Damaged { .. } => {
                Some("pilab bundle verify names all that is damaged; the rest can be read")
            }
            Self::NotOne { .. } => {
                Some("a bundle is a directory with a bundle.json, or a .tar that pilab wrote")
            }
            _ => None,
        }
    }
}
