//! The far end of a gate: a NATS server, or the first of several that takes the connection.
//!
//! Devices speak NATS without TLS to their gate, which is on their own segment. Where the server wants TLS, the gate speaks
//! it in their place: it reads the server's `INFO`, which comes before the handshake, tells the device the same without
//! the words about TLS, and passes on what is inside.

use crate::bus::error::BusError;
use crate::bus::servers::Servers;
use crate::bus::tls::{TlsError, client_config};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long one server may take to answer, its handshake included.
const DIAL: Duration = Duration::from_secs(5);
/// The most bytes of an `INFO`: one of a large cluster names all its servers.
const MAX_INFO: usize = 64 * 1024;

/// Where a gate leads. Clones share which server is tried first.
#[derive(Clone)]
pub struct Upstream {
    /// Host and port.
    servers: Arc<[(String, u16)]>,
    tls: Option<TlsConnector>,
    /// The one that answered last.
    last: Arc<AtomicUsize>,
}

/// A stream that is either plain or within TLS.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl From<SocketAddr> for Upstream {
    fn from(server: SocketAddr) -> Self {
        let servers = [(server.ip().to_string(), server.port())];
        Self { servers: Arc::new(servers), tls: None, last: Arc::default() }
    }
}

impl Upstream {
    /// Any of these servers.
    pub fn new(servers: &Servers) -> Result<Self, BusError> {
        let addresses = servers.addresses().map_err(|error| BusError::Connect {
            url: servers.to_string(),
            source: crate::bus::error::NatsError::new(&error),
        })?;
        let tls = servers
            .tls()
            .map(|files| -> Result<_, TlsError> { Ok(TlsConnector::from(Arc::new(client_config(files)?))) });
        let servers = addresses.iter().map(|address| (address.host().to_owned(), address.port())).collect();
        Ok(Self { servers, tls: tls.transpose().map_err(BusError::Tls)?, last: Arc::default() })
    }

    /// Connects to the server that answered last, else to the next; answers also what it has said before TLS.
    pub(super) async fn dial(&self) -> io::Result<(Vec<u8>, Box<dyn Stream>)> {
        let count = self.servers.len();
        let first = self.last.load(Ordering::Relaxed);
        let mut failed = io::Error::from(io::ErrorKind::NotConnected);
        for index in (0..count).map(|step| (first + step) % count) {
            let Some((host, port)) = self.servers.get(index) else { continue };
            match timeout(DIAL, self.greet(host, *port)).await {
                Ok(Ok(connected)) => {
                    self.last.store(index, Ordering::Relaxed);
                    return Ok(connected);
                }
                Ok(Err(error)) => failed = error,
                Err(elapsed) => failed = elapsed.into(),
            }
        }
        Err(failed)
    }

    async fn greet(&self, host: &str, port: u16) -> io::Result<(Vec<u8>, Box<dyn Stream>)> {
        let mut server = TcpStream::connect((host, port)).await?;
        server.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok((Vec::new(), Box::new(server))) };
        let info = without_tls(&read_info(&mut server).await?)?;
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok((info, Box::new(tls.connect(name, server).await?)))
    }
}

/// A line and no byte more: what follows is the handshake.
pub(in crate::bus) async fn read_info(server: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        if line.len() >= MAX_INFO {
            return Err(io::Error::other("the server's INFO does not end"));
        }
        line.push(server.read_u8().await?);
    }
    Ok(line)
}

/// The same `INFO` of a server without TLS, that names no other servers.
fn without_tls(line: &[u8]) -> io::Result<Vec<u8>> {
    let json = line.strip_prefix(b"INFO ").ok_or_else(|| io::Error::other("the server sends no INFO"))?;
    let mut info: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(json)?;
    for word in ["tls_required", "tls_verify", "tls_available", "connect_urls"] {
        info.remove(word);
    }
    let mut line = b"INFO ".to_vec();
    line.extend(serde_json::to_vec(&info)?);
    line.extend(b"\r\n");
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_tls_is_left_out_and_nothing_else() {
        let line = b"INFO {\"nonce\":\"x\",\"tls_required\":true,\"tls_verify\":true,\"connect_urls\":[\"a:1\"]} \r\n";
        assert_eq!(without_tls(line).unwrap(), b"INFO {\"nonce\":\"x\"}\r\n");
        for other in [&b"PING\r\n"[..], b"INFO x\r\n", b""] {
            assert!(without_tls(other).is_err());
        }
    }

    #[tokio::test]
    async fn the_server_that_answers_is_found_and_kept_to() {
        let closed = {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let open = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let servers = format!("nats://{closed},nats://{}", open.local_addr().unwrap());
        let upstream = Upstream::new(&servers.into()).unwrap();
        let (dialled, accepted) = tokio::join!(upstream.dial(), open.accept());
        assert!(dialled.unwrap().0.is_empty() && accepted.is_ok());
        assert_eq!(upstream.last.load(Ordering::Relaxed), 1);
    }
}
