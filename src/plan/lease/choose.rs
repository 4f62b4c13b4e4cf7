//! Which request is served next, and with which devices.
//!
//! The requests are looked at in their order. One that can be served now is. One that cannot, though the
//! lab has the devices, **claims** those free ones that it can use: a largest matching of its needs with what is
//! free and unclaimed. What it does not claim is of no use to it whatever comes back ([`Matching`]), so a
//! later request that gets it delays nobody. In particular a gang gathers its devices while smaller requests pass by.
//!
//! Claims are not kept: they follow from the queue and the free devices.

use super::book::Book;
use super::book::millis;
use super::shelf::{Among, ClassId};
use crate::model::id::{DeviceId, LeaseId};
use crate::model::lease::LeaseRequest;
use crate::model::ledger::Rank;
use crate::model::scenario::Need;
use crate::model::time::Moment;
use crate::plan::place::{Matching, fits, misfit};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

/// A request in terms of classes.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// For each need, the classes whose devices meet it; none for one that names its device.
    fitting: Vec<Vec<ClassId>>,
    /// All of these.
    pub(super) classes: BTreeSet<ClassId>,
}

/// Devices for a request's needs, as many as could be found.
pub(super) struct Choice<'a> {
    matching: Matching,
    devices: Vec<&'a DeviceId>,
}

impl Choice<'_> {
    /// A device for each need in the order of the needs, if there is one for each.
    pub(super) fn full(&self) -> Option<Vec<DeviceId>> {
        let items = self.matching.full()?;
        Some(items.into_iter().map(|item| self.devices[item].clone()).collect())
    }

    /// The first need without a device.
    pub(super) fn unmet(&self) -> Option<usize> {
        self.matching.unmet()
    }
}

impl Book {
    /// How long the lease of this request is.
    pub(super) fn length(&self, request: &LeaseRequest) -> Duration {
        request.duration.unwrap_or(self.policy.default_lease)
    }

    /// From when to when a booking is, in milliseconds since 1970-01-01 UTC.
    pub(super) fn span(&self, request: &LeaseRequest) -> Option<(u64, u64)> {
        request.start.map(|start| (start, start.saturating_add(millis(self.length(request)))))
    }

    pub(super) fn wish(&self, request: &LeaseRequest) -> Wish {
        let mut fitting: Vec<Vec<ClassId>> = Vec::with_capacity(request.needs.len());
        for (index, need) in request.needs.iter().enumerate() {
            let before = index.checked_sub(1).filter(|before| same(&request.needs[*before], need));
            fitting.push(match before {
                // A gang asks for the same again and again.
                Some(before) => fitting[before].clone(),
                None if need.device.is_some() => Vec::new(),
                None => self.shelf.fitting(need),
            });
        }
        let classes = fitting.iter().flatten().copied().collect();
        Wish { fitting, classes }
    }

