//! What follows from time, from devices and from what was broken off.

use super::book::{Book, nanos};
use super::hold::{newest, renewal};
use super::{Change, Now, Refusal};
use crate::model::device::Device;
use crate::model::health::{Checkup, Finding, Health, Trust};
use crate::model::id::{DeviceId, LeaseId};
use crate::model::lease::MAX_FORMER;
use crate::model::ledger::{DeviceRecord, Handover, Key, MAX_CHECKUPS, Past, Queued, Record};
use crate::model::scenario::Need;
use crate::model::time::{HostBoot, Moment};
use crate::plan::trust;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

type Times = BTreeMap<(HostBoot, u64), BTreeSet<LeaseId>>;

/// Those of this boot of the host whose time has come.
fn past<'a>(times: &'a Times, now: &Moment) -> impl Iterator<Item = &'a LeaseId> {
    times.range((now.boot, 0)..=(now.boot, now.at.boot_ns)).flat_map(|(_, ids)| ids)
}

/// Those whose time is told on the clock of another boot.
fn foreign<'a>(times: &'a Times, now: &Moment) -> impl Iterator<Item = &'a LeaseId> {
    let after = (Bound::Excluded((now.boot, u64::MAX)), Bound::Unbounded);
    times.range(..(now.boot, 0)).chain(times.range(after)).flat_map(|(_, ids)| ids)
}

impl Book {
    /// One step of what is due; a further tick takes the next.
    pub(super) fn tick(&self, now: &Now) -> Result<Vec<Change>, Refusal> {
        if !self.litter.is_empty() {
            return Ok(self.litter.iter().cloned().map(Change::Delete).collect());
        }
        let over = self.over(now);
        if !over.is_empty() {
            return Ok(over.iter().flat_map(|id| self.end(id, now)).collect());
        }
        let anchored = self.anchored(&now.moment);
        if !anchored.is_empty() {
            return Ok(anchored);
        }
        if let Some(due) = self.due_booking(now)? {
            return Ok(due);
        }
        let Some((id, devices)) = self.next_served(None, &now.moment) else { return Ok(Vec::new()) };
        let Some(waiting) = self.queue.get(&id) else { return Ok(Vec::new()) };
        let request = waiting.queued.request.clone();
        let length = self.length(&request);
        Ok(vec![self.grant(request, devices, length, now)?, Change::Delete(Key::Queue(id))])
    }

    /// How long until something is due by time alone; none when nothing is. A clock that becomes synchronised is a
    /// reason to tick as well.
    pub fn wake(&self, now: &Now) -> Option<Duration> {
        if !self.litter.is_empty() || !self.ending.is_empty() {
            return Some(Duration::ZERO);
        }
        let moment = &now.moment;
        let next = |times: &Times| {
            let later = times.range((moment.boot, 0)..).next();
            later.filter(|((boot, _), _)| *boot == moment.boot).map(|((_, at), _)| *at)
        };
        // A holder that has been silent for longer than the coordinator has listened.
        let silent = past(&self.silences, moment).chain(foreign(&self.silences, moment));
        let patience = silent.filter_map(|id| self.leases.get(id)?.patience());
        let heard = patience.map(|patience| now.hearing_ns.saturating_add(nanos(patience))).min();
        let later = (Bound::Excluded((moment.boot, moment.at.boot_ns)), Bound::Unbounded);
        let after = self.silences.range(later).next();
        let silence = after.filter(|((boot, _), _)| *boot == moment.boot).map(|((_, at), _)| *at);
        let on_boot_clock = [next(&self.ends), heard, silence].into_iter().flatten().min();
        let booking = self.bookings.first().filter(|_| moment.synchronised).map(|(start, _)| *start);
        let until_end = on_boot_clock.map(|at| Duration::from_nanos(at.saturating_sub(moment.at.boot_ns)));
        let until_start = booking.map(|at| Duration::from_millis(at.saturating_sub(moment.at.wall_ms)));
        until_end.into_iter().chain(until_start).min()
    }

