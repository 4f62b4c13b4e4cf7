//! The record format: records to bytes and back, and the summary that each segment begins with. The
//! byte layout is drawn in [`super`].

use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::lease::FencingToken;
use crate::model::power::{PowerState, Wear};
use crate::model::time::Stamp;
use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The first bytes of each segment.
const MAGIC: [u8; 8] = *b"pilabjnl";
/// The version of the layout that this build writes, and the only one it reads.
const VERSION: u16 = 1;
/// The length of a boot id as text, RFC 9562 §4.
const BOOT_ID_LEN: usize = 36;
/// The bytes of a segment header.
pub(super) const SEGMENT_HEADER: usize = 60;
/// The bytes of a record before its payload.
pub(super) const RECORD_HEADER: usize = 44;
/// The longest payload, 1 MiB: bounds what a damaged length can make a reader allocate.
pub(super) const MAX_PAYLOAD: usize = 1024 * 1024;

/// Kinds of records. A reader skips the kinds that it does not know.
mod kind {
    pub(super) const CONSOLE: u16 = 1;
    pub(super) const EVENT: u16 = 2;
    pub(super) const CUT: u16 = 3;
    pub(super) const SUMMARY: u16 = 4;
}

/// One record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Counts from 1 over the life of the journal. Some numbers are the journal's own and not shown.
    pub sequence: u64,
    /// When it was handed to the journal. The sequence orders; the stamps of two writers may be out of
    /// order by as long as one of them waited in the queue.
    pub stamp: Stamp,
    /// The boot of the host within which [`Stamp::boot_ns`] counts.
    pub boot_id: Arc<str>,
    /// The boot attempt it belongs to.
    pub attempt: BootAttempt,
    /// What it says.
    pub entry: Entry,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// Bytes from the console.
    Console {
        /// The absolute offset of the first of them, over the life of the journal.
        offset: u64,
        /// The bytes as they came.
        bytes: Bytes,
    },
    /// Something happened.
    Event(Event),
    /// The journal was not closed in order; so many bytes after the last whole record were unreadable
    /// and have been cut off.
    Cut {
        /// How many.
        bytes: u64,
    },
}

/// What must be known of a journal's past to go on with it. Each segment begins with one, so that
/// opening a journal reads its last segment only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The greatest boot attempt.
    pub attempt: BootAttempt,
    /// The absolute offset of the next console byte.
    pub console_offset: u64,
    /// The console's line was open.
    pub console_open: bool,
    /// Power was about to be switched, and nothing tells whether it was.
    pub intent: Option<Intent>,
    /// How often power was switched. Journals of older versions begin at none.
    #[serde(default)]
    pub wear: Wear,
}

/// A power switch that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Wanted.
    pub state: PowerState,
    /// Under which lease.
    pub token: FencingToken,
    /// When.
    pub stamp: Stamp,
}

impl Summary {
    /// Takes a record into account.
    pub(super) fn apply(&mut self, attempt: BootAttempt, stamp: Stamp, entry: &Entry) {
        self.attempt = self.attempt.max(attempt);
        match entry {
            Entry::Console { offset, bytes } => {
                self.console_offset = self.console_offset.max(offset.saturating_add(bytes.len() as u64));
            }
            Entry::Event(Event::BootOffered { attempt, .. }) => self.attempt = self.attempt.max(*attempt),
            Entry::Event(Event::PowerIntent { state, token }) => {
                self.intent = Some(Intent { state: *state, token: *token, stamp });
            }
            Entry::Event(Event::PowerDone { state, .. }) => {
                self.intent = None;
                self.wear.done(*state);
            }
            Entry::Event(Event::PowerFailed { .. } | Event::PowerUnsettled { .. }) => {
                self.intent = None;
                self.wear.doubt();
            }
            Entry::Event(Event::ConsoleOpened {}) => self.console_open = true,
            Entry::Event(Event::ConsoleGap { offset, .. }) => {
                self.console_open = false;
                self.console_offset = self.console_offset.max(*offset);
            }
            Entry::Event(_) | Entry::Cut { .. } => {}
        }
    }
}

