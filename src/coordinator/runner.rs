//! One run, from its devices to its verdict: acquire, boot, steps, cleanup, hand back.

use super::bundle::{Bundles, Evidence};
use super::evidence::Span;
use super::fallback;
use super::follow::follow;
use super::lending::{Denied, Grant, Lending};
use super::log::RunLog;
use super::parts::{BootImage, Parts};
use super::phases;
use super::runs::{RunRecord, Runs};
use super::session::{Seat, Session};
use crate::device::DeviceError;
use crate::model::event::Event;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::run::{AssignedDevice, Fault, FaultKind, Outcome, RunFact, StepResult};
use crate::model::scenario::{Need, Scenario, Step};
use crate::plan::{verdict, warm};
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use crate::wire::request::RunOptions;
use futures_util::future::{join_all, try_join_all};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the journals' readers may take to get to the run's end.
pub(super) const FOLLOW_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one act of handing a device back may take: libvirt and the NATS server answer within seconds
/// or, when they are gone, never. A device that was not switched off is found so by its next boot.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(30);

/// What a run needs beside its devices.
pub(super) struct Runner {
    pub(super) parts: Arc<Parts>,
    pub(super) lending: Arc<Lending>,
    pub(super) bundles: Arc<Bundles>,
    pub(super) runs: Arc<Runs>,
    pub(super) record: RunRecord,
    pub(super) user: UserName,
    pub(super) log: Arc<RunLog>,
    pub(super) scenario: Scenario,
    pub(super) options: RunOptions,
}

/// Devices that stay up beyond their run.
pub(super) struct Kept {
    /// They are nobody else's until this is dropped.
    pub(super) grant: Grant,
    /// How to enter and to remove them.
    pub(super) lines: Vec<String>,
}

impl Runner {
    /// Runs to the end; the last fact that it logs is [`RunFact::Ended`], and then it writes the bundle. Devices that are kept go to
    /// `kept` before that, so that whoever knows of the end can learn of them.
    pub(super) async fn run(self, kept: impl FnOnce(Kept)) {
        // One that a coordinator before this one has queued is queued.
        if self.log.events().await.is_empty() {
            let names = self.scenario.steps.iter().map(|step| step.name.clone()).collect();
            self.log.push(RunFact::Queued { scenario: self.scenario.name.clone(), steps: names }).await;
        }
        let (grant, needs) = match self.acquire().await {
            Ok(acquired) => acquired,
            Err(denied) => {
                self.log.push(RunFact::Fault { fault: denied_fault(denied) }).await;
                self.end(self.judge().await, Vec::new()).await;
                return;
            }
        };
        let session = self.session(&grant);
        self.runs.started(self.record.clone()).await;
        self.log.push(self.started(&session, needs)).await;
        let (followers, starts) = (TaskTracker::new(), self.begin(&session).await);
        // They end with this.
        let mut phases = JoinSet::new();
        for seat in &session.seats {
            phases.spawn(phases::follow(self.parts.bus.clone(), seat.id().clone(), Arc::clone(&self.log)));
        }
        for (seat, from) in session.seats.iter().zip(&starts) {
            if let Some(from) = from {
                followers.spawn(follow(seat.device.clone(), *from, Arc::clone(&self.log)));
            }
        }
        self.drive(&session, &grant.lost).await;
        phases.shutdown().await;
        if let Err(fault) = self.hand_back(&session).await {
            self.log.push(RunFact::Fault { fault }).await;
        }
        self.over(&session).await;
        followers.close();
        // They end with the records that `over` has written; only then is all there that the run is judged by.
        if timeout(FOLLOW_TIMEOUT, followers.wait()).await.is_err() {
            tracing::warn!(run = %self.log.run(), "the journals were not followed to the run's end");
        }
        let outcome = self.judge().await;
        let spans = self.finish(&session, &outcome, starts).await;
        if self.options.keep {
            let lines = session.seats.iter().flat_map(|seat| {
                let key = lock(&seat.ssh_key);
                (self.parts.keep_lines)(seat.id(), &key)
            });
            kept(Kept { lines: lines.collect(), grant });
        } else {
            self.lending.release(grant).await;
        }
        self.end(outcome, spans).await;
    }

    /// The devices, and the needs that they meet.
    async fn acquire(&self) -> Result<(Grant, Vec<Need>), Denied> {
        let lease = LeaseId::new(self.log.run().as_str()).map_err(|e| Denied::Refused(e.to_string()))?;
        if self.record.training.is_some() {
            let needs = &self.scenario.needs;
            let grant = self.lending.acquire_any(&self.user, lease, needs, self.log.cancel()).await?;
            return Ok((grant, needs.clone()));
        }
        fallback::acquire(&self.lending, &self.user, lease, &self.scenario.needs, self.log.cancel()).await
    }