    /// The leases that have ended: by deadline, by a dead holder, or by an end that was broken off.
    fn over(&self, now: &Now) -> BTreeSet<LeaseId> {
        let moment = &now.moment;
        let ended = foreign(&self.ends, moment).filter(|id| {
            let deadline = self.leases.get(*id).map(|held| held.deadline());
            deadline.is_some_and(|deadline| deadline.left(moment) == Some(Duration::ZERO))
        });
        let listened = Duration::from_nanos(moment.at.boot_ns.saturating_sub(now.hearing_ns));
        let silent = past(&self.silences, moment).chain(foreign(&self.silences, moment));
        let dead = silent.filter(|id| {
            let patience = self.leases.get(*id).and_then(|held| held.patience());
            patience.is_some_and(|patience| patience <= listened)
        });
        self.ending.iter().chain(past(&self.ends, moment)).chain(ended).chain(dead).cloned().collect()
    }

    /// The deadlines that can be told on a synchronised clock of this boot now.
    fn anchored(&self, now: &Moment) -> Vec<Change> {
        if !now.synchronised {
            return Vec::new();
        }
        let ids: BTreeSet<&LeaseId> = foreign(&self.ends, now).chain(&self.unsound).collect();
        let held = ids.into_iter().filter_map(|id| self.leases.get(id));
        held.filter_map(|held| {
            let deadline = held.deadline().anchored(now)?;
            Some(renewal(held, deadline, held.heard(), held.extensions().to_vec()))
        })
        .collect()
    }

    /// The first booking whose start has come: its lease, or a place in the queue when its devices are not there.
    fn due_booking(&self, now: &Now) -> Result<Option<Vec<Change>>, Refusal> {
        let wall_ms = now.moment.at.wall_ms;
        let due = self.bookings.first().filter(|(start, _)| now.moment.synchronised && *start <= wall_ms);
        let Some(waiting) = due.and_then(|(_, id)| self.queue.get(id)) else { return Ok(None) };
        let request = &waiting.queued.request;
        // It ends when it was to end: another booking may follow.
        let end = self.span(request).map_or(0, |(_, end)| end);
        let length = Duration::from_millis(end.saturating_sub(wall_ms)).min(self.length(request));
        let devices = waiting.queued.booked.clone().unwrap_or_default();
        let is_there = |(need, id): (&Need, &DeviceId)| {
            let any = request.any_health && need.device.is_some();
            let health = self.devices.get(id).map(|place| place.record.checkup.health);
            self.is_free(id) && health.is_some_and(|health| health.is_lendable() || any)
        };
        if !length.is_zero() && request.needs.iter().zip(&devices).all(is_there) {
            let grant = self.grant(request.clone(), devices, length, now)?;
            return Ok(Some(vec![grant, Change::Delete(Key::Queue(request.id.clone()))]));
        }
        let queued = Queued { booked: None, ..waiting.queued.clone() };
        Ok(Some(vec![Change::Put(Record::Queue(Box::new(queued)))]))
    }

    /// The end of a lease, or what is left of it to do: its devices go to handover before the lease goes.
    pub(super) fn end(&self, id: &LeaseId, now: &Now) -> Vec<Change> {
        let Some(held) = self.leases.get(id) else { return Vec::new() };
        let places = held.lease.devices.iter().filter_map(|device| self.devices.get(device));
        let handovers = places.filter(|place| place.record.handover.is_none()).map(|place| {
            let handover = Some(Handover { after: Some(id.clone()), since: now.moment });
            let past = Past { lease: id.clone(), holder: held.lease.request.holder.clone() };
            let past = newest(&place.record.past, past, MAX_FORMER);
            put(DeviceRecord { handover, past, ..place.record.clone() })
        });
        let queue = Key::Queue(id.clone());
        let left_over = self.litter.contains(&queue).then_some(queue);
        let renewal = held.renewal.is_some().then(|| Key::Renewal(id.clone()));
        let keys = left_over.into_iter().chain(renewal).chain([Key::Lease(id.clone())]);
        handovers.chain(keys.map(Change::Delete)).collect()
    }

    pub(super) fn device_ready(&self, id: &DeviceId, now: &Now) -> Result<Vec<Change>, Refusal> {
        let record = self.record(id)?;
        if record.handover.is_none() {
            return Ok(Vec::new());
        }
        // The end of its lease may have been broken off.
        let end = self.lent.get(id).map(|lease| self.end(lease, now)).unwrap_or_default();
        let ready = if record.removed {
            Change::Delete(Key::Device(id.clone()))
        } else {
            put(DeviceRecord { handover: None, ..record.clone() })
        };
        Ok(end.into_iter().chain([ready]).collect())
    }

