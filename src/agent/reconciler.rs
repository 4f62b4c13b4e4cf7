//! The task that owns what is wanted, what was seen and what is being done about it.
//!
//! It never waits for the runtime: a look at it and the acts on each deployment are tasks of their own
//! that hand back what came of them, so one stuck container or slow download holds up nothing else. A
//! deployment that is being acted on is planned again only from a look that began after the act ended.

use super::act;
use super::feed::Offer;
use super::intake::Intake;
use super::judge::{self, Evidence, of, seen_service, wanted};
use super::ports::{ContainerRuntime, ManagedService, RuntimeError, ServiceSpec};
use super::report::Statuses;
use super::score::{self, Refusal};
use crate::model::id::DeploymentName;
use crate::plan::backoff;
use crate::plan::reconcile::{self, Known, SeenService, Standing, Step, WantedService};
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
/// How long a deployment must run before its failures are forgotten.
const SETTLED: Duration = Duration::from_secs(60);
/// How many looks in a row may fail before statuses tell of it.
const PATIENCE: u32 = 3;
/// How many lines of a failed service's log are looked at for the last one that says something.
const LOG_LINES: usize = 5;

/// What a task of the reconciler ended with.
enum Done {
    Looked(Result<Vec<ManagedService>, RuntimeError>),
    Acted { deployment: DeploymentName, generation: u64, result: Result<(), Refusal> },
    LogRead { id: String, line: String },
}

/// What is being done about one deployment.
#[derive(Debug, Default)]
struct Effort {
    /// An act is under way.
    busy: bool,
    /// Only looks from this number on show what the last act did.
    fresh_from: u64,
    /// Acts since it last ran settled, and when the next may begin.
    acts: u32,
    not_before: Option<Instant>,
    /// What the last act failed with, for the generation it was for.
    failure: Option<Refusal>,
    generation: u64,
}

/// The reconciler.
pub struct Reconciler<R> {
    runtime: Arc<R>,
    intake: Intake,
    statuses: watch::Sender<Statuses>,
    tasks: JoinSet<Done>,
    efforts: BTreeMap<DeploymentName, Effort>,
    /// The last words of services that ended with a failure, by container id.
    last_words: BTreeMap<String, String>,
    seen: Option<Vec<ManagedService>>,
    looking: bool,
    look_wanted: bool,
    looks: u64,
    failed_looks: u32,
    look_at: Instant,
}

impl<R: ContainerRuntime> Reconciler<R> {
    /// A reconciler that has not looked yet.
    pub fn new(runtime: Arc<R>, intake: Intake, statuses: watch::Sender<Statuses>) -> Self {
        Self {
            runtime,
            intake,
            statuses,
            tasks: JoinSet::new(),
            efforts: BTreeMap::new(),
            last_words: BTreeMap::new(),
            seen: None,
            looking: false,
            look_wanted: true,
            looks: 0,
            failed_looks: 0,
            look_at: Instant::now(),
        }
    }

    /// Runs until the agent ends. Containers are left as they are; acts under way are broken off, and
    /// taken up again by the next start's first look.
    pub async fn run(
        mut self,
        mut offers: mpsc::Receiver<Offer>,
        wake: &Notify,
        shutdown: CancellationToken,
    ) {
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
        let efforts = self.efforts.values().filter(|effort| !effort.busy);
        let retries = efforts.filter_map(|effort| effort.not_before).filter(|at| *at > now);
        let look = if self.looking { now + LOOK_INTERVAL } else { self.look_at };
        retries.chain([look]).min().unwrap_or(look)
    }

