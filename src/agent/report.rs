//! Writes statuses to the bus: each change in order, and a deletion when its deployment is gone. Without a
//! connection the changes wait in the outbox, and go out in order when there is one again.
//!
//! ```text
//!  statuses ──► what changed ──► outbox ──(connected)──► bus
//!               (at once)          │ ▲
//!                                  disk
//! ```
//!
//! Which statuses may stand on the bus is kept on disk before they are written, so that a crash between
//! a deployment's end and the deletion of its status leaves no ghost.
//!
//! The bucket may be made anew, by a reconnect or without one, and a device may not read it. So now and then one status is
//! written on the condition that its key holds nothing: refused, all is well; taken, the bucket is a new one, and all is said again.

use super::facts::boot_id;
use super::outbox::{Outbox, Transition};
use super::pace::Pace;
use super::store::Store;
use crate::bus::connect::{Bus, Connection};
use crate::bus::error::BusError;
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::report::StatusReport;
use crate::model::workload::Status;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::wire::subject;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// All statuses as they should stand; none before the first look at the device.
pub type Statuses = Option<BTreeMap<DeploymentName, Status>>;

/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How often it is found out whether the bucket is still the one that was written to. A bucket that was made anew should be
/// noticed within 12 s.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a write may take before what waits for it goes to the disk: a server that is there answers
/// within some milliseconds.
const SLOW: Duration = Duration::from_millis(500);

/// Reports until the agent ends. What has not been published then is on the disk.
pub async fn run(
    device: DeviceId,
    link: watch::Receiver<Option<Bus>>,
    store: Store,
    mut statuses: watch::Receiver<Statuses>,
    pace: Pace,
    shutdown: CancellationToken,
) {
    let mut reporter = Reporter::new(device, link, store, pace);
    tokio::select! {
        () = reporter.run(&mut statuses) => {}
        () = shutdown.cancelled() => {}
    }
    reporter.outbox.keep();
}

struct Reporter {
    device: DeviceId,
    boot_id: String,
    link: watch::Receiver<Option<Bus>>,
    connection: Option<watch::Receiver<Connection>>,
    store: Store,
    outbox: Outbox,
    /// The deployments whose status may stand on the bus, as the disk has it.
    reported: BTreeSet<DeploymentName>,
    /// What was said last of each deployment, published or not; none when only an earlier agent knew.
    last: BTreeMap<DeploymentName, Option<Transition>>,
    /// Said before the connection was lost, and so to be said again.
    stale: BTreeSet<DeploymentName>,
    /// How many times the connection had come up when it was last looked at.
    epoch: u64,
    /// After a write that failed.
    not_before: Instant,
    pace: Pace,
    /// When it is to be found out whether the bucket still holds what was said.
    probe_at: Instant,
    /// Whose status it was found out with.
    probed: Option<DeploymentName>,
}

/// A write to the bus.
struct Write {
    transition: Transition,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It happened; its number in the outbox.
    Happened(u64),
    /// It still stands, and is said again.
    Stands,
    /// To be written only if nothing stands there.
    Probe,
}

impl Reporter {
    fn new(device: DeviceId, link: watch::Receiver<Option<Bus>>, store: Store, pace: Pace) -> Self {
        let (outbox, reported) = (Outbox::open(store.clone()), store.reported());
        let mut last: BTreeMap<_, _> = reported.iter().map(|name| (name.clone(), None)).collect();
        for transition in outbox.transitions() {
            let name = transition.deployment.clone();
            match &transition.status {
                Some(_) => last.insert(name, Some(transition.clone())),
                None => last.remove(&name),
            };
        }
        Self {
            device,
            boot_id: boot_id(),
            link,
            connection: None,
            store,
            outbox,
            reported,
            last,
            stale: BTreeSet::new(),
            epoch: 0,
            not_before: Instant::now(),
            pace,
            probe_at: pace.next(PROBE_INTERVAL),
            probed: None,
        }
    }

