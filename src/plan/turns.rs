//! Whose request is answered next, so that nobody who asks for much keeps others from being heard.
//!
//! ```text
//!  comes ─► room in all, and of its user? ── yes ──► begins
//!             │ no
//!             ▼
//!           waits behind its user's own (bounded; beyond that it is turned away)
//!             ▲
//!  one ends ──┘ of the users who wait and have room the one whose turn it is: each once, then the next
//! ```

use crate::model::id::UserName;
use std::collections::{BTreeMap, VecDeque};

/// How many may be under way and wait.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Under way in all.
    pub in_all: usize,
    /// Under way of one user.
    pub of_user: usize,
    /// Waiting of one user.
    pub waiting: usize,
}

/// What becomes of a request that comes.
#[derive(Debug, PartialEq, Eq)]
pub enum Comes<T> {
    /// It is answered now.
    Begins(T),
    /// It waits for its turn.
    Waits,
    /// Too many of its user wait already.
    TurnedAway(T),
}

/// Requests under way, by user, and those that wait.
#[derive(Debug)]
pub struct Turns<T> {
    limits: Limits,
    under_way: BTreeMap<UserName, usize>,
    /// Never empty for a user that is in it.
    waiting: BTreeMap<UserName, VecDeque<T>>,
    /// The users of `waiting`, in turn.
    line: VecDeque<UserName>,
}

impl<T> Turns<T> {
    /// With nothing under way.
    pub fn new(limits: Limits) -> Self {
        Self { limits, under_way: BTreeMap::new(), waiting: BTreeMap::new(), line: VecDeque::new() }
    }

    /// A user's request comes.
    pub fn come(&mut self, user: &UserName, request: T) -> Comes<T> {
        let waiting = self.waiting.get(user).map_or(0, VecDeque::len);
        if waiting == 0 && self.has_room(user) {
            *self.under_way.entry(user.clone()).or_default() += 1;
            return Comes::Begins(request);
        }
        if waiting >= self.limits.waiting {
            return Comes::TurnedAway(request);
        }
        if waiting == 0 {
            self.line.push_back(user.clone());
        }
        self.waiting.entry(user.clone()).or_default().push_back(request);
        Comes::Waits
    }

    /// One of a user's requests has been answered; what is begun in its place.
    pub fn done(&mut self, user: &UserName) -> Option<(UserName, T)> {
        if let Some(count) = self.under_way.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(user);
            }
        }
        let place = self.line.iter().position(|user| self.has_room(user))?;
        let next = self.line.remove(place)?;
        let queue = self.waiting.get_mut(&next)?;
        let request = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&next);
        } else {
            self.line.push_back(next.clone());
        }
        *self.under_way.entry(next.clone()).or_default() += 1;
        Some((next, request))
    }

    fn has_room(&self, user: &UserName) -> bool {
        let own = self.under_way.get(user).copied().unwrap_or_default();
        own < self.limits.of_user && self.under_way.values().sum::<usize>() < self.limits.in_all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::new(name).unwrap()
    }

    #[test]
    fn who_asks_for_much_waits_behind_himself_alone() {
        let (ann, bob, cid) = (user("ann"), user("bob"), user("cid"));
        let mut turns = Turns::new(Limits { in_all: 3, of_user: 2, waiting: 2 });
        assert_eq!(turns.come(&ann, 1), Comes::Begins(1));
        assert_eq!(turns.come(&ann, 2), Comes::Begins(2));
        assert_eq!(turns.come(&ann, 3), Comes::Waits);
        assert_eq!(turns.come(&ann, 4), Comes::Waits);
        assert_eq!(turns.come(&ann, 5), Comes::TurnedAway(5));
        assert_eq!(turns.come(&bob, 6), Comes::Begins(6), "there is room for him");
        assert_eq!(turns.come(&bob, 7), Comes::Waits);
        assert_eq!(turns.come(&cid, 8), Comes::Waits);
        // Ann came first, but has all that she may have.
        assert_eq!(turns.done(&bob), Some((bob.clone(), 7)));
        assert_eq!(turns.done(&ann), Some((ann.clone(), 3)));
        assert_eq!(turns.done(&ann), Some((cid.clone(), 8)), "each in turn");
        assert_eq!(turns.done(&cid), Some((ann.clone(), 4)));
        assert_eq!(turns.done(&ann), None);
        assert_eq!(turns.done(&ann), None);
        assert_eq!(turns.done(&bob), None);
        assert_eq!(turns.under_way, BTreeMap::new());
        assert_eq!((turns.waiting.len(), turns.line.len()), (0, 0));
    }

    proptest::proptest! {
        /// However they come and end: none is lost or doubled, each user's begin in order, and no bound is passed.
        #[test]
        fn none_is_lost(steps in proptest::collection::vec((0_u8..3, proptest::bool::ANY), 0..200)) {
            let limits = Limits { in_all: 5, of_user: 3, waiting: 4 };
            let mut turns = Turns::new(limits);
            let (mut under_way, mut begun, mut taken) = (Vec::new(), BTreeMap::new(), 0);
            let mut begin = |user: UserName, request: usize, under_way: &mut Vec<UserName>| {
                assert!(begun.insert(user.clone(), request) < Some(request), "in order");
                under_way.push(user);
            };
            for (at, (who, ends)) in steps.into_iter().enumerate() {
                if ends && !under_way.is_empty() {
                    let ended = under_way.remove(usize::from(who) % under_way.len());
                    if let Some((user, request)) = turns.done(&ended) {
                        begin(user, request, &mut under_way);
                    }
                } else {
                    let user = user(["ann", "bob", "cid"][usize::from(who)]);
                    match turns.come(&user, at) {
                        Comes::Begins(request) => begin(user, request, &mut under_way),
                        Comes::Waits => {}
                        Comes::TurnedAway(_) => continue,
                    }
                    taken += 1;
                }
                assert!(under_way.len() <= limits.in_all);
            }
            let mut ended = 0;
            while let Some(user) = under_way.pop() {
                ended += 1;
                if let Some((user, request)) = turns.done(&user) {
                    begin(user, request, &mut under_way);
                }
            }
            assert!(ended <= taken);
            assert_eq!((turns.waiting.len(), turns.under_way.len()), (0, 0));
        }
    }
}
