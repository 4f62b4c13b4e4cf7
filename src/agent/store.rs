//! What the agent was told, on disk: it acknowledges a desired value only when it lies here.
//!
//! ```text
//! <dir>/index.json              the index as last seen
//! <dir>/fence.json              the greatest fencing token seen
//! <dir>/reported.json           deployments whose status may stand on the bus (the reporter's)
//! <dir>/desired/<deployment>.json
//! ```
//!
//! Each file is replaced as a whole (`support::atomic_file`) and carries a version. A file that cannot be
//! read is reported and left out: the bus has it still.

use super::score::Refusal;
use crate::model::id::DeploymentName;
use crate::model::lease::FencingToken;
use crate::model::workload::{Desired, Index};
use crate::support::atomic_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The version of the files that this build writes and reads.
const STORE_VERSION: u32 = 1;
/// Desired values may hold secrets in `env`.
const MODE: u32 = 0o600;

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
    /// The index.
    pub index: Index,
}

#[derive(Serialize, Deserialize)]
struct File<T> {
    version: u32,
    content: T,
}

/// The directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Opens or makes the directory.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        let desired = dir.join("desired");
        fs::create_dir_all(&desired).map_err(|source| StoreError::Write { path: desired, source })?;
        Ok(Self { dir })
    }

    /// All records.
    pub fn records(&self) -> BTreeMap<DeploymentName, Record> {
        let Ok(entries) = fs::read_dir(self.dir.join("desired")) else { return BTreeMap::new() };
        let record = |entry: fs::DirEntry| {
            let name = entry.file_name().to_str()?.strip_suffix(".json")?.to_owned();
            let name = DeploymentName::new(name).ok()?;
            Some((name, read(&entry.path())?))
        };
        entries.filter_map(|entry| record(entry.ok()?)).collect()
    }

    /// Keeps a record.
    pub fn put(&self, name: &DeploymentName, record: &Record) -> Result<(), StoreError> {
        write(self.record_path(name), record)
    }

    /// Forgets a record.
    pub fn forget(&self, name: &DeploymentName) -> Result<(), StoreError> {
        let path = self.record_path(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Remove { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The index.
    pub fn index(&self) -> Option<IndexRecord> {
        read(&self.dir.join("index.json"))
    }

    /// Keeps the index.
    pub fn put_index(&self, index: &IndexRecord) -> Result<(), StoreError> {
        write(self.dir.join("index.json"), index)
    }

    /// The greatest fencing token seen.
    pub fn fence(&self) -> Option<FencingToken> {
        read(&self.dir.join("fence.json"))
    }

    /// Keeps the greatest fencing token seen.
    pub fn put_fence(&self, token: FencingToken) -> Result<(), StoreError> {
        write(self.dir.join("fence.json"), &token)
    }

    /// The deployments whose status may stand on the bus.
    pub fn reported(&self) -> BTreeSet<DeploymentName> {
        read(&self.dir.join("reported.json")).unwrap_or_default()
    }

    /// Keeps the deployments whose status may stand on the bus.
    pub fn put_reported(&self, names: &BTreeSet<DeploymentName>) -> Result<(), StoreError> {
        write(self.dir.join("reported.json"), names)
    }

    fn record_path(&self, name: &DeploymentName) -> PathBuf {
        self.dir.join("desired").join(format!("{name}.json"))
    }
}

fn write<T: Serialize>(path: PathBuf, content: &T) -> Result<(), StoreError> {
    let written = serde_json::to_vec(&File { version: STORE_VERSION, content })
        .map_err(io::Error::from)
        .and_then(|bytes| atomic_file::write(&path, &bytes, MODE));
    written.map_err(|source| StoreError::Write { path, source })
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read a state file; going on without it");
            return None;
        }
    };
    match serde_json::from_slice::<File<T>>(&bytes) {
        Ok(file) if file.version == STORE_VERSION => Some(file.content),
        Ok(file) => {
            tracing::error!(path = %path.display(), version = file.version, "a state file of another version; going on without it");
            None
        }
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "a damaged state file; going on without it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let name = DeploymentName::new("web").unwrap();
        let record = Record { revision: 4, deleted: true, ..Record::default() };
        let index = IndexRecord { revision: 3, index: Index::default() };
        let store = Store::open(dir.path()).unwrap();
        store.put(&name, &record).unwrap();
        store.put_index(&index).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.records(), BTreeMap::from([(name.clone(), record)]));
        assert_eq!(store.index(), Some(index));
        store.forget(&name).unwrap();
        store.forget(&name).unwrap();
        assert_eq!(store.records(), BTreeMap::new());
    }

    #[test]
    fn a_damaged_file_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for content in ["", "{", "{\"version\":9,\"content\":{}}"] {
            fs::write(dir.path().join("desired/web.json"), content).unwrap();
            fs::write(dir.path().join("index.json"), content).unwrap();
            assert_eq!((store.records(), store.index()), (BTreeMap::new(), None), "{content:?}");
        }
    }
}
