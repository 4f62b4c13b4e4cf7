//! One run, from its devices to its verdict: acquire, boot, steps, cleanup, hand back.

use super::bundle;
use super::follow::follow;
use super::log::RunLog;
use super::parts::Parts;
use super::pool::{Denied, Grant, Pool};
use super::session::{Seat, Session};
use crate::journal::cursor::From;
use crate::model::event::Event;
use crate::model::id::RunId;
use crate::model::run::{AssignedDevice, Fault, FaultKind, RunFact, StepResult};
use crate::model::scenario::{Scenario, Step};
use crate::plan::verdict;
use crate::support::chain::Chain;
use crate::support::clock;
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a run needs beside its devices.
pub(super) struct Runner {
    pub(super) parts: Arc<Parts>,
    pub(super) pool: Arc<Pool>,
    pub(super) log: Arc<RunLog>,
    pub(super) scenario: Scenario,
    pub(super) keep: bool,
}

/// A fault and the step, if any, during which it was seen.
type Ended = (Option<Fault>, Option<usize>);

impl Runner {
    /// Runs to the end; the last thing it does is to log [`RunFact::Ended`]. Answers the devices when
    /// they are kept: they are nobody else's until this is dropped.
    pub(super) async fn run(self) -> Option<Grant> {
        let begun = Instant::now();
        let names = self.scenario.steps.iter().map(|step| step.name.clone()).collect();
        self.log.push(RunFact::Queued { scenario: self.scenario.name.clone(), steps: names }).await;
        let grant = match self.pool.acquire(&self.scenario.needs, self.log.cancel()).await {
            Ok(grant) => grant,
            Err(denied) => {
                let fault = denied_fault(denied);
                self.end(&begun, (Some(fault), None), None).await;
                return None;
            }
        };
        let session = self.session(&grant);
        let marks: Vec<_> = session.seats.iter().map(|seat| seat.device.journal().head()).collect();
        let followers = TaskTracker::new();
        let stop = CancellationToken::new();
        self.log.push(self.started(&session)).await;
        for seat in &session.seats {
            let cursor = seat.device.journal().cursor(From::Head);
            followers.spawn(follow(seat.device.clone(), cursor, Arc::clone(&self.log), stop.clone()));
            self.note(seat, Event::RunStarted { run: self.log.run().to_string() }).await;
        }
        let mut ended = self.drive(&session).await;
        if let Err(fault) = self.hand_back(&session).await {
            ended.0.get_or_insert(fault);
        }
        stop.cancel();
        followers.close();
        followers.wait().await;
        self.end(&begun, ended, Some((&session, &marks))).await;
        drop(session);
        self.keep.then_some(grant)
    }

    fn session(&self, grant: &Grant) -> Session {
        let seats = self.scenario.needs.iter().zip(&grant.devices).map(|(need, device)| Seat {
            role: need.role.clone(),
            device: device.clone(),
            token: grant.token,
            credentials: Mutex::default(),
        });
        Session::new(Arc::clone(&self.parts), seats.collect(), self.scenario.boot_timeout)
    }

    fn started(&self, session: &Session) -> RunFact {
        let devices = session.seats.iter().map(|seat| {
            let device = seat.device.device();
            AssignedDevice {
                role: seat.role.clone(),
                device: device.id.clone(),
                backend: device.backend,
                model: device.model,
            }
        });
        RunFact::Started { devices: devices.collect(), image: self.parts.image.id.clone() }
    }

    /// Boots and steps, until done, a panic, or somebody stops the run; then cleanup.
    async fn drive(&self, session: &Session) -> Ended {
        let current = Mutex::new(None);
        let work = async {
            try_join_all(session.seats.iter().map(|seat| session.bring_up(seat))).await?;
            for (index, step) in self.scenario.steps.iter().enumerate() {
                *current.lock().unwrap_or_else(PoisonError::into_inner) = Some(index);
                self.step(session, index, step).await?;
            }
            Ok(())
        };
        let fault = tokio::select! {
            biased;
            () = self.log.cancel().cancelled() => Some(cancelled()),
            fault = session.panic() => Some(fault),
            done = work => done.err(),
        };
        let step = *current.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = fault.as_ref().is_some_and(|fault| {
            matches!(fault.kind, FaultKind::Panic | FaultKind::BootTimeout | FaultKind::Cancelled)
        });
        if gone || self.keep {
            return (fault, step);
        }
        match self.clean_up(session).await {
            Err(late) if fault.is_none() => (Some(late), step),
            _ => (fault, step),
        }
    }

