//! The sockets of the TFTP server, and the one thread that serves all clients.

use super::content::BootFiles;
use super::event::FileEvent;
use super::packet::MAX_REQUEST;
use super::socket;
use super::table::{Limits, Output, Table, What};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sockets that transfers are spread over. More than one, so that a client that begins anew hears from
/// another port; not more than that, for the fewer there are the more packets come with each wake-up.
const DATA_SOCKETS: usize = 2;

/// The server could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TftpError {
    /// A socket could not be opened.
    #[error("cannot serve TFTP on {address}{}", interface.as_ref().map(|name| format!(" of {name}")).unwrap_or_default())]
    Bind {
        /// Where.
        address: SocketAddr,
        /// On which interface.
        interface: Option<String>,
        /// Why.
        source: io::Error,
    },
    /// Its thread could not be made ready.
    #[error("cannot make a thread for TFTP on {address}")]
    Thread {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl TftpError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        let Self::Bind { address, source, .. } = self else { return None };
        match source.kind() {
            io::ErrorKind::AddrInUse => Some(format!(
                "another TFTP server has port {}: find it with `ss -ulpn sport = :{}`",
                address.port(),
                address.port()
            )),
            io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 need CAP_NET_BIND_SERVICE; the shipped unit gives it".to_owned())
            }
            io::ErrorKind::AddrNotAvailable => Some(format!("no interface has {}", address.ip())),
            _ => None,
        }
    }
}

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct TftpOptions {
    /// Where requests are made: port 69 for real boot ROMs. Answers come from the same address, and other
    /// ports.
    pub address: SocketAddr,
    /// The interface that alone is served.
    pub interface: Option<String>,
    /// What is allowed.
    pub limits: Limits,
}

impl TftpOptions {
    /// On all interfaces that have `address`, with the usual limits.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, interface: None, limits: Limits::default() }
    }
}

/// A server with its sockets open.
#[derive(Debug)]
pub struct TftpServer {
    listener: std::net::UdpSocket,
    data: Vec<std::net::UdpSocket>,
    address: SocketAddr,
    limits: Limits,
}

/// The sockets in the runtime that serves them: those of transfers, and the listener as the last.
struct Sockets(Vec<UdpSocket>);

/// What the server woke up for.
enum Wake {
    /// A packet of so many bytes came to a socket, the listener being the last.
    Packet(usize, usize, SocketAddr),
    Time,
    Closed,
}

impl TftpServer {
    /// Opens the sockets.
    pub fn bind(options: TftpOptions) -> Result<Self, TftpError> {
        let TftpOptions { address, interface, limits } = options;
        let open = |address| {
            socket::bind(address, interface.as_deref()).map_err(|source| TftpError::Bind {
                address,
                interface: interface.clone(),
                source,
            })
        };
        let listener = open(address)?;
        let address = listener.local_addr().map_err(|source| TftpError::Bind {
            address,
            interface: interface.clone(),
            source,
        })?;
        let other = SocketAddr::new(address.ip(), 0);
        let data = (0..DATA_SOCKETS).map(|_| open(other)).collect::<Result<_, _>>()?;
        Ok(Self { listener, data, address, limits })
    }

    /// Where requests are made.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `token` is cancelled, in a thread of its own: with that a block costs the processor a third less, and
    /// nobody else waits while a file is read from a slow disk. What happens goes to `events`; while that is full,
    /// events are lost, and how many is logged.
    pub fn start(
        self,
        files: Arc<dyn BootFiles>,
        events: mpsc::Sender<FileEvent>,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Result<(), TftpError> {
        let address = self.address;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| TftpError::Thread { address, source })?;
        tracker.spawn_blocking(move || {
            if let Err(error) = runtime.block_on(self.run(files, events, token)) {
                tracing::error!(%error, %address, "the TFTP server ended");
            }
        });
        Ok(())
    }

