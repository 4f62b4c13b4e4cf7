//! In what two runs differ. Pure.
//!
//! Devices go by their roles and boots by their order in the run, so that runs on different devices can be compared.
//! Consoles are compared as bags of lines, without what changes by itself ([`super::noise`]): a booting system does
//! many things at once, in an order that means nothing.

use super::noise::normalised;
use super::timeline::plain;
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::run::{RunEvent, RunFact, StepResult};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What took this much longer or shorter is told, and [`NOTABLE_BY`] seconds besides: less is a busy host.
const NOTABLE: f64 = 1.5;
/// Seconds.
const NOTABLE_BY: f64 = 1.0;
/// The most lines of a console that are listed of either run.
const MOST_LINES: usize = 200;

/// What the boot image is called among the differences.
const IMAGE: &str = "image";

/// One of the two runs.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its events.
    pub events: &'a [RunEvent],
    /// Its devices' consoles.
    pub consoles: &'a BTreeMap<DeviceId, Vec<u8>>,
}

/// Something that is not the same. What is none was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What.
    pub what: String,
    /// How it was.
    pub before: Option<String>,
    /// How it is.
    pub after: Option<String>,
}

/// How long something took in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// What.
    pub what: String,
    /// Seconds then.
    pub before: f64,
    /// Seconds now.
    pub after: f64,
    /// It took notably longer or shorter.
    pub notable: bool,
}

/// Lines that only one of two consoles has, or has more often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Consoles {
    /// The device's role.
    pub role: String,
    /// Lines that are no more, at most 200.
    pub gone: Vec<String>,
    /// Lines that are new, at most 200.
    pub new: Vec<String>,
    /// How many lines are the same.
    pub same: usize,
    /// How many differing lines are not listed.
    pub more: usize,
}

/// All differences.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// Scenario, verdict, its reason, devices' models, image.
    pub run: Vec<Change>,
    /// What the steps came to.
    pub steps: Vec<Change>,
    /// Boot stages that one of them did not reach.
    pub stages: Vec<Change>,
    /// The phases that deployments went through.
    pub phases: Vec<Change>,
    /// Consoles that differ.
    pub consoles: Vec<Consoles>,
    /// How long things took.
    pub timings: Vec<Timing>,
}

impl Comparison {
    /// Whether what was run, what came of it, or the way there differs. Consoles and times alone do not count: hardly any
    /// two are the same.
    pub fn differs(&self) -> bool {
        [&self.run, &self.steps, &self.stages, &self.phases].iter().any(|changes| !changes.is_empty())
    }
}

/// What is compared of a run.
#[derive(Default)]
struct Digest {
    run: Vec<(String, String)>,
    steps: Vec<(String, String)>,
    stages: Vec<(String, String)>,
    phases: Vec<(String, String)>,
    took: Vec<(String, f64)>,
    roles: BTreeMap<DeviceId, String>,
}

/// Compares two runs.
pub fn compare(before: Side<'_>, after: Side<'_>) -> Comparison {
    let (then, now) = (digest(before.events), digest(after.events));
    let consoles = consoles(before, &then, after, &now);
    let timings = then.took.iter().filter_map(|(what, before)| {
        let after = now.took.iter().find(|(other, _)| other == what)?.1;
        let (less, more) = if *before < after { (*before, after) } else { (after, *before) };
        let notable = more > less * NOTABLE && more > less + NOTABLE_BY;
        Some(Timing { what: what.clone(), before: *before, after, notable })
    });
    Comparison {
        run: changes(&then.run, &now.run),
        steps: changes(&then.steps, &now.steps),
        stages: changes(&then.stages, &now.stages),
        phases: changes(&then.phases, &now.phases),
        consoles,
        timings: timings.collect(),
    }
}

/// Values that differ, in the order of the first, what only the second has after that.
fn changes(then: &[(String, String)], now: &[(String, String)]) -> Vec<Change> {
    let value = |all: &[(String, String)], what: &str| {
        all.iter().find(|(key, _)| key == what).map(|(_, value)| value.clone())
    };
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in then.iter().chain(now) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let change =
        |what: &String| Change { what: what.clone(), before: value(then, what), after: value(now, what) };
    let same = |change: &Change| {
        let alike = || change.before.as_deref().map(normalised) == change.after.as_deref().map(normalised);
        // An image is its hash: that is no noise.
        change.before == change.after || (change.what != IMAGE && alike())
    };
    keys.into_iter().map(change).filter(|change| !same(change)).collect()
}

