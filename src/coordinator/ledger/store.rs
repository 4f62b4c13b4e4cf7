//! Where the ledger is kept: one bucket of NATS, written by one coordinator at a time.
//!
//! Every write says which write to the bucket was the last, so that a coordinator which another has followed cannot
//! write any more, whatever the key. The first write is to [`WRITER`]: it tells the next one's predecessor that it
//! has been followed, and which epoch it is. The epoch grows whenever the bucket is not the one that was there
//! before: made anew, or brought back from a copy. That is known from a file on the coordinator's own disk.

use super::LedgerError;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::LabName;
use crate::model::lease::FencingToken;
use crate::model::ledger::{Key, KeyError, Record};
use crate::plan::lease::Change;
use crate::support::atomic_file;
use crate::wire::subject;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// The key that says who writes.
const WRITER: &str = "writer";
/// The file on the coordinator's disk.
const FILE: &str = "ledger.json";
/// After how many writes the file is written anew: so many may be missing from a copy of the bucket that is taken
/// for the bucket itself, as long as no token is given twice, which the records themselves tell.
const FILE_EVERY: u64 = 1000;

/// Who writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Writer {
    epoch: u64,
    /// At random, for each start of a coordinator.
    id: u64,
}

/// What the disk remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    epoch: u64,
    /// A number that the bucket's writes have reached.
    last: u64,
}

/// The bucket, as its writer.
#[derive(Debug)]
pub(super) struct Store {
    bus: Bus,
    bucket: String,
    file: PathBuf,
    me: Writer,
    /// The number of the last write.
    last: u64,
    remembered: u64,
}

impl Store {
    /// Becomes the bucket's writer.
    pub(super) async fn open(bus: Bus, lab: &LabName, dir: PathBuf) -> Result<Self, LedgerError> {
        let (bucket, file) = (subject::lab_bucket(lab), dir.join(FILE));
        let disk = |source| LedgerError::Disk { path: dir.join(FILE), source };
        let known = read(&file).map_err(disk)?;
        let last = bus.kv_last(&bucket).await?;
        let before = writer(&bus, &bucket).await?;
        let me = Writer { epoch: epoch(known, before.map(|before| before.epoch), last), id: rand::random() };
        let mut store = Self { bus, bucket, file, me, last, remembered: 0 };
        // First here: whatever becomes of the bucket, no epoch is begun twice.
        store.remember().map_err(disk)?;
        let value = serde_json::to_vec(&store.me).map_err(|e| LedgerError::Encode(e.to_string()))?;
        let written = store.bus.kv_write_after(&store.bucket, WRITER, Some(value), store.last).await;
        store.last = written.map_err(|error| match error {
            BusError::Conflict { .. } => LedgerError::Contended,
            other => other.into(),
        })?;
        Ok(store)
    }

    /// The token that the next write may grant.
    pub(super) fn next(&self) -> FencingToken {
        FencingToken { epoch: self.me.epoch, sequence: self.last + 1 }
    }

    /// All records. Fails when another coordinator has become the writer.
    pub(super) async fn load(&mut self) -> Result<Vec<Record>, LedgerError> {
        if writer(&self.bus, &self.bucket).await?.as_ref() != Some(&self.me) {
            return Err(LedgerError::Deposed);
        }
        let mut records = Vec::new();
        for name in self.bus.kv_keys(&self.bucket, ">").await? {
            match name.parse::<Key>() {
                Err(KeyError::OtherKind(_)) => continue,
                Err(KeyError::Id(source)) => return Err(LedgerError::Key { key: name, source }),
                Ok(_) => {}
            }
            let Some(entry) = self.bus.kv_get(&self.bucket, &name).await?.filter(|entry| !entry.deleted)
            else {
                continue;
            };
            let record = serde_json::from_slice(&entry.value);
            records.push(record.map_err(|source| LedgerError::Record { key: name, source })?);
        }
        self.last = self.bus.kv_last(&self.bucket).await?;
        Ok(records)
    }

    /// Writes changes, in order. After an error nobody knows which of them were written.
    pub(super) async fn write(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        let mut writes = Vec::with_capacity(changes.len());
        for (change, expected) in changes.iter().zip(self.last..) {
            let (key, value) = match change {
                Change::Put(record) => {
                    let value = serde_json::to_vec(record).map_err(|e| LedgerError::Encode(e.to_string()))?;
                    (record.key().to_string(), Some(value))
                }
                Change::Delete(key) => (key.to_string(), None),
            };
            let (bus, bucket) = (&self.bus, &self.bucket);
            writes.push(async move { bus.kv_write_after(bucket, &key, value, expected).await });
        }
        for written in join_all(writes).await {
            self.last = written.map_err(|error| match error {
                BusError::Conflict { .. } => LedgerError::Unsure,
                other => other.into(),
            })?;
        }
        if self.last >= self.remembered + FILE_EVERY
            && let Err(error) = self.remember()
        {
            tracing::warn!(%error, path = %self.file.display(), "how far the ledger has come is not on disk");
        }
        Ok(())
    }

    fn remember(&mut self) -> io::Result<()> {
        self.remembered = self.last;
        let remembered = Remembered { epoch: self.me.epoch, last: self.last };
        atomic_file::write(&self.file, &serde_json::to_vec(&remembered)?, 0o600)
    }
}

fn read(file: &std::path::Path) -> io::Result<Remembered> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
        Err(error) => Err(error),
    }
}

async fn writer(bus: &Bus, bucket: &str) -> Result<Option<Writer>, LedgerError> {
    let Some(entry) = bus.kv_get(bucket, WRITER).await?.filter(|entry| !entry.deleted) else {
        return Ok(None);
    };
    let writer = serde_json::from_slice(&entry.value);
    writer.map(Some).map_err(|source| LedgerError::Record { key: WRITER.to_owned(), source })
}

/// The epoch of a bucket whose last write has the number `last`: its own, unless it is not the bucket that the disk
/// remembers.
fn epoch(known: Remembered, bucket: Option<u64>, last: u64) -> u64 {
    match bucket {
        Some(epoch) if epoch > known.epoch || (epoch == known.epoch && last >= known.last) => epoch,
        Some(_) | None => known.epoch + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_grows_when_the_bucket_is_another() {
        let known = |epoch, last| Remembered { epoch, last };
        let table = [
            (known(0, 0), None, 0, 1),
            (known(1, 10), Some(1), 10, 1),
            (known(1, 10), Some(1), 99, 1),
            // Made anew.
            (known(1, 10), None, 0, 2),
            // Brought back from a copy of before.
            (known(1, 10), Some(1), 9, 2),
            (known(3, 10), Some(2), 99, 4),
            // Another machine's coordinator went on with it, or this one's disk is new.
            (known(1, 10), Some(2), 5, 2),
            (known(0, 0), Some(4), 7, 4),
        ];
        for (known, bucket, last, expected) in table {
            assert_eq!(epoch(known, bucket, last), expected, "{known:?} {bucket:?} {last}");
        }
    }
}