    pub(super) fn ready_anew(&self, id: &DeviceId, now: &Now) -> Result<Vec<Change>, Refusal> {
        let record = self.record(id)?;
        if self.lent.contains_key(id) || record.handover.is_some() {
            return Ok(Vec::new());
        }
        let handover = Some(Handover { after: None, since: now.moment });
        Ok(vec![put(DeviceRecord { handover, ..record.clone() })])
    }

    pub(super) fn device_health(
        &self,
        id: &DeviceId,
        health: Health,
        reason: String,
        now: &Now,
    ) -> Result<Vec<Change>, Refusal> {
        let record = self.record(id)?;
        if (record.checkup.health, &record.checkup.reason) == (health, &reason) {
            return Ok(Vec::new());
        }
        let mut trust = record.trust.clone();
        trust::told(&mut trust, health);
        Ok(vec![put(Self::with_health(record, health, reason, trust, now))])
    }

    /// What a run, a check or a training came to, and what follows from it: one write, so that nothing is between them.
    pub(super) fn device_finding(
        &self,
        id: &DeviceId,
        finding: Finding,
        now: &Now,
    ) -> Result<Vec<Change>, Refusal> {
        let record = self.record(id)?;
        let mut trust = record.trust.clone();
        let said = trust::take(&mut trust, record.checkup.health, finding, &self.policy.trust);
        let next = match said {
            Some((health, reason)) => Self::with_health(record, health, reason, trust, now),
            None if trust == record.trust => return Ok(Vec::new()),
            None => DeviceRecord { trust, ..record.clone() },
        };
        Ok(vec![put(next)])
    }

    fn with_health(
        record: &DeviceRecord,
        health: Health,
        reason: String,
        trust: Trust,
        now: &Now,
    ) -> DeviceRecord {
        let checkup = Checkup { health, reason, since: now.moment.at };
        let earlier = newest(&record.earlier, record.checkup.clone(), MAX_CHECKUPS);
        DeviceRecord { checkup, earlier, trust, ..record.clone() }
    }

    fn record(&self, id: &DeviceId) -> Result<&DeviceRecord, Refusal> {
        let place = self.devices.get(id).ok_or_else(|| Refusal::NoSuchDevice { device: id.clone() })?;
        Ok(&place.record)
    }

    pub(super) fn inventory(&self, devices: Vec<Device>, newcomers: Health, now: &Now) -> Vec<Change> {
        let named: BTreeSet<&DeviceId> = devices.iter().map(|device| &device.id).collect();
        let gone = self.devices.iter().filter(|(id, _)| !named.contains(id)).filter_map(|(id, place)| {
            let is_busy = self.lent.contains_key(id) || place.record.handover.is_some();
            match (is_busy, place.record.removed) {
                (true, true) => None,
                (true, false) => Some(put(DeviceRecord { removed: true, ..place.record.clone() })),
                (false, _) => Some(Change::Delete(Key::Device(id.clone()))),
            }
        });
        let gone: Vec<Change> = gone.collect();
        let there = devices.into_iter().filter_map(|device| match self.devices.get(&device.id) {
            Some(place) if place.record.device == device && !place.record.removed => None,
            Some(place) => Some(put(DeviceRecord { device, removed: false, ..place.record.clone() })),
            // Nobody knows what state a new device is in: it is made ready like one that comes back.
            None => {
                let checkup = Checkup {
                    health: newcomers,
                    reason: "new in the inventory".to_owned(),
                    since: now.moment.at,
                };
                let handover = Some(Handover { after: None, since: now.moment });
                Some(put(DeviceRecord {
                    device,
                    checkup,
                    earlier: Vec::new(),
                    trust: Trust::default(),
                    handover,
                    removed: false,
                    past: Vec::new(),
                }))
            }
        });
        gone.into_iter().chain(there).collect()
    }
}

fn put(record: DeviceRecord) -> Change {
    Change::Put(Record::Device(Box::new(record)))
}
