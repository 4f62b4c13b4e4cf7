//! One run's hold on its devices while it lasts: seats by role, what was deployed, how faults are made.

use super::parts::Parts;
use crate::device::DeviceHandle;
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::lease::FencingToken;
use crate::model::run::{Fault, FaultKind};
use crate::support::chain::Chain;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A device in its role.
pub(super) struct Seat {
    pub(super) role: String,
    pub(super) device: DeviceHandle,
    pub(super) token: FencingToken,
    /// The boot attempt the device was in when the run got it.
    pub(super) before: BootAttempt,
    /// The NATS credentials issued in this run, to be revoked at its end: public key and expiry.
    pub(super) credentials: Mutex<Vec<(String, u64)>>,
    /// The private key that opens the device in its current boot attempt.
    pub(super) ssh_key: Mutex<String>,
}

impl Seat {
    pub(super) fn id(&self) -> &DeviceId {
        self.device.id()
    }

    /// The boot attempt the device is in.
    pub(super) fn attempt(&self) -> BootAttempt {
        self.device.state().borrow().attempt
    }

    pub(super) fn fault(&self, kind: FaultKind, cause: impl Into<String>) -> Fault {
        Fault { kind, cause: cause.into(), device: Some(self.id().clone()) }
    }

    /// A fault of the lab: something of ours could not do its part.
    pub(super) fn lab(&self, doing: &str, error: &(dyn Error + 'static)) -> Fault {
        self.fault(FaultKind::Lab, format!("cannot {doing}: {}", Chain(error)))
    }
}

/// What was put last on a deployment's desired key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Put {
    /// Its KV revision; 0 when nothing was put.
    pub(super) revision: u64,
    /// Its generation; none when the bytes need not hold any.
    pub(super) generation: Option<u64>,
}

/// A run's devices and what it did on them.
pub(super) struct Session {
    pub(super) parts: Arc<Parts>,
    pub(super) seats: Vec<Seat>,
    pub(super) boot_timeout: Duration,
    puts: Mutex<BTreeMap<(DeviceId, DeploymentName), Put>>,
}

impl Session {
    pub(super) fn new(parts: Arc<Parts>, seats: Vec<Seat>, boot_timeout: Duration) -> Self {
        Self { parts, seats, boot_timeout, puts: Mutex::default() }
    }

    pub(super) fn seat(&self, role: &str) -> Result<&Seat, Fault> {
        self.seats.iter().find(|seat| seat.role == role).ok_or_else(|| Fault {
            kind: FaultKind::Lab,
            cause: format!("the scenario has no device in the role {role:?}"),
            device: None,
        })
    }

    pub(super) fn note_put(&self, seat: &Seat, deployment: &DeploymentName, put: Put) {
        let mut puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
        puts.insert((seat.id().clone(), deployment.clone()), put);
    }

    /// What was put last on the device's deployment.
    pub(super) fn last_put(&self, seat: &Seat, deployment: &DeploymentName) -> Put {
        let puts = self.puts.lock().unwrap_or_else(PoisonError::into_inner);
        puts.get(&(seat.id().clone(), deployment.clone())).copied().unwrap_or_default()
    }

    /// Ends with a fault when a device's kernel panics; otherwise never.
    pub(super) async fn panic(&self) -> Fault {
        let mut watches: FuturesUnordered<_> = self.seats.iter().map(seat_panic).collect();
        match watches.next().await {
            Some(fault) => fault,
            None => std::future::pending().await,
        }
    }
}

async fn seat_panic(seat: &Seat) -> Fault {
    let mut stages = seat.device.console().stages();
    // What an earlier holder's boot attempt showed is not this run's.
    let panic = stages.wait_for(|now| now.attempt > seat.before && now.get(BootStage::Panic).is_some()).await;
    let line = panic.map(|stages| stages.get(BootStage::Panic).map(|reached| reached.line.clone()));
    let Ok(line) = line else { return std::future::pending().await };
    let line = line.unwrap_or_default();
    seat.fault(FaultKind::Panic, format!("the kernel panicked: {line:?}"))
}
