//! Requests as they come, each answered by itself, and no user in the way of another: `plan::turns` says whose is next.
//!
//! Some wait for a lease to change, for a device to boot, or for a peer that does not read. The signs of life by which leases
//! are held (`pilab reserve --hold-by-process`) have a lane of their own, so that none of them waits behind those.

use super::service::Shared;
use crate::bus::connect::{Message, Subscription};
use crate::model::id::UserName;
use crate::plan::turns::{Comes, Limits, Turns};
use crate::support::lock::lock;
use crate::wire::lending::HEARTBEAT;
use crate::wire::subject;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The requests. One user may have 64 tunnels, each with one that sends and one that receives, and follow, or stop at once,
/// all runs that he may have under way.
const REQUESTS: Limits = Limits { in_all: 512, of_user: 128, waiting: 1024 };
/// The signs of life.
const BEATS: Limits = Limits { in_all: 128, of_user: 16, waiting: 64 };

/// What a request is answered beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Requests,
    Beats,
}

/// The turns of both.
struct Lanes {
    requests: Turns<Message>,
    beats: Turns<Message>,
}

impl Lanes {
    fn of(&mut self, lane: Lane) -> &mut Turns<Message> {
        match lane {
            Lane::Requests => &mut self.requests,
            Lane::Beats => &mut self.beats,
        }
    }
}

/// A place among those that are under way. Dropped, it is another's.
struct Place {
    lane: Lane,
    user: UserName,
    ended: mpsc::Sender<(Lane, UserName)>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // There is room for each place. Where nobody listens any more, nothing is begun either.
        let _ = self.ended.try_send((self.lane, self.user.clone()));
    }
}

/// Serves requests until `stop`.
pub(super) async fn run(mut requests: Subscription, shared: Arc<Shared>, stop: CancellationToken) {
    let (ended, mut over) = mpsc::channel(REQUESTS.in_all + BEATS.in_all);
    let mut lanes = Lanes { requests: Turns::new(REQUESTS), beats: Turns::new(BEATS) };
    loop {
        // Losing a request here loses nothing: the service ends.
        let (lane, next) = tokio::select! {
            () = stop.cancelled() => return,
            Some((lane, user)) = over.recv() => (lane, lanes.of(lane).done(&user)),
            message = requests.next() => {
                let Some(message) = message else { return };
                let Some((user, verb)) = subject::parse_request(&message.subject) else { continue };
                let lane = if verb == HEARTBEAT { Lane::Beats } else { Lane::Requests };
                match lanes.of(lane).come(&user, message) {
                    Comes::Begins(message) => (lane, Some((user, message))),
                    Comes::Waits => continue,
                    Comes::TurnedAway(message) => {
                        shared.turn_away(&message).await;
                        continue;
                    }
                }
            }
        };
        let Some((user, message)) = next else { continue };
        let place = Place { lane, user, ended: ended.clone() };
        let (serving, stop) = (Arc::clone(&shared), stop.clone());
        shared.tracker.spawn(async move {
            stop.run_until_cancelled(Box::pin(serving.serve(&message))).await;
            drop(place);
        });
    }
}

/// Answers that are held back while nothing changes: at most half of the requests that may be under way, so that the others
/// are answered at once.
#[derive(Default)]
pub(super) struct Waits {
    /// No await happens under this lock.
    held: Mutex<BTreeMap<UserName, usize>>,
}

/// An answer that is held back, until it is dropped.
pub(super) struct Held<'a> {
    waits: &'a Waits,
    user: UserName,
}

impl Waits {
    /// None where too many are held back already, in all or of this user: then it is answered at once.
    pub(super) fn hold(&self, user: &UserName) -> Option<Held<'_>> {
        let mut held = lock(&self.held);
        if held.values().sum::<usize>() >= REQUESTS.in_all / 2 {
            return None;
        }
        let own = held.entry(user.clone()).or_default();
        if *own >= REQUESTS.of_user / 2 {
            return None;
        }
        *own += 1;
        Some(Held { waits: self, user: user.clone() })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut held = lock(&self.waits.held);
        if let Some(own) = held.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_s_answers_that_are_held_back_leave_room_for_others() {
        let [ann, bob] = ["ann", "bob"].map(|name| UserName::new(name).unwrap());
        let waits = Waits::default();
        let mut anns: Vec<Held<'_>> = std::iter::from_fn(|| waits.hold(&ann)).collect();
        assert_eq!(anns.len(), REQUESTS.of_user / 2);
        assert!(waits.hold(&bob).is_some());
        anns.pop();
        assert!(waits.hold(&ann).is_some(), "one that is dropped counts no more");
        drop(anns);
        assert!(lock(&waits.held).is_empty());
    }
}
