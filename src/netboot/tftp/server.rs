//! The sockets of the TFTP server, and the one thread that serves all clients.

use super::content::BootFiles;
use super::event::FileEvent;
use super::packet::MAX_REQUEST;
use super::socket;
use super::table::{Limits, Output, Table, What};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Sockets that transfers are spread over. More than one, so that a client that begins anew hears from
/// another port; not more than that, for the fewer there are the more packets come with each wake-up.
const DATA_SOCKETS: usize = 2;

/// Packets that are read from one socket before the others have their turn.
const MAX_TURNS: usize = 32;

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

/// Rings a bell when it is dropped.
struct Ring(Arc<OwnedFd>);

impl Drop for Ring {
    fn drop(&mut self) {
        // A counter that is as high as it goes has been rung often enough.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// A server with its sockets open.
#[derive(Debug)]
pub struct TftpServer {
    listener: UdpSocket,
    data: Vec<UdpSocket>,
    address: SocketAddr,
    limits: Limits,
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

    /// Serves until `token` is cancelled, in a thread of its own: nobody else waits while a file is read from a slow disk, and
    /// a block costs the processor less than as a task. What happens goes to `events`; while that is full, events are
    /// lost, and how many is logged.
    pub fn start(
        self,
        files: Arc<dyn BootFiles>,
        events: mpsc::Sender<FileEvent>,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Result<(), TftpError> {
        let address = self.address;
        let failed = |source: Errno| TftpError::Thread { address, source: source.into() };
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?);
        // Rung by its end, however that comes: where the runtime is taken down, no task is told to end, and the thread would
        // be waited for in vain.
        let ring = Ring(Arc::clone(&bell));
        tracker.spawn_blocking(move || {
            if let Err(error) = self.serve(files.as_ref(), &Teller::new(events), &bell) {
                tracing::error!(%error, %address, "the TFTP server ended");
            }
        });
        tracker.spawn(async move {
            token.cancelled().await;
            drop(ring);
        });
        Ok(())
    }

    /// Serves until the bell rings.
    fn serve(self, files: &dyn BootFiles, teller: &Teller, bell: &OwnedFd) -> io::Result<()> {
        let sockets: Vec<UdpSocket> = self.data.into_iter().chain([self.listener]).collect();
        let listener = sockets.len() - 1;
        let mut table = Table::new(self.limits, listener);
        let mut buffer = vec![0; 2 * MAX_REQUEST];
        let mut sender = Sender { sockets: &sockets, cut: true };
        // No later than the first time at which something is due; at what is due for whom the table is asked then.
        let mut alarm = None;
        let mut watched: Vec<PollFd<'_>> =
            sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        watched.push(PollFd::new(bell, PollFlags::IN));
        loop {
            wait(&mut watched, alarm)?;
            let rings = watched.last().is_some_and(|bell| !bell.revents().is_empty());
            if rings {
                table.close(Instant::now());
                teller.tell(table.events());
                return Ok(());
            }
            for (at, socket) in sockets.iter().enumerate() {
                if watched.get(at).is_none_or(|watched| watched.revents().is_empty()) {
                    continue;
                }
                // Where there is one transfer, a look for its next packet would find none.
                for _ in 0..table.len().clamp(1, MAX_TURNS) {
                    let (length, peer) = match socket.recv_from(&mut buffer) {
                        Ok(received) => received,
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            // About a packet sent before, such as an unreachable port. The transfer's time will tell.
                            tracing::debug!(%error, "a socket of the TFTP server");
                            continue;
                        }
                    };
                    let (packet, now) = (buffer.get(..length).unwrap_or_default(), Instant::now());
                    let output = if at == listener {
                        table.on_request(peer, packet, files, now)
                    } else {
                        table.on_packet(peer, at, packet, now)
                    };
                    if let Some(output) = output {
                        sender.send(&mut table, output, now);
                    }
                    if let Some(due) = table.deadline_of(peer) {
                        alarm = Some(alarm.map_or(due, |alarm: Instant| alarm.min(due)));
                    }
                }
            }
            let now = Instant::now();
            if alarm.is_some_and(|alarm| now >= alarm) {
                for output in table.on_time(now) {
                    sender.send(&mut table, output, now);
                }
                alarm = table.deadline();
            }
            teller.tell(table.events());
        }
    }
}

/// Waits until a packet comes, the bell rings, or it is time. Level-triggered, so that a packet is read without another
/// look whether there is one more.
fn wait(watched: &mut [PollFd<'_>], alarm: Option<Instant>) -> io::Result<()> {
    loop {
        let left = alarm.map(|alarm| alarm.saturating_duration_since(Instant::now()));
        // A file is given up after a minute at the most.
        let left = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 }));
        match poll(watched, left.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells what happens, as far as somebody listens.
struct Teller {
    events: mpsc::Sender<FileEvent>,
    lost: Cell<u64>,
}

impl Teller {
    fn new(events: mpsc::Sender<FileEvent>) -> Self {
        Self { events, lost: Cell::new(0) }
    }

    fn tell(&self, events: impl Iterator<Item = FileEvent>) {
        for event in events {
            match self.events.try_send(event) {
                Ok(()) => match self.lost.take() {
                    0 => {}
                    lost => {
                        tracing::warn!(lost, "events of the TFTP server were lost: nobody read them in time");
                    }
                },
                Err(_) => self.lost.set(self.lost.get() + 1),
            }
        }
    }
}

/// Puts what is to be sent on the sockets.
struct Sender<'a> {
    sockets: &'a [UdpSocket],
    /// Whether the kernel cuts large sends.
    cut: bool,
}

impl Sender<'_> {
    fn send(&mut self, table: &mut Table, output: Output, now: Instant) {
        let Output { peer, socket, what } = output;
        let Some(socket) = self.sockets.get(socket) else { return };
        let sent = match what {
            What::Packet(packet) => socket::send_packet(socket, peer, &packet),
            What::Data(blocks) => match table.blocks(peer, &blocks) {
                None => return,
                Some(Ok((bytes, size))) => {
                    socket::send_blocks(socket, peer, blocks, bytes, size, &mut self.cut)
                }
                Some(Err(error)) => {
                    let packet = table.unreadable(peer, &error, now);
                    socket::send_packet(socket, peer, &packet)
                }
            },
        };
        // As good as lost on the way: the transfer's time will tell.
        if let Err(error) = sent {
            tracing::debug!(%error, %peer, "a packet of the TFTP server");
        }
    }
}
