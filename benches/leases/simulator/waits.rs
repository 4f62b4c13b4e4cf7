//! By when each request that waits must have been served.
//!
//! The bound is told from the moment on at which nobody gets ahead of the request any more (`plan::lease`). A
//! change of the inventory, of a device's health or of the clock adds one turn at most, or starts the bound
//! anew where that is sooner; a request that can not be met as things are has none until it can be again.

use super::oracle::is_satisfiable;
use super::world::World;
use pilab::model::id::LeaseId;
use pilab::model::ledger::Queued;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug)]
struct Wait {
    since_ns: u64,
    /// Nobody gets ahead of it from then on.
    ripe_ns: u64,
    /// Told once it is ripe.
    until_ns: Option<u64>,
    is_satisfiable: bool,
}

/// The longest waiting, and the longest as a part of its bound in thousandths.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Longest {
    pub(crate) wait: Duration,
    pub(crate) bound: Duration,
    pub(crate) thousandths: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Waits {
    waits: BTreeMap<LeaseId, Wait>,
    frozen_since_ns: Option<u64>,
    pub(crate) served: u64,
    pub(crate) longest: Longest,
}

impl Waits {
    /// Follows the queue: who has come, who has been served, and that nobody has waited for too long.
    pub(crate) fn follow(&mut self, world: &World) {
        let now = world.clocks.true_ns;
        let line: BTreeMap<&LeaseId, &Queued> = world
            .queued()
            .filter(|queued| queued.booked.is_none())
            .map(|queued| (&queued.request.id, queued))
            .collect();
        let gone: Vec<LeaseId> = self.waits.keys().filter(|id| !line.contains_key(id)).cloned().collect();
        for id in gone {
            let wait = self.waits.remove(&id).unwrap();
            if world.is_leased(&id) {
                self.served += 1;
                self.count(&wait, now);
            }
        }
        let known: BTreeSet<LeaseId> = self.waits.keys().cloned().collect();
        for (id, queued) in &line {
            if !known.contains(id) {
                let handicap = nanos(world.policy().handicap(queued.request.priority));
                self.waits.insert(
                    (*id).clone(),
                    Wait {
                        since_ns: now,
                        ripe_ns: now + handicap,
                        until_ns: None,
                        is_satisfiable: is_satisfiable(world, &queued.request),
                    },
                );
            }
        }
        for (id, wait) in &mut self.waits {
            if wait.is_satisfiable && wait.until_ns.is_none() && wait.ripe_ns <= now {
                wait.until_ns = Some(bound(world, line[id]));
            }
            let late = wait.until_ns.is_some_and(|until| until < now) && self.frozen_since_ns.is_none();
            assert!(!late, "{id} waits for too long: {wait:?} at {now}, {:?}", line[id]);
        }
    }

    /// When the next request becomes ripe, on the true clock in nanoseconds.
    pub(crate) fn next(&self) -> Option<u64> {
        let unripe = self.waits.values().filter(|wait| wait.is_satisfiable && wait.until_ns.is_none());
        unripe.map(|wait| wait.ripe_ns).min()
    }

    /// Devices, inventory or clock have changed. `anew` when the order of the queue may have, too.
    pub(crate) fn disturb(&mut self, world: &World, anew: bool) {
        let turn = nanos(world.policy().max_lease + world.policy().handover);
        for queued in world.queued() {
            let Some(wait) = self.waits.get_mut(&queued.request.id) else { continue };
            wait.is_satisfiable = is_satisfiable(world, &queued.request);
            let restart = bound(world, queued);
            let before = wait.until_ns.filter(|_| !anew).map(|until| until + turn);
            wait.until_ns = (wait.is_satisfiable && wait.ripe_ns <= world.clocks.true_ns)
                .then(|| before.map_or(restart, |before| before.min(restart)));
        }
    }

    /// Leases are frozen from now on.
    pub(crate) fn freeze(&mut self, now_ns: u64) {
        self.frozen_since_ns.get_or_insert(now_ns);
    }

    /// They are no longer, and the time in between does not count.
    pub(crate) fn thaw(&mut self, now_ns: u64) {
        let Some(since) = self.frozen_since_ns.take() else { return };
        for wait in self.waits.values_mut() {
            if let Some(until) = &mut wait.until_ns {
                *until += now_ns - since;
            }
        }
    }

    fn count(&mut self, wait: &Wait, now: u64) {
        let waited = now - wait.since_ns;
        let Some(until) = wait.until_ns else { return };
        let bound = until - wait.since_ns;
        let thousandths = waited.saturating_mul(1000) / bound.max(1);
        if thousandths > self.longest.thousandths {
            let (wait, bound) = (Duration::from_nanos(waited), Duration::from_nanos(bound));
            self.longest = Longest { wait, bound, thousandths };
        }
    }
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap()
}

/// By when the request must be served, were nothing to change from now on.
fn bound(world: &World, queued: &Queued) -> u64 {
    let policy = world.policy();
    let others = || world.queued().filter(|other| other.request.id != queued.request.id);
    let bookings = others().filter(|other| other.booked.is_some());
    let last_end = bookings.filter_map(|booking| {
        let length = booking.request.duration.unwrap_or(policy.default_lease);
        Some(Duration::from_millis(booking.request.start?) + length)
    });
    let wall = Duration::from_millis(world.clocks.moment().at.wall_ms);
    let bookings = last_end.max().map_or(Duration::ZERO, |end| end.saturating_sub(wall));
    let ahead = others().filter(|other| other.booked.is_some() || other.rank < queued.rank).count();
    let handicap = policy.handicap(queued.request.priority);
    let longest =
        policy.longest_wait(queued.request.priority, u32::try_from(ahead).unwrap(), bookings) - handicap;
    world.clocks.true_ns + nanos(longest)
}
