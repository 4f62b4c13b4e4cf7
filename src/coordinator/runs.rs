//! What outlives the coordinator of its runs: a record of each in the lab's bucket, until it has ended and its bundle is
//! written, and its events in a file, each before anybody is shown it.

use super::parts::Parts;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::{LabName, RunId, UserName};
use crate::model::run::RunEvent;
use crate::model::scenario::Scenario;
use crate::support::chain::Chain;
use crate::wire::subject;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// Version of the records.
const VERSION: u32 = 1;
/// How many runs' events are kept.
const MAX_FILES: usize = 1000;
/// The most bytes of events of one run that are read: a run has some hundreds of them.
const MAX_EVENTS: u64 = 256 << 20;
/// How long writing an event may take: a disk that hangs must not hold up a run.
const WRITE_WAIT: Duration = Duration::from_secs(1);

/// A run that has not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunRecord {
    version: u32,
    pub(super) run: RunId,
    pub(super) owner: UserName,
    pub(super) scenario: Scenario,
    pub(super) keep: bool,
    /// It has, or had, its devices.
    pub(super) started: bool,
    /// Which attempt it is, from 1.
    pub(super) attempt: u32,
}

impl RunRecord {
    pub(super) fn new(run: RunId, owner: UserName, scenario: Scenario, keep: bool, attempt: u32) -> Self {
        Self { version: VERSION, run, owner, scenario, keep, started: false, attempt }
    }
}

/// A coordinator's runs, as they are kept.
pub(super) struct Runs {
    bus: Bus,
    bucket: String,
    dir: PathBuf,
}

impl Runs {
    pub(super) fn new(parts: &Parts) -> Self {
        let lab: &LabName = &parts.lab;
        Self { bus: parts.bus.clone(), bucket: subject::lab_bucket(lab), dir: parts.dir.join("runs") }
    }

    /// Records a run that is accepted; false when one of this name was recorded before, also when it has ended since.
    pub(super) async fn accept(&self, record: &RunRecord) -> Result<bool, BusError> {
        match self.bus.kv_put_if(&self.bucket, &subject::run_key(&record.run), encode(record), 0).await {
            Ok(_) => Ok(true),
            Err(BusError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Records that a run has its devices. From then on it is not begun again.
    pub(super) async fn started(&self, record: RunRecord) {
        let record = RunRecord { started: true, ..record };
        let key = subject::run_key(&record.run);
        if let Err(error) = self.bus.kv_put(&self.bucket, &key, encode(&record)).await {
            // Its events say so as well.
            tracing::warn!(run = %record.run, error = %Chain(&error), "it is not recorded that a run has started");
        }
    }

    /// Forgets a run that has ended. Its name is not used again: what remains is a mark.
    pub(super) async fn forget(&self, run: &RunId) {
        if let Err(error) = self.bus.kv_delete(&self.bucket, &subject::run_key(run)).await {
            tracing::warn!(%run, error = %Chain(&error), "a run that has ended is still recorded; it is looked at again");
        }
    }

    /// The runs that have not ended. What is not understood is told and left alone.
    pub(super) async fn going(&self) -> Result<Vec<RunRecord>, BusError> {
        let mut going = Vec::new();
        for key in self.bus.kv_keys(&self.bucket, subject::RUN_KEYS).await? {
            let Some(entry) = self.bus.kv_get(&self.bucket, &key).await?.filter(|entry| !entry.deleted)
            else {
                continue;
            };
            match serde_json::from_slice::<RunRecord>(&entry.value) {
                Ok(record) if record.version == VERSION => going.push(record),
                Ok(record) => {
                    tracing::warn!(key, version = record.version, "a run's record is of another version")
                }
                Err(error) => tracing::warn!(key, %error, "a run's record is not understood"),
            }
        }
        Ok(going)
    }

    fn path(&self, run: &RunId) -> PathBuf {
        self.dir.join(format!("{run}.jsonl"))
    }

    /// The events of a run, as far as they are known; none of one that nobody knows. A line that was being written when the
    /// coordinator died is no event.
    pub(super) fn events(&self, run: &RunId) -> Vec<RunEvent> {
        let path = self.path(run);
        let size = fs::metadata(&path).map_or(0, |file| file.len());
        if size > MAX_EVENTS {
            tracing::warn!(path = %path.display(), size, "a run's events are too many to be read");
            return Vec::new();
        }
        let bytes = fs::read(&path).unwrap_or_default();
        let events = bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        // Numbered without holes, or else what follows the hole cannot be told to anybody.
        let events = events.enumerate().take_while(|(at, event): &(usize, RunEvent)| event.seq == *at as u64);
        events.map(|(_, event)| event).collect()
    }

    /// Where the events of a run are kept from now on; `known` of them are there already, and what follows those is cut off.
    pub(super) fn keep(&self, run: &RunId, known: &[RunEvent]) -> Kept {
        let path = self.path(run);
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
            file.set_len(known.iter().map(|event| line(event).len() as u64).sum())?;
            io::Result::Ok(file)
        };
        let file = open().inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "a run's events are not kept");
        });
        Kept { file: Arc::new(Mutex::new(file.ok())) }
    }

    /// Removes the events of runs of long ago.
    pub(super) fn prune(&self) {
        let age = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).map(|path| (age(&path), path)).collect();
        files.sort();
        for (_, path) in files.iter().rev().skip(MAX_FILES) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a run's events are not removed");
            }
        }
    }
}

/// The file of a run's events.
pub(super) struct Kept {
    /// None when it cannot be written: what came after a hole would be of no use.
    file: Arc<Mutex<Option<File>>>,
}

impl Kept {
    /// Writes an event. It is in the file when this returns, unless the disk is full or hangs: then no more is written.
    pub(super) async fn write(&self, event: &RunEvent) {
        let (file, line) = (Arc::clone(&self.file), line(event));
        let write = tokio::task::spawn_blocking(move || {
            let mut file = crate::support::lock::lock(&file);
            match file.as_mut().map(|file| file.write_all(&line)) {
                Some(Err(error)) => {
                    *file = None;
                    Err(error)
                }
                _ => Ok(()),
            }
        });
        match timeout(WRITE_WAIT, write).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(run = %event.run, %error, "a run's events are not kept any more")
            }
            Ok(Err(error)) => tracing::warn!(run = %event.run, %error, "a run's event is not kept"),
            Err(_) => tracing::warn!(run = %event.run, "a run's event is not kept yet: the disk is slow"),
        }
    }
}

/// Events and records are structs of strings and numbers, which always have a JSON form.
fn line(event: &RunEvent) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

fn encode(record: &RunRecord) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