    async fn run(
        self,
        files: Arc<dyn BootFiles>,
        events: mpsc::Sender<FileEvent>,
        token: CancellationToken,
    ) -> io::Result<()> {
        let sockets = self.data.into_iter().chain([self.listener]).map(UdpSocket::from_std);
        let sockets = Sockets(sockets.collect::<io::Result<_>>()?);
        let listener = sockets.0.len() - 1;
        let mut table = Table::new(self.limits, listener);
        let mut buffer = vec![0; 2 * MAX_REQUEST];
        let mut sender = Sender { sockets: &sockets.0, cut: true };
        let mut timer = Box::pin(tokio::time::sleep_until(far()));
        let mut closed = Box::pin(token.cancelled());
        let mut first = 0;
        let mut lost = 0_u64;
        loop {
            let wake = std::future::poll_fn(|cx| {
                if closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Closed);
                }
                sockets.poll(cx, &mut buffer, &mut first, timer.as_mut())
            })
            .await;
            let now = Instant::now();
            match wake {
                Wake::Packet(socket, length, peer) => {
                    let packet = buffer.get(..length).unwrap_or_default();
                    let output = if socket == listener {
                        table.on_request(peer, packet, files.as_ref(), now)
                    } else {
                        table.on_packet(peer, socket, packet, now)
                    };
                    if let Some(output) = output {
                        sender.send(&mut table, output, now).await;
                    }
                    if let Some(deadline) = table.deadline_of(peer).filter(|at| *at < timer.deadline()) {
                        timer.as_mut().reset(deadline);
                    }
                }
                Wake::Time => {
                    for output in table.on_time(now) {
                        sender.send(&mut table, output, now).await;
                    }
                    timer.as_mut().reset(table.deadline().unwrap_or_else(far));
                }
                Wake::Closed => table.close(now),
            }
            for event in table.events() {
                match events.try_send(event) {
                    Ok(()) if lost > 0 => {
                        tracing::warn!(lost, "events of the TFTP server were lost: nobody read them in time");
                        lost = 0;
                    }
                    Ok(()) => {}
                    Err(_) => lost += 1,
                }
            }
            if matches!(wake, Wake::Closed) {
                return Ok(());
            }
        }
    }
}

impl Sockets {
    /// Looks for a packet, beginning with another socket each time, then at the clock.
    fn poll(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        first: &mut usize,
        timer: std::pin::Pin<&mut Sleep>,
    ) -> Poll<Wake> {
        let count = self.0.len();
        for at in (0..count).map(|n| (*first + n) % count) {
            let Some(socket) = self.0.get(at) else { continue };
            let mut space = ReadBuf::new(buffer);
            match socket.poll_recv_from(cx, &mut space) {
                Poll::Ready(Ok(peer)) => {
                    *first = at + 1;
                    return Poll::Ready(Wake::Packet(at, space.filled().len(), peer));
                }
                // About a packet sent before, such as an unreachable port. The transfer's time will tell.
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a socket of the TFTP server");
                    cx.waker().wake_by_ref();
                }
                Poll::Pending => {}
            }
        }
        timer.poll(cx).map(|()| Wake::Time)
    }
}

/// A time that does not come.
fn far() -> Instant {
    Instant::now() + std::time::Duration::from_secs(365 * 24 * 3600)
}

/// Puts what is to be sent on the sockets.
struct Sender<'a> {
    sockets: &'a [UdpSocket],
    /// Whether the kernel cuts large sends.
    cut: bool,
}

impl Sender<'_> {
    async fn send(&mut self, table: &mut Table, output: Output, now: Instant) {
        let Output { peer, socket, what } = output;
        let Some(socket) = self.sockets.get(socket) else { return };
        let sent = match what {
            What::Packet(packet) => socket::send_packet(socket, peer, &packet).await,
            What::Data(blocks) => match table.blocks(peer, &blocks) {
                None => return,
                Some(Ok((bytes, size))) => {
                    socket::send_blocks(socket, peer, blocks, bytes, size, &mut self.cut).await
                }
                Some(Err(error)) => {
                    let packet = table.unreadable(peer, &error, now);
                    socket::send_packet(socket, peer, &packet).await
                }
            },
        };
        // As good as lost on the way: the transfer's time will tell.
        if let Err(error) = sent {
            tracing::debug!(%error, %peer, "a packet of the TFTP server");
        }
    }
}
