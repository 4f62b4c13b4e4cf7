//! A virtual rack: its boards, their wires, relays and consoles, and what becomes of them in the end.

use super::board::{self, BoardState, Body, Loader};
use super::net::{self, Card, Names, Ports};
use super::rom::{self, Chip, Identity};
use super::supply::{Contact, ContactFault, Supply};
use super::uart::Uart;
use super::{SimError, qemu, sweep};
use crate::device::ports::{PortFuture, Power};
use crate::model::device::Model;
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use crate::model::simulation::{SimFault, SimTarget, Simulation};
use crate::support::lock::lock;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long boards may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// What joins boards and servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wires {
    /// A network of its own, in which this host has this address: needs root.
    Own(Ipv4Addr),
    /// The loopback, at these ports: no kernel can run.
    Loopback(Ports),
}

/// A board.
#[derive(Debug, Clone)]
pub struct BoardSpec {
    /// Its name, for its console.
    pub name: String,
    /// What it is.
    pub model: Model,
    /// Its network card.
    pub mac: [u8; 6],
    /// The low 32 bits of its serial number.
    pub serial: Option<u32>,
    /// How it is simulated.
    pub simulation: Simulation,
}

/// How a rack is set up.
#[derive(Debug, Clone)]
pub struct RackOptions {
    /// Tells it from others on this host: 8 letters or digits at the most.
    pub tag: String,
    /// Where racks have their files.
    pub root: PathBuf,
    /// What joins its parts.
    pub wires: Wires,
    /// How many boards its supply bears starting at once; none for all.
    pub inrush: Option<usize>,
    /// Its boards.
    pub boards: Vec<BoardSpec>,
}

/// A rack that is up.
pub struct Rack {
    root: PathBuf,
    names: Arc<Names>,
    tag: String,
    wires: Wires,
    boards: Vec<Board>,
    tracker: TaskTracker,
    token: CancellationToken,
    /// Held until all is removed.
    _lock: File,
}

struct Board {
    tty: PathBuf,
    relay: Arc<Relay>,
    state: watch::Receiver<BoardState>,
}

impl Rack {
    /// Sweeps what dead racks have left, and sets this one up. All boards are without power.
    pub async fn start(options: RackOptions) -> Result<Self, SimError> {
        let RackOptions { tag, root, wires, inrush, boards } = options;
        check(wires, &boards)?;
        sweep::sweep(&root).await?;
        let (path, held) = sweep::lock(&root, &tag)?;
        let held = held.ok_or(SimError::InUse { lock: path })?;
        let mut rack = Self {
            names: Arc::new(Names::new(&tag)),
            boards: Vec::new(),
            tracker: TaskTracker::new(),
            token: CancellationToken::new(),
            _lock: held,
            root,
            tag,
            wires,
        };
        match rack.fill(inrush, boards).await {
            Ok(()) => Ok(rack),
            Err(error) => {
                rack.end().await;
                Err(error)
            }
        }
    }

    async fn fill(&mut self, inrush: Option<usize>, boards: Vec<BoardSpec>) -> Result<(), SimError> {
        if let Wires::Own(address) = self.wires {
            net::make_rack(&self.names, address).await?;
        }
        let (on, mains) = watch::channel(true);
        let feed = Arc::new(Feed {
            supply: Mutex::new(Supply::new(inrush)),
            on,
            tracker: self.tracker.clone(),
            token: self.token.clone(),
        });
        for (number, spec) in boards.into_iter().enumerate() {
            let board = self.board(number, spec, &feed, mains.clone()).await?;
            self.boards.push(board);
        }
        Ok(())
    }

    async fn board(
        &self,
        number: usize,
        spec: BoardSpec,
        feed: &Arc<Feed>,
        mains: watch::Receiver<bool>,
    ) -> Result<Board, SimError> {
        let loader = match Chip::of(spec.model) {
            Some(chip) => Loader::Rom(Identity { chip, mac: spec.mac, serial: spec.serial }),
            None if spec.model == Model::UefiArm64 => Loader::Uefi(uefi()?),
            None => return Err(SimError::Model { model: spec.model.to_string() }),
        };
        let mac = rom::pairs(&spec.mac, ":");
        let card = match self.wires {
            Wires::Own(_) => {
                net::make_board(&self.names, number, &mac).await?;
                Card::wired(self.names.board(number)).map_err(SimError::Socket)?
            }
            Wires::Loopback(ports) => Card::Loopback(ports),
        };
        let tty = tty_of(&self.root, &self.tag, &spec.name);
        let faults: Vec<SimFault> = spec.simulation.faults(1).cloned().collect();
        let is_dead = faults.contains(&SimFault::DeadUart);
        let started = Uart::start(tty.clone(), is_dead, &self.tracker, self.token.clone());
        let (uart, typed) = started.map_err(|source| SimError::Console { path: tty.clone(), source })?;
        let fault = if faults.contains(&SimFault::Welded) {
            ContactFault::Welded
        } else if faults.contains(&SimFault::Chatters) {
            ContactFault::Chatters
        } else {
            ContactFault::None
        };
        let (state, seen) = watch::channel(BoardState::default());
        let (closed, contact) = watch::channel(false);
        let (fed, feeds) = watch::channel(false);
        self.tracker.spawn(join(contact, mains, fed, self.token.clone()));
        let body = Body {
            loader,
            mac,
            simulation: spec.simulation,
            number,
            names: Arc::clone(&self.names),
            card,
            uart,
            typed,
            dir: sweep::dir(&self.root, &self.tag).join(format!("board-{number}")),
            state,
            tracker: self.tracker.clone(),
        };
        self.tracker.spawn(board::run(body, feeds, self.token.clone()));
        let relay = Relay {
            contact: Mutex::new(Contact::new(fault)),
            turn: tokio::sync::Mutex::default(),
            closed,
            feed: Arc::clone(feed),
        };
        Ok(Board { tty, relay: Arc::new(relay), state: seen })
    }

