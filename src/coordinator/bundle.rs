//! A run's bundle: everything that is known of it, as files.
//!
//! | file | content |
//! |---|---|
//! | `run.json` | scenario, image manifest, outcome |
//! | `events.jsonl` | the run's events, one a line |
//! | `console/<device>.log` | the console's bytes as they came, from before power-on |
//! | `journal/<device>.jsonl` | the device's journal, without the console's bytes: when each chunk came, power, stages, gaps |
//! | `bundle.json` | path, size and SHA-256 of each of the others |

use super::parts::BootImage;
use crate::device::DeviceHandle;
use crate::journal::{Entry, Item, JournalError, Record, Since};
use crate::model::id::DeviceId;
use crate::model::run::RunEvent;
use crate::model::scenario::{Action, Scenario};
use crate::model::workload::Score;
use crate::support::atomic_file;
use crate::wire::request::{BUNDLE_PIECE, BundleFile};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

/// Version of the bundle's layout.
const BUNDLE_VERSION: u32 = 1;
/// The list of the other files.
const LIST: &str = "bundle.json";

/// A bundle could not be written or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BundleError {
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot read the journal of {device}")]
    Journal { device: DeviceId, source: JournalError },
    #[error("cannot write {what} as JSON")]
    Json { what: &'static str, source: serde_json::Error },
    #[error("{path:?} is not a file of the bundle")]
    NoSuchFile { path: String },
}

#[derive(Serialize)]
struct RunFile<'a> {
    version: u32,
    scenario: &'a Scenario,
    image: serde_json::Value,
    ended: Option<&'a RunEvent>,
}

#[derive(Serialize, serde::Deserialize)]
struct ListFile {
    version: u32,
    files: Vec<BundleFile>,
}

/// What of a device's journal belongs to a run.
pub(super) struct Span {
    pub(super) device: DeviceHandle,
    /// The number of the record that says that the run began.
    pub(super) first: u64,
    /// The number of the record that says that it ended.
    pub(super) last: u64,
}

/// Writes the bundle to `dir`; the list comes last, so a bundle with a list is whole.
pub(super) async fn write(
    dir: &Path,
    image: &BootImage,
    scenario: &Scenario,
    events: &[RunEvent],
    spans: &[Span],
) -> Result<(), BundleError> {
    let mut files = Vec::new();
    let run = RunFile {
        version: BUNDLE_VERSION,
        scenario: &redacted(scenario),
        image: serde_json::from_str(&image.manifest).unwrap_or_default(),
        ended: events.last(),
    };
    let json = |what| move |source| BundleError::Json { what, source };
    put(dir, "run.json", &serde_json::to_vec_pretty(&run).map_err(json("the run"))?, &mut files)?;
    let mut lines = Vec::new();
    for event in events {
        serde_json::to_writer(&mut lines, event).map_err(json("an event"))?;
        lines.push(b'\n');
    }
    put(dir, "events.jsonl", &lines, &mut files)?;
    for span in spans {
        write_device(dir, span, &mut files).await?;
    }
    let list = ListFile { version: BUNDLE_VERSION, files };
    let list = serde_json::to_vec_pretty(&list).map_err(json("the list"))?;
    write_file(&dir.join(LIST), &list)
}

/// The scenario without the values of containers' environments, which may be secrets. A hash under a key
/// that is thrown away stands in their place: equal values are seen to be equal, within one bundle.
fn redacted(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    let key: [u8; 32] = rand::random();
    for step in scenario.steps.iter_mut().chain(&mut scenario.cleanup) {
        let Action::Deploy { score: Score::PodmanV0(score), .. } = &mut step.action else { continue };
        let inits = score.init_containers.iter_mut().map(|container| &mut container.env);
        let services = score.services.iter_mut().map(|service| &mut service.env);
        for value in inits.chain(services).flat_map(|env| env.values_mut()) {
            let hash = Sha256::new().chain_update(key).chain_update(&value).finalize();
            let hash = data_encoding::HEXLOWER.encode(&hash);
            *value = format!("hash:{}", hash.get(..12).unwrap_or_default());
        }
    }
    scenario
}

/// What a journal line of the bundle says.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    boot_ns: u64,
    wall_ms: u64,
    attempt: u64,
    #[serde(flatten)]
    what: What<'a>,
}

