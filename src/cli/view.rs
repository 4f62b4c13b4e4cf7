//! A run as its events tell it: the state behind the screen, the tables and the JUnit report.

use crate::model::boot::{BootAttempt, BootStage};
use crate::model::event::Event;
use crate::model::id::{DeviceId, RunId, ScenarioName};
use crate::model::power::PowerState;
use crate::model::run::{AssignedDevice, Outcome, RunEvent, RunFact, StepResult, Verdict};
use crate::model::time::Stamp;
use std::collections::BTreeMap;

/// A run so far.
#[derive(Debug, Clone)]
pub struct RunView {
    /// Its id.
    pub run: RunId,
    /// Its scenario.
    pub scenario: ScenarioName,
    /// Its steps, in order.
    pub steps: Vec<StepView>,
    /// Its devices; empty while it is queued.
    pub devices: Vec<DeviceView>,
    /// The manifest hash of the image; empty while it is queued.
    pub image: String,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// How long it took, in seconds; 0 until it has ended.
    pub took: f64,
    /// The run that tries again what this one could not.
    pub next: Option<RunId>,
    /// The run before it, which the lab could not bring to an end.
    pub earlier: Option<RunId>,
}

/// A step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StepView {
    /// Its name.
    pub name: String,
    /// How it stands.
    pub state: StepState,
}

/// How a step stands.
#[derive(Debug, Clone, PartialEq)]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Begun.
    Running,
    /// Over.
    Ended {
        /// What it came to.
        result: StepResult,
        /// In seconds.
        took: f64,
    },
}

/// A device of a run.
#[derive(Debug, Clone)]
pub struct DeviceView {
    /// What it is and for which role.
    pub assigned: AssignedDevice,
    /// Its boot attempts during the run.
    pub boots: BTreeMap<BootAttempt, Boot>,
}

/// A boot attempt: what was reached, and when.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Boot {
    power_on: Option<Stamp>,
    /// How it was started, where it could be from saved memory.
    pub start: Option<&'static str>,
    /// Why it booted all the same.
    pub cause: String,
    /// Seconds since power-on, by what was reached first then.
    pub marks: BTreeMap<Mark, f64>,
}

/// Something a booting device reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// A stage.
    Stage(BootStage),
    /// It was started from saved memory, and knows who it is.
    Woken,
    /// Its agent's first answer.
    Answer,
}

impl Mark {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stage(stage) => stage.name(),
            Self::Woken => "woken",
            Self::Answer => "agent ping",
        }
    }
}

impl RunView {
    /// A run that was accepted.
    pub fn new(run: RunId, scenario: ScenarioName) -> Self {
        Self {
            run,
            scenario,
            steps: Vec::new(),
            devices: Vec::new(),
            image: String::new(),
            outcome: None,
            took: 0.0,
            next: None,
            earlier: None,
        }
    }

    /// The run that tries `before` again.
    pub fn again(before: &Self, run: RunId) -> Self {
        Self { earlier: Some(before.run.clone()), ..Self::new(run, before.scenario.clone()) }
    }

    /// Takes in the next event.
    pub fn apply(&mut self, event: &RunEvent) {
        match &event.fact {
            RunFact::Queued { scenario, steps } => {
                self.scenario = scenario.clone();
                self.steps = steps.iter().map(|name| StepView::waiting(name)).collect();
            }
            RunFact::Started { devices, image } => {
                self.image.clone_from(image);
                self.devices = devices
                    .iter()
                    .map(|assigned| DeviceView { assigned: assigned.clone(), boots: BTreeMap::new() })
                    .collect();
            }
            RunFact::Device { device, attempt, event: what } => {
                if let Some(boot) = self.boot(device, *attempt) {
                    boot.note(what, &event.at);
                }
            }
            RunFact::Stage { device, attempt, stage, after, .. } => {
                if let Some(boot) = self.boot(device, *attempt) {
                    boot.reach(Mark::Stage(*stage), *after);
                }
            }
            // What it was is in the outcome.
            RunFact::Fault { .. } | RunFact::Phase { .. } => {}
            RunFact::StepStarted { step, name } => self.set_step(*step, name, StepState::Running),
            RunFact::StepEnded { step, name, result, took } => {
                self.set_step(*step, name, StepState::Ended { result: result.clone(), took: *took });
            }
            RunFact::Ended { outcome, took, next } => {
                self.outcome = Some(outcome.clone());
                self.took = *took;
                self.next.clone_from(next);
            }
        }
    }

