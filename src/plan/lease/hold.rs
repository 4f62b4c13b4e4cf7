//! What the holder of a lease may do with it.

use super::book::{Book, Held};
use super::{Caller, Change, Now, Refusal};
use crate::model::id::{LeaseId, UserName};
use crate::model::lease::{Lease, LeaseRequest, MAX_FORMER};
use crate::model::ledger::{Key, MAX_EXTENSIONS, Record, Renewal};
use crate::model::time::{Deadline, Moment};
use std::time::Duration;

impl Book {
    /// The lease, when it is the caller's and has not ended.
    fn held(&self, by: &Caller, id: &LeaseId, now: &Now) -> Result<&Held, Refusal> {
        let held = self.leases.get(id).filter(|held| {
            !self.ending.contains(id) && held.deadline().left(&now.moment) != Some(Duration::ZERO)
        });
        let held = held.ok_or_else(|| self.lost(id))?;
        self.may(by, &held.lease)?;
        Ok(held)
    }

    pub(super) fn extend(
        &self,
        by: &Caller,
        id: &LeaseId,
        longer: Duration,
        once: u64,
        now: &Now,
    ) -> Result<Vec<Change>, Refusal> {
        let held = self.held(by, id, now)?;
        // Whoever got no answer asks again.
        if held.extensions().contains(&once) {
            return Ok(Vec::new());
        }
        let left = held.deadline().left(&now.moment).ok_or(Refusal::Frozen)?;
        let held_for = held.lease.granted.elapsed(&now.moment).ok_or(Refusal::Frozen)?;
        let (max, length) = (self.policy.max_lease, left.saturating_add(longer));
        if held_for.saturating_add(length) > max {
            let left = max.saturating_sub(held_for).saturating_sub(left);
            return Err(Refusal::TooLong { max, left });
        }
        for device in &held.lease.devices {
            if let Some(request) = self.wanted(device) {
                let (request, user) = (request.id.clone(), request.holder.clone());
                return Err(Refusal::WaitedFor { device: device.clone(), request, user });
            }
            if !self.is_unbooked(device, length, &now.moment)
                && let Some((.., booking)) = self.booked.get(device).and_then(|spans| spans.first())
                && let Some(waiting) = self.queue.get(booking)
            {
                let (booking, user) = (booking.clone(), waiting.queued.request.holder.clone());
                return Err(Refusal::Booked { device: device.clone(), booking, user });
            }
        }
        let deadline = Deadline { from: now.moment, length };
        let extensions = newest(held.extensions(), once, MAX_EXTENSIONS);
        Ok(vec![renewal(held, deadline, held.heard(), extensions)])
    }

    pub(super) fn heartbeat(&self, by: &Caller, id: &LeaseId, now: &Now) -> Result<Vec<Change>, Refusal> {
        let held = self.held(by, id, now)?;
        let Some(period) = held.lease.request.hold_by_process else { return Ok(Vec::new()) };
        // Whoever beats faster than it said costs no writes.
        if held.heard().elapsed(&now.moment).is_some_and(|elapsed| elapsed < period / 2) {
            return Ok(Vec::new());
        }
        Ok(vec![renewal(held, held.deadline(), now.moment, held.extensions().to_vec())])
    }

    pub(super) fn transfer(
        &self,
        by: &Caller,
        id: &LeaseId,
        to: UserName,
        now: &Now,
    ) -> Result<Vec<Change>, Refusal> {
        let held = self.held(by, id, now)?;
        if to == held.lease.request.holder {
            return Ok(Vec::new());
        }
        self.check_devices(&to, held.lease.devices.len())?;
        self.check_token(now)?;
        let former = newest(&held.lease.former, held.lease.request.holder.clone(), MAX_FORMER);
        // The process of the one before is not the new holder's.
        let request = LeaseRequest { holder: to, hold_by_process: None, ..held.lease.request.clone() };
        let (token, deadline) = (now.next, held.deadline());
        let lease = Lease { request, token, deadline, former, ..held.lease.clone() };
        let renewal = held.renewal.is_some().then(|| Change::Delete(Key::Renewal(id.clone())));
        Ok([Change::Put(Record::Lease(Box::new(lease)))].into_iter().chain(renewal).collect())
    }

    pub(super) fn release(&self, by: &Caller, id: &LeaseId, now: &Now) -> Result<Vec<Change>, Refusal> {
        if let Some(waiting) = self.queue.get(id) {
            is_callers(by, id, &waiting.queued.request)?;
            return Ok(vec![Change::Delete(Key::Queue(id.clone()))]);
        }
        let held = self.leases.get(id).ok_or_else(|| self.lost(id))?;
        self.may(by, &held.lease)?;
        Ok(self.end(id, now))
    }

    /// Whoever had the lease before it was given on has lost it; of anybody else's it is none of the business.
    fn may(&self, by: &Caller, lease: &Lease) -> Result<(), Refusal> {
        let refused = is_callers(by, &lease.request.id, &lease.request);
        if refused.is_err() && lease.former.contains(&by.user) {
            return Err(self.taken(&lease.devices).into());
        }
        refused
    }
}

/// These, and one more, without the oldest beyond `most`.
pub(super) fn newest<T: Clone>(known: &[T], one: T, most: usize) -> Vec<T> {
    let kept = known.iter().skip((known.len() + 1).saturating_sub(most)).cloned();
    kept.chain([one]).collect()
}

pub(super) fn renewal(held: &Held, deadline: Deadline, heard: Moment, extensions: Vec<u64>) -> Change {
    let (lease, token) = (held.lease.request.id.clone(), held.lease.token);
    Change::Put(Record::Renewal(Renewal { lease, token, deadline, heard, extensions }))
}

fn is_callers(by: &Caller, lease: &LeaseId, request: &LeaseRequest) -> Result<(), Refusal> {
    if by.admin || by.user == request.holder {
        Ok(())
    } else {
        Err(Refusal::NotYours { lease: lease.clone(), holder: request.holder.clone() })
    }
}
