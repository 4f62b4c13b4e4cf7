//! What the agent has done for one deployment, on disk: which init containers have succeeded in this boot,
//! what ran well last, what is known to fail, and how containers ended.
//!
//! Whoever acts on a deployment owns its ledger for that time and hands it back in the end; each change
//! lies on disk before the act goes on, so an agent that is killed at any point knows after its restart
//! what it had finished.

use super::ports::{Completed, RunOutcome};
use super::score;
use super::store::{Kind, Store, StoreError};
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{ContainerEnd, Desired};
use crate::plan::restart::Restarts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const LEDGER: Kind<Ledger> = Kind::new("ledger", 1);
/// How many failed sets of containers are remembered; the oldest goes first.
const MAX_BAD: usize = 16;

/// The ledger of one deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// The init containers of the set that was last brought up.
    pub(super) inits: Inits,
    /// What ran through its probation: what a failed upgrade goes back to.
    pub(super) good: Option<Desired>,
    /// The ids of the images that its containers ran by then: their names may stand for other images since.
    #[serde(default)]
    pub(super) good_images: BTreeMap<ContainerName, String>,
    /// Sets that failed when there was a good one to go back to. They are not tried again.
    pub(super) bad: Vec<Bad>,
    /// How containers ended last, by their names; the evidence outlives the container.
    pub(super) ends: BTreeMap<ContainerName, ContainerEnd>,
    /// Limits that the device cannot hold its services to, in the runtime's words.
    pub(super) limits_not_enforced: Vec<String>,
    /// The ends of services that followed each other too soon. Ledgers of earlier agents have none.
    #[serde(default)]
    pub(super) restarts: BTreeMap<ContainerName, Restarts>,
}

/// How far the init containers of one set have come in one boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inits {
    /// Hash of the set.
    pub(super) set: String,
    /// The boot of the device: after a reboot all of them run again.
    pub(super) boot_id: String,
    /// Those that have succeeded.
    pub(super) done: Vec<ContainerName>,
    /// The ids of the images that those ran.
    #[serde(default)]
    pub(super) images: BTreeMap<ContainerName, String>,
    /// The one of which a container may be there.
    pub(super) running: Option<ContainerName>,
    /// That container is being removed without having ended by itself, so its end says nothing.
    #[serde(default)]
    pub(super) abandoned: bool,
    /// How that container ended, if not well, until it has been answered: by going back, or by a pause.
    #[serde(default)]
    pub(super) failed: Option<RunOutcome>,
}

/// A set that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bad {
    /// Its hash.
    pub(super) set: String,
    /// The generation that brought it.
    pub(super) generation: u64,
    /// Why it failed.
    pub(super) cause: String,
}

impl Inits {
    /// Whether this is of `set` in this boot.
    pub(super) fn is_of(&self, set: &str, boot_id: &str) -> bool {
        self.set == set && self.boot_id == boot_id
    }

    /// Goes on with `set` in this boot; what was done for another set or in another boot does not count.
    pub(super) fn enter(&mut self, set: &str, boot_id: &str) {
        if !self.is_of(set, boot_id) {
            let (running, abandoned) = (self.running.take(), self.abandoned);
            let (set, boot_id) = (set.to_owned(), boot_id.to_owned());
            *self = Self { set, boot_id, running, abandoned, ..Self::default() };
        }
    }

    /// Takes note that one is about to run.
    pub(super) fn begin(&mut self, name: &ContainerName) {
        (self.running, self.abandoned, self.failed) = (Some(name.clone()), false, None);
    }

    /// Takes note that no container is left.
    pub(super) fn cleared(&mut self) {
        (self.running, self.abandoned) = (None, false);
    }

    /// Takes note of how one ended.
    pub(super) fn ended(&mut self, name: &ContainerName, completed: &Completed, well: bool) {
        if well {
            self.done.push(name.clone());
            self.images.insert(name.clone(), completed.image_id.clone());
        } else {
            self.failed = Some(completed.outcome);
        }
    }

