//! Runs from their acceptance on: begun, followed, stopped, and what is left of them.

use super::answers::same_version;
use super::log::{self, RunLog};
use super::refusal::Refusal;
use super::runner::Runner;
use super::runs::RunRecord;
use super::service::{Run, Shared};
use crate::model::id::{RunId, UserName};
use crate::model::run::RunEvent;
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use crate::wire::request::{BundleList, EventsPage, EventsRequest, RunAccepted, RunRequest};
use std::sync::Arc;

/// The most runs a coordinator remembers: then one that has ended is forgotten for each new one.
const MAX_RUNS: usize = 1000;

impl Shared {
    /// It is recorded before it is accepted: from then on it ends, whoever dies.
    pub(super) async fn start_run(
        self: &Arc<Self>,
        user: &UserName,
        request: RunRequest,
    ) -> Result<RunAccepted, Refusal> {
        same_version(request.version)?;
        let count = self.room_for_a_run()?;
        // The time sorts them. The random number keeps runs of one second apart, also those of two labs whose
        // bundles go to one place; the count, those of this one.
        let (seconds, random) = (clock::wall_ms() / 1000, rand::random::<u16>());
        let id = format!("{}-{seconds}-{random:04x}-{}", request.scenario.name, count + 1);
        let run = RunId::new(id).map_err(|e| Refusal::new(e.to_string()))?;
        let record = RunRecord::new(run.clone(), user.clone(), request.scenario, request.options, 1);
        self.accept(record).await?;
        Ok(RunAccepted { run })
    }

    /// Records a run, and begins it.
    pub(super) async fn accept(self: &Arc<Self>, record: RunRecord) -> Result<(), Refusal> {
        let (run, user) = (&record.run, &record.owner);
        match self.kept_runs.accept(&record).await {
            Ok(true) => {}
            Ok(false) => return Err(Refusal::hinted(format!("there has been a run {run}"), "ask once more")),
            Err(error) => return Err(Refusal::new(format!("the run cannot be recorded: {}", Chain(&error)))),
        }
        tracing::info!(%user, %run, "a run begins");
        let log = self.restore(&record, Vec::new());
        self.spawn_run(record, log);
        Ok(())
    }

    /// How many runs are remembered, once one that has ended is forgotten where they are too many.
    pub(super) fn room_for_a_run(&self) -> Result<usize, Refusal> {
        let mut runs = lock(&self.runs);
        if runs.len() >= MAX_RUNS
            && let Some(ended) = runs.iter().find(|(_, run)| run.log.has_ended()).map(|(id, _)| id.clone())
        {
            runs.remove(&ended);
        }
        if runs.len() >= MAX_RUNS {
            return Err(Refusal::new(format!("{MAX_RUNS} runs are remembered already")));
        }
        Ok(runs.len())
    }

    /// The log of a run of which these events are known. From now on it is answered about.
    pub(super) fn restore(&self, record: &RunRecord, events: Vec<RunEvent>) -> Arc<RunLog> {
        let (run, owner) = (record.run.clone(), record.owner.clone());
        let kept = self.kept_runs.keep(&run, &events);
        let log = RunLog::new(self.parts.lab.clone(), run.clone(), self.parts.bus.clone(), kept, events);
        let log = Arc::new(log);
        lock(&self.runs).insert(run, Run { owner, log: Arc::clone(&log) });
        log
    }

    pub(super) fn spawn_run(self: &Arc<Self>, record: RunRecord, log: Arc<RunLog>) {
        let RunRecord { owner: user, scenario, options, .. } = record.clone();
        let (parts, lending) = (Arc::clone(&self.parts), Arc::clone(&self.lending));
        let (bundles, runs) = (Arc::clone(&self.bundles), Arc::clone(&self.kept_runs));
        let name = record.run.clone();
        let runner = Runner { parts, lending, bundles, runs, record, user, log, scenario, options };
        self.tracker_spawn(|shared| async move {
            runner
                .run(|kept| {
                    lock(&shared.kept).insert(name, kept);
                })
                .await;
        });
    }

    /// Does something that belongs to a run, to its end.
    pub(super) fn tracker_spawn<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        self.tracker.spawn(work(Arc::clone(self)));
    }

    /// Of a run that is not remembered, what is kept of it.
    pub(super) async fn events(&self, asked: &EventsRequest) -> Result<EventsPage, Refusal> {
        if let Ok(log) = self.log(&asked.run) {
            return Ok(EventsPage { events: log.page(asked.from).await });
        }
        let (runs, run) = (Arc::clone(&self.kept_runs), asked.run.clone());
        let events = tokio::task::spawn_blocking(move || runs.events(&run)).await.unwrap_or_default();
        if events.is_empty() {
            return Err(no_run(&asked.run));
        }
        Ok(EventsPage { events: log::page(&events, asked.from) })
    }

    fn log(&self, run: &RunId) -> Result<Arc<RunLog>, Refusal> {
        let runs = lock(&self.runs);
        runs.get(run).map(|run| Arc::clone(&run.log)).ok_or_else(|| no_run(run))
    }

    pub(super) fn cancel(&self, by: &Caller, run: &RunId) -> Result<(), Refusal> {
        let runs = lock(&self.runs);
        let Run { owner, log } = runs.get(run).ok_or_else(|| no_run(run))?;
        if *owner != by.user && !by.admin {
            return Err(Refusal::new(format!("run {run} is {owner}'s")));
        }
        log.cancel().cancel();
        Ok(())
    }

    pub(super) async fn bundle(&self, run: &RunId) -> Result<BundleList, Refusal> {
        if self.log(run).is_ok_and(|log| !log.has_ended()) {
            return Err(Refusal::new(format!("run {run} has not ended")));
        }
        let archive = self.bundles.describe(run).await.map_err(|e| {
            Refusal::hinted(
                format!("run {run} has no bundle: {}", Chain(&e)),
                "the coordinator's log says why it was not written",
            )
        })?;
        let (pending, kept) = (archive.is_none(), self.kept_lines(run));
        Ok(BundleList { files: Vec::new(), archive, pending, kept })
    }

    fn kept_lines(&self, run: &RunId) -> Vec<String> {
        let kept = lock(&self.kept);
        kept.get(run).map(|kept| kept.lines.clone()).unwrap_or_default()
    }
}

fn no_run(run: &RunId) -> Refusal {
    Refusal::new(format!("there is no run {run}"))
}
