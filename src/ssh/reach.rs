//! [`SshReach`]: runs commands on one device and keeps the connection for the next one.
//!
//! sshd in an emulated machine takes seconds to accept a login, so one connection is kept open. It is
//! tied to the address, host key and client key it was made with: another boot attempt, which has
//! another host key, gets a connection of its own.

use super::quote;
use super::session::{Login, Session};
use crate::device::ports::{PortError, PortFuture, Reach, ReachOutput, ReachTarget};
use crate::model::id::DeviceId;
use crate::model::lease::{Fence, FencingToken};
use crate::support::lock::lock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// A command could not be run over SSH.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// A key of the target is not one.
    #[error("the {which} key is not valid")]
    Key {
        /// `host` or `client`.
        which: &'static str,
        /// Why.
        source: russh::keys::ssh_key::Error,
    },
    /// Nothing answered at the address until the deadline.
    #[error("cannot connect to {address} within {} s", timeout.as_secs())]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// The bound.
        timeout: Duration,
        /// What the last try came to.
        source: std::io::Error,
    },
    /// Another host key than the one issued with the boot ticket: this is not our device, or not this
    /// boot of it.
    #[error("{address} shows another host key than the device's")]
    HostKeyMismatch {
        /// Where.
        address: SocketAddr,
    },
    /// The client key is not accepted.
    #[error("{address} refuses the coordinator's key")]
    AuthRefused {
        /// Where.
        address: SocketAddr,
    },
    /// The client key is encrypted, and nobody is asked for passphrases.
    #[error("the private key has a passphrase")]
    Locked,
    /// The user is not root, and may not become root without a password.
    #[error("{user} is not root at {address}, and cannot be by sudo without a password")]
    NoRoot {
        /// Where.
        address: SocketAddr,
        /// As whom.
        user: String,
    },
    /// The device's owner has not said yet that it is the right one.
    #[error("the host key of {device} is not known")]
    Untrusted {
        /// The device.
        device: DeviceId,
    },
    /// A file of the lab's cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A script of ours failed on the device.
    #[error("cannot {doing}: exit code {}: {said}", code.map_or("none".to_owned(), |code| code.to_string()))]
    Failed {
        /// What it was for.
        doing: &'static str,
        /// Its exit code; none when a signal ended it.
        code: Option<i32>,
        /// The end of what it said.
        said: String,
    },
    /// The SSH protocol failed at a step.
    #[error("SSH failed to {step}")]
    Protocol {
        /// At what.
        step: &'static str,
        /// Why.
        source: russh::Error,
    },
    /// The connection ended before the command did.
    #[error("the connection ended before the command did")]
    Lost,
    /// The command did not end in time. It may still run on the device.
    #[error("no end within {} s", timeout.as_secs())]
    TimedOut {
        /// The bound.
        timeout: Duration,
    },
}

impl SshError {
    /// What to try.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Locked => "name a key without a passphrase, good for this device alone: ssh-keygen -N ''",
            Self::NoRoot { user, .. } => {
                return Some(format!(
                    "log in as root, or on the device: echo '{user} ALL=(ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/pilab"
                ));
            }
            Self::Untrusted { device } => return Some(format!("pilab device setup {device} asks for it")),
            Self::Unreachable { .. } => "see the device's console: has it an address, does sshd run?",
            Self::HostKeyMismatch { .. } => {
                "another machine has the device's address, or the device restarted by itself"
            }
            Self::AuthRefused { .. } => "see the device's console: were its boot ticket's files installed?",
            Self::Key { .. }
            | Self::Protocol { .. }
            | Self::Lost
            | Self::TimedOut { .. }
            | Self::Read { .. }
            | Self::Failed { .. } => return None,
        };
        Some(hint.to_owned())
    }
}

/// The standard port (RFC 4253 §4.1).
const SSH_PORT: u16 = 22;

/// How long a kept connection has to open a channel before it counts as dead and a new one is made. A
/// device that is alive answers within a second or two even under emulation.
const REUSE_PATIENCE: Duration = Duration::from_secs(10);

/// Reaches one device. One per device: it has the device's fence.
pub struct SshReach {
    port: u16,
    fence: Mutex<Fence>,
    kept: tokio::sync::Mutex<Option<Arc<Session>>>,
}

impl Default for SshReach {
    fn default() -> Self {
        Self::new()
    }
}

impl SshReach {
    /// On the standard port.
    pub fn new() -> Self {
        Self::on_port(SSH_PORT)
    }

    /// On another port.
    pub fn on_port(port: u16) -> Self {
        Self { port, fence: Mutex::default(), kept: tokio::sync::Mutex::default() }
    }

    async fn run_line(
        &self,
        target: &ReachTarget,
        line: &str,
        timeout: Duration,
    ) -> Result<ReachOutput, SshError> {
        let deadline = Instant::now() + timeout;
        let whole = async {
            let (session, channel) = self.channel(target, timeout, deadline).await?;
            session.run(channel, line, None).await
        };
        let result =
            tokio::time::timeout_at(deadline, whole).await.unwrap_or(Err(SshError::TimedOut { timeout }));
        if matches!(result, Err(SshError::Lost | SshError::TimedOut { .. })) {
            self.forget();
        }
        result
    }

    /// Lets go of the kept connection: a command that did not end may have a dead one under it. Whoever
    /// holds the lock is just replacing it.
    fn forget(&self) {
        if let Ok(mut kept) = self.kept.try_lock() {
            kept.take();
        }
    }

    /// A channel on the kept connection, or on a new one when there is none that works. A command was
    /// not sent yet, so trying again is safe.
    async fn channel(
        &self,
        target: &ReachTarget,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<(Arc<Session>, super::session::Channel), SshError> {
        let login = Login {
            address: SocketAddr::new(target.address, self.port),
            user: "root".to_owned(),
            host_key: target.host_key.clone(),
            client_key: target.client_key.clone(),
        };
        let mut kept = self.kept.lock().await;
        if let Some(session) = kept.take_if(|session| session.is_for(&login)) {
            if let Ok(Ok(channel)) = tokio::time::timeout(REUSE_PATIENCE, session.open()).await {
                *kept = Some(Arc::clone(&session));
                return Ok((session, channel));
            }
            tracing::debug!(address = %target.address, "the kept SSH connection is dead");
        }
        let session = Arc::new(Session::connect(login, timeout, deadline).await?);
        let channel = session.open().await?;
        *kept = Some(Arc::clone(&session));
        Ok((session, channel))
    }
}

impl Reach for SshReach {
    fn run<'a>(
        &'a self,
        token: FencingToken,
        target: &'a ReachTarget,
        command: &'a [String],
        timeout: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async move {
            lock(&self.fence).admit(token)?;
            let line = quote::join(command);
            self.run_line(target, &line, timeout).await.map_err(|error| PortError::Failed {
                operation: format!("run {line} over SSH on {}", target.address),
                hint: error.hint(),
                source: Box::new(error),
            })
        })
    }
}
