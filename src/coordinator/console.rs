//! Consoles for everybody: published as they come, and read from any offset by request. Both are readers of the
//! journal at their own pace, so none of them slows the line or another.

use crate::bus::connect::Bus;
use crate::device::DeviceHandle;
use crate::journal::{Cursor, Entry, Item, JournalError, Record, Since};
use crate::model::event::Event;
use crate::model::id::LabName;
use crate::support::chain::Chain;
use crate::wire::console::{CONSOLE_VERSION, ChunkKind, ConsoleChunk, ConsoleFrom, ConsolePage, PAGE_BYTES};
use crate::wire::subject;

/// What a chunk's JSON takes beside its bytes, with a gap's cause.
const CHUNK_BYTES: usize = 256;

/// Publishes what comes, until the journal ends. What NATS does not take is not kept for it: who misses a chunk
/// sees the hole in the offsets and asks for it.
pub(super) async fn publish(bus: Bus, lab: LabName, device: DeviceHandle) {
    let subject = subject::console(&lab, device.id());
    let mut cursor = device.journal().cursor(Since::End);
    loop {
        let chunk = match cursor.next().await {
            Ok(Item::Record(record)) => chunk(record),
            // The next chunk's offset tells of it.
            Ok(Item::Missing { .. }) => continue,
            Err(JournalError::Gone) => return,
            Err(error) => {
                tracing::error!(device = %device.id(), error = %Chain(&error), "its console is not published any more");
                return;
            }
        };
        let Some(chunk) = chunk else { continue };
        if let Err(error) = bus.publish(subject.clone(), encode(&chunk)).await {
            tracing::debug!(device = %device.id(), error = %Chain(&error), "a console chunk was not published");
        }
    }
}

/// What is there from `from` on, as far as it fits a message.
pub(super) async fn page(device: &DeviceHandle, from: ConsoleFrom) -> Result<ConsolePage, JournalError> {
    let attempt = device.state().borrow().attempt;
    let (since, start) = match from {
        ConsoleFrom::Start => (Since::Start, None),
        ConsoleFrom::Boot => (Since::Attempt(attempt), None),
        ConsoleFrom::Attempt(attempt) => (Since::Attempt(attempt), None),
        ConsoleFrom::Offset(offset) => (Since::Console(offset), Some(offset)),
        ConsoleFrom::End => {
            let next = device.journal().console_offset();
            return Ok(ConsolePage { chunks: Vec::new(), next, end: true });
        }
    };
    let now = device.journal().console_offset();
    let mut page = ConsolePage { chunks: Vec::new(), next: start.unwrap_or(now), end: false };
    fill(&mut page, device.journal().cursor(since), start).await?;
    Ok(page)
}

async fn fill(page: &mut ConsolePage, mut cursor: Cursor, start: Option<u64>) -> Result<(), JournalError> {
    let (mut bytes, mut expected) = (0, start);
    while bytes < PAGE_BYTES {
        let record = match cursor.next_written().await? {
            Some(Item::Record(record)) => record,
            Some(Item::Missing { .. }) => continue,
            None => {
                page.end = true;
                return Ok(());
            }
        };
        let Some(chunk) = chunk(record) else { continue };
        let length = if let ChunkKind::Bytes(bytes) = &chunk.what { bytes.len() } else { 0 };
        if expected.is_some_and(|expected| expected < chunk.offset) {
            let cause = "the journal no longer has what was before".to_owned();
            page.chunks.push(ConsoleChunk { what: ChunkKind::Gap(cause), ..chunk.clone() });
        }
        // In base64, with the rest of its JSON.
        bytes += length.div_ceil(3) * 4 + CHUNK_BYTES;
        page.next = chunk.offset + length as u64;
        expected = Some(page.next);
        page.chunks.push(chunk);
    }
    Ok(())
}

/// What a record says of the console, if anything.
fn chunk(record: Record) -> Option<ConsoleChunk> {
    let (offset, what) = match record.entry {
        Entry::Console { offset, bytes } => (offset, ChunkKind::Bytes(bytes.to_vec())),
        Entry::Event(Event::ConsoleGap { cause, offset }) => (offset, ChunkKind::Gap(cause)),
        Entry::Event(_) | Entry::Cut { .. } => return None,
    };
    Some(ConsoleChunk { version: CONSOLE_VERSION, attempt: record.attempt, offset, at: record.stamp, what })
}

/// Numbers and strings always have a JSON form.
fn encode(chunk: &ConsoleChunk) -> Vec<u8> {
    serde_json::to_vec(chunk).unwrap_or_default()
}
