//! What the agent was told and has done, on disk: it acknowledges a desired value only when it lies here.
//!
//! ```text
//! <dir>/index.json              the index as last seen
//! <dir>/fence.json              the greatest fencing token seen
//! <dir>/reported.json           deployments whose status may stand on the bus (the reporter's)
//! <dir>/seen.json               all containers of services; not there while some may be made
//! <dir>/desired/<deployment>.json
//! <dir>/outbox/<number>.json    what could not be published yet (the reporter's)
//! ```
//!
//! Each file carries version and checksum and is replaced as a whole, fsynced with its directory
//! (`support::atomic_file`). One that is damaged or of a newer version is kept aside, told of
//! ([`Store::notes`]), and left out: the bus has what was wanted still, and what runs is not touched for
//! the want of a file. A new kind of file is one constant of type [`Kind`].

mod file;

use super::ports::ManagedService;
use super::score::Refusal;
use crate::model::id::DeploymentName;
use crate::model::lease::FencingToken;
use crate::model::state_note::{StateNote, StateProblem};
use crate::model::workload::{Desired, Index};
use crate::support::atomic_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio::sync::watch;

/// Desired values may hold secrets in `env`.
const MODE: u32 = 0o600;
/// What each file's name ends with.
const SUFFIX: &str = ".json";
/// The most notes that are kept; there is one for each file at most.
const MAX_NOTES: usize = 16;

const INDEX: Kind<IndexRecord> = Kind::new("index", 1);
const FENCE: Kind<FencingToken> = Kind::new("fence", 1);
const REPORTED: Kind<BTreeSet<DeploymentName>> = Kind::new("reported", 1);
const SEEN: Kind<Vec<ManagedService>> = Kind::new("seen", 1);
const DESIRED: Kind<Record> = Kind::new("desired", 1);

/// A kind of file: one called `<name>.json`, or one for each key in the directory `<name>`.
#[derive(Debug)]
pub(super) struct Kind<T> {
    name: &'static str,
    version: u32,
    content: PhantomData<fn() -> T>,
}

impl<T> Clone for Kind<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Kind<T> {}

impl<T> Kind<T> {
    /// A kind called `name` (lower-case letters and `-`), of which this build reads and writes `version`.
    /// In a constant, a bad name is a compile error.
    pub(super) const fn new(name: &'static str, version: u32) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty(), "a kind of file needs a name");
        let mut at = 0;
        while at < bytes.len() {
            assert!(bytes[at].is_ascii_lowercase() || bytes[at] == b'-', "not a name for a kind of file");
            at += 1;
        }
        Self { name, version, content: PhantomData }
    }
}

/// What tells the files of one kind apart; its text is the beginning of a file's name.
pub(super) trait Key: Display + FromStr + Ord {}

impl Key for DeploymentName {}
impl Key for u64 {}

/// The store could not keep or give something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What is known of one deployment's key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The revision of the last value seen, understood or not.
    pub revision: u64,
    /// When that was written, by the server's clock; 0 in what an agent before this one has kept.
    #[serde(default)]
    pub written_ns: u64,
    /// The last value that was taken.
    pub accepted: Option<Desired>,
    /// Why the value at `revision` was not taken, when it was not.
    pub refusal: Option<Refusal>,
    /// The key was deleted: the containers are to go, then this record.
    pub deleted: bool,
}

/// The index, and the revision it was seen at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// The revision.
    pub revision: u64,
    /// When it was written, by the server's clock; 0 in what an agent before this one has kept.
    #[serde(default)]
    pub written_ns: u64,
    /// The index.
    pub index: Index,
}

/// The directory. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
    notes: Arc<watch::Sender<Vec<StateNote>>>,
}

