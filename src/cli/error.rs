//! Why a command could not do its work. A run's verdict is not an error: see [`super::exit`].

use super::exit::Exit;
use crate::bundle::BundleError;
use crate::config::error::ConfigError;
use crate::wire::request::{BUNDLE, BUNDLE_READ, EVENTS};
use std::error::Error;
use std::path::PathBuf;

/// Any error, for what comes from behind the trait [`super::local::Local`].
pub type Source = Box<dyn Error + Send + Sync>;

/// A command that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A lab or scenario file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An argument makes no sense.
    #[error("{what}")]
    Usage {
        /// What is wrong with it.
        what: String,
        /// What to try.
        hint: Option<String>,
    },
    /// This machine could not do its part: a tool is missing, libvirt does not answer, a disk is full.
    #[error("cannot {doing}")]
    Local {
        /// What was tried, for example `start the lab`.
        doing: String,
        /// Why it could not be.
        source: Source,
        /// What to try.
        hint: Option<String>,
    },
    /// The lab's NATS server cannot be reached.
    #[error("cannot connect to the lab at {url}")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        source: Source,
    },
    /// The lab of a login does not answer.
    #[error("lab {lab} does not answer at {url}")]
    NoLab {
        /// The lab.
        lab: String,
        /// Where.
        url: String,
        /// Why.
        source: Source,
    },
    /// A request got no answer, or one that makes no sense.
    #[error("the coordinator did not answer \"{verb}\"")]
    Request {
        /// The request.
        verb: &'static str,
        /// Why.
        source: Source,
    },
    /// The coordinator refused a request.
    #[error("the coordinator refused \"{verb}\": {cause}")]
    Refused {
        /// The request.
        verb: &'static str,
        /// Why.
        cause: String,
        /// What to try.
        hint: Option<String>,
    },
    /// A bundle's file cannot be trusted.
    #[error("the bundle of run {run} is not usable: {cause}")]
    Bundle {
        /// The run.
        run: String,
        /// What is wrong.
        cause: String,
    },
    /// A bundle that is here cannot be written or read.
    #[error(transparent)]
    Evidence(#[from] BundleError),
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The JUnit report cannot be put into words.
    #[error("cannot make the JUnit report")]
    JUnit {
        /// Why.
        source: Source,
    },
    /// Standard output cannot be written to. A reader who has left (`EPIPE`) is not an error.
    #[error("cannot write to standard output")]
    Output {
        /// Why.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals {
        /// Why.
        source: std::io::Error,
    },
    /// The command's own display broke.
    #[error("a fault in pilab itself: {what}")]
    Panicked {
        /// What the panic said.
        what: String,
    },
    /// Somebody stopped it.
    #[error("stopped")]
    Cancelled,
}

impl CliError {
    /// `doing` failed on this machine for the reason `source`.
    pub fn local(doing: impl Into<String>, source: impl Into<Source>) -> Self {
        Self::Local { doing: doing.into(), source: source.into(), hint: None }
    }

    /// Adds what to try, where the error has room for it.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        if let Self::Usage { hint, .. } | Self::Local { hint, .. } | Self::Refused { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// What to try, if anything is known to help.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Usage { hint, .. } | Self::Local { hint, .. } | Self::Refused { hint, .. } => {
                hint.as_deref()
            }
            Self::Config(error) => error.hint(),
            Self::Evidence(error) => error.hint(),
            Self::NoLab { .. } => {
                Some("its coordinator is not running, or the login is from before its move")
            }
            Self::Panicked { .. } => {
                Some("please report it, with the output of the same command and --verbose")
            }
            _ => None,
        }
    }

    /// What the command ends with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Usage { .. } | Self::Evidence(BundleError::Pattern { .. }) => Exit::Usage,
            // What a run has left the coordinator should have known; everything else is refused for what is asked.
            Self::Refused { verb: EVENTS | BUNDLE | BUNDLE_READ, .. } => Exit::Lab,
            Self::Refused { .. } => Exit::Usage,
            Self::Cancelled => Exit::Cancelled,
            _ => Exit::Lab,
        }
    }
}
