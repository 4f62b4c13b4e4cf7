//! Services that ended: each end is read and counted, then it is started again when `plan::restart` says.

use super::Reconciler;
use crate::agent::effort::Rest;
use crate::agent::judge::of;
use crate::agent::ports::ContainerRuntime;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::ContainerEnd;
use crate::plan::reconcile::{self, SeenService, SeenState, Step, WantedService};
use crate::plan::restart::SETTLED;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// An end that is to be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Which container.
    id: String,
    /// Hash of its specification.
    hash: String,
}

impl<R: ContainerRuntime> Reconciler<R> {
    /// The containers that ended and are to be started now. One that was counted before the agent's own restart
    /// waits its whole pause from then on.
    pub(super) fn rested(
        &mut self,
        wanted: &BTreeMap<DeploymentName, Vec<WantedService>>,
        there: &[SeenService],
    ) -> BTreeSet<String> {
        let now = Instant::now();
        let mut rested = BTreeSet::new();
        for (name, wanted) in wanted {
            let Some(ledger) = self.ledgers.get(name) else { continue };
            for service in reconcile::ended(wanted, &of(there, name)) {
                let restarts = ledger.restarts.get(&service.service);
                let counted = restarts.filter(|it| it.has_counted(&self.boot_id, &service.id));
                let Some(restarts) = counted else { continue };
                let seed = seed(&self.device, name, &service.service);
                let effort = self.efforts.entry(name.clone()).or_default();
                let rest = effort.resting.entry(service.service.clone());
                if rest.or_insert_with(|| Rest::of(restarts.pause(&seed))).until <= now {
                    rested.insert(service.id.clone());
                }
            }
        }
        rested
    }

    /// Reads the first end that has not been counted.
    pub(super) fn read_restart(
        &mut self,
        name: &DeploymentName,
        wanted: &[WantedService],
        there: &[SeenService],
    ) {
        let counted = |service: &&SeenService| {
            let restarts = self.ledgers.get(name).and_then(|ledger| ledger.restarts.get(&service.service));
            restarts.is_some_and(|restarts| restarts.has_counted(&self.boot_id, &service.id))
        };
        let Some(ended) = reconcile::ended(wanted, there).find(|service| !counted(service)) else { return };
        let effort = self.efforts.entry(name.clone()).or_default();
        if effort.busy {
            return;
        }
        effort.busy = true;
        let end = End { id: ended.id.clone(), hash: ended.hash.clone() };
        self.read_end(name.clone(), ended.service.clone(), ended.id.clone(), super::Why::Restart(end));
    }

    /// Counts an end, of which the evidence may be missing.
    pub(super) fn count_end(
        &mut self,
        deployment: &DeploymentName,
        service: &ContainerName,
        ended: &End,
        end: Option<&ContainerEnd>,
    ) {
        let ran = end.map_or(Duration::ZERO, |end| Duration::from_millis(end.ran_ms));
        let ledger = self.ledgers.entry(deployment.clone()).or_default();
        let restarts = ledger.restarts.entry(service.clone()).or_default();
        restarts.ended(&ended.hash, &self.boot_id, &ended.id, ran);
        let pause = restarts.pause(&seed(&self.device, deployment, service));
        let ends = restarts.ends(&ended.hash);
        let code = end.map(|end| end.exit_code);
        tracing::warn!(%deployment, %service, code, ends, ?pause, "a service ended and is started again");
        self.keep_ledger(deployment);
        let effort = self.efforts.entry(deployment.clone()).or_default();
        effort.up_since.remove(service);
        effort.resting.insert(service.clone(), Rest::of(pause));
    }

    /// Takes note that containers were started again.
    pub(super) fn restarted(&mut self, deployment: &DeploymentName, services: &BTreeSet<ContainerName>) {
        let Some(ledger) = self.ledgers.get_mut(deployment) else { return };
        for service in services {
            if let Some(restarts) = ledger.restarts.get_mut(service) {
                restarts.started();
            }
            if let Some(effort) = self.efforts.get_mut(deployment) {
                effort.resting.remove(service);
            }
        }
        if !services.is_empty() {
            self.keep_ledger(deployment);
        }
    }

    /// Forgets the ends of services that have run long enough, and of those that are not wanted any more.
    pub(super) fn forget_ends(
        &mut self,
        name: &DeploymentName,
        wanted: &[WantedService],
        there: &[SeenService],
    ) {
        let Some(ledger) = self.ledgers.get_mut(name) else { return };
        let effort = self.efforts.entry(name.clone()).or_default();
        let now = Instant::now();
        let before = ledger.restarts.len();
        let ends = &mut ledger.ends;
        ledger.restarts.retain(|service, _| {
            let Some(spec) = wanted.iter().find(|spec| spec.name == *service) else { return false };
            let runs = there.iter().any(|there| {
                there.service == *service && there.hash == spec.hash && there.state == SeenState::Running
            });
            if !runs {
                effort.up_since.remove(service);
                return true;
            }
            let settled = now >= *effort.up_since.entry(service.clone()).or_insert(now) + SETTLED;
            if settled {
                ends.remove(service);
            }
            !settled
        });
        let forgotten = ledger.restarts.len() < before;
        effort.resting.retain(|service, _| ledger.restarts.contains_key(service));
        effort.up_since.retain(|service, _| ledger.restarts.contains_key(service));
        if forgotten {
            self.keep_ledger(name);
        }
    }
}

/// The services whose containers are started again by these steps.
pub(super) fn restarts(steps: &[Step], there: &[SeenService]) -> BTreeSet<ContainerName> {
    let starts = |service: &&SeenService| {
        matches!(service.state, SeenState::Ended { .. })
            && steps.iter().any(|step| matches!(step, Step::Start { id } if *id == service.id))
    };
    there.iter().filter(starts).map(|service| service.service.clone()).collect()
}

fn seed(device: &str, deployment: &DeploymentName, service: &ContainerName) -> String {
    format!("{device}/{deployment}/{service}")
}
