//! What others do with a console: wait for stages and patterns, write, read along.

use super::line::Command;
use super::lines::{Change, Lines};
use super::recorder::{Note, StageReached, Stages, Status};
use super::stages::text;
use crate::journal::{Cursor, Entry, Item, JournalError, JournalHandle, Missing, Since};
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::event::Event;
use crate::model::lease::{Fenced, FencingToken};
use crate::model::time::Stamp;
use crate::support::term::Lapsed;
use bytes::Bytes;
use regex::bytes::Regex;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// The most bytes of one write.
const WRITE_LIMIT: usize = 64 * 1024;
/// How long a journal's records of one boot attempt may take to be read.
const READS: Duration = Duration::from_secs(2);

/// A device's console.
#[derive(Debug, Clone)]
pub struct ConsoleHandle {
    commands: mpsc::Sender<Command>,
    journal: JournalHandle,
    stages: watch::Receiver<Stages>,
    status: watch::Receiver<Status>,
}

/// Where a wait for a pattern begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitFrom {
    /// At the beginning of a boot attempt; ends when another attempt begins.
    Attempt(BootAttempt),
    /// At an absolute console offset.
    Offset(u64),
}

/// A line that matched a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedLine {
    /// The line, at most 200 characters, without escape sequences; as far as it had come when it
    /// matched.
    pub line: String,
    /// When its last bytes were journaled.
    pub stamp: Stamp,
    /// The absolute console offset after the bytes that made it match.
    pub offset: u64,
}

/// What was waited for did not come.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("{what} did not show on the console in time; {}", reached(last.as_ref()))]
    Deadline {
        /// What was waited for.
        what: String,
        /// The last stage of progress that was reached.
        last: Option<StageReached>,
    },
    /// The deadline passed, and it may have shown in what was not recorded.
    #[error("{what} did not show in what was recorded of the console, which is not all: {cause}")]
    Unrecorded {
        /// What was waited for.
        what: String,
        /// Why it was not.
        cause: String,
    },
    /// The device's kernel panicked.
    #[error("the kernel panicked: {}", panic.line)]
    Panic {
        /// The panic.
        panic: StageReached,
    },
    /// Another boot attempt has begun.
    #[error("boot attempt {attempt} is over: attempt {current} has begun")]
    Superseded {
        /// The attempt that was waited on.
        attempt: BootAttempt,
        /// The attempt that runs now.
        current: BootAttempt,
    },
    /// The journal cannot be read.
    #[error("cannot read the console's journal: {cause}")]
    Journal {
        /// Why.
        cause: String,
    },
    /// The console's tasks have ended.
    #[error("the console is closed")]
    Gone,
}

fn reached(last: Option<&StageReached>) -> String {
    match last {
        Some(last) => format!("the last stage was {} ({:?}){}", last.stage, last.line, last.again()),
        None => "no boot stage was reached".to_owned(),
    }
}

