//! Segment files: their names, what is in a directory, and making it whole after a crash.

use super::JournalError;
use super::record::{Body, Decoded, MAX_PAYLOAD, RECORD_HEADER, Raw, SEGMENT_HEADER, SegmentHeader, Summary};
use super::record::{decode, decode_segment_header};
use crate::model::boot::BootAttempt;
use crate::model::time::Stamp;
use bytes::{Buf, Bytes};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// 2025-01-01 UTC, in ms since 1970: a clock before that was not set yet, as on a host that has none with a battery.
const CLOCK_SET_MS: u64 = 1_735_689_600_000;

/// One segment file.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    /// The sequence number of its first record.
    pub(super) first: u64,
    /// The boot of the host that wrote it.
    pub(super) boot_id: Arc<str>,
    /// How many bytes of it hold whole records, its header included.
    pub(super) length: u64,
    /// The console offset at its start.
    pub(super) console_offset: u64,
    /// The greatest boot attempt at its start.
    pub(super) attempt: BootAttempt,
    /// When its first record was written; 0 on both clocks when that cannot be read.
    pub(super) began: Stamp,
}

impl Segment {
    /// How long ago it was begun, as seen in the boot of the host with this id; none when nobody can tell.
    pub(super) fn age(&self, now: Stamp, boot_id: &str) -> Option<Duration> {
        if *self.boot_id == *boot_id {
            return Some(Duration::from_nanos(now.boot_ns.saturating_sub(self.began.boot_ns)));
        }
        let told = self.began.wall_ms >= CLOCK_SET_MS;
        told.then(|| Duration::from_millis(now.wall_ms.saturating_sub(self.began.wall_ms)))
    }
}

/// The path of the segment that begins with this sequence number. Names sort as the numbers do.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// A journal's directory as found, and made whole.
pub(super) struct Recovery {
    pub(super) segments: Vec<Segment>,
    pub(super) next_sequence: u64,
    pub(super) summary: Summary,
    /// How many bytes were cut off the end, or set aside with a damaged segment.
    pub(super) cut: u64,
}

/// Reads a directory and cuts off what a crash left unfinished. Only the last segment that has anything is read whole.
pub(super) fn recover(dir: &Path) -> Result<Recovery, JournalError> {
    let failed = |source| open_error(dir)(source);
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "seg") {
            paths.push(path);
        }
    }
    paths.sort();
    let mut recovery =
        Recovery { segments: Vec::new(), next_sequence: 1, summary: Summary::default(), cut: 0 };
    for path in paths {
        match head(&path)? {
            Some(segment) => recovery.segments.push(segment),
            None => recovery.cut += set_aside(&path).map_err(open_error(&path))?,
        }
    }
    // How things stand is in the last one that has anything: a crash may have left one that was only begun.
    while let Some(mut last) = recovery.segments.pop() {
        if recovery.scan(&mut last).map_err(open_error(&last.path))? {
            recovery.segments.push(last);
            break;
        }
    }
    Ok(recovery)
}

fn open_error(path: &Path) -> impl FnOnce(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Open { path, source: Arc::new(source) }
}

/// Reads a segment's header and its first record, the summary. None when the header is unreadable.
fn head(path: &Path) -> Result<Option<Segment>, JournalError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(open_error(path))?;
    let length = file.metadata().map_err(open_error(path))?.len();
    let longest = (SEGMENT_HEADER + RECORD_HEADER + MAX_PAYLOAD) as u64;
    file.take(longest).read_to_end(&mut bytes).map_err(open_error(path))?;
    let (first, boot_id) = match decode_segment_header(&bytes) {
        SegmentHeader::Good { first_sequence, boot_id } => (first_sequence, Arc::from(boot_id)),
        SegmentHeader::Foreign(version) => {
            return Err(JournalError::Foreign { path: path.to_owned(), version });
        }
        SegmentHeader::Damaged => return Ok(None),
    };
    let (summary, began) = match decode(&Bytes::from(bytes).slice(SEGMENT_HEADER..)) {
        Decoded::Record(Raw { body: Body::Summary(summary), stamp, .. }, _) => (summary, stamp),
        _ => (Summary::default(), Stamp { boot_ns: 0, wall_ms: 0 }),
    };
    let Summary { console_offset, attempt, .. } = summary;
    Ok(Some(Segment { path: path.to_owned(), first, boot_id, length, console_offset, attempt, began }))
}

