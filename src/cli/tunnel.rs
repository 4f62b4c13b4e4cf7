//! One byte stream to a port of a device: what is read here goes there, and what comes from there is written here.
//! It outlives a NATS server that is started anew.

use super::client::Client;
use super::error::CliError;
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use crate::wire::tunnel::{
    PIECE, TUNNEL_CLOSE, TUNNEL_OPEN, TUNNEL_RECEIVE, TUNNEL_SEND, TunnelId, TunnelOpen, TunnelPiece,
    TunnelReceive, TunnelSend, TunnelSent,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::num::NonZeroU16;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

/// How long nobody may answer before the tunnel is given up: the coordinator keeps it for a minute.
const PATIENCE: Duration = Duration::from_secs(45);
/// Pause after a question that nobody answered.
const RETRY: Duration = Duration::from_millis(300);
/// Pause after an answer that came at once and with nothing: where many wait, the coordinator holds none back.
const LULL: Duration = Duration::from_millis(100);

/// A tunnel that is open.
pub(super) struct Tunnel<'a> {
    client: &'a Client,
    id: TunnelId,
}

impl<'a> Tunnel<'a> {
    /// Connects to a port of the device.
    pub(super) async fn open(
        client: &'a Client,
        device: &DeviceId,
        port: NonZeroU16,
    ) -> Result<Self, CliError> {
        let id = client.ask(TUNNEL_OPEN, &TunnelOpen { device: device.clone(), port }).await?;
        Ok(Self { client, id })
    }

    /// Carries both directions until the device has ended its own; that this end has nothing more to say ends only
    /// the other.
    pub(super) async fn carry(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), CliError> {
        let done = tokio::select! {
            done = self.down(&mut to) => done,
            Err(error) = self.up(&mut from) => Err(error),
        };
        // A tunnel that is not closed ends by itself.
        let _ = self.client.ask::<()>(TUNNEL_CLOSE, &self.id).await;
        done
    }

    /// Ends with an error alone: once all is sent there is nothing more to do.
    async fn up(&self, from: &mut (impl AsyncRead + Unpin)) -> Result<(), CliError> {
        let mut piece = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let read =
                from.read(&mut piece).await.map_err(|e| CliError::local("read what is to be sent", e))?;
            let mut bytes = piece.get(..read).unwrap_or_default();
            let whole = offset + read as u64;
            loop {
                let send = TunnelSend { id: self.id, offset, bytes: bytes.to_vec(), end: read == 0 };
                let TunnelSent { next } = self.ask(TUNNEL_SEND, &send).await?;
                let taken = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
                bytes = bytes.get(taken..).unwrap_or_default();
                offset = offset.max(next);
                if offset >= whole {
                    break;
                }
            }
            if read == 0 {
                return std::future::pending().await;
            }
        }
    }

    async fn down(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), CliError> {
        let failed = |e| CliError::local("write what came from the device", e);
        let mut offset = 0;
        loop {
            let asked = Instant::now();
            let receive = TunnelReceive { id: self.id, offset };
            let TunnelPiece { bytes, end } = self.ask(TUNNEL_RECEIVE, &receive).await?;
            to.write_all(&bytes).await.map_err(failed)?;
            to.flush().await.map_err(failed)?;
            offset += bytes.len() as u64;
            if end {
                return to.shutdown().await.map_err(failed);
            }
            if bytes.is_empty() && asked.elapsed() < LULL {
                sleep(LULL).await;
            }
        }
    }

    /// Asks until somebody answers: what was asked twice is done once.
    async fn ask<T: DeserializeOwned>(
        &self,
        verb: &'static str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answered = tokio::select! {
                answered = self.client.ask(verb, body) => answered,
                // What was on its way when the connection was lost is lost with it.
                () = self.client.reconnected() => continue,
            };
            match answered {
                Err(error @ CliError::Request { .. }) if Instant::now() < deadline => {
                    tracing::info!(verb, error = %Chain(&error), "asked again");
                    sleep(RETRY).await;
                }
                answered => return answered,
            }
        }
    }
}
