//! What becomes of a change: what an act came to, the probation, the evidence, the way back.

use super::{Done, Reconciler, SETTLED, Why};
use crate::agent::act::{self, InterpretError};
use crate::agent::judge::{self, of};
use crate::agent::ledger::{Bad, Ledger};
use crate::agent::ports::{ContainerRuntime, ManagedService, ServiceState};
use crate::agent::score;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::ContainerEnd;
use crate::plan::reconcile::{self, SeenService, Standing, Step, WantedService};
use crate::plan::rollout::{Probation, Trial};
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

impl<R: ContainerRuntime> Reconciler<R> {
    pub(super) fn acted(
        &mut self,
        deployment: DeploymentName,
        set: &str,
        ledger: Ledger,
        result: Result<(), InterpretError>,
    ) {
        self.look_wanted = true;
        let seed = format!("{}/{deployment}", self.device);
        let effort = self.efforts.entry(deployment.clone()).or_default();
        (effort.busy, effort.makes) = (false, false);
        effort.line.clear();
        effort.fresh_from = self.looks + 1;
        let restarted = std::mem::take(&mut effort.restarting);
        let turned = effort.set != set;
        self.ledgers.insert(deployment.clone(), ledger);
        if result.is_ok() {
            self.restarted(&deployment, &restarted);
        }
        if turned {
            return;
        }
        let effort = self.efforts.entry(deployment.clone()).or_default();
        match result {
            Ok(()) => effort.failure = None,
            Err(error) => {
                tracing::warn!(%deployment, %error, "cannot be brought up");
                let condemns = error.condemns();
                let cause = error.to_string();
                effort.failed(error, &seed, Instant::now());
                let ledger = self.ledgers.entry(deployment.clone()).or_default();
                let of_init = ledger.inits.failed.take().is_some();
                if condemns {
                    self.condemn(&deployment, cause);
                }
                if of_init {
                    self.keep_ledger(&deployment);
                }
            }
        }
    }

    pub(super) fn ended(
        &mut self,
        deployment: DeploymentName,
        service: ContainerName,
        end: Option<ContainerEnd>,
        why: Why,
    ) {
        self.look_wanted = true;
        self.efforts.entry(deployment.clone()).or_default().busy = false;
        if let Some(end) = end.clone() {
            let ledger = self.ledgers.entry(deployment.clone()).or_default();
            ledger.ends.insert(service.clone(), end);
            self.keep_ledger(&deployment);
        }
        match why {
            Why::Told => {}
            Why::Restart(ended) => self.count_end(&deployment, &service, &ended, end.as_ref()),
            Why::Condemned(cause) => {
                let words = end.as_ref().map(act::last_words).unwrap_or_default();
                self.condemn(&deployment, format!("{cause}{}", act::words(&words)));
            }
        }
    }

    /// The containers of a deployment that are made anew because of what they do, by their ids.
    pub(super) fn failing(&self, name: &DeploymentName) -> BTreeMap<String, ContainerName> {
        let findings = self.findings.borrow();
        let fails = |seen: &&ManagedService| {
            seen.state == ServiceState::Lost || judge::is_unhealthy(&findings, &seen.id)
        };
        let there = self.seen.iter().flatten().filter(|seen| seen.deployment == *name);
        there.filter(fails).map(|seen| (seen.id.clone(), seen.name.clone())).collect()
    }

    /// Gives up what a deployment was changed to, when there is a good one to go back to.
    fn condemn(&mut self, name: &DeploymentName, cause: String) {
        let Some(target) = self.target(name) else { return };
        let (set, generation) = (score::set(target), target.generation);
        let Some(ledger) = self.ledgers.get_mut(name) else { return };
        let Some(good) = ledger.good.as_ref().filter(|good| score::set(good) != set) else { return };
        tracing::warn!(deployment = %name, from = generation, to = good.generation, cause, "rolled back");
        ledger.condemn(Bad { set, generation, cause });
        self.keep_ledger(name);
    }

    /// Whether what is brought up is what a failed change goes back to, not what is wanted.
    pub(super) fn is_undone(&self, name: &DeploymentName) -> bool {
        let wanted = self.intake.records().get(name).and_then(|record| record.accepted.as_ref());
        self.target(name).map(score::set) != wanted.map(score::set)
    }

