//! How often each asks, by its address or its network card: a budget that fills again with time.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;
use tokio::time::Instant;

/// How many are remembered. When there are more at a time, those beyond get nothing.
const MAX: usize = 1024;
/// How often each is told of, and how long a full budget takes to fill.
const SPAN: Duration = Duration::from_secs(1);

/// Whether one more request is in the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is.
    Yes,
    /// It is not, for the first time in a second.
    FirstNo,
    /// It is not.
    No,
}

/// One of them: how many requests are left of its budget, as of a time.
#[derive(Debug)]
struct Pace {
    left: f64,
    at: Instant,
    told: Option<Instant>,
}

/// The budgets of all.
#[derive(Debug)]
pub struct Paces<T> {
    paces: HashMap<T, Pace>,
    told: Option<Instant>,
}

impl<T> Default for Paces<T> {
    fn default() -> Self {
        Self { paces: HashMap::new(), told: None }
    }
}

impl<T: Eq + Hash> Paces<T> {
    /// Takes one off the budget of `who`, which is `full` at first and gets as much back each second.
    pub fn take(&mut self, who: T, full: u32, now: Instant) -> Taken {
        let full = f64::from(full);
        if self.paces.len() >= MAX && !self.paces.contains_key(&who) {
            self.paces.retain(|_, pace| now - pace.at < SPAN);
            if self.paces.len() >= MAX {
                return tell(&mut self.told, now);
            }
        }
        let pace = self.paces.entry(who).or_insert(Pace { left: full, at: now, told: None });
        pace.left = (pace.left + (now - pace.at).as_secs_f64() / SPAN.as_secs_f64() * full).min(full);
        pace.at = now;
        if pace.left < 1.0 {
            return tell(&mut pace.told, now);
        }
        pace.left -= 1.0;
        Taken::Yes
    }
}

fn tell(told: &mut Option<Instant>, now: Instant) -> Taken {
    if told.is_some_and(|told| now - told < SPAN) {
        return Taken::No;
    }
    *told = Some(now);
    Taken::FirstNo
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn an_address_beyond_its_budget_is_told_of_once_a_second_and_harms_no_other() {
        let start = Instant::now();
        let [one, other] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        let mut paces = Paces::default();
        let taken: Vec<Taken> = (0..8).map(|_| paces.take(one, 5, start)).collect();
        assert_eq!(taken[..5], [Taken::Yes; 5]);
        assert_eq!(taken[5..], [Taken::FirstNo, Taken::No, Taken::No]);
        assert_eq!(paces.take(other, 5, start), Taken::Yes);
        assert_eq!(paces.take(one, 5, start + SPAN / 4), Taken::Yes, "a fifth of a second gives one back");
        assert_eq!(paces.take(one, 5, start + SPAN / 4), Taken::No);
        assert_eq!(paces.take(one, 5, start + SPAN * 9), Taken::Yes);
    }

    #[test]
    fn more_addresses_than_can_be_remembered_get_nothing_until_some_rest() {
        let start = Instant::now();
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let mut paces = Paces::default();
        for n in 0..1024 {
            assert_eq!(paces.take(address(n), 5, start), Taken::Yes);
        }
        assert_eq!(paces.take(address(2000), 5, start), Taken::FirstNo);
        assert_eq!(paces.take(address(2001), 5, start), Taken::No);
        assert_eq!(paces.take(address(7), 5, start), Taken::Yes, "one that was there before");
        assert_eq!(paces.take(address(2000), 5, start + SPAN), Taken::Yes);
        assert!(paces.paces.len() <= 2);
    }
}
