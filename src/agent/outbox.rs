//! What became of deployments and has not been published yet, in order; on disk as soon as publishing
//! does not work.
//!
//! It is bounded: when it is full the oldest goes, and the one after it says how many went.

use super::store::{Kind, Store};
use crate::model::id::DeploymentName;
use crate::model::workload::Status;
use crate::support::chain::Chain;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How many transitions of one device wait at most. Some hours of a deployment that fails again and again, or
/// half a megabyte.
pub(super) const MAX_TRANSITIONS: usize = 256;

const OUTBOX: Kind<Transition> = Kind::new("outbox", 1);

/// A deployment's status changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transition {
    /// Whose.
    pub deployment: DeploymentName,
    /// To what; none when the deployment is gone.
    pub status: Option<Status>,
    /// When: milliseconds since 1970-01-01 UTC by the device's clock.
    pub at_ms: u64,
    /// In which boot of the device.
    pub boot_id: String,
    /// How many transitions before this one were dropped.
    pub dropped: u64,
}

struct Waiting {
    transition: Transition,
    stored: bool,
}

/// The transitions that wait, by numbers that only grow.
pub(super) struct Outbox {
    store: Store,
    waiting: BTreeMap<u64, Waiting>,
}

impl Outbox {
    /// Takes up what an earlier agent could not publish.
    pub(super) fn open(store: Store) -> Self {
        let waiting = store.load_each(OUTBOX).into_iter();
        let waiting = waiting.map(|(number, transition)| (number, Waiting { transition, stored: true }));
        Self { waiting: waiting.collect(), store }
    }

    /// What waits, oldest first.
    pub(super) fn transitions(&self) -> impl Iterator<Item = &Transition> {
        self.waiting.values().map(|waiting| &waiting.transition)
    }

    /// The oldest.
    pub(super) fn front(&self) -> Option<(u64, &Transition)> {
        self.waiting.first_key_value().map(|(number, waiting)| (*number, &waiting.transition))
    }

    /// Adds one, in memory. When it is the one too many, the oldest goes.
    pub(super) fn push(&mut self, transition: Transition) {
        let number = self.waiting.last_key_value().map_or(1, |(last, _)| last + 1);
        self.waiting.insert(number, Waiting { transition, stored: false });
        while self.waiting.len() > MAX_TRANSITIONS
            && let Some((number, _)) = self.front()
        {
            self.remove(number, 1);
        }
    }

    /// The oldest has been published. One that was dropped meanwhile is gone already.
    pub(super) fn published(&mut self, number: u64) {
        // The deletion of a key cannot carry the count of what was dropped before it: the next one does.
        if let Some(waiting) = self.waiting.get_mut(&number)
            && waiting.transition.status.is_some()
        {
            waiting.transition.dropped = 0;
        }
        self.remove(number, 0);
    }

    /// Writes to the disk what is not there yet; what cannot be written stays in memory, and is tried
    /// again the next time.
    pub(super) fn keep(&mut self) {
        for (number, waiting) in &mut self.waiting {
            if waiting.stored {
                continue;
            }
            if let Err(error) = self.store.save_one(OUTBOX, number, &waiting.transition) {
                tracing::error!(error = %Chain(&error), "what happened is not safe until it is published");
                return;
            }
            waiting.stored = true;
        }
    }

    /// Removes one; what it knew to be dropped, and `lost` more, is known by the next.
    fn remove(&mut self, number: u64, lost: u64) {
        let Some(gone) = self.waiting.remove(&number) else { return };
        let lost = gone.transition.dropped + lost;
        if lost > 0 {
            match self.waiting.first_entry() {
                Some(mut next) => {
                    let next = next.get_mut();
                    next.transition.dropped += lost;
                    // Written anew before the other goes, so that a crash between counts too many, not too few.
                    next.stored = false;
                }
                None => tracing::warn!(lost, "transitions that were never published"),
            }
            if gone.stored {
                self.keep();
            }
        }
        if gone.stored
            && let Err(error) = self.store.remove_one(OUTBOX, &number)
        {
            tracing::warn!(error = %Chain(&error), "what was published will be published again after a restart");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::{Phase, WORKLOAD_VERSION};

    fn transition(n: u64) -> Transition {
        let status = Status {
            version: WORKLOAD_VERSION,
            phase: Phase::Pending,
            generation: n,
            revision: n,
            message: String::new(),
            reason: String::new(),
            services: Vec::new(),
            init_containers: Vec::new(),
            conditions: Vec::new(),
            rollback: None,
        };
        Transition {
            deployment: DeploymentName::new("web").unwrap(),
            status: Some(status),
            at_ms: n,
            boot_id: "b".into(),
            dropped: 0,
        }
    }

    fn times(outbox: &Outbox) -> Vec<u64> {
        outbox.transitions().map(|transition| transition.at_ms).collect()
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut outbox = Outbox::open(store.clone());
        (1..=12).for_each(|n| outbox.push(transition(n)));
        outbox.keep();
        outbox.push(transition(13));
        let (number, _) = outbox.front().unwrap();
        outbox.published(number);
        let outbox = Outbox::open(store);
        assert_eq!(
            times(&outbox),
            (2..=12).collect::<Vec<_>>(),
            "by number, not by name; what was not kept is lost"
        );
    }

    #[test]
    fn the_oldest_go_when_it_is_full_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut outbox = Outbox::open(store.clone());
        let full = MAX_TRANSITIONS as u64;
        for n in 1..=full + 3 {
            outbox.push(transition(n));
            outbox.keep();
        }
        for outbox in [outbox, Outbox::open(store)] {
            assert_eq!(times(&outbox), (4..=full + 3).collect::<Vec<_>>());
            let dropped: Vec<u64> = outbox.transitions().map(|transition| transition.dropped).collect();
            assert_eq!((dropped[0], dropped.iter().sum()), (3, 3));
        }
    }

    #[test]
    fn a_deletion_hands_on_what_was_dropped_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut outbox = Outbox::open(Store::open(dir.path()).unwrap());
        outbox.push(Transition { status: None, dropped: 2, ..transition(1) });
        outbox.push(Transition { dropped: 1, ..transition(2) });
        outbox.push(transition(3));
        outbox.published(1);
        assert_eq!(outbox.front().unwrap().1.dropped, 3);
        outbox.published(2);
        assert_eq!(outbox.front().unwrap().1.dropped, 0);
    }
}
