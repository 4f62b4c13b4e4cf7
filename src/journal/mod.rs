//! One device's append-only record: console bytes, events and power intents in one sequence.
//!
//! One task owns the files ([`JournalTask`]). Everybody else holds a [`JournalHandle`]: it appends, and
//! makes [`Cursor`]s, which read the files at their own pace. A record is in the file before anyone
//! sees it, so what a reader or a stage detector has seen survives a `kill -9`; what must survive a
//! power cut of the host too is appended with [`JournalHandle::event_synced`].
//!
//! A journal is a directory of segment files, `<first sequence number, 20 digits>.seg`, and a file
//! `lock` that keeps a second process out. Numbers are little-endian. A segment is a header, then
//! records without padding; its first record is a summary of all before it.
//!
//! | segment header: offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `pilabjnl` |
//! | 8 | 2 | version of the layout, 1 |
//! | 10 | 2 | 0 |
//! | 12 | 8 | sequence number of the first record |
//! | 20 | 36 | the host's boot id as text (random(4)), 0-filled |
//! | 56 | 4 | CRC-32 (IEEE 802.3) of the bytes before |
//!
//! | record: offset | bytes | |
//! |---|---|---|
//! | 0 | 4 | CRC-32 of the bytes after, payload included |
//! | 4 | 4 | length of the payload, at most 1 MiB |
//! | 8 | 8 | sequence number: the one before plus 1 |
//! | 16 | 8 | boot clock, ns |
//! | 24 | 8 | wall time, ms since 1970-01-01 UTC |
//! | 32 | 8 | boot attempt |
//! | 40 | 2 | kind |
//! | 42 | 2 | 0 |
//! | 44 | | payload |
//!
//! | kind | payload |
//! |---|---|
//! | 1 console | 8 bytes absolute offset, then the bytes as they came |
//! | 2 event | [`crate::model::event::Event`] as JSON |
//! | 3 cut | 8 bytes: how many unreadable bytes were cut off after a crash |
//! | 4 summary | [`Summary`] as JSON |
//!
//! Readers skip kinds and events that they do not know. A layout of another version is refused, never
//! overwritten.
//!
//! **What is kept** is bounded by size and by age ([`Options`]); whole segments go, the oldest first, never the last. Age is
//! told by the boot clock within one boot of the host, and by wall time across boots, where that was set: records
//! of a host whose clock stood before 2025 go by size alone.
//!
//! **When the disk is full**, or a write fails otherwise, nothing of that write stays: the caller gets
//! the error, the records before it stay readable, and the next append tries anew. The journal does
//! not keep what it could not write; who appends decides what to do (the console goes on reading its
//! line and records a gap when writing works again).

mod cursor;
mod head;
mod lane;
mod record;
mod segment;
mod writer;

pub use cursor::{Cursor, Item, Missing, Since};
pub use record::{Entry, Intent, Record, Summary};
pub use writer::{JournalHandle, JournalTask, Receipt};

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A journal could not do its part.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The directory or a file in it cannot be used.
    #[error("cannot open journal {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Another process has it.
    #[error("journal {path} is in use by another process")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// It was written by another version.
    #[error("{path} has layout version {version}, which this build cannot read")]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// A record could not be written; nothing of it is in the journal.
    #[error("cannot write journal {path}")]
    Write {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A record is in the journal, but may be lost if the host loses its power now.
    #[error("cannot flush journal {path} to disk")]
    Sync {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A segment cannot be read.
    #[error("cannot read journal segment {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A record is longer than 1 MiB, or is not JSON.
    #[error("a record of {bytes} bytes does not fit into the journal")]
    TooLong {
        /// How long.
        bytes: usize,
    },
    /// The journal's task has ended.
    #[error("the journal is closed")]
    Gone,
}

/// How much of a journal is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is closed when it would grow beyond this many bytes.
    pub segment_bytes: u64,
    /// The oldest segments are removed when all together hold more than this many bytes.
    pub total_bytes: u64,
    /// Records older than this are removed, segment by segment: each is closed after an eighth of it, so that
    /// nothing is kept for longer than nine eighths. Looked at when a record is written.
    pub max_age: Duration,
}

impl Default for Options {
    /// 16 MiB and 1 GiB: a console at 115200 baud writes at most 1 GB a day, and seldom 10 MB. 90 days: what is
    /// older has been looked into, or never will be.
    fn default() -> Self {
        Self { segment_bytes: 16 << 20, total_bytes: 1 << 30, max_age: Duration::from_secs(90 * 24 * 3600) }
    }
}

/// Opens the journal in `dir`, which is made when missing, and cuts off what a crash left unfinished.
/// Reads its last segment; done in a blocking thread. The caller must run the task.
pub async fn open(dir: &Path, options: Options) -> Result<(JournalHandle, JournalTask), JournalError> {
    let dir = dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        let lock = lock(&dir)?;
        let recovery = segment::recover(&dir)?;
        writer::start(dir, options, lock, recovery)
    });
    opened.await.unwrap_or(Err(JournalError::Gone))
}

/// Takes the directory for this process, until the file is dropped.
fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let opened = fs::create_dir_all(dir).and_then(|()| File::create(&path));
    let file =
        opened.map_err(|source| JournalError::Open { path: path.clone(), source: Arc::new(source) })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(JournalError::Open { path, source: Arc::new(source) }),
    }
}
