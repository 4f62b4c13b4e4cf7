//! The task that owns what is wanted, what was seen and what is being done about it.
//!
//! It never waits for the runtime: a look at it and the acts on each deployment are tasks of their own
//! that hand back what came of them, so one stuck container or slow download holds up nothing else. A
//! deployment that is being acted on is planned again only from a look that began after the act ended.

mod change;
mod leaving;
mod recall;
mod restarts;

use super::act::{Act, InterpretError, Progress, Work};
use super::effort::{Effort, target};
use super::feed::Offer;
use super::health::{Checks, Findings};
use super::intake::{Intake, KeyName};
use super::judge::{self, Evidence, seen_service, wanted};
use super::ledger::Ledger;
use super::pace::Pace;
use super::policy::Policy;
use super::ports::{ContainerRuntime, ManagedService, RuntimeError, ServiceSpec, ServiceState};
use super::report::Statuses;
use super::score;
use super::store::Store;
use crate::model::id::{ContainerName, DeploymentName, DeviceId};
use crate::model::workload::{ContainerEnd, Desired};
use crate::plan::backoff;
use crate::plan::reconcile::{self, Known, SeenService, Step, WantedService};
use crate::plan::restart::SETTLED;
use crate::support::chain::Chain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the runtime is looked at although it tells of no change: podman loses events.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// The pause after a look that failed.
const LOOK_RETRY: Duration = Duration::from_secs(1);
/// How many looks in a row may fail before statuses tell of it.
const PATIENCE: u32 = 3;
/// How many lines of progress may wait for the reconciler.
const PROGRESS: usize = 64;

/// What a task of the reconciler ended with.
enum Done {
    Looked(Result<Vec<ManagedService>, RuntimeError>),
    Acted { deployment: DeploymentName, set: String, ledger: Box<Ledger>, result: Result<(), InterpretError> },
    Ended { deployment: DeploymentName, service: ContainerName, end: Option<ContainerEnd>, why: Why },
}

/// What the evidence of a container's end is read for.
enum Why {
    /// It ended for good.
    Told,
    /// It is started again.
    Restart(restarts::End),
    /// It fails the change that brought it, for this cause.
    Condemned(String),
}

/// The reconciler.
pub struct Reconciler<R> {
    runtime: Arc<R>,
    intake: Intake,
    store: Store,
    boot_id: String,
    device: String,
    statuses: watch::Sender<Statuses>,
    tasks: JoinSet<Done>,
    progress: (mpsc::Sender<Progress>, mpsc::Receiver<Progress>),
    /// What the health task is to check, and what it found.
    checks: watch::Sender<Checks>,
    findings: watch::Receiver<Findings>,
    efforts: BTreeMap<DeploymentName, Effort>,
    /// What was done for each deployment; that of one being acted on is a copy, as the act last told it.
    ledgers: BTreeMap<DeploymentName, Ledger>,
    pace: Pace,
    seen: Option<Vec<ManagedService>>,
    /// The ids of the containers that the file tells of, while it tells of all.
    kept: Option<BTreeSet<String>>,
    looking: bool,
    look_wanted: bool,
    looks: u64,
    /// The number of the look that saw what was seen.
    seen_at: u64,
    failed_looks: u32,
    look_at: Instant,
}

impl<R: ContainerRuntime> Reconciler<R> {
    /// A reconciler of `device` in its boot `boot_id` that has not looked yet.
    pub fn new(
        device: &DeviceId,
        boot_id: String,
        runtime: Arc<R>,
        store: Store,
        policy: Policy,
        statuses: watch::Sender<Statuses>,
        health: (watch::Sender<Checks>, watch::Receiver<Findings>),
    ) -> Self {
        Self {
            runtime,
            intake: Intake::open(store.clone(), policy),
            ledgers: store.ledgers(),
            store,
            boot_id,
            device: device.to_string(),
            statuses,
            tasks: JoinSet::new(),
            progress: mpsc::channel(PROGRESS),
            checks: health.0,
            findings: health.1,
            efforts: BTreeMap::new(),
            pace: Pace::begin(),
            seen: None,
            kept: None,
            looking: false,
            look_wanted: true,
            looks: 0,
            seen_at: 0,
            failed_looks: 0,
            look_at: Instant::now(),
        }
    }

