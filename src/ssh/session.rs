//! One authenticated SSH connection.

use super::reach::SshError;
use crate::device::ports::{REACH_OUTPUT_LIMIT, ReachOutput};
use crate::support::lock::lock;
use russh::client::{self, Handle, Msg};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{ChannelMsg, Preferred, kex};
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A channel for one command.
pub(super) type Channel = russh::Channel<Msg>;

/// Between two tries to connect while sshd is still starting.
const RETRY: Duration = Duration::from_millis(250);

/// How long one try to connect may take: within it Linux sends the SYN three times (at 0, 1 and 3 s).
const CONNECT_TRY: Duration = Duration::from_secs(5);

/// A device that was powered off sends no more packets, so a silent connection is asked so often whether
/// it lives, and given up after [`KEEPALIVES`] silences.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How many keepalives may stay unanswered.
const KEEPALIVES: usize = 4;

/// `SSH_EXTENDED_DATA_STDERR` (RFC 4254 §5.2).
const EXTENDED_DATA_STDERR: u32 = 1;

/// Accepts one host key.
struct Pinned {
    host_key: PublicKey,
}

impl client::Handler for Pinned {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.key_data() == self.host_key.key_data(),
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }
}

/// Notes the host key, and goes no further.
struct Glance {
    shown: Arc<Mutex<Option<PublicKey>>>,
}

impl client::Handler for Glance {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        if let PublicKeyOrCertificate::PublicKey { key, .. } = shown {
            *lock(&self.shown) = Some(key.clone());
        }
        Ok(false)
    }
}

/// Which host key is shown at an address. Nobody has logged in.
pub(super) async fn host_key(address: SocketAddr, timeout: Duration) -> Result<PublicKey, SshError> {
    let deadline = Instant::now() + timeout;
    let stream = connect_until(address, timeout, deadline).await?;
    let shown = Arc::new(Mutex::new(None));
    let glance = client::connect_stream(config(), stream, Glance { shown: Arc::clone(&shown) });
    let ended =
        tokio::time::timeout_at(deadline, glance).await.map_err(|_| SshError::TimedOut { timeout })?;
    let key = lock(&shown).take();
    match (key, ended) {
        (Some(key), _) => Ok(key),
        (None, Err(source)) => Err(SshError::Protocol { step: "agree on keys", source }),
        (None, Ok(_)) => Err(SshError::HostKeyMismatch { address }),
    }
}

/// Where and as whom to log in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) address: SocketAddr,
    pub(super) user: String,
    /// OpenSSH formats.
    pub(super) host_key: String,
    pub(super) client_key: String,
}

/// A connection, logged in, and what it was made for.
pub(super) struct Session {
    handle: Handle<Pinned>,
    login: Login,
}

impl Session {
    /// Connects (again and again while nothing listens, until `deadline`) and logs in.
    pub(super) async fn connect(
        login: Login,
        timeout: Duration,
        deadline: Instant,
    ) -> Result<Self, SshError> {
        let address = login.address;
        let host_key = PublicKey::from_openssh(&login.host_key)
            .map_err(|source| SshError::Key { which: "host", source })?;
        let client_key = PrivateKey::from_openssh(&login.client_key)
            .map_err(|source| SshError::Key { which: "client", source })?;
        if client_key.is_encrypted() {
            return Err(SshError::Locked);
        }
        let stream = connect_until(address, timeout, deadline).await?;
        let mut handle = client::connect_stream(config(), stream, Pinned { host_key }).await.map_err(
            |error| match error {
                russh::Error::UnknownKey => SshError::HostKeyMismatch { address },
                source => SshError::Protocol { step: "agree on keys", source },
            },
        )?;
        // RSA keys sign with SHA-2 (RFC 8332); others name their own.
        let hash = matches!(client_key.algorithm(), Algorithm::Rsa { .. }).then_some(HashAlg::Sha512);
        let key = PrivateKeyWithHashAlg::new(Arc::new(client_key), hash);
        let answer = handle
            .authenticate_publickey(&login.user, key)
            .await
            .map_err(|source| SshError::Protocol { step: "log in", source })?;
        if !answer.success() {
            return Err(SshError::AuthRefused { address });
        }
        Ok(Self { handle, login })
    }