/// What a record holds on disk: an [`Entry`], or the journal's own note.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Body {
    Entry(Entry),
    Summary(Summary),
    /// A kind, or an event, of a newer version.
    Unknown,
}

/// Kind and payload of an entry. Fails only when an event cannot be written as JSON.
pub(super) fn payload(body: &Body) -> Result<(u16, Vec<u8>), serde_json::Error> {
    Ok(match body {
        Body::Entry(Entry::Console { offset, bytes }) => {
            let mut payload = Vec::with_capacity(8 + bytes.len());
            payload.put_u64_le(*offset);
            payload.put_slice(bytes);
            (kind::CONSOLE, payload)
        }
        Body::Entry(Entry::Event(event)) => (kind::EVENT, serde_json::to_vec(event)?),
        Body::Entry(Entry::Cut { bytes }) => (kind::CUT, bytes.to_le_bytes().to_vec()),
        Body::Summary(summary) => (kind::SUMMARY, serde_json::to_vec(summary)?),
        Body::Unknown => (0, Vec::new()),
    })
}

fn parse(kind: u16, mut payload: Bytes) -> Body {
    let body = match kind {
        kind::CONSOLE if payload.len() >= 8 => {
            Some(Body::Entry(Entry::Console { offset: payload.get_u64_le(), bytes: payload }))
        }
        kind::EVENT => serde_json::from_slice(&payload).ok().map(|event| Body::Entry(Entry::Event(event))),
        kind::CUT if payload.len() >= 8 => Some(Body::Entry(Entry::Cut { bytes: payload.get_u64_le() })),
        kind::SUMMARY => serde_json::from_slice(&payload).ok().map(Body::Summary),
        _ => None,
    };
    body.unwrap_or(Body::Unknown)
}

/// Appends a record to `out`. The payload is at most [`MAX_PAYLOAD`] long.
pub(super) fn encode(
    out: &mut Vec<u8>,
    sequence: u64,
    stamp: Stamp,
    attempt: BootAttempt,
    kind: u16,
    payload: &[u8],
) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_u64_le(sequence);
    out.put_u64_le(stamp.boot_ns);
    out.put_u64_le(stamp.wall_ms);
    out.put_u64_le(attempt.0);
    out.put_u16_le(kind);
    out.put_u16_le(0);
    out.put_slice(payload);
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// A record as read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Raw {
    pub(super) sequence: u64,
    pub(super) stamp: Stamp,
    pub(super) attempt: BootAttempt,
    pub(super) body: Body,
}

/// What is at the start of some bytes.
#[derive(Debug, PartialEq)]
pub(super) enum Decoded {
    /// A record of so many bytes.
    Record(Raw, usize),
    /// The beginning of one, perhaps; so many bytes are needed to tell.
    Incomplete(usize),
    /// No record.
    Damaged,
}

/// Reads the record at the start of `bytes`.
pub(super) fn decode(bytes: &Bytes) -> Decoded {
    if bytes.len() < RECORD_HEADER {
        return Decoded::Incomplete(RECORD_HEADER);
    }
    let mut header = bytes.slice(..RECORD_HEADER);
    let checksum = header.get_u32_le();
    let length = header.get_u32_le() as usize;
    if length > MAX_PAYLOAD {
        return Decoded::Damaged;
    }
    let total = RECORD_HEADER + length;
    if bytes.len() < total {
        return Decoded::Incomplete(total);
    }
    if crc32fast::hash(&bytes[4..total]) != checksum {
        return Decoded::Damaged;
    }
    let sequence = header.get_u64_le();
    let stamp = Stamp { boot_ns: header.get_u64_le(), wall_ms: header.get_u64_le() };
    let attempt = BootAttempt(header.get_u64_le());
    let body = parse(header.get_u16_le(), bytes.slice(RECORD_HEADER..total));
    Decoded::Record(Raw { sequence, stamp, attempt, body }, total)
}

