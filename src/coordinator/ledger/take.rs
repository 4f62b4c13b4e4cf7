//! Takes the ledger: a greater epoch on the disk, then in the bucket; then what the bucket holds.

use super::disk;
use super::error::TakeError;
use super::points::{FailPoint, Hook};
use super::standby::Silence;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::bus::kv::Entry;
use crate::bus::provision;
use crate::bus::sole_writer::SoleWriter;
use crate::model::id::LabName;
use crate::model::ledger::{Epoch, Key, LEDGER_VERSION, Record, Stored};
use crate::model::time::HostBoot;
use crate::wire::subject;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::time::Duration;

/// How often somebody else may write while the ledger is taken: a coordinator that still has it.
const ATTEMPTS: u32 = 16;

/// Who takes it.
pub(super) struct Taker<'a> {
    pub(super) bus: &'a Bus,
    pub(super) lab: &'a LabName,
    /// The file with the epoch.
    pub(super) disk: &'a Path,
    /// The number by which this coordinator knows its own epochs.
    pub(super) me: u64,
    /// This boot of the host.
    pub(super) boot: HostBoot,
    /// For how long after its last write this coordinator may act.
    pub(super) acts_for: Duration,
    /// For how long nothing has been written since the write with this sequence.
    pub(super) silence: Option<Silence>,
    /// Now, on the boot clock in nanoseconds.
    pub(super) now_ns: u64,
    pub(super) hook: Option<&'a Hook>,
}

/// The ledger as it was taken.
pub(super) struct Taken {
    pub(super) epoch: u64,
    /// For how long from now whoever had the ledger before may still act on devices.
    pub(super) wait: Duration,
    pub(super) writer: SoleWriter,
    pub(super) records: Vec<Record>,
    /// The sequences of deletion marks, sorted.
    pub(super) marks: Vec<u64>,
}

impl Taker<'_> {
    /// `before` is the epoch with which this coordinator had it. That somebody else has taken it since is final.
    pub(super) async fn take(&self, before: Option<u64>) -> Result<Taken, TakeError> {
        let bucket = subject::ledger_bucket(self.lab);
        provision::ledger_bucket(self.bus, self.lab).await.map_err(TakeError::Provision)?;
        let (epoch, wait, writer) = self.mark(&bucket, before).await?;
        self.reached(FailPoint::EpochInBucket);
        // Whoever had it can write no more: what is read now stays so.
        let snapshot = self.bus.kv_snapshot(&bucket).await.map_err(bus("read the ledger"))?;
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        for (key, entry) in snapshot.entries {
            if entry.deleted {
                marks.push(entry.revision);
            } else if key == subject::EPOCH_KEY {
                // Whoever tells of an earlier one has not come to what was written before it either.
                let told: Epoch = read(&key, &entry)?;
                if told.epoch < epoch {
                    return Err(TakeError::Stale { epoch: told.epoch, written: epoch });
                }
            } else {
                records.push(record(&key, &entry)?);
            }
        }
        marks.sort_unstable();
        Ok(Taken { epoch, wait, writer, records, marks })
    }

    /// Writes the next epoch to the disk, then to the bucket.
    async fn mark(
        &self,
        bucket: &str,
        before: Option<u64>,
    ) -> Result<(u64, Duration, SoleWriter), TakeError> {
        let mut attempts = ATTEMPTS;
        loop {
            let last = self.bus.kv_last(bucket).await.map_err(bus("ask for the ledger's last write"))?;
            let known = self.bus.kv_get(bucket, subject::EPOCH_KEY).await;
            let known = known.map_err(bus("read the ledger's epoch"))?;
            let known: Option<Epoch> =
                known.filter(|entry| !entry.deleted).map(|e| read(subject::EPOCH_KEY, &e)).transpose()?;
            let other = known.as_ref().filter(|known| known.by != self.me);
            if let Some(other) = other.filter(|other| before.is_some_and(|before| other.epoch > before)) {
                return Err(TakeError::Deposed { epoch: other.epoch });
            }
            let disk_error =
                |what| move |source| TakeError::Disk { what, path: self.disk.to_owned(), source };
            let floor = disk::read(self.disk).map_err(disk_error("read"))?;
            let epoch = floor.epoch.max(known.as_ref().map_or(0, |known| known.epoch)) + 1;
            let silent = self.silence.map_or(Duration::ZERO, |silence| silence.lasted(last, self.now_ns));
            let wait = known.map_or(Duration::ZERO, |known| self.wait(&known, floor).saturating_sub(silent));
            let taken = disk::Taken { epoch, by: self.me, boot: Some(self.boot) };
            disk::write(self.disk, taken).map_err(disk_error("write"))?;
            self.reached(FailPoint::EpochOnDisk);
            let mut writer = self.bus.sole_writer(bucket, last);
            let value = serde_json::to_vec(&self.epoch(epoch)).map_err(|error| TakeError::Malformed {
                key: subject::EPOCH_KEY.to_owned(),
                revision: 0,
                problem: error.to_string(),
            })?;
            let written = async { writer.put(subject::EPOCH_KEY, value).await?.stored().await };
            match written.await {
                Ok(_) => return Ok((epoch, wait, writer)),
                Err(BusError::Conflict { .. }) if attempts > 1 => attempts -= 1,
                Err(source) => return Err(TakeError::Bus { what: "write the ledger's epoch", source }),
            }
        }
    }

    /// What this coordinator writes of itself.
    pub(super) fn epoch(&self, epoch: u64) -> Epoch {
        let Self { me, acts_for, .. } = *self;
        Epoch { version: LEDGER_VERSION, epoch, by: me, acts_for, resigned: false }
    }

    /// For how long whoever had the ledger may act once this coordinator's epoch is written: not at all when it has
    /// ended, is this one, or had its disk, whose lock tells that it is dead. The file may be a copy on another
    /// host: there is another boot.
    fn wait(&self, last: &Epoch, disk: disk::Taken) -> Duration {
        let dead = last.by == disk.by && disk.boot == Some(self.boot);
        if last.resigned || last.by == self.me || dead { Duration::ZERO } else { last.acts_for }
    }

    fn reached(&self, point: FailPoint) {
        if let Some(hook) = self.hook {
            hook.reached(point);
        }
    }
}

fn bus(what: &'static str) -> impl Fn(BusError) -> TakeError {
    move |source| TakeError::Bus { what, source }
}

fn read<T: DeserializeOwned>(key: &str, entry: &Entry) -> Result<T, TakeError> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let malformed = |problem| TakeError::Malformed { key: key.to_owned(), revision: entry.revision, problem };
    let Versioned { version } =
        serde_json::from_slice(&entry.value).map_err(|error| malformed(error.to_string()))?;
    if version != LEDGER_VERSION {
        return Err(malformed(format!("its version is {version}, and this program knows {LEDGER_VERSION}")));
    }
    serde_json::from_slice(&entry.value).map_err(|error| malformed(error.to_string()))
}

fn record(key: &str, entry: &Entry) -> Result<Record, TakeError> {
    let Stored { record, .. } = read(key, entry)?;
    if key.parse::<Key>().ok() == Some(record.key()) {
        return Ok(record);
    }
    let problem = format!("it holds what belongs under {}", record.key());
    Err(TakeError::Malformed { key: key.to_owned(), revision: entry.revision, problem })
}
