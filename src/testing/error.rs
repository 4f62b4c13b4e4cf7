//! What can go wrong for a test that uses devices.

use crate::bus::error::BusError;
use crate::config::error::ConfigError;
use crate::model::boot::BootStage;
use crate::model::id::DeviceId;
use crate::support::command::CommandError;
use std::time::Duration;

/// A test cannot use the lab, or its device did not do what was awaited.
#[derive(Debug, thiserror::Error)]
pub enum TestingError {
    /// No login is named.
    #[error("PILAB_LOGIN names no login file; an admin makes one with: pilab login NAME -o FILE")]
    NoLogin,
    /// The login file is wrong.
    #[error(transparent)]
    Login(#[from] ConfigError),
    /// The lab's NATS server cannot be reached.
    #[error("cannot connect to lab {lab} at {url}")]
    Connect {
        /// The lab.
        lab: String,
        /// Where.
        url: String,
        /// Why.
        source: BusError,
    },
    /// The coordinator did not answer, or not in a way that makes sense.
    #[error("the coordinator did not answer {verb:?}")]
    Request {
        /// The request.
        verb: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The coordinator refused.
    #[error("the coordinator refused {verb:?}: {cause}")]
    Refused {
        /// The request.
        verb: &'static str,
        /// Why.
        cause: String,
        /// What to try.
        hint: Option<String>,
    },
    /// No device has this role.
    #[error("no device was reserved in the role {role:?}")]
    NoRole {
        /// The role.
        role: String,
    },
    /// What was awaited had not come in time.
    #[error("{what} did not come within {} s; last seen: {last}", within.as_secs_f64())]
    Late {
        /// What was awaited.
        what: String,
        /// For how long.
        within: Duration,
        /// What was seen instead.
        last: String,
    },
    /// The device is in trouble while something else is awaited.
    #[error("{device} shows {stage} while {what} is awaited")]
    Trouble {
        /// The device.
        device: DeviceId,
        /// What it shows.
        stage: BootStage,
        /// What was awaited.
        what: String,
    },
    /// A regular expression makes no sense.
    #[error("{pattern:?} is no regular expression")]
    Pattern {
        /// The expression.
        pattern: String,
        /// Why.
        source: Box<regex::Error>,
    },
    /// A name that the lab would refuse.
    #[error("{0}")]
    Name(String),
    /// A program was not run on the device to its end: `pilab`, which is looked for in `PATH` or where `PILAB_BIN` says, is
    /// not there, or it took too long, or wrote too much.
    #[error("cannot run a program by pilab ssh")]
    Program(#[from] CommandError),
    /// No thread of its own can be had to give the devices back from.
    #[error("cannot start a runtime to give the devices back")]
    Runtime {
        /// Why.
        source: std::io::Error,
    },
}
