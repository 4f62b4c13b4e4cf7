//! Labs under random events in virtual time, seeded: what must hold of leases is checked at every write, and
//! what must hold of waiting at every moment.
//!
//! - No device is lent twice, nor to whom it does not fit, nor into another's booking; tokens grow (`oracle`).
//! - No satisfiable request waits beyond the stated bound (`waits`); so none is starved, and no two that want
//!   each other's devices stand still.
//! - A free device that the first in the queue could be served with does not lie idle.
//! - A decision that is broken off between any two of its writes comes to the same in the next coordinator.

mod draw;
mod oracle;
mod random;
mod waits;
mod world;

use draw::Habits;
use pilab::model::id::{DeviceId, LeaseId};
use pilab::model::ledger::Key;
use pilab::model::time::{Deadline, Moment};
use pilab::plan::lease::Input;
pub(crate) use random::Random;
use std::collections::BTreeMap;
use std::time::Duration;
pub(crate) use waits::Longest;
use waits::Waits;
use world::World;

/// Events in one lab before the next one is drawn.
const EVENTS_PER_LAB: u64 = 5_000;
/// The resolution of the wall clock, by which bookings start.
const CLOCK: Duration = Duration::from_millis(1);

/// What a simulation saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) labs: u64,
    pub(crate) events: u64,
    pub(crate) decisions: u64,
    pub(crate) grants: u64,
    pub(crate) served_after_waiting: u64,
    pub(crate) crashes: u64,
    pub(crate) reboots: u64,
    pub(crate) clock_steps: u64,
    /// Of the requests that were waiting when a lab was left alone: those whose estimate was kept.
    pub(crate) estimates_kept: u64,
    pub(crate) estimates: u64,
    /// In labs without bookings, whose bound has one term less.
    pub(crate) longest: Longest,
    pub(crate) longest_booked: Longest,
}

/// Draws so many events. Panics when something does not hold that must; the seed is in the message.
pub(crate) fn run(seed: u64, events: u64) -> Tally {
    let mut tally = Tally::default();
    while tally.events < events {
        let seed = seed.wrapping_add(tally.labs);
        let named = Named(seed);
        let mut lab = Lab::new(seed);
        for _ in 0..EVENTS_PER_LAB.min(events - tally.events) {
            lab.event(&mut tally);
        }
        lab.leave_alone(&mut tally);
        tally.labs += 1;
        tally.decisions += lab.world.decisions;
        tally.grants += lab.world.oracle.grants;
        tally.served_after_waiting += lab.waits.served;
        let longest = if lab.habits.bookings { &mut tally.longest_booked } else { &mut tally.longest };
        if lab.waits.longest.thousandths > longest.thousandths {
            *longest = lab.waits.longest;
        }
        drop(named);
    }
    tally
}

/// Names the seed of a lab in which something did not hold.
struct Named(u64);

impl Drop for Named {
    #[expect(clippy::print_stdout, reason = "beside the message of the panic")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the lab was drawn from seed {}", self.0);
        }
    }
}

struct Lab {
    random: Random,
    world: World,
    waits: Waits,
    habits: Habits,
    /// When each device in handover will be ready, on the true clock in nanoseconds.
    ready: BTreeMap<DeviceId, u64>,
    /// When the clock will be right again, likewise.
    right_at: Option<u64>,
    /// The wall clock was stepped in this boot of the host.
    stepped: bool,
    requests: u64,
    pace: Duration,
}

fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap()
}