impl Store {
    /// Opens or makes the directory. What was cut off while it was written goes; what was kept aside is
    /// told of again.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|source| StoreError::Write { path: dir.clone(), source })?;
        let store = Self { dir, notes: Arc::default() };
        store.sweep(&store.dir);
        Ok(store)
    }

    /// What is wrong with the files, now and later.
    pub fn notes(&self) -> watch::Receiver<Vec<StateNote>> {
        self.notes.subscribe()
    }

    /// All records.
    pub fn records(&self) -> BTreeMap<DeploymentName, Record> {
        self.load_each(DESIRED)
    }

    /// Keeps a record.
    pub fn put(&self, name: &DeploymentName, record: &Record) -> Result<(), StoreError> {
        self.save_one(DESIRED, name, record)
    }

    /// Forgets a record.
    pub fn forget(&self, name: &DeploymentName) -> Result<(), StoreError> {
        self.remove_one(DESIRED, name)
    }

    /// The index.
    pub fn index(&self) -> Option<IndexRecord> {
        self.load(INDEX)
    }

    /// Keeps the index.
    pub fn put_index(&self, index: &IndexRecord) -> Result<(), StoreError> {
        self.save(INDEX, index)
    }

    /// The greatest fencing token seen; when its own file is lost, the greatest that brought a record.
    pub fn fence(&self) -> Option<FencingToken> {
        let of_records =
            || self.records().into_values().filter_map(|record| Some(record.accepted?.token)).max();
        self.load(FENCE).or_else(of_records)
    }

    /// Keeps the greatest fencing token seen.
    pub fn put_fence(&self, token: FencingToken) -> Result<(), StoreError> {
        self.save(FENCE, &token)
    }

    /// The deployments whose status may stand on the bus.
    pub fn reported(&self) -> BTreeSet<DeploymentName> {
        self.load(REPORTED).unwrap_or_default()
    }

    /// Keeps the deployments whose status may stand on the bus.
    pub fn put_reported(&self, names: &BTreeSet<DeploymentName>) -> Result<(), StoreError> {
        self.save(REPORTED, names)
    }

    /// All containers of services that there may be; none when that is not known.
    pub fn seen(&self) -> Option<Vec<ManagedService>> {
        self.load(SEEN)
    }

    /// Keeps all containers of services that there are.
    pub fn put_seen(&self, seen: Vec<ManagedService>) -> Result<(), StoreError> {
        self.save(SEEN, &seen)
    }

    /// From now on it is not known which containers of services there are.
    pub fn forget_seen(&self) -> Result<(), StoreError> {
        remove(self.path(SEEN))
    }

    /// The file of a kind; none when there is none, or none that can be used.
    pub(super) fn load<T: DeserializeOwned>(&self, kind: Kind<T>) -> Option<T> {
        self.read(kind.version, &self.path(kind))
    }

    /// Replaces the file of a kind. Done when it is on the disk.
    pub(super) fn save<T: Serialize>(&self, kind: Kind<T>, content: &T) -> Result<(), StoreError> {
        self.write(kind.version, self.path(kind), content)
    }

    /// The files of a kind that has one for each key, as far as they can be used.
    pub(super) fn load_each<K: Key, T: DeserializeOwned>(&self, kind: Kind<T>) -> BTreeMap<K, T> {
        let dir = self.dir.join(kind.name);
        let key = |name: &str| name.strip_suffix(SUFFIX)?.parse::<K>().ok();
        let each = names(&dir).into_iter().filter_map(|name| Some((key(&name)?, dir.join(name))));
        each.filter_map(|(key, path)| Some((key, self.read(kind.version, &path)?))).collect()
    }

    /// Replaces the file of one key.
    pub(super) fn save_one<K: Key, T: Serialize>(
        &self,
        kind: Kind<T>,
        key: &K,
        content: &T,
    ) -> Result<(), StoreError> {
        let dir = self.dir.join(kind.name);
        if !dir.is_dir() {
            let made = fs::create_dir(&dir).and_then(|()| File::open(&self.dir)?.sync_all());
            made.map_err(|source| StoreError::Write { path: dir, source })?;
        }
        self.write(kind.version, self.path_of(kind, key), content)
    }

    /// Removes the file of one key; one that is gone is fine.
    pub(super) fn remove_one<K: Key, T>(&self, kind: Kind<T>, key: &K) -> Result<(), StoreError> {
        remove(self.path_of(kind, key))
    }

    fn path<T>(&self, kind: Kind<T>) -> PathBuf {
        self.dir.join(format!("{}{SUFFIX}", kind.name))
    }

    fn path_of<T>(&self, kind: Kind<T>, key: &impl Key) -> PathBuf {
        self.dir.join(kind.name).join(format!("{key}{SUFFIX}"))
    }

    fn write<T: Serialize>(&self, version: u32, path: PathBuf, content: &T) -> Result<(), StoreError> {
        let written =
            file::encode(version, content).and_then(|bytes| atomic_file::write(&path, &bytes, MODE));
        match written {
            Ok(()) => {
                self.clear_not_written(&path);
                Ok(())
            }
            Err(source) => {
                self.note(&path, StateProblem::NotWritten { cause: source.to_string() });
                Err(StoreError::Write { path, source })
            }
        }
    }

    fn read<T: DeserializeOwned>(&self, version: u32, path: &Path) -> Option<T> {
        match file::read(version, path)? {
            Ok(content) => Some(content),
            Err(unusable) => {
                let problem = file::keep_aside(path, unusable);
                tracing::warn!(path = %path.display(), ?problem, "a state file cannot be used; going on without it");
                self.note(path, problem);
                None
            }
        }
    }

    /// Looks through the directory and those in it, once.
    fn sweep(&self, dir: &Path) {
        for name in names(dir) {
            let path = dir.join(&name);
            if name.ends_with(file::UNFINISHED) {
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(path = %path.display(), %error, "an unfinished file stays");
                }
            } else if file::is_aside(&name) {
                tracing::warn!(path = %path.display(), "an earlier start has kept this aside");
                self.note(&path, StateProblem::Aside);
            } else if dir == self.dir && path.is_dir() {
                self.sweep(&path);
            }
        }
    }

    /// Says what is wrong with a file, in place of what was said of it before.
    fn note(&self, path: &Path, problem: StateProblem) {
        let file = path.strip_prefix(&self.dir).unwrap_or(path).display().to_string();
        self.notes.send_if_modified(|notes| {
            let note = StateNote { file, problem };
            if notes.contains(&note) {
                return false;
            }
            notes.retain(|other| other.file != note.file);
            notes.push(note);
            let too_many = notes.len().saturating_sub(MAX_NOTES);
            notes.drain(..too_many);
            true
        });
    }

    fn clear_not_written(&self, path: &Path) {
        self.notes.send_if_modified(|notes| {
            let file = path.strip_prefix(&self.dir).unwrap_or(path);
            let before = notes.len();
            notes.retain(|note| {
                Path::new(&note.file) != file || !matches!(note.problem, StateProblem::NotWritten { .. })
            });
            notes.len() != before
        });
    }
}