/// The header of a segment whose first record has this sequence number.
pub(super) fn encode_segment_header(first_sequence: u64, boot_id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(SEGMENT_HEADER);
    out.put_slice(&MAGIC);
    out.put_u16_le(VERSION);
    out.put_u16_le(0);
    out.put_u64_le(first_sequence);
    let mut id = boot_id.as_bytes().to_vec();
    id.resize(BOOT_ID_LEN, 0);
    out.put_slice(&id);
    let checksum = crc32fast::hash(&out);
    out.put_u32_le(checksum);
    out
}

/// What is at the start of a segment file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SegmentHeader {
    /// A segment of this version.
    Good {
        /// The sequence number of its first record.
        first_sequence: u64,
        /// The boot of the host that wrote it.
        boot_id: String,
    },
    /// Not one, or only a part of one.
    Damaged,
    /// A segment of another version.
    Foreign(u16),
}

/// Reads the header of a segment.
pub(super) fn decode_segment_header(bytes: &[u8]) -> SegmentHeader {
    let Some((mut header, mut tail)) = bytes.split_at_checked(SEGMENT_HEADER - 4) else {
        return SegmentHeader::Damaged;
    };
    if tail.len() < 4 || !header.starts_with(&MAGIC) {
        return SegmentHeader::Damaged;
    }
    let whole = crc32fast::hash(header) == tail.get_u32_le();
    header.advance(MAGIC.len());
    let version = header.get_u16_le();
    if version != VERSION {
        return SegmentHeader::Foreign(version);
    }
    if !whole {
        return SegmentHeader::Damaged;
    }
    header.advance(2);
    let first_sequence = header.get_u64_le();
    let boot_id = String::from_utf8_lossy(header).trim_end_matches('\0').to_owned();
    SegmentHeader::Good { first_sequence, boot_id }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { boot_ns: 7, wall_ms: 1_700_000_000_000 };

    fn encoded(sequence: u64, kind: u16, payload: &[u8]) -> Bytes {
        let mut out = Vec::new();
        encode(&mut out, sequence, STAMP, BootAttempt(3), kind, payload);
        out.into()
    }

    #[test]
    fn a_record_comes_back_as_it_went_and_no_flipped_bit_passes() {
        let entry = Entry::Console { offset: 9, bytes: Bytes::from_static(b"\xff\0hello") };
        let (kind, payload) = payload(&Body::Entry(entry.clone())).unwrap();
        let bytes = encoded(42, kind, &payload);
        let raw = Raw { sequence: 42, stamp: STAMP, attempt: BootAttempt(3), body: Body::Entry(entry) };
        assert_eq!(decode(&bytes), Decoded::Record(raw, bytes.len()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&flipped.into()), Decoded::Record(..)), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(matches!(decode(&bytes.slice(..end)), Decoded::Incomplete(_)), "{end} bytes");
        }
    }

    #[test]
    fn the_layout_is_what_the_table_says() {
        let bytes = encoded(0x0102, kind::CUT, &[9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes.len(), 52);
        assert_eq!(bytes[4..8], [8, 0, 0, 0], "payload length");
        assert_eq!(bytes[8..16], [2, 1, 0, 0, 0, 0, 0, 0], "sequence");
        assert_eq!(bytes[16], 7, "boot clock");
        assert_eq!(bytes[32], 3, "attempt");
        assert_eq!(bytes[40..42], [3, 0], "kind");
        let header = encode_segment_header(1, "0f2c8f70-3b1a-4f0e-9a4c-3a5f4a0c9d11");
        assert_eq!(header.len(), SEGMENT_HEADER);
        assert_eq!(&header[..10], b"pilabjnl\x01\0");
    }

    #[test]
    fn what_a_newer_version_wrote_is_skipped() {
        for (kind, payload) in [(900, &b"?"[..]), (kind::EVENT, br#"{"event":"from_the_future","x":1}"#)] {
            let bytes = encoded(1, kind, payload);
            assert!(matches!(decode(&bytes), Decoded::Record(Raw { body: Body::Unknown, .. }, _)));
        }
        let mut header = encode_segment_header(1, "");
        header[8] = 2;
        assert_eq!(decode_segment_header(&header), SegmentHeader::Foreign(2));
    }
}