    async fn step(&self, session: &Session, index: usize, step: &Step) -> Result<(), Fault> {
        let name = step.name.clone();
        self.log.push(RunFact::StepStarted { step: index, name: name.clone() }).await;
        let begun = Instant::now();
        let done = session.perform(step).await;
        let result = match &done {
            Ok(seen) => StepResult::Ok { seen: seen.clone() },
            Err(fault) => StepResult::Fault { fault: fault.clone() },
        };
        let took = begun.elapsed().as_secs_f64();
        self.log.push(RunFact::StepEnded { step: index, name, result, took }).await;
        done.map(|_| ())
    }

    /// Every cleanup step is done, whatever becomes of the others; the first fault is answered.
    async fn clean_up(&self, session: &Session) -> Result<(), Fault> {
        let mut first = Ok(());
        for (index, step) in self.scenario.cleanup.iter().enumerate() {
            let done = self.step(session, self.scenario.steps.len() + index, step).await;
            if first.is_ok() {
                first = done;
            }
        }
        first
    }

    /// Off, ticket and boot files gone, credentials revoked. A device that is kept keeps what it has.
    async fn hand_back(&self, session: &Session) -> Result<(), Fault> {
        let mut first = Ok(());
        for seat in &session.seats {
            if self.keep {
                continue;
            }
            let off = seat.device.off(seat.token).await;
            let off = off.map_err(|e| seat.lab("switch the device off", &e));
            let keys = std::mem::take(&mut *seat.credentials.lock().unwrap_or_else(PoisonError::into_inner));
            let mut revoked = Ok(());
            for key in keys {
                revoked = self.parts.issuer.revoke(&key).await;
            }
            let revoked = revoked.map_err(|e| seat.lab("revoke the device's credentials", &e));
            first = first.and(off).and(revoked);
        }
        first
    }

    async fn end(&self, begun: &Instant, ended: Ended, devices: Option<(&Session, &[u64])>) {
        let (fault, step) = ended;
        let outcome = verdict::outcome(self.scenario.under_test, fault.as_ref(), step);
        if let Some((session, _)) = devices {
            for seat in &session.seats {
                let (run, verdict) = (self.log.run().to_string(), outcome.verdict.to_string());
                self.note(seat, Event::RunEnded { run, verdict }).await;
            }
        }
        let at = clock::stamp();
        let fact = RunFact::Ended { outcome, took: begun.elapsed().as_secs_f64() };
        let events = self.log.with(at, fact.clone()).await;
        let consoles: BTreeMap<_, _> = devices
            .into_iter()
            .flat_map(|(session, marks)| session.seats.iter().zip(marks))
            .map(|(seat, mark)| (seat.id().clone(), (seat.device.journal().clone(), *mark)))
            .collect();
        let dir = bundle_dir(&self.parts, self.log.run());
        if let Err(error) = bundle::write(&dir, &self.parts.image, &self.scenario, &events, consoles).await {
            tracing::warn!(run = %self.log.run(), error = %Chain(&error), "the bundle is incomplete");
        }
        self.log.push_at(at, fact).await;
    }

    async fn note(&self, seat: &Seat, event: Event) {
        if let Err(error) = seat.device.journal().event(seat.attempt(), event).await {
            tracing::warn!(device = %seat.id(), error = %Chain(&error), "the journal was not written");
        }
    }
}

/// Where a run's bundle lies.
pub(super) fn bundle_dir(parts: &Parts, run: &RunId) -> PathBuf {
    parts.bundles.join(run.as_str())
}

fn cancelled() -> Fault {
    Fault { kind: FaultKind::Cancelled, cause: "somebody stopped the run".to_owned(), device: None }
}

fn denied_fault(denied: Denied) -> Fault {
    match denied {
        Denied::Cancelled => cancelled(),
        Denied::Never { role, cause } => {
            let cause = format!("the need {role:?} cannot be met by this lab: {cause}");
            Fault { kind: FaultKind::Unmet, cause, device: None }
        }
    }
}
