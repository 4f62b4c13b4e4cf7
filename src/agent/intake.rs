//! What the agent has been told: takes values as they come, refuses what is stale or cannot be run, and
//! keeps all of it in the store before anybody hears that it was taken.

use super::policy::Policy;
use super::score::{self, Refusal};
use super::store::{IndexRecord, Record, Store, StoreError};
use crate::bus::kv::Entry;
use crate::model::id::DeploymentName;
use crate::model::lease::{Fence, Fenced};
use crate::model::workload::{Desired, Index, WORKLOAD_VERSION};
use std::collections::{BTreeMap, BTreeSet};

/// The most deployments of one device.
const MAX_DEPLOYMENTS: usize = 256;

/// Which key of the device an entry is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyName {
    /// The index.
    Index,
    /// A deployment.
    Deployment(DeploymentName),
}

/// How an entry was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The durable delivered it.
    Delivered,
    /// It was read.
    Read,
}

/// Everything told so far.
#[derive(Debug)]
pub struct Intake {
    store: Store,
    policy: Policy,
    fence: Fence,
    index: Option<IndexRecord>,
    listed: Option<BTreeSet<DeploymentName>>,
    records: BTreeMap<DeploymentName, Record>,
    notes: BTreeMap<DeploymentName, String>,
}

impl Intake {
    /// Takes up what the store has, as far as `policy` still lets it run.
    pub fn open(store: Store, policy: Policy) -> Self {
        let mut fence = Fence::default();
        if let Some(token) = store.fence() {
            // A new fence lets every token pass.
            let _ = fence.admit(token);
        }
        let index = store.index();
        let listed = index.as_ref().map(|record| record.index.deployments.keys().cloned().collect());
        let mut records = store.records();
        for (name, record) in &mut records {
            let refused = record.accepted.as_ref().and_then(|desired| policy.check(&desired.score).err());
            if let Some(refusal) = refused {
                tracing::warn!(deployment = %name, %refusal, "what was taken under another policy");
                (record.accepted, record.refusal) = (None, Some(refusal));
            }
        }
        Self { store, policy, fence, index, listed, records, notes: BTreeMap::new() }
    }

    /// Takes an entry; answers the deployments whose keys should be read to be sure of them.
    pub fn take(
        &mut self,
        key: KeyName,
        entry: &Entry,
        source: Source,
    ) -> Result<BTreeSet<DeploymentName>, StoreError> {
        match key {
            KeyName::Index => self.take_index(entry, source),
            KeyName::Deployment(name) => self.take_deployment(name, entry).map(|()| BTreeSet::new()),
        }
    }

    /// The deployments that the index names; none when no index has ever been seen.
    pub fn listed(&self) -> Option<&BTreeSet<DeploymentName>> {
        self.listed.as_ref()
    }

    /// What is known of each deployment.
    pub fn records(&self) -> &BTreeMap<DeploymentName, Record> {
        &self.records
    }

    /// Why the last value of a deployment was passed over although the one before it still holds.
    pub fn note(&self, name: &DeploymentName) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    /// All deployments of which anything is known.
    pub fn names(&self) -> BTreeSet<DeploymentName> {
        self.records.keys().chain(self.listed.iter().flatten()).cloned().collect()
    }

    /// Forgets a deployment whose containers are gone.
    pub fn forget(&mut self, name: &DeploymentName) -> Result<(), StoreError> {
        self.store.forget(name)?;
        self.records.remove(name);
        self.notes.remove(name);
        Ok(())
    }

