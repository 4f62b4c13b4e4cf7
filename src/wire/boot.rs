//! Booting a device by hand: into the lab's image, or into files of one's own, which go to the coordinator piece by piece
//! before; and a device's journal, read as it grows.
//!
//! ```text
//!  UPLOAD_LACKS {files} ─► what is not there     UPLOAD {file, offset, bytes} ─► next      BOOT {device, what} ─► attempt
//!  EVENTS_OF {device, from} ─► what the journal says from there on (held back until there is something)
//! ```

use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::time::Stamp;
use crate::model::upload::{FileRef, TreePath};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Boot a device, off first when it is on. Body: [`Boot`]. Answer: [`BootBegun`], once it is on.
pub const BOOT: &str = "boot";
/// Which of some files the lab does not have yet. Body: [`UploadAsked`]. Answer: [`UploadLacks`].
pub const UPLOAD_LACKS: &str = "upload-lacks";
/// A piece of a file. Body: [`UploadPiece`]. Answer: [`UploadTaken`].
pub const UPLOAD: &str = "upload";
/// What a device's journal says. Body: [`EventsOf`]. Answer: [`EventsOfPage`].
pub const EVENTS_OF: &str = "events-of";

/// The most bytes of one piece: in base64 a third of a NATS message (1 MB by default).
pub const UPLOAD_PIECE: usize = 256 * 1024;
/// The most events of one page. The longest have some 500 bytes.
pub const EVENTS_OF_PAGE: usize = 256;

/// Body of [`BOOT`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Boot {
    /// Which device.
    pub device: DeviceId,
    /// Into what.
    pub what: BootWhat,
}

/// What to boot.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BootWhat {
    /// An image of the lab, and the agent in it.
    Image {
        /// A recipe, or an image's id or its beginning; none for the lab's own.
        image: Option<String>,
    },
    /// A kernel of one's own. It gets no ticket: who it is and what it does is its owner's to know.
    Kernel {
        /// The kernel.
        kernel: FileRef,
        /// Its initramfs.
        initramfs: Option<FileRef>,
        /// Its device tree; none for the one that firmware or backend choose.
        device_tree: Option<FileRef>,
        /// Its arguments, beside the console.
        cmdline: String,
    },
    /// All that a boot ROM is to find. A `config.txt` or `cmdline.txt` that is not among it is made.
    Tree {
        /// By path.
        files: BTreeMap<TreePath, FileRef>,
        /// Arguments of the kernel, where `cmdline.txt` is made.
        cmdline: String,
    },
}

/// Answer to [`BOOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootBegun {
    /// The attempt.
    pub attempt: BootAttempt,
}

/// Body of [`UPLOAD_LACKS`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadAsked {
    /// The device that is to boot them; the caller holds it.
    pub device: DeviceId,
    /// The files.
    pub files: Vec<FileRef>,
}

/// Answer to [`UPLOAD_LACKS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadLacks {
    /// Those that are not there whole, and how many bytes of each are.
    pub lacks: Vec<(FileRef, u64)>,
}

/// Body of [`UPLOAD`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadPiece {
    /// Of which file.
    pub file: FileRef,
    /// How many bytes were sent before these.
    pub offset: u64,
    /// The bytes, at most [`UPLOAD_PIECE`].
    #[serde(with = "super::base64")]
    pub bytes: Vec<u8>,
}

/// Answer to [`UPLOAD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadTaken {
    /// How many bytes are there: go on from here.
    pub next: u64,
}

/// Body of [`EVENTS_OF`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsOf {
    /// Which device.
    pub device: DeviceId,
    /// The first wanted record's number; none for what comes from now on.
    pub from: Option<u64>,
    /// How long the answer may be held back while there is nothing, at most 5 s.
    pub wait: Duration,
}

/// Answer to [`EVENTS_OF`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsOfPage {
    /// In order, at most [`EVENTS_OF_PAGE`]; none where nothing came, or only as much of the journal was read as may be at once.
    pub events: Vec<DeviceEvent>,
    /// The record's number to go on from.
    pub next: u64,
}

/// An event of a device's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// When it was journaled.
    pub at: Stamp,
    /// In which boot attempt.
    pub attempt: BootAttempt,
    /// What. Not beside the others: some events have an `at` and an `attempt` of their own.
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::netboot::NetbootFact;

    #[test]
    fn what_is_written_is_read_and_paths_are_checked() {
        let at = Stamp { boot_ns: 1, wall_ms: 2 };
        let fact = NetbootFact::FileProbed { path: "a".to_owned() };
        let event = DeviceEvent { at, attempt: BootAttempt(3), event: Event::Netboot { fact } };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""event":{"event":"netboot","what":"file_probed","path":"a"}"#), "{text}");
        assert_eq!(serde_json::from_str::<DeviceEvent>(&text).unwrap(), event);
        let offered = Event::BootOffered { attempt: BootAttempt(3), image: "x".to_owned() };
        let event = DeviceEvent { event: offered, ..event };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<DeviceEvent>(&text).unwrap(), event);
        let sha256 = "0".repeat(64);
        let tree = |path: &str, sha256: &str| {
            let text = format!(
                r#"{{"device":"l-1","what":{{"kind":"tree","cmdline":"","files":{{"{path}":{{"sha256":"{sha256}","bytes":1}}}}}}}}"#
            );
            serde_json::from_str::<Boot>(&text)
        };
        assert!(tree("overlays/x.dtbo", &sha256).is_ok());
        assert!(tree("../x", &sha256).is_err() && tree("x", "../../etc/passwd").is_err());
    }
}
