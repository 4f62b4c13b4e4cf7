//! What is being done about one deployment: the act under way, its tries, its probation.

use super::act::InterpretError;
use super::ledger::Ledger;
use super::score::{self, Reason};
use super::store::Record;
use crate::model::id::ContainerName;
use crate::model::workload::Desired;
use crate::plan::backoff;
use crate::plan::rollout::{self, Probation, Target};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// An act that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: InterpretError,
    /// How many tries have failed in a row.
    pub(super) tries: u32,
    /// How long after it the next one begins.
    pub(super) pause: Duration,
}

/// The pause of a service that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) pause: Duration,
    pub(super) until: Instant,
}

impl Rest {
    /// One that begins now.
    pub(super) fn of(pause: Duration) -> Self {
        Self { pause, until: Instant::now() + pause }
    }
}

/// What is being done about one deployment.
#[derive(Debug, Default)]
pub(super) struct Effort {
    /// An act, or the reading of evidence for a verdict, is under way.
    pub(super) busy: bool,
    /// An act that may make services is under way.
    pub(super) makes: bool,
    /// Only looks from this number on show what the last act did.
    pub(super) fresh_from: u64,
    /// Acts since it last ran settled, and when the next may begin.
    pub(super) acts: u32,
    pub(super) not_before: Option<Instant>,
    /// What the last act failed with.
    pub(super) failure: Option<Failure>,
    /// The set that all this is about.
    pub(super) set: String,
    pub(super) probation: Probation,
    /// When the probation has to be looked at again.
    pub(super) probation_ends: Option<Instant>,
    /// What the act under way does, and what went wrong in it.
    pub(super) line: String,
    pub(super) line_reason: Option<Reason>,
    /// The container whose end was asked for last.
    pub(super) evidenced: String,
    /// The services that ended, and whose end has been counted, until they are started again.
    pub(super) resting: BTreeMap<ContainerName, Rest>,
    /// Those that the act under way starts again.
    pub(super) restarting: BTreeSet<ContainerName>,
    /// Since when services run that ended before.
    pub(super) up_since: BTreeMap<ContainerName, Instant>,
}

impl Effort {
    /// Turns to another set: what was tried for the one before says nothing about it. A service that is in both
    /// goes on as it was.
    pub(super) fn turn_to(&mut self, set: &str) {
        if self.set != set {
            let before = std::mem::take(self);
            *self = Self {
                set: set.to_owned(),
                busy: before.busy,
                fresh_from: before.fresh_from,
                resting: before.resting,
                restarting: before.restarting,
                up_since: before.up_since,
                ..Self::default()
            };
        }
    }

    /// Takes note that an act failed.
    pub(super) fn failed(&mut self, error: InterpretError, seed: &str, now: Instant) {
        let tries = self.failure.as_ref().map_or(0, |failure| failure.tries).saturating_add(1);
        let pause = backoff::retry(tries, seed);
        self.not_before = Some(now + pause);
        self.failure = Some(Failure { error, tries, pause });
    }

    /// When something is due although nothing happens.
    pub(super) fn due(&self) -> impl Iterator<Item = Instant> {
        let waits = !self.busy;
        let restarts = self.resting.values().map(|rest| rest.until);
        [self.not_before, self.probation_ends].into_iter().flatten().chain(restarts).filter(move |_| waits)
    }
}

/// What is to be brought up for a deployment: what is wanted, or, when that is known to fail, the last
/// good one.
pub(super) fn target<'a>(record: &'a Record, ledger: Option<&'a Ledger>) -> Option<&'a Desired> {
    let wanted = record.accepted.as_ref()?;
    let Some(ledger) = ledger.filter(|ledger| !ledger.bad.is_empty()) else { return Some(wanted) };
    let set = score::set(wanted);
    let good = ledger.good.as_ref();
    let good_set = good.map(score::set);
    match rollout::target(&set, ledger.bad(&set).is_some(), good_set.as_deref()) {
        Target::Wanted => Some(wanted),
        Target::Good => good,
    }
}
