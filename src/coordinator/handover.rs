//! From one holder to the next: a device goes back to the pool only when nothing of the last one is left.
//!
//! Fenced off, at the actor, the console and the desired state; off; its way to NATS whole; what was deployed forgotten; its credentials revoked; its keys deleted and its
//! durable made anew. The token of all this is greater than the last holder's, so whatever of his is still under way
//! is refused from then on. A device of which a part fails is `suspect`, with the reason, and tried again; an
//! embedded lab, which ends with its runs, hands it on after the first failure, so that they end.

use super::ledger::LedgerError;
use super::lending::Lending;
use super::parts::{LabDevice, Parts};
use crate::bus::deployments as kept;
use crate::bus::provision::{self, ProvisionError};
use crate::device::{DeviceError, DeviceHandle};
use crate::model::device::Capability;
use crate::model::health::Health;
use crate::model::id::{DeviceId, LeaseId};
use crate::model::lease::FencingToken;
use crate::model::power::PowerReading;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{Id, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long each part may take: libvirt and the NATS server answer within seconds or, when they are gone, never.
/// A board that is being cycled takes its least time off, and its turn in the stagger.
const PART_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a device that did not come back clean is tried again.
const AGAIN: Duration = Duration::from_secs(15);
/// Pause while a device has too much to do.
const BUSY: Duration = Duration::from_millis(200);

/// A device to be made ready: the lease that it comes from, and the token to act under.
type Due = (DeviceId, Option<LeaseId>, FencingToken);

/// Makes devices ready as they come back, each by itself, until `stop`.
pub(super) async fn run(lending: Arc<Lending>, stop: CancellationToken) {
    let mut version = lending.ledger.changes();
    let mut under_way: BTreeMap<Id, DeviceId> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        version.borrow_and_update();
        let busy: BTreeSet<DeviceId> = under_way.values().cloned().collect();
        for due in due(&lending).await {
            if busy.contains(&due.0) {
                continue;
            }
            let (device, lending) = (due.0.clone(), Arc::clone(&lending));
            let task = tasks.spawn(async move { hand_over(&lending, due).await });
            under_way.insert(task.id(), device);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = version.changed() => if changed.is_err() { return },
            Some(done) = tasks.join_next_with_id() => {
                let id = match done {
                    Ok((id, ())) => id,
                    Err(error) => {
                        tracing::error!(%error, "a handover broke off");
                        error.id()
                    }
                };
                under_way.remove(&id);
            }
        }
    }
}

async fn due(lending: &Lending) -> Vec<Due> {
    let read = lending.ledger.read(|book, now| {
        let due = book.devices().filter_map(|(record, lease)| {
            let handover = record.handover.as_ref().filter(|_| lease.is_none())?;
            Some((record.device.id.clone(), handover.after.clone(), now.next))
        });
        let leases: BTreeSet<LeaseId> = book.leases().map(|(lease, _)| lease.request.id.clone()).collect();
        (due.collect::<Vec<Due>>(), leases)
    });
    let Ok((due, leases)) = read.await else { return Vec::new() };
    lending.forget(|lease| !leases.contains(lease));
    due
}

async fn hand_over(lending: &Arc<Lending>, (id, after, token): Due) {
    // Whoever had the lab before may still be at it.
    lending.parts.term.held().await;
    loop {
        let cause = match clean(lending, &id, after.as_ref(), token).await {
            Ok(()) => match lending.rewire(&id).await {
                Ok(false) => break,
                // By the new wires too.
                Ok(true) => continue,
                Err(cause) => cause,
            },
            Err(cause) => cause,
        };
        tracing::warn!(device = %id, cause, "a device did not come back clean");
        let known = id.clone();
        let lent = lending.ledger.read(move |book, _| {
            book.device(&known).is_some_and(|record| record.checkup.health.is_lendable())
        });
        // What somebody has said of it stands: it is not lent anyway.
        if lent.await.unwrap_or(true) {
            note(lending.ledger.device_health(id.clone(), Health::Suspect, cause).await);
        }
        if !lending.parts.lasting {
            break;
        }
        sleep(AGAIN).await;
    }
    note(lending.ledger.device_ready(id.clone()).await);
    lending.settle_pending(&id).await;
}

fn note(told: Result<(), LedgerError>) {
    if let Err(error) = told {
        tracing::warn!(error = %Chain(&error), "the ledger was not told of a handover; it is done again");
    }
}

/// Every part is tried, whatever becomes of the others; the first failure is told.
async fn clean(
    lending: &Lending,
    id: &DeviceId,
    after: Option<&LeaseId>,
    token: FencingToken,
) -> Result<(), String> {
    // It waits to be made anew, which comes next.
    if lock(&lending.unmade).contains(id) {
        return Ok(());
    }
    // One that has left the lab file has no wires that are ours. What its holder has in NATS is ours all the same.
    let mut first = match lending.device(id) {
        Some(device) => still(&device, after, token).await,
        None => Ok(()),
    };
    first = first.and(part("its deployments were not forgotten", forget(lending, id, token)).await);
    let revoked = Box::pin(lending.parts.issuer.revoke_device(&lending.parts.nats_url, id, None));
    first = first.and(part("its credentials were not revoked", revoked).await);
    let wiped = provision::device(&lending.parts.bus, id, token);
    first.and(part("its keys were not deleted", wiped).await)
}

/// Whoever had the device does nothing more to it; it is off, and its way to NATS whole.
async fn still(device: &LabDevice, after: Option<&LeaseId>, token: FencingToken) -> Result<(), String> {
    // Whether or not it can be switched.
    let mut first = part("its last holder was not fenced off", device.handle.fence(token)).await;
    let reading = device.handle.state().borrow().power;
    // What no switch is wired to is handed on as it is: its owner wants that, or would have wired one.
    let capabilities = &device.handle.device().capabilities;
    let switched = capabilities.contains(&Capability::Boot) || capabilities.contains(&Capability::Power);
    if switched && (reading != PowerReading::Off || after.is_some()) {
        first = first.and(part("it was not switched off", off(&device.handle, token)).await);
    }
    device.gate.restore();
    first
}

/// Behind what its last holder has still asked for: that is done first, and undone by this.
async fn off(device: &DeviceHandle, token: FencingToken) -> Result<(), DeviceError> {
    loop {
        match device.off(token).await {
            Err(DeviceError::Busy) => sleep(BUSY).await,
            done => return done,
        }
    }
}

/// Forgets the deployments of files that were applied to the device under leases before this token, so that the
/// operator does not put them back.
async fn forget(lending: &Lending, id: &DeviceId, token: FencingToken) -> Result<(), ProvisionError> {
    let Parts { bus, lab, .. } = &*lending.parts;
    for (record, revision) in kept::records(bus, lab).await? {
        if record.held.token < token && record.within.contains(id) {
            kept::remove(bus, lab, &record, revision).await?;
        }
    }
    Ok(())
}

async fn part<E: Error + 'static>(
    failed: &str,
    done: impl Future<Output = Result<(), E>>,
) -> Result<(), String> {
    match timeout(PART_TIMEOUT, done).await {
        Ok(done) => done.map_err(|e| format!("{failed}: {}", Chain(&e))),
        Err(_) => Err(format!("{failed} within {} s", PART_TIMEOUT.as_secs())),
    }
}
