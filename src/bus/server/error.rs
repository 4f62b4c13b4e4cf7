//! Why there is no server.

use crate::bus::issuer::IssuerError;
use crate::bus::tls::TlsError;
use crate::support::command::CommandError;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The embedded server failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no such program.
    #[error("{program} is not installed")]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// The directory's server belongs to a living process.
    #[error("another process runs the NATS server in {}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The port that was asked for is not free.
    #[error("port {port} of {ip} is taken")]
    PortTaken {
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
    },
    /// No port can be had on the address.
    #[error("cannot listen on {ip}")]
    Listen {
        /// The address.
        ip: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// A file of the server cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The files for TLS cannot be used.
    #[error("the NATS server cannot speak TLS")]
    Tls(#[from] TlsError),
    /// The keys that the server is to trust cannot be had.
    #[error("cannot configure the NATS server")]
    Trust(#[from] IssuerError),
    /// The child process could not be started.
    #[error("cannot start the NATS server")]
    Spawn(#[from] CommandError),
    /// The thread that starts child processes is gone.
    #[error("the NATS server's owner is shutting down")]
    Gone,
    /// The server ended before it was ready.
    #[error("the NATS server ended at its start with {status}; its log ends:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server was not ready in time.
    #[error("the NATS server was not ready within {} s; its log ends:\n{log}", within.as_secs())]
    NotReady {
        /// The bound.
        within: Duration,
        /// The end of its log.
        log: String,
    },
    /// A server that a killed owner left cannot be ended.
    #[error("cannot end the NATS server with pid {pid} that an earlier run left")]
    Orphan {
        /// Its pid.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

impl ServerError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { program } => Some(format!(
                "install the package nats-server (Debian, Ubuntu, Arch), or name the program: {program} was \
                 looked for in PATH and the system's sbin directories"
            )),
            Self::PortTaken { port, .. } => {
                Some(format!("see who has it with `ss -ltnp 'sport = :{port}'`, or choose another port"))
            }
            _ => None,
        }
    }
}
