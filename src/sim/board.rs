//! One simulated board: what it does while it has power, and that it does nothing without.

use super::SimError;
use super::net::{Card, Names};
use super::qemu::{self, Machine, Running, Runs};
use super::rom::{Act, Halt, Identity, Loaded, Reset, Rom, RomFaults};
use super::stub::Stub;
use super::supply::{Charge, Life};
use super::trigger::Ear;
use super::uart::Uart;
use crate::model::simulation::{SimFault, SimTarget, Simulation};
use crate::support::chain::Chain;
use bytes::Bytes;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The longest packet that is read: an Ethernet frame.
const PACKET: usize = 1518;
/// How much of what a kernel says is taken at a time, in bytes.
const PIECE: usize = 4096;
/// How long a kernel that reads nothing from its line is waited for.
const TYPE: Duration = Duration::from_millis(200);
/// What makes a kernel panic whatever its initramfs holds.
const PANIC: &str = "rdinit=/nothing root=/dev/nothing";
/// What a board that stops after its loader says where its kernel is to panic.
const SCRIPTED_PANIC: &str = "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]\r\n\
    [    0.000000] Linux version 6.12.0-simulated (nobody@nowhere)\r\n\
    [    1.234567] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n\
    [    1.234890] ---[ end Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0) ]---\r\n";

/// What a board is doing, for those who look into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Doing {
    /// Nothing: it has no power.
    #[default]
    Off,
    /// Its boot loader runs.
    Loads,
    /// It has loaded these files, by name and length, and stops there.
    Loaded(Vec<(String, usize)>),
    /// Its kernel runs, as this process.
    Runs(u32),
    /// It does nothing any more until its power is cut.
    Hangs(String),
}

/// How a board is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoardState {
    /// Power-ons and restarts.
    pub boots: u32,
    /// What it is doing.
    pub doing: Doing,
}

/// What a board does before its kernel.
#[derive(Debug, Clone)]
pub(super) enum Loader {
    /// What a Pi does, played here.
    Rom(Identity),
    /// This firmware, run by QEMU.
    Uefi(PathBuf),
}

/// A board without its supply.
pub(super) struct Body {
    pub(super) loader: Loader,
    /// The address of its card, with colons.
    pub(super) mac: String,
    pub(super) simulation: Simulation,
    pub(super) number: usize,
    pub(super) names: Arc<Names>,
    pub(super) card: Card,
    pub(super) uart: Uart,
    pub(super) typed: mpsc::Receiver<Bytes>,
    pub(super) dir: PathBuf,
    pub(super) state: watch::Sender<BoardState>,
    pub(super) tracker: TaskTracker,
}

/// How a boot ended.
enum End {
    /// By a restart of its own.
    Restarted,
    /// Its supply broke down for a moment.
    BrownOut,
    /// In nothing.
    Over(String),
}

/// Lives as its supply lets it, until `token` is cancelled.
pub(super) async fn run(mut body: Body, mut fed: watch::Receiver<bool>, token: CancellationToken) {
    let holds = body.simulation.holds;
    let live = async {
        let mut charge = Charge::new(holds);
        loop {
            body.state.send_modify(|state| state.doing = Doing::Off);
            // The rack ends with its supply.
            if fed.wait_for(|fed| *fed).await.is_err() {
                return;
            }
            charge.feed(true, Instant::now());
            tokio::select! {
                () = dead(&mut charge, &mut fed) => {}
                () = body.live() => {}
            }
            body.unplug().await;
        }
    };
    token.run_until_cancelled(live).await;
}

