//! `[[nightly]]` of a lab file: what is run every night, and by when.

use super::error::ConfigError;
use super::raw::{RawDuration, Source};
use super::scenario::{find, load_all};
use crate::model::device::Model;
use crate::model::id::DeviceId;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// How long after its start a night may begin without being late.
const DEFAULT_WINDOW: Duration = Duration::from_secs(2 * 3600);
/// How long a night may take.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(8 * 3600);
/// How long one attempt may take.
const DEFAULT_ATTEMPT: Duration = Duration::from_secs(30 * 60);
/// How many nights are kept.
const DEFAULT_KEEP: usize = 30;
/// Of how many of them all bundles are kept: a fault of Friday's night is looked at on Monday.
const DEFAULT_WHOLE: usize = 3;
/// The most nights that are kept, for each is read to tell a trend.
const MAX_KEEP: usize = 400;
/// A night ends before the next one.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// The most attempts after a fault of one kind.
const MAX_RETRIES: u32 = 5;

/// A plan for every night, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Nightly {
    /// Its name.
    pub name: String,
    /// Scenario files.
    pub scenarios: Vec<PathBuf>,
    /// Each scenario is run on one of each; as the scenario says when empty.
    pub models: Vec<Model>,
    /// And on each of these devices.
    pub devices: Vec<DeviceId>,
    /// When it begins: seconds after midnight UTC.
    pub start: Duration,
    /// How long after that it may begin without being late.
    pub window: Duration,
    /// How long it may take, from when it really begins.
    pub deadline: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// How often a run is tried again after a fault of its device.
    pub device_retries: u32,
    /// And after one of the lab.
    pub lab_retries: u32,
    /// How many nights are kept.
    pub keep: usize,
    /// Of how many of the newest nights all bundles are kept, whatever the rules for bundles say.
    pub whole: usize,
    /// Program and arguments that are told when it is over.
    pub command: Vec<String>,
    /// A URL (http) that is sent the result.
    pub webhook: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNightly {
    #[serde(default = "default_name")]
    name: String,
    scenarios: Vec<String>,
    #[serde(default)]
    models: Vec<Model>,
    #[serde(default)]
    devices: Vec<DeviceId>,
    start: String,
    window: Option<RawDuration>,
    deadline: Option<RawDuration>,
    attempt: Option<RawDuration>,
    #[serde(default)]
    retries: RawRetries,
    keep: Option<usize>,
    whole: Option<usize>,
    #[serde(default)]
    notify: RawNotify,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRetries {
    device: u32,
    lab: u32,
}

impl Default for RawRetries {
    fn default() -> Self {
        Self { device: 1, lab: 1 }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawNotify {
    command: Vec<String>,
    webhook: Option<String>,
}

fn default_name() -> String {
    "nightly".to_owned()
}

/// Checks the plans of a lab file, their scenarios included.
pub(super) fn check(source: &Source, raw: Vec<Spanned<RawNightly>>) -> Result<Vec<Nightly>, ConfigError> {
    let mut all: Vec<Nightly> = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let span = raw.span();
        let error = |key: &str, cause: String| source.value(&span, format!("nightly[{index}].{key}"), cause);
        let raw = raw.into_inner();
        let word =
            |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if raw.name.is_empty() || raw.name.len() > 40 || !word(&raw.name) {
            return Err(error("name", format!("{:?} is not 1 to 40 of a-z, 0-9 and '-'", raw.name)));
        }
        if all.iter().any(|other| other.name == raw.name) {
            return Err(error("name", format!("{:?} is the name of an earlier plan", raw.name)));
        }
        if raw.scenarios.is_empty() {
            return Err(error("scenarios", "names none: add at least one".to_owned()));
        }
        let mut scenarios = Vec::new();
        for name in &raw.scenarios {
            let path = find(name)?;
            // A plan that cannot be run is found out in the evening and not at night.
            load_all(&path)?;
            scenarios.push(path);
        }
        let start = time_of_day(&raw.start).map_err(|cause| error("start", cause))?;
        let bounded = |key: &str, given: Option<RawDuration>, otherwise: Duration| {
            let given = given.map_or(otherwise, |given| given.0);
            if given.is_zero() || given > DAY {
                return Err(error(key, format!("{given:?} is not between 1 ms and 24 h")));
            }
            Ok(given)
        };
        let window = bounded("window", raw.window, DEFAULT_WINDOW)?;
        let deadline = bounded("deadline", raw.deadline, DEFAULT_DEADLINE)?;
        let attempt = bounded("attempt", raw.attempt, DEFAULT_ATTEMPT.min(deadline))?;
        if attempt > deadline {
            return Err(error("attempt", format!("{attempt:?} does not fit into a night of {deadline:?}")));
        }
        let RawRetries { device, lab } = raw.retries;
        if device.max(lab) > MAX_RETRIES {
            return Err(error("retries", format!("more than {MAX_RETRIES} tell nothing new")));
        }
        let keep = raw.keep.unwrap_or(DEFAULT_KEEP);
        if !(2..=MAX_KEEP).contains(&keep) {
            return Err(error(
                "keep",
                format!("{keep} is not between 2 and {MAX_KEEP}: each night is compared"),
            ));
        }
        let whole = raw.whole.unwrap_or(DEFAULT_WHOLE.min(keep));
        if whole > keep {
            return Err(error("whole", format!("{whole} is more than `keep`, which is {keep}")));
        }
        let RawNotify { command, webhook } = raw.notify;
        if let Some(url) = &webhook
            && !url::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && url.has_host())
        {
            return Err(error("notify.webhook", "is no URL that begins with http://".to_owned()));
        }
        all.push(Nightly {
            name: raw.name,
            scenarios,
            models: raw.models,
            devices: raw.devices,
            start,
            window,
            deadline,
            attempt,
            device_retries: device,
            lab_retries: lab,
            keep,
            whole,
            command,
            webhook,
        });
    }
    Ok(all)
}

/// `22:30` as the time since midnight.
fn time_of_day(text: &str) -> Result<Duration, String> {
    let number = |text: &str, below: u64| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| digits && *number < below)
    };
    let parts = text.split_once(':').and_then(|(h, m)| Some((number(h, 24)?, number(m, 60)?)));
    parts
        .map(|(hours, minutes)| Duration::from_secs(hours * 3600 + minutes * 60))
        .ok_or_else(|| format!("{text:?} is no time of day such as \"22:30\" (UTC)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lab;

    fn load(nightly: &str) -> Result<Vec<Nightly>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        let text = format!(
            "name = \"l\"\n[[pools]]\nname = \"c\"\nbackend = \"container\"\ncount = 1\n[[nightly]]\n{nightly}"
        );
        std::fs::write(&path, text).unwrap();
        let loaded = lab::load(&path, None, None).map(|lab| lab.nightly);
        loaded.map_err(|e| e.to_string().replace(dir.path().to_str().unwrap(), ""))
    }

    #[test]
    fn a_plan_says_little_and_means_the_rest() {
        let plan = &load("scenarios = [\"ping\"]\nstart = \"22:30\"\n").unwrap()[0];
        assert_eq!((plan.start, plan.name.as_str()), (Duration::from_secs(81_000), "nightly"));
        assert_eq!(plan.whole, 3);
        assert_eq!((plan.keep, plan.device_retries, plan.lab_retries), (30, 1, 1));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let table = [
            ("scenarios = []\nstart = \"22:30\"\n", "/lab.toml:6: nightly[0].scenarios: names none"),
            ("scenarios = [\"pong\"]\nstart = \"22:30\"\n", "there is no scenario \"pong\""),
            (
                "scenarios = [\"ping\"]\nstart = \"24:00\"\n",
                "/lab.toml:6: nightly[0].start: \"24:00\" is no time of day",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\ndeadline = \"0s\"\n",
                "/lab.toml:6: nightly[0].deadline: 0ns is not",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\nattempt = \"9h\"\n",
                "/lab.toml:6: nightly[0].attempt: 32400s does not fit",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\nkeep = 1\n",
                "/lab.toml:6: nightly[0].keep: 1 is not between",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\nretries = { device = 9 }\n",
                "/lab.toml:6: nightly[0].retries: more than 5",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\nnotify = { webhook = \"ftp://x\" }\n",
                "/lab.toml:6: nightly[0].notify.webhook: is no URL",
            ),
            (
                "scenarios = [\"ping\"]\nstart = \"22:30\"\n[[nightly]]\nscenarios = [\"ping\"]\nstart = \"22:30\"\n",
                "/lab.toml:9: nightly[1].name: \"nightly\" is the name of",
            ),
            ("scenarios = [\"ping\"]\nstart = \"22:30\"\nowls = 1\n", "/lab.toml:9:1: unknown field `owls`"),
        ];
        for (text, expected) in table {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
    }
}
