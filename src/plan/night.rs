//! A night's order: which run next, on which devices, so that the last one ends early and no device idles.
//!
//! Longest processing time first (Graham 1969: at most 4/3 of the best length on equal machines): whenever devices are
//! free, the run that is expected to take longest, of those that they meet, goes first. A run that is not expected to
//! end before the deadline is not begun. What became of the attempts decides `plan::retry`.

pub mod calendar;
pub mod compare;

use super::fallback;
use super::place::{Placement, place};
use super::retry::{self, Attempt, Next, Policy};
use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::model::run::Verdict;
use crate::model::scenario::Need;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

/// A run to be done.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its devices.
    pub needs: Vec<Need>,
    /// How long it took before, or is thought to take.
    pub expected: Duration,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin an attempt of a job, by its index, on these devices, one for each need.
    Start {
        /// The job.
        job: usize,
        /// Its devices.
        devices: Vec<DeviceId>,
        /// Why these meet the needs' fallback, when they do.
        because: Option<String>,
        /// How long it may take.
        budget: Duration,
    },
    /// A job ends, or never begins.
    End {
        /// The job.
        job: usize,
        /// How.
        verdict: Verdict,
        /// Why, where no attempt says it.
        cause: Option<String>,
    },
}

/// A night under way. Times count from its beginning.
#[derive(Debug)]
pub struct Night {
    jobs: Vec<Job>,
    devices: Vec<Device>,
    policy: Policy,
    deadline: Duration,
    /// Jobs that wait, the longest first.
    waiting: Vec<usize>,
    running: Vec<Option<Vec<DeviceId>>>,
    /// When each first began: its cap counts from then.
    began: Vec<Option<Duration>>,
    attempts: Vec<Vec<Attempt>>,
    free: BTreeSet<DeviceId>,
}

impl Night {
    /// A night with all its devices free.
    pub fn new(jobs: Vec<Job>, devices: Vec<Device>, policy: Policy, deadline: Duration) -> Self {
        let mut waiting: Vec<usize> = (0..jobs.len()).collect();
        waiting.sort_by_key(|&job| Reverse(jobs.get(job).map(|job| job.expected)));
        let count = jobs.len();
        let free = devices.iter().map(|device| device.id.clone()).collect();
        Self {
            jobs,
            devices,
            policy,
            deadline,
            waiting,
            running: vec![None; count],
            began: vec![None; count],
            attempts: vec![Vec::new(); count],
            free,
        }
    }

