//! What can go wrong with devices that are containers.

use crate::device::ports::PortError;
use crate::support::command::CommandError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A device that is a container, or its podman, could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// podman did not do what it was asked.
    #[error("cannot {doing}")]
    Podman {
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: CommandError,
    },
    /// A file or directory could not be made.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host has control groups of version 1, where only runc works, and no runc.
    #[error("runc is not installed, and this host has control groups of version 1")]
    NoRuntime,
    /// podman's service does not answer on its socket.
    #[error("podman's service did not answer on {} within {} s: {log}", socket.display(), timeout.as_secs())]
    NoService {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
        /// The end of what it said.
        log: String,
    },
    /// podman's service, left by a lab that was killed, could not be ended.
    #[error("cannot end podman's service, process {pid}")]
    Orphan {
        /// Its process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// Monitors of containers did not end with them.
    #[error("processes {pids:?} of the lab's podman were there {} s after its containers", timeout.as_secs())]
    Monitors {
        /// The processes.
        pids: Vec<u32>,
        /// How long they were waited for.
        timeout: Duration,
    },
    /// A device is switched on that has no identity.
    #[error("the device has not been given an identity")]
    NoIdentity,
    /// The agent's container did not start.
    #[error("podman did not start the agent's container ({status}): {output}")]
    NotStarted {
        /// How podman ended.
        status: String,
        /// What it and the agent said.
        output: String,
    },
    /// A command that does not only look at containers.
    #[error("a device that is a container runs no commands; {command:?} is more than podman ps")]
    NoCommands {
        /// The command.
        command: Vec<String>,
    },
}

impl ContainerError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Podman { source: CommandError::Missing { .. }, .. } => "install podman; lab/setup does",
            Self::Podman { source: CommandError::Failed { stderr, .. }, .. }
                if stderr.contains("overlay") =>
            {
                "podman's storage cannot lie on this file system: name a directory on another with \
                 PILAB_STATE_DIR"
            }
            Self::NoRuntime => "install runc; lab/setup does",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// As the port's error for `operation`.
    pub(super) fn into_port(self, operation: String) -> PortError {
        PortError::Failed { operation, hint: self.hint(), source: Box::new(self) }
    }
}

/// Names the file in an error.
pub(super) fn prepare(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ContainerError {
    let path = path.into();
    |source| ContainerError::Prepare { path, source }
}
