//! A device's way to the NATS server, which a scenario can cut.
//!
//! ```text
//!  agent ──► gate (one port a device) ──► nats-server
//! ```
//!
//! A cut is a pulled cable, not a closed connection: nothing passes, in neither direction, and nobody is told. A
//! connection that is still held when the way is restored goes on where it stopped, as TCP does; one that either side has
//! given up meanwhile is ended then. Who connects during a cut gets no greeting.

mod upstream;

pub use self::upstream::Upstream;
pub(super) use self::upstream::read_info;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most connections at a time: an agent has one, and old ones linger. A device cannot use up the host's.
const MAX_CONNECTIONS: usize = 16;
/// What is passed on at once, in bytes.
const PIECE: usize = 16 * 1024;
/// Pause after the host has refused to accept a connection: it has none to spare.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// One device's way. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate {
    address: SocketAddr,
    /// Under which address the device knows it, where that is another.
    known_as: Option<IpAddr>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    /// Opens a way to `server` on `listen`; port 0 means a free one. Its task ends with `shutdown`.
    pub async fn open(
        listen: SocketAddr,
        server: impl Into<Upstream>,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let server = server.into();
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        let connections = tracker.clone();
        tracker.spawn(async move {
            let accepting = accept(&listener, &server, &connections, &is_open, &shutdown);
            shutdown.run_until_cancelled(accepting).await;
        });
        Ok(Self { address, known_as: None, open: Arc::new(open) })
    }

    /// The device reaches it under another address, where there is one: addresses are translated on the way.
    #[must_use]
    pub fn known_as(self, address: Option<IpAddr>) -> Self {
        Self { known_as: address, ..self }
    }

    /// Where the device connects to: `nats://host:port`.
    pub fn url(&self) -> String {
        let ip = self.known_as.unwrap_or(self.address.ip());
        format!("nats://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// From now on all passes again. Answers whether it was cut.
    pub fn restore(&self) -> bool {
        !self.open.send_replace(true)
    }
}

async fn accept(
    listener: &TcpListener,
    server: &Upstream,
    tracker: &TaskTracker,
    open: &watch::Receiver<bool>,
    shutdown: &CancellationToken,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (server, open, shutdown) = (server.clone(), open.clone(), shutdown.clone());
        tracker.spawn(async move {
            shutdown.run_until_cancelled(connect(client, &server, open)).await;
            drop(permit);
        });
    }
}

/// One connection, until either side ends it. That the server is not there is told by ending it, as the server's
/// own host would.
async fn connect(mut client: TcpStream, server: &Upstream, mut open: watch::Receiver<bool>) {
    if is_open(&mut open).await.is_none() {
        return;
    }
    let Ok((greeting, server)) = server.dial().await else { return };
    // Small messages wait for nothing, as on the connections that this one stands for.
    if client.set_nodelay(true).is_err() || client.write_all(&greeting).await.is_err() {
        return;
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    tokio::select! {
        () = pass(from_client, to_server, open.clone()) => {}
        () = pass(from_server, to_client, open) => {}
    }
}

/// Passes bytes on, one way, while it is open. What was read when the cut came is passed on after it.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
) {
    let mut piece = vec![0; PIECE];
    while is_open(&mut open).await.is_some() {
        let read = tokio::select! {
            biased;
            _ = open.wait_for(|open| !open) => continue,
            read = from.read(&mut piece) => read,
        };
        // An end of the other side is seen, like everything else, only while the way is open.
        let Some(bytes) = read.ok().and_then(|read| piece.get(..read)).filter(|bytes| !bytes.is_empty())
        else {
            return;
        };
        if is_open(&mut open).await.is_none() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Waits until the way is open; none when the gate is gone.
async fn is_open(open: &mut watch::Receiver<bool>) -> Option<()> {
    open.wait_for(|open| *open).await.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::time::timeout;

    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    /// Long for loopback, short for a test that must see nothing.
    const MOMENT: Duration = Duration::from_millis(200);
    const PATIENCE: Duration = Duration::from_secs(10);

    struct Way {
        gate: Gate,
        server: TcpListener,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    }

    impl Way {
        async fn new() -> Self {
            let server = TcpListener::bind(SocketAddr::new(LOCALHOST, 0)).await.unwrap();
            let (tracker, shutdown) = (TaskTracker::new(), CancellationToken::new());
            let address = server.local_addr().unwrap();
            let gate =
                Gate::open(SocketAddr::new(LOCALHOST, 0), address, &tracker, shutdown.clone()).await.unwrap();
            Self { gate, server, shutdown, tracker }
        }

        async fn client(&self) -> TcpStream {
            TcpStream::connect(self.gate.address).await.unwrap()
        }

        async fn pair(&self) -> (TcpStream, TcpStream) {
            let client = self.client().await;
            (client, timeout(PATIENCE, self.server.accept()).await.unwrap().unwrap().0)
        }
    }

    async fn sees(stream: &mut TcpStream, what: &[u8]) {
        let mut seen = vec![0; what.len()];
        timeout(PATIENCE, stream.read_exact(&mut seen)).await.unwrap().unwrap();
        assert_eq!(seen, what);
    }

    async fn sees_nothing(stream: &mut TcpStream) {
        assert!(timeout(MOMENT, stream.read_u8()).await.is_err(), "something passed");
    }

    #[tokio::test]
    async fn a_cut_is_silent_and_nothing_is_lost_by_it() {
        let way = Way::new().await;
        let (mut client, mut server) = way.pair().await;
        client.write_all(b"PING").await.unwrap();
        sees(&mut server, b"PING").await;
        way.gate.cut();
        client.write_all(b"more").await.unwrap();
        server.write_all(b"PONG").await.unwrap();
        sees_nothing(&mut server).await;
        sees_nothing(&mut client).await;
        assert!(way.gate.restore());
        assert!(!way.gate.restore());
        sees(&mut server, b"more").await;
        sees(&mut client, b"PONG").await;
    }

    #[tokio::test]
    async fn who_connects_during_a_cut_is_let_through_after_it() {
        let way = Way::new().await;
        way.gate.cut();
        let mut client = way.client().await;
        client.write_all(b"CONNECT").await.unwrap();
        assert!(timeout(MOMENT, way.server.accept()).await.is_err());
        way.gate.restore();
        let (mut server, _) = timeout(PATIENCE, way.server.accept()).await.unwrap().unwrap();
        sees(&mut server, b"CONNECT").await;
    }

    #[tokio::test]
    async fn an_end_on_one_side_is_an_end_on_the_other_and_is_held_back_by_a_cut() {
        let way = Way::new().await;
        let (mut client, server) = way.pair().await;
        way.gate.cut();
        drop(server);
        sees_nothing(&mut client).await;
        way.gate.restore();
        assert_eq!(timeout(PATIENCE, client.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    }

    #[tokio::test]
    async fn a_device_has_few_connections_and_nothing_is_left() {
        let way = Way::new().await;
        let mut pairs = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            pairs.push(way.pair().await);
        }
        let _waiting = way.client().await;
        assert!(timeout(MOMENT, way.server.accept()).await.is_err(), "one too many");
        pairs.pop();
        timeout(PATIENCE, way.server.accept()).await.unwrap().unwrap();
        way.shutdown.cancel();
        way.tracker.close();
        timeout(PATIENCE, way.tracker.wait()).await.unwrap();
    }
}
