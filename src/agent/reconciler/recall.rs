//! What the next agent has to know of containers, in case podman lists none of them when it starts.
//!
//! The file tells of all containers of services that there may be, or it is not there: it goes before an act that may
//! make some, and is written anew once what that act made has been seen. So a container that it does not tell of is
//! not there, and one that is silent is known to be.

use super::Reconciler;
use crate::agent::effort::Effort;
use crate::agent::ports::ContainerRuntime;
use crate::model::id::DeploymentName;
use crate::plan::reconcile::Step;
use crate::support::chain::Chain;

impl<R: ContainerRuntime> Reconciler<R> {
    /// Tells the runtime what the agent before this one saw.
    pub(super) fn recall(&mut self) {
        let Some(seen) = self.store.seen() else { return };
        self.kept = Some(seen.iter().map(|service| service.id.clone()).collect());
        self.runtime.recall(seen);
    }

    /// Before an act that takes these steps.
    pub(super) fn doubt(&mut self, name: &DeploymentName, steps: &[Step]) {
        if !steps.iter().any(|step| matches!(step, Step::Create { .. })) {
            return;
        }
        self.efforts.entry(name.clone()).or_default().makes = true;
        if self.kept.take().is_some()
            && let Err(error) = self.store.forget_seen()
        {
            tracing::error!(error = %Chain(&error), "what was seen of containers stays on the disk");
        }
    }

    /// After a look.
    pub(super) fn keep_seen(&mut self) {
        let Some(seen) = &self.seen else { return };
        let may_make = |effort: &Effort| effort.makes || self.seen_at < effort.fresh_from;
        if self.efforts.values().any(may_make) {
            return;
        }
        let ids = seen.iter().map(|service| service.id.clone()).collect();
        if self.kept.as_ref() == Some(&ids) {
            return;
        }
        // The heartbeat tells what cannot be written.
        self.kept = self.store.put_seen(seen.clone()).is_ok().then_some(ids);
    }
}
