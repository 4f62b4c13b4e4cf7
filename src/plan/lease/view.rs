//! What people see of the queue: place, blocker, estimate.

use super::book::{Book, nanos};
use super::choose::Wish;
use super::shelf::{Among, ClassId};
use crate::model::health::Health;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::LeaseRequest;
use crate::model::time::Moment;
use crate::plan::place::{Matching, fits};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A request that waits, or a booking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow<'a> {
    /// What is asked for.
    pub request: &'a LeaseRequest,
    /// Its place in the queue from 1; none for a booking.
    pub position: Option<usize>,
    /// What it waits for last.
    pub blocker: Blocker,
    /// After how long it is served if nobody comes, nothing changes and everybody keeps what he has to the end;
    /// none when nobody knows. Not a bound: requests before it may take other devices than is foreseen here.
    pub estimate: Option<Duration>,
}

/// What a request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// A device is leased.
    Lease {
        /// The device.
        device: DeviceId,
        /// The lease.
        lease: LeaseId,
        /// Who has it.
        holder: UserName,
    },
    /// A device is being made ready.
    Handover {
        /// The device.
        device: DeviceId,
    },
    /// A request before it gets the device first.
    Request {
        /// The device.
        device: DeviceId,
        /// The request.
        request: LeaseId,
        /// Whose it is.
        holder: UserName,
    },
    /// A device is kept free for a booking.
    Booking {
        /// The device.
        device: DeviceId,
        /// The booking.
        booking: LeaseId,
    },
    /// It is a booking, and its start has not come.
    Start {
        /// When it comes, in milliseconds since 1970-01-01 UTC.
        wall_ms: u64,
    },
    /// Only a device that is not lent would do.
    Health {
        /// The need that is left without one.
        role: String,
        /// The first such device.
        device: DeviceId,
        /// Its health.
        health: Health,
        /// The reason of that.
        reason: String,
    },
    /// The lab no longer has what it needs.
    Never {
        /// The need.
        role: String,
        /// Why.
        cause: String,
    },
    /// Nothing: it is about to be served.
    Nothing,
}

/// When a device can be had, in nanoseconds from now; the greatest number when nobody knows.
type Wait = u64;

/// Who has the devices when, as far as it can be foreseen.
struct Outlook<'a> {
    waits: BTreeMap<&'a DeviceId, (Wait, Blocker)>,
    by_class: BTreeMap<ClassId, BTreeSet<(Wait, &'a DeviceId)>>,
}

