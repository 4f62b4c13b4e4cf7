//! The agent as a whole: what it is given, and its tasks.

use super::facts::Facts;
use super::lab::Lab;
use super::pace::Pace;
use super::policy::Policy;
use super::ports::ContainerRuntime;
use super::reconciler::Reconciler;
use super::store::{Store, StoreError};
use super::watchdog::{self, Pulse};
use super::{health, report};
use crate::bus::connect::BusOptions;
use crate::model::id::DeviceId;
use crate::plan::backoff;
use crate::support::chain::Chain;
use crate::support::notify::Notifier;
use crate::wire::subject;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How many offers may wait for the reconciler; the feed awaits each answer, so there is one at most.
const OFFERS: usize = 1;
/// How long a watch of the runtime must have held for the next failure to count as the first.
const WATCH_HELD: Duration = Duration::from_secs(60);
/// How long after a change the runtime is left alone, so that a crash loop causes few looks.
const WATCH_CALM: Duration = Duration::from_millis(100);

/// What an agent is given.
#[derive(Debug)]
pub struct Resources<R> {
    /// The device it runs on.
    pub device: DeviceId,
    /// Where the lab's NATS server is.
    pub nats_url: String,
    /// NATS credentials, a creds file's text.
    pub nats_creds: String,
    /// Where desired state is kept.
    pub state_dir: PathBuf,
    /// What the device lets a deployment do.
    pub policy: Policy,
    /// What runs containers.
    pub runtime: R,
    /// What is known of the agent itself already.
    pub facts: Arc<Facts>,
}

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is no place for its state.
    #[error("the agent has no place for its state")]
    Store(#[from] StoreError),
}

/// Runs until `shutdown`. Containers are left running. It begins with what its disk holds; a server or
/// runtime that is not there is waited for.
pub async fn run<R: ContainerRuntime>(
    resources: Resources<R>,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let Resources { device, nats_url, nats_creds, state_dir, policy, runtime, facts } = resources;
    let store = Store::open(state_dir)?;
    let (tasks, pace) = (TaskTracker::new(), Pace::begin());
    let (statuses, reported) = watch::channel(None);
    let pulse = Pulse::default();
    tasks.spawn(watchdog::run(Notifier::from_env(), pulse.clone(), reported.clone(), shutdown.clone()));
    let hashing = Arc::clone(&facts);
    tasks.spawn(async move {
        hashing.sha256().await;
    });
    let (joined, link) = watch::channel(None);
    let (offers, offered) = mpsc::channel(OFFERS);
    let options = BusOptions {
        url: nats_url.into(),
        creds: nats_creds,
        name: device.to_string(),
        inbox_prefix: subject::inbox(device.as_str()),
    };
    let runtime = Arc::new(runtime);
    // Before anything slow, so that a ping is answered as soon as can be.
    let lab = Lab {
        device: device.clone(),
        options,
        facts: Arc::clone(&facts),
        runtime: Arc::clone(&runtime),
        notes: store.notes(),
        offers: offers.clone(),
        pace,
        joined,
    };
    tasks.spawn(lab.run(shutdown.clone()));
    tracing::info!("pilab: agent started {} on {device}", Facts::VERSION);

    let wake = Arc::new(Notify::new());
    let boot_id = facts.boot_id().await.to_owned();
    let (checks, wanted) = watch::channel(health::Checks::new());
    let (found, findings) = watch::channel(health::Findings::new());
    tasks.spawn(health::run(Arc::clone(&runtime), wanted, found, shutdown.clone()));
    let health = (checks, findings);
    let reconciler =
        Reconciler::new(&device, boot_id, Arc::clone(&runtime), store.clone(), policy, statuses, health);
    let reconciler = reconciler.paced(pace);
    tasks.spawn(report::run(device, link, store, reported, pace, shutdown.clone()));
    tasks.spawn(watch_runtime(runtime, Arc::clone(&wake), shutdown.clone()));
    tasks.close();
    pulse.of(reconciler.run(offered, &wake, shutdown.clone())).await;
    // The reconciler takes an end of its offers for the end of the agent.
    drop(offers);
    shutdown.cancel();
    tasks.wait().await;
    Ok(())
}

/// Keeps a watch on the runtime; each time it begins or ends, a look is due, for what happened between
/// is unknown. An open watch also keeps a socket-activated podman from ending.
async fn watch_runtime<R: ContainerRuntime>(runtime: Arc<R>, wake: Arc<Notify>, shutdown: CancellationToken) {
    let mut failures = 0;
    let changes = Notify::new();
    loop {
        let began = Instant::now();
        let pass_on = async {
            loop {
                changes.notified().await;
                wake.notify_one();
                tokio::time::sleep(WATCH_CALM).await;
            }
        };
        let ended: Result<(), _> = tokio::select! {
            ended = runtime.watch(&changes) => ended,
            () = pass_on => Ok(()),
            () = shutdown.cancelled() => return,
        };
        if let Err(error) = ended {
            tracing::debug!(error = %Chain(&error), "the watch of the container runtime ended");
        }
        wake.notify_one();
        failures = if began.elapsed() > WATCH_HELD { 1 } else { failures + 1 };
        tokio::select! {
            () = tokio::time::sleep(backoff::pause(failures)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
