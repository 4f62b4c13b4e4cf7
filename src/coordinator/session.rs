//! One lease's hold on its devices while it lasts: seats by role, what was deployed, how faults are made.

use super::operator::Operator;
use super::parts::{LabDevice, Parts};
use crate::bus::gate::Gate;
use crate::device::DeviceHandle;
use crate::device::ports::Broken;
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::device::{Backend, Capability, Device};
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::lease::{FencingToken, LeaseToken};
use crate::model::run::{Fault, FaultKind};
use crate::plan::warm::{Cold, Start};
use crate::support::chain::Chain;
use crate::support::lock::lock;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a console's line may be closed before its device counts as gone: it is opened again within
/// tenths of a second after a hiccup, and a device needs a moment to say that it was switched off.
const AWAY: Duration = Duration::from_secs(3);

/// A device in its role.
pub(super) struct Seat {
    pub(super) role: String,
    pub(super) device: DeviceHandle,
    pub(super) token: FencingToken,
    /// The boot attempt the device was in when the run got it.
    pub(super) before: BootAttempt,
    /// The NATS credentials of the device's current boot attempt.
    pub(super) creds: Mutex<String>,
    /// The private key that opens the device in its current boot attempt.
    pub(super) ssh_key: Mutex<String>,
    /// The device's way to NATS.
    pub(super) gate: Gate,
    /// Held while it is made to boot.
    pub(super) booting: Arc<tokio::sync::Mutex<()>>,
    /// How it starts first.
    pub(super) first_start: Start,
    /// It was told to restart, so its console may go away.
    pub(super) restarting: AtomicBool,
}

impl Seat {
    pub(super) fn new(role: &str, device: &LabDevice, token: FencingToken) -> Self {
        Self {
            role: role.to_owned(),
            device: device.handle.clone(),
            token,
            before: device.handle.state().borrow().attempt,
            creds: Mutex::default(),
            ssh_key: Mutex::default(),
            gate: device.gate.clone(),
            booting: Arc::clone(&device.booting),
            first_start: Start::Warm,
            restarting: AtomicBool::default(),
        }
    }

    pub(super) fn id(&self) -> &DeviceId {
        self.device.id()
    }

    /// Whether it boots what the lab offers, and not what it finds by itself.
    pub(super) fn boots_what_is_offered(&self) -> bool {
        self.device.device().capabilities.contains(&Capability::Boot)
    }

    /// Whether it boots from its own card, and is only given its agent's credentials.
    pub(super) fn has_card(&self) -> bool {
        has_card(self.device.device())
    }

    /// The boot attempt the device is in.
    pub(super) fn attempt(&self) -> BootAttempt {
        self.device.state().borrow().attempt
    }

    /// How it is started now. Only the first start under a lease is from saved memory: whoever switches a device off
    /// and on again, or restarts it, wants it to boot.
    pub(super) fn start(&self) -> Start {
        if self.attempt() == self.before { self.first_start.clone() } else { Start::Cold(Cold::Again) }
    }

    pub(super) fn fault(&self, kind: FaultKind, cause: impl Into<String>) -> Fault {
        Fault { kind, cause: cause.into(), device: Some(self.id().clone()) }
    }

    /// A fault of the lab: something of ours could not do its part.
    pub(super) fn lab(&self, doing: &str, error: &(dyn Error + 'static)) -> Fault {
        self.fault(FaultKind::Lab, format!("cannot {doing}: {}", Chain(error)))
    }

    /// The device was not reached over SSH: that of its image, or the lab's way to it.
    pub(super) fn unreachable(&self, doing: &str, error: &(dyn Error + 'static)) -> Fault {
        self.fault(FaultKind::Unreachable, format!("cannot {doing}: {}", Chain(error)))
    }
}

fn has_card(device: &Device) -> bool {
    let can = |capability| device.capabilities.contains(&capability);
    device.backend == Backend::Pi && can(Capability::Boot) && !can(Capability::Image)
}

/// What was put last on a deployment's desired key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Put {
    /// Its KV revision; 0 when nothing was put.
    pub(super) revision: u64,
    /// Its generation; none when the bytes need not hold any.
    pub(super) generation: Option<u64>,
}

/// The devices of a run, or of a person's lease, and what was done on them.
pub(super) struct Session {
    pub(super) parts: Arc<Parts>,
    pub(super) seats: Vec<Seat>,
    pub(super) boot_timeout: Duration,
    pub(super) operator: Operator,
    /// Under what it acts.
    pub(super) held: LeaseToken,
    puts: Mutex<BTreeMap<(DeviceId, DeploymentName), Put>>,
    /// What broke since the run began, of all that its devices stand on.
    broke: watch::Receiver<Broken>,
}

impl Session {
    pub(super) fn new(
        parts: Arc<Parts>,
        seats: Vec<Seat>,
        boot_timeout: Duration,
        operator: Operator,
        held: LeaseToken,
    ) -> Self {
        let broke = from_now(&parts.broke);
        Self { parts, seats, boot_timeout, operator, held, puts: Mutex::default(), broke }
    }

