//! What can go wrong with a power switch.

use super::gpio::GpioError;
use crate::support::command::CommandError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A power switch could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The description of the switch cannot be used.
    #[error("the switch's {what} cannot be used")]
    Description {
        /// Which part of it.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The password cannot be read.
    #[error("cannot read the password in {}", path.display())]
    Password {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The device has no switch.
    #[error("no power switch is wired to the device")]
    Unwired,
    /// The program did not do what it was asked.
    #[error("the program that switches failed")]
    Command(#[source] CommandError),
    /// The pin of its relay cannot be used.
    #[error(transparent)]
    Gpio(GpioError),
    /// Nobody accepts a connection there.
    #[error("it cannot be reached")]
    Connect(#[source] reqwest::Error),
    /// The exchange broke after it had begun.
    #[error("it was lost in the middle of an exchange")]
    Exchange(#[source] reqwest::Error),
    /// It did not answer in time.
    #[error("it did not answer within {} s", timeout.as_secs_f64())]
    TimedOut {
        /// The bound.
        timeout: Duration,
    },
    /// It does not let us.
    #[error("it refused the credentials, or wants some: {answer}")]
    Denied {
        /// The beginning of its answer, or what it wants.
        answer: String,
    },
    /// It answered with an error.
    #[error("it answered {status}: {answer}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of its answer.
        answer: String,
    },
    /// Its answer has no end.
    #[error("it answered with more than {limit} bytes")]
    TooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// Its answer tells nothing that is known.
    #[error("its answer is not understood: {answer}")]
    Answer {
        /// The beginning of its answer.
        answer: String,
    },
}

impl PowerError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Description { .. } => "correct `power` of this device in the lab file",
            Self::Password { .. } => "make the file, for its owner alone (mode 0600)",
            Self::Unwired => {
                "wire a switch and describe it in the lab file (docs/wiring.md), or switch it by hand"
            }
            Self::Command(CommandError::Missing { .. }) => {
                "install the program, or name it by its path in the lab file"
            }
            Self::Command(_) => "try the command by hand, as the user that the lab runs as",
            Self::Connect(_) | Self::TimedOut { .. } => {
                "check that the switch has power and network, and its address in the lab file"
            }
            Self::Denied { .. } => "check `user` and `password_file` of the switch in the lab file",
            Self::Status { status: 300..400, .. } => {
                "redirects are not followed: write the address that it points to"
            }
            Self::Status { .. } | Self::Answer { .. } => {
                "check `kind` and `switch` in the lab file against what the switch is"
            }
            Self::Gpio(error) => return error.hint(),
            Self::TooLong { .. } | Self::Exchange(_) => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the switch may have done what it was told all the same.
    pub(super) fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Exchange(_) | Self::TimedOut { .. } | Self::TooLong { .. })
    }
}
