//! What a bundle's files say, as far as they can be read.

use super::MAX_HELD;
use super::error::BundleError;
use super::open::Bundle;
use crate::model::boot::BootAttempt;
use crate::model::id::DeviceId;
use crate::model::run::RunEvent;
use crate::model::time::Stamp;
use bytes::Bytes;
use serde::Deserialize;
use std::path::{Component, Path, PathBuf};

/// The longest path in bytes, well under `PATH_MAX` (4096, limits.h).
const MAX_PATH: usize = 1024;

/// A piece of a console, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsolePiece {
    /// When it was journaled.
    pub at: Stamp,
    /// In which boot attempt.
    pub attempt: BootAttempt,
    /// The bytes.
    pub bytes: Bytes,
}

/// What of a journal's line is needed here.
#[derive(Deserialize)]
struct Line {
    boot_ns: u64,
    wall_ms: u64,
    attempt: u64,
    console_offset: u64,
    bytes: usize,
}

impl Bundle {
    /// The run's events, and how many lines were not understood: damaged ones, and those of a newer version.
    pub fn events(&self) -> Result<(Vec<RunEvent>, usize), BundleError> {
        let (bytes, _) = self.read("events.jsonl", MAX_HELD)?;
        let (mut events, mut lost) = (Vec::new(), 0);
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                Err(_) => lost += 1,
            }
        }
        Ok((events, lost))
    }

    /// The devices that it has a console of.
    pub fn consoles(&self) -> Vec<DeviceId> {
        let files = self.files().into_iter();
        let names = files
            .filter_map(|file| DeviceId::new(file.path.strip_prefix("console/")?.strip_suffix(".log")?).ok());
        names.collect()
    }

    /// A device's console in the pieces that came, each with its time, as far as it can be read; and what is wrong with it,
    /// if anything is.
    pub fn console(
        &self,
        device: &DeviceId,
    ) -> Result<(Vec<ConsolePiece>, Option<BundleError>), BundleError> {
        self.console_up_to(device, MAX_HELD)
    }

    pub(super) fn console_up_to(
        &self,
        device: &DeviceId,
        most: u64,
    ) -> Result<(Vec<ConsolePiece>, Option<BundleError>), BundleError> {
        let (log, wrong) = self.read(&format!("console/{device}.log"), most)?;
        let (journal, wrong_there) = self.read(&format!("journal/{device}.jsonl"), most)?;
        // The pieces are parts of it, not copies.
        let mut rest = Bytes::from(log);
        let mut pieces = Vec::new();
        let lines = journal.split(|byte| *byte == b'\n');
        for line in lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok()) {
            let bytes = rest.split_to(line.bytes.min(rest.len()));
            let at = Stamp { boot_ns: line.boot_ns, wall_ms: line.wall_ms };
            // The offset is of the device's whole journal: what counts here is the order.
            let _ = line.console_offset;
            pieces.push(ConsolePiece { at, attempt: BootAttempt(line.attempt), bytes });
        }
        Ok((pieces, wrong.or(wrong_there)))
    }
}

/// The path of a file in a bundle: relative, `/` between parts, no part that leads elsewhere.
pub fn relative(path: &str) -> Result<PathBuf, String> {
    let plain = |part: &str| {
        !part.is_empty() && matches!(Path::new(part).components().next(), Some(Component::Normal(_)))
    };
    let clean = path.len() <= MAX_PATH && !path.chars().any(|c| c.is_control() || c == '\\');
    if clean && path.split('/').all(plain) {
        Ok(PathBuf::from(path))
    } else {
        Err(format!("{:?} is not a path inside a bundle", path.chars().take(80).collect::<String>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_bundle_pass() {
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../x",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "a\0b",
            "a\\..\\b",
            &"a".repeat(1025),
        ] {
            assert!(relative(bad).is_err(), "{bad:?}");
        }
        for good in ["run.jsonl", "devices/laptop-vm-1/console.log", "..a/b"] {
            assert_eq!(relative(good), Ok(PathBuf::from(good)));
        }
    }
}
