//! Thousands of ways in which somebody stands still between the look and the act, in virtual time.

use super::fake::{Act, Bench};
use pilab::model::lease::FencingToken;
use pilab::support::term::{Nanos, Term};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const INTERLEAVINGS: u64 = 10_000;
/// What a mutant is given to be found.
const FEW: u64 = 200;
/// A coordinator's term.
const TERM: Duration = Duration::from_secs(10);

fn token(sequence: u64) -> FencingToken {
    FencingToken { epoch: 1, sequence }
}

fn millis(random: &mut StdRng, below: u64) -> Duration {
    Duration::from_millis(random.random_range(0..below))
}

/// What came of all of them.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    refused: u64,
    effects: u64,
    stale: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn count(&mut self, effects: Vec<(&'static str, bool)>, done: bool) {
        *(if done { &mut self.done } else { &mut self.refused }) += 1;
        for (what, stale) in effects {
            self.effects += 1;
            if stale {
                *self.stale.entry(what).or_default() += 1;
            }
        }
    }
}

/// A holder has looked at its lease, stands still for a while, and acts; meanwhile the lease is given to another. With
/// `raised` the fence stands before anybody is told so, as it must.
async fn holders(seed: u64, count: u64, raised: bool) -> Tally {
    let mut random = StdRng::seed_from_u64(seed);
    let bench = Bench::new(Term::endless(), None).await;
    let mut tally = Tally::default();
    for number in 0..count {
        let (old, new) = (token(2 * number + 1), token(2 * number + 2));
        bench.fake.effects.pace.store(random.random_range(0..8), Ordering::Relaxed);
        let act = Act::ALL[random.random_range(0..Act::ALL.len())];
        let (device, stop) = (bench.device.clone(), millis(&mut random, 40));
        let mut holder = JoinSet::new();
        holder.spawn(async move {
            sleep(stop).await;
            act.perform(&device, old).await
        });
        sleep(millis(&mut random, 120)).await;
        if raised {
            bench.device.fence(new).await.unwrap();
        }
        bench.fake.effects.lost_to(new);
        if random.random_range(0..4) == 0 {
            bench.device.off(new).await.unwrap();
        }
        let done = holder.join_next().await.unwrap().unwrap();
        tally.count(bench.fake.effects.take(), done);
    }
    bench.stop().await;
    tally
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_stood_still_past_its_lease_has_no_effect_any_more() {
    let tally = holders(1, INTERLEAVINGS, true).await;
    println!("{tally:?}");
    assert_eq!(tally.stale, BTreeMap::new());
    assert!(tally.done > INTERLEAVINGS / 10 && tally.refused > INTERLEAVINGS / 10, "{tally:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_fence_stale_effects_of_holders_are_found() {
    let tally = holders(1, FEW, false).await;
    for what in ["power", "offer", "withdraw", "typed", "command"] {
        assert!(tally.stale.contains_key(what), "no stale {what}: {tally:?}");
    }
}

/// A boot clock that goes on while the runtime that looks at it stands still.
#[derive(Clone, Default)]
struct BootClock {
    stopped: Arc<AtomicU64>,
}

impl BootClock {
    fn nanos(&self) -> Nanos {
        let (begun, stopped) = (Instant::now(), self.stopped.clone());
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        Arc::new(move || nanos(begun.elapsed()) + stopped.load(Ordering::Relaxed))
    }
}

/// A coordinator is stopped as a whole at any of its awaits, for longer than its term, and goes on. As long as it
/// runs it writes to its ledger; while it is stopped another takes that. With `terms` each act looks at the term.
fn coordinators(seed: u64, count: u64, terms: bool) -> Tally {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let clock = BootClock::default();
    let (nanos, bench, term) = runtime.block_on(async {
        let nanos = clock.nanos();
        let term = Term::new(nanos.clone());
        let bench = Bench::new(if terms { term.clone() } else { Term::endless() }, Some(nanos.clone())).await;
        (nanos, bench, term)
    });
    let length = u64::try_from(TERM.as_nanos()).unwrap();
    let mut tally = Tally::default();
    for number in 0..count {
        let effects = &bench.fake.effects;
        effects.pace.store(random.random_range(0..8), Ordering::Relaxed);
        let act = Act::ALL[random.random_range(0..Act::ALL.len())];
        let (device, stop) = (bench.device.clone(), millis(&mut random, 40));
        let mut holder = JoinSet::new();
        runtime.block_on(async {
            // What it wrote last, some time ago.
            let until = nanos() + length - u64::try_from(millis(&mut random, 3000).as_nanos()).unwrap();
            term.renew(until);
            effects.until.store(until, Ordering::Relaxed);
            holder.spawn(async move {
                sleep(stop).await;
                act.perform(&device, token(number + 1)).await
            });
            sleep(millis(&mut random, 120)).await;
        });
        // Nothing of it runs now.
        let stopped = TERM + millis(&mut random, 60_000);
        clock.stopped.fetch_add(u64::try_from(stopped.as_nanos()).unwrap(), Ordering::Relaxed);
        let done = runtime.block_on(async { holder.join_next().await.unwrap().unwrap() });
        tally.count(effects.take(), done);
    }
    runtime.block_on(bench.stop());
    tally
}

#[test]
fn a_coordinator_that_stood_still_past_its_term_has_no_effect_any_more() {
    let tally = coordinators(2, INTERLEAVINGS, true);
    println!("{tally:?}");
    assert_eq!(tally.stale, BTreeMap::new());
    assert!(tally.done > INTERLEAVINGS / 10 && tally.refused > INTERLEAVINGS / 10, "{tally:?}");
}

#[test]
fn without_the_term_stale_effects_of_coordinators_are_found() {
    let tally = coordinators(2, FEW, false);
    for what in ["power", "offer", "ticket", "typed", "break"] {
        assert!(tally.stale.contains_key(what), "no stale {what}: {tally:?}");
    }
}
