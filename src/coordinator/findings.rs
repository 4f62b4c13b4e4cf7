//! What people, runs, checks and trainings say of devices, told to the ledger: `plan::trust` decides what follows from it.

use super::ledger::LedgerError;
use super::lending::Lending;
use super::refusal::Refusal;
use crate::model::health::{Finding, Origin, Sign, Trust};
use crate::model::id::{DeviceId, RunId};
use crate::model::run::{FaultKind, Outcome, RunEvent, RunFact, StepResult, Verdict};
use crate::plan::lease::Caller;
use crate::plan::night::compare::Score;
use crate::plan::trust;
use crate::support::chain::Chain;
use crate::wire::lending::{Flakiness, HealthSaid};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the ledger is asked to take a finding while it is away: a NATS server that died is back sooner.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before it is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest cause that is kept, in characters.
const MAX_CAUSE: usize = 200;

impl Lending {
    /// Whoever holds the device keeps it.
    pub(super) async fn say_health(&self, by: &Caller, said: HealthSaid) -> Result<(), Refusal> {
        let HealthSaid { device, health, reason } = said;
        if reason.as_str().trim().is_empty() {
            return Err(Refusal::new("a change of a device's health has a reason"));
        }
        let reason = format!("{} ({})", reason.as_str(), by.user);
        Ok(self.ledger.device_health(device, health, reason).await?)
    }

    /// Tells what a run, or a training of so many boots, says of its devices. Told twice it counts once.
    pub(super) async fn weigh(
        &self,
        run: &RunId,
        events: &[RunEvent],
        outcome: &Outcome,
        training: Option<u32>,
    ) {
        let started = events.iter().find_map(|event| match &event.fact {
            RunFact::Started { devices, .. } => Some(devices),
            _ => None,
        });
        let devices = started.map_or(&[][..], Vec::as_slice);
        let deadline = Instant::now() + PATIENCE;
        for assigned in devices {
            let device = &assigned.device;
            let blamed = outcome.device.as_ref().is_none_or(|blamed| blamed == device);
            let (verdict, sign) = match training {
                Some(_) => trust::checked(first_fault(events)),
                None => {
                    let sign = trust::sign(outcome, devices.len(), device);
                    (outcome.verdict, sign)
                }
            };
            // Of who was stopped, or was not to blame, nothing is known.
            let silent = matches!(verdict, Verdict::Cancelled | Verdict::Skipped);
            if silent || (sign == Sign::Nothing && !blamed) {
                continue;
            }
            let origin = if training.is_some() { Origin::Training } else { Origin::Run };
            let (of, boots) = (run.to_string(), training.unwrap_or(1));
            let finding = self.finding(origin, of, (verdict, sign), &outcome.reason, boots);
            self.tell(device, finding, deadline).await;
        }
    }

    /// Tells what a check of a device came to.
    pub(super) async fn find(
        &self,
        device: &DeviceId,
        check: String,
        (verdict, sign): (Verdict, Sign),
        cause: &str,
    ) {
        let finding = self.finding(Origin::Check, check, (verdict, sign), cause, 1);
        self.tell(device, finding, Instant::now() + PATIENCE).await;
    }

    fn finding(
        &self,
        origin: Origin,
        of: String,
        (verdict, sign): (Verdict, Sign),
        cause: &str,
        boots: u32,
    ) -> Finding {
        let (cause, at) = (cause.chars().take(MAX_CAUSE).collect(), (self.parts.clock)());
        Finding { origin, of, verdict, sign, cause, boots, at, past: false }
    }

    async fn tell(&self, device: &DeviceId, finding: Finding, deadline: Instant) {
        let taken = async {
            loop {
                match self.ledger.device_finding(device.clone(), finding.clone()).await {
                    Err(LedgerError::Away | LedgerError::Busy) => sleep(AGAIN).await,
                    taken => return taken,
                }
            }
        };
        let error = match timeout_at(deadline, taken).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => LedgerError::Away,
        };
        tracing::warn!(%device, of = finding.of, error = %Chain(&error), "what it came to is not counted");
    }
}

/// None where nothing was seen yet.
pub(super) fn flakiness(trust: &Trust) -> Option<Flakiness> {
    let Score { seen, bad, low, high } = trust::score(trust);
    (seen > 0).then_some(Flakiness { seen, bad, low, high })
}

/// What a run's first fault was.
fn first_fault(events: &[RunEvent]) -> Option<FaultKind> {
    events.iter().find_map(|event| match &event.fact {
        RunFact::Fault { fault } | RunFact::StepEnded { result: StepResult::Fault { fault }, .. } => {
            Some(fault.kind)
        }
        _ => None,
    })
}