impl Lab {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let policy = draw::policy(&mut random);
        let devices = 3 + random.below(16);
        let habits = Habits { devices, rough: random.percent(50), bookings: random.percent(50) };
        // From idle to crowded.
        let pace = policy.max_lease / (2 + u32::try_from(random.below(10 * devices)).unwrap());
        let world = World::new(policy);
        let (ready, waits) = (BTreeMap::new(), Waits::default());
        let mut lab =
            Self { random, world, waits, habits, ready, right_at: None, stepped: false, requests: 0, pace };
        lab.put(draw::inventory(&mut Random::new(0), devices));
        lab
    }

    fn event(&mut self, tally: &mut Tally) {
        tally.events += 1;
        let wait = self.random.below(2 * nanos(self.pace));
        self.pass(Duration::from_nanos(wait));
        match self.random.below(1000) {
            0..20 => self.crash(tally),
            20..24 if self.habits.rough => self.reboot(tally),
            24..28 if self.habits.rough => self.step_clock(tally),
            _ => {
                if let Some(input) = self.draw() {
                    self.put(input);
                }
            }
        }
        if self.random.percent(5) {
            self.check_head();
        }
    }

    fn draw(&mut self) -> Option<Input> {
        self.requests += 1;
        draw::input(&mut self.random, &self.world, self.requests, &self.habits)
    }

    fn put(&mut self, input: Input) {
        let disturbs = matches!(input, Input::DeviceHealth { .. } | Input::Inventory { .. });
        // A refusal is an answer like another here.
        let _ = self.world.put(input);
        self.follow(disturbs);
    }

    fn follow(&mut self, disturbed: bool) {
        self.waits.follow(&self.world);
        if disturbed {
            self.waits.disturb(&self.world, false);
        }
        let (now, handover) = (self.world.clocks.true_ns, nanos(self.world.policy().handover));
        let in_handover = self.world.devices().filter(|record| record.handover.is_some());
        let in_handover: Vec<DeviceId> = in_handover.map(|record| record.device.id.clone()).collect();
        self.ready.retain(|id, _| in_handover.contains(id));
        for id in in_handover {
            self.ready.entry(id).or_insert_with(|| now + self.random.below(handover + 1));
        }
    }

    /// Time passes, and what is due is done when it is due.
    fn pass(&mut self, time: Duration) {
        let target = self.world.clocks.true_ns + nanos(time);
        loop {
            self.settle();
            let next = self.next_due().map_or(target, |next| next.min(target));
            self.world.clocks.true_ns = next;
            if self.right_at.is_some_and(|at| at <= next) {
                self.synchronise();
            }
            let ready = self.ready.iter().filter(|(_, at)| **at <= next);
            let ready: Vec<DeviceId> = ready.map(|(id, _)| id.clone()).collect();
            for device in ready {
                self.put(Input::DeviceReady { device });
            }
            if next == target {
                self.settle();
                return;
            }
        }
    }

    fn settle(&mut self) {
        self.world.tick();
        self.follow(false);
    }

    /// When something is due by time alone, on the true clock in nanoseconds.
    fn next_due(&self) -> Option<u64> {
        let now = self.world.clocks.true_ns;
        let wake = self.world.wake().map(|wake| now + nanos(wake));
        assert_ne!(wake, Some(now), "it woke for nothing");
        let ready = self.ready.values().min().copied();
        [wake, ready, self.right_at, self.waits.next()].into_iter().flatten().min()
    }

    fn synchronise(&mut self) {
        self.right_at = None;
        self.world.clocks.synchronised = true;
        self.waits.thaw(self.world.clocks.true_ns);
        self.settle();
        self.waits.disturb(&self.world, self.stepped);
        self.stepped = false;
    }

    /// The coordinator dies between two writes of what follows from an input, or before the first, and starts anew.
    fn crash(&mut self, tally: &mut Tally) {
        tally.crashes += 1;
        self.world.clocks.hear();
        // A device that is ready is what most grants from the queue follow from.
        let ready: Vec<&DeviceId> = self.ready.keys().collect();
        let ready = self.random.pick(&ready).map(|device| Input::DeviceReady { device: (*device).clone() });
        let is_ready = self.random.percent(50);
        let Some(input) = ready.filter(|_| is_ready).or_else(|| self.draw()) else { return };
        let disturbs = matches!(input, Input::DeviceHealth { .. } | Input::Inventory { .. });
        let mut whole = self.world.fork();
        if whole.put(input.clone()).is_err() {
            return;
        }
        let writes = self.random.below(whole.writes() - self.world.writes() + 1);
        let done = self.world.put_first(input.clone(), writes).unwrap();
        self.world.restart();
        self.world.tick();
        if !done {
            // Whoever got no answer asks again.
            let _ = self.world.put(input.clone());
        }
        let (broken, whole) = (self.world.fork().settled(), whole.settled());
        let differ = broken.keys().filter(|key| broken.get(key) != whole.get(key));
        let differ: Vec<String> = differ.map(Key::to_string).collect();
        assert!(broken == whole, "after {writes} writes of {input:?}: {differ:?}");
        self.check_loaded();
        self.follow(disturbs);
    }

    /// The book that is made from the bucket says what the one says that has followed every write.
    fn check_loaded(&self) {
        let (loaded, now) = (self.world.fork(), self.world.now());
        let seen = |world: &World| {
            let book = &world.book;
            let usage: Vec<_> = (0..draw::USERS).map(|user| book.usage(&draw::user(user))).collect();
            let rows = book.queue(&now.moment);
            let rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
            let leases: Vec<String> = book.leases().map(|lease| format!("{lease:?}")).collect();
            let devices: Vec<String> = book.devices().map(|device| format!("{device:?}")).collect();
            (usage, rows, leases, devices, book.wake(&now))
        };
        assert_eq!(seen(&self.world), seen(&loaded));
    }

    /// The host boots again; its wall clock is right after a while.
    fn reboot(&mut self, tally: &mut Tally) {
        tally.reboots += 1;
        self.waits.freeze(self.world.clocks.true_ns);
        self.world.clocks.reboot();
        self.world.restart();
        self.right_at = Some(self.world.clocks.true_ns + self.random.below(nanos(self.pace) * 8));
        self.settle();
    }

    fn step_clock(&mut self, tally: &mut Tally) {
        tally.clock_steps += 1;
        let step_ms = i64::try_from(self.random.below(7_200_000)).unwrap() - 3_600_000;
        self.world.clocks.wall_ahead_ms += step_ms;
        self.stepped = true;
        self.settle();
        self.waits.disturb(&self.world, true);
    }

    /// The first that can be served at all is not kept waiting for what is free.
    fn check_head(&self) {
        let line = self.world.queued().filter(|queued| queued.booked.is_none());
        let satisfiable = line.filter(|queued| oracle::is_satisfiable(&self.world, &queued.request));
        let Some(first) = satisfiable.min_by_key(|queued| queued.rank) else { return };
        assert!(!oracle::could_be_served(&self.world, &first.request), "nobody serves {first:?}");
    }

    /// Nobody comes and nobody gives back early until the queue is empty but for what can not be met: no deadlock.
    /// Counts those who were served when it was told.
    fn leave_alone(&mut self, tally: &mut Tally) {
        if let Some(at) = self.right_at {
            self.pass(Duration::from_nanos(at.saturating_sub(self.world.clocks.true_ns)));
        }
        let now: Moment = self.world.clocks.moment();
        let began = self.world.clocks.true_ns;
        let told: Vec<(LeaseId, Option<Duration>)> = self
            .world
            .book
            .queue(&now)
            .into_iter()
            .filter(|row| oracle::is_satisfiable(&self.world, row.request))
            .map(|row| (row.request.id.clone(), row.estimate))
            .collect();
        let last = self.world.book.leases().map(|(_, deadline): (_, Deadline)| deadline.left(&now)).max();
        let turn = self.world.policy().max_lease + self.world.policy().handover;
        let mut left = told.clone();
        let limit = turn * u32::try_from(told.len() + 2).unwrap()
            + self.world.policy().booking_ahead
            + last.flatten().unwrap_or_default();
        while !left.is_empty() {
            self.settle();
            let next = self.next_due().unwrap_or(u64::MAX) - self.world.clocks.true_ns;
            self.pass(Duration::from_nanos(next));
            let passed = Duration::from_nanos(self.world.clocks.true_ns - began);
            assert!(passed <= limit, "still waiting: {left:?}");
            let waits: Vec<LeaseId> = self.world.queued().map(|queued| queued.request.id.clone()).collect();
            left.retain(|(id, estimate)| {
                let waits = waits.contains(id);
                if !waits {
                    tally.estimates += 1;
                    let kept = estimate.is_some_and(|told| passed <= told + CLOCK);
                    tally.estimates_kept += u64::from(kept);
                }
                waits
            });
        }
    }
}