fn digest(events: &[RunEvent]) -> Digest {
    let mut digest = Digest::default();
    let mut boots: BTreeMap<DeviceId, Vec<BootAttempt>> = BTreeMap::new();
    let mut reached: BTreeSet<String> = BTreeSet::new();
    let mut phases: Vec<(String, Vec<String>)> = Vec::new();
    for event in events {
        match &event.fact {
            RunFact::Queued { scenario, .. } => {
                digest.run.push(("scenario".to_owned(), scenario.to_string()));
            }
            RunFact::Started { devices, image } => {
                for device in devices {
                    digest.roles.insert(device.device.clone(), device.role.clone());
                    digest.run.push((format!("model of {}", device.role), device.model.to_string()));
                }
                digest.run.push((IMAGE.to_owned(), image.clone()));
            }
            RunFact::Stage { device, attempt, stage, after, .. } => {
                digest.stage(device, *attempt, stage.name(), Some(*after), &mut boots, &mut reached);
            }
            RunFact::Device { device, attempt, event: Event::AgentAnswered { .. } } => {
                digest.stage(device, *attempt, "agent's answer", None, &mut boots, &mut reached);
            }
            RunFact::Phase { device, deployment, phase, .. } => {
                let key = format!("{deployment} on {}", digest.role(device));
                let phase = phase.map_or_else(|| "gone".to_owned(), |phase| phase.to_string());
                match phases.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, all)) if all.last() == Some(&phase) => {}
                    Some((_, all)) => all.push(phase),
                    None => phases.push((key, vec![phase])),
                }
            }
            RunFact::StepEnded { step, name, result, took } => {
                let key = format!("step {} {name:?}", step + 1);
                let value = match result {
                    StepResult::Ok { .. } => "ok".to_owned(),
                    StepResult::Fault { fault } => format!("fault: {}", fault.cause),
                };
                digest.steps.push((key.clone(), value));
                digest.took.push((key, *took));
            }
            RunFact::Ended { outcome, took, .. } => {
                digest.run.push(("verdict".to_owned(), outcome.verdict.to_string()));
                digest.run.push(("reason".to_owned(), outcome.reason.clone()));
                digest.took.push(("the run".to_owned(), *took));
            }
            RunFact::Device { .. } | RunFact::Fault { .. } | RunFact::StepStarted { .. } => {}
        }
    }
    digest.phases = phases.into_iter().map(|(key, all)| (key, all.join(", "))).collect();
    digest
}

impl Digest {
    fn role(&self, device: &DeviceId) -> String {
        self.roles.get(device).cloned().unwrap_or_else(|| device.to_string())
    }

    fn stage(
        &mut self,
        device: &DeviceId,
        attempt: BootAttempt,
        stage: &str,
        after: Option<f64>,
        boots: &mut BTreeMap<DeviceId, Vec<BootAttempt>>,
        reached: &mut BTreeSet<String>,
    ) {
        let known = boots.entry(device.clone()).or_default();
        if !known.contains(&attempt) {
            known.push(attempt);
        }
        let boot = known.iter().position(|known| *known == attempt).unwrap_or_default() + 1;
        let key = format!("{} boot {boot}: {stage}", self.role(device));
        if reached.insert(key.clone()) {
            self.stages.push((key.clone(), "reached".to_owned()));
            self.took.extend(after.map(|after| (key, after)));
        }
    }
}

fn consoles(before: Side<'_>, then: &Digest, after: Side<'_>, now: &Digest) -> Vec<Consoles> {
    let by_role = |side: Side<'_>, digest: &Digest| -> BTreeMap<String, Vec<String>> {
        let lines = |bytes: &Vec<u8>| {
            let lines = bytes.split(|byte| *byte == b'\n').map(|line| normalised(&plain(line)));
            lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
        };
        side.consoles.iter().map(|(device, bytes)| (digest.role(device), lines(bytes))).collect()
    };
    let (then, now) = (by_role(before, then), by_role(after, now));
    let roles: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let none = Vec::new();
    let differ = roles.into_iter().map(|role| {
        let (then, now) = (then.get(role).unwrap_or(&none), now.get(role).unwrap_or(&none));
        let (mut gone, mut new) = (only(then, now), only(now, then));
        let same = then.len() - gone.len();
        let more = gone.len().saturating_sub(MOST_LINES) + new.len().saturating_sub(MOST_LINES);
        gone.truncate(MOST_LINES);
        new.truncate(MOST_LINES);
        Consoles { role: role.clone(), gone, new, same, more }
    });
    differ.filter(|differ| !differ.gone.is_empty() || !differ.new.is_empty()).collect()
}

/// The lines of the one that the other has not, or not so often, in their order.
fn only(one: &[String], other: &[String]) -> Vec<String> {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for line in other {
        *left.entry(line).or_default() += 1;
    }
    let mut only = Vec::new();
    for line in one {
        match left.get_mut(line.as_str()) {
            Some(count) if *count > 0 => *count -= 1,
            _ => only.push(line.clone()),
        }
    }
    only
}

#[cfg(test)]
mod tests;
