//! Starts runs and follows each to its last event.
//!
//! Events come live, by subscription, and by replay: a run that has a hole in its events, or of which
//! nothing was heard for a while, is asked for what comes next. So a reconnect or a restart of the NATS
//! server loses nothing and hangs nothing.

use super::client::Client;
use super::error::CliError;
use super::follow::Follower;
use super::view::RunView;
use crate::bus::connect::Subscription;
use crate::model::id::{RunId, ScenarioName};
use crate::model::run::{Outcome, RunEvent, RunFact, Verdict};
use crate::model::scenario::Scenario;
use crate::support::clock;
use crate::wire::request::RunOptions;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often silent runs are asked for their events. This bounds how late a lost event is seen.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long a coordinator may be out of reach before its runs are given up: a NATS server that died is
/// back in a second or two, a host that swaps takes longer.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// How long runs may take to end after they were cancelled: each removes its virtual machines.
const CANCEL_LIMIT: Duration = Duration::from_secs(30);

/// What is told of the runs.
pub trait Observer: Send {
    /// A run has a new event, in order and exactly once; `view` has taken it in.
    fn event(&mut self, view: &RunView, event: &RunEvent) -> Result<(), CliError>;
    /// The runs are being stopped.
    fn stopping(&mut self);
}

/// Runs all scenarios and answers each run when all have ended. When `stop` is cancelled the runs are
/// cancelled too, and have a while to end.
pub async fn watch(
    client: &Client,
    scenarios: Vec<Scenario>,
    options: RunOptions,
    observer: &mut dyn Observer,
    stop: &CancellationToken,
) -> Result<Vec<RunView>, CliError> {
    let live = client.subscribe().await?;
    let runs = start(client, scenarios, options).await?;
    follow(Watch { client, observer, runs, asks: JoinSet::new() }, live, stop).await
}

/// Follows one run that has begun, as [`watch`] does.
pub async fn watch_one(
    client: &Client,
    run: RunId,
    scenario: ScenarioName,
    observer: &mut dyn Observer,
    stop: &CancellationToken,
) -> Result<Option<RunView>, CliError> {
    let live = client.subscribe().await?;
    let runs = vec![Tracked::new(RunView::new(run, scenario))];
    Ok(follow(Watch { client, observer, runs, asks: JoinSet::new() }, live, stop).await?.pop())
}

async fn follow(
    mut watch: Watch<'_>,
    mut live: Subscription,
    stop: &CancellationToken,
) -> Result<Vec<RunView>, CliError> {
    let mut tick = interval(ASK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut give_up: Option<Instant> = None;
    while watch.runs.iter().any(|run| !run.follower.has_ended()) {
        // Losing an arm loses nothing: messages stay in the subscription, answers in the join set.
        tokio::select! {
            message = live.next() => match message {
                Some(message) => watch.message(&message.payload)?,
                None => watch.give_up(Verdict::Lab, "the connection to the lab was closed")?,
            },
            Some(answer) = watch.asks.join_next() => match answer {
                Ok(answer) => watch.answer(answer)?,
                Err(error) => return Err(CliError::Panicked { what: error.to_string() }),
            },
            _ = tick.tick() => watch.ask_silent()?,
            () = stop.cancelled(), if give_up.is_none() => {
                give_up = Some(Instant::now() + CANCEL_LIMIT);
                watch.cancel_all();
            }
            () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                let why = format!("stopped; it did not end within {} s after", CANCEL_LIMIT.as_secs());
                watch.give_up(Verdict::Cancelled, &why)?;
            }
        }
    }
    Ok(watch.runs.into_iter().map(|run| run.view).collect())
}

/// Queues all runs, or none: what was queued before a refusal is cancelled.
async fn start(
    client: &Client,
    scenarios: Vec<Scenario>,
    options: RunOptions,
) -> Result<Vec<Tracked>, CliError> {
    let mut runs: Vec<Tracked> = Vec::new();
    for scenario in scenarios {
        let name = scenario.name.clone();
        match client.start(scenario, options).await {
            Ok(run) => runs.push(Tracked::new(RunView::new(run, name))),
            Err(error) => {
                for run in &runs {
                    // The refusal is what matters; a run that cannot be cancelled ends with the lab.
                    let _ = client.cancel(&run.view.run).await;
                }
                return Err(match error {
                    CliError::Refused { verb, cause, hint } => {
                        CliError::Refused { verb, cause: format!("scenario {name}: {cause}"), hint }
                    }
                    other => other,
                });
            }
        }
    }
    Ok(runs)
}

/// A run that is followed.
struct Tracked {
    view: RunView,
    follower: Follower,
    /// When its events last told something.
    heard: Instant,
    /// When the coordinator last answered a question about it.
    answered: Instant,
    /// A question about it is on its way.
    asked: bool,
}

impl Tracked {
    fn new(view: RunView) -> Self {
        let now = Instant::now();
        Self { view, follower: Follower::default(), heard: now, answered: now, asked: false }
    }
}

