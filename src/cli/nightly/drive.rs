//! Runs a night: asks the plan what is next, makes each attempt in a task of its own, and keeps the record.

use super::keep::Nights;
use crate::bundle::Form;
use crate::cli::bundle;
use crate::cli::client::Client;
use crate::cli::error::CliError;
use crate::cli::ui::Ui;
use crate::cli::view::{Mark, RunView};
use crate::cli::watch::{Observer, watch};
use crate::model::id::{DeviceId, RunId};
use crate::model::night::{Record, Run, Used};
use crate::model::run::{Outcome, RunEvent, RunFact, Verdict};
use crate::model::scenario::Scenario;
use crate::plan::fallback;
use crate::plan::night::{Action, Night};
use crate::support::chain::Chain;
use crate::support::clock;
use crate::wire::request::RunOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch as latest;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// The most lines and characters of a console that are quoted.
const LINES: usize = 14;
const CHARS: usize = 1500;
/// The most bytes of a console's end that are read for it.
const TAIL: u64 = 256 * 1024;

/// A night under way.
pub(super) struct Drive<'a> {
    pub(super) client: Client,
    pub(super) nights: &'a Nights,
    pub(super) night: Night,
    pub(super) scenarios: Vec<Scenario>,
    pub(super) record: Record,
    pub(super) deadline: Duration,
    pub(super) ui: Ui,
}

/// What an attempt came to.
struct Attempted {
    job: usize,
    view: Result<RunView, CliError>,
    excerpt: String,
    /// Why there is no bundle of it.
    lost: Option<String>,
}

