//! The listener of the ticket office: so many connections at a time, none idle for long, none for ever,
//! and all gone when the office closes.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Connections served at a time; more wait in the kernel's queue. A device opens one at a time.
const MAX_CONNECTIONS: usize = 128;

/// A connection on which nothing moves for so long is cut.
const IDLE: Duration = Duration::from_secs(30);

/// A connection is cut after so long, whatever moves on it: a layer of 500 MB at 10 Mbit/s takes 7
/// minutes.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// How long accepting pauses after an error of accept(2), which is about the host (out of files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// The address at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, BoundedListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, BoundedListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Accepts connections within the bounds.
pub struct BoundedListener {
    listener: TcpListener,
    slots: Arc<Semaphore>,
    token: CancellationToken,
}

impl BoundedListener {
    /// Wraps `listener`; its connections end when `token` is cancelled.
    pub fn new(listener: TcpListener, token: CancellationToken) -> Self {
        Self { listener, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)), token }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await;
            match (slot, self.listener.accept().await) {
                (Ok(slot), Ok((stream, peer))) => {
                    return (BoundedStream::new(stream, slot, self.token.clone()), peer);
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                (Err(_), _) => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends itself when a bound is reached.
pub struct BoundedStream {
    stream: TcpStream,
    idle: Pin<Box<Sleep>>,
    end: Instant,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    _slot: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn new(stream: TcpStream, slot: OwnedSemaphorePermit, token: CancellationToken) -> Self {
        Self {
            stream,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            end: Instant::now() + LIFETIME,
            closing: Box::pin(token.cancelled_owned()),
            _slot: slot,
        }
    }

    /// Passes on what the stream said when it made progress; else watches the bounds.
    fn bound<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            let idle_until = (Instant::now() + IDLE).min(self.end);
            self.idle.as_mut().reset(idle_until);
            return poll;
        }
        if self.closing.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the office closes")));
        }
        if self.idle.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.bound(cx, poll)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if Instant::now() >= self.end {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let poll = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.bound(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
