//! Takes requests and owns the runs.

use super::bundle;
use super::log::RunLog;
use super::operator::Operator;
use super::parts::Parts;
use super::pool::Pool;
use super::runner::{Kept, Runner, bundle_dir};
use crate::bus::connect::Message;
use crate::bus::error::BusError;
use crate::model::id::{DeviceId, RunId, UserName};
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use crate::wire::request::{
    BUNDLE, BUNDLE_READ, BundleList, BundleRead, CANCEL, EVENTS, EventsPage, EventsRequest, HELLO,
    REQUEST_VERSION, RUN, Reply, RunAccepted, RunRef, RunRequest,
};
use crate::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most runs a coordinator remembers; more are refused until it is started anew.
const MAX_RUNS: usize = 1000;

/// A running coordinator.
pub struct Coordinator {
    shared: Arc<Shared>,
    tracker: TaskTracker,
    token: CancellationToken,
}

struct Shared {
    parts: Arc<Parts>,
    pool: Arc<Pool>,
    operator: Operator,
    tracker: TaskTracker,
    /// No await happens under these locks.
    runs: Mutex<BTreeMap<RunId, Arc<RunLog>>>,
    kept: Mutex<BTreeMap<RunId, Kept>>,
}

/// Why a request was not met, in the words of the answer.
struct Refusal {
    error: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), hint: None }
    }
}

impl Coordinator {
    /// Subscribes to the lab's requests and serves them until `shutdown`.
    pub async fn start(parts: Parts) -> Result<Self, BusError> {
        let requests = parts.bus.subscribe(subject::requests(&parts.lab)).await?;
        parts.bus.flush().await?;
        let pool = Pool::new(parts.devices.clone());
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let inventory = parts.devices.iter().map(|device| device.handle.device().clone()).collect();
        let (bus, lab) = (parts.bus.clone(), parts.lab.clone());
        let operator = Operator::start(bus, lab, inventory, &tracker, token.clone());
        let shared = Arc::new(Shared {
            parts: Arc::new(parts),
            pool,
            operator,
            tracker: tracker.clone(),
            runs: Mutex::default(),
            kept: Mutex::default(),
        });
        let (serving, stop) = (Arc::clone(&shared), token.clone());
        tracker.spawn(async move {
            let mut requests = requests;
            loop {
                tokio::select! {
                    // Losing a request here loses nothing: the service ends.
                    () = stop.cancelled() => return,
                    message = requests.next() => match message {
                        Some(message) => serving.serve(message).await,
                        None => return,
                    },
                }
            }
        });
        Ok(Self { shared, tracker, token })
    }

    /// Stops all runs, waits for their ends, and ends. Answers the devices that are kept beyond their
    /// runs; they are left as they are.
    pub async fn shutdown(self) -> Vec<DeviceId> {
        for log in self.shared.logs() {
            log.cancel().cancel();
        }
        for log in self.shared.logs() {
            log.ended().await;
        }
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
        let kept = lock(&self.shared.kept);
        kept.values()
            .flat_map(|kept| kept.grant.devices.iter().map(|device| device.handle.id().clone()))
            .collect()
    }
}

impl Shared {
    fn logs(&self) -> Vec<Arc<RunLog>> {
        lock(&self.runs).values().cloned().collect()
    }

    async fn serve(self: &Arc<Self>, message: Message) {
        let Some((user, verb)) = subject::parse_request(&message.subject) else { return };
        let Some(reply) = message.reply.clone() else { return };
        // An answer goes only to the caller's own inbox: otherwise a request with the reply subject
        // `$KV.desired.x` would make the coordinator overwrite that key with its answer.
        if !reply.starts_with(&format!("{}.", subject::inbox(user.as_str()))) {
            tracing::warn!(%user, verb, reply = %reply, "a request asks for its answer outside the caller's inbox");
            return;
        }
        let answer = match self.answer(&user, verb, &message.payload).await {
            Ok(bytes) => bytes,
            Err(Refusal { error, hint }) => json(&Reply::<()>::Refused { error, hint }),
        };
        if let Err(error) = self.parts.bus.publish(reply, answer).await {
            tracing::warn!(%user, verb, error = %Chain(&error), "an answer was not sent");
        }
    }