    /// Judges what nothing is to be done for: whether it has failed, is on probation, or has settled.
    pub(super) fn settle(
        &mut self,
        plan: &BTreeMap<DeploymentName, Vec<Step>>,
        wanted: &BTreeMap<DeploymentName, Vec<WantedService>>,
        there: &[SeenService],
    ) {
        let now = Instant::now();
        for (name, wanted) in wanted {
            let effort = self.efforts.entry(name.clone()).or_default();
            if effort.busy || self.looks < effort.fresh_from {
                continue;
            }
            let there = of(there, name);
            let standing = reconcile::standing(wanted, &there);
            if !plan.contains_key(name) {
                // Nothing is left to do, so whatever failed has been overcome.
                effort.failure = None;
                let running = matches!(standing, Standing::Running { .. });
                if running && effort.not_before.is_none_or(|at| now >= at + SETTLED) {
                    effort.acts = 0;
                }
            }
            self.judge_change(name, &standing, now);
            self.read_evidence(name, &standing);
            self.read_restart(name, wanted, &there);
            self.forget_ends(name, wanted, &there);
        }
    }

    /// Puts a change on probation, and ends it.
    fn judge_change(&mut self, name: &DeploymentName, standing: &Standing, now: Instant) {
        let Some(target) = self.target(name).cloned() else { return };
        let set = score::set(&target);
        let good = self.ledgers.get(name).and_then(|ledger| ledger.good.as_ref());
        if good.is_some_and(|good| score::set(good) == set) {
            return;
        }
        let there = self.seen.iter().flatten().filter(|service| service.deployment == *name);
        let hashes = score::services(name, &target);
        let same = |service: &&ManagedService| hashes.iter().any(|spec| spec.hash == service.hash);
        let made: Vec<&ManagedService> = there.filter(same).collect();
        let starts = made.iter().map(|service| (service.name.clone(), service.started_at)).collect();
        let images = made.iter().map(|service| (service.name.clone(), service.image_id.clone())).collect();
        let findings = self.findings.borrow();
        let unhealthy = made.iter().find(|service| judge::is_unhealthy(&findings, &service.id));
        let unhealthy = unhealthy.map(|service| service.name.clone());
        drop(findings);
        let since = |at: Instant| at.duration_since(self.pace.began());
        let Some(effort) = self.efforts.get_mut(name) else { return };
        effort.probation_ends = None;
        match effort.probation.observe(
            standing,
            unhealthy.as_ref(),
            &starts,
            score::probation(&target),
            since(now),
        ) {
            Trial::Waiting => {}
            Trial::Until(at) => effort.probation_ends = Some(self.pace.began() + at),
            Trial::Passed => {
                let ledger = self.ledgers.entry(name.clone()).or_default();
                ledger.settle(target, images);
                self.keep_ledger(name);
            }
            Trial::Failed { service, cause } => {
                let can_go_back = self.ledgers.get(name).is_some_and(|ledger| ledger.good.is_some());
                let id =
                    self.seen.iter().flatten().find(|seen| seen.deployment == *name && seen.name == service);
                if let (true, Some(id)) = (can_go_back, id.map(|seen| seen.id.clone())) {
                    effort.busy = true;
                    self.read_end(name.clone(), service, id, Why::Condemned(cause));
                } else {
                    // Nothing to go back to: it may yet become good.
                    effort.probation = Probation::default();
                }
            }
        }
    }

    /// Reads how a service ended that ended for good with a failure, once.
    fn read_evidence(&mut self, name: &DeploymentName, standing: &Standing) {
        let Standing::Exited { service, id, .. } = standing else { return };
        let Some(effort) = self.efforts.get_mut(name) else { return };
        if !effort.busy && effort.evidenced != *id {
            effort.evidenced.clone_from(id);
            effort.busy = true;
            self.read_end(name.clone(), service.clone(), id.clone(), Why::Told);
        }
    }

    pub(super) fn read_end(
        &mut self,
        deployment: DeploymentName,
        service: ContainerName,
        id: String,
        why: Why,
    ) {
        let runtime = Arc::clone(&self.runtime);
        self.tasks.spawn(async move {
            let end = runtime.end_of(&id).await.unwrap_or_else(|error| {
                tracing::warn!(%deployment, id, error = %Chain(&error), "cannot read how a container ended");
                None
            });
            Done::Ended { deployment, service, end, why }
        });
    }
}
