//! What must hold of every write, told from the bucket alone and by other code than what decided it.

use super::world::{Bucket, World};
use pilab::model::device::Device;
use pilab::model::id::{DeviceId, LeaseId};
use pilab::model::lease::{FencingToken, Lease, LeaseRequest};
use pilab::model::ledger::{DeviceRecord, Key, Record};
use pilab::model::time::Moment;
use pilab::plan::lease::{Change, Now, Policy};
use pilab::plan::place::{Placement, fits, place};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who has what, and the greatest token.
#[derive(Debug, Clone, Default)]
pub(crate) struct Oracle {
    lent: BTreeMap<DeviceId, LeaseId>,
    greatest: Option<FencingToken>,
    pub(crate) grants: u64,
}

impl Oracle {
    pub(crate) fn check(&mut self, change: &Change, before: &Bucket, now: &Now, policy: &Policy) {
        match change {
            Change::Put(Record::Lease(lease)) => {
                assert_eq!(lease.token, now.next, "the token is the sequence of the grant");
                assert!(Some(lease.token) > self.greatest, "tokens grow: {lease:?} {:?}", self.greatest);
                self.greatest = Some(lease.token);
                match before.get(&Key::Lease(lease.request.id.clone())) {
                    Some(Record::Lease(old)) => {
                        assert_eq!(
                            (&old.devices, old.granted),
                            (&lease.devices, lease.granted),
                            "a transfer"
                        );
                    }
                    _ => self.check_grant(lease, before, &now.moment, policy),
                }
            }
            Change::Delete(key @ Key::Lease(_)) => {
                let Some(Record::Lease(lease)) = before.get(key) else { panic!("{key} ends twice") };
                for device in &lease.devices {
                    assert_eq!(self.lent.remove(device).as_ref(), Some(&lease.request.id));
                    let record = record(before, device);
                    assert!(record.handover.is_some(), "{device} goes to handover before its lease ends");
                }
            }
            Change::Delete(Key::Device(device)) => {
                assert!(!self.lent.contains_key(device), "{device} is leased and goes");
            }
            _ => {}
        }
    }

    fn check_grant(&mut self, lease: &Lease, before: &Bucket, now: &Moment, policy: &Policy) {
        self.grants += 1;
        let Lease { request, devices, .. } = lease;
        assert_eq!(devices.len(), request.needs.len(), "all or none");
        for (need, device) in request.needs.iter().zip(devices) {
            let other = self.lent.insert(device.clone(), request.id.clone());
            assert_eq!(other, None, "{device} is lent twice");
            let record = record(before, device);
            assert!(record.handover.is_none() && !record.removed, "{record:?} is not free");
            assert!(fits(need, &record.device), "{record:?} for {need:?}");
            let may = request.any_health && need.device.is_some();
            assert!(may || record.checkup.health.is_lendable(), "{record:?} is not lent");
            let until = lease.deadline.length + policy.handover;
            assert!(is_unbooked(before, device, &request.id, until, now), "{device} is booked: {lease:?}");
        }
    }
}

fn record<'a>(bucket: &'a Bucket, device: &DeviceId) -> &'a DeviceRecord {
    match bucket.get(&Key::Device(device.clone())) {
        Some(Record::Device(record)) => record,
        other => panic!("{device}: {other:?}"),
    }
}

/// Whether no booking but `own` begins on the device within `until`.
fn is_unbooked(bucket: &Bucket, device: &DeviceId, own: &LeaseId, until: Duration, now: &Moment) -> bool {
    bucket.values().all(|record| {
        let Record::Queue(queued) = record else { return true };
        let other = queued.request.id != *own;
        let booked = queued.booked.as_ref().is_some_and(|devices| devices.contains(device));
        let start = Duration::from_millis(queued.request.start.unwrap_or(0));
        let free = Duration::from_millis(now.at.wall_ms) + until;
        !(other && booked) || (now.synchronised && free <= start)
    })
}

/// Whether the devices that are lent at all are enough for the request.
pub(crate) fn is_satisfiable(world: &World, request: &LeaseRequest) -> bool {
    is_placed(request, world.devices().filter(|record| !record.removed))
}

/// Whether the request could be served now, were there no others.
pub(crate) fn could_be_served(world: &World, request: &LeaseRequest) -> bool {
    let lent: BTreeSet<&DeviceId> = world.leases().into_iter().flat_map(|lease| &lease.devices).collect();
    let length = request.duration.unwrap_or(world.policy().default_lease) + world.policy().handover;
    let now = world.clocks.moment();
    let free = world.devices().filter(|record| {
        let id = &record.device.id;
        !record.removed
            && record.handover.is_none()
            && !lent.contains(id)
            && is_unbooked(&world.bucket, id, &request.id, length, &now)
    });
    is_placed(request, free)
}

fn is_placed<'a>(request: &LeaseRequest, records: impl Iterator<Item = &'a DeviceRecord>) -> bool {
    let named = |id: &DeviceId| request.needs.iter().any(|need| need.device.as_ref() == Some(id));
    let lent = records.filter(|record| {
        let may = request.any_health && named(&record.device.id);
        may || record.checkup.health.is_lendable()
    });
    let devices: Vec<Device> = lent.map(|record| record.device.clone()).collect();
    matches!(place(&request.needs, &devices, |_| true), Placement::Granted(_))
}