impl Book {
    /// The requests in the order in which they are served, then the bookings in that of their start.
    pub fn queue(&self, now: &Moment) -> Vec<QueueRow<'_>> {
        let mut outlook = self.outlook(now);
        let in_line = self.line.values().filter_map(|id| self.queue.get(id)).enumerate();
        let mut rows: Vec<QueueRow<'_>> = in_line
            .map(|(index, waiting)| {
                let request = &waiting.queued.request;
                let (blocker, estimate) = self.foresee(request, &waiting.wish, &mut outlook, now);
                QueueRow { request, position: Some(index + 1), blocker, estimate }
            })
            .collect();
        let booked = self.bookings.iter().filter_map(|(start, id)| Some((*start, self.queue.get(id)?)));
        rows.extend(booked.map(|(wall_ms, waiting)| {
            let left = Duration::from_millis(wall_ms.saturating_sub(now.at.wall_ms));
            QueueRow {
                request: &waiting.queued.request,
                position: None,
                blocker: Blocker::Start { wall_ms },
                estimate: now.synchronised.then_some(left),
            }
        }));
        rows
    }

    fn outlook(&self, now: &Moment) -> Outlook<'_> {
        let handover = nanos(self.policy.handover);
        let mut outlook = Outlook { waits: BTreeMap::new(), by_class: BTreeMap::new() };
        for (id, place) in &self.devices {
            let lease = self.lent.get(id).and_then(|lease| self.leases.get(lease));
            let (wait, blocker) = match (lease, &place.record.handover) {
                (Some(held), _) => {
                    let left = held.deadline().left(now).map(|left| nanos(left).saturating_add(handover));
                    let request = &held.lease.request;
                    let (lease, holder) = (request.id.clone(), request.holder.clone());
                    (left.unwrap_or(Wait::MAX), Blocker::Lease { device: id.clone(), lease, holder })
                }
                (None, Some(since)) => {
                    let gone = since.since.elapsed(now).map_or(0, nanos);
                    (handover.saturating_sub(gone), Blocker::Handover { device: id.clone() })
                }
                (None, None) => (0, Blocker::Nothing),
            };
            if !place.record.removed {
                outlook.waits.insert(id, (wait, blocker));
                if place.record.checkup.health.is_lendable() {
                    outlook.by_class.entry(place.class).or_default().insert((wait, id));
                }
            }
        }
        outlook
    }

    /// What the request waits for last, and how long; the devices it gets are its own from then on.
    fn foresee<'a>(
        &'a self,
        request: &'a LeaseRequest,
        wish: &'a Wish,
        outlook: &mut Outlook<'a>,
        now: &Moment,
    ) -> (Blocker, Option<Duration>) {
        if let Some((role, cause)) = self.never(request, wish) {
            return (Blocker::Never { role, cause }, None);
        }
        if !self.can_be_met(request, wish) {
            return (self.unhealthy(request, wish), None);
        }
        // Those that can be had first, as many of each class as it could use; the last of them is what it waits for.
        let length = self.length(request);
        let named = request.needs.iter().filter_map(|need| need.device.as_ref());
        let of_class = wish.classes.iter().filter_map(|class| outlook.by_class.get(class));
        let first = of_class.flat_map(|set| set.iter().take(request.needs.len()).map(|(_, id)| *id));
        let candidates: BTreeSet<&DeviceId> = named.chain(first).collect();
        let mut candidates: Vec<(Wait, &DeviceId, Blocker)> = candidates
            .into_iter()
            .filter_map(|id| {
                let (wait, blocker) = outlook.waits.get(id)?.clone();
                let booking = self.booked.get(id).filter(|_| wait == 0 && !self.is_unbooked(id, length, now));
                let last = booking.and_then(|spans| spans.last());
                Some(match last {
                    Some((_, end, booking)) => {
                        let left = Duration::from_millis(end.saturating_sub(now.at.wall_ms));
                        let wait = nanos(left.saturating_add(self.policy.handover));
                        (wait, id, Blocker::Booking { device: id.clone(), booking: booking.clone() })
                    }
                    None => (wait, id, blocker),
                })
            })
            .collect();
        candidates.sort_by_key(|(wait, id, _)| (*wait, *id));
        let named: BTreeSet<&DeviceId> =
            request.needs.iter().filter_map(|need| need.device.as_ref()).collect();
        let mut matching = Matching::new(request.needs.len());
        for (item, (wait, _, blocker)) in candidates.iter().enumerate() {
            matching.offer(item, |item, need| {
                let (id, need) = (candidates[item].1, &request.needs[need]);
                let place = self.devices.get(id);
                need.device.is_some() == named.contains(id)
                    && place.is_some_and(|p| fits(need, &p.record.device))
            });
            let Some(items) = matching.full() else { continue };
            let free_again = wait.saturating_add(nanos(length)).saturating_add(nanos(self.policy.handover));
            for item in items {
                let device = candidates[item].1;
                let (request, holder) = (request.id.clone(), request.holder.clone());
                let blocker = Blocker::Request { device: device.clone(), request, holder };
                let class = self.devices.get(device).map(|place| place.class);
                outlook.hold(device, class, free_again, blocker);
            }
            return (blocker.clone(), (*wait != Wait::MAX).then(|| Duration::from_nanos(*wait)));
        }
        (Blocker::Nothing, None)
    }

    /// The first device that is not lent of those with which the request could be served.
    fn unhealthy(&self, request: &LeaseRequest, wish: &Wish) -> Blocker {
        let devices = self.choose(request, wish, Among::All, |_| true).full().unwrap_or_default();
        let mut served = request.needs.iter().zip(&devices);
        let first = served.find_map(|(need, id)| {
            let record = &self.devices.get(id)?.record;
            let lent = record.checkup.health.is_lendable() || (request.any_health && need.device.is_some());
            (!lent).then_some((need, record))
        });
        first.map_or(Blocker::Nothing, |(need, record)| Blocker::Health {
            role: need.role.clone(),
            device: record.device.id.clone(),
            health: record.checkup.health,
            reason: record.checkup.reason.clone(),
        })
    }
}

impl<'a> Outlook<'a> {
    /// The device can be had again after `wait`.
    fn hold(&mut self, device: &'a DeviceId, class: Option<ClassId>, wait: Wait, blocker: Blocker) {
        let before = self.waits.insert(device, (wait, blocker)).map_or(0, |(before, _)| before);
        let set = class.and_then(|class| self.by_class.get_mut(&class));
        if let Some(set) = set
            && set.remove(&(before, device))
        {
            set.insert((wait, device));
        }
    }
}