/// Waits until the charge is gone.
async fn dead(charge: &mut Charge, fed: &mut watch::Receiver<bool>) {
    loop {
        let is_fed = *fed.borrow_and_update();
        let faded = match charge.feed(is_fed, Instant::now()) {
            Life::Dead => return,
            Life::Alive => None,
            Life::Fading(until) => Some(until),
        };
        let fades = async {
            match faded {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            changed = fed.changed() => if changed.is_err() {
                return;
            },
            () = fades => {}
        }
    }
}

impl Body {
    /// From power-on until it is dropped.
    async fn live(&mut self) {
        let mut cause = Reset::Power;
        loop {
            self.state.send_modify(|state| {
                state.boots += 1;
                state.doing = Doing::Loads;
            });
            let boot = self.state.borrow().boots;
            let faults: Vec<SimFault> = self.simulation.faults(boot).cloned().collect();
            match self.boot(cause, &faults).await {
                Ok(End::Restarted) => cause = Reset::Warm,
                Ok(End::BrownOut) => cause = Reset::Power,
                Ok(End::Over(words)) => return self.hang(words).await,
                Err(error) => {
                    let words = Chain(&error).to_string();
                    tracing::error!(board = self.mac, "a simulated board: {words}");
                    return self.hang(words).await;
                }
            }
            self.unplug().await;
        }
    }

    async fn hang(&self, words: String) {
        self.state.send_modify(|state| state.doing = Doing::Hangs(words));
        pending::<()>().await;
    }

    async fn unplug(&self) {
        if let Err(error) = self.card.down().await {
            tracing::warn!("the card of a simulated board: {}", Chain(&error));
        }
    }

    async fn boot(&mut self, cause: Reset, faults: &[SimFault]) -> Result<End, SimError> {
        let mut ear = Ear::default();
        let identity = match &self.loader {
            Loader::Rom(identity) => identity.clone(),
            Loader::Uefi(image) => {
                let runs = Runs::Uefi(image.clone(), self.simulation.uefi);
                return self.machine(&runs, faults, &mut ear).await;
            }
        };
        let loaded = match self.load(identity, cause, faults, &mut ear).await? {
            Step::Loaded(loaded) => loaded,
            Step::End(end) => return Ok(end),
        };
        if loaded.needless > 0 {
            tracing::warn!(
                blocks = loaded.needless,
                board = self.mac,
                "blocks came twice without need: a Pi 4 may hang on them"
            );
        }
        let panics = faults.contains(&SimFault::KernelPanic);
        let more = if panics { PANIC } else { "" };
        match &self.simulation.target {
            target @ (SimTarget::Virt | SimTarget::Raspi3b) => {
                let is_virt = *target == SimTarget::Virt;
                let runs = if is_virt { Runs::Loaded(loaded, more) } else { Runs::Pi3(loaded, more) };
                // The kernel has the card from here on.
                self.unplug().await;
                self.machine(&runs, faults, &mut ear).await
            }
            SimTarget::Stub(program) => {
                let namespace = self.names.board(self.number);
                let stub = Stub { program, namespace: &namespace, dir: &self.dir, loaded: &loaded, more };
                let (running, _group) = stub.start()?;
                self.watch(running, faults, &mut ear).await
            }
            SimTarget::Rom => {
                if panics {
                    self.uart.say(SCRIPTED_PANIC).await;
                }
                let files = loaded.files.iter().map(|file| (file.name.clone(), file.bytes.len())).collect();
                drop(loaded);
                self.state.send_modify(|state| state.doing = Doing::Loaded(files));
                pending().await
            }
        }
    }

    /// Lets the boot loader run.
    async fn load(
        &mut self,
        identity: Identity,
        cause: Reset,
        faults: &[SimFault],
        ear: &mut Ear,
    ) -> Result<Step, SimError> {
        let mut rom = Rom::new(identity, RomFaults::of(faults), cause, Instant::now());
        self.card.up().await?;
        let dhcp = self.card.dhcp().await.map_err(SimError::Socket)?;
        let (mut address, mut file): (_, Option<UdpSocket>) = (Ipv4Addr::UNSPECIFIED, None);
        let (mut heard, mut got) = ([0; PACKET], [0; PACKET]);
        loop {
            let acts: Vec<Act> = rom.acts().collect();
            for act in acts {
                match act {
                    Act::Say(words) => {
                        if let (Some(end), _) = self.say(words.into(), faults, ear).await {
                            return Ok(Step::End(end));
                        }
                    }
                    // What a network does not take is lost, as on a wire.
                    Act::Ask(packet) => {
                        drop(dhcp.send_to(&packet, SocketAddr::V4(self.card.dhcp_servers())).await);
                    }
                    Act::Address(network) => {
                        self.card.take(&network).await?;
                        address = network.address;
                    }
                    Act::Open(port) => {
                        file = Some(self.card.tftp(address, port).await.map_err(SimError::Socket)?);
                    }
                    Act::Send(packet, to, port) => {
                        if let Some(file) = &file {
                            let to = SocketAddrV4::new(to, port.unwrap_or(self.card.tftp_port()));
                            drop(file.send_to(&packet, SocketAddr::V4(to)).await);
                        }
                    }
                    Act::Start(loaded) => return Ok(Step::Loaded(loaded)),
                    Act::Halt(why) => return Ok(Step::End(End::Over(told(&why)))),
                }
            }
            let due = async {
                match rom.deadline() {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let piece = async {
                match &file {
                    Some(file) => file.recv_from(&mut got).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                received = dhcp.recv_from(&mut heard) => if let Ok((length, _)) = received {
                    rom.on_dhcp(heard.get(..length).unwrap_or_default(), Instant::now());
                },
                received = piece => if let Ok((length, SocketAddr::V4(from))) = received {
                    rom.on_tftp(from, got.get(..length).unwrap_or_default(), Instant::now());
                },
                () = due => rom.on_time(Instant::now()),
            }
        }
    }

    /// Lets the kernel run, or the firmware that gets one.
    async fn machine(&mut self, runs: &Runs, faults: &[SimFault], ear: &mut Ear) -> Result<End, SimError> {
        let machine = Machine {
            mac: &self.mac,
            names: &self.names,
            number: self.number,
            memory_mib: self.simulation.memory_mib,
            dir: &self.dir,
            runs,
        };
        let running = machine.start()?;
        self.watch(running, faults, ear).await
    }

    /// Lets the kernel run.
    async fn watch(&mut self, running: Running, faults: &[SimFault], ear: &mut Ear) -> Result<End, SimError> {
        let Running { mut child, mut input, mut output, program } = running;
        let pid = child.id().unwrap_or_default();
        self.state.send_modify(|state| state.doing = Doing::Runs(pid));
        let (mut piece, mut is_halted) = (vec![0; PIECE], false);
        loop {
            tokio::select! {
                read = output.read(&mut piece) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(length) => {
                        let bytes = Bytes::copy_from_slice(piece.get(..length).unwrap_or_default());
                        let (end, goes_down) = self.say(bytes, faults, ear).await;
                        if let Some(end) = end {
                            return Ok(end);
                        }
                        is_halted |= goes_down;
                    }
                },
                Some(bytes) = self.typed.recv() => {
                    // A kernel that reads nothing loses what is typed, as a UART's buffer is small.
                    let _ = timeout(TYPE, input.write_all(&bytes)).await;
                }
            }
        }
        let status = child.wait().await.map_err(SimError::Socket)?;
        if !status.success() {
            return Err(SimError::Machine { program, status, words: qemu::last_words(&mut child).await });
        }
        Ok(if is_halted { End::Over("its system has gone down".to_owned()) } else { End::Restarted })
    }

    /// Says it on the line, and does what is to happen then. Answers what ends the boot, and whether the system has gone
    /// down for good.
    async fn say(&self, bytes: Bytes, faults: &[SimFault], ear: &mut Ear) -> (Option<End>, bool) {
        let heard = ear.hear(&bytes);
        let goes_down = heard.says("reboot: Power down") || heard.says("reboot: System halted");
        let mut end = None;
        let mut pulled = None;
        for fault in faults {
            match fault {
                SimFault::BrownOut(stage) if heard.shows(*stage) => end = Some(End::BrownOut),
                SimFault::UartPulled(stage, long) if heard.shows(*stage) => pulled = Some(*long),
                _ => {}
            }
        }
        self.uart.say(bytes).await;
        if let Some(long) = pulled {
            self.uart.plug(false).await;
            let uart = self.uart.clone();
            self.tracker.spawn(async move {
                tokio::time::sleep(long).await;
                uart.plug(true).await;
            });
        }
        (end, goes_down)
    }
}

/// How far the boot loader came.
enum Step {
    Loaded(Box<Loaded>),
    End(End),
}

fn told(why: &Halt) -> String {
    match why {
        Halt::NoNetwork => "it has given up on the network".to_owned(),
        Halt::NotBootable(words) => (*words).to_owned(),
        Halt::Stalled(file) => format!("it hangs at {file}"),
    }
}
