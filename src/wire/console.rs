//! What crosses NATS of a console: live chunks on `lab.<lab>.console.<device>`, pages from any offset by
//! request, and bytes to be written.

use crate::model::boot::BootAttempt;
use crate::model::id::DeviceId;
use crate::model::time::Stamp;
use serde::{Deserialize, Serialize};

/// Version of the chunks.
pub const CONSOLE_VERSION: u32 = 1;
/// Read a device's console. Body: [`ConsoleRead`]. Answer: [`ConsolePage`].
pub const CONSOLE_READ: &str = "console-read";
/// Write to a device's console. Body: [`ConsoleWrite`]. Answer: nothing.
pub const CONSOLE_WRITE: &str = "console-write";
/// Hold a device's console in BREAK for a moment: the next byte is a SysRq command. Body: [`ConsoleBreak`]. Answer: nothing.
pub const CONSOLE_BREAK: &str = "console-break";
/// A page ends once its JSON has so many bytes: half a message (1 MB by default), for the last chunk comes on top.
pub const PAGE_BYTES: usize = 512 * 1024;

/// A piece of a console, or a hole in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConsoleChunk {
    /// [`CONSOLE_VERSION`].
    pub version: u32,
    /// The boot attempt.
    pub attempt: BootAttempt,
    /// The absolute offset of its first byte, over the life of the device's journal.
    pub offset: u64,
    /// When it was journaled.
    pub at: Stamp,
    /// What it is.
    #[serde(flatten)]
    pub what: ChunkKind,
}

/// What a chunk is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkKind {
    /// Bytes as they came. base64 (RFC 4648 §4).
    Bytes(#[serde(with = "super::base64")] Vec<u8>),
    /// Bytes may be missing before this offset: why.
    Gap(String),
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleFrom {
    /// With the oldest byte that is kept.
    Start,
    /// With the first of the current boot attempt.
    Boot,
    /// With the first of this boot attempt.
    Attempt(BootAttempt),
    /// With this absolute offset.
    Offset(u64),
    /// With the next byte to come.
    End,
}

/// Body of [`CONSOLE_READ`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsoleRead {
    /// Which device.
    pub device: DeviceId,
    /// From where.
    pub from: ConsoleFrom,
}

/// Answer to [`CONSOLE_READ`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsolePage {
    /// In order.
    pub chunks: Vec<ConsoleChunk>,
    /// The offset to go on from.
    pub next: u64,
    /// There is no more for now.
    pub end: bool,
}

/// Body of [`CONSOLE_WRITE`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsoleWrite {
    /// Which device.
    pub device: DeviceId,
    /// The bytes. base64 (RFC 4648 §4).
    #[serde(with = "super::base64")]
    pub bytes: Vec<u8>,
}

/// Body of [`CONSOLE_BREAK`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsoleBreak {
    /// Which device.
    pub device: DeviceId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_read_as_it_is_written() {
        let at = Stamp { boot_ns: 1, wall_ms: 2 };
        for what in [ChunkKind::Bytes(vec![0, 255, b'\n']), ChunkKind::Gap("unplugged".to_owned())] {
            let chunk = ConsoleChunk { version: 1, attempt: BootAttempt(3), offset: 4, at, what };
            let text = serde_json::to_string(&chunk).unwrap();
            assert_eq!(serde_json::from_str::<ConsoleChunk>(&text).unwrap(), chunk, "{text}");
        }
        let bytes = serde_json::from_str::<ConsoleWrite>(r#"{"device":"l-1","bytes":"AP8K"}"#).unwrap().bytes;
        assert_eq!(bytes, [0, 255, 10]);
        assert!(serde_json::from_str::<ConsoleWrite>(r#"{"device":"l-1","bytes":"?"}"#).is_err());
    }
}
