//! `pilab device train`: one boot after the other, a line for each, and what the device is after them.

use super::args::DeviceTrainArgs;
use super::client::Client;
use super::error::CliError;
use super::exit::Exit;
use super::local::Local;
use super::login::connect;
use super::run::Interrupts;
use super::table::printable;
use super::ui::Ui;
use super::view::{RunView, StepState};
use super::watch::{Observer, watch_one};
use crate::model::health::Health;
use crate::model::id::{DeviceId, RunId, ScenarioName};
use crate::model::run::{RunEvent, Verdict};
use crate::wire::lending::{self, DeviceAsked, DeviceShown};
use crate::wire::training::{TRAIN, Train, Training};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long it may take until the device's record says what the training came to: one that was stopped says nothing.
const FOUND_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// Trains a device.
pub(super) async fn train(local: &dyn Local, args: DeviceTrainArgs, ui: Ui) -> Result<Exit, CliError> {
    let interrupts = Interrupts::listen();
    tokio::select! {
        done = trained(local, &args, ui, &interrupts.stop) => done,
        () = interrupts.leave() => Err(CliError::Cancelled),
    }
}

async fn trained(
    local: &dyn Local,
    args: &DeviceTrainArgs,
    ui: Ui,
    stop: &CancellationToken,
) -> Result<Exit, CliError> {
    let client = connect(local, &args.login).await?;
    let mut boots = Boots { ui, json: args.json.json, device: args.device.clone(), told: 0, of: 0 };
    let asked = Train { device: args.device.clone(), boots: args.boots };
    let Training { run, boots: of, wanted }: Training = client.ask(TRAIN, &asked).await?;
    boots.of = of;
    ui.note(&format!("{}: {of} boots, as run {run}; the rule asks for {wanted}", args.device));
    let name = ScenarioName::new("train").map_err(|e| CliError::local("name the training", e))?;
    let view = watch_one(&client, run.clone(), name, &mut boots, stop).await?;
    let last = view.as_ref().map_or(&run, |view| &view.run);
    let shown = found(&client, &args.device, last).await?;
    let (verdict, reason) = view.as_ref().map_or((Verdict::Lab, String::new()), |view| {
        (view.verdict(), view.outcome.as_ref().map(|outcome| outcome.reason.clone()).unwrap_or_default())
    });
    let end = Ended { device: &args.device, run: &run, verdict, reason: &reason, health: shown.row.health };
    if args.json.json {
        ui.json(&end)?;
    } else {
        let broke =
            if reason.is_empty() { String::new() } else { format!("; {verdict}: {}", printable(&reason)) };
        let (clean, health, why) = (boots.told, shown.row.health, printable(&shown.row.reason));
        ui.data(&format!(
            "{}: {clean} of {of} boots were clean{broke}\nit is {health}: {why}\n",
            args.device
        ))?;
    }
    Ok(Exit::of([verdict]))
}

/// The device once it is known what the training came to, which is told right after the training's end; or as it is then.
async fn found(client: &Client, device: &DeviceId, run: &RunId) -> Result<DeviceShown, CliError> {
    let deadline = Instant::now() + FOUND_WITHIN;
    loop {
        let asked = DeviceAsked { device: device.clone() };
        let shown: DeviceShown = client.ask(lending::DEVICE, &asked).await?;
        if shown.findings.iter().any(|finding| finding.of == run.as_str()) || Instant::now() >= deadline {
            return Ok(shown);
        }
        sleep(LOOK).await;
    }
}

/// What became of the training.
#[derive(Serialize)]
struct Ended<'a> {
    device: &'a DeviceId,
    run: &'a RunId,
    verdict: Verdict,
    reason: &'a str,
    health: Health,
}

/// One boot that was clean.
#[derive(Serialize)]
struct Booted<'a> {
    device: &'a DeviceId,
    boot: u32,
    of: u32,
    /// Seconds from power-on, by what was reached.
    marks: BTreeMap<&'static str, f64>,
}

/// Tells each boot once it was clean.
struct Boots {
    ui: Ui,
    json: bool,
    device: DeviceId,
    told: u32,
    of: u32,
}

impl Boots {
    /// How many boots have been clean: the run's own comes before its first step, and each step is one more.
    fn clean(view: &RunView) -> usize {
        let ended = |state: &StepState| {
            matches!(state, StepState::Ended { result: crate::model::run::StepResult::Ok { .. }, .. })
        };
        let begun = view.steps.iter().any(|step| step.state != StepState::Waiting);
        let passed = view.outcome.is_some() && view.verdict() == Verdict::Passed;
        usize::from(begun || passed) + view.steps.iter().filter(|step| ended(&step.state)).count()
    }
}

impl Observer for Boots {
    fn event(&mut self, view: &RunView, _: &RunEvent) -> Result<(), CliError> {
        while usize::try_from(self.told).unwrap_or(usize::MAX) < Self::clean(view) {
            let boots = view.devices.first().map(|device| &device.boots);
            let boot =
                boots.and_then(|boots| boots.values().nth(usize::try_from(self.told).unwrap_or(usize::MAX)));
            let marks = boot.map(|boot| boot.marks.clone()).unwrap_or_default();
            self.told += 1;
            if self.json {
                let marks = marks.iter().map(|(mark, after)| (mark.name(), *after)).collect();
                self.ui.json(&Booted { device: &self.device, boot: self.told, of: self.of, marks })?;
                continue;
            }
            let mut marks: Vec<_> = marks.into_iter().collect();
            marks.sort_by(|one, other| one.1.total_cmp(&other.1));
            let marks = marks.iter().map(|(mark, after)| format!("{} {after:.1} s", mark.name()));
            let marks = marks.collect::<Vec<_>>().join(", ");
            self.ui.data(&format!("boot {}/{}  {marks}\n", self.told, self.of))?;
        }
        Ok(())
    }

    fn stopping(&mut self) {
        self.ui.note("stopping: the device is switched off and given back");
    }
}
