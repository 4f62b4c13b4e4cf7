//! One device's byte stream: capture, boot stages, waiters, the writer.
//!
//! ```text
//!  port ──► line task ── chunks, openings, gaps (bounded) ──► recorder ──► journal ──► cursors
//!             ▲  │                                               │
//!   write ────┘  └── opens again when the line is gone           └──► stages (watch)
//! ```
//!
//! The line task owns the line and does nothing that can keep it from reading. The recorder owns the
//! offset, the boot attempt and the stage detector: it appends each chunk to the journal before
//! anything else sees it. When the journal cannot be written, the line is read all the same, what was
//! read is lost, and the hole is recorded as a gap as soon as writing works again.

mod handle;
mod line;
mod lines;
pub mod port;
mod recorder;
mod stages;

pub use handle::{ConsoleHandle, MatchedLine, WaitError, WaitFrom, WriteError};
pub use line::WRITE_TIMEOUT;
pub use recorder::{StageReached, Stages, Status};
pub use stages::{Detector, Found};

use crate::journal::JournalHandle;
use crate::support::term::Term;
use port::ByteStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many chunks may wait for the journal: 1 MiB at the size of a read, a minute and a half of a
/// console at 115200 baud.
const CHUNKS: usize = 64;
/// How many commands may wait for the line task; more are refused as busy.
const COMMANDS: usize = 16;

/// What a console is made of.
pub struct ConsoleParts {
    /// Where its bytes come from.
    pub port: Arc<dyn ByteStream>,
    /// Where they go. Its task must outlive the console.
    pub journal: JournalHandle,
    /// How long to wait before a line that could not be opened, or went away, is opened again.
    pub reopen_after: Duration,
    /// Whether this process may write to it at all.
    pub term: Term,
}

/// Starts to capture, until `token` is cancelled. Goes on in the boot attempt that the journal ends
/// with.
pub fn spawn(parts: ConsoleParts, tracker: &TaskTracker, token: CancellationToken) -> ConsoleHandle {
    let ConsoleParts { port, journal, reopen_after, term } = parts;
    let (notes, received) = mpsc::channel(CHUNKS);
    let (commands, requests) = mpsc::channel(COMMANDS);
    let (stages, watched_stages) = watch::channel(Stages::default());
    let (status, watched_status) = watch::channel(Status::default());
    tracker.spawn(recorder::Recorder::new(journal.clone(), stages, status).run(received));
    let attempt = journal.recovered().attempt;
    let line = line::LineTask::new(port, journal.clone(), notes, attempt, reopen_after, term);
    tracker.spawn(line.run(requests, token));
    ConsoleHandle::new(commands, journal, watched_stages, watched_status)
}
