//! Who has which device. Requests are served in the order they came, all devices or none.

use super::parts::LabDevice;
use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::model::lease::FencingToken;
use crate::model::scenario::Need;
use crate::plan::place::{Placement, place};
use crate::support::lock::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The epoch of the tokens: this ledger lives in memory and is made anew with the coordinator, which
/// makes its bucket and its devices anew with it.
const EPOCH: u64 = 1;

/// The devices of a lab.
pub(super) struct Pool {
    inventory: Vec<Device>,
    devices: BTreeMap<DeviceId, LabDevice>,
    /// Taken while a request waits: tokio's mutex is fair, so requests are served in order.
    turn: tokio::sync::Mutex<()>,
    /// No await happens under this lock.
    ledger: Mutex<Ledger>,
    returned: Notify,
}

#[derive(Default)]
struct Ledger {
    taken: BTreeSet<DeviceId>,
    grants: u64,
}

/// Why there are no devices for a run.
pub(super) enum Denied {
    /// There never will be.
    Never {
        role: String,
        cause: String,
    },
    Cancelled,
}

/// Devices that belong to one run until this is dropped.
pub(super) struct Grant {
    pub(super) token: FencingToken,
    /// In the order of the needs.
    pub(super) devices: Vec<LabDevice>,
    pool: Arc<Pool>,
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut ledger = lock(&self.pool.ledger);
        for device in &self.devices {
            ledger.taken.remove(device.handle.id());
        }
        drop(ledger);
        self.pool.returned.notify_waiters();
    }
}

impl Pool {
    pub(super) fn new(devices: Vec<LabDevice>) -> Arc<Self> {
        Arc::new(Self {
            inventory: devices.iter().map(|device| device.handle.device().clone()).collect(),
            devices: devices.into_iter().map(|device| (device.handle.id().clone(), device)).collect(),
            turn: tokio::sync::Mutex::new(()),
            ledger: Mutex::new(Ledger::default()),
            returned: Notify::new(),
        })
    }

    /// Waits for devices that meet `needs`.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        needs: &[Need],
        cancel: &CancellationToken,
    ) -> Result<Grant, Denied> {
        let waiting = async {
            let _turn = self.turn.lock().await;
            loop {
                let returned = self.returned.notified();
                if let Some(decided) = self.try_acquire(needs) {
                    return decided;
                }
                returned.await;
            }
        };
        tokio::select! {
            decided = waiting => decided,
            () = cancel.cancelled() => Err(Denied::Cancelled),
        }
    }

    /// `None` means: wait until a device comes back.
    fn try_acquire(self: &Arc<Self>, needs: &[Need]) -> Option<Result<Grant, Denied>> {
        let mut ledger = lock(&self.ledger);
        match place(needs, &self.inventory, |id| !ledger.taken.contains(id)) {
            Placement::Wait => None,
            Placement::Never { role, cause } => Some(Err(Denied::Never { role, cause })),
            Placement::Granted(ids) => {
                ledger.grants += 1;
                let token = FencingToken { epoch: EPOCH, sequence: ledger.grants };
                let devices = ids.iter().filter_map(|id| self.devices.get(id).cloned()).collect();
                ledger.taken.extend(ids);
                Some(Ok(Grant { token, devices, pool: Arc::clone(self) }))
            }
        }
    }
}