/// Bytes were not, or not all, written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The lease has passed.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// This coordinator may not write.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    /// Another write is under way.
    #[error("the console is busy with another write")]
    Busy,
    /// More than 64 KiB.
    #[error("{bytes} bytes are too many for one write: use at most {WRITE_LIMIT}")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// The line is not open, or went away meanwhile.
    #[error("the console's line is not open")]
    NotOpen,
    /// The lease passed while it was written: some of it may have been.
    #[error("the lease passed while this was written")]
    Revoked,
    /// The device did not take the bytes in time.
    #[error("the device did not take the bytes")]
    Stalled,
    /// The line failed.
    #[error("cannot write to the console's line")]
    Io(#[source] std::io::Error),
    /// Who writes could not be journaled, so nothing was written.
    #[error("nothing was written")]
    NotAudited(#[source] JournalError),
    /// The console's tasks have ended.
    #[error("the console is closed")]
    Gone,
}

impl ConsoleHandle {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        journal: JournalHandle,
        stages: watch::Receiver<Stages>,
        status: watch::Receiver<Status>,
    ) -> Self {
        Self { commands, journal, stages, status }
    }

    /// The stages of the current boot attempt.
    pub fn stages(&self) -> watch::Receiver<Stages> {
        self.stages.clone()
    }

    /// Whether the line is open, and what is wrong.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Reads along, from anywhere: a cursor into the device's journal, events included.
    pub fn subscribe(&self, from: Since) -> Cursor {
        self.journal.cursor(from)
    }

    /// Waits for a stage of a boot attempt, also one that has not begun. Ends early when the kernel
    /// panics, unless the panic is what is waited for.
    pub async fn wait_stage(
        &self,
        attempt: BootAttempt,
        stage: BootStage,
        deadline: Instant,
    ) -> Result<StageReached, WaitError> {
        let mut stages = self.stages.clone();
        let mut outcome = None;
        let waited = timeout_at(
            deadline,
            stages.wait_for(|now| {
                outcome = judge(now, attempt, stage);
                outcome.is_some()
            }),
        );
        match waited.await {
            Ok(Ok(_)) => outcome.unwrap_or(Err(WaitError::Gone)),
            Ok(Err(_)) => Err(WaitError::Gone),
            Err(_) => Err(self.late(format!("stage {stage}"), None)),
        }
    }

    /// Waits for a line that matches, whole or as far as it has come (a prompt has no end). The
    /// pattern sees one line at a time, without escape sequences, at most 2048 bytes of it.
    pub async fn wait_pattern(
        &self,
        from: WaitFrom,
        pattern: &Regex,
        deadline: Instant,
    ) -> Result<MatchedLine, WaitError> {
        let mut missing = None;
        match timeout_at(deadline, self.find(from, pattern, &mut missing)).await {
            Ok(found) => found,
            Err(_) => Err(self.late(format!("pattern {:?}", pattern.as_str()), missing)),
        }
    }

    /// Whether not one byte has come in this boot attempt so far.
    pub async fn is_mute(&self, attempt: BootAttempt) -> bool {
        if self.stages.borrow().last().is_some() {
            return false;
        }
        // The journal is read up to its end, at which the cursor would wait for more.
        let mut cursor = self.journal.cursor(Since::Attempt(attempt));
        let heard = async {
            loop {
                match cursor.next().await {
                    Ok(Item::Record(record)) if record.attempt > attempt => return false,
                    Ok(Item::Record(record)) if matches!(record.entry, Entry::Console { .. }) => return true,
                    Ok(Item::Record(_)) => {}
                    // What was there is gone: nobody knows.
                    Ok(Item::Missing { .. }) | Err(_) => return true,
                }
            }
        };
        matches!(timeout_at(Instant::now() + READS, heard).await, Err(_) | Ok(false))
    }

    /// Writes, as the holder of the lease with this token. The bytes are counted in the journal before
    /// they are written.
    pub async fn write(&self, token: FencingToken, bytes: impl Into<Bytes>) -> Result<(), WriteError> {
        let bytes = bytes.into();
        if bytes.len() > WRITE_LIMIT {
            return Err(WriteError::TooLong { bytes: bytes.len() });
        }
        self.ask(|done| Command::Write(token, bytes, done)).await
    }

    /// Sends a BREAK, as the holder of the lease with this token; it is journaled before. The kernel takes the
    /// next character for a SysRq command. An I/O error of kind `Unsupported` where the line has no BREAK.
    pub async fn send_break(&self, token: FencingToken) -> Result<(), WriteError> {
        self.ask(|done| Command::Break(token, done)).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), WriteError>>) -> Command,
    ) -> Result<(), WriteError> {
        let (done, result) = oneshot::channel();
        self.commands.try_send(command(done)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy,
            mpsc::error::TrySendError::Closed(_) => WriteError::Gone,
        })?;
        // The line task drops a write that the line did not live to see.
        result.await.unwrap_or(Err(WriteError::NotOpen))
    }

    /// Refuses writers before this token from now on. A write of theirs that is under way ends; done when it has.
    pub async fn fence(&self, token: FencingToken) -> Result<(), WriteError> {
        let (fenced, result) = oneshot::channel();
        self.commands.send(Command::Fence(token, fenced)).await.map_err(|_| WriteError::Gone)?;
        Ok(result.await.map_err(|_| WriteError::Gone)??)
    }

    /// The last lines, oldest first, at most 200 of at most 200 characters; empty when the console is
    /// closed.
    pub async fn last_lines(&self, count: usize) -> Vec<String> {
        let (lines, answer) = oneshot::channel();
        let asked = self.commands.send(Command::Note(Note::LastLines(count, lines))).await;
        if asked.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// What the line gives from here on belongs to this boot attempt. Answers the absolute offset of
    /// its first byte.
    pub async fn begin(&self, attempt: BootAttempt) -> Result<u64, WaitError> {
        let (begun, offset) = oneshot::channel();
        let command = Command::Note(Note::Begin(attempt, begun));
        self.commands.send(command).await.map_err(|_| WaitError::Gone)?;
        offset.await.map_err(|_| WaitError::Gone)
    }

    /// A hole of which the journal tells is seen by whoever reads it; of others only this says anything.
    fn late(&self, what: String, missing: Option<String>) -> WaitError {
        match missing.or_else(|| self.status.borrow().untold.clone()) {
            Some(cause) => WaitError::Unrecorded { what, cause },
            None => WaitError::Deadline { what, last: self.stages.borrow().last().cloned() },
        }
    }

    /// Looks for a line that matches; tells of records that are `missing` on the way.
    async fn find(
        &self,
        from: WaitFrom,
        pattern: &Regex,
        missing: &mut Option<String>,
    ) -> Result<MatchedLine, WaitError> {
        let (attempt, start) = match from {
            WaitFrom::Attempt(attempt) => (Some(attempt), Since::Attempt(attempt)),
            WaitFrom::Offset(offset) => (None, Since::Console(offset)),
        };
        let mut cursor = self.journal.cursor(start);
        let mut lines = Lines::default();
        loop {
            let record = match cursor.next().await {
                Ok(Item::Record(record)) => record,
                Ok(Item::Missing { from, to, cause }) => {
                    let how = match cause {
                        Missing::Expired => "expired",
                        Missing::Damaged => "damaged",
                    };
                    *missing =
                        Some(format!("records of the journal are {how}, from number {from} up to {to}"));
                    lines = Lines::default();
                    continue;
                }
                Err(JournalError::Gone) => return Err(WaitError::Gone),
                Err(error) => return Err(WaitError::Journal { cause: error.to_string() }),
            };
            if let Some(attempt) = attempt
                && record.attempt > attempt
            {
                return Err(WaitError::Superseded { attempt, current: record.attempt });
            }
            match record.entry {
                Entry::Console { offset, bytes } => {
                    if let Some((line, length)) = search(&mut lines, &bytes, pattern) {
                        return Ok(MatchedLine { line, stamp: record.stamp, offset: offset + length as u64 });
                    }
                }
                // What comes after a hole does not continue the line before it.
                Entry::Event(Event::ConsoleGap { .. }) => lines = Lines::default(),
                Entry::Event(_) | Entry::Cut { .. } => {}
            }
        }
    }
}

