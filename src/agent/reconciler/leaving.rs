//! Deployments that are to go: what is left of them, and forgetting them.

use super::Reconciler;
use crate::agent::ports::ContainerRuntime;
use crate::model::id::DeploymentName;
use crate::plan::reconcile::SeenService;
use crate::support::chain::Chain;

impl<R: ContainerRuntime> Reconciler<R> {
    /// An init container of a deployment that is to go may be left over without any service.
    pub(super) fn clear_broken_off(&mut self, there: &[SeenService]) {
        let broken_off = |name: &DeploymentName| {
            self.ledgers.get(name).is_some_and(|ledger| ledger.inits.running.is_some())
                && there.iter().all(|service| service.deployment != *name)
        };
        let to_go = self.intake.records().iter().filter(|(name, record)| self.intake.is_to_go(name, record));
        let names: Vec<DeploymentName> = to_go.map(|(name, _)| name.clone()).filter(broken_off).collect();
        for name in names {
            self.begin(name, Vec::new(), there);
        }
    }

    /// Forgets deployments that are to go and of which nothing is left.
    pub(super) fn forget(&mut self, there: &[SeenService]) {
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
            .filter(|name| self.ledgers.get(name).is_none_or(|ledger| ledger.inits.running.is_none()))
            .collect();
        for name in gone {
            match self.store.forget_ledger(&name).and_then(|()| self.intake.forget(&name)) {
                Ok(()) => {
                    self.efforts.remove(&name);
                    self.ledgers.remove(&name);
                }
                Err(error) => tracing::error!(error = %Chain(&error), "cannot forget a deployment"),
            }
        }
    }
}
