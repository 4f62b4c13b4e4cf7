//! What is being done about one deployment: the act under way, its tries, its probation.

use super::act::InterpretError;
use super::ledger::Ledger;
use super::score;
use super::store::Record;
use crate::model::workload::Desired;
use crate::plan::backoff;
use crate::plan::rollout::{self, Probation, Target};
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

/// What is being done about one deployment.
#[derive(Debug, Default)]
pub(super) struct Effort {
    /// An act, or the reading of evidence for a verdict, is under way.
    pub(super) busy: bool,
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
    /// What the act under way does.
    pub(super) line: String,
    /// The container whose end was asked for last.
    pub(super) evidenced: String,
}

impl Effort {
    /// Turns to another set: what was tried for the one before says nothing about it.
    pub(super) fn turn_to(&mut self, set: &str) {
        if self.set != set {
            let (busy, fresh_from) = (self.busy, self.fresh_from);
            *self = Self { busy, fresh_from, set: set.to_owned(), ..Self::default() };
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
        [self.not_before, self.probation_ends].into_iter().flatten().filter(move |_| waits)
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
