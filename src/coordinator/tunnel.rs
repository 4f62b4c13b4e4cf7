//! Tunnels: byte streams from users to ports of the devices they hold.
//!
//! A tunnel belongs to one lease and one boot attempt. One task guards it: it ends when the lease does, when the
//! device is switched off or booted anew, or when its user is silent for [`IDLE`].
//!
//! ```text
//!  send(offset) ──► [taken so far] ──► TCP ──► device        what was sent twice is taken once
//!  receive(offset) ◄── [last piece] ◄── TCP ◄── device       a piece is kept until the next is asked for
//! ```

use super::desk::{holding, seat};
use super::ledger::LedgerError;
use super::lending::{Lending, over};
use super::refusal::Refusal;
use super::session::Seat;
use crate::device::DeviceState;
use crate::model::boot::BootAttempt;
use crate::model::device::{Backend, Capability};
use crate::model::event::Event;
use crate::model::id::{DeviceId, UserName};
use crate::model::lease::{FencingToken, LeaseToken};
use crate::model::ssh_key::SshPublicKey;
use crate::plan::lease::{Book, Caller, Now};
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::tunnel::{PIECE, TunnelId, TunnelOpen, TunnelPiece, TunnelReceive, TunnelSend, TunnelSent};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// The most tunnels at one time; each keeps at most [`PIECE`] bytes, so 32 MiB in all.
const MAX_TUNNELS: usize = 256;
/// The most of one user: a browser opens six connections to one server.
const MAX_OF_USER: usize = 64;
/// How long a device may take to take a connection: within it Linux sends the SYN three times (at 0, 1 and 3 s).
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer is held back for bytes to come or to be taken: well under what a user waits for an answer.
const HOLD: Duration = Duration::from_secs(5);
/// The same where too many answers are held back already.
const HOLD_BRIEFLY: Duration = Duration::from_millis(50);
/// Pause before the ledger is asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A user who asks for nothing for so long has gone.
const IDLE: Duration = Duration::from_secs(60);
/// All tunnels of a coordinator.
#[derive(Default)]
pub(super) struct Tunnels {
    /// No await happens under this lock.
    open: Mutex<BTreeMap<TunnelId, Arc<Tunnel>>>,
}

struct Tunnel {
    owner: UserName,
    device: DeviceId,
    /// The lease's.
    token: FencingToken,
    up: tokio::sync::Mutex<Up>,
    down: tokio::sync::Mutex<Down>,
    /// When the user asked for something last.
    heard: watch::Sender<Instant>,
    closed: CancellationToken,
}

/// To the device.
struct Up {
    half: OwnedWriteHalf,
    /// How many bytes it has taken.
    taken: u64,
    ended: bool,
}

/// From the device.
struct Down {
    half: OwnedReadHalf,
    /// The offset of `piece`.
    from: u64,
    /// What was read last; it is kept until what follows is asked for.
    piece: Vec<u8>,
    ended: bool,
}