    /// Looks in step with the rest of the agent.
    pub fn paced(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Runs until the agent ends. Containers are left as they are; acts under way are broken off, and
    /// taken up again by the next start's first look.
    pub async fn run(
        mut self,
        mut offers: mpsc::Receiver<Offer>,
        wake: &Notify,
        shutdown: CancellationToken,
    ) {
        self.recall();
        loop {
            self.look_when_wanted();
            let next = self.next_time();
            tokio::select! {
                () = shutdown.cancelled() => return,
                offer = offers.recv() => match offer {
                    Some(offer) => self.take(offer),
                    None => return,
                },
                () = wake.notified() => self.look_wanted = true,
                () = tokio::time::sleep_until(next) => self.look_wanted = true,
                Some(progress) = self.progress.1.recv() => self.progressed(progress),
                Ok(()) = self.findings.changed() => self.look_wanted = true,
                Some(done) = self.tasks.join_next() => match done {
                    Ok(done) => self.done(done),
                    Err(error) => tracing::error!(%error, "a task of the reconciler failed"),
                },
            }
        }
    }

    fn look_when_wanted(&mut self) {
        let paused = self.failed_looks > 0 && Instant::now() < self.look_at;
        if !self.look_wanted || self.looking || paused {
            return;
        }
        self.look_wanted = false;
        self.looking = true;
        self.looks += 1;
        let runtime = Arc::clone(&self.runtime);
        self.tasks.spawn(async move { Done::Looked(runtime.list_managed_services().await) });
    }

    fn next_time(&self) -> Instant {
        let now = Instant::now();
        let retries = self.efforts.values().flat_map(Effort::due).filter(|at| *at > now);
        let look = if self.looking { now + LOOK_INTERVAL } else { self.look_at };
        retries.chain([look]).min().unwrap_or(look)
    }

    fn take(&mut self, offer: Offer) {
        // Each key is read again and again: what it held before changes nothing.
        let is_new = match &offer.key {
            KeyName::Index => true,
            KeyName::Deployment(name) => {
                let known = self.intake.records().get(name);
                known.is_none_or(|record| record.revision != offer.entry.revision)
            }
        };
        match self.intake.take(offer.key, &offer.entry, offer.source) {
            Ok(names) => {
                // The feed may have been cut off meanwhile; what was taken is taken.
                let _ = offer.taken.send(names);
                if is_new {
                    self.look_wanted = true;
                    self.report();
                }
            }
            Err(error) => tracing::error!(error = %Chain(&error), "cannot keep desired state"),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Looked(Ok(seen)) => {
                self.looking = false;
                self.failed_looks = 0;
                self.look_at = self.pace.next(LOOK_INTERVAL);
                (self.seen, self.seen_at) = (Some(seen), self.looks);
                self.keep_seen();
                self.reconcile();
            }
            Done::Looked(Err(error)) => {
                self.looking = false;
                self.failed_looks += 1;
                self.look_at = Instant::now() + LOOK_RETRY;
                self.look_wanted = true;
                if self.failed_looks == PATIENCE {
                    tracing::warn!(error = %Chain(&error), "the container runtime does not answer");
                }
            }
            Done::Acted { deployment, set, ledger, result } => self.acted(deployment, &set, *ledger, result),
            Done::Ended { deployment, service, end, why } => self.ended(deployment, service, end, why),
        }
        self.report();
    }

    fn progressed(&mut self, progress: Progress) {
        let Progress { deployment, ledger, line, reason } = progress;
        if let Some(effort) = self.efforts.get_mut(&deployment).filter(|effort| effort.busy) {
            (effort.line, effort.line_reason) = (line, reason);
            self.ledgers.insert(deployment, ledger);
            self.report();
        }
    }

    fn keep_ledger(&self, name: &DeploymentName) {
        let Some(ledger) = self.ledgers.get(name) else { return };
        if let Err(error) = self.store.put_ledger(name, ledger) {
            tracing::error!(deployment = %name, error = %Chain(&error), "cannot keep the ledger");
        }
    }

    fn target(&self, name: &DeploymentName) -> Option<&Desired> {
        target(self.intake.records().get(name)?, self.ledgers.get(name))
    }

    fn specs(&self, name: &DeploymentName) -> Option<Vec<ServiceSpec>> {
        Some(score::services(name, self.target(name)?))
    }

    fn reconcile(&mut self) {
        let Some(seen) = self.seen.as_deref() else { return };
        let findings = self.findings.borrow().clone();
        let there: Vec<SeenService> = seen.iter().map(|service| seen_service(service, &findings)).collect();
        let deleted: BTreeSet<DeploymentName> = self
            .intake
            .records()
            .iter()
            .filter(|(_, record)| record.deleted)
            .map(|(name, _)| name.clone())
            .collect();
        let wanted: BTreeMap<DeploymentName, Vec<WantedService>> = self
            .intake
            .records()
            .keys()
            .filter_map(|name| Some((name.clone(), wanted(&self.specs(name)?))))
            .collect();
        for name in wanted.keys() {
            self.turn(name);
        }
        let rested = self.rested(&wanted, &there);
        let listed = self.intake.listed();
        let plan = reconcile::plan(Known {
            listed,
            deleted: &deleted,
            wanted: &wanted,
            seen: &there,
            rested: &rested,
        });
        self.order_checks();
        self.settle(&plan, &wanted, &there);
        for (name, steps) in plan {
            self.begin(name, steps, &there);
        }
        self.clear_broken_off(&there);
        self.forget(&there);
    }

    /// Has every running service checked that says how.
    fn order_checks(&self) {
        let running = self.seen.iter().flatten().filter(|service| service.state == ServiceState::Running);
        let mut specs: BTreeMap<&DeploymentName, Vec<ServiceSpec>> = BTreeMap::new();
        let mut checks = Checks::new();
        for service in running {
            let of = &service.deployment;
            let specs = specs.entry(of).or_insert_with(|| self.specs(of).unwrap_or_default());
            let spec = specs.iter().find(|spec| spec.name == service.name && spec.hash == service.hash);
            if let Some(health) = spec.and_then(|spec| spec.health.clone()) {
                checks.insert(service.id.clone(), health);
            }
        }
        self.checks.send_if_modified(|now| {
            let changed = *now != checks;
            *now = checks;
            changed
        });
    }

    fn turn(&mut self, name: &DeploymentName) {
        let Some(set) = self.target(name).map(score::set) else { return };
        self.efforts.entry(name.clone()).or_default().turn_to(&set);
    }

    fn begin(&mut self, name: DeploymentName, steps: Vec<Step>, there: &[SeenService]) {
        let now = Instant::now();
        let effort = self.efforts.entry(name.clone()).or_default();
        let removes = |step: &Step| matches!(step, Step::Remove { .. } | Step::Discard { .. });
        let removes_only = steps.iter().all(removes);
        let restarting = restarts::restarts(&steps, there);
        // Restarts have waited already, and do not hold up the next change.
        let restarts_only = restarting.len() == steps.len() && !steps.is_empty() && effort.failure.is_none();
        let waits = !removes_only && !restarts_only && effort.not_before.is_some_and(|at| now < at);
        if effort.busy || self.looks < effort.fresh_from || waits {
            return;
        }
        effort.busy = true;
        effort.restarting = restarting;
        if !restarts_only {
            effort.acts += 1;
            effort.not_before = Some(now + backoff::pause(effort.acts));
        }
        self.doubt(&name, &steps);
        let target = self.target(&name);
        let work = Work {
            undo: self.is_undone(&name),
            services: target.map(|target| score::services(&name, target)).unwrap_or_default(),
            inits: target.map(|target| score::inits(&name, target)).unwrap_or_default(),
            set: target.map(score::set).unwrap_or_default(),
            steps,
            failing: self.failing(&name),
            boot_id: self.boot_id.clone(),
            ledger: self.ledgers.get(&name).cloned().unwrap_or_default(),
            deployment: name.clone(),
        };
        let set = self.efforts.get(&name).map(|effort| effort.set.clone()).unwrap_or_default();
        let (runtime, store, progress) =
            (Arc::clone(&self.runtime), self.store.clone(), self.progress.0.clone());
        self.tasks.spawn(async move {
            let act = Act { runtime: &*runtime, store: &store, progress: &progress };
            let (ledger, result) = act.run(work).await;
            Done::Acted { deployment: name, set, ledger: Box::new(ledger), result }
        });
    }

    /// Hands the statuses as they should stand to the reporter. Before the first look nothing is said:
    /// after a restart of the agent, what runs would seem not to.
    fn report(&self) {
        if self.seen.is_none() && self.failed_looks < PATIENCE {
            return;
        }
        let findings = self.findings.borrow();
        let judge = |name: &DeploymentName| {
            let evidence = Evidence {
                intake: &self.intake,
                seen: self.seen.as_deref(),
                runtime_answers: self.failed_looks < PATIENCE,
                findings: &findings,
                effort: self.efforts.get(name),
                judged: self.efforts.get(name).is_none_or(|effort| self.seen_at >= effort.fresh_from),
                ledger: self.ledgers.get(name),
            };
            Some((name.clone(), judge::status(name, &evidence)?))
        };
        let all = self.intake.records().keys().filter_map(judge).collect();
        self.statuses.send_if_modified(|now| {
            let changed = now.as_ref() != Some(&all);
            *now = Some(all);
            changed
        });
    }
}