    /// Marks the run's beginning in each device's journal; answers where.
    async fn begin(&self, session: &Session) -> Vec<Option<u64>> {
        let run = self.log.run().to_string();
        let notes = session.seats.iter().map(|seat| self.note(seat, Event::RunStarted { run: run.clone() }));
        join_all(notes).await
    }

    /// Marks in each device's journal that the run has done what it did.
    async fn over(&self, session: &Session) {
        let run = self.log.run().to_string();
        join_all(session.seats.iter().map(|seat| self.note(seat, Event::RunOver { run: run.clone() }))).await;
    }

    /// Marks the run's verdict in each device's journal; answers what lies between.
    async fn finish(&self, session: &Session, outcome: &Outcome, starts: Vec<Option<u64>>) -> Vec<Span> {
        let mut spans = Vec::new();
        for (seat, first) in session.seats.iter().zip(starts) {
            let (run, verdict) = (self.log.run().to_string(), outcome.verdict.to_string());
            let last = self.note(seat, Event::RunEnded { run, verdict }).await;
            if let (Some(first), Some(last)) = (first, last) {
                let (device, journal) = (seat.id().clone(), seat.device.journal().clone());
                spans.push(Span { device, journal, first, last });
            }
        }
        spans
    }

    fn session(&self, grant: &Grant) -> Session {
        let seats = self.scenario.needs.iter().zip(&grant.devices);
        let seats = seats.map(|(need, device)| Seat {
            first_start: warm::start(&self.scenario, &need.role, self.options.cold),
            ..Seat::new(&need.role, device, grant.held.token)
        });
        let (parts, boot_timeout) = (Arc::clone(&self.parts), self.scenario.boot_timeout);
        let operator = self.lending.operator.clone();
        Session::new(parts, seats.collect(), boot_timeout, operator, grant.held.clone())
    }

    fn started(&self, session: &Session, needs: Vec<Need>) -> RunFact {
        let devices = session.seats.iter().zip(needs).map(|(seat, need)| {
            let device = seat.device.device();
            AssignedDevice {
                role: seat.role.clone(),
                device: device.id.clone(),
                backend: device.backend,
                model: device.model,
                instead: need.instead,
            }
        });
        let image = self.image(session.seats.first().map(Seat::id)).id.clone();
        RunFact::Started { devices: devices.collect(), image }
    }

    /// Boots and steps, until done, a device is lost, or somebody stops the run; then cleanup. What goes wrong is
    /// told in the log.
    async fn drive(&self, session: &Session, lease_lost: &CancellationToken) {
        let work = async {
            try_join_all(session.seats.iter().map(|seat| session.bring_up_bounded(seat)))
                .await
                .map_err(Some)?;
            for (index, step) in self.scenario.steps.iter().enumerate() {
                // The step has told its fault.
                self.step(session, index, step).await.map_err(|_| None)?;
            }
            Ok(())
        };
        // The work is dropped at any of its awaits: what it holds is the devices' and NATS', and handing
        // back undoes that.
        let (fault, lost) = tokio::select! {
            biased;
            () = self.log.cancel().cancelled() => (Some(cancelled()), true),
            () = lease_lost.cancelled() => (Some(lease_ended()), true),
            fault = session.lost() => (Some(self.cause(session, fault).await), true),
            done = work => match done.err().flatten() {
                Some(fault) => (Some(self.cause(session, fault).await), false),
                None => (None, false),
            },
        };
        // Cleanup needs an agent that can act.
        let lost = lost || fault.as_ref().is_some_and(|fault| fault.kind == FaultKind::BootTimeout);
        if let Some(fault) = fault {
            self.log.push(RunFact::Fault { fault }).await;
        }
        if !lost && !self.options.keep {
            self.clean_up(session).await;
        }
    }

    async fn step(&self, session: &Session, index: usize, step: &Step) -> Result<(), Fault> {
        let name = step.name.clone();
        self.log.push(RunFact::StepStarted { step: index, name: name.clone() }).await;
        let begun = Instant::now();
        let done = match session.perform(step).await {
            Err(fault) => Err(self.cause(session, fault).await),
            done => done,
        };
        let result = match &done {
            Ok(seen) => StepResult::Ok { seen: seen.clone() },
            Err(fault) => StepResult::Fault { fault: fault.clone() },
        };
        let took = begun.elapsed().as_secs_f64();
        self.log.push(RunFact::StepEnded { step: index, name, result, took }).await;
        done.map(|_| ())
    }