impl Lending {
    /// Connects to a port of a device.
    pub(super) async fn open_tunnel(
        self: &Arc<Self>,
        by: &Caller,
        asked: TunnelOpen,
    ) -> Result<TunnelId, Refusal> {
        let TunnelOpen { device, port } = asked;
        let session = self.session_on(by, &device, false).await?;
        let seat = seat(&session, &device)?;
        let Place { address, attempt, state, .. } = place(seat)?;
        self.tunnels.room(&by.user)?;
        let (port, address) = (port.get(), SocketAddr::new(address, port.get()));
        let opened = Event::TunnelOpened { by: by.user.to_string(), token: seat.token, port };
        let written = seat.device.journal().event_synced(attempt, opened).await;
        written.map_err(|e| Refusal::new(format!("that cannot be kept in the journal: {}", Chain(&e))))?;
        let connected = timeout(CONNECT, TcpStream::connect(address)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return Err(Refusal::hinted(
                    format!("{device} does not take a connection to port {port}: {error}"),
                    format!("does something listen there? pilab console {device} shows"),
                ));
            }
            Err(_) => {
                let seconds = CONNECT.as_secs();
                return Err(Refusal::new(format!("{device} did not take a connection within {seconds} s")));
            }
        };
        let of = device.clone();
        let lease =
            self.ledger.read(move |book, _| book.lease_of(&of).map(|(lease, _)| lease.request.id.clone()));
        let lease = lease.await?.ok_or_else(|| Refusal::new("the lease has ended"))?;
        let held = LeaseToken { lease, token: seat.token };
        let (id, tunnel) = self.tunnels.add(Tunnel::new(by.user.clone(), device, seat.token, stream))?;
        let lost = over(self.ledger.clone(), held);
        let (this, left) = (Arc::clone(self), left(state, attempt));
        self.spawn(async move {
            let why = tunnel.guard(lost, left).await;
            tracing::debug!(user = %tunnel.owner, tunnel = id.tunnel, why, "a tunnel ends");
            this.tunnels.remove(id);
        });
        Ok(id)
    }

    pub(super) async fn tunnel_send(&self, by: &Caller, asked: TunnelSend) -> Result<TunnelSent, Refusal> {
        let tunnel = self.tunnel(by, asked.id).await?;
        tunnel.bounded(tunnel.send(asked)).await
    }

    pub(super) async fn tunnel_receive(
        &self,
        by: &Caller,
        asked: TunnelReceive,
    ) -> Result<TunnelPiece, Refusal> {
        let tunnel = self.tunnel(by, asked.id).await?;
        // Those who wait must not keep others from being heard.
        let held = self.waits.hold(&by.user);
        let hold = if held.is_some() { HOLD } else { HOLD_BRIEFLY };
        tunnel.bounded(tunnel.receive(asked.offset, hold)).await
    }

    /// One that the caller may still use. While NATS is away nobody knows: a stream that outlives that is worth a moment.
    async fn tunnel(&self, by: &Caller, id: TunnelId) -> Result<Arc<Tunnel>, Refusal> {
        let tunnel = self.tunnels.get(by, id)?;
        let deadline = Instant::now() + HOLD;
        loop {
            let (device, token) = (tunnel.device.clone(), tunnel.token);
            let stands = move |book: &Book, now: &Now| {
                holding(book, now, &device).is_some_and(|lease| lease.token == token)
            };
            match self.ledger.read(stands).await {
                Ok(true) => return Ok(tunnel),
                Ok(false) => {
                    // Whose it is now is the better answer.
                    self.session_on(by, &tunnel.device, false).await?;
                    return Err(ended());
                }
                Err(LedgerError::Away | LedgerError::Busy) if Instant::now() < deadline => {
                    sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) fn close_tunnel(&self, by: &Caller, id: TunnelId) {
        if let Ok(tunnel) = self.tunnels.get(by, id) {
            tunnel.closed.cancel();
        }
    }
}

impl Tunnels {
    fn room(&self, user: &UserName) -> Result<(), Refusal> {
        let open = lock(&self.open);
        let own = open.values().filter(|tunnel| tunnel.owner == *user).count();
        if own >= MAX_OF_USER {
            return Err(Refusal::new(format!("{user} has {own} tunnels open; at most {MAX_OF_USER}")));
        }
        if open.len() >= MAX_TUNNELS {
            return Err(Refusal::new(format!("{MAX_TUNNELS} tunnels are open already")));
        }
        Ok(())
    }

    fn add(&self, tunnel: Tunnel) -> Result<(TunnelId, Arc<Tunnel>), Refusal> {
        self.room(&tunnel.owner)?;
        let id = TunnelId { tunnel: rand::random() };
        let tunnel = Arc::new(tunnel);
        lock(&self.open).insert(id, Arc::clone(&tunnel));
        Ok((id, tunnel))
    }

    fn get(&self, by: &Caller, id: TunnelId) -> Result<Arc<Tunnel>, Refusal> {
        let open = lock(&self.open);
        let tunnel = open.get(&id).filter(|tunnel| tunnel.owner == by.user).ok_or_else(ended)?;
        tunnel.heard.send_replace(Instant::now());
        Ok(Arc::clone(tunnel))
    }

    fn remove(&self, id: TunnelId) {
        if let Some(tunnel) = lock(&self.open).remove(&id) {
            tunnel.closed.cancel();
        }
    }
}

impl Tunnel {
    fn new(owner: UserName, device: DeviceId, token: FencingToken, stream: TcpStream) -> Self {
        // A key that is pressed is not to wait for the next.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a tunnel's connection may be slow to send");
        }
        let (down, up) = stream.into_split();
        Self {
            owner,
            device,
            token,
            up: tokio::sync::Mutex::new(Up { half: up, taken: 0, ended: false }),
            down: tokio::sync::Mutex::new(Down { half: down, from: 0, piece: Vec::new(), ended: false }),
            heard: watch::Sender::new(Instant::now()),
            closed: CancellationToken::new(),
        }
    }

    /// Why the tunnel is to end, once it is.
    async fn guard(&self, lost: impl Future<Output = bool>, left: impl Future<Output = ()>) -> &'static str {
        tokio::select! {
            _ = lost => "the lease has ended, or is another's",
            () = left => "the device was switched off or booted anew",
            () = self.silent() => "its user is gone",
            () = self.closed.cancelled() => "its user has closed it",
        }
    }

    async fn silent(&self) {
        let mut heard = self.heard.subscribe();
        loop {
            let last = *heard.borrow_and_update();
            if timeout_at(last + IDLE, heard.changed()).await.is_err() {
                return;
            }
        }
    }

    async fn bounded<T>(&self, act: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.closed.run_until_cancelled(act).await.unwrap_or_else(|| Err(ended()))
    }

    async fn send(&self, asked: TunnelSend) -> Result<TunnelSent, Refusal> {
        let TunnelSend { offset, bytes, end, .. } = asked;
        if bytes.len() > PIECE {
            return Err(Refusal::new(format!("{} bytes at once; at most {PIECE}", bytes.len())));
        }
        let deadline = Instant::now() + HOLD;
        let mut up = self.up.lock().await;
        let missing = || Refusal::new(format!("bytes are missing before offset {offset}"));
        let seen = up.taken.checked_sub(offset).ok_or_else(missing)?;
        let mut rest = bytes.get(usize::try_from(seen).unwrap_or(usize::MAX)..).unwrap_or_default();
        while !rest.is_empty() {
            let wrote = tokio::select! {
                wrote = up.half.write(rest) => wrote.map_err(|e| broken(&e))?,
                () = sleep_until(deadline) => return Ok(TunnelSent { next: up.taken }),
            };
            up.taken += wrote as u64;
            rest = rest.get(wrote..).unwrap_or_default();
        }
        if end && !up.ended {
            up.ended = true;
            up.half.shutdown().await.map_err(|e| broken(&e))?;
        }
        Ok(TunnelSent { next: up.taken })
    }

    async fn receive(&self, offset: u64, hold: Duration) -> Result<TunnelPiece, Refusal> {
        let deadline = Instant::now() + hold;
        let mut down = self.down.lock().await;
        let next = down.from + down.piece.len() as u64;
        if offset == next {
            down.from = next;
            down.piece.clear();
            if !down.ended {
                down.read_until(deadline).await?;
            }
        } else if offset != down.from {
            return Err(Refusal::new(format!("offset {offset} is neither {} nor {next}", down.from)));
        }
        Ok(TunnelPiece { bytes: down.piece.clone(), end: down.ended })
    }
}

