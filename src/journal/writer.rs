//! The task that owns a journal's files, and the handle to it.

use super::cursor::{Cursor, Since};
use super::head::{Head, Tail};
use super::lane::{self, Haste};
use super::record::{self, Body, Entry, MAX_PAYLOAD, Record, SEGMENT_HEADER, Summary};
use super::segment::{self, Recovery, Segment};
use super::{JournalError, Options};
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::time::Stamp;
use crate::support::clock;
use bytes::Bytes;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How many appends may wait. Beyond it the appender waits.
const QUEUE: usize = 256;
/// How many appends are handed to the blocking thread at once, and flushed with one fdatasync(2).
const BATCH: usize = 64;
/// The most console bytes of one batch that readers get from memory; more they read from the file.
const TAIL: usize = 16 * 1024;
/// A segment with less room than this may be full with the next batch.
const NEARLY_FULL: u64 = 64 * 1024;

/// A record that has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its sequence number.
    pub sequence: u64,
    /// When it was handed over.
    pub stamp: Stamp,
}

/// Appends to a journal and makes cursors into it.
#[derive(Debug, Clone)]
pub struct JournalHandle {
    queue: mpsc::Sender<Append>,
    head: watch::Receiver<Head>,
    recovered: Arc<Summary>,
}

#[derive(Debug)]
struct Append {
    stamp: Stamp,
    attempt: BootAttempt,
    entry: Entry,
    synced: bool,
    done: oneshot::Sender<Result<Receipt, JournalError>>,
}

impl Append {
    fn may_wait(&self) -> bool {
        matches!(self.entry, Entry::Console { .. })
    }
}

impl JournalHandle {
    /// Appends an event; done when it is in the file.
    pub async fn event(&self, attempt: BootAttempt, event: Event) -> Result<Receipt, JournalError> {
        self.append(attempt, Entry::Event(event), false).await
    }

    /// Appends an event; done when it is on the disk (fdatasync(2)).
    pub async fn event_synced(&self, attempt: BootAttempt, event: Event) -> Result<Receipt, JournalError> {
        self.append(attempt, Entry::Event(event), true).await
    }

    /// Appends console bytes; done when they are in the file, within some 2 ms. `offset` is the absolute offset of the
    /// first of them, counted on from [`Summary::console_offset`] of [`Self::recovered`].
    pub async fn console(
        &self,
        attempt: BootAttempt,
        offset: u64,
        bytes: Bytes,
    ) -> Result<Receipt, JournalError> {
        self.append(attempt, Entry::Console { offset, bytes }, false).await
    }

    /// What was known when the journal was opened.
    pub fn recovered(&self) -> &Summary {
        &self.recovered
    }

    /// The sequence number of the next record to be written.
    pub fn next_sequence(&self) -> u64 {
        self.head.borrow().next_sequence
    }

    /// The absolute offset after the last console byte in the journal.
    pub fn console_offset(&self) -> u64 {
        self.head.borrow().console_offset
    }

    /// A reader that begins at `from` and follows the journal for as long as it is open.
    pub fn cursor(&self, from: Since) -> Cursor {
        Cursor::new(self.head.clone(), from)
    }

    async fn append(
        &self,
        attempt: BootAttempt,
        entry: Entry,
        synced: bool,
    ) -> Result<Receipt, JournalError> {
        let (done, receipt) = oneshot::channel();
        let append = Append { stamp: clock::stamp(), attempt, entry, synced, done };
        self.queue.send(append).await.map_err(|_| JournalError::Gone)?;
        receipt.await.unwrap_or(Err(JournalError::Gone))
    }
}

/// The owner of a journal's files.
#[derive(Debug)]
pub struct JournalTask {
    queue: mpsc::Receiver<Append>,
    head: watch::Sender<Head>,
    writer: Writer,
}

/// Starts writing after what was recovered.
pub(super) fn start(
    dir: PathBuf,
    options: Options,
    lock: File,
    recovery: Recovery,
) -> Result<(JournalHandle, JournalTask), JournalError> {
    let recovered = Arc::new(recovery.summary.clone());
    let mut writer = Writer {
        dir,
        options,
        _lock: lock,
        boot_id: Arc::from(clock::boot_id()),
        file: None,
        segments: recovery.segments,
        listed: None,
        next_sequence: recovery.next_sequence,
        summary: recovery.summary,
    };
    if recovery.cut > 0 {
        let entry = Entry::Cut { bytes: recovery.cut };
        writer.append_one(clock::stamp(), writer.summary.attempt, entry)?;
    }
    let (sender, queue) = mpsc::channel(QUEUE);
    let nothing = Tail { first: writer.next_sequence, records: Vec::new() };
    let (head, watched) = watch::channel(writer.head(nothing));
    let handle = JournalHandle { queue: sender, head: watched, recovered };
    Ok((handle, JournalTask { queue, head, writer }))
}

