//! Where nights are kept: a directory for each, `<state>/nights/<lab>/<plan>/<begin>`, with its record, page, JUnit
//! report and bundles. One process at a time runs a night of a plan.

use crate::bundle;
use crate::cli::error::CliError;
use crate::model::bundle::Retention;
use crate::model::night::{NIGHT_VERSION, Record};
use crate::support::atomic_file;
use crate::support::chain::Chain;
use crate::support::clock;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// The record's file.
const RECORD: &str = "night.json";
/// Held by the process that runs a night.
const LOCK: &str = "lock";
/// A file of this name in a night's directory keeps the night, with its bundles, whatever the rules say.
const KEEP: &str = "keep";
/// The largest record that is read: 500 runs with excerpts are 2 MB.
const LIMIT: u64 = 64 << 20;

/// The nights of one plan.
#[derive(Debug)]
pub(super) struct Nights {
    dir: PathBuf,
}

/// Who has it runs the night.
#[derive(Debug)]
pub(super) struct Turn {
    _lock: File,
}

impl Nights {
    pub(super) fn new(state: &Path, lab: &str, plan: &str) -> Self {
        Self { dir: state.join("nights").join(lab).join(plan) }
    }

    /// The turn to run a night; none while another process has it.
    pub(super) fn turn(&self) -> Result<Option<Turn>, CliError> {
        let failed = |source| CliError::local("take the turn to run a night", source);
        make(&self.dir)?;
        let lock = File::options().create(true).append(true).open(self.dir.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Turn { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// All nights that can be read, in the order of time. What cannot be read is told in the log and left alone.
    pub(super) fn all(&self) -> Vec<Record> {
        let mut nights: Vec<Record> = self.dirs().iter().filter_map(|dir| read(&dir.join(RECORD))).collect();
        nights.sort_by_key(|night| night.began_ms);
        nights
    }

    /// The directory of a night.
    pub(super) fn dir(&self, night: &Record) -> PathBuf {
        let began = UNIX_EPOCH + Duration::from_millis(night.began_ms);
        let name = humantime::format_rfc3339_millis(began).to_string();
        self.dir.join(name.replace([':', '-', '.'], ""))
    }

    /// Writes a night's record, whole or not at all.
    pub(super) fn write(&self, night: &Record) -> Result<(), CliError> {
        let text =
            serde_json::to_vec_pretty(night).map_err(|e| CliError::local("put the night into words", e))?;
        self.put(night, RECORD, &text).map(drop)
    }

    /// Writes a file of a night; answers where it is.
    pub(super) fn put(&self, night: &Record, name: &str, content: &[u8]) -> Result<PathBuf, CliError> {
        let dir = self.dir(night);
        make(&dir)?;
        let path = dir.join(name);
        atomic_file::write(&path, content, 0o600)
            .map_err(|source| CliError::Write { path: path.clone(), source })?;
        Ok(path)
    }

    /// Removes all but the newest `keep` nights, and those that are marked to be kept.
    pub(super) fn prune(&self, keep: usize) {
        let mut dirs = self.dirs();
        dirs.sort();
        for old in dirs.iter().rev().skip(keep).filter(|dir| !is_kept(dir)) {
            if let Err(error) = std::fs::remove_dir_all(old) {
                tracing::warn!(path = %old.display(), %error, "an old night cannot be removed");
            }
        }
    }

    /// Removes bundles of the nights that are kept, by the lab's rules for bundles, but for those of the newest `whole` nights
    /// and of nights that are marked. Their records and pages stay.
    pub(super) fn prune_bundles(&self, retention: &Retention, whole: usize) {
        let mut dirs = self.dirs();
        dirs.sort();
        let old = dirs.iter().rev().skip(whole).filter(|dir| !is_kept(dir));
        let dirs: Vec<_> = old.map(|dir| dir.join("bundles")).collect();
        if let Err(error) = bundle::prune(&dirs, retention, clock::wall_ms(), false) {
            tracing::warn!(error = %Chain(&error), "old bundles cannot be removed");
        }
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

fn is_kept(night: &Path) -> bool {
    night.join(KEEP).exists()
}

fn make(dir: &Path) -> Result<(), CliError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| CliError::Write { path: dir.to_owned(), source })
}

fn read(path: &Path) -> Option<Record> {
    let refused = |cause: String| {
        tracing::warn!(path = %path.display(), cause, "a night's record cannot be read");
        None
    };
    match std::fs::metadata(path) {
        Ok(file) if file.len() > LIMIT => return refused(format!("it has {} bytes", file.len())),
        Ok(_) => {}
        Err(error) => return refused(error.to_string()),
    }
    let record = std::fs::read(path).map_err(|error| error.to_string());
    match record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string()))
    {
        Ok(record) if record.version <= NIGHT_VERSION => Some(record),
        Ok(record) => refused(format!("it is of version {}", record.version)),
        Err(error) => refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::nightly::page::tests::record;

    #[test]
    fn one_process_has_the_turn_and_old_nights_go() {
        let state = tempfile::tempdir().unwrap();
        let nights = Nights::new(state.path(), "lab", "all");
        let turn = nights.turn().unwrap();
        assert!(turn.is_some() && nights.turn().unwrap().is_none());
        drop(turn);
        assert!(nights.turn().unwrap().is_some());
        for began_ms in [3_000, 1_000, 2_000] {
            nights.write(&Record { began_ms, ..record() }).unwrap();
        }
        std::fs::write(nights.dir(&Record { began_ms: 2_000, ..record() }).join(RECORD), "{").unwrap();
        let began = |nights: &Nights| nights.all().iter().map(|night| night.began_ms).collect::<Vec<_>>();
        assert_eq!(began(&nights), [1_000, 3_000]);
        std::fs::write(nights.dir(&Record { began_ms: 1_000, ..record() }).join(KEEP), "").unwrap();
        nights.prune(2);
        assert_eq!(began(&nights), [1_000, 3_000], "it is marked");
        std::fs::remove_file(nights.dir(&Record { began_ms: 1_000, ..record() }).join(KEEP)).unwrap();
        nights.prune(2);
        assert_eq!(began(&nights), [3_000]);
    }
}