    /// Whether every job has ended.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.running.iter().all(Option::is_none)
    }

    /// A job's attempts so far.
    pub fn attempts(&self, job: usize) -> &[Attempt] {
        self.attempts.get(job).map_or(&[], Vec::as_slice)
    }

    /// What can be begun now, and what will never be.
    pub fn next(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        for job in std::mem::take(&mut self.waiting) {
            // While all devices are in use nothing can be begun; what will never be is told when one is free. A night without
            // any device has nothing to wait for.
            let in_use = self.free.is_empty() && !self.devices.is_empty();
            let action = if in_use { None } else { self.consider(job, now) };
            match action {
                Some(action) => actions.push(action),
                None => self.waiting.push(job),
            }
        }
        actions
    }

    /// An attempt has ended; what it used is free.
    pub fn ended(&mut self, job: usize, verdict: Verdict, now: Duration) -> Option<Action> {
        let devices = self.running.get_mut(job).and_then(Option::take)?;
        self.free.extend(devices.iter().cloned());
        self.attempts.get_mut(job)?.push(Attempt { verdict, devices });
        let began = self.began.get(job).copied().flatten().unwrap_or(now);
        match retry::next(&self.policy, self.attempts(job), now.saturating_sub(began)) {
            Next::Try { .. } => {
                // Before all others: its fault is fresh, and another device may tell whose it is.
                self.waiting.insert(0, job);
                None
            }
            Next::Done(_) | Next::TooLate => Some(Action::End { job, verdict, cause: None }),
        }
    }

    /// What becomes of a job that waits; nothing while it goes on waiting.
    fn consider(&mut self, index: usize, now: Duration) -> Option<Action> {
        let job = self.jobs.get(index)?;
        let last = self.attempts(index).last().map(|attempt| attempt.verdict);
        let end = |verdict, cause: String| {
            // A job that was tried has a verdict already.
            let (verdict, cause) = last.map_or((verdict, Some(cause)), |last| (last, None));
            Some(Action::End { job: index, verdict, cause })
        };
        if now.saturating_add(job.expected) > self.deadline {
            let cause = format!(
                "it does not fit into the night: it is thought to take {} s, and {} s are left",
                job.expected.as_secs(),
                self.deadline.saturating_sub(now).as_secs()
            );
            return end(Verdict::Skipped, cause);
        }
        let elapsed = self
            .began
            .get(index)
            .copied()
            .flatten()
            .map_or(Duration::ZERO, |began| now.saturating_sub(began));
        let Next::Try { avoid, strictly, budget } = retry::next(&self.policy, self.attempts(index), elapsed)
        else {
            return end(Verdict::Skipped, "an attempt does not fit under the cap of a run".to_owned());
        };
        let others: Vec<Device> = if avoid.is_empty() {
            Vec::new()
        } else {
            self.devices.iter().filter(|device| !avoid.contains(&device.id)).cloned().collect()
        };
        let pools = match (avoid.is_empty(), strictly) {
            (true, _) => vec![&self.devices],
            (false, true) => vec![&others],
            (false, false) => vec![&others, &self.devices],
        };
        let because = self.missing(&job.needs);
        let substitutes = because.as_deref().and_then(|because| fallback::substitute(&job.needs, because));
        let needs = substitutes.as_ref().unwrap_or(&job.needs);
        let mut never = String::new();
        for pool in pools {
            match place(needs, pool, |id| self.free.contains(id)) {
                Placement::Granted(devices) => {
                    for device in &devices {
                        self.free.remove(device);
                    }
                    *self.running.get_mut(index)? = Some(devices.clone());
                    self.began.get_mut(index)?.get_or_insert(now);
                    // What is left of the night is not an attempt's budget: it was asked for whole.
                    return Some(Action::Start { job: index, devices, because, budget });
                }
                Placement::Wait => return None,
                Placement::Never { role, cause } => {
                    never = format!("the need {role:?} cannot be met by this lab: {cause}");
                }
            }
        }
        end(Verdict::Skipped, never)
    }

    /// Why the needs turn to their fallback, if they have one. A night waits for devices that there are.
    fn missing(&self, needs: &[Need]) -> Option<String> {
        fallback::patience(needs)?;
        match place(needs, &self.devices, |_| false) {
            Placement::Never { cause, .. } => Some(cause),
            Placement::Granted(_) | Placement::Wait => None,
        }
    }
}

/// When a job is thought to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The job.
    pub job: usize,
    /// On which devices.
    pub devices: Vec<DeviceId>,
    /// From when on.
    pub from: Duration,
    /// Until when.
    pub to: Duration,
}

/// A night as it goes when every run takes what is expected and passes: what runs when, and what is left out and why.
pub fn forecast(night: &mut Night) -> (Vec<Planned>, Vec<(usize, String)>) {
    let (mut planned, mut left_out) = (Vec::new(), Vec::new());
    let (mut now, mut running): (Duration, Vec<Planned>) = (Duration::ZERO, Vec::new());
    loop {
        for action in night.next(now) {
            match action {
                Action::Start { job, devices, .. } => {
                    let expected = night.jobs.get(job).map_or(Duration::ZERO, |job| job.expected);
                    running.push(Planned { job, devices, from: now, to: now + expected });
                }
                Action::End { job, cause, .. } => left_out.push((job, cause.unwrap_or_default())),
            }
        }
        let Some(first) = running.iter().enumerate().min_by_key(|(_, run)| run.to).map(|(at, _)| at) else {
            return (planned, left_out);
        };
        let done = running.swap_remove(first);
        now = done.to;
        night.ended(done.job, Verdict::Passed, now);
        planned.push(done);
    }
}

#[cfg(test)]
mod tests;