    pub(super) fn seat(&self, role: &str) -> Result<&Seat, Fault> {
        self.seats.iter().find(|seat| seat.role == role).ok_or_else(|| Fault {
            kind: FaultKind::Lab,
            cause: format!("the scenario has no device in the role {role:?}"),
            device: None,
        })
    }

    pub(super) fn note_put(&self, seat: &Seat, deployment: &DeploymentName, put: Put) {
        let mut puts = lock(&self.puts);
        puts.insert((seat.id().clone(), deployment.clone()), put);
    }

    /// What was put last on the device's deployment.
    pub(super) fn last_put(&self, seat: &Seat, deployment: &DeploymentName) -> Put {
        let puts = lock(&self.puts);
        puts.get(&(seat.id().clone(), deployment.clone())).copied().unwrap_or_default()
    }

    /// Ends with a fault when a device's kernel panics, the device goes away, or what all devices stand on breaks;
    /// otherwise never.
    pub(super) async fn lost(&self) -> Fault {
        let mut watches = FuturesUnordered::new();
        for seat in &self.seats {
            watches.push(async move {
                tokio::select! {
                    // A device that panics may go away at once: the panic is what to tell.
                    biased;
                    fault = panicked(seat) => fault,
                    fault = gone(seat) => fault,
                }
            });
        }
        let lost = async {
            match watches.next().await {
                Some(fault) => fault,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            fault = self.broken() => fault,
            fault = lost => fault,
        }
    }

    async fn broken(&self) -> Fault {
        let mut broke = self.broke.clone();
        if broke.changed().await.is_err() {
            return std::future::pending().await;
        }
        let cause = broke.borrow().cause.clone();
        Fault { kind: FaultKind::Lab, cause, device: None }
    }

    /// A fault for an agent that does not answer: the lab's own, when the coordinator has no connection to
    /// NATS itself.
    pub(super) fn silent(&self, seat: &Seat, kind: FaultKind, cause: String) -> Fault {
        if self.parts.bus.connection().borrow().up {
            seat.fault(kind, cause)
        } else {
            seat.fault(FaultKind::Lab, format!("the coordinator has lost its connection to NATS: {cause}"))
        }
    }
}

/// What breaks from now on: what broke before was mended, or is seen again. But what lasts is seen by all.
fn from_now(broke: &watch::Receiver<Broken>) -> watch::Receiver<Broken> {
    let mut broke = broke.clone();
    if broke.borrow_and_update().lasting {
        broke.mark_changed();
    }
    broke
}

async fn panicked(seat: &Seat) -> Fault {
    let mut stages = seat.device.console().stages();
    // What an earlier holder's boot attempt showed is not this run's.
    let panic = stages.wait_for(|now| now.attempt > seat.before && now.get(BootStage::Panic).is_some()).await;
    let line = panic.map(|stages| stages.get(BootStage::Panic).map(|reached| reached.line.clone()));
    let Ok(line) = line else { return std::future::pending().await };
    let line = line.unwrap_or_default();
    seat.fault(FaultKind::Panic, format!("the kernel panicked: {line:?}"))
}

/// Ends when the console's line, which was open, is closed for [`AWAY`] while the device should be on.
///
/// `powered_on_at` is none from before power is switched off until after it is switched on, so a power
/// cycle or the end of a run is never taken for this. Only a virtual machine's line goes away with its
/// device; a serial adapter's stays, and one that is pulled is the lab's fault too.
async fn gone(seat: &Seat) -> Fault {
    let (mut status, mut state) = (seat.device.console().status(), seat.device.state());
    let mut seen_open = None;
    let mut closed_since: Option<Instant> = None;
    loop {
        let (powered, attempt) = {
            let now = state.borrow_and_update();
            (now.powered_on_at.is_some() && now.attempt > seat.before, now.attempt)
        };
        let open = status.borrow_and_update().open;
        if powered && open {
            seen_open = Some(attempt);
        }
        let restarting = seat.restarting.load(Ordering::Relaxed);
        let away = powered && !open && seen_open == Some(attempt) && !restarting;
        closed_since = if away { closed_since.or_else(|| Some(Instant::now())) } else { None };
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return std::future::pending().await },
            changed = state.changed() => if changed.is_err() { return std::future::pending().await },
            () = until(closed_since.map(|since| since + AWAY)) => {
                let stages = seat.device.console().stages();
                let stage = stages.borrow().last().map_or("no boot stage".to_owned(), |last| {
                    format!("stage {} ({:?})", last.stage, last.line)
                });
                // A console that can say more than that it is closed does.
                let why = status.borrow().fault.clone().unwrap_or_default();
                let cause = format!("boot attempt {attempt}: the device went away (console closed: {why}) at {stage}");
                return seat.fault(FaultKind::Gone, cause);
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_stays_broken_is_seen_by_whoever_comes() {
        let (told, broke) = watch::channel(Broken::default());
        let broken = |lasting| Broken { cause: "it ended".to_owned(), lasting };
        told.send_replace(broken(false));
        let mut between = from_now(&broke);
        assert!(!between.has_changed().unwrap(), "it was mended");
        told.send_replace(broken(true));
        between.changed().await.unwrap();
        drop(told);
        from_now(&broke).changed().await.expect("whoever told of it may be gone");
    }
}
