//! Telling of the same thing once in a while, however often it happens.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// How long a thing is not told of again.
const PAUSE: Duration = Duration::from_secs(30);
/// Things that are remembered; while there are more, those beyond are not told of.
const MAX: usize = 256;

/// When each thing was told of last.
pub(super) struct Seldom<T>(HashMap<T, Instant>);

impl<T> Default for Seldom<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Seldom<T> {
    /// Whether `thing` is to be told of now. If so, it counts as told.
    pub(super) fn is_due(&mut self, thing: T, now: Instant) -> bool {
        if self.0.get(&thing).is_some_and(|told| now - *told < PAUSE) {
            return false;
        }
        if self.0.len() >= MAX && !self.0.contains_key(&thing) {
            self.0.retain(|_, told| now - *told < PAUSE);
            if self.0.len() >= MAX {
                return false;
            }
        }
        self.0.insert(thing, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thing_is_told_of_once_in_half_a_minute_and_the_memory_is_bounded() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        assert!(
            seldom.is_due(0, start)
                && !seldom.is_due(0, start + PAUSE / 2)
                && seldom.is_due(0, start + PAUSE)
        );
        let told = (1..1000).filter(|n| seldom.is_due(*n, start + PAUSE)).count();
        assert_eq!((told, seldom.0.len()), (MAX - 1, MAX));
        assert!(seldom.is_due(2000, start + PAUSE * 2), "room again");
    }
}