impl JournalTask {
    /// Writes what the handles append, until all handles are dropped, or until `token` is cancelled and
    /// what was queued before is written. Cancel it last: whoever appends later is told `Gone`.
    pub async fn run(self, token: CancellationToken) {
        let Self { mut queue, head, mut writer } = self;
        let mut batch = Vec::with_capacity(BATCH);
        let mut cancelled = std::pin::pin!(token.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled, if !queue.is_closed() => {
                    queue.close();
                    continue;
                }
                count = queue.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                }
            }
            let waits = writer.waits(&batch);
            let haste = if batch.iter().all(Append::may_wait) { Haste::Soon } else { Haste::Now };
            let work = move || {
                let written = writer.append(&mut batch);
                (writer, batch, written)
            };
            let done = if waits {
                tokio::task::spawn_blocking(work).await.ok()
            } else {
                lane::run(haste, work).await
            };
            let Some((returned, emptied, (answers, tail))) = done else {
                return;
            };
            (writer, batch) = (returned, emptied);
            head.send_replace(writer.head(tail));
            for (done, answer) in answers {
                // Whoever does not wait for the answer has lost nothing: the record is written.
                let _ = done.send(answer);
            }
        }
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || writer.sync()).await {
            tracing::warn!("cannot flush a journal to disk: {error}");
        }
    }
}

type Answers = Vec<(oneshot::Sender<Result<Receipt, JournalError>>, Result<Receipt, JournalError>)>;

#[derive(Debug)]
struct Writer {
    dir: PathBuf,
    options: Options,
    _lock: File,
    boot_id: Arc<str>,
    /// The last of `segments`, when this process writes it.
    file: Option<File>,
    segments: Vec<Segment>,
    /// They as readers see them; none when there are others since.
    listed: Option<Arc<Vec<Segment>>>,
    next_sequence: u64,
    summary: Summary,
}

impl Writer {
    fn head(&mut self, tail: Tail) -> Head {
        let segments = self.listed.get_or_insert_with(|| Arc::new(self.segments.clone()));
        Head {
            segments: Arc::clone(segments),
            length: self.segments.last().map_or(0, |last| last.length),
            next_sequence: self.next_sequence,
            console_offset: self.summary.console_offset,
            tail: Arc::new(tail),
        }
    }

    /// Whether a batch waits for the disk: it is flushed, or may begin a segment.
    fn waits(&self, batch: &[Append]) -> bool {
        let (None, Some(last), Some(append)) = (
            batch.iter().find(|append| append.synced),
            self.segments.last().filter(|_| self.file.is_some()),
            batch.last(),
        ) else {
            return true;
        };
        let size = |append: &Append| match &append.entry {
            Entry::Console { bytes, .. } => bytes.len() as u64,
            Entry::Event(_) | Entry::Cut { .. } => 0,
        };
        let bytes: u64 = batch.iter().map(size).sum();
        last.length + bytes + NEARLY_FULL > self.options.segment_bytes
            || self.is_older(last, append.stamp, self.options.max_age / 8)
    }

    /// Writes a batch, and flushes it once when any of it asks for that. Answers what readers may have from memory, too.
    fn append(&mut self, batch: &mut Vec<Append>) -> (Answers, Tail) {
        let mut answers = Answers::with_capacity(batch.len());
        let mut tail = Tail { first: self.next_sequence, records: Vec::with_capacity(batch.len()) };
        let (mut synced, mut bytes) = (Vec::new(), 0);
        for append in batch.drain(..) {
            let Append { stamp, attempt, entry, synced: sync, done } = append;
            bytes += if let Entry::Console { bytes, .. } = &entry { bytes.len() } else { 0 };
            let answer = self.append_one(stamp, attempt, entry.clone());
            if let Ok(Receipt { sequence, .. }) = answer {
                let boot_id = Arc::clone(&self.boot_id);
                tail.records.push(Record { sequence, stamp, boot_id, attempt, entry });
            }
            if sync && answer.is_ok() {
                synced.push(answers.len());
            }
            answers.push((done, answer));
        }
        if !synced.is_empty()
            && let Err(source) = self.sync()
        {
            let error = JournalError::Sync { path: self.dir.clone(), source: Arc::new(source) };
            for index in synced {
                answers[index].1 = Err(error.clone());
            }
        }
        if bytes > TAIL {
            tail = Tail { first: self.next_sequence, records: Vec::new() };
        }
        (answers, tail)
    }

