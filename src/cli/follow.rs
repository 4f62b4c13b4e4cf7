//! Puts a run's events in order. They come live and by replay, so twice, late or not at all.

use crate::model::run::{RunEvent, RunFact};
use std::collections::BTreeMap;

/// The most events that wait behind a hole. A run has some hundreds; beyond this the replay brings
/// them again.
const MAX_AHEAD: usize = 4096;

/// Where a reader is in one run's stream.
#[derive(Debug, Default)]
pub struct Follower {
    next: u64,
    ahead: BTreeMap<u64, RunEvent>,
    ended: bool,
}

impl Follower {
    /// Takes an event and answers those that are now in order, each exactly once. After the run's last
    /// fact nothing comes any more.
    pub fn offer(&mut self, event: RunEvent) -> Vec<RunEvent> {
        if self.ended || event.seq < self.next {
            return Vec::new();
        }
        if event.seq == self.next || self.ahead.len() < MAX_AHEAD {
            self.ahead.insert(event.seq, event);
        }
        let mut ready = Vec::new();
        while let Some(event) = self.ahead.remove(&self.next) {
            self.next += 1;
            self.ended = matches!(event.fact, RunFact::Ended { .. });
            ready.push(event);
            if self.ended {
                self.ahead.clear();
            }
        }
        ready
    }

    /// The sequence number that is wanted next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether events wait behind a hole.
    pub fn has_hole(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether the run's last fact has been seen.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;
    use proptest::prelude::*;

    #[test]
    fn an_event_behind_a_hole_waits_for_the_replay() {
        let events = fixture::passed();
        let mut follower = Follower::default();
        assert_eq!(follower.offer(events[0].clone()).len(), 1);
        assert!(follower.offer(events[2].clone()).is_empty());
        assert!(follower.has_hole());
        assert_eq!(follower.next(), 1);
        assert_eq!(follower.offer(events[1].clone()), events[1..3]);
        assert!(!follower.has_hole());
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_gives_each_event_once(order in Just((0..fixture::passed().len()).chain(0..fixture::passed().len()).collect::<Vec<_>>()).prop_shuffle()) {
            let events = fixture::passed();
            let mut follower = Follower::default();
            let seen: Vec<RunEvent> = order.iter().flat_map(|&i| follower.offer(events[i].clone())).collect();
            prop_assert_eq!(seen, events);
            prop_assert!(follower.has_ended());
            prop_assert!(!follower.has_hole());
        }
    }
}
