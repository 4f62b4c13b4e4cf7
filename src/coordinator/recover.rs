//! Runs whose coordinator died end all the same. What becomes of each, `plan::recovery` decides.
//!
//! What their devices' journals say that had not been read when the coordinator died is read now, so that a panic of the
//! product is not called the lab's. The devices go back through the handover, like those of any lease that ends.

use super::bundle::{Evidence, Writing};
use super::evidence::{Span, files};
use super::follow::follow_after;
use super::lending::Lending;
use super::log::RunLog;
use super::runner::FOLLOW_TIMEOUT;
use super::runs::RunRecord;
use super::service::Shared;
use crate::bus::error::BusError;
use crate::device::DeviceHandle;
use crate::journal::{Cursor, Entry, Item, Since};
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::id::{DeviceId, LeaseId, RunId};
use crate::model::run::{Fault, FaultKind, RunEvent, RunFact, Verdict};
use crate::plan::recovery::{self, Next};
use crate::plan::retry::{self, Attempt, Policy};
use crate::plan::verdict;
use crate::support::chain::Chain;
use crate::support::clock;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A run that ended because its coordinator died is tried again once, whatever its own user does about faults of the lab.
const AGAIN: Policy = Policy { device: 0, lab: 1, attempt: Duration::ZERO, cap: Duration::MAX };

impl Shared {
    /// Takes over the runs of the coordinator before this one. When this returns, whoever follows one of them is answered.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<(), BusError> {
        let going = self.kept_runs.going().await?;
        self.kept_runs.prune(&going.iter().map(|record| record.run.clone()).collect());
        // A run's lease bears its name.
        let runs = going.iter().filter_map(|record| LeaseId::new(record.run.as_str()).ok()).collect();
        self.lending.adopt(runs).await;
        for record in going {
            let events = self.kept_runs.events(&record.run);
            let next = recovery::next(record.started, &events);
            let log = self.restore(&record, events);
            tracing::info!(run = %record.run, ?next, "a run of the coordinator before this one");
            match next {
                Next::Resume => self.spawn_run(record, log),
                Next::Over(outcome) => {
                    // Before anybody is answered: who has heard of its end asks for its bundle next.
                    let writing = self.bundles.begin(&record.run);
                    self.tracker_spawn(|shared| async move {
                        let (events, training) = (log.events().await, record.training);
                        // It may have died before it had told that.
                        shared.lending.weigh(&record.run, &events, &outcome, training).await;
                        shared.finish(record, log, writing).await;
                    });
                }
                Next::Judge { died } => {
                    let writing = self.bundles.begin(&record.run);
                    self.tracker_spawn(|shared| async move {
                        shared.end_dead(record, log, died, writing).await;
                    });
                }
            }
        }
        Ok(())
    }

    /// Ends a run that had its devices.
    async fn end_dead(
        self: Arc<Self>,
        record: RunRecord,
        log: Arc<RunLog>,
        died: Option<String>,
        writing: Writing,
    ) {
        let run = &record.run;
        if log.events().await.is_empty() {
            let steps = record.scenario.steps.iter().map(|step| step.name.clone()).collect();
            log.push(RunFact::Queued { scenario: record.scenario.name.clone(), steps }).await;
        }
        let spans = self.read_on(&log, run).await;
        // Read on, a panic may be known by now that came before; the fault's place is after all that.
        if let Some(cause) = &died {
            let fault = Fault { kind: FaultKind::Lab, cause: cause.clone(), device: None };
            log.push(RunFact::Fault { fault }).await;
        }
        if let Ok(lease) = LeaseId::new(run.as_str()) {
            self.lending.give_back(&record.owner, &lease).await;
        }
        let events = log.events().await;
        let outcome = verdict::judge(record.scenario.under_test, &events);
        note_end(&self.lending, &spans, run, outcome.verdict).await;
        let next = match died {
            Some(_) => self.again(&record, outcome.verdict, &log).await,
            None => None,
        };
        let began = log.events().await.first().map_or(0.0, |first| clock::stamp().seconds_since(&first.at));
        log.push(RunFact::Ended { outcome: outcome.clone(), took: began, next }).await;
        self.lending.weigh(&record.run, &events, &outcome, record.training).await;
        self.finish(record, log, writing).await;
    }

    /// The bundle of a run that has ended, and the end of its record.
    async fn finish(self: Arc<Self>, record: RunRecord, log: Arc<RunLog>, writing: Writing) {
        if !self.bundles.has(&record.run) {
            let events = log.events().await;
            let (mut spans, mut lost) = (Vec::new(), Vec::new());
            for (id, attempt) in devices(&events) {
                let found = match self.lending.device(&id) {
                    Some(device) => span(&device.handle, attempt, &record.run).await,
                    None => None,
                };
                match found {
                    Some(span) => spans.push(span),
                    None => lost.extend(files(&id)),
                }
            }
            writing.write(Evidence { scenario: record.scenario.clone(), events, spans, lost }).await;
        }
        self.kept_runs.forget(&record).await;
        self.put_away(&record.run).await;
    }

    /// Reads what the journals of the run's devices say beyond what is in the log. Answers the devices.
    async fn read_on(&self, log: &Arc<RunLog>, run: &RunId) -> Vec<DeviceHandle> {
        let mut handles = Vec::new();
        let events = log.events().await;
        for (id, attempt) in devices(&events) {
            let Some(device) = self.lending.device(&id) else { continue };
            let handle = device.handle.clone();
            let Some(first) = began(&handle, attempt, run).await else { continue };
            let now = handle.state().borrow().attempt;
            let over = handle.journal().event(now, Event::RunOver { run: run.to_string() }).await;
            if let Err(error) = over {
                tracing::warn!(device = %id, error = %Chain(&error), "the journal was not written");
                continue;
            }
            let known = events.iter().filter(|event| is_of(event, &id)).count();
            let reading = follow_after(handle.clone(), first, Arc::clone(log), known);
            if timeout(FOLLOW_TIMEOUT, reading).await.is_err() {
                tracing::warn!(%run, device = %id, "the journal was not followed to the run's end");
            }
            handles.push(handle);
        }
        handles
    }

    /// Begins the run that tries again, if one is to. Its name follows from this one's: it is begun once, whoever dies.
    async fn again(self: &Arc<Self>, record: &RunRecord, verdict: Verdict, log: &RunLog) -> Option<RunId> {
        let devices: Vec<DeviceId> = devices(&log.events().await).into_iter().map(|(id, _)| id).collect();
        let attempts = vec![
            Attempt { verdict, devices };
            usize::try_from(record.attempt).unwrap_or(usize::MAX).min(100)
        ];
        let retry::Next::Try { .. } = retry::next(&AGAIN, &attempts, Duration::ZERO) else { return None };
        let run = RunId::new(format!("{}-r{}", record.run, record.attempt + 1)).ok()?;
        let RunRecord { owner, scenario, options, attempt, training, .. } = record.clone();
        let record = RunRecord::new(run.clone(), owner, scenario, options, attempt + 1);
        let record = record.trains(training);
        match self.kept_runs.accept(&record).await {
            Ok(true) => {
                let log = self.restore(&record, Vec::new());
                self.spawn_run(record, log);
            }
            // The coordinator before this one had begun it: it is among those that are taken over.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%run, error = %Chain(&error), "a run is not tried again");
                return None;
            }
        }
        Some(run)
    }
}