/// Renames a file that is not a segment, so that it is kept but not read. Answers its size.
fn set_aside(path: &Path) -> io::Result<u64> {
    let size = fs::metadata(path)?.len();
    fs::rename(path, path.with_extension("damaged"))?;
    Ok(size)
}

impl Recovery {
    /// Reads the last segment to its end and cuts off what is not a whole record; removes the file
    /// when nothing is left, and answers whether something is. A crash leaves an unfinished record; whole ones behind a bad one
    /// tell of a damaged disk, and the file as it was is set aside with them.
    fn scan(&mut self, last: &mut Segment) -> io::Result<bool> {
        let mut rest = Bytes::from(fs::read(&last.path)?);
        let size = rest.len();
        rest.advance(SEGMENT_HEADER);
        let mut next = last.first;
        while let Decoded::Record(raw, consumed) = decode(&rest) {
            if raw.sequence != next {
                break;
            }
            match raw.body {
                Body::Summary(summary) => self.summary = summary,
                Body::Entry(entry) => self.summary.apply(raw.attempt, raw.stamp, &entry),
                Body::Unknown => {}
            }
            next += 1;
            rest.advance(consumed);
        }
        let behind = behind_damage(&rest, next);
        // A number that was given once is given to nothing else: copies of events go by it.
        self.next_sequence = self.next_sequence.max(behind.unwrap_or(next));
        self.cut += rest.len() as u64;
        last.length = (size - rest.len()) as u64;
        if behind.is_some() {
            fs::copy(&last.path, last.path.with_extension("damaged"))?;
        }
        if next == last.first {
            fs::remove_file(&last.path)?;
        } else if !rest.is_empty() {
            let file = OpenOptions::new().write(true).open(&last.path)?;
            file.set_len(last.length)?;
            file.sync_all()?;
        }
        Ok(next > last.first)
    }
}

/// The sequence number after the last whole record in `rest`, which begins with a bad one; none when there is none.
fn behind_damage(rest: &Bytes, next: u64) -> Option<u64> {
    // What a console said may look like a record; the number of one that is ours cannot be just any.
    let ours = next..next.saturating_add(rest.len() as u64);
    let (mut at, mut found) = (0, None);
    while at < rest.len() {
        at += match decode(&rest.slice(at..)) {
            Decoded::Record(raw, length) if ours.contains(&raw.sequence) => {
                found = Some(raw.sequence + 1);
                length
            }
            _ => 1,
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_told_by_the_clock_that_can_tell_it() {
        let began = |boot_ns, wall_ms| Segment {
            path: PathBuf::new(),
            first: 1,
            boot_id: Arc::from("a"),
            length: 0,
            console_offset: 0,
            attempt: BootAttempt(0),
            began: Stamp { boot_ns, wall_ms },
        };
        let now = Stamp { boot_ns: 5_000_000_000, wall_ms: CLOCK_SET_MS + 60_000 };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        // Within a boot the wall clock may have been set by any amount.
        assert_eq!(began(2_000_000_000, 0).age(now, "a"), seconds(3));
        assert_eq!(began(2_000_000_000, u64::MAX).age(now, "a"), seconds(3));
        assert_eq!(began(9_000_000_000, CLOCK_SET_MS).age(now, "b"), seconds(60));
        assert_eq!(began(0, CLOCK_SET_MS + 90_000).age(now, "b"), seconds(0), "set back since");
        assert_eq!(began(0, 1_000).age(now, "b"), None, "not set then");
    }
}
