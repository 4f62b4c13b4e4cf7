//! Readers: each reads the segment files at its own pace and is woken by new records.

use super::JournalError;
use super::head::Head;
use super::record::{Body, Decoded, Entry, MAX_PAYLOAD, RECORD_HEADER, Raw, Record, SEGMENT_HEADER, decode};
use super::segment::Segment;
use crate::model::boot::BootAttempt;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::watch;

/// How many bytes a reader takes from a file at once; more only for a longer record.
const READ: usize = 128 * 1024;

/// Where a cursor begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// With the oldest record that is kept.
    Start,
    /// With the next record to be written.
    End,
    /// With this sequence number.
    Sequence(u64),
    /// With the console byte at this absolute offset; a chunk that holds it is cut to begin with it.
    Console(u64),
    /// With the first record of this boot attempt.
    Attempt(BootAttempt),
}

/// What a cursor yields.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A record.
    Record(Record),
    /// Records that cannot be had, from one sequence number up to, not including, another.
    Missing {
        /// The first that is missing.
        from: u64,
        /// The next that is there.
        to: u64,
        /// Why.
        cause: Missing,
    },
}

/// Why records cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Their segment was removed: the journal was too large, or they were too old.
    Expired,
    /// Their segment does not pass its checksums.
    Damaged,
}

/// Reads a journal in order, from a place on, for as long as the journal is open.
#[derive(Debug)]
pub struct Cursor {
    head: watch::Receiver<Head>,
    /// The sequence number of the next record to read.
    next: u64,
    skip: Since,
    place: Option<Place>,
    passed: Option<Passed>,
    ready: VecDeque<Item>,
}

/// How far a segment need not be read: what is before was had from memory, or is before the cursor's beginning.
#[derive(Debug)]
struct Passed {
    /// The segment's first sequence number.
    first: u64,
    position: u64,
    /// The sequence number of the record there.
    sequence: u64,
}

/// Where in which file the next record is.
#[derive(Debug)]
struct Place {
    segment: Segment,
    file: Arc<File>,
    position: u64,
    /// The sequence number of the record there; those before [`Cursor::next`] are read over.
    sequence: u64,
    /// How many bytes to read at once.
    read: usize,
}

impl Cursor {
    pub(super) fn new(mut head: watch::Receiver<Head>, from: Since) -> Self {
        let now = head.borrow_and_update().clone();
        // The last segment that a test holds for, or else the first one.
        let last = |holds: &dyn Fn(&Segment) -> bool| {
            let found = now.segments.iter().rev().find(|segment| holds(segment));
            found.or(now.segments.first()).map_or(now.next_sequence, |segment| segment.first)
        };
        let next = match from {
            Since::Start => last(&|_| false),
            Since::End => now.next_sequence,
            Since::Sequence(sequence) => sequence,
            Since::Console(offset) => last(&|segment| segment.console_offset <= offset),
            Since::Attempt(attempt) => last(&|segment| segment.attempt < attempt),
        };
        let mut cursor = Self { head, next, skip: from, place: None, passed: None, ready: VecDeque::new() };
        if next == now.next_sequence {
            cursor.pass(&now);
        }
        cursor
    }

    /// The next record, when there is one; [`JournalError::Gone`] after the last record of a closed
    /// journal. Cancel-safe: a call that is dropped takes nothing.
    pub async fn next(&mut self) -> Result<Item, JournalError> {
        loop {
            if let Some(item) = self.next_written().await? {
                return Ok(item);
            }
            self.head.changed().await.map_err(|_| JournalError::Gone)?;
        }
    }

    /// The next record, or none when all that has been written so far is read. Cancel-safe.
    pub async fn next_written(&mut self) -> Result<Option<Item>, JournalError> {
        loop {
            while let Some(item) = self.ready.pop_front() {
                if let Some(item) = self.admit(item) {
                    return Ok(Some(item));
                }
            }
            let head = self.head.borrow_and_update().clone();
            if self.next >= head.next_sequence {
                return Ok(None);
            }
            if self.next >= head.tail.first {
                let fresh = head.tail.records.iter().filter(|record| record.sequence >= self.next);
                self.ready.extend(fresh.cloned().map(Item::Record));
                self.next = head.next_sequence;
                self.pass(&head);
            } else {
                self.fill(&head).await?;
            }
        }
    }

    /// All that is written so far is read.
    fn pass(&mut self, head: &Head) {
        let passed = |last: &Segment| Passed {
            first: last.first,
            position: head.length,
            sequence: head.next_sequence,
        };
        self.passed = head.segments.last().map(passed);
        let same =
            |place: &&mut Place| self.passed.as_ref().is_some_and(|passed| passed.is_in(&place.segment));
        if let (Some(place), Some(passed)) = (self.place.as_mut().filter(same), &self.passed) {
            (place.position, place.sequence) = (passed.position, passed.sequence);
        } else {
            self.place = None;
        }
    }