impl Drive<'_> {
    /// Runs until every job has ended, the deadline has come, or `stop` is cancelled. Answers the record, and the last
    /// attempt of each job.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> Result<(Record, Vec<RunView>), CliError> {
        let begun = Instant::now();
        // What runs at the deadline has begun because it was thought to fit; what still waits for a device has not.
        let over = stop.child_token();
        let mut views: BTreeMap<usize, RunView> = BTreeMap::new();
        let mut attempts = JoinSet::new();
        self.nights.write(&self.record)?;
        loop {
            if !stop.is_cancelled() {
                for action in self.night.next(begun.elapsed()) {
                    match action {
                        Action::Start { job, devices, because, budget } => {
                            let tokens = [over.child_token(), stop.child_token()];
                            let because = because.as_deref();
                            self.start(&mut attempts, job, &devices, because, budget, tokens);
                        }
                        Action::End { job, verdict, cause } => self.end(job, verdict, cause, &views)?,
                    }
                }
            }
            if attempts.is_empty() {
                break;
            }
            let done = tokio::select! {
                done = attempts.join_next() => done,
                () = sleep_until(begun + self.deadline), if !over.is_cancelled() => {
                    over.cancel();
                    continue;
                }
            };
            let Some(done) = done else { break };
            let done = done.map_err(|e| CliError::Panicked { what: e.to_string() })?;
            let job = done.job;
            let verdict = self.took(done, &mut views);
            if let Some(Action::End { job, verdict, cause }) = self.night.ended(job, verdict, begun.elapsed())
            {
                self.end(job, verdict, cause, &views)?;
            }
        }
        self.record.ended_ms = Some(clock::wall_ms());
        for run in self.record.runs.iter_mut().filter(|run| run.verdict.is_none()) {
            run.verdict = Some(Verdict::Cancelled);
            run.reason = "somebody stopped the night".to_owned();
        }
        self.nights.write(&self.record)?;
        let views = (0..self.record.runs.len()).filter_map(|job| self.view(job, &views)).collect();
        Ok((self.record, views))
    }

    fn start(
        &self,
        attempts: &mut JoinSet<Attempted>,
        job: usize,
        devices: &[DeviceId],
        because: Option<&str>,
        budget: Duration,
        [over, halt]: [CancellationToken; 2],
    ) {
        let Some(mut scenario) = self.scenarios.get(job).cloned() else { return };
        if let Some(needs) = because.and_then(|because| fallback::substitute(&scenario.needs, because)) {
            scenario.needs = needs;
        }
        for (need, device) in scenario.needs.iter_mut().zip(devices) {
            need.device = Some(device.clone());
        }
        let names: Vec<_> = devices.iter().map(ToString::to_string).collect();
        self.ui.note(&format!("{} begins on {}", scenario.name, names.join(", ")));
        let client = self.client.clone();
        let dir = self.nights.dir(&self.record).join("bundles");
        attempts.spawn(async move {
            let view = attempt(&client, scenario, budget, over, halt).await;
            let (mut excerpt, mut lost) = (String::new(), None);
            if let Ok(view) = &view {
                match bundle::fetch(&client, &view.run, &dir, Form::Directory).await {
                    Ok(fetched) if view.verdict() != Verdict::Passed => excerpt = quote(view, &fetched.path),
                    Ok(_) => {}
                    Err(error) => lost = Some(Chain(&error).to_string()),
                }
            }
            Attempted { job, view, excerpt, lost }
        });
    }

    /// Takes an attempt into the record; answers its verdict.
    fn took(&mut self, attempted: Attempted, views: &mut BTreeMap<usize, RunView>) -> Verdict {
        let Attempted { job, view, excerpt, lost } = attempted;
        let Some(run) = self.record.runs.get_mut(job) else { return Verdict::Lab };
        let mut on = Vec::new();
        let verdict = match view {
            Ok(view) => {
                let verdict = view.verdict();
                on.extend(view.devices.iter().map(|device| device.assigned.device.clone()));
                run.reason = crate::cli::summary::reason(&view).unwrap_or_default();
                run.devices = view.devices.iter().map(|device| &device.assigned).map(used).collect();
                run.took = view.took;
                run.run = Some(view.run.clone());
                run.boot = boot(&view);
                views.insert(job, view);
                verdict
            }
            Err(error) => {
                run.reason = Chain(&error).to_string();
                run.run = None;
                Verdict::Lab
            }
        };
        (run.excerpt, run.lost) = (excerpt, lost);
        run.attempted(verdict, on);
        verdict
    }

    fn end(
        &mut self,
        job: usize,
        verdict: Verdict,
        cause: Option<String>,
        views: &BTreeMap<usize, RunView>,
    ) -> Result<(), CliError> {
        if let Some(run) = self.record.runs.get_mut(job) {
            run.verdict = Some(verdict);
            if let Some(cause) = cause {
                run.reason = cause;
            }
            let run = self.view(job, views).and_then(|view| crate::cli::summary::reason(&view));
            let cell = self.record.runs.get(job).map(|run| run.cell.to_string()).unwrap_or_default();
            self.ui.note(&format!(
                "{cell}: {verdict} {}",
                crate::cli::table::printable(&run.unwrap_or_default())
            ));
        }
        self.nights.write(&self.record)
    }

    /// The last attempt of a job; of one that never began, a run that tells why.
    fn view(&self, job: usize, views: &BTreeMap<usize, RunView>) -> Option<RunView> {
        if let Some(view) = views.get(&job) {
            return Some(view.clone());
        }
        let run: &Run = self.record.runs.get(job)?;
        let mut view = RunView::new(RunId::new(format!("none-{job}")).ok()?, run.cell.scenario.clone());
        view.outcome = Some(outcome(run.verdict.unwrap_or(Verdict::Lab), run.reason.clone(), None));
        Some(view)
    }
}

fn outcome(verdict: Verdict, reason: String, suspect: Option<String>) -> Outcome {
    Outcome { verdict, reason, decisive: None, suspect, suspects_device: false, device: None, step: None }
}

fn used(device: &crate::model::run::AssignedDevice) -> Used {
    Used {
        device: device.device.clone(),
        backend: device.backend,
        model: device.model,
        instead: device.instead.clone(),
    }
}

/// The slowest boot of a run's devices.
fn boot(view: &RunView) -> Option<f64> {
    let boots = view.devices.iter().flat_map(|device| device.boots.values());
    boots.filter_map(|boot| boot.marks.get(&Mark::Answer)).copied().max_by(f64::total_cmp)
}