    async fn run(&mut self, statuses: &mut watch::Receiver<Statuses>) {
        loop {
            self.take(statuses);
            let bus = self.connected();
            let up = bus.is_some();
            if !up {
                self.outbox.keep();
            }
            let paused = self.not_before.saturating_duration_since(Instant::now());
            let next = bus.filter(|_| paused.is_zero()).and_then(|bus| Some((bus, self.next()?)));
            let Some((bus, write)) = next else {
                let again = if paused.is_zero() { self.probe_at } else { self.not_before };
                tokio::select! {
                    changed = statuses.changed() => if changed.is_err() { return },
                    () = changed(Some(&mut self.link)) => {}
                    () = changed(self.connection.as_mut()) => {}
                    () = tokio::time::sleep_until(again), if up => {}
                }
                continue;
            };
            if write.transition.status.is_some() {
                self.remember(&write.transition.deployment, true);
            }
            let device = self.device.clone();
            match self.while_reading(statuses, publish(&bus, &device, &write)).await {
                None => return,
                Some(Ok(())) => self.written(&write),
                Some(Err(BusError::Conflict { .. })) if write.why == Why::Probe => {}
                Some(Err(error)) => {
                    tracing::warn!(error = %Chain(&error), "cannot report");
                    self.outbox.keep();
                    self.not_before = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Goes on taking what changes while a write is under way; none when the agent ends.
    async fn while_reading<T>(
        &mut self,
        statuses: &mut watch::Receiver<Statuses>,
        write: impl Future<Output = T>,
    ) -> Option<T> {
        let mut write = pin!(write);
        let slow = Instant::now() + SLOW;
        loop {
            tokio::select! {
                done = &mut write => return Some(done),
                changed = statuses.changed() => {
                    changed.ok()?;
                    self.take(statuses);
                    if Instant::now() >= slow {
                        self.outbox.keep();
                    }
                }
                () = tokio::time::sleep_until(slow), if Instant::now() < slow => self.outbox.keep(),
            }
        }
    }

    /// Puts what has changed into the outbox.
    fn take(&mut self, statuses: &mut watch::Receiver<Statuses>) {
        let Some(wanted) = statuses.borrow_and_update().clone() else { return };
        let gone: Vec<_> = self.last.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for (name, status) in wanted {
            let said = self.last.get(&name).and_then(|last| last.as_ref()?.status.as_ref());
            if said != Some(&status) {
                let transition = self.transition(name.clone(), Some(status));
                self.outbox.push(transition.clone());
                self.last.insert(name, Some(transition));
            }
        }
        for name in gone {
            self.outbox.push(self.transition(name.clone(), None));
            self.last.remove(&name);
        }
    }

    fn transition(&self, deployment: DeploymentName, status: Option<Status>) -> Transition {
        Transition { deployment, status, at_ms: clock::wall_ms(), boot_id: self.boot_id.clone(), dropped: 0 }
    }

    /// The connection, when it is up. When it came back, all is to be said again: the bucket may be a new one.
    fn connected(&mut self) -> Option<Bus> {
        let bus = self.link.borrow_and_update().clone()?;
        let connection = self.connection.get_or_insert_with(|| bus.connection());
        let (up, epoch) = {
            let now = connection.borrow_and_update();
            (now.up, now.epoch)
        };
        if self.epoch != 0 && epoch > self.epoch {
            self.stale = self.last.keys().cloned().collect();
        }
        self.epoch = epoch;
        up.then_some(bus)
    }

    /// What is to be written next: first what happened, then what still stands.
    fn next(&mut self) -> Option<Write> {
        if let Some((number, transition)) = self.outbox.front() {
            return Some(Write { transition: transition.clone(), why: Why::Happened(number) });
        }
        while let Some(name) = self.stale.first() {
            if let Some(Some(last)) = self.last.get(name) {
                return Some(Write { transition: last.clone(), why: Why::Stands });
            }
            self.stale.pop_first();
        }
        if Instant::now() < self.probe_at {
            return None;
        }
        self.probe_at = self.pace.next(PROBE_INTERVAL);
        let said = || self.last.iter().filter_map(|(name, last)| Some((name, last.as_ref()?)));
        let next = said().find(|(name, _)| self.probed.as_ref() < Some(name)).or_else(|| said().next());
        let (name, transition) = next.map(|(name, last)| (name.clone(), last.clone()))?;
        self.probed = Some(name);
        Some(Write { transition, why: Why::Probe })
    }

    fn written(&mut self, write: &Write) {
        let Transition { deployment, status, .. } = &write.transition;
        if write.why == Why::Probe {
            tracing::warn!("the bucket of statuses has lost this device's: all are said again");
            self.stale = self.last.keys().cloned().collect();
        }
        self.stale.remove(deployment);
        match status {
            Some(status) => {
                tracing::info!(%deployment, phase = %status.phase, generation = status.generation, message = status.message, "status");
            }
            None => {
                tracing::info!(%deployment, "gone");
                self.remember(deployment, false);
            }
        }
        if let Why::Happened(number) = write.why {
            self.outbox.published(number);
        }
    }

    /// Keeps whether a deployment's status may stand on the bus.
    fn remember(&mut self, name: &DeploymentName, stands: bool) {
        let changed = if stands { self.reported.insert(name.clone()) } else { self.reported.remove(name) };
        if changed && let Err(error) = self.store.put_reported(&self.reported) {
            tracing::error!(error = %Chain(&error), "a status may be left behind when the agent is killed now");
        }
    }
}

async fn publish(bus: &Bus, device: &DeviceId, write: &Write) -> Result<(), BusError> {
    let Transition { deployment, status, at_ms, boot_id, dropped } = write.transition.clone();
    let key = subject::deployment_key(device, &deployment);
    match status {
        Some(status) => {
            let report = StatusReport { status, at_ms, boot_id, dropped };
            // A struct of strings and numbers always has a JSON form.
            let body = serde_json::to_vec(&report).unwrap_or_default();
            match write.why {
                Why::Probe => bus.kv_put_if(subject::STATUS, &key, body, 0).await?,
                Why::Happened(_) | Why::Stands => bus.kv_put(subject::STATUS, &key, body).await?,
            };
        }
        None => {
            bus.kv_delete(subject::STATUS, &key).await?;
        }
    }
    Ok(())
}

/// Ends when the watched value changes; never when nobody can change it any more.
async fn changed<T>(watched: Option<&mut watch::Receiver<T>>) {
    let Some(watched) = watched else { return pending().await };
    if watched.changed().await.is_err() {
        pending::<()>().await;
    }
}
