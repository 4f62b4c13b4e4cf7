//! Where journals write what waits for nothing but the page cache: one blocking call for all that is there to be written,
//! of all journals, for a call each wakes a thread each.
//!
//! What waits for the disk, a flush or a new segment, has a call of its own: it would keep the others waiting. Console bytes
//! wait a moment for those of other consoles, and so that a call has more to do; anything else that is written meanwhile takes
//! them along at once.

use crate::support::lock::lock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// How long console bytes wait for others: with the timer's own millisecond at most two.
const GATHER: Duration = Duration::from_millis(1);

/// Does its part of the work; what that gives tells whoever waits for it.
type Job = Box<dyn FnOnce() -> Told + Send>;
type Told = Box<dyn FnOnce() + Send>;

/// What is to be done. A journal has one job at a time, so there are at most as many as journals.
static LANE: Mutex<Lane> = Mutex::new(Lane { jobs: Vec::new(), state: State::Idle });

struct Lane {
    jobs: Vec<Job>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// Somebody who waits will begin.
    Gathers,
    /// A call is on its way or at work.
    Called,
}

/// Whether a job may wait for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    Now,
    Soon,
}

/// Does `work` in a blocking thread. None when it panicked.
pub(super) async fn run<T: Send + 'static>(
    haste: Haste,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = oneshot::channel();
    let job: Job = Box::new(move || {
        let worked = work();
        Box::new(move || {
            // Whoever does not wait any more has lost nothing.
            let _ = done.send(worked);
        })
    });
    let before = {
        let mut lane = lock(&LANE);
        lane.jobs.push(job);
        let before = lane.state;
        lane.state = match (before, haste) {
            (State::Called, _) | (_, Haste::Now) => State::Called,
            (State::Idle | State::Gathers, Haste::Soon) => State::Gathers,
        };
        before
    };
    match (before, haste) {
        (State::Called, _) | (State::Gathers, Haste::Soon) => {}
        (State::Idle | State::Gathers, Haste::Now) => call(Call),
        (State::Idle, Haste::Soon) => {
            let turn = Turn;
            sleep(GATHER).await;
            drop(turn);
        }
    }
    result.await.ok()
}

fn call(call: Call) {
    tokio::task::spawn_blocking(move || drop(call));
}

/// Begins a call when it is dropped, unless another has begun one meanwhile: also where a task ends while it waits.
struct Turn;

impl Drop for Turn {
    fn drop(&mut self) {
        let begins = {
            let mut lane = lock(&LANE);
            let begins = lane.state == State::Gathers;
            if begins {
                lane.state = State::Called;
            }
            begins
        };
        if begins {
            match tokio::runtime::Handle::try_current() {
                Ok(_) => call(Call),
                Err(_) => drop(Call),
            }
        }
    }
}

/// Does all jobs that are there, when it is dropped: by the blocking thread, or by a runtime that ends before it came to it.
struct Call;

impl Drop for Call {
    fn drop(&mut self) {
        loop {
            let jobs = {
                let mut lane = lock(&LANE);
                let jobs = std::mem::take(&mut lane.jobs);
                if jobs.is_empty() {
                    lane.state = State::Idle;
                }
                jobs
            };
            if jobs.is_empty() {
                return;
            }
            // A panic is told by its own message, and by the answer that does not come.
            let worked: Vec<Told> =
                jobs.into_iter().filter_map(|job| catch_unwind(AssertUnwindSafe(job)).ok()).collect();
            // All at once, so that those who wait wake once.
            for told in worked {
                told();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_done_and_a_panic_harms_no_other() {
        let jobs = (0..100).map(|number| {
            run(if number % 3 == 0 { Haste::Now } else { Haste::Soon }, move || {
                assert_ne!(number, 7);
                number
            })
        });
        let done = futures_util::future::join_all(jobs).await;
        let expected: Vec<Option<i32>> = (0..100).map(|number| (number != 7).then_some(number)).collect();
        assert_eq!(done, expected);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nothing_behind() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .max_blocking_threads(1)
                .build()
                .unwrap()
        };
        let first = runtime();
        let (free, held) = std::sync::mpsc::sync_channel::<()>(0);
        // The only blocking thread is taken, so the call waits until the runtime has ended.
        first.spawn_blocking(move || held.recv());
        let (done, mut result) = oneshot::channel();
        first.block_on(async {
            let waits = run(Haste::Now, move || done.send(1));
            assert!(futures_util::FutureExt::now_or_never(waits).is_none());
        });
        first.shutdown_background();
        free.send(()).unwrap();
        let second = runtime().block_on(run(Haste::Soon, || 2));
        assert_eq!((second, result.try_recv()), (Some(2), Ok(1)));
    }
}
