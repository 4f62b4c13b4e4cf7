//! Whether a request is taken, and what becomes of it: a lease at once, a place in the queue, a booking.

use super::book::{Book, millis, nanos};
use super::choose::Wish;
use super::shelf::Among;
use super::{Caller, Change, Now, Refusal};
use crate::model::id::{DeviceId, UserName};
use crate::model::lease::{Lease, LeaseRequest};
use crate::model::ledger::{Queued, Rank, Record};
use crate::model::time::{Deadline, Moment};
use std::time::Duration;

/// The shortest lease, and the shortest time between two heartbeats.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest time between two heartbeats: a dead holder keeps its devices for a few of them.
const LONGEST_BEAT: Duration = Duration::from_secs(600);

impl Book {
    pub(super) fn reserve(
        &self,
        by: &Caller,
        request: LeaseRequest,
        now: &Now,
    ) -> Result<Vec<Change>, Refusal> {
        if by.user != request.holder && !by.admin {
            return Err(Refusal::NotAdmin { what: "reserve for another user" });
        }
        if request.any_health && !by.admin {
            return Err(Refusal::NotAdmin { what: "ask for a device that is not lent" });
        }
        let leased = self.leases.get(&request.id).map(|held| &held.lease.request);
        let waiting = self.queue.get(&request.id).map(|waiting| &waiting.queued.request);
        if let Some(known) = leased.or(waiting) {
            // Whoever got no answer asks again.
            let same = *known == request;
            return if same { Ok(Vec::new()) } else { Err(Refusal::Duplicate { lease: request.id }) };
        }
        self.check_terms(&request)?;
        self.check_devices(&request.holder, request.needs.len())?;
        let wish = self.wish(&request);
        if let Some((role, cause)) = self.never(&request, &wish) {
            return Err(Refusal::Never { role, cause });
        }
        let clock_ns = self.clock_ns(&now.moment);
        let handicap = nanos(self.policy.handicap(request.priority));
        let rank = Rank { time_ns: clock_ns.saturating_add(handicap), sequence: now.next.sequence };
        let booked = match request.start {
            Some(_) if !now.moment.synchronised => return Err(Refusal::Frozen),
            Some(start) if start > now.moment.at.wall_ms => Some(self.book(&request, &wish, &now.moment)?),
            _ => None,
        };
        if booked.is_none()
            && let Some((next, devices)) = self.next_served(Some((rank, &request, &wish)), &now.moment)
            && next == request.id
        {
            let length = self.length(&request);
            return Ok(vec![self.grant(request, devices, length, now)?]);
        }
        let quota = self.policy.quota(&request.holder).requests;
        if self.usage(&request.holder).requests >= quota {
            return Err(Refusal::RequestQuota { user: request.holder, quota });
        }
        let queued = Queued { request, arrived: now.moment, clock_ns, rank, booked };
        Ok(vec![Change::Put(Record::Queue(Box::new(queued)))])
    }

    /// The lease, under a token greater than any before.
    pub(super) fn grant(
        &self,
        request: LeaseRequest,
        devices: Vec<DeviceId>,
        length: Duration,
        now: &Now,
    ) -> Result<Change, Refusal> {
        self.check_token(now)?;
        let deadline = Deadline { from: now.moment, length };
        let (token, granted, former) = (now.next, now.moment, Vec::new());
        let lease = Lease { request, devices, token, granted, deadline, former };
        Ok(Change::Put(Record::Lease(Box::new(lease))))
    }

    pub(super) fn check_token(&self, now: &Now) -> Result<(), Refusal> {
        match self.floor {
            Some(floor) if now.next <= floor => Err(Refusal::LedgerWentBack { next: now.next, floor }),
            _ => Ok(()),
        }
    }

    fn check_terms(&self, request: &LeaseRequest) -> Result<(), Refusal> {
        if request.needs.is_empty() {
            return Err(Refusal::Nothing);
        }
        let max = self.policy.max_lease;
        if !(SHORTEST..=max).contains(&self.length(request)) {
            return Err(Refusal::Length { max });
        }
        if request.hold_by_process.is_some_and(|period| !(SHORTEST..=LONGEST_BEAT).contains(&period)) {
            return Err(Refusal::Heartbeat { max: LONGEST_BEAT });
        }
        Ok(())
    }

    pub(super) fn check_devices(&self, user: &UserName, asked: usize) -> Result<(), Refusal> {
        let (used, quota) = (self.usage(user).devices, self.policy.quota(user).devices);
        if used.saturating_add(asked) > quota {
            return Err(Refusal::DeviceQuota { user: user.clone(), used, asked, quota });
        }
        Ok(())
    }

    /// Devices that can be kept free for the booking, and that nobody waits for.
    fn book(&self, request: &LeaseRequest, wish: &Wish, now: &Moment) -> Result<Vec<DeviceId>, Refusal> {
        let ahead = self.policy.booking_ahead;
        let Some((start, end)) = self.span(request) else { return Ok(Vec::new()) };
        if start > now.at.wall_ms.saturating_add(millis(ahead)) {
            return Err(Refusal::TooFarAhead { ahead });
        }
        let choice = self.choose(request, wish, Among::Lendable, |id| {
            self.is_free_then(id, start, end, now) && self.wanted(id).is_none()
        });
        let role = |unmet: usize| request.needs[unmet].role.clone();
        choice
            .full()
            .ok_or_else(|| Refusal::NotFreeThen { role: choice.unmet().map(role).unwrap_or_default() })
    }

    /// Whether it is sure that the device is free from `start` to `end`, in milliseconds since 1970-01-01 UTC.
    fn is_free_then(&self, id: &DeviceId, start: u64, end: u64, now: &Moment) -> bool {
        let handover = millis(self.policy.handover);
        let lease = self.lent.get(id).and_then(|lease| self.leases.get(lease));
        let busy = match (lease, self.devices.get(id)) {
            (Some(held), _) => held.deadline().left(now).map(millis),
            (None, Some(place)) if place.record.handover.is_none() => None,
            _ => Some(0),
        };
        let is_frozen = lease.is_some() && busy.is_none();
        let ready = busy.map_or(0, |left| now.at.wall_ms.saturating_add(left).saturating_add(handover));
        let apart = |(from, to): (u64, u64)| {
            to.saturating_add(handover) <= start || end.saturating_add(handover) <= from
        };
        let others = self.booked.get(id).into_iter().flatten();
        !is_frozen && ready <= start && others.map(|(from, to, _)| (*from, *to)).all(apart)
    }
}