    /// Whether it was made for just this and is not known to be dead.
    pub(super) fn is_for(&self, login: &Login) -> bool {
        self.is_open() && self.login == *login
    }

    /// Whether it is not known to be dead.
    pub(super) fn is_open(&self) -> bool {
        !self.handle.is_closed()
    }

    /// Opens a channel for a command.
    pub(super) async fn open(&self) -> Result<Channel, SshError> {
        self.handle
            .channel_open_session()
            .await
            .map_err(|source| SshError::Protocol { step: "open a channel", source })
    }

    /// Runs `line` and waits for its end. All output is read, so that the command never blocks on it;
    /// what is over the limit is dropped. What it reads is `input`, if any.
    pub(super) async fn run(
        &self,
        mut channel: Channel,
        line: &str,
        input: Option<&[u8]>,
    ) -> Result<ReachOutput, SshError> {
        let step = |source| SshError::Protocol { step: "start the command", source };
        channel.exec(true, line).await.map_err(step)?;
        if let Some(input) = input {
            let sent = async {
                channel.data(input).await?;
                channel.eof().await
            };
            // One that ends before it has read all says by its exit code why.
            if let Err(error) = sent.await {
                tracing::debug!(%error, "the command did not read all its input");
            }
        }
        let mut output = ReachOutput { exit_code: None, stdout: Vec::new(), stderr: Vec::new() };
        let mut ended = false;
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::Data { data } => keep(&mut output.stdout, &data),
                ChannelMsg::ExtendedData { data, ext: EXTENDED_DATA_STDERR } => {
                    keep(&mut output.stderr, &data);
                }
                ChannelMsg::ExitStatus { exit_status } => {
                    output.exit_code = Some(i32::from_ne_bytes(exit_status.to_ne_bytes()));
                    ended = true;
                }
                ChannelMsg::ExitSignal { .. } => ended = true,
                ChannelMsg::Failure => return Err(step(russh::Error::RequestDenied)),
                _ => {}
            }
        }
        if ended { Ok(output) } else { Err(SshError::Lost) }
    }
}

fn keep(kept: &mut Vec<u8>, data: &[u8]) {
    let room = REACH_OUTPUT_LIMIT.saturating_sub(kept.len()).min(data.len());
    kept.extend_from_slice(data.get(..room).unwrap_or_default());
}

/// Only what is quick under emulation: curve25519 and ed25519, no compression.
fn config() -> Arc<client::Config> {
    let preferred = Preferred {
        kex: Cow::Borrowed(&[
            kex::CURVE25519,
            kex::CURVE25519_PRE_RFC_8731,
            kex::EXTENSION_SUPPORT_AS_CLIENT,
        ]),
        key: Cow::Borrowed(&[Algorithm::Ed25519]),
        compression: Cow::Borrowed(&[russh::compression::NONE]),
        ..Preferred::DEFAULT
    };
    Arc::new(client::Config {
        preferred,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES,
        nodelay: true,
        ..client::Config::default()
    })
}

async fn connect_until(
    address: SocketAddr,
    timeout: Duration,
    deadline: Instant,
) -> Result<TcpStream, SshError> {
    loop {
        let attempt_end = deadline.min(Instant::now() + CONNECT_TRY);
        let source = match tokio::time::timeout_at(attempt_end, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                return stream_ready(stream).map_err(|source| unreachable(address, timeout, source));
            }
            Ok(Err(source)) => source,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        if Instant::now() + RETRY >= deadline {
            return Err(unreachable(address, timeout, source));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Commands are short: no waiting for more to send.
fn stream_ready(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unreachable(address: SocketAddr, timeout: Duration, source: io::Error) -> SshError {
    SshError::Unreachable { address, timeout, source }
}