/// Whether a wait for a stage is over, and how.
fn judge(now: &Stages, attempt: BootAttempt, stage: BootStage) -> Option<Result<StageReached, WaitError>> {
    if now.attempt > attempt {
        return Some(Err(WaitError::Superseded { attempt, current: now.attempt }));
    }
    if now.attempt < attempt {
        return None;
    }
    if let Some(reached) = now.get(stage) {
        return Some(Ok(reached.clone()));
    }
    now.get(BootStage::Panic).map(|panic| Err(WaitError::Panic { panic: panic.clone() }))
}

/// Looks for a line that matches. Answers it, and how many bytes of the chunk were needed.
fn search(lines: &mut Lines, chunk: &[u8], pattern: &Regex) -> Option<(String, usize)> {
    let matching = |line: &[u8]| pattern.is_match(line).then(|| text(line));
    for (index, &byte) in chunk.iter().enumerate() {
        let mut change = lines.push(byte);
        if change == Change::EndedBefore {
            if let Some(line) = matching(&lines.take()) {
                return Some((line, index));
            }
            change = lines.push(byte);
        }
        if change == Change::Ended
            && let Some(line) = matching(&lines.take())
        {
            return Some((line, index + 1));
        }
    }
    if lines.line().is_empty() {
        return None;
    }
    matching(lines.line()).map(|line| (line, chunk.len()))
}