    /// Drops what lies before the place that the cursor begins at.
    fn admit(&mut self, item: Item) -> Option<Item> {
        let Item::Record(mut record) = item else {
            return Some(item);
        };
        match (self.skip, &mut record.entry) {
            (Since::Console(from), Entry::Console { offset, bytes }) => {
                let before = usize::try_from(from.saturating_sub(*offset)).unwrap_or(usize::MAX);
                if before >= bytes.len() {
                    return None;
                }
                bytes.advance(before);
                *offset += before as u64;
            }
            (Since::Console(_), _) => return None,
            (Since::Attempt(attempt), _) if record.attempt < attempt => return None,
            _ => {}
        }
        self.skip = Since::Start;
        Some(Item::Record(record))
    }

    /// Reads on: opens the segment that holds the next record, or takes records from it.
    async fn fill(&mut self, head: &Head) -> Result<(), JournalError> {
        let Some(place) = &mut self.place else {
            return self.open(head).await;
        };
        let first = place.segment.first;
        let following = head.segments.iter().find(|segment| segment.first > first);
        let end = following.map_or(head.next_sequence, |segment| segment.first);
        if self.next >= end {
            self.place = None;
            return Ok(());
        }
        // A segment that has been removed meanwhile was complete; its file stays open here.
        let last = head.segments.last().is_some_and(|last| last.first == first);
        let found = || head.segments.iter().find(|segment| segment.first == first);
        let length = if last { Some(head.length) } else { found().map(|found| found.length) };
        let left = match length {
            Some(length) => length.saturating_sub(place.position),
            None => u64::MAX,
        };
        let wanted = place.read.min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = read(&place.file, place.position, wanted).await.map_err(|source| JournalError::Read {
            path: place.segment.path.clone(),
            source: Arc::new(source),
        })?;
        let at_end = bytes.len() < place.read;
        let mut rest = bytes;
        let mut taken = 0;
        let stopped = loop {
            match decode(&rest) {
                Decoded::Record(raw, length) if raw.sequence == place.sequence && place.sequence < end => {
                    rest.advance(length);
                    place.position += length as u64;
                    place.sequence += 1;
                    taken += 1;
                    if raw.sequence == self.next {
                        self.next += 1;
                        self.ready.extend(shown(raw, &place.segment.boot_id).map(Item::Record));
                    }
                }
                stopped => break stopped,
            }
        };
        match stopped {
            _ if taken > 0 => place.read = READ,
            Decoded::Incomplete(needed) if !at_end && needed > place.read => place.read = needed,
            _ => {
                let from = std::mem::replace(&mut self.next, end);
                self.ready.push_back(Item::Missing { from, to: end, cause: Missing::Damaged });
                self.place = None;
            }
        }
        Ok(())
    }

    async fn open(&mut self, head: &Head) -> Result<(), JournalError> {
        let found = head.segments.iter().rposition(|segment| segment.first <= self.next);
        let following = head.segments.get(found.map_or(0, |index| index + 1));
        let missing_to = following.map_or(head.next_sequence, |segment| segment.first);
        if let Some(segment) = found.and_then(|index| head.segments.get(index)) {
            let path = segment.path.clone();
            match blocking(move || File::open(path)).await {
                Ok(file) => {
                    let passed = self.passed.take().filter(|passed| passed.is_in(segment));
                    let (position, sequence) = passed
                        .map_or((SEGMENT_HEADER as u64, segment.first), |passed| {
                            (passed.position, passed.sequence)
                        });
                    let (segment, file) = (segment.clone(), Arc::new(file));
                    self.place = Some(Place { segment, file, position, sequence, read: READ });
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let path = segment.path.clone();
                    return Err(JournalError::Read { path, source: Arc::new(source) });
                }
            }
        }
        let from = std::mem::replace(&mut self.next, missing_to);
        self.ready.push_back(Item::Missing { from, to: missing_to, cause: Missing::Expired });
        Ok(())
    }
}

impl Passed {
    fn is_in(&self, segment: &Segment) -> bool {
        self.first == segment.first
    }
}

/// The record as readers see it; none for the journal's own notes and what a newer version wrote.
fn shown(raw: Raw, boot_id: &Arc<str>) -> Option<Record> {
    let Raw { sequence, stamp, attempt, body } = raw;
    match body {
        Body::Entry(entry) => Some(Record { sequence, stamp, boot_id: Arc::clone(boot_id), attempt, entry }),
        Body::Summary(_) | Body::Unknown => None,
    }
}

/// Reads up to so many bytes; fewer only at the end of the file.
async fn read(file: &Arc<File>, position: u64, wanted: usize) -> io::Result<Bytes> {
    let file = Arc::clone(file);
    blocking(move || {
        let mut bytes = vec![0; wanted.min(RECORD_HEADER + MAX_PAYLOAD)];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(&mut bytes[filled..], position + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes.into())
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
