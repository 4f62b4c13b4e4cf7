//! The lab file read anew: what has changed of the lab, without a restart.
//!
//! ```text
//!  read and check all of it ──► make what is new ──► ledger: rules, inventory ──► renew what nobody has
//!        │ error: nothing has changed                                      │
//!        ▼                                     handover: clean ──► end, make anew ──► clean ──► ready
//! ```
//!
//! What a device is wired to changes only within its handover, between two cleanings, one by the old wires and one by the new.
//! So a device that is lent stays as it is until it comes back, and nobody ever has one that is between the two.

use super::lending::Lending;
use super::parts::{Unusable, Wanted, Workshop};
use super::refusal::Refusal;
use crate::model::health::Health;
use crate::model::id::DeviceId;
use crate::support::lock::lock;
use crate::wire::lending::{Pending, Reloaded};
use std::collections::BTreeSet;
use std::sync::Arc;

impl From<Unusable> for Refusal {
    fn from(unusable: Unusable) -> Self {
        let Unusable { cause, hint } = unusable;
        let error = format!("the lab stays as it is: {cause}");
        match hint {
            Some(hint) => Self::hinted(error, hint),
            None => Self::new(error),
        }
    }
}

impl Lending {
    /// Reads the lab file anew, one at a time. When it cannot be used, nothing has changed. When the ledger cannot be reached, part
    /// of it may have: asked again, the rest is done.
    pub(super) async fn reload(self: &Arc<Self>) -> Result<Reloaded, Refusal> {
        let Some(workshop) = self.parts.workshop.clone() else {
            return Err(Refusal::new("this lab is one command's own, and ends with it"));
        };
        let _one_at_a_time = self.reloading.lock().await;
        let Wanted { devices, changed, policy } = workshop.read().await?;
        let running: BTreeSet<DeviceId> = self.devices().map(|device| device.handle.id().clone()).collect();
        let added: Vec<DeviceId> = devices.difference(&running).cloned().collect();
        self.add(&*workshop, &added).await?;
        {
            let mut pending = lock(&self.pending);
            pending.clear();
            // Those that could not be made anew are not what they were either, whatever the file says now.
            let unmade = lock(&self.unmade).clone();
            let changed = changed.into_iter().chain(unmade).filter(|id| devices.contains(id));
            pending.extend(changed.map(|id| (id, Pending::Changed)));
            pending.extend(running.difference(&devices).map(|id| (id.clone(), Pending::Removed)));
        }
        self.ledger.rule_by(policy).await?;
        self.tell_inventory().await?;
        let mut done = Reloaded { added, ..Reloaded::default() };
        let pending = lock(&self.pending).clone();
        for (id, pending) in pending {
            let of = id.clone();
            let stands =
                self.ledger.read(move |book, _| book.device(&of).map(|_| book.lease_of(&of).is_some()));
            match (stands.await?, pending) {
                (None, _) => done.removed.push(id),
                (Some(true), _) | (Some(false), Pending::Removed) => done.pending.push(id),
                (Some(false), Pending::Changed) => {
                    self.ledger.renew(id.clone()).await?;
                    done.changed.push(id);
                }
            }
        }
        for id in &done.removed {
            self.drop_device(id).await;
        }
        tracing::info!(?done, "the lab file was read anew");
        Ok(done)
    }

    /// Makes new devices: all of them, or none is there.
    async fn add(self: &Arc<Self>, workshop: &dyn Workshop, added: &[DeviceId]) -> Result<(), Refusal> {
        let mut made = Vec::new();
        for id in added {
            match workshop.make(id).await {
                Ok(device) => made.push(device),
                Err(unusable) => {
                    for device in made {
                        workshop.end(device.handle.id(), true).await;
                    }
                    return Err(unusable.into());
                }
            }
        }
        made.into_iter().for_each(|device| self.put_device(device));
        Ok(())
    }

    async fn tell_inventory(&self) -> Result<(), Refusal> {
        let leaving = lock(&self.pending).clone();
        let stays = |id: &DeviceId| leaving.get(id) != Some(&Pending::Removed);
        let devices: Vec<_> = self
            .devices()
            .filter(|device| stays(device.handle.id()))
            .map(|device| device.handle.device().clone())
            .collect();
        self.operator.know(devices.clone());
        Ok(self.ledger.inventory(devices, Health::Good).await?)
    }

    /// What becomes of a device before its next holder has it.
    pub(super) fn pending(&self, id: &DeviceId) -> Option<Pending> {
        lock(&self.pending).get(id).copied()
    }

    /// Within a handover, when the device is clean: makes it what the lab file says now. Answers whether there was
    /// anything to do, and the device has to be cleaned once more.
    pub(super) async fn rewire(self: &Arc<Self>, id: &DeviceId) -> Result<bool, String> {
        let Some(workshop) = self.parts.workshop.clone() else { return Ok(false) };
        if self.pending(id) != Some(Pending::Changed) {
            return Ok(false);
        }
        let _one_at_a_time = self.reloading.lock().await;
        if self.pending(id) != Some(Pending::Changed) {
            return Ok(false);
        }
        workshop.end(id, false).await;
        lock(&self.unmade).insert(id.clone());
        let made = workshop.make(id).await;
        let device = made.map_err(|unusable| format!("it is not made anew: {}", unusable.cause))?;
        self.put_device(device);
        lock(&self.unmade).remove(id);
        lock(&self.pending).remove(id);
        tracing::info!(device = %id, "it is what the lab file says now");
        let told = self.tell_inventory().await;
        told.map_err(|refusal| format!("the inventory was not told: {}", refusal.error))?;
        Ok(true)
    }

    /// After a handover: a device that is in the ledger no more is let go of; one whose wires have changed while it was being
    /// made ready comes again.
    pub(super) async fn settle_pending(self: &Arc<Self>, id: &DeviceId) {
        let Some(pending) = self.pending(id) else { return };
        let of = id.clone();
        let stands = self.ledger.read(move |book, _| book.device(&of).is_some()).await;
        match (pending, stands) {
            (Pending::Removed, Ok(false)) => self.drop_device(id).await,
            (Pending::Changed, Ok(true)) => {
                if let Err(error) = self.ledger.renew(id.clone()).await {
                    tracing::warn!(device = %id, %error, "it stays as it is until it comes back once more");
                }
            }
            _ => {}
        }
    }

    async fn drop_device(&self, id: &DeviceId) {
        self.take_device(id);
        lock(&self.unmade).remove(id);
        lock(&self.pending).remove(id);
        if let Some(workshop) = &self.parts.workshop {
            workshop.end(id, true).await;
        }
        tracing::info!(device = %id, "it has left the lab");
    }
}
