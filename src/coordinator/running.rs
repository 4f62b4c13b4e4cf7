//! Runs from their acceptance on: begun, followed, stopped, and what is left of them.

use super::answers::same_version;
use super::log::{self, RunLog};
use super::refusal::Refusal;
use super::runner::{Kept, Runner};
use super::runs::RunRecord;
use super::service::{Run, Shared};
use crate::model::id::{RunId, UserName};
use crate::model::run::{RunEvent, RunFact};
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use crate::wire::request::{BundleList, EventsPage, EventsRequest, RunAccepted, RunRequest};
use std::sync::Arc;

/// The most runs of one user that have not ended. Most of them wait: whoever has many is in nobody's way.
const MAX_UNDER_WAY: usize = 500;
/// Of how many runs that have ended it is remembered whose they were.
const MAX_ENDED: usize = 1000;

impl Shared {
    /// It is recorded before it is accepted: from then on it ends, whoever dies.
    pub(super) async fn start_run(
        self: &Arc<Self>,
        user: &UserName,
        request: RunRequest,
    ) -> Result<RunAccepted, Refusal> {
        same_version(request.version)?;
        let count = self.room_for_a_run(user)?;
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

    /// How many runs are remembered, where there is room for one more of this user's.
    pub(super) fn room_for_a_run(&self, user: &UserName) -> Result<usize, Refusal> {
        let runs = lock(&self.runs);
        room(runs.values().filter(|run| run.is_under_way()).map(|run| &run.owner), user)?;
        Ok(runs.len())
    }

    /// The log of a run of which these events are known. From now on it is answered about.
    pub(super) fn restore(&self, record: &RunRecord, events: Vec<RunEvent>) -> Arc<RunLog> {
        let (run, owner) = (record.run.clone(), record.owner.clone());
        let kept = self.kept_runs.keep(&run, events.len());
        let log = RunLog::new(self.parts.lab.clone(), run.clone(), self.parts.bus.clone(), kept, events);
        let log = Arc::new(log);
        lock(&self.runs).insert(run, Run { owner, log: Some(Arc::clone(&log)) });
        log
    }

    pub(super) fn spawn_run(self: &Arc<Self>, record: RunRecord, log: Arc<RunLog>) {
        let RunRecord { owner: user, scenario, options, .. } = record.clone();
        let (parts, lending) = (Arc::clone(&self.parts), Arc::clone(&self.lending));
        let (bundles, runs) = (Arc::clone(&self.bundles), Arc::clone(&self.kept_runs));
        let name = record.run.clone();
        let runner = Runner { parts, lending, bundles, runs, record, user, log, scenario, options };
        self.tracker_spawn(|shared| async move {
            runner.run(|kept| shared.keep(name.clone(), kept)).await;
            shared.put_away(&name).await;
        });
    }

    /// Keeps devices beyond their run, as long as their lease lasts.
    fn keep(self: &Arc<Self>, run: RunId, kept: Kept) {
        let (lost, shared) = (kept.grant.lost.clone(), Arc::clone(self));
        lock(&self.kept).insert(run.clone(), kept);
        self.lending.spawn(async move {
            lost.cancelled().await;
            lock(&shared.kept).remove(&run);
        });
    }

    /// A run that has ended, its bundle too, takes no memory any more where its events are on the disk; and of runs of long ago
    /// they are removed there.
    pub(super) async fn put_away(&self, run: &RunId) {
        let under_way = {
            let mut runs = lock(&self.runs);
            if let Some(run) = runs.get_mut(run) {
                run.log.take_if(|log| log.is_on_disk());
            }
            let ended = runs.iter().filter(|(_, run)| !run.is_under_way());
            let ended: Vec<RunId> = ended.map(|(id, _)| id.clone()).collect();
            for id in ended.iter().take(ended.len().saturating_sub(MAX_ENDED)) {
                runs.remove(id);
            }
            runs.iter().filter(|(_, run)| run.is_under_way()).map(|(id, _)| id.clone()).collect()
        };
        let kept_runs = Arc::clone(&self.kept_runs);
        if let Err(error) = tokio::task::spawn_blocking(move || kept_runs.prune(&under_way)).await {
            tracing::error!(%error, "runs of long ago are not removed");
        }
    }

    /// Does something that belongs to a run, to its end.
    pub(super) fn tracker_spawn<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) {
        self.tracker.spawn(work(Arc::clone(self)));
    }