    fn append_one(
        &mut self,
        stamp: Stamp,
        attempt: BootAttempt,
        entry: Entry,
    ) -> Result<Receipt, JournalError> {
        let too_long = |bytes| JournalError::TooLong { bytes };
        let body = Body::Entry(entry);
        let (kind, payload) = record::payload(&body).map_err(|_| too_long(0))?;
        if payload.len() > MAX_PAYLOAD {
            return Err(too_long(payload.len()));
        }
        let sequence = self
            .write(stamp, attempt, kind, &payload)
            .map_err(|source| JournalError::Write { path: self.dir.clone(), source: Arc::new(source) })?;
        if let Body::Entry(entry) = &body {
            self.summary.apply(attempt, stamp, entry);
        }
        Ok(Receipt { sequence, stamp })
    }

    /// Writes one record whole or not at all, in a new segment when the last one is full.
    fn write(&mut self, stamp: Stamp, attempt: BootAttempt, kind: u16, payload: &[u8]) -> io::Result<u64> {
        let room = self.options.segment_bytes.saturating_sub((record::RECORD_HEADER + payload.len()) as u64);
        let full =
            |last: &Segment| last.length > room || self.is_older(last, stamp, self.options.max_age / 8);
        if self.segments.last().is_none_or(full) {
            self.sync()?;
            self.file = None;
        }
        if self.file.is_none() {
            self.begin_segment(stamp)?;
        }
        let (Some(file), Some(last)) = (&self.file, self.segments.last_mut()) else {
            return Err(io::Error::other("no segment is open"));
        };
        let mut bytes = Vec::with_capacity(record::RECORD_HEADER + payload.len());
        record::encode(&mut bytes, self.next_sequence, stamp, attempt, kind, payload);
        if let Err(error) = file.write_all_at(&bytes, last.length) {
            // When the torn end cannot be cut off either, this segment is left as it is: readers stop at
            // its known length, and at the sequence number that the next one begins with.
            if file.set_len(last.length).is_err() {
                self.file = None;
            }
            return Err(error);
        }
        last.length += bytes.len() as u64;
        self.next_sequence += 1;
        Ok(self.next_sequence - 1)
    }

    /// Makes the next segment: header and summary, its name on the disk. Closes the one before.
    fn begin_segment(&mut self, stamp: Stamp) -> io::Result<()> {
        let first = self.next_sequence;
        let path = segment::path(&self.dir, first);
        let summary = Body::Summary(self.summary.clone());
        let (kind, payload) = record::payload(&summary).map_err(io::Error::other)?;
        let mut bytes = record::encode_segment_header(first, &self.boot_id);
        debug_assert_eq!(bytes.len(), SEGMENT_HEADER);
        record::encode(&mut bytes, first, stamp, self.summary.attempt, kind, &payload);
        // A file of this name can only be left over from a failed try: no record of it was ever shown.
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let made = file.write_all_at(&bytes, 0).and_then(|()| File::open(&self.dir)?.sync_all());
        if let Err(error) = made {
            // What is left over has no complete record and is overwritten by the next try.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.file = Some(file);
        self.segments.push(Segment {
            path,
            first,
            boot_id: Arc::clone(&self.boot_id),
            length: bytes.len() as u64,
            console_offset: self.summary.console_offset,
            attempt: self.summary.attempt,
            began: stamp,
        });
        self.next_sequence += 1;
        self.listed = None;
        self.expire(stamp);
        Ok(())
    }

    fn is_older(&self, segment: &Segment, now: Stamp, bound: Duration) -> bool {
        segment.age(now, &self.boot_id).is_some_and(|age| age > bound)
    }

    /// Removes the oldest segments until the rest fits and is young enough, never the last one.
    fn expire(&mut self, now: Stamp) {
        let mut total: u64 = self.segments.iter().map(|segment| segment.length).sum();
        while let [oldest, next, ..] = self.segments.as_slice() {
            // All of a segment is older than the beginning of the next.
            if total <= self.options.total_bytes && !self.is_older(next, now, self.options.max_age) {
                return;
            }
            if let Err(error) = fs::remove_file(&oldest.path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("cannot remove journal segment {}: {error}", oldest.path.display());
                return;
            }
            total -= self.segments.remove(0).length;
        }
    }

    /// Flushes to disk. After a failure the kernel may forget what it could not write (fsync(2)), so
    /// the next append begins a new segment.
    fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        if synced.is_err() {
            self.file = None;
        }
        synced
    }
}