impl Down {
    async fn read_until(&mut self, deadline: Instant) -> Result<(), Refusal> {
        let mut piece = vec![0; PIECE];
        // Cut off while it waits, it has read nothing.
        let Ok(read) = timeout_at(deadline, self.half.read(&mut piece)).await else { return Ok(()) };
        let read = read.map_err(|e| broken(&e))?;
        piece.truncate(read);
        piece.shrink_to_fit();
        self.ended = read == 0;
        self.piece = piece;
        Ok(())
    }
}

/// Where a device is in its current boot attempt.
pub(super) struct Place {
    address: IpAddr,
    pub(super) host_key: SshPublicKey,
    attempt: BootAttempt,
    state: watch::Receiver<DeviceState>,
}

pub(super) fn place(seat: &Seat) -> Result<Place, Refusal> {
    let device = seat.device.device();
    let id = seat.id();
    // A container's agent shares this host's network: its ports are those of the coordinator's own machine.
    if device.model.backend() == Backend::Container || !device.capabilities.contains(&Capability::Ssh) {
        return Err(Refusal::hinted(
            format!("{id} ({}) has no network of its own that a tunnel could lead to", device.model),
            "pilab devices --json lists what each device can do",
        ));
    }
    if seat.has_card() {
        return Err(Refusal::hinted(
            format!("{id} boots from its own card: who may log in to it is its owner's to say"),
            "ask who set it up for an account there",
        ));
    }
    let state = seat.device.state();
    let (attempt, found) = {
        let now = state.borrow();
        (now.attempt, now.address.zip(now.host_key.as_deref().and_then(|key| SshPublicKey::new(key).ok())))
    };
    let (address, host_key) = found.ok_or_else(|| {
        Refusal::hinted(
            format!("{id} has not booted as far as its network since its coordinator started"),
            format!("pilab power on {id}, or cycle; pilab console {id} shows how far it is"),
        )
    })?;
    Ok(Place { address, host_key, attempt, state })
}

/// Done when the device is no longer in that attempt, or off.
async fn left(mut state: watch::Receiver<DeviceState>, attempt: BootAttempt) {
    // An actor that is gone has let go of the device.
    let _ = state.wait_for(|now| now.attempt != attempt || now.address.is_none()).await;
}

fn ended() -> Refusal {
    Refusal::hinted(
        "there is no such tunnel, or it has ended",
        "it ends with the lease, and when the device is switched off or booted anew",
    )
}

fn broken(error: &std::io::Error) -> Refusal {
    Refusal::new(format!("the device ended the connection: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::net::TcpListener;

    /// A user whose program was killed closes nothing, and asks for nothing any more.
    #[tokio::test(start_paused = true)]
    async fn a_user_who_vanishes_is_missed_and_the_device_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut device, _) = listener.accept().await.unwrap();
        let (ann, token) = (UserName::new("ann").unwrap(), FencingToken { epoch: 1, sequence: 1 });
        let tunnels = Tunnels::default();
        let made = Tunnel::new(ann.clone(), DeviceId::new("lab-pi").unwrap(), token, stream);
        let (id, tunnel) = tunnels.add(made).ok().unwrap();
        let by = Caller { user: ann, admin: false };
        let began = Instant::now();
        let still_there = async {
            sleep(IDLE / 2).await;
            tunnels.get(&by, id).is_ok()
        };
        let (why, heard) = tokio::join!(tunnel.guard(pending(), pending()), still_there);
        assert_eq!((why, heard), ("its user is gone", true));
        assert!(began.elapsed() >= IDLE + IDLE / 2, "each question counts");
        tunnels.remove(id);
        drop(tunnel);
        assert!(tunnels.get(&by, id).is_err());
        assert_eq!(device.read(&mut [0]).await.unwrap(), 0);
    }
}
