//! What is between a relay's coil and a board: the contact, the supply behind it, and the board's own capacitors.
//! Decided without I/O.
//!
//! ```text
//!   coil ──► Contact ──► Supply of the rack ──► Charge of the board ──► runs, or not
//!            works,      trips when too many     holds for a moment:
//!            welded,     start at once           off and on within it is no reset
//!            chatters
//! ```

use crate::model::power::PowerState;
use std::time::Duration;
use tokio::time::Instant;

/// How long each bounce of a chattering contact lasts.
const BOUNCE: Duration = Duration::from_millis(30);
/// How often it bounces before it rests.
const BOUNCES: u32 = 3;
/// Boards whose contacts close within this draw their inrush at the same time.
const INRUSH: Duration = Duration::from_millis(200);
/// How long a supply that has tripped stays off: hiccup mode of common power supplies.
const HICCUP: Duration = Duration::from_secs(2);

/// What is wrong with a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContactFault {
    /// Nothing.
    #[default]
    None,
    /// Once closed it stays so. The coil, which is what is read back, obeys.
    Welded,
    /// It bounces on closing.
    Chatters,
}

/// A relay: its coil, and the contact in the board's supply.
#[derive(Debug, Default)]
pub struct Contact {
    fault: ContactFault,
    coil: bool,
    closed: bool,
}

impl Contact {
    /// Without current, and open.
    pub fn new(fault: ContactFault) -> Self {
        Self { fault, coil: false, closed: false }
    }

    /// What the coil is: what a driver can read back.
    pub fn coil(&self) -> PowerState {
        if self.coil { PowerState::On } else { PowerState::Off }
    }

    /// Sets the coil; answers how the contact moves, each step a pause after the one before.
    pub fn set(&mut self, coil: PowerState) -> Vec<(Duration, bool)> {
        self.coil = coil == PowerState::On;
        let to = self.coil || (self.fault == ContactFault::Welded && self.closed);
        if to == self.closed {
            return Vec::new();
        }
        self.closed = to;
        let mut moves = vec![(Duration::ZERO, to)];
        if to && self.fault == ContactFault::Chatters {
            for _ in 0..BOUNCES {
                moves.extend([(BOUNCE, false), (BOUNCE, true)]);
            }
        }
        moves
    }
}

/// The supply that the boards of a rack share.
#[derive(Debug, Default)]
pub struct Supply {
    /// How many boards may start at once; none for as many as there are.
    limit: Option<usize>,
    started: Vec<Instant>,
    off_until: Option<Instant>,
}

impl Supply {
    /// A supply that bears so many boards starting at once.
    pub fn new(limit: Option<usize>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// A contact has closed; whether this was too much.
    pub fn start(&mut self, now: Instant) -> bool {
        self.started.retain(|at| now.saturating_duration_since(*at) < INRUSH);
        self.started.push(now);
        let trips = self.limit.is_some_and(|limit| self.started.len() > limit) && self.is_on(now);
        if trips {
            self.off_until = Some(now + HICCUP);
            self.started.clear();
        }
        trips
    }

    /// Whether it gives anything.
    pub fn is_on(&self, now: Instant) -> bool {
        self.off_until.is_none_or(|until| now >= until)
    }

    /// When it tries again.
    pub fn recovers(&self) -> Option<Instant> {
        self.off_until
    }
}

/// What a board makes of its supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Without power.
    Dead,
    /// It runs.
    Alive,
    /// Without supply, and not reset yet.
    Fading(Instant),
}

/// The charge in a board's capacitors.
#[derive(Debug)]
pub struct Charge {
    holds: Duration,
    life: Life,
}

impl Charge {
    /// One that holds for so long.
    pub fn new(holds: Duration) -> Self {
        Self { holds, life: Life::Dead }
    }

    /// How it is.
    pub fn life(&self) -> Life {
        self.life
    }

    /// The supply comes or goes, or time has passed.
    pub fn feed(&mut self, fed: bool, now: Instant) -> Life {
        self.life = match (self.life, fed) {
            // Before it has faded: it never noticed.
            (Life::Alive, true) => Life::Alive,
            (Life::Fading(until), true) if now < until => Life::Alive,
            (Life::Fading(_) | Life::Dead, true) => Life::Alive,
            (Life::Alive, false) if self.holds.is_zero() => Life::Dead,
            (Life::Alive, false) => Life::Fading(now + self.holds),
            (Life::Fading(until), false) if now >= until => Life::Dead,
            (life, false) => life,
        };
        self.life
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PowerState::{Off, On};
    use proptest::prelude::*;

    #[test]
    fn a_contact_does_what_its_fault_lets_it() {
        let last = |contact: &mut Contact, state| contact.set(state).last().map(|(_, closed)| *closed);
        let mut good = Contact::new(ContactFault::None);
        assert_eq!(last(&mut good, On), Some(true));
        assert_eq!((last(&mut good, On), good.coil()), (None, On));
        assert_eq!((last(&mut good, Off), good.coil()), (Some(false), Off));
        let mut welded = Contact::new(ContactFault::Welded);
        assert_eq!(last(&mut welded, On), Some(true));
        assert_eq!(
            (last(&mut welded, Off), welded.coil()),
            (None, Off),
            "the coil is read back, not the board"
        );
        let mut bad = Contact::new(ContactFault::Chatters);
        assert_eq!(bad.set(On).len(), 7);
        assert_eq!(bad.set(Off), [(Duration::ZERO, false)]);
    }

    #[test]
    fn too_many_at_once_are_too_much_for_a_supply() {
        let now = Instant::now();
        let mut supply = Supply::new(Some(2));
        assert_eq!([0, 50, 300, 400].map(|ms| supply.start(now + Duration::from_millis(ms))), [false; 4]);
        assert!(supply.start(now + Duration::from_millis(450)));
        let at = supply.recovers().unwrap();
        assert!(!supply.is_on(at - BOUNCE) && supply.is_on(at));
        let mut strong = Supply::new(None);
        assert!((0..100).all(|_| !strong.start(now)));
    }

    #[test]
    fn off_and_on_within_the_charge_is_no_reset() {
        let now = Instant::now();
        let mut charge = Charge::new(BOUNCE);
        assert_eq!(charge.feed(true, now), Life::Alive);
        assert_eq!(charge.feed(false, now), Life::Fading(now + BOUNCE));
        assert_eq!(charge.feed(true, now + BOUNCE / 2), Life::Alive);
        charge.feed(false, now + BOUNCE);
        assert_eq!(charge.feed(false, now + BOUNCE * 2), Life::Dead);
        assert_eq!(Charge::new(Duration::ZERO).feed(false, now), Life::Dead);
    }

    proptest! {
        #[test]
        fn a_board_without_supply_dies_in_time(steps in prop::collection::vec((any::<bool>(), 0..100_u64), 1..50)) {
            let mut now = Instant::now();
            let mut charge = Charge::new(BOUNCE);
            for (fed, wait) in steps {
                charge.feed(fed, now);
                now += Duration::from_millis(wait);
                let life = charge.feed(fed, now);
                prop_assert_eq!(life == Life::Alive, fed);
                if !fed && wait >= 30 {
                    prop_assert_eq!(life, Life::Dead);
                }
            }
        }
    }
}