fn remove(path: PathBuf) -> Result<(), StoreError> {
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StoreError::Remove { path, source }),
        _ => Ok(()),
    }
}

/// The names in a directory, sorted; what is not UTF-8 is none of ours.
fn names(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> DeploymentName {
        DeploymentName::new("web").unwrap()
    }

    fn problems(store: &Store) -> Vec<(String, StateProblem)> {
        store.notes().borrow().iter().map(|note| (note.file.clone(), note.problem.clone())).collect()
    }

    #[test]
    fn what_was_put_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record { revision: 4, deleted: true, ..Record::default() };
        let index = IndexRecord { revision: 3, written_ns: 9, index: Index::default() };
        let store = Store::open(dir.path()).unwrap();
        store.put(&web(), &record).unwrap();
        store.put_index(&index).unwrap();
        // A power cut while it was written.
        fs::write(dir.path().join("desired/web.json.7.tmp"), "{").unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.records(), BTreeMap::from([(web(), record)]));
        assert_eq!(store.index(), Some(index));
        store.forget(&web()).unwrap();
        store.forget(&web()).unwrap();
        assert_eq!(store.records(), BTreeMap::new());
        assert_eq!(names(&dir.path().join("desired")), BTreeSet::new());
        assert_eq!(problems(&store), []);
    }

    #[test]
    fn what_cannot_be_used_is_kept_aside_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let record = Record { revision: 1, ..Record::default() };
        store.put(&web(), &record).unwrap();
        let good = fs::read(dir.path().join("desired/web.json")).unwrap();
        let cut = &good[..good.len() - 1];
        let newer = String::from_utf8(good.clone()).unwrap().replacen("pilab-state 1", "pilab-state 9", 1);
        let aside = dir.path().join("desired");
        for (bytes, kept) in [(&b""[..], "web.json.bad-1"), (b"{", "web.json.bad-2"), (cut, "web.json.bad-3")]
        {
            fs::write(dir.path().join("desired/web.json"), bytes).unwrap();
            assert_eq!(store.records(), BTreeMap::new(), "{kept}");
            assert_eq!(fs::read(aside.join(kept)).unwrap(), bytes);
            let kept_as = Some(kept.to_owned());
            let told = problems(&store);
            assert!(
                matches!(&told[..], [(file, StateProblem::Damaged { kept_as: at, .. })] if file == "desired/web.json" && *at == kept_as),
                "{told:?}"
            );
        }
        fs::write(dir.path().join("desired/web.json"), newer).unwrap();
        assert_eq!(store.records(), BTreeMap::new());
        let kept_as = Some("web.json.newer-1".to_owned());
        assert_eq!(
            problems(&store),
            [("desired/web.json".to_owned(), StateProblem::Newer { version: 9, kept_as })]
        );
        // A fourth goes into the place of the oldest; what is put then is a new file.
        fs::write(dir.path().join("desired/web.json"), "x").unwrap();
        store.records();
        store.put(&web(), &record).unwrap();
        let expected = ["web.json", "web.json.bad-2", "web.json.bad-3", "web.json.bad-4", "web.json.newer-1"];
        assert_eq!(names(&aside), expected.map(str::to_owned).into());
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.records(), BTreeMap::from([(web(), record)]));
        assert_eq!(problems(&store).len(), 4, "told at each start while they lie there");
    }

    #[test]
    fn a_lost_fence_is_what_the_records_were_brought_by() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let token = FencingToken { epoch: 2, sequence: 7 };
        let score = crate::model::workload::Score::PodmanV0(Default::default());
        let accepted = Some(Desired { version: 1, generation: 1, token, owner: Default::default(), score });
        store.put(&web(), &Record { accepted, ..Record::default() }).unwrap();
        store.put_fence(FencingToken { epoch: 2, sequence: 9 }).unwrap();
        assert_eq!(store.fence(), Some(FencingToken { epoch: 2, sequence: 9 }));
        fs::write(dir.path().join("fence.json"), "").unwrap();
        assert_eq!(store.fence(), Some(token));
    }

    #[test]
    fn what_cannot_be_written_is_told_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // A directory in the file's place: the rename onto it fails, for root too.
        fs::create_dir(dir.path().join("fence.json")).unwrap();
        let token = FencingToken { epoch: 1, sequence: 1 };
        assert!(matches!(store.put_fence(token), Err(StoreError::Write { .. })));
        assert!(
            matches!(&problems(&store)[..], [(file, StateProblem::NotWritten { .. })] if file == "fence.json")
        );
        fs::remove_dir(dir.path().join("fence.json")).unwrap();
        store.put_fence(token).unwrap();
        assert_eq!(problems(&store), []);
    }
}
