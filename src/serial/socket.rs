//! Lines that are sockets.

use super::error::SerialError;
use crate::console::port::{ByteStream, Line, LineFuture};
use rustix::net::sockopt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server whose host lost its power closes nothing: after so long a silence it is asked whether it is
/// there, so often, and given up after three times. 30 s in all.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);

pub(super) struct Tcp {
    address: String,
}

impl Tcp {
    pub(super) fn new(address: String) -> Self {
        Self { address }
    }

    async fn connect(&self) -> Result<TcpStream, SerialError> {
        let failed = |source| SerialError::Connect { address: self.address.clone(), source };
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await;
        let stream = connected
            .map_err(|_| SerialError::TimedOut { address: self.address.clone(), timeout: CONNECT_TIMEOUT })?
            .map_err(failed)?;
        prepare(&stream).map_err(failed)?;
        Ok(stream)
    }
}

/// What is typed goes out at once, and a server that is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, idle)?;
    sockopt::set_tcp_keepintvl(stream, interval)?;
    sockopt::set_tcp_keepcnt(stream, count)?;
    Ok(())
}

impl ByteStream for Tcp {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async move {
            let line: Box<dyn Line> = Box::new(self.connect().await?);
            Ok(line)
        })
    }
}

pub(super) struct Unix {
    path: PathBuf,
}

impl Unix {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl ByteStream for Unix {
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async move {
            let stream = UnixStream::connect(&self.path).await;
            let address = self.path.display().to_string();
            let stream = stream.map_err(|source| SerialError::Connect { address, source })?;
            let line: Box<dyn Line> = Box::new(stream);
            Ok(line)
        })
    }
}
