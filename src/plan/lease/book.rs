//! All that is known of devices, leases and requests, folded from the records of the ledger, and its indices.

use super::choose::Wish;
use super::shelf::{ClassId, Shelf};
use super::{Change, Policy};
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{FencingToken, Lease, LeaseLost, Present};
use crate::model::ledger::{DeviceRecord, Key, Queued, Rank, Record, Renewal};
use crate::model::time::{Deadline, HostBoot, Moment};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many heartbeats in a row a holder's process may miss.
pub(super) const MISSED_BEATS: u32 = 3;

/// All that is known of devices, leases and requests. It is what the ledger's records say and nothing else:
/// [`Book::load`] makes it from them, [`Book::apply`] follows a record that is written.
#[derive(Debug, Clone)]
pub struct Book {
    pub(super) policy: Policy,
    pub(super) devices: BTreeMap<DeviceId, Place>,
    pub(super) shelf: Shelf,
    /// The lease of each device that has one.
    pub(super) lent: BTreeMap<DeviceId, LeaseId>,
    pub(super) leases: BTreeMap<LeaseId, Held>,
    pub(super) queue: BTreeMap<LeaseId, Waiting>,
    /// The requests that wait, bookings apart, in the order in which they are served.
    pub(super) line: BTreeMap<Rank, LeaseId>,
    /// Those of them that devices of a class could serve.
    pub(super) waiters: BTreeMap<ClassId, BTreeSet<Rank>>,
    /// Those of them that name a device.
    pub(super) callers: BTreeMap<DeviceId, BTreeSet<Rank>>,
    /// The devices that are free and named by one of them.
    pub(super) called: BTreeSet<DeviceId>,
    /// The bookings by their start, in milliseconds since 1970-01-01 UTC.
    pub(super) bookings: BTreeSet<(u64, LeaseId)>,
    /// The bookings of each device: start and end, in milliseconds since 1970-01-01 UTC.
    pub(super) booked: BTreeMap<DeviceId, BTreeSet<(u64, u64, LeaseId)>>,
    /// When leases end, on the boot clock in nanoseconds.
    pub(super) ends: BTreeMap<(HostBoot, u64), BTreeSet<LeaseId>>,
    /// When holders' processes count as dead unless they are heard, likewise.
    pub(super) silences: BTreeMap<(HostBoot, u64), BTreeSet<LeaseId>>,
    /// The leases whose deadline was written while the clock was not synchronised.
    pub(super) unsound: BTreeSet<LeaseId>,
    pub(super) usage: BTreeMap<UserName, Usage>,
    /// Keys that a decision which was broken off has left.
    pub(super) litter: BTreeSet<Key>,
    /// Leases whose end was decided and broken off.
    pub(super) ending: BTreeSet<LeaseId>,
    /// The greatest token granted.
    pub(super) floor: Option<FencingToken>,
    /// The queue's own clock: what it showed, in nanoseconds, at a moment.
    pub(super) clock: Option<(Moment, u64)>,
    /// The devices that leases which have ended had, so that their late holders are told who came after.
    pub(super) ended: BTreeMap<LeaseId, BTreeSet<DeviceId>>,
}

#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) record: DeviceRecord,
    pub(super) class: ClassId,
}

#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) renewal: Option<Renewal>,
}

impl Held {
    pub(super) fn deadline(&self) -> Deadline {
        self.renewal.as_ref().map_or(self.lease.deadline, |renewal| renewal.deadline)
    }

    pub(super) fn heard(&self) -> Moment {
        self.renewal.as_ref().map_or(self.lease.deadline.from, |renewal| renewal.heard)
    }

    pub(super) fn extensions(&self) -> &[u64] {
        self.renewal.as_ref().map_or(&[], |renewal| &renewal.extensions)
    }

    /// How long its holder's process may be silent; none when it is not held by one.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.lease.request.hold_by_process.map(|period| period.saturating_mul(MISSED_BEATS))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) queued: Queued,
    pub(super) wish: Wish,
}

/// What a user holds or waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Devices held, booked and waited for.
    pub devices: usize,
    /// Requests that wait, bookings among them.
    pub requests: usize,
}