/// The run's devices, each with the boot attempt in which it got it; none of one of which nothing is known.
fn devices(events: &[RunEvent]) -> Vec<(DeviceId, BootAttempt)> {
    let mut found: Vec<(DeviceId, BootAttempt)> = Vec::new();
    for event in events {
        if let RunFact::Started { devices, .. } = &event.fact {
            found.extend(devices.iter().map(|device| (device.device.clone(), BootAttempt(0))));
        }
        if let RunFact::Device { device, attempt, event: Event::RunStarted { .. } } = &event.fact
            && let Some((_, known)) = found.iter_mut().find(|(id, _)| id == device)
        {
            *known = *attempt;
        }
    }
    found
}

/// Whether the event was read from the device's journal.
fn is_of(event: &RunEvent, device: &DeviceId) -> bool {
    matches!(&event.fact, RunFact::Device { device: of, .. } | RunFact::Stage { device: of, .. } if of == device)
}

/// The number of the record that says that the run began.
async fn began(device: &DeviceHandle, attempt: BootAttempt, run: &RunId) -> Option<u64> {
    let cursor = device.journal().cursor(Since::Attempt(attempt));
    find(cursor, |event| matches!(event, Event::RunStarted { run: of } if of == run.as_str())).await
}

async fn span(device: &DeviceHandle, attempt: BootAttempt, run: &RunId) -> Option<Span> {
    let first = began(device, attempt, run).await?;
    let cursor = device.journal().cursor(Since::Sequence(first));
    let last =
        find(cursor, |event| matches!(event, Event::RunEnded { run: of, .. } if of == run.as_str())).await?;
    Some(Span { device: device.id().clone(), journal: device.journal().clone(), first, last })
}

async fn find(mut cursor: Cursor, is_it: impl Fn(&Event) -> bool) -> Option<u64> {
    loop {
        match cursor.next_written().await {
            Ok(Some(Item::Record(record))) => {
                if let Entry::Event(event) = &record.entry
                    && is_it(event)
                {
                    return Some(record.sequence);
                }
            }
            Ok(Some(Item::Missing { .. })) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Marks the verdict in the devices' journals.
async fn note_end(lending: &Lending, devices: &[DeviceHandle], run: &RunId, verdict: Verdict) {
    for device in devices {
        let attempt = device.state().borrow().attempt;
        let ended = Event::RunEnded { run: run.to_string(), verdict: verdict.to_string() };
        if let Err(error) = device.journal().event(attempt, ended).await {
            tracing::warn!(lab = %lending.parts.lab, device = %device.id(), error = %Chain(&error), "the journal was not written");
        }
    }
}