/// An answer to a question about a run.
enum Answer {
    Events { run: RunId, events: Result<Vec<RunEvent>, CliError> },
    Cancelled { run: RunId, done: Result<(), CliError> },
}

struct Watch<'a> {
    client: &'a Client,
    observer: &'a mut dyn Observer,
    runs: Vec<Tracked>,
    asks: JoinSet<Answer>,
}

impl Watch<'_> {
    fn message(&mut self, payload: &[u8]) -> Result<(), CliError> {
        match serde_json::from_slice::<RunEvent>(payload) {
            Ok(event) => {
                let run = event.run.clone();
                self.take(event)?;
                if let Some(index) = self.index(&run)
                    && self.runs.get(index).is_some_and(|run| run.follower.has_hole())
                {
                    self.ask(index);
                }
            }
            // A newer coordinator may say what this program does not know; the replay will fail as well,
            // and then says so.
            Err(error) => tracing::warn!(%error, "an event cannot be read"),
        }
        Ok(())
    }

    fn answer(&mut self, answer: Answer) -> Result<(), CliError> {
        match answer {
            Answer::Events { run, events } => {
                let Some(index) = self.index(&run) else { return Ok(()) };
                let Some(tracked) = self.runs.get_mut(index) else { return Ok(()) };
                tracked.asked = false;
                match events {
                    Ok(events) => {
                        tracked.answered = Instant::now();
                        let more = !events.is_empty();
                        for event in events {
                            self.take(event)?;
                        }
                        if more {
                            self.ask(index);
                        }
                    }
                    Err(CliError::Refused { cause, .. }) => {
                        self.end(index, Verdict::Lab, format!("the coordinator has lost the run: {cause}"))?;
                    }
                    Err(error) => {
                        tracing::debug!(%run, %error, "no answer about a run");
                        let silence = tracked.answered.max(tracked.heard).elapsed();
                        if silence >= SILENCE_LIMIT {
                            let why = format!("the coordinator has been silent for {} s", silence.as_secs());
                            self.end(index, Verdict::Lab, why)?;
                        }
                    }
                }
            }
            Answer::Cancelled { run, done } => {
                if let Err(error) = done {
                    tracing::warn!(%run, %error, "a run could not be cancelled");
                }
            }
        }
        Ok(())
    }

    /// Asks about every run of which nothing was heard since the last tick.
    fn ask_silent(&mut self) -> Result<(), CliError> {
        for index in 0..self.runs.len() {
            if self.runs.get(index).is_some_and(|run| run.heard.elapsed() >= ASK_EVERY) {
                self.ask(index);
            }
        }
        Ok(())
    }

    fn ask(&mut self, index: usize) {
        let Some(run) = self.runs.get_mut(index) else { return };
        if run.asked || run.follower.has_ended() {
            return;
        }
        run.asked = true;
        let (client, run, from) = (self.client.clone(), run.view.run.clone(), run.follower.next());
        self.asks.spawn(async move { Answer::Events { events: client.events(&run, from).await, run } });
    }

    fn cancel_all(&mut self) {
        self.observer.stopping();
        for run in self.runs.iter().filter(|run| !run.follower.has_ended()) {
            let (client, run) = (self.client.clone(), run.view.run.clone());
            self.asks.spawn(async move { Answer::Cancelled { done: client.cancel(&run).await, run } });
        }
    }

    fn take(&mut self, event: RunEvent) -> Result<(), CliError> {
        let Some(index) = self.index(&event.run) else { return Ok(()) };
        let Some(tracked) = self.runs.get_mut(index) else { return Ok(()) };
        for event in tracked.follower.offer(event) {
            tracked.heard = Instant::now();
            tracked.view.apply(&event);
            self.observer.event(&tracked.view, &event)?;
        }
        // What the lab tries again by itself is followed: only the last attempt says how it went.
        if let Some(next) = tracked.view.next.clone() {
            let view = RunView::again(&tracked.view, next);
            *tracked = Tracked::new(view);
            self.ask(index);
        }
        Ok(())
    }

    fn give_up(&mut self, verdict: Verdict, why: &str) -> Result<(), CliError> {
        for index in 0..self.runs.len() {
            self.end(index, verdict, why.to_owned())?;
        }
        Ok(())
    }

    /// Ends a run here that its coordinator did not end, so that every consumer sees an end.
    fn end(&mut self, index: usize, verdict: Verdict, reason: String) -> Result<(), CliError> {
        let Some(tracked) = self.runs.get(index).filter(|run| !run.follower.has_ended()) else {
            return Ok(());
        };
        let outcome = Outcome {
            verdict,
            reason,
            decisive: None,
            suspect: None,
            suspects_device: false,
            device: None,
            step: tracked.view.running_step(),
        };
        self.take(RunEvent {
            run: tracked.view.run.clone(),
            seq: tracked.follower.next(),
            at: clock::stamp(),
            fact: RunFact::Ended { outcome, took: 0.0, next: None },
        })
    }

    fn index(&self, run: &RunId) -> Option<usize> {
        self.runs.iter().position(|tracked| tracked.view.run == *run)
    }
}