    /// The relay of a board, counted from 0, as the port.
    pub fn power(&self, number: usize) -> Option<Arc<dyn Power>> {
        let relay: Arc<dyn Power> = self.boards.get(number)?.relay.clone();
        Some(relay)
    }

    /// The console of a board: a pseudo terminal's stable name.
    pub fn tty(&self, number: usize) -> Option<&Path> {
        self.boards.get(number).map(|board| board.tty.as_path())
    }

    /// How a board is.
    pub fn state(&self, number: usize) -> Option<watch::Receiver<BoardState>> {
        self.boards.get(number).map(|board| board.state.clone())
    }

    /// This host's end of its network; none on the loopback.
    pub fn interface(&self) -> Option<String> {
        matches!(self.wires, Wires::Own(_)).then(|| self.names.host())
    }

    /// Cuts all power, and removes all that was made.
    pub async fn end(self) {
        self.token.cancel();
        self.tracker.close();
        if timeout(GRACE, self.tracker.wait()).await.is_err() {
            tracing::warn!("the boards of a virtual rack did not end in time");
        }
        let mut namespaces = Vec::new();
        if let Wires::Own(_) = self.wires {
            namespaces.extend((0..self.boards.len()).map(|number| self.names.board(number)));
            namespaces.push(self.names.rack());
        }
        sweep::remove(&self.root, &self.tag, &namespaces).await;
    }
}

/// The console of a board, before there is one.
pub fn tty_of(root: &Path, tag: &str, name: &str) -> PathBuf {
    sweep::dir(root, tag).join(format!("tty-{name}"))
}

/// Whether this host has what the boards need.
fn check(wires: Wires, boards: &[BoardSpec]) -> Result<(), SimError> {
    let runs =
        boards.iter().any(|board| matches!(board.simulation.target, SimTarget::Virt | SimTarget::Raspi3b));
    let stubs = boards.iter().any(|board| matches!(board.simulation.target, SimTarget::Stub(_)));
    match wires {
        Wires::Own(_) if !rustix::process::geteuid().is_root() => return Err(SimError::NotRoot),
        Wires::Loopback(_) if runs || stubs => return Err(SimError::NoWires),
        Wires::Own(_) | Wires::Loopback(_) => {}
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    if runs && !std::env::split_paths(&path).any(|dir| dir.join(qemu::PROGRAM).is_file()) {
        return Err(SimError::NoQemu { program: qemu::PROGRAM });
    }
    Ok(())
}

/// The firmware of machines with UEFI.
fn uefi() -> Result<PathBuf, SimError> {
    qemu::UEFI.iter().map(PathBuf::from).find(|path| path.is_file()).ok_or(SimError::NoUefi)
}

/// What all boards are fed by.
struct Feed {
    supply: Mutex<Supply>,
    on: watch::Sender<bool>,
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Feed {
    /// A contact has closed.
    fn start(self: &Arc<Self>) {
        let (trips, recovers) = {
            let mut supply = lock(&self.supply);
            (supply.start(Instant::now()), supply.recovers())
        };
        let Some(recovers) = recovers.filter(|_| trips) else { return };
        tracing::info!("the supply of the virtual rack trips: too many boards start at once");
        self.on.send_replace(false);
        let feed = Arc::clone(self);
        self.tracker.spawn(async move {
            let recovered = feed.token.run_until_cancelled(sleep_until(recovers)).await;
            if recovered.is_some() {
                feed.on.send_replace(true);
            }
        });
    }
}

/// A board is fed when its contact is closed and there is something to feed it.
async fn join(
    mut contact: watch::Receiver<bool>,
    mut mains: watch::Receiver<bool>,
    fed: watch::Sender<bool>,
    token: CancellationToken,
) {
    let joined = async {
        loop {
            let is_fed = *contact.borrow_and_update() && *mains.borrow_and_update();
            fed.send_if_modified(|fed| std::mem::replace(fed, is_fed) != is_fed);
            let changed = tokio::select! {
                changed = contact.changed() => changed,
                changed = mains.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    };
    token.run_until_cancelled(joined).await;
}

/// A relay, as a driver has it.
struct Relay {
    contact: Mutex<Contact>,
    /// Held while it acts.
    turn: tokio::sync::Mutex<Fence>,
    closed: watch::Sender<bool>,
    feed: Arc<Feed>,
}

impl Power for Relay {
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            let mut fence = self.turn.lock().await;
            fence.admit(token)?;
            let moves = lock(&self.contact).set(state);
            for (after, closed) in moves {
                sleep(after).await;
                self.closed.send_replace(closed);
                if closed {
                    self.feed.start();
                }
            }
            Ok(())
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        Box::pin(async move { Ok(lock(&self.contact).coil().into()) })
    }
}