/// Records of the journal that could not be had, up to, not including, `missing_to`.
#[derive(Serialize)]
struct Hole {
    missing_from: u64,
    missing_to: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Console { console_offset: u64, bytes: usize },
    Cut { cut: u64 },
    Event(&'a crate::model::event::Event),
}

async fn write_device(dir: &Path, span: &Span, files: &mut Vec<BundleFile>) -> Result<(), BundleError> {
    let device = span.device.id();
    let (console_name, journal_name) = (format!("console/{device}.log"), format!("journal/{device}.jsonl"));
    let (mut console, mut lines) = (create(dir, &console_name)?, create(dir, &journal_name)?);
    let mut cursor = span.device.journal().cursor(Since::Sequence(span.first));
    let mut next = span.first;
    while next <= span.last {
        let item = cursor.next().await;
        let item = item.map_err(|source| BundleError::Journal { device: device.clone(), source })?;
        let line = match &item {
            Item::Record(record) => {
                next = record.sequence + 1;
                if let Entry::Console { bytes, .. } = &record.entry {
                    write_to(&mut console, &dir.join(&console_name), bytes)?;
                }
                serde_json::to_vec(&line(record))
            }
            Item::Missing { from, to, .. } => {
                next = *to;
                serde_json::to_vec(&Hole { missing_from: *from, missing_to: *to })
            }
        };
        let mut line = line.map_err(|source| BundleError::Json { what: "a journal record", source })?;
        line.push(b'\n');
        write_to(&mut lines, &dir.join(&journal_name), &line)?;
    }
    for (mut file, name) in [(console, console_name), (lines, journal_name)] {
        let path = dir.join(&name);
        file.flush().map_err(|source| BundleError::Write { path: path.clone(), source })?;
        files.push(entry(&path, name)?);
    }
    Ok(())
}

fn line(record: &Record) -> Line<'_> {
    let what = match &record.entry {
        Entry::Console { offset, bytes } => What::Console { console_offset: *offset, bytes: bytes.len() },
        Entry::Cut { bytes } => What::Cut { cut: *bytes },
        Entry::Event(event) => What::Event(event),
    };
    Line {
        sequence: record.sequence,
        boot_ns: record.stamp.boot_ns,
        wall_ms: record.stamp.wall_ms,
        attempt: record.attempt.0,
        what,
    }
}

fn put(dir: &Path, name: &str, content: &[u8], files: &mut Vec<BundleFile>) -> Result<(), BundleError> {
    let path = dir.join(name);
    write_file(&path, content)?;
    files.push(entry(&path, name.to_owned())?);
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), BundleError> {
    let error = |source| BundleError::Write { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    atomic_file::write(path, content, 0o644).map_err(error)
}

fn create(dir: &Path, name: &str) -> Result<BufWriter<File>, BundleError> {
    let path = dir.join(name);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create(&path));
    made.map(BufWriter::new).map_err(|source| BundleError::Write { path, source })
}

fn write_to(file: &mut BufWriter<File>, path: &Path, bytes: &[u8]) -> Result<(), BundleError> {
    file.write_all(bytes).map_err(|source| BundleError::Write { path: path.to_owned(), source })
}

fn entry(path: &Path, name: String) -> Result<BundleFile, BundleError> {
    let error = |source| BundleError::Read { path: path.to_owned(), source };
    let mut hasher = Sha256::new();
    let size = io::copy(&mut File::open(path).map_err(error)?, &mut hasher).map_err(error)?;
    let sha256 = data_encoding::HEXLOWER.encode(&hasher.finalize());
    Ok(BundleFile { path: name, size, sha256 })
}

/// The files of a finished bundle, its list among them.
pub(super) fn list(dir: &Path) -> Result<Vec<BundleFile>, BundleError> {
    let path = dir.join(LIST);
    let bytes = std::fs::read(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
    let list: ListFile =
        serde_json::from_slice(&bytes).map_err(|source| BundleError::Json { what: "the list", source })?;
    let mut files = list.files;
    files.push(entry(&path, LIST.to_owned())?);
    Ok(files)
}

/// At most [`BUNDLE_PIECE`] bytes of a file of the bundle. `name` comes from outside: only plain parts
/// below the bundle are followed.
pub(super) fn read(dir: &Path, name: &str, offset: u64) -> Result<Vec<u8>, BundleError> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !plain {
        return Err(BundleError::NoSuchFile { path: name.chars().take(200).collect() });
    }
    let path = dir.join(name);
    let error = |source| BundleError::Read { path: path.clone(), source };
    let mut file = File::open(&path).map_err(error)?;
    file.seek(SeekFrom::Start(offset)).map_err(error)?;
    let mut piece = Vec::new();
    file.take(BUNDLE_PIECE as u64).read_to_end(&mut piece).map_err(error)?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_environments_do_not_get_into_a_bundle() {
        let scenario = serde_json::json!({
            "name": "s", "summary": "", "under_test": "agent", "needs": [], "cleanup": [],
            "boot_timeout": { "secs": 1, "nanos": 0 },
            "steps": [{
                "name": "d", "timeout": { "secs": 1, "nanos": 0 },
                "action": { "do": "deploy", "on": "dut", "deployment": "web", "score": {
                    "type": "PodmanV0",
                    "data": { "services": [
                        { "name": "a", "image": "i", "env": { "TOKEN": "planted-secret" } },
                    ] },
                } },
            }],
        });
        let scenario = serde_json::from_value(scenario).unwrap();
        let json = serde_json::to_string(&redacted(&scenario)).unwrap();
        assert!(!json.contains("planted-secret") && json.contains("\"TOKEN\":\"hash:"), "{json}");
    }

    #[test]
    fn nothing_outside_the_bundle_is_read() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::fs::write(dir.path().join("b/ok"), "content").unwrap();
        let bundle = dir.path().join("b");
        for bad in ["../secret", "/etc/passwd", "", "a/../../secret", "."] {
            assert!(matches!(read(&bundle, bad, 0), Err(BundleError::NoSuchFile { .. })), "{bad}");
        }
        assert_eq!(read(&bundle, "ok", 3).unwrap(), b"tent");
        assert_eq!(read(&bundle, "ok", 100).unwrap(), b"");
    }
}