/// One attempt, cut off when its time is up. The time counts from when it has its devices: who waits in the lab's queue
/// does not use it up, and is not begun any more when the night is `over`. `halt` stops it at any time.
async fn attempt(
    client: &Client,
    scenario: Scenario,
    budget: Duration,
    over: CancellationToken,
    halt: CancellationToken,
) -> Result<RunView, CliError> {
    let (started, mut seen) = latest::channel(false);
    let stop = CancellationToken::new();
    let timed = async {
        let begun = async { seen.wait_for(|started| *started).await.is_ok() };
        tokio::select! {
            begun = begun => if !begun { return std::future::pending().await },
            // Nothing has begun, so nothing is cut short.
            () = over.cancelled() => {
                stop.cancel();
                return std::future::pending().await;
            }
        }
        let up = tokio::select! {
            () = sleep(budget) => true,
            () = halt.cancelled() => false,
        };
        stop.cancel();
        up
    };
    let mut witness = Witness { started };
    let mut up = None;
    let runs = {
        let watched = watch(client, vec![scenario], RunOptions::default(), &mut witness, &stop);
        tokio::pin!(watched, timed);
        loop {
            tokio::select! {
                runs = &mut watched => break runs?,
                late = &mut timed, if up.is_none() => up = Some(late),
            }
        }
    };
    let Some(mut view) = runs.into_iter().next() else {
        return Err(CliError::Panicked { what: "a run was started and is not there".to_owned() });
    };
    if view.verdict() == Verdict::Cancelled {
        let step = view.steps.iter().rposition(|step| step.state != crate::cli::view::StepState::Waiting);
        let instead = if up == Some(true) {
            let suspect =
                step.and_then(|index| view.steps.get(index)).map(|step| format!("step {:?}", step.name));
            let suspect = suspect.unwrap_or_else(|| "the boot".to_owned());
            let reason = format!("the attempt's {} s were up; suspect: {suspect}", budget.as_secs());
            Some(Outcome { step, ..outcome(Verdict::Timeout, reason, Some(suspect)) })
        } else if view.devices.is_empty() && !halt.is_cancelled() {
            let reason = "no device became free before the night was over".to_owned();
            Some(outcome(Verdict::Skipped, reason, None))
        } else {
            None
        };
        view.outcome = instead.or(view.outcome);
    }
    Ok(view)
}

/// Sees when a run has its devices.
struct Witness {
    started: latest::Sender<bool>,
}

impl Observer for Witness {
    fn event(&mut self, _: &RunView, event: &RunEvent) -> Result<(), CliError> {
        if matches!(event.fact, RunFact::Started { .. }) {
            self.started.send_replace(true);
        }
        Ok(())
    }

    fn stopping(&mut self) {}
}

/// What the console of the faulty device, else of the first, had shown: up to the line that decided, else the end.
fn quote(view: &RunView, bundle: &Path) -> String {
    let faulty = view.outcome.as_ref().and_then(|outcome| outcome.device.clone());
    let device = faulty.or_else(|| view.devices.first().map(|device| device.assigned.device.clone()));
    let Some(device) = device else { return String::new() };
    let console = tail(&bundle.join("console").join(format!("{device}.log")));
    let reason = view.outcome.as_ref().map(|outcome| outcome.reason.as_str()).unwrap_or_default();
    excerpt(&console, reason)
}

fn tail(path: &PathBuf) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The lines of a console that end with the one which the reason quotes, else its last.
fn excerpt(console: &str, reason: &str) -> String {
    let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    // A quoted line is cut, and its quotes are escaped: a longer piece would not be found again.
    let quoted = |line: &&&str| line.len() > 12 && reason.contains(line.trim());
    let end = lines.iter().rposition(|line| quoted(&line)).map_or(lines.len(), |at| at + 1);
    let begin = end.saturating_sub(LINES);
    let text = lines.get(begin..end).unwrap_or_default().join("\n");
    let skip = text.chars().count().saturating_sub(CHARS);
    text.chars().skip(skip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excerpt_ends_with_the_line_that_decided() {
        let console: String = (0..40).map(|n| format!("line number {n}\r\n\r\n")).collect();
        let ends = |reason: &str| excerpt(&console, reason).lines().last().unwrap().to_owned();
        assert_eq!(ends("the kernel panicked: \"line number 20\""), "line number 20");
        assert_eq!(ends("nothing of it"), "line number 39");
        assert_eq!(excerpt(&console, "").lines().count(), LINES);
        assert_eq!(excerpt(&"x".repeat(5000), "").chars().count(), CHARS);
        assert_eq!(excerpt("", "x"), "");
    }
}