    /// The verdict; a run without one is one the lab lost.
    pub fn verdict(&self) -> Verdict {
        self.outcome.as_ref().map_or(Verdict::Lab, |outcome| outcome.verdict)
    }

    /// The step that runs now, by index.
    pub fn running_step(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.state == StepState::Running)
    }

    fn boot(&mut self, device: &DeviceId, attempt: BootAttempt) -> Option<&mut Boot> {
        let device = self.devices.iter_mut().find(|d| d.assigned.device == *device)?;
        Some(device.boots.entry(attempt).or_default())
    }

    /// Cleanup steps come after those that were announced, so the list may grow by one.
    fn set_step(&mut self, index: usize, name: &str, state: StepState) {
        if index == self.steps.len() {
            self.steps.push(StepView::waiting(name));
        }
        if let Some(step) = self.steps.get_mut(index) {
            name.clone_into(&mut step.name);
            step.state = state;
        }
    }
}

impl StepView {
    fn waiting(name: &str) -> Self {
        Self { name: name.to_owned(), state: StepState::Waiting }
    }
}

impl DeviceView {
    /// What the newest boot attempt reached last.
    pub fn latest(&self) -> Option<(Mark, f64)> {
        let boot = self.boots.values().next_back()?;
        boot.marks.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(mark, after)| (*mark, *after))
    }
}

impl Boot {
    fn note(&mut self, event: &Event, at: &Stamp) {
        let mark = match event {
            // What starts from saved memory has got somewhere by the time that it is done.
            Event::PowerIntent { state: PowerState::On, .. }
            | Event::PowerDone { state: PowerState::On, .. } => {
                self.power_on.get_or_insert(*at);
                return;
            }
            Event::Woken { saved, .. } => {
                self.start = Some(if *saved { "warm, saved first" } else { "warm" });
                Mark::Woken
            }
            Event::ColdStart { cause } => {
                self.start = Some("cold");
                self.cause.clone_from(cause);
                return;
            }
            Event::Stage { stage, .. } => Mark::Stage(*stage),
            Event::TicketRedeemed { .. } => Mark::Stage(BootStage::Ticket),
            Event::AgentAnswered { .. } => Mark::Answer,
            _ => return,
        };
        if let Some(power_on) = self.power_on {
            self.reach(mark, at.seconds_since(&power_on));
        }
    }

    fn reach(&mut self, mark: Mark, after: f64) {
        self.marks.entry(mark).or_insert(after);
    }
}

#[cfg(test)]
pub(super) mod fixture {
    //! Recorded event streams, as JSON lines, for the tests of all consumers.

    use super::*;

    pub(in crate::cli) fn read(lines: &str) -> Vec<RunEvent> {
        lines.lines().filter(|l| !l.trim().is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    pub(in crate::cli) fn passed() -> Vec<RunEvent> {
        read(include_str!("../../tests/fixtures/run-passed.jsonl"))
    }

    pub(in crate::cli) fn panicked() -> Vec<RunEvent> {
        read(include_str!("../../tests/fixtures/run-panicked.jsonl"))
    }

    pub(in crate::cli) fn skipped() -> Vec<RunEvent> {
        read(include_str!("../../tests/fixtures/run-skipped.jsonl"))
    }

    pub(in crate::cli) fn view(events: &[RunEvent]) -> RunView {
        let mut view = RunView::new(events[0].run.clone(), ScenarioName::new("x").unwrap());
        for event in events {
            view.apply(event);
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_reached_is_timed_from_power_on() {
        let view = fixture::view(&fixture::passed());
        let device = &view.devices[0];
        let boot = &device.boots[&BootAttempt(1)];
        let marks: Vec<_> = boot.marks.iter().map(|(mark, after)| (mark.name(), *after)).collect();
        assert_eq!(
            marks,
            [
                ("kernel", 1.1),
                ("initramfs", 2.4),
                ("network", 3.3),
                ("ticket", 3.7),
                ("systemd", 6.2),
                ("sshd", 10.7),
                ("agent ping", 11.45)
            ]
        );
        assert_eq!(device.latest(), Some((Mark::Answer, 11.45)));
        assert_eq!(view.verdict(), Verdict::Passed);
    }

    #[test]
    fn a_run_without_an_end_was_lost_by_the_lab() {
        let events = fixture::passed();
        let view = fixture::view(&events[..events.len() - 1]);
        assert_eq!(view.verdict(), Verdict::Lab);
    }
}
