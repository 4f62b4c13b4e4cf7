//! The events of one run: numbered, published as they come, replayed on request.

use super::runs::Kept;
use crate::bus::connect::Bus;
use crate::model::id::{LabName, RunId};
use crate::model::run::{RunEvent, RunFact};
use crate::model::time::Stamp;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::wire::subject;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The most events one page of a replay holds.
const PAGE_EVENTS: usize = 200;
/// The most bytes one page of a replay holds: half a NATS message (1 MB by default).
const PAGE_BYTES: usize = 512 * 1024;

/// How long an event may wait to be published. The connection takes it at once, unless it is down and its
/// queue is full; then readers have to ask for what they missed anyhow, and the run goes on.
const PUBLISH_WAIT: Duration = Duration::from_millis(200);

/// The events of one run.
pub(super) struct RunLog {
    run: RunId,
    lab: LabName,
    bus: Bus,
    cancel: CancellationToken,
    events: Mutex<Vec<RunEvent>>,
    ended: watch::Sender<bool>,
    kept: Kept,
}

impl RunLog {
    /// The log of a run of which `events` are known and kept already.
    pub(super) fn new(lab: LabName, run: RunId, bus: Bus, kept: Kept, events: Vec<RunEvent>) -> Self {
        let over = events.last().is_some_and(|last| matches!(last.fact, RunFact::Ended { .. }));
        let (cancel, ended) = (CancellationToken::new(), watch::Sender::new(over));
        Self { run, lab, bus, cancel, events: Mutex::new(events), ended, kept }
    }

    pub(super) fn run(&self) -> &RunId {
        &self.run
    }

    /// Cancelled when somebody stops the run.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Waits for the run's end.
    pub(super) async fn ended(&self) {
        // An error means that the log is gone, and with it the run.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Whether the run has ended.
    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Whether it has ended, and all of it can be read from the disk.
    pub(super) fn is_on_disk(&self) -> bool {
        self.has_ended() && self.kept.is_whole()
    }

    /// Adds a fact that happened now.
    pub(super) async fn push(&self, fact: RunFact) {
        self.push_at(clock::stamp(), fact).await;
    }

    /// Adds a fact that happened at `at`, which is kept before anybody is shown it. The lock is held over the publishing, so
    /// that the order on the wire is that of the numbers; a reader that misses some asks for them. Cancelled meanwhile, the
    /// fact is in the log all the same, though perhaps not published.
    pub(super) async fn push_at(&self, at: Stamp, fact: RunFact) {
        let ends = matches!(fact, RunFact::Ended { .. });
        let mut events = self.events.lock().await;
        let event = self.event(events.len(), at, fact);
        let bytes = serde_json::to_vec(&event);
        let kept = self.kept.write(&event);
        events.push(event);
        // Whoever asks for events waits for the lock, and with it for this.
        kept.await;
        // Whoever reads that the run has ended finds its last event in the log.
        if ends {
            self.ended.send_replace(true);
        }
        match bytes {
            Ok(bytes) => self.publish(bytes).await,
            Err(error) => tracing::warn!(run = %self.run, %error, "a run event cannot be written as JSON"),
        }
    }

    async fn publish(&self, event: Vec<u8>) {
        let published = self.bus.publish(subject::run(&self.lab, &self.run), event);
        match timeout(PUBLISH_WAIT, published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(run = %self.run, error = %Chain(&error), "a run event was not published");
            }
            Err(_) => tracing::warn!(run = %self.run, "a run event was not published in time"),
        }
    }

    fn event(&self, index: usize, at: Stamp, fact: RunFact) -> RunEvent {
        RunEvent { run: self.run.clone(), seq: index as u64, at, fact }
    }

    /// All events so far.
    pub(super) async fn events(&self) -> Vec<RunEvent> {
        self.events.lock().await.clone()
    }

    /// Events from number `from`, as many as fit a message.
    pub(super) async fn page(&self, from: u64) -> Vec<RunEvent> {
        page(&self.events.lock().await, from)
    }
}

/// Of these events those from number `from`, as many as fit a message.
pub(super) fn page(events: &[RunEvent], from: u64) -> Vec<RunEvent> {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(events.len());
    let mut bytes = 0;
    let mut page = Vec::new();
    for event in events.iter().skip(from).take(PAGE_EVENTS) {
        bytes += serde_json::to_vec(event).map_or(0, |json| json.len());
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push(event.clone());
    }
    page
}