    /// Devices for the request among those that `usable` lets pass.
    pub(super) fn choose<'a>(
        &'a self,
        request: &'a LeaseRequest,
        wish: &'a Wish,
        among: Among,
        usable: impl Fn(&DeviceId) -> bool,
    ) -> Choice<'a> {
        let mut choice = Choice { matching: Matching::new(request.needs.len()), devices: Vec::new() };
        let named: BTreeSet<&DeviceId> =
            request.needs.iter().filter_map(|need| need.device.as_ref()).collect();
        // A named device serves the need that names it or none: it must.
        for id in &named {
            let Some(place) = self.devices.get(*id).filter(|place| !place.record.removed) else { continue };
            let lent = place.record.checkup.health.is_lendable() || request.any_health;
            let looked_at = match among {
                Among::Free => lent && self.is_free(id),
                Among::Lendable => lent,
                Among::All => true,
            };
            if looked_at && usable(id) {
                choice.devices.push(*id);
                choice.matching.offer(choice.devices.len() - 1, |item, need| {
                    let device = choice.devices[item];
                    let need = &request.needs[need];
                    let place = self.devices.get(device);
                    need.device.as_ref() == Some(device)
                        && place.is_some_and(|p| fits(need, &p.record.device))
                });
            }
        }
        let first_of_class = choice.devices.len();
        let mut classes = vec![0; first_of_class];
        for (class, set) in self.shelf.sets(&wish.classes, among) {
            for id in set.iter().filter(|id| !named.contains(id) && usable(id)) {
                choice.devices.push(id);
                classes.push(class);
                let taken = choice.matching.offer(choice.devices.len() - 1, |item, need| {
                    if item < first_of_class {
                        return request.needs[need].device.as_ref() == Some(choice.devices[item]);
                    }
                    wish.fitting[need].contains(&classes[item])
                });
                // What is true of one device of a class is true of all.
                if !taken {
                    choice.devices.pop();
                    classes.pop();
                    break;
                }
            }
        }
        choice
    }

    /// Whether a lease of this length could begin now on the device: it ends, and the device is ready again,
    /// before the next booking.
    pub(super) fn is_unbooked(&self, device: &DeviceId, length: Duration, now: &Moment) -> bool {
        let until =
            now.at.wall_ms.saturating_add(millis(length)).saturating_add(millis(self.policy.handover));
        let next = self.booked.get(device).and_then(BTreeSet::first);
        next.is_none_or(|(start, ..)| now.synchronised && until <= *start)
    }

    /// Devices for the request that are free now and not in `claimed`.
    pub(super) fn choose_free<'a>(
        &'a self,
        request: &'a LeaseRequest,
        wish: &'a Wish,
        claimed: &BTreeSet<DeviceId>,
        now: &Moment,
    ) -> Choice<'a> {
        let length = self.length(request);
        self.choose(request, wish, Among::Free, |id| {
            !claimed.contains(id) && self.is_unbooked(id, length, now)
        })
    }

    /// Whether the devices that are lent at all are enough for the request.
    pub(super) fn can_be_met(&self, request: &LeaseRequest, wish: &Wish) -> bool {
        self.choose(request, wish, Among::Lendable, |_| true).unmet().is_none()
    }

    /// The role of a need that the lab can never meet, and why.
    pub(super) fn never(&self, request: &LeaseRequest, wish: &Wish) -> Option<(String, String)> {
        let unmet = self.choose(request, wish, Among::All, |_| true).unmet()?;
        let places = self.devices.values().map(|place| &place.record);
        let all: Vec<_> = places.filter(|record| !record.removed).map(|record| &record.device).collect();
        Some((request.needs[unmet].role.clone(), misfit(&request.needs, unmet, &all)))
    }

    /// The first request that can be served now, and its devices. `newcomer` is one that is not in the book yet.
    pub(super) fn next_served(
        &self,
        newcomer: Option<(Rank, &LeaseRequest, &Wish)>,
        now: &Moment,
    ) -> Option<(LeaseId, Vec<DeviceId>)> {
        let mut claimed = BTreeSet::new();
        let mut claims: BTreeMap<ClassId, usize> = BTreeMap::new();
        let mut newcomer = newcomer;
        let mut after = Bound::Unbounded;
        loop {
            let waits = self.next_waiter(after, &claimed, &claims);
            let (rank, request, wish) = match (waits, newcomer) {
                (Some(rank), other) if other.is_none_or(|(other, ..)| rank < other) => {
                    let waiting = self.line.get(&rank).and_then(|id| self.queue.get(id))?;
                    (rank, &waiting.queued.request, &waiting.wish)
                }
                (_, Some(other)) => {
                    newcomer = None;
                    other
                }
                (_, None) => return None,
            };
            after = Bound::Excluded(rank);
            let choice = self.choose_free(request, wish, &claimed, now);
            if let Some(devices) = choice.full() {
                return Some((request.id.clone(), devices));
            }
            // What cannot be met as things are must not keep devices from others.
            if self.can_be_met(request, wish) {
                for id in choice.devices {
                    if let Some(place) = self.devices.get(id) {
                        *claims.entry(place.class).or_default() += 1;
                    }
                    claimed.insert(id.clone());
                }
            }
        }
    }

    /// The next request in the order that a device which is free and unclaimed could serve.
    fn next_waiter(
        &self,
        after: Bound<Rank>,
        claimed: &BTreeSet<DeviceId>,
        claims: &BTreeMap<ClassId, usize>,
    ) -> Option<Rank> {
        let next = |ranks: &BTreeSet<Rank>| ranks.range((after, Bound::Unbounded)).next().copied();
        let open = |class: &ClassId| self.shelf.free(*class) > claims.get(class).copied().unwrap_or(0);
        let by_class =
            self.waiters.iter().filter(|(class, _)| open(class)).filter_map(|(_, ranks)| next(ranks));
        let unclaimed = self.called.iter().filter(|id| !claimed.contains(*id));
        let by_name = unclaimed.filter_map(|id| next(self.callers.get(id)?));
        by_class.chain(by_name).min()
    }

    /// The first request that waits for the device, if any: one that could be served with it.
    pub(super) fn wanted(&self, device: &DeviceId) -> Option<&LeaseRequest> {
        let by_class = self.devices.get(device).and_then(|place| self.waiters.get(&place.class));
        let first = |ranks: &BTreeSet<Rank>| {
            let waiting =
                ranks.iter().filter_map(|rank| Some((*rank, self.queue.get(self.line.get(rank)?)?)));
            let mut satisfiable =
                waiting.filter(|(_, waiting)| self.can_be_met(&waiting.queued.request, &waiting.wish));
            satisfiable.next().map(|(rank, waiting)| (rank, &waiting.queued.request))
        };
        let first = by_class.into_iter().chain(self.callers.get(device)).filter_map(first);
        first.min_by_key(|(rank, _)| *rank).map(|(_, request)| request)
    }
}

/// Whether the same devices meet both needs: what [`fits`] looks at is the same.
fn same(one: &Need, other: &Need) -> bool {
    // Field by field: what a need will ask for one day is not to be forgotten here.
    let Need { role: _, device, model, backend, labels, capabilities, fallback: _, instead: _ } = one;
    (device, model, backend, labels, capabilities)
        == (&other.device, &other.model, &other.backend, &other.labels, &other.capabilities)
}
