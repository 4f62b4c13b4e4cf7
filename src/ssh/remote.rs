//! Scripts of ours, run as root on a device that boots from its own card.
//!
//! A script is a constant, and what differs from device to device is its arguments and its input: nothing is put together
//! into shell text. Secrets come by the input, for everybody on a device can read arguments.

use super::quote;
use super::reach::SshError;
use super::session::{Login, Session, host_key};
use crate::device::ports::ReachOutput;
use crate::model::id::DeviceId;
use crate::model::wiring::CardLogin;
use crate::support::atomic_file;
use russh::keys::{HashAlg, PublicKey};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long the host key may take to be shown.
const GLANCE: Duration = Duration::from_secs(15);
/// How much of what a failed script said is quoted, in bytes.
const QUOTE: usize = 500;
/// Whether the user is root, or can be.
const WHO: &str = "if [ \"$(id -u)\" = 0 ]; then echo root; elif sudo -n true 2> /dev/null; then echo sudo; else echo no; fi";

/// A host key that was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// OpenSSH public key format.
    pub public: String,
    /// As `ssh-keygen -l` shows it: `SHA256:…`.
    pub fingerprint: String,
}

impl HostKey {
    fn of(key: &PublicKey) -> Result<Self, SshError> {
        let public = key.to_openssh().map_err(|source| SshError::Key { which: "host", source })?;
        Ok(Self { public, fingerprint: key.fingerprint(HashAlg::Sha256).to_string() })
    }
}

/// The way to one device: how to log in, and where its host key is kept.
#[derive(Debug, Clone)]
pub struct Way {
    /// The device.
    pub device: DeviceId,
    /// How to log in.
    pub login: CardLogin,
    /// The file of its host key.
    pub pin: PathBuf,
}

impl Way {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(self.login.address, self.login.port)
    }

    /// The host key that its owner has said is the right one, if so.
    pub fn pinned(&self) -> Result<Option<HostKey>, SshError> {
        let text = match fs::read_to_string(&self.pin) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SshError::Read { path: self.pin.clone(), source }),
        };
        let key = PublicKey::from_openssh(text.trim());
        key.map_err(|source| SshError::Key { which: "host", source })
            .and_then(|key| HostKey::of(&key))
            .map(Some)
    }

    /// From now on this one and no other is accepted.
    pub fn pin(&self, key: &HostKey) -> io::Result<()> {
        atomic_file::write(&self.pin, format!("{}\n", key.public).as_bytes(), 0o600)
    }

    /// From now on none is.
    pub fn unpin(&self) -> io::Result<()> {
        match fs::remove_file(&self.pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Which host key is shown there now. Nobody has logged in.
    pub async fn glance(&self) -> Result<HostKey, SshError> {
        HostKey::of(&host_key(self.address(), GLANCE).await?)
    }

    /// Logs in, with the pinned host key.
    pub async fn connect(&self, patience: Duration) -> Result<Remote, SshError> {
        let pinned = self.pinned()?;
        let key = pinned.ok_or_else(|| SshError::Untrusted { device: self.device.clone() })?;
        self.connect_to(&key, patience).await
    }

    /// Logs in to what shows this host key.
    pub async fn connect_to(&self, key: &HostKey, patience: Duration) -> Result<Remote, SshError> {
        let CardLogin { user, identity, .. } = &self.login;
        let read = fs::read_to_string(identity);
        let client_key = read.map_err(|source| SshError::Read { path: identity.clone(), source })?;
        let (address, user) = (self.address(), user.clone());
        let login = Login { address, user: user.clone(), host_key: key.public.clone(), client_key };
        let deadline = Instant::now() + patience;
        let connected = timeout_at(deadline, Session::connect(login, patience, deadline)).await;
        let session = connected.unwrap_or(Err(SshError::TimedOut { timeout: patience }))?;
        let mut remote = Remote { session, sudo: false };
        let who = remote.run_line(&quote::join(&words(&["sh", "-c", WHO])), None, patience).await?;
        match who.stdout.trim_ascii() {
            b"root" => {}
            b"sudo" => remote.sudo = true,
            _ => return Err(SshError::NoRoot { address, user }),
        }
        Ok(remote)
    }
}

/// A device that is logged in to.
pub struct Remote {
    session: Session,
    sudo: bool,
}

impl Remote {
    /// Whether it is not known to be dead.
    pub fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Runs a program as root. What it came to is the caller's to judge.
    pub async fn run(&self, command: &[String], timeout: Duration) -> Result<ReachOutput, SshError> {
        self.run_line(&self.line(command), None, timeout).await
    }

    /// Runs a script as root; its output is answered when it succeeds.
    pub async fn script(
        &self,
        doing: &'static str,
        script: &'static str,
        arguments: &[&str],
        input: &[u8],
        timeout: Duration,
    ) -> Result<String, SshError> {
        let mut command = words(&["sh", "-c", script, "sh"]);
        command.extend(words(arguments));
        let output = self.run_line(&self.line(&command), Some(input), timeout).await?;
        if output.exit_code == Some(0) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let from = output.stderr.len().saturating_sub(QUOTE);
        let said = String::from_utf8_lossy(output.stderr.get(from..).unwrap_or_default()).trim().to_owned();
        Err(SshError::Failed { doing, code: output.exit_code, said })
    }

    fn line(&self, command: &[String]) -> String {
        let line = quote::join(command);
        if self.sudo { format!("sudo -n -- {line}") } else { line }
    }

    async fn run_line(
        &self,
        line: &str,
        input: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<ReachOutput, SshError> {
        let whole = async {
            let channel = self.session.open().await?;
            self.session.run(channel, line, input).await
        };
        let ended = tokio::time::timeout(timeout, whole).await;
        ended.unwrap_or(Err(SshError::TimedOut { timeout }))
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
