//! A small HTTP client over podman's unix socket: one connection a call, a deadline on each, answers
//! bounded in size.

use crate::agent::ports::RuntimeError;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// The prefix that every podman from 4.3 on answers in version 4's shapes.
const PREFIX: &str = "/v4.0.0/libpod";
/// The largest answer taken, in bytes: a list of some thousand containers.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// podman's socket.
#[derive(Debug, Clone)]
pub(super) struct Socket {
    path: PathBuf,
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    /// What is tried, for errors.
    pub(super) operation: String,
    pub(super) method: Method,
    /// Path below the prefix, with query.
    pub(super) path: String,
    /// JSON; empty for none.
    pub(super) body: Vec<u8>,
    pub(super) timeout: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Socket {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Makes a call and reads the whole answer.
    pub(super) async fn call(&self, call: Call) -> Result<Answer, RuntimeError> {
        let operation = call.operation.clone();
        let mut body = Vec::new();
        let timeout = call.timeout;
        let read = self.stream(call, |piece| {
            if body.len() + piece.len() > MAX_ANSWER {
                return Err(format!("more than {MAX_ANSWER} bytes"));
            }
            body.extend_from_slice(piece);
            Ok(())
        });
        let status = tokio::time::timeout(timeout, read)
            .await
            .map_err(|_| RuntimeError::TimedOut { operation, timeout })??;
        Ok(Answer { status, body })
    }

    /// Whether podman's processes can be seen from here by their ids: the kernel names a peer outside our
    /// PID namespace as process 0 (pid_namespaces(7)).
    pub(super) async fn shares_processes(&self) -> std::io::Result<bool> {
        let peer = UnixStream::connect(&self.path).await?.peer_cred()?;
        Ok(peer.pid().is_some_and(|pid| pid > 0))
    }

    /// Makes a call and hands each piece of the answer to `take`, until the answer ends or `take` fails.
    /// Bounded in time only until the answer begins.
    pub(super) async fn stream(
        &self,
        call: Call,
        mut take: impl FnMut(&[u8]) -> Result<(), String> + Send,
    ) -> Result<StatusCode, RuntimeError> {
        let Call { operation, method, path, body, timeout } = call;
        let broken = |source: hyper::Error| {
            let (operation, source) = (operation.clone(), Box::new(source));
            RuntimeError::Broken { operation, source }
        };
        let malformed = |problem| RuntimeError::Malformed { operation: operation.clone(), problem };
        let stream = UnixStream::connect(&self.path).await.map_err(|source| RuntimeError::Unreachable {
            socket: self.path.display().to_string(),
            source,
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{PREFIX}{path}"))
            .header("host", "podman")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| malformed(error.to_string()))?;
        let exchange = async {
            let response = tokio::time::timeout(timeout, sender.send_request(request))
                .await
                .map_err(|_| RuntimeError::TimedOut { operation: operation.clone(), timeout })?
                .map_err(broken)?;
            let status = response.status();
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                if let Some(piece) = frame.map_err(broken)?.data_ref() {
                    take(piece).map_err(malformed)?;
                }
            }
            Ok(status)
        };
        // The connection moves only while it is polled. What breaks it fails the exchange too, so its own
        // end says nothing more.
        let drive = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            done = exchange => done,
            never = drive => never,
        }
    }
}