    async fn answer(
        self: &Arc<Self>,
        user: &UserName,
        verb: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        match verb {
            HELLO => Ok(ok(())),
            RUN => self.start_run(user, decode(payload)?).map(ok),
            EVENTS => {
                let request: EventsRequest = decode(payload)?;
                let events = self.log(&request.run)?.page(request.from).await;
                Ok(ok(EventsPage { events }))
            }
            CANCEL => {
                let request: RunRef = decode(payload)?;
                self.log(&request.run)?.cancel().cancel();
                Ok(ok(()))
            }
            BUNDLE => {
                let request: RunRef = decode(payload)?;
                let dir = self.finished(&request.run)?;
                let files = bundle::list(&dir).map_err(|e| Refusal {
                    error: format!("the run's bundle is incomplete: {}", Chain(&e)),
                    hint: Some("the coordinator's log says why it was not written".to_owned()),
                })?;
                Ok(ok(BundleList { files, kept: self.kept_lines(&request.run) }))
            }
            BUNDLE_READ => {
                let request: BundleRead = decode(payload)?;
                let dir = self.finished(&request.run)?;
                bundle::read(&dir, &request.path, request.offset)
                    .map_err(|e| Refusal::new(Chain(&e).to_string()))
            }
            other => Err(Refusal::new(format!("there is no request {other:?}"))),
        }
    }

    fn start_run(self: &Arc<Self>, user: &UserName, request: RunRequest) -> Result<RunAccepted, Refusal> {
        if request.version != REQUEST_VERSION {
            return Err(Refusal {
                error: format!("the request has version {}; known is {REQUEST_VERSION}", request.version),
                hint: Some("use the same version of pilab as the coordinator's".to_owned()),
            });
        }
        let mut runs = lock(&self.runs);
        if runs.len() >= MAX_RUNS {
            return Err(Refusal::new(format!("{MAX_RUNS} runs are remembered already")));
        }
        // The time sorts them. The random number keeps runs of one second apart, also those of two labs whose
        // bundles go to one place; the count, those of this one.
        let (seconds, random) = (clock::wall_ms() / 1000, rand::random::<u16>());
        let id = format!("{}-{seconds}-{random:04x}-{}", request.scenario.name, runs.len() + 1);
        let run = RunId::new(id).map_err(|e| Refusal::new(e.to_string()))?;
        let parts = Arc::clone(&self.parts);
        let log = Arc::new(RunLog::new(
            parts.lab.clone(),
            run.clone(),
            parts.bus.clone(),
            CancellationToken::new(),
        ));
        runs.insert(run.clone(), Arc::clone(&log));
        drop(runs);
        tracing::info!(%user, %run, "a run begins");
        let runner = Runner {
            parts,
            pool: Arc::clone(&self.pool),
            operator: self.operator.clone(),
            log,
            scenario: request.scenario,
            keep: request.keep,
        };
        let (shared, name) = (Arc::clone(self), run.clone());
        self.tracker.spawn(async move {
            runner
                .run(|kept| {
                    lock(&shared.kept).insert(name, kept);
                })
                .await;
        });
        Ok(RunAccepted { run })
    }

    fn log(&self, run: &RunId) -> Result<Arc<RunLog>, Refusal> {
        let runs = lock(&self.runs);
        runs.get(run).cloned().ok_or_else(|| Refusal::new(format!("there is no run {run}")))
    }

    fn finished(&self, run: &RunId) -> Result<std::path::PathBuf, Refusal> {
        if self.log(run)?.has_ended() {
            Ok(bundle_dir(&self.parts, run))
        } else {
            Err(Refusal::new(format!("run {run} has not ended")))
        }
    }

    fn kept_lines(&self, run: &RunId) -> Vec<String> {
        let kept = lock(&self.kept);
        kept.get(run).map(|kept| kept.lines.clone()).unwrap_or_default()
    }
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload).map_err(|e| Refusal::new(format!("the request cannot be read: {e}")))
}

fn ok<T: Serialize>(body: T) -> Vec<u8> {
    json(&Reply::Ok { body })
}

/// The replies are structs of strings and numbers, which always have a JSON form.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