    /// Whether an init container has succeeded.
    pub(super) fn has_done(&self, name: &ContainerName) -> bool {
        self.done.contains(name)
    }
}

impl Ledger {
    /// Why a set is known to fail.
    pub(super) fn bad(&self, set: &str) -> Option<&Bad> {
        self.bad.iter().find(|bad| bad.set == set)
    }

    /// Takes what ran through its probation, with the images that its services run, as what a failed change goes
    /// back to.
    pub(super) fn settle(&mut self, good: Desired, services: BTreeMap<ContainerName, String>) {
        let is_its = self.inits.set == score::set(&good);
        let inits = self.inits.images.iter().filter(|_| is_its).map(|(name, id)| (name.clone(), id.clone()));
        self.good_images = inits.chain(services).filter(|(_, id)| !id.is_empty()).collect();
        self.good = Some(good);
    }

    /// Remembers that a set fails.
    pub(super) fn condemn(&mut self, bad: Bad) {
        self.bad.retain(|other| other.set != bad.set);
        self.bad.push(bad);
        let too_many = self.bad.len().saturating_sub(MAX_BAD);
        self.bad.drain(..too_many);
    }
}

impl Store {
    /// The ledgers of all deployments.
    pub(super) fn ledgers(&self) -> BTreeMap<DeploymentName, Ledger> {
        self.load_each(LEDGER)
    }

    /// Keeps a deployment's ledger.
    pub(super) fn put_ledger(&self, name: &DeploymentName, ledger: &Ledger) -> Result<(), StoreError> {
        self.save_one(LEDGER, name, ledger)
    }

    /// Forgets a deployment's ledger.
    pub(super) fn forget_ledger(&self, name: &DeploymentName) -> Result<(), StoreError> {
        self.remove_one(LEDGER, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ContainerName {
        ContainerName::new(text).unwrap()
    }

    #[test]
    fn what_was_done_counts_for_its_set_and_boot_only() {
        let mut inits = Inits::default();
        inits.enter("set", "boot");
        inits.done.push(name("migrate"));
        inits.running = Some(name("seed"));
        inits.enter("set", "boot");
        assert!(inits.has_done(&name("migrate")), "the same set in the same boot");
        for (set, boot) in [("other", "boot"), ("other", "reboot")] {
            inits.enter(set, boot);
            assert!(!inits.has_done(&name("migrate")), "{set} {boot}");
            assert_eq!(inits.running, Some(name("seed")), "its left-over is still to be removed");
            inits.done.push(name("migrate"));
        }
    }

    #[test]
    fn a_bounded_number_of_bad_sets_is_remembered() {
        let mut ledger = Ledger::default();
        for n in 0..20 {
            ledger.condemn(Bad { set: n.to_string(), generation: n, cause: "c".into() });
        }
        assert_eq!((ledger.bad.len(), ledger.bad("3"), ledger.bad("4").is_some()), (MAX_BAD, None, true));
    }

    #[test]
    fn a_ledger_of_an_agent_that_kept_no_images_is_read() {
        let mut old =
            serde_json::to_value(Ledger { limits_not_enforced: vec!["memory".into()], ..Ledger::default() })
                .unwrap();
        assert!(old.as_object_mut().unwrap().remove("good_images").is_some());
        assert!(old["inits"].as_object_mut().unwrap().remove("images").is_some());
        let ledger: Ledger = serde_json::from_value(old).unwrap();
        assert_eq!(
            (ledger.limits_not_enforced, ledger.good_images),
            (vec!["memory".to_owned()], BTreeMap::new())
        );
    }

    #[test]
    fn a_ledger_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let deployment = DeploymentName::new("shop").unwrap();
        let ledger = Ledger { limits_not_enforced: vec!["memory".into()], ..Ledger::default() };
        let store = Store::open(dir.path()).unwrap();
        store.put_ledger(&deployment, &ledger).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.ledgers(), BTreeMap::from([(deployment.clone(), ledger)]));
        store.forget_ledger(&deployment).unwrap();
        assert_eq!(store.ledgers(), BTreeMap::new());
    }
}
