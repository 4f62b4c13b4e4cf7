//! What a bundle's files say: the run, and what of its devices' journals belongs to it.
//!
//! | file | content |
//! |---|---|
//! | `run.json` | scenario, image manifest, outcome |
//! | `events.jsonl` | the run's events, one a line |
//! | `console/<device>.log` | the console's bytes as they came, from before power-on |
//! | `journal/<device>.jsonl` | the device's journal, without the console's bytes: when each chunk came, power, stages, gaps |

use super::parts::BootImage;
use crate::journal::{Entry, Item, JournalHandle, Record};
use crate::model::bundle::BUNDLE_VERSION;
use crate::model::id::DeviceId;
use crate::model::run::RunEvent;
use crate::model::scenario::{Action, Scenario};
use crate::model::workload::Score;
use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

#[derive(Serialize)]
struct RunFile<'a> {
    version: u32,
    scenario: &'a Scenario,
    image: serde_json::Value,
    ended: Option<&'a RunEvent>,
}

/// What of a device's journal belongs to a run.
pub(super) struct Span {
    pub(super) device: DeviceId,
    pub(super) journal: JournalHandle,
    /// The number of the record that says that the run began.
    pub(super) first: u64,
    /// The number of the record that says that it ended.
    pub(super) last: u64,
}

impl Span {
    /// The bundle's files of this device: its console, and its journal.
    pub(super) fn files(&self) -> [String; 2] {
        files(&self.device)
    }
}

/// A bundle's files of a device.
pub(super) fn files(device: &DeviceId) -> [String; 2] {
    [format!("console/{device}.log"), format!("journal/{device}.jsonl")]
}

/// The content of `run.json`. Structs of strings and numbers always have a JSON form.
pub(super) fn run_file(scenario: &Scenario, image: &BootImage, ended: Option<&RunEvent>) -> Vec<u8> {
    let run = RunFile {
        version: BUNDLE_VERSION,
        scenario: &redacted(scenario),
        image: serde_json::from_str(&image.manifest).unwrap_or_default(),
        ended,
    };
    serde_json::to_vec_pretty(&run).unwrap_or_default()
}

/// The scenario without the values of containers' environments, which may be secrets, and without raw payloads, which may hold
/// such values. A hash under a key that is thrown away stands in their place: equal values are seen to be equal, within one
/// bundle.
fn redacted(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    let key: [u8; 32] = rand::random();
    let hide = |value: &mut String| {
        let hash = Sha256::new().chain_update(key).chain_update(&value).finalize();
        let hash = data_encoding::HEXLOWER.encode(&hash);
        *value = format!("hash:{}", hash.get(..12).unwrap_or_default());
    };
    for step in scenario.steps.iter_mut().chain(&mut scenario.cleanup) {
        let score = match &mut step.action {
            Action::Deploy { score, .. } => score,
            Action::Apply { spec, .. } => &mut spec.score,
            Action::PutRaw { payload, .. } => {
                hide(payload);
                continue;
            }
            _ => continue,
        };
        let Score::PodmanV0(score) = score;
        let inits = score.init_containers.iter_mut().map(|container| &mut container.env);
        let services = score.services.iter_mut().map(|service| &mut service.env);
        inits.chain(services).flat_map(|env| env.values_mut()).for_each(hide);
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

/// A line of `journal/<device>.jsonl`.
pub(super) fn journal_line(item: &Item) -> Bytes {
    let line = match item {
        Item::Record(record) => serde_json::to_vec(&line(record)),
        Item::Missing { from, to, .. } => serde_json::to_vec(&Hole { missing_from: *from, missing_to: *to }),
    };
    let mut line = line.unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// What of `console/<device>.log` an item is.
pub(super) fn console_bytes(item: &Item) -> Option<Bytes> {
    match item {
        Item::Record(Record { entry: Entry::Console { bytes, .. }, .. }) => Some(bytes.clone()),
        Item::Record(_) | Item::Missing { .. } => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_environments_and_raw_payloads_do_not_get_into_a_bundle() {
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
            }, {
                "name": "r", "timeout": { "secs": 1, "nanos": 0 },
                "action": { "do": "put_raw", "on": "dut", "deployment": "web",
                            "payload": "{\"env\":{\"TOKEN\":\"planted-secret\"}}" },
            }],
        });
        let scenario = serde_json::from_value(scenario).unwrap();
        let json = serde_json::to_string(&redacted(&scenario)).unwrap();
        assert!(!json.contains("planted-secret") && json.contains("\"TOKEN\":\"hash:"), "{json}");
        assert!(json.contains("\"payload\":\"hash:"), "{json}");
    }
}