    /// A fault, or what it came from: a run whose lease has ended loses its devices under its hands, and may see that
    /// before it is told.
    async fn cause(&self, session: &Session, fault: Fault) -> Fault {
        let Ok(lease) = LeaseId::new(self.log.run().as_str()) else { return fault };
        let token = session.held.token;
        let stands = self
            .lending
            .ledger
            .read(move |book, _| book.lease(&lease).is_some_and(|held| held.token == token));
        if stands.await == Ok(false) { lease_ended() } else { fault }
    }

    /// Every cleanup step is done, whatever becomes of the others. No cut outlasts the steps: cleanup needs the agent.
    async fn clean_up(&self, session: &Session) {
        for seat in &session.seats {
            if let Err(fault) = session.restore_network(seat).await {
                self.log.push(RunFact::Fault { fault }).await;
            }
        }
        for (index, step) in self.scenario.cleanup.iter().enumerate() {
            // It has told its fault, if it has one.
            let _ = self.step(session, self.scenario.steps.len() + index, step).await;
        }
    }

    /// Deployments of files forgotten, off, ticket and boot files gone, credentials revoked. A device that is
    /// kept keeps what it has.
    async fn hand_back(&self, session: &Session) -> Result<(), Fault> {
        let mut first = Ok(());
        if !self.options.keep
            && let Err(error) = self.lending.operator.release(session.held.clone()).await
        {
            let cause = format!("cannot end the run's deployments: {}", Chain(&error));
            first = Err(Fault { kind: FaultKind::Lab, cause, device: None });
        }
        for seat in &session.seats {
            // Also for one that is kept: whoever enters it is not to look for a fault that is none.
            first = first.and(session.restore_network(seat).await.map(drop));
            if self.options.keep {
                continue;
            }
            let doing = "switch the device off";
            let off = match timeout(HAND_BACK_TIMEOUT, seat.device.off(seat.token)).await {
                // It is another's already: nothing of it is ours to take away.
                Ok(Err(DeviceError::Fenced(_))) => continue,
                Ok(off) => off.map_err(|e| seat.lab(doing, &e)),
                Err(late) => Err(seat.lab(doing, &late)),
            };
            first = first.and(off).and(session.revoke(seat, None).await);
        }
        first
    }

    async fn judge(&self) -> Outcome {
        verdict::judge(self.scenario.under_test, &self.log.events().await)
    }

    /// Says that the run has ended, and then writes its bundle: whoever asks for that meanwhile is told to wait.
    async fn end(&self, outcome: Outcome, spans: Vec<Span>) {
        let writing = self.bundles.begin(self.log.run());
        let events = self.log.events().await;
        let training = self.record.training;
        let took = events.first().map_or(0.0, |first| clock::stamp().seconds_since(&first.at));
        self.log.push(RunFact::Ended { outcome: outcome.clone(), took, next: None }).await;
        // Not before that: where the disk is full, nats-server takes nothing more behind a write that it cannot store.
        self.lending.weigh(self.log.run(), &events, &outcome, training).await;
        let (scenario, events) = (self.scenario.clone(), self.log.events().await);
        writing.write(Evidence { scenario, events, spans, lost: Vec::new() }).await;
        self.runs.forget(&self.record).await;
    }

    /// What the run's devices boot, by the first of them.
    fn image(&self, device: Option<&DeviceId>) -> &BootImage {
        device.map_or(&self.parts.image, |device| self.parts.image_of(device))
    }

    /// Writes to the device's journal; answers the record's number.
    async fn note(&self, seat: &Seat, event: Event) -> Option<u64> {
        match seat.device.journal().event(seat.attempt(), event).await {
            Ok(receipt) => Some(receipt.sequence),
            Err(error) => {
                tracing::warn!(device = %seat.id(), error = %Chain(&error), "the journal was not written");
                None
            }
        }
    }
}

fn cancelled() -> Fault {
    Fault { kind: FaultKind::Cancelled, cause: "somebody stopped the run".to_owned(), device: None }
}

fn lease_ended() -> Fault {
    let cause = "the run's lease has ended: it was released, given to another, or at its longest".to_owned();
    Fault { kind: FaultKind::Lab, cause, device: None }
}

fn denied_fault(denied: Denied) -> Fault {
    match denied {
        Denied::Cancelled => cancelled(),
        Denied::Refused(cause) => {
            let cause = format!("the lab does not lend the run its devices: {cause}");
            Fault { kind: FaultKind::Lab, cause, device: None }
        }
        Denied::Never { role, cause } => {
            let cause = format!("the need {role:?} cannot be met by this lab: {cause}");
            Fault { kind: FaultKind::Unmet, cause, device: None }
        }
    }
}
