//! How a record changes the book and its indices.

use super::book::{Book, Held, Place, Waiting, nanos};
use super::shelf::ClassId;
use super::{Change, Usage};
use crate::model::device::Device;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::Lease;
use crate::model::ledger::{DeviceRecord, Key, Queued, Record, Renewal};
use crate::model::time::{HostBoot, Moment};
use std::collections::{BTreeMap, BTreeSet};

/// A time on the clock of a boot, in nanoseconds.
type OnBootClock = (HostBoot, u64);

impl Book {
    /// Follows a record that was written or deleted.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(Record::Device(record)) => self.put_device(record),
            Change::Put(Record::Lease(lease)) => self.put_lease(lease),
            Change::Put(Record::Renewal(renewal)) => self.put_renewal(renewal),
            Change::Put(Record::Queue(queued)) => self.put_queued(queued),
            Change::Delete(key) => {
                self.litter.remove(key);
                match key {
                    Key::Device(id) => {
                        self.remove_device(id);
                        self.count_called(id);
                    }
                    Key::Lease(id) => self.remove_lease(id),
                    Key::Renewal(id) => self.renew(id, None),
                    Key::Queue(id) => self.remove_queued(id),
                }
            }
        }
    }

    fn put_device(&mut self, record: &DeviceRecord) {
        let id = &record.device.id;
        self.remove_device(id);
        for past in &record.past {
            self.ended.entry(past.lease.clone()).or_default().insert(id.clone());
        }
        let class = self.shelf.class(&record.device).unwrap_or_else(|| self.add_class(&record.device));
        self.devices.insert(id.clone(), Place { record: record.clone(), class });
        self.shelve(id);
        // A device is lent and in handover only between two writes of its lease's end.
        if let Some(lease) = self.lent.get(id).filter(|_| record.handover.is_some()) {
            self.ending.insert(lease.clone());
        }
    }

    fn remove_device(&mut self, id: &DeviceId) {
        let Some(place) = self.devices.remove(id) else { return };
        self.shelf.take(place.class, id);
        for past in &place.record.past {
            drop_from(&mut self.ended, &past.lease, id);
        }
    }

    /// A class for a device of a new kind: it may be what some requests wait for, and it moves other classes.
    fn add_class(&mut self, device: &Device) -> ClassId {
        let waiting: Vec<Queued> = self.queue.values().map(|waiting| waiting.queued.clone()).collect();
        for queued in &waiting {
            self.remove_queued(&queued.request.id);
        }
        let new = self.shelf.add(device);
        for place in self.devices.values_mut().filter(|place| place.class >= new) {
            place.class += 1;
        }
        for queued in &waiting {
            self.put_queued(queued);
        }
        new
    }

    /// Puts the device where it belongs on the shelf.
    fn shelve(&mut self, id: &DeviceId) {
        self.count_called(id);
        let free = self.is_free(id);
        let Some(Place { record, class }) = self.devices.get(id) else { return };
        if record.removed {
            self.shelf.take(*class, id);
        } else {
            self.shelf.put(*class, id, record.checkup.health, free);
        }
    }

    fn count_called(&mut self, id: &DeviceId) {
        if self.is_free(id) && self.callers.contains_key(id) {
            self.called.insert(id.clone());
        } else {
            self.called.remove(id);
        }
    }

    fn put_lease(&mut self, lease: &Lease) {
        let id = &lease.request.id;
        self.unlend(id);
        // A crash between the grant and the end of the queue's record leaves both: the grant counts.
        if self.queue.contains_key(id) {
            self.remove_queued(id);
            self.litter.insert(Key::Queue(id.clone()));
        }
        self.leases.insert(id.clone(), Held { lease: lease.clone(), renewal: None });
        self.count_time(id);
        self.usage_of(&lease.request.holder, |usage| usage.devices += lease.devices.len());
        self.floor = self.floor.max(Some(lease.token));
        for device in &lease.devices {
            self.lent.insert(device.clone(), id.clone());
            self.shelve(device);
            if self.devices.get(device).is_some_and(|place| place.record.handover.is_some()) {
                self.ending.insert(id.clone());
            }
        }
    }

    /// Takes the lease out of the book, if it is there.
    fn unlend(&mut self, id: &LeaseId) {
        self.forget_time(id);
        let Some(held) = self.leases.remove(id) else { return };
        self.usage_of(&held.lease.request.holder, |usage| usage.devices -= held.lease.devices.len());
        for device in &held.lease.devices {
            self.lent.remove(device);
            self.shelve(device);
        }
    }

    fn remove_lease(&mut self, id: &LeaseId) {
        self.ending.remove(id);
        self.unlend(id);
    }

    fn put_renewal(&mut self, renewal: &Renewal) {
        let token = self.leases.get(&renewal.lease).map(|held| held.lease.token);
        if token == Some(renewal.token) {
            self.renew(&renewal.lease, Some(renewal.clone()));
        } else {
            self.litter.insert(Key::Renewal(renewal.lease.clone()));
        }
    }

    fn renew(&mut self, id: &LeaseId, renewal: Option<Renewal>) {
        self.forget_time(id);
        if let Some(held) = self.leases.get_mut(id) {
            held.renewal = renewal;
        }
        self.count_time(id);
    }

    /// Where the lease stands in the two indices of time.
    fn times(&self, id: &LeaseId) -> Option<(OnBootClock, Option<OnBootClock>)> {
        let held = self.leases.get(id)?;
        let after = |from: Moment, length| (from.boot, from.at.boot_ns.saturating_add(nanos(length)));
        let deadline = held.deadline();
        let silence = held.patience().map(|patience| after(held.heard(), patience));
        Some((after(deadline.from, deadline.length), silence))
    }

    fn count_time(&mut self, id: &LeaseId) {
        let Some((end, silence)) = self.times(id) else { return };
        self.ends.entry(end).or_default().insert(id.clone());
        if let Some(silence) = silence {
            self.silences.entry(silence).or_default().insert(id.clone());
        }
        if self.leases.get(id).is_some_and(|held| !held.deadline().from.synchronised) {
            self.unsound.insert(id.clone());
        }
    }

    fn forget_time(&mut self, id: &LeaseId) {
        let Some((end, silence)) = self.times(id) else { return };
        drop_from(&mut self.ends, &end, id);
        if let Some(silence) = silence {
            drop_from(&mut self.silences, &silence, id);
        }
        self.unsound.remove(id);
    }

    fn put_queued(&mut self, queued: &Queued) {
        let (id, rank) = (&queued.request.id, queued.rank);
        if self.leases.contains_key(id) {
            self.litter.insert(Key::Queue(id.clone()));
            return;
        }
        self.remove_queued(id);
        let wish = self.wish(&queued.request);
        match (&queued.booked, self.span(&queued.request)) {
            (Some(devices), Some((start, end))) => {
                self.bookings.insert((start, id.clone()));
                for device in devices {
                    self.booked.entry(device.clone()).or_default().insert((start, end, id.clone()));
                }
            }
            _ => {
                self.line.insert(rank, id.clone());
                for class in &wish.classes {
                    self.waiters.entry(*class).or_default().insert(rank);
                }
                for device in queued.request.needs.iter().filter_map(|need| need.device.as_ref()) {
                    self.callers.entry(device.clone()).or_default().insert(rank);
                    self.count_called(device);
                }
            }
        }
        self.usage_of(&queued.request.holder, |usage| {
            usage.devices += queued.request.needs.len();
            usage.requests += 1;
        });
        if self.clock.as_ref().is_none_or(|(_, shown)| *shown <= queued.clock_ns) {
            self.clock = Some((queued.arrived, queued.clock_ns));
        }
        self.queue.insert(id.clone(), Waiting { queued: queued.clone(), wish });
    }

    fn remove_queued(&mut self, id: &LeaseId) {
        let Some(Waiting { queued, wish }) = self.queue.remove(id) else { return };
        if let Some((start, end)) = self.span(&queued.request) {
            self.bookings.remove(&(start, id.clone()));
            for device in queued.booked.iter().flatten() {
                drop_from(&mut self.booked, device, &(start, end, id.clone()));
            }
        }
        self.line.remove(&queued.rank);
        for class in &wish.classes {
            drop_from(&mut self.waiters, class, &queued.rank);
        }
        for device in queued.request.needs.iter().filter_map(|need| need.device.as_ref()) {
            drop_from(&mut self.callers, device, &queued.rank);
            self.count_called(device);
        }
        self.usage_of(&queued.request.holder, |usage| {
            usage.devices -= queued.request.needs.len();
            usage.requests -= 1;
        });
    }

    fn usage_of(&mut self, user: &UserName, change: impl FnOnce(&mut Usage)) {
        let usage = self.usage.entry(user.clone()).or_default();
        change(usage);
        if *usage == Usage::default() {
            self.usage.remove(user);
        }
    }
}

/// Removes a value from one of many sets, and the set with its last value.
fn drop_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}
