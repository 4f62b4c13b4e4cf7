//! `[health]` of a lab file: when devices are trusted, checked and switched off.

use super::error::ConfigError;
use super::raw::Source;
use crate::model::id::{DeviceId, LabName};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::Spanned;

/// How far a lab trusts its devices, and what it does with those that nobody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The rate of faults that is put up with, in percent.
    pub tolerated: u32,
    /// How many clean runs in a row make a suspect good.
    pub clean_runs: u32,
    /// How many clean boots in a row end the first quarantine, and train a device.
    pub clean_boots: u32,
    /// The most clean boots that are asked for.
    pub most_boots: u32,
    /// How long a boot of a check or a training may take.
    pub boot_timeout: Duration,
    /// The shortest pause between two checks of a device; none when none are made.
    pub recheck: Option<Duration>,
    /// The longest.
    pub recheck_max: Duration,
    /// After how long a device that nobody has is switched off; none for never.
    pub idle_off: Option<Duration>,
    /// The devices that stay on for all that.
    pub always_on: BTreeSet<DeviceId>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            tolerated: 10,
            clean_runs: 5,
            clean_boots: 10,
            most_boots: 80,
            boot_timeout: Duration::from_secs(180),
            recheck: Some(Duration::from_secs(15 * 60)),
            recheck_max: Duration::from_secs(6 * 3600),
            idle_off: Some(Duration::from_secs(10 * 60)),
            always_on: BTreeSet::new(),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    tolerated: Option<Spanned<u32>>,
    clean_runs: Option<Spanned<u32>>,
    clean_boots: Option<Spanned<u32>>,
    most_boots: Option<Spanned<u32>>,
    boot_timeout: Option<Spanned<String>>,
    recheck: Option<Spanned<String>>,
    recheck_max: Option<Spanned<String>>,
    idle_off: Option<Spanned<String>>,
    #[serde(default)]
    always_on: Vec<Spanned<String>>,
}

/// The shortest and the longest time in `[health]`.
const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86400);
/// What says that something is never done.
const NEVER: &str = "never";

impl RawHealth {
    /// `devices` are those of the lab.
    pub(super) fn check(
        self,
        source: &Source,
        lab: &LabName,
        devices: &BTreeSet<DeviceId>,
    ) -> Result<Health, ConfigError> {
        let usual = Health::default();
        let number = |key: &str, raw: Option<Spanned<u32>>, usual: u32, range: RangeInclusive<u32>| {
            let Some(raw) = raw else { return Ok(usual) };
            let (number, (from, to)) = (*raw.get_ref(), (range.start(), range.end()));
            if range.contains(&number) {
                return Ok(number);
            }
            let cause = format!("{number} is not between {from} and {to}");
            Err(source.value(&raw.span(), format!("health.{key}"), cause))
        };
        let time = |key: &str, raw: Option<&Spanned<String>>, usual: Duration| {
            let Some(raw) = raw else { return Ok(usual) };
            let error = |cause: String| source.value(&raw.span(), format!("health.{key}"), cause);
            let text = raw.get_ref();
            let time = humantime::parse_duration(text)
                .map_err(|e| error(format!("{text:?} is no time such as \"15m\": {e}")))?;
            if RANGE.contains(&time) {
                return Ok(time);
            }
            Err(error(format!("{text:?} is not between 1 s and 30 days")))
        };
        let unless_never = |key: &str, raw: Option<&Spanned<String>>, usual: Option<Duration>| match raw {
            Some(raw) if raw.get_ref() == NEVER => Ok(None),
            Some(raw) => time(key, Some(raw), Duration::ZERO).map(Some),
            None => Ok(usual),
        };
        let clean_boots = self.clean_boots.as_ref().map(Spanned::span);
        let most_span = self.most_boots.as_ref().map(Spanned::span);
        let recheck = unless_never("recheck", self.recheck.as_ref(), usual.recheck)?;
        let health = Health {
            tolerated: number("tolerated", self.tolerated, usual.tolerated, 1..=90)?,
            clean_runs: number("clean_runs", self.clean_runs, usual.clean_runs, 1..=100)?,
            clean_boots: number("clean_boots", self.clean_boots, usual.clean_boots, 1..=100)?,
            most_boots: number("most_boots", self.most_boots, usual.most_boots, 1..=200)?,
            boot_timeout: time("boot_timeout", self.boot_timeout.as_ref(), usual.boot_timeout)?,
            recheck,
            recheck_max: time("recheck_max", self.recheck_max.as_ref(), usual.recheck_max)?,
            idle_off: unless_never("idle_off", self.idle_off.as_ref(), usual.idle_off)?,
            always_on: always_on(source, lab, devices, self.always_on)?,
        };
        if let Some(span) = clean_boots.or(most_span).filter(|_| health.most_boots < health.clean_boots) {
            let cause = "the first quarantine asks for more clean boots than the most".to_owned();
            return Err(source.value(&span, "health.clean_boots", cause));
        }
        Ok(health)
    }
}

fn always_on(
    source: &Source,
    lab: &LabName,
    devices: &BTreeSet<DeviceId>,
    raw: Vec<Spanned<String>>,
) -> Result<BTreeSet<DeviceId>, ConfigError> {
    let ids = raw.into_iter().enumerate().map(|(index, raw)| {
        let id = DeviceId::new(format!("{lab}-{}", raw.get_ref())).ok().filter(|id| devices.contains(id));
        id.ok_or_else(|| {
            let cause = format!("{:?} is no device of this file, by its id there", raw.get_ref());
            source.value(&raw.span(), format!("health.always_on[{index}]"), cause)
        })
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::lab::load;

    fn read(health: &str) -> Result<Health, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lab.toml");
        let pool = "[[pools]]\nname = \"vm\"\nbackend = \"vm\"\ncount = 1\n";
        std::fs::write(&path, format!("name = \"l\"\n{pool}[health]\n{health}\n")).unwrap();
        load(&path, None, None).map(|lab| lab.health).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_is_as_usual_and_never_is_none() {
        assert_eq!(read("").unwrap(), Health::default());
        let health =
            read("recheck = \"never\"\nidle_off = \"never\"\nalways_on = [\"vm-1\"]\ntolerated = 20");
        let expected = Health {
            recheck: None,
            idle_off: None,
            always_on: [DeviceId::new("l-vm-1").unwrap()].into(),
            tolerated: 20,
            ..Health::default()
        };
        assert_eq!(health.unwrap(), expected);
        assert_eq!(read("idle_off = \"1h\"").unwrap().idle_off, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_key() {
        for (text, key) in [
            ("tolerated = 0", "health.tolerated"),
            ("clean_boots = 90", "health.clean_boots"),
            ("most_boots = 5", "health.clean_boots"),
            ("recheck = \"soon\"", "health.recheck"),
            ("idle_off = \"0s\"", "health.idle_off"),
            ("boot_timeout = \"never\"", "health.boot_timeout"),
            ("always_on = [\"vm-2\"]", "health.always_on[0]"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(key) && error.contains("lab.toml"), "{text}: {error}");
        }
    }
}