    fn take_index(&mut self, entry: &Entry, source: Source) -> Result<BTreeSet<DeploymentName>, StoreError> {
        let known = self.index.as_ref().map(|record| (record.revision, record.written_ns));
        let order = known.map_or(Order::Later, |known| order(entry, known));
        if order == Order::Before {
            tracing::debug!(entry.revision, "an index of before");
            return Ok(BTreeSet::new());
        }
        let index = if entry.deleted {
            Index { version: WORKLOAD_VERSION, ..Index::default() }
        } else {
            match serde_json::from_slice::<Index>(&entry.value) {
                Ok(index)
                    if index.version <= WORKLOAD_VERSION && index.deployments.len() <= MAX_DEPLOYMENTS =>
                {
                    index
                }
                Ok(index) => {
                    let (version, count) = (index.version, index.deployments.len());
                    tracing::error!(
                        version,
                        count,
                        "the index is of a newer version or too long; the one before it stays"
                    );
                    return Ok(BTreeSet::new());
                }
                Err(error) => {
                    tracing::error!(%error, "the index cannot be understood; the one before it stays");
                    return Ok(BTreeSet::new());
                }
            }
        };
        if order == Order::BegunAnew {
            // Revisions count from 1 again.
            self.records.values_mut().for_each(|record| record.revision = 0);
        }
        let record = IndexRecord { revision: entry.revision, written_ns: entry.written_ns, index };
        if self.index.as_ref() != Some(&record) {
            self.store.put_index(&record)?;
        }
        let behind = |(name, generation): (&DeploymentName, &u64)| {
            let accepted = self.records.get(name).and_then(|record| record.accepted.as_ref());
            accepted.is_none_or(|accepted| accepted.generation < *generation).then(|| name.clone())
        };
        let unread = match source {
            Source::Read => record.index.deployments.keys().chain(self.records.keys()).cloned().collect(),
            Source::Delivered => record.index.deployments.iter().filter_map(behind).collect(),
        };
        self.listed = Some(record.index.deployments.keys().cloned().collect());
        self.index = Some(record);
        Ok(unread)
    }

    fn take_deployment(&mut self, name: DeploymentName, entry: &Entry) -> Result<(), StoreError> {
        let old = self.records.get(&name);
        if let Some(old) = old {
            let order = order(entry, (old.revision, old.written_ns));
            if old.revision == entry.revision || order == Order::Before {
                return Ok(());
            }
        } else if self.records.len() >= MAX_DEPLOYMENTS {
            tracing::error!(deployment = %name, "more than {MAX_DEPLOYMENTS} deployments: passed over");
            return Ok(());
        }
        let kept = old.and_then(|old| old.accepted.clone());
        let (revision, written_ns) = (entry.revision, entry.written_ns);
        let mut record = Record { revision, written_ns, accepted: kept, refusal: None, deleted: false };
        self.notes.remove(&name);
        if entry.deleted {
            record.deleted = true;
        } else {
            let decoded = score::decode(&entry.value);
            let index = self.index.as_ref().map(|record| &record.index);
            match decoded.and_then(|desired| self.policy.check(&desired.score).map(|()| desired)) {
                Err(refusal) => record.refusal = Some(refusal),
                Ok(desired) => match stale(&mut self.fence, index, &name, record.accepted.as_ref(), &desired)
                {
                    None => {
                        // The fence goes to disk first: a token once seen is never forgotten for a
                        // value that it brought.
                        if self.store.fence() < Some(desired.token) {
                            self.store.put_fence(desired.token)?;
                        }
                        record.accepted = Some(desired);
                    }
                    Some(note) => {
                        tracing::warn!(deployment = %name, revision = entry.revision, note, "refused");
                        // What came before it still holds, and so does why that was not run.
                        record.refusal = old.and_then(|old| old.refusal.clone());
                        record.deleted = old.is_some_and(|old| old.deleted);
                        self.notes.insert(name.clone(), note);
                    }
                },
            }
        }
        if let Some(Refusal { reason, message }) = &record.refusal {
            tracing::warn!(deployment = %name, revision = entry.revision, %reason, message, "cannot be run");
        }
        self.store.put(&name, &record)?;
        self.records.insert(name, record);
        Ok(())
    }

    /// Whether a deployment is to be forgotten once its containers are gone: its key was deleted, or the
    /// index was written after it and does not name it. A value newer than the index is on its way into it.
    pub fn is_to_go(&self, name: &DeploymentName, record: &Record) -> bool {
        let after = self.index.as_ref().is_some_and(|index| index.revision > record.revision);
        record.deleted || (after && self.listed.as_ref().is_some_and(|listed| !listed.contains(name)))
    }
}

/// How an entry stands to the one that is known of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// The same, or what came after it.
    Later,
    /// What came before it: delivered again, or read from a server that has not come to the last writes.
    Before,
    /// Written after it, at a smaller revision: the bucket was made anew.
    BegunAnew,
}

/// Of an entry and the revision that is known, with its time. Revisions alone do not tell a bucket that was made anew from a
/// server that lags behind, which would have what was deployed since removed.
fn order(entry: &Entry, (revision, written_ns): (u64, u64)) -> Order {
    if entry.revision >= revision {
        Order::Later
    } else if entry.written_ns > written_ns {
        Order::BegunAnew
    } else {
        Order::Before
    }
}

