//! What is going on, on standard error: on a terminal one moving line for the lab's start and one for
//! each run, elsewhere one plain line for each thing that happens.

use super::local::{Progress, Step};
use super::summary;
use super::table::{printable, seconds};
use super::ui::Ui;
use super::view::{DeviceView, RunView};
use crate::model::event::Event;
use crate::model::id::RunId;
use crate::model::run::{RunEvent, RunFact, StepResult};
use crate::support::lock::lock;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How often a moving line is drawn anew.
const TICK: Duration = Duration::from_millis(200);
/// How often a plain line tells how far a long step is.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// The screen of one command.
#[derive(Debug)]
pub struct Screen {
    ui: Ui,
    bars: Option<MultiProgress>,
    runs: BTreeMap<RunId, ProgressBar>,
}

impl Screen {
    /// An empty screen.
    pub fn new(ui: Ui) -> Self {
        Self { ui, bars: ui.moving.then(MultiProgress::new), runs: BTreeMap::new() }
    }

    /// Shows what a local verb does, until it is dropped.
    pub fn local(&self) -> Progress {
        match &self.bars {
            Some(bars) => {
                let bar = bars.add(bar());
                let bar = RemovedWhenDone(bar);
                Progress::new(move |step| bar.show(step))
            }
            None => {
                let plain = Mutex::new(Plain { what: String::new(), told: Instant::now() });
                let ui = self.ui;
                Progress::new(move |step| {
                    let line = lock(&plain).line(step, Instant::now());
                    if let Some(line) = line {
                        ui.note(&line);
                    }
                })
            }
        }
    }

    /// Shows an event of a run, after the run's view has taken it in.
    pub fn event(&mut self, view: &RunView, event: &RunEvent) {
        let Some(bars) = &self.bars else {
            if let Some(line) = event_line(view, event) {
                self.ui.note(&line);
            }
            return;
        };
        let bar = self.runs.entry(view.run.clone()).or_insert_with(|| bars.add(bar()));
        bar.set_message(status(view));
        if view.outcome.is_some() {
            bar.finish();
        }
    }

