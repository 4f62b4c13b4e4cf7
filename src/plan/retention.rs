//! Which of what is kept goes: what is too old, too many, or too large in sum; the oldest first. Pure.

use crate::model::bundle::Retention;
use std::cmp::Reverse;
use std::time::Duration;

/// Something that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// From when it is: milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    /// How large it is.
    pub bytes: u64,
}

/// Why something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There are enough newer ones.
    Count,
    /// It is too old.
    Age,
    /// With the newer ones it takes too much room.
    Size,
}

impl Why {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Age => "age",
            Self::Size => "size",
        }
    }
}

/// What of `items` goes, by its index, the oldest first. The newest always stays: whoever just made it wants to see it.
/// A clock that was set back makes nothing old.
pub fn due(policy: &Retention, items: &[Item], now_ms: u64) -> Vec<(usize, Why)> {
    let mut newest: Vec<usize> = (0..items.len()).collect();
    // Of one time, the one that is listed later is the newer.
    newest.sort_by_key(|&index| Reverse((items.get(index).map(|item| item.at_ms), index)));
    let (mut sum, mut due) = (0_u64, Vec::new());
    for (rank, index) in newest.into_iter().enumerate() {
        let Some(item) = items.get(index) else { continue };
        sum = sum.saturating_add(item.bytes);
        let age = Duration::from_millis(now_ms.saturating_sub(item.at_ms));
        let why = if policy.age.is_some_and(|most| age > most) {
            Some(Why::Age)
        } else if policy.count.is_some_and(|most| rank >= most) {
            Some(Why::Count)
        } else if policy.bytes.is_some_and(|most| sum > most) {
            Some(Why::Size)
        } else {
            None
        };
        if let Some(why) = why.filter(|_| rank > 0) {
            due.push((index, why));
        }
    }
    due.reverse();
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn the_oldest_go_first_and_each_says_why() {
        let items: Vec<Item> = (0..5).map(|n| Item { at_ms: n * HOUR, bytes: 10 }).collect();
        let now = 5 * HOUR;
        let policy = |count, hours: Option<u64>, bytes| Retention {
            count,
            age: hours.map(|hours| Duration::from_millis(hours * HOUR)),
            bytes,
        };
        type Due = &'static [(usize, Why)];
        let table: &[(Retention, Due)] = &[
            (policy(None, None, None), &[]),
            (policy(Some(3), None, None), &[(0, Why::Count), (1, Why::Count)]),
            (policy(None, Some(3), None), &[(0, Why::Age), (1, Why::Age)]),
            (policy(None, None, Some(25)), &[(0, Why::Size), (1, Why::Size), (2, Why::Size)]),
            (policy(Some(4), Some(4), Some(30)), &[(0, Why::Age), (1, Why::Size)]),
            // The newest stays whatever the rules say.
            (
                policy(Some(0), None, Some(1)),
                &[(0, Why::Count), (1, Why::Count), (2, Why::Count), (3, Why::Count)],
            ),
        ];
        for (policy, wanted) in table {
            assert_eq!(due(policy, &items, now), *wanted, "{policy:?}");
        }
        assert_eq!(due(&policy(None, Some(1), None), &items, 0), [], "the clock was set back");
    }

    proptest! {
        #[test]
        fn what_stays_keeps_the_rules(
            items in prop::collection::vec((0_u64..1000, 0_u64..100), 0..40),
            count in 1_usize..20, bytes in 0_u64..500, age in 0_u64..1000,
        ) {
            let items: Vec<Item> = items.into_iter().map(|(at_ms, bytes)| Item { at_ms, bytes }).collect();
            let policy = Retention { count: Some(count), age: Some(Duration::from_millis(age)), bytes: Some(bytes) };
            let gone = due(&policy, &items, 1000);
            let stays: Vec<_> = (0..items.len()).filter(|i| gone.iter().all(|(g, _)| g != i)).collect();
            prop_assert!(stays.len() <= count);
            prop_assert_eq!(stays.is_empty(), items.is_empty());
            if stays.len() > 1 {
                prop_assert!(stays.iter().map(|i| items[*i].bytes).sum::<u64>() <= bytes);
                prop_assert!(stays.iter().all(|i| 1000 - items[*i].at_ms <= age));
            }
        }
    }
}