/// Why a value that could be run is older than what was taken before it. Under a later lease generations
/// may begin anew. What the index names at this generation stands, though a later lease has come: its holder
/// has taken it over.
fn stale(
    fence: &mut Fence,
    index: Option<&Index>,
    name: &DeploymentName,
    accepted: Option<&Desired>,
    desired: &Desired,
) -> Option<String> {
    if let Some(accepted) = accepted
        && desired.token <= accepted.token
        && desired.generation < accepted.generation
    {
        let (old, new) = (accepted.generation, desired.generation);
        return Some(format!("generation {new} was refused: generation {old} came before it"));
    }
    let admitted = fence.admit(desired.token);
    if index.is_some_and(|index| index.deployments.get(name) == Some(&desired.generation)) {
        return None;
    }
    if let Some(floor) = index.and_then(|index| index.floor).filter(|floor| desired.token < *floor) {
        return Some(Fenced { token: desired.token, floor }.to_string());
    }
    admitted.err().map(|fenced| fenced.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lease::FencingToken;
    use serde_json::json;

    struct Fixture {
        intake: Intake,
        dir: tempfile::TempDir,
    }

    fn name(text: &str) -> DeploymentName {
        DeploymentName::new(text).unwrap()
    }

    fn entry(revision: u64, value: impl Into<bytes::Bytes>) -> Entry {
        Entry { revision, written_ns: revision, value: value.into(), deleted: false }
    }

    fn value(generation: u64, sequence: u64) -> String {
        json!({ "version": 1, "generation": generation, "token": FencingToken { epoch: 1, sequence },
            "score": { "type": "PodmanV0", "data": {} } })
        .to_string()
    }

    fn index(names: &[(&str, u64)]) -> String {
        let deployments: BTreeMap<_, _> = names.iter().copied().collect();
        json!({ "version": 1, "deployments": deployments }).to_string()
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { intake: Intake::open(Store::open(dir.path()).unwrap(), Policy::default()), dir }
        }

        fn web(&mut self, revision: u64, text: &str, source: Source) -> BTreeSet<DeploymentName> {
            self.take(KeyName::Deployment(name("web")), entry(revision, text.to_owned()), source)
        }

        fn index(
            &mut self,
            revision: u64,
            names: &[(&str, u64)],
            source: Source,
        ) -> BTreeSet<DeploymentName> {
            self.take(KeyName::Index, entry(revision, index(names)), source)
        }

        fn take(&mut self, key: KeyName, entry: Entry, source: Source) -> BTreeSet<DeploymentName> {
            self.intake.take(key, &entry, source).unwrap()
        }

        fn generation(&self) -> Option<u64> {
            self.intake.records().get(&name("web"))?.accepted.as_ref().map(|desired| desired.generation)
        }
    }

    #[test]
    fn a_smaller_generation_or_token_is_refused_also_after_a_restart() {
        let mut at = Fixture::new();
        at.web(1, &value(5, 5), Source::Delivered);
        at.web(2, &value(4, 5), Source::Delivered);
        assert_eq!(at.generation(), Some(5));
        assert!(at.intake.note(&name("web")).unwrap().contains("generation 4 was refused"));
        at.intake = Intake::open(Store::open(at.dir.path()).unwrap(), Policy::default());
        at.web(3, &value(6, 4), Source::Delivered);
        assert_eq!(at.generation(), Some(5));
        assert!(at.intake.note(&name("web")).unwrap().contains("token 1.4"));
        at.web(4, &value(6, 5), Source::Delivered);
        assert_eq!((at.generation(), at.intake.note(&name("web"))), (Some(6), None));
    }

    #[test]
    fn a_value_that_cannot_be_run_leaves_the_one_before_it() {
        let mut at = Fixture::new();
        at.web(1, &value(1, 1), Source::Delivered);
        at.web(2, "{", Source::Delivered);
        let record = &at.intake.records()[&name("web")];
        assert_eq!(record.refusal.as_ref().unwrap().reason, score::Reason::MalformedDesired);
        assert_eq!((record.revision, at.generation()), (2, Some(1)));
    }

    #[test]
    fn what_the_policy_no_longer_allows_is_refused_also_after_a_restart() {
        let mut at = Fixture::new();
        let volume = json!({ "services": [{ "name": "a", "image": "i", "volumes": ["/srv:/srv"] }] });
        let text = value(1, 1).replace("\"data\":{}", &format!("\"data\":{volume}"));
        at.web(1, &text, Source::Delivered);
        assert_eq!(at.generation(), Some(1));
        let strict = Policy { allowed_volumes: Some(vec!["/data".into()]) };
        at.intake = Intake::open(Store::open(at.dir.path()).unwrap(), strict);
        let refusal = |at: &Fixture| at.intake.records()[&name("web")].refusal.clone().unwrap();
        assert_eq!((refusal(&at).reason, at.generation()), (score::Reason::NotAllowed, None));
        at.web(2, &text.replace("\"generation\":1", "\"generation\":2"), Source::Delivered);
        assert!(refusal(&at).message.starts_with("services[0].volumes[0]: \"/srv\" is in none of"));
    }

    #[test]
    fn what_a_fenced_holder_still_writes_is_not_run_and_what_its_successor_took_over_is() {
        let mut at = Fixture::new();
        let floor = |sequence| json!({ "epoch": 1, "sequence": sequence });
        let index = |revision: u64, names: &[(&str, u64)], sequence: u64| {
            let mut index: serde_json::Value = serde_json::from_str(&index(names)).unwrap();
            index["floor"] = floor(sequence);
            entry(revision, index.to_string())
        };
        // Handed over: the floor, and nothing deployed.
        at.intake.take(KeyName::Index, &index(5, &[], 7), Source::Delivered).unwrap();
        at.web(6, &value(1, 6), Source::Delivered);
        assert_eq!(at.generation(), None);
        assert!(at.intake.note(&name("web")).unwrap().contains("token 1.6"));
        at.web(7, &value(2, 7), Source::Delivered);
        assert_eq!(at.generation(), Some(2));
        // Given on: the floor is raised, the deployment stays, also for an agent that starts anew.
        let dir = tempfile::tempdir().unwrap();
        at.intake = Intake::open(Store::open(dir.path()).unwrap(), Policy::default());
        at.intake.take(KeyName::Index, &index(8, &[("web", 2)], 9), Source::Read).unwrap();
        at.web(7, &value(2, 7), Source::Read);
        assert_eq!(at.generation(), Some(2));
        at.web(9, &value(3, 7), Source::Delivered);
        assert_eq!(at.generation(), Some(2), "the one before has lost it");
    }

    #[test]
    fn an_old_delivery_changes_nothing_and_an_index_has_what_it_names_read() {
        let mut at = Fixture::new();
        at.web(7, &value(2, 1), Source::Delivered);
        assert_eq!(at.web(6, &value(9, 1), Source::Delivered), BTreeSet::new());
        assert_eq!(at.generation(), Some(2));
        assert_eq!(at.index(8, &[("web", 3), ("new", 1)], Source::Delivered).len(), 2, "both are behind");
    }

    #[test]
    fn a_bucket_made_anew_is_believed() {
        for (source, names) in [(Source::Read, &[][..]), (Source::Delivered, &[("web", 1)])] {
            let anew = Entry { written_ns: 501, ..entry(1, index(names)) };
            let mut at = Fixture::new();
            at.index(500, &[("web", 1)], Source::Delivered);
            at.web(499, &value(1, 1), Source::Delivered);
            at.take(KeyName::Index, anew, source);
            let record = &at.intake.records()[&name("web")];
            let gone = at.intake.is_to_go(&name("web"), record);
            assert_eq!(gone, names.is_empty(), "deleted while the bucket was lost: {names:?}");
        }
    }

    #[test]
    fn a_server_that_lags_behind_takes_nothing_back() {
        let mut at = Fixture::new();
        at.index(3, &[], Source::Delivered);
        at.take(KeyName::Deployment(name("web")), Entry { deleted: true, ..entry(2, "") }, Source::Delivered);
        at.web(4, &value(2, 1), Source::Delivered);
        at.index(5, &[("web", 2)], Source::Delivered);
        assert_eq!(at.index(3, &[], Source::Read), BTreeSet::new());
        at.take(KeyName::Deployment(name("web")), Entry { deleted: true, ..entry(2, "") }, Source::Read);
        let record = &at.intake.records()[&name("web")];
        assert!(!at.intake.is_to_go(&name("web"), record), "{record:?}");
        assert_eq!((at.generation(), at.intake.listed()), (Some(2), Some(&BTreeSet::from([name("web")]))));
    }

    #[test]
    fn a_value_newer_than_the_index_waits_for_it() {
        let mut at = Fixture::new();
        at.index(1, &[], Source::Delivered);
        at.web(2, &value(1, 1), Source::Delivered);
        assert!(!at.intake.is_to_go(&name("web"), &at.intake.records()[&name("web")]));
        at.index(3, &[], Source::Delivered);
        assert!(at.intake.is_to_go(&name("web"), &at.intake.records()[&name("web")]));
    }
}