    fn take(&mut self, offer: Offer) {
        match self.intake.take(offer.key, &offer.entry, offer.source) {
            Ok(names) => {
                // The feed may have been cut off meanwhile; what was taken is taken.
                let _ = offer.taken.send(names);
                self.look_wanted = true;
                self.report();
            }
            Err(error) => tracing::error!(error = %Chain(&error), "cannot keep desired state"),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Looked(Ok(seen)) => {
                self.looking = false;
                self.failed_looks = 0;
                self.look_at = Instant::now() + LOOK_INTERVAL;
                self.seen = Some(seen);
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
            Done::Acted { deployment, generation, result } => {
                let effort = self.efforts.entry(deployment.clone()).or_default();
                effort.busy = false;
                effort.fresh_from = self.looks + 1;
                if effort.generation == generation {
                    if let Err(Refusal { reason, message }) = &result {
                        tracing::warn!(%deployment, generation, %reason, message, "cannot be brought up");
                    }
                    effort.failure = result.err();
                }
                self.look_wanted = true;
            }
            Done::LogRead { id, line } => {
                self.last_words.insert(id, line);
            }
        }
        self.report();
    }

    fn specs(&self, name: &DeploymentName) -> Option<Vec<ServiceSpec>> {
        let accepted = self.intake.records().get(name)?.accepted.as_ref()?;
        Some(score::services(name, accepted))
    }

    fn reconcile(&mut self) {
        let Some(seen) = self.seen.as_deref() else { return };
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
        let there: Vec<SeenService> = seen.iter().map(seen_service).collect();
        let known = Known { listed: self.intake.listed(), deleted: &deleted, wanted: &wanted, seen: &there };
        let plan = reconcile::plan(known);
        self.settle(&plan, &wanted, &there);
        for (name, steps) in plan {
            self.begin(name, steps);
        }
        self.forget(&there);
        self.read_last_words(&wanted, &there);
    }

    /// Forgets the failures of what has run long enough.
    fn settle(
        &mut self,
        plan: &BTreeMap<DeploymentName, Vec<Step>>,
        wanted: &BTreeMap<DeploymentName, Vec<WantedService>>,
        there: &[SeenService],
    ) {
        let now = Instant::now();
        let looks = self.looks;
        for (name, effort) in &mut self.efforts {
            if effort.busy || looks < effort.fresh_from || plan.contains_key(name) {
                continue;
            }
            let running = wanted.get(name).is_some_and(|wanted| {
                matches!(reconcile::standing(wanted, &of(there, name)), Standing::Running { .. })
            });
            if running && effort.not_before.is_none_or(|at| now >= at + SETTLED) {
                effort.acts = 0;
            }
            // Nothing is left to do, so whatever failed has been overcome.
            effort.failure = None;
        }
    }

    fn begin(&mut self, name: DeploymentName, steps: Vec<Step>) {
        let services = self.specs(&name).unwrap_or_default();
        let accepted = self.intake.records().get(&name).and_then(|record| record.accepted.as_ref());
        let generation = accepted.map_or(0, |accepted| accepted.generation);
        let now = Instant::now();
        let effort = self.efforts.entry(name.clone()).or_default();
        if effort.generation != generation {
            *effort =
                Effort { busy: effort.busy, fresh_from: effort.fresh_from, generation, ..Effort::default() };
        }
        let removes_only = steps.iter().all(|step| matches!(step, Step::Remove { .. }));
        let waits = !removes_only && effort.not_before.is_some_and(|at| now < at);
        if effort.busy || self.looks < effort.fresh_from || waits {
            return;
        }
        effort.busy = true;
        effort.acts += 1;
        effort.not_before = Some(now + backoff::pause(effort.acts));
        let runtime = Arc::clone(&self.runtime);
        self.tasks.spawn(async move {
            let result = act::act(&*runtime, &services, &steps).await;
            Done::Acted { deployment: name, generation, result }
        });
    }

    /// Forgets deployments that are to go and of which nothing is left.
    fn forget(&mut self, there: &[SeenService]) {
        let gone: Vec<DeploymentName> = self
            .intake
            .records()
            .iter()
            .filter(|(name, record)| self.intake.is_to_go(name, record))
            .map(|(name, _)| name.clone())
            .filter(|name| there.iter().all(|service| service.deployment != *name))
            .filter(|name| {
                self.efforts.get(name).is_none_or(|effort| !effort.busy && self.looks >= effort.fresh_from)
            })
            .collect();
        for name in gone {
            match self.intake.forget(&name) {
                Ok(()) => {
                    self.efforts.remove(&name);
                }
                Err(error) => tracing::error!(error = %Chain(&error), "cannot forget a deployment"),
            }
        }
    }

    /// Reads the last line of each service that ended for good with a failure, once.
    fn read_last_words(
        &mut self,
        wanted: &BTreeMap<DeploymentName, Vec<WantedService>>,
        there: &[SeenService],
    ) {
        self.last_words.retain(|id, _| there.iter().any(|service| service.id == *id));
        for (name, wanted) in wanted {
            let Standing::Exited { id, .. } = reconcile::standing(wanted, &of(there, name)) else { continue };
            if self.last_words.contains_key(&id) {
                continue;
            }
            self.last_words.insert(id.clone(), String::new());
            let runtime = Arc::clone(&self.runtime);
            self.tasks.spawn(async move {
                let log = runtime.logs(&id, LOG_LINES).await.unwrap_or_default();
                let line = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                Done::LogRead { line: line.chars().take(200).collect(), id }
            });
        }
    }

    /// Hands the statuses as they should stand to the reporter. Before the first look nothing is said:
    /// after a restart of the agent, what runs would seem not to.
    fn report(&self) {
        if self.seen.is_none() && self.failed_looks < PATIENCE {
            return;
        }
        let judge = |name: &DeploymentName| {
            let evidence = Evidence {
                intake: &self.intake,
                seen: self.seen.as_deref(),
                runtime_answers: self.failed_looks < PATIENCE,
                failure: self.failure(name),
                last_words: &self.last_words,
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

    /// What the last act on a deployment failed with, if it was for the generation that is wanted now.
    fn failure(&self, name: &DeploymentName) -> Option<&Refusal> {
        let accepted = self.intake.records().get(name)?.accepted.as_ref();
        let generation = accepted.map_or(0, |accepted| accepted.generation);
        let effort = self.efforts.get(name).filter(|effort| effort.generation == generation)?;
        effort.failure.as_ref()
    }
}