    /// Says something between the lines.
    pub fn note(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| self.ui.note(line)),
            None => self.ui.note(line),
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(spinner());
    bar.enable_steady_tick(TICK);
    bar
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn measured() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed:>4} {bar:20} {percent:>3}% {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A moving line that leaves nothing behind.
struct RemovedWhenDone(ProgressBar);

impl RemovedWhenDone {
    fn show(&self, step: Step) {
        match step {
            Step::Begin { what } => {
                self.0.set_style(spinner());
                self.0.set_message(printable(&what));
            }
            Step::At { done, total } if total > 0 => {
                self.0.set_style(measured());
                self.0.set_length(total);
                self.0.set_position(done);
            }
            Step::At { .. } => self.0.tick(),
        }
    }
}

impl Drop for RemovedWhenDone {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What a long step has told in plain lines.
struct Plain {
    what: String,
    told: Instant,
}

impl Plain {
    fn line(&mut self, step: Step, now: Instant) -> Option<String> {
        match step {
            Step::Begin { what } => {
                self.what = printable(&what);
                self.told = now;
                Some(self.what.clone())
            }
            Step::At { done, total } if total > 0 && now - self.told >= PLAIN_EVERY => {
                self.told = now;
                Some(format!("{}: {} %", self.what, done.saturating_mul(100) / total))
            }
            Step::At { .. } => None,
        }
    }
}

/// One run on one line: its devices' latest stage and its step.
fn status(view: &RunView) -> String {
    let scenario = &view.scenario;
    if let Some(outcome) = &view.outcome {
        let why = summary::reason(view).map(|reason| format!(": {reason}")).unwrap_or_default();
        return format!("{scenario}: {} after {} s{why}", outcome.verdict, seconds(view.took));
    }
    if view.devices.is_empty() {
        return format!("{scenario} waits for devices");
    }
    if let Some(index) = view.running_step() {
        let name = view.steps.get(index).map(|step| printable(&step.name)).unwrap_or_default();
        return format!("{scenario} step {}/{} {name}", index + 1, view.steps.len());
    }
    let devices: Vec<String> = view.devices.iter().map(device_status).collect();
    format!("{scenario} {}", devices.join(", "))
}

fn device_status(device: &DeviceView) -> String {
    let reached = device.latest().map_or("off", |(mark, _)| mark.name());
    format!("{} {reached}", device.assigned.device)
}

/// One event on one line; none for what people need not see.
fn event_line(view: &RunView, event: &RunEvent) -> Option<String> {
    let what = match &event.fact {
        RunFact::Queued { .. } => "queued".to_owned(),
        RunFact::Started { .. } => {
            let devices = view.devices.iter().map(|d| format!("{}={}", d.assigned.role, d.assigned.device));
            format!("started on {}", devices.collect::<Vec<_>>().join(" "))
        }
        RunFact::Stage { device, stage, after, boot, .. } => {
            let again = if *boot > 1 { format!(", boot {boot}") } else { String::new() };
            format!("{device} {stage} {} s after power-on{again}", seconds(*after))
        }
        RunFact::Phase { device, deployment, phase, .. } => {
            let phase = phase.map_or_else(|| "gone".to_owned(), |phase| phase.to_string());
            format!("{device} {deployment} {phase}")
        }
        RunFact::Fault { fault } => format!("fault: {}", printable(&fault.cause)),
        RunFact::StepStarted { step, name } => {
            format!("step {}/{} {}", step + 1, view.steps.len(), printable(name))
        }
        RunFact::StepEnded { step, result, took, .. } => {
            let (word, text) = match result {
                StepResult::Ok { seen } => ("ok", seen),
                StepResult::Fault { fault } => ("fault", &fault.cause),
            };
            let (step, all) = (step + 1, view.steps.len());
            format!("step {step}/{all} {word} in {} s: {}", seconds(*took), printable(text))
        }
        RunFact::Ended { .. } => return Some(status(view)),
        RunFact::Device { device, event, .. } => format!("{device} {}", device_line(event)?),
    };
    Some(format!("{} {what}", view.scenario))
}

/// What a device's journal says that is not a stage, where people should see it.
fn device_line(event: &Event) -> Option<String> {
    match event {
        Event::AgentAnswered { version, .. } => Some(format!("agent {} answered", printable(version))),
        Event::BootStalled { at, again, .. } => {
            let again = if *again { "; it is booted anew" } else { "" };
            Some(format!("stands still: {}{again}", printable(at)))
        }
        Event::ConsoleGap { cause, .. } => Some(format!("console gap: {}", printable(cause))),
        Event::NetworkCut {} => Some("cut off from NATS".to_owned()),
        Event::CablesCrossed { shows } => {
            Some(format!("shows {shows} on its console: serial cables are crossed"))
        }
        Event::NetworkRestored {} => Some("reaches NATS again".to_owned()),
        Event::PowerFailed { cause, .. } => Some(format!("power failed: {}", printable(cause))),
        Event::TicketRefused { address, cause } => {
            Some(format!("ticket refused to {}: {}", printable(address), printable(cause)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::fixture;

    #[test]
    fn plain_lines_tell_the_run() {
        let events = fixture::passed();
        let mut view = fixture::view(&events[..1]);
        let mut lines = Vec::new();
        for event in &events {
            view.apply(event);
            lines.extend(event_line(&view, event));
        }
        insta::assert_snapshot!(lines.join("\n"), @r#"
        ping queued
        ping started on dut=laptop-vm-1
        ping laptop-vm-1 kernel 0.9 s after power-on
        ping laptop-vm-1 agent 0.1.0 answered
        ping step 1/1 ping
        ping step 1/1 ok in 0.2 s: agent 0.1.0 answered in 12 ms
        ping: passed after 12.1 s
        "#);
    }

    #[test]
    fn the_moving_line_shows_what_matters_now() {
        let events = fixture::passed();
        let at = |count| status(&fixture::view(&events[..count]));
        insta::assert_snapshot!([at(1), at(2), at(5), at(events.len() - 2), at(events.len())].join("\n"), @r#"
        ping waits for devices
        ping laptop-vm-1 off
        ping laptop-vm-1 kernel
        ping step 1/1 ping
        ping: passed after 12.1 s
        "#);
        insta::assert_snapshot!(status(&fixture::view(&fixture::panicked())), @r#"
        deploy-lifecycle: lab after 3.6 s: on laptop-vm-1: kernel panic 2.9 s after power-on: "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
        "#);
    }

    #[test]
    fn a_long_step_tells_how_far_it_is_but_not_all_the_time() {
        let start = Instant::now();
        let mut plain = Plain { what: String::new(), told: start };
        assert_eq!(plain.line(Step::Begin { what: "layer".into() }, start), Some("layer".into()));
        assert_eq!(plain.line(Step::At { done: 1, total: 4 }, start), None);
        assert_eq!(
            plain.line(Step::At { done: 1, total: 4 }, start + PLAIN_EVERY),
            Some("layer: 25 %".into())
        );
        assert_eq!(plain.line(Step::At { done: 2, total: 0 }, start + PLAIN_EVERY * 3), None);
    }
}