    /// Of a run that is not in memory any more, what is kept of it.
    pub(super) async fn events(&self, asked: &EventsRequest) -> Result<EventsPage, Refusal> {
        if let Some(log) = self.log(&asked.run) {
            return Ok(EventsPage { events: log.page(asked.from).await });
        }
        let (runs, run) = (Arc::clone(&self.kept_runs), asked.run.clone());
        let events = tokio::task::spawn_blocking(move || runs.events(&run)).await.unwrap_or_default();
        kept_page(&asked.run, &events, asked.from)
    }

    fn log(&self, run: &RunId) -> Option<Arc<RunLog>> {
        lock(&self.runs).get(run)?.log.clone()
    }

    pub(super) fn cancel(&self, by: &Caller, run: &RunId) -> Result<(), Refusal> {
        let runs = lock(&self.runs);
        let Run { owner, log } = runs.get(run).ok_or_else(|| no_run(run))?;
        if *owner != by.user && !by.admin {
            return Err(Refusal::new(format!("run {run} is {owner}'s")));
        }
        if let Some(log) = log {
            log.cancel().cancel();
        }
        Ok(())
    }

    pub(super) async fn bundle(&self, run: &RunId) -> Result<BundleList, Refusal> {
        if self.log(run).is_some_and(|log| !log.has_ended()) {
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

/// Of the events that are kept of a run which is not under way, those from number `from`. Where its end is missing there will
/// be none: whoever waits for it is told so.
fn kept_page(run: &RunId, events: &[RunEvent], from: u64) -> Result<EventsPage, Refusal> {
    let Some(last) = events.last() else { return Err(no_run(run)) };
    let page = log::page(events, from);
    if page.is_empty() && !matches!(last.fact, RunFact::Ended { .. }) {
        return Err(Refusal::hinted(
            format!("the events of run {run} end with number {}, before its end", last.seq),
            "its bundle may have more",
        ));
    }
    Ok(EventsPage { events: page })
}

/// Refuses one more run of a user's beside those that are under way, by their owners.
fn room<'a>(under_way: impl Iterator<Item = &'a UserName>, user: &UserName) -> Result<(), Refusal> {
    if under_way.filter(|owner| *owner == user).count() < MAX_UNDER_WAY {
        return Ok(());
    }
    Err(Refusal::hinted(
        format!("{MAX_UNDER_WAY} runs of {user} are under way or wait"),
        "begin more when some have ended, or stop some",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_an_end_that_is_not_kept_is_told() {
        let lines = include_str!("../../tests/fixtures/run-passed.jsonl").lines();
        let events: Vec<RunEvent> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let run = &events[0].run;
        let page = |known: usize, from| kept_page(run, &events[..known], from).map(|page| page.events.len());
        let all = events.len();
        assert_eq!((page(all, 0).ok(), page(all, all as u64).ok()), (Some(all), Some(0)));
        assert_eq!(page(3, 1).ok(), Some(2), "what there is comes first");
        assert!(page(3, 3).unwrap_err().error.contains("end with number 2"));
        assert!(page(0, 0).unwrap_err().error.contains("there is no run"));
    }

    #[test]
    fn whoever_has_many_runs_is_in_nobody_s_way() {
        let [ann, bob] = ["ann", "bob"].map(|name| UserName::new(name).unwrap());
        let mut runs = vec![bob.clone(); MAX_UNDER_WAY - 1];
        assert!(room(runs.iter(), &bob).is_ok());
        runs.extend([ann.clone(), bob.clone()]);
        let refused = room(runs.iter(), &bob).unwrap_err();
        assert!(refused.error.contains("500 runs of bob") && refused.hint.is_some(), "{}", refused.error);
        assert!(room(runs.iter(), &ann).is_ok());
    }
}