/// Nanoseconds of a length of time; the longest there is when it is longer than 584 years.
pub(super) fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds of a length of time, rounded up.
pub(super) fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Book {
    /// The book of these records, in whatever order they come and wherever writing was broken off. The next
    /// `Tick` finishes what was.
    pub fn load(policy: Policy, records: impl IntoIterator<Item = Record>) -> Self {
        let mut book = Self {
            policy,
            devices: BTreeMap::new(),
            shelf: Shelf::default(),
            lent: BTreeMap::new(),
            leases: BTreeMap::new(),
            queue: BTreeMap::new(),
            line: BTreeMap::new(),
            waiters: BTreeMap::new(),
            callers: BTreeMap::new(),
            called: BTreeSet::new(),
            bookings: BTreeSet::new(),
            booked: BTreeMap::new(),
            ends: BTreeMap::new(),
            silences: BTreeMap::new(),
            unsound: BTreeSet::new(),
            usage: BTreeMap::new(),
            litter: BTreeSet::new(),
            ending: BTreeSet::new(),
            floor: None,
            clock: None,
            ended: BTreeMap::new(),
        };
        // A record is read after those that decide whether it counts: the order of the keys.
        let records: BTreeMap<Key, Record> = records.into_iter().map(|r| (r.key(), r)).collect();
        for record in records.into_values() {
            book.apply(&Change::Put(record));
        }
        book
    }

    /// The device's lease, for a call on it with this token; or who has it instead.
    pub fn holds(&self, device: &DeviceId, token: FencingToken) -> Result<&Lease, LeaseLost> {
        let held = self.lent.get(device).and_then(|id| self.leases.get(id));
        match held {
            Some(held) if held.lease.token == token => Ok(&held.lease),
            _ => Err(LeaseLost { present: self.present(device) }),
        }
    }

    /// The leases.
    pub fn leases(&self) -> impl Iterator<Item = (&Lease, Deadline)> {
        self.leases.values().map(|held| (&held.lease, held.deadline()))
    }

    /// The lease of a device, and when it ends.
    pub fn lease_of(&self, device: &DeviceId) -> Option<(&Lease, Deadline)> {
        self.leases.get(self.lent.get(device)?).map(|held| (&held.lease, held.deadline()))
    }

    /// A lease, if it is there.
    pub fn lease(&self, id: &LeaseId) -> Option<&Lease> {
        self.leases.get(id).map(|held| &held.lease)
    }

    /// When a lease ends, if it is there.
    pub fn deadline(&self, id: &LeaseId) -> Option<Deadline> {
        self.leases.get(id).map(Held::deadline)
    }

    /// Whether a request waits, or is booked.
    pub fn is_queued(&self, id: &LeaseId) -> bool {
        self.queue.contains_key(id)
    }

    /// The devices, each with its lease if it has one.
    pub fn devices(&self) -> impl Iterator<Item = (&DeviceRecord, Option<&LeaseId>)> {
        self.devices.iter().map(|(id, place)| (&place.record, self.lent.get(id)))
    }

    /// A device, if it is there.
    pub fn device(&self, id: &DeviceId) -> Option<&DeviceRecord> {
        self.devices.get(id).map(|place| &place.record)
    }

    /// Whether somebody waits for the device who could be served with it.
    pub fn is_wanted(&self, device: &DeviceId) -> bool {
        self.wanted(device).is_some()
    }

    /// What the user holds and waits for.
    pub fn usage(&self, user: &UserName) -> Usage {
        self.usage.get(user).copied().unwrap_or_default()
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Other rules from now on. What is lent is lent under those before.
    pub fn rule_by(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// That the user, who does not hold the device, has held it, and who has it now; none when it is not remembered.
    pub fn former(&self, user: &UserName, device: &DeviceId) -> Option<LeaseLost> {
        let lease = self.lease_of(device).map(|(lease, _)| lease);
        let given_on = lease.is_some_and(|lease| lease.former.contains(user));
        let past = self
            .devices
            .get(device)
            .is_some_and(|place| place.record.past.iter().any(|past| past.holder == *user));
        (given_on || past).then(|| LeaseLost { present: self.present(device) })
    }

    pub(super) fn lost(&self, id: &LeaseId) -> LeaseLost {
        self.taken(self.ended.get(id).into_iter().flatten())
    }

    /// Who has one of these devices.
    pub(super) fn taken<'a>(&self, devices: impl IntoIterator<Item = &'a DeviceId>) -> LeaseLost {
        LeaseLost { present: devices.into_iter().find_map(|device| self.present(device)) }
    }

    fn present(&self, device: &DeviceId) -> Option<Present> {
        let held = self.leases.get(self.lent.get(device)?)?;
        let (id, holder) = (held.lease.request.id.clone(), held.lease.request.holder.clone());
        let (token, until_ms) = (held.lease.token, held.deadline().wall_ms());
        Some(Present { device: device.clone(), lease: id, holder, token, until_ms })
    }

    /// What the queue's own clock shows, in nanoseconds. It runs with the coordinator's host, goes on over its
    /// reboots when their length can be known, and is never set back: the order of the queue is kept. Over a
    /// reboot of unknown length it is at least as late as the last place: nobody who comes after it gets ahead
    /// of those who waited before, however long they had.
    pub(super) fn clock_ns(&self, now: &Moment) -> u64 {
        let Some((at, shown)) = &self.clock else { return 0 };
        match at.elapsed(now) {
            Some(elapsed) => shown.saturating_add(nanos(elapsed)),
            None => self.line.last_key_value().map_or(*shown, |(last, _)| last.time_ns.max(*shown)),
        }
    }

    /// Whether it can be lent now, its health apart.
    pub(super) fn is_free(&self, id: &DeviceId) -> bool {
        let free = |place: &Place| place.record.handover.is_none() && !place.record.removed;
        self.devices.get(id).is_some_and(free) && !self.lent.contains_key(id)
    }
}
