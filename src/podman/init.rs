//! Init containers: from start to end, with the evidence of it.
//!
//! Traps of podman 4.3: `wait` on a container that never started answers 0; a container whose monitor was
//! killed reads `running` for ever, and `wait` takes 20 s to fail; an inspect right after `wait` may still
//! read `running`. So success is judged by what inspect says, and the monitor's life is watched beside.

use super::api::Listed;
use super::create;
use super::http::Call;
use super::inspect::Inspected;
use super::monitor::Conmon;
use super::topology::{PodmanTopology, decode, query, succeeded};
use crate::agent::ports::{
    Completed, ContainerRuntime, InitSpec, LeftOver, RunOutcome, RuntimeError, ServiceState,
};
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::label;
use crate::support::chain::Chain;
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;
use tokio::time::Instant;

/// How much later than the agent conmon ends an init container: enough for the agent, when it lives, to
/// have read the evidence.
const GRACE: Duration = Duration::from_secs(5);
/// How long a killed one may take to be seen dead; one that hangs in the kernel is told all the same.
const DIES: Duration = Duration::from_secs(10);
/// The pause before podman is asked again what it does not know yet.
const AGAIN: Duration = Duration::from_millis(200);
/// How much longer than the deadline a call to `wait` may take: the deadline ends it, not this.
const WAIT_SLACK: Duration = Duration::from_secs(60);

/// Runs an init container; see the port.
pub(super) async fn run(
    podman: &PodmanTopology,
    spec: &InitSpec,
    timeout: Duration,
) -> Result<Completed, RuntimeError> {
    let deadline = conmon_deadline(timeout);
    let body = create::init(&podman.device, podman.oci_runtime.as_deref(), spec, deadline);
    let name = body.name.clone();
    // Making it removes a left-over that holds its name.
    let id = podman.make(&body).await?.id;
    if let Err(error) = podman.start(&id).await {
        discard(podman, &id).await;
        return Err(error);
    }
    let began = Instant::now();
    match tokio::time::timeout(timeout, end(podman, &id, &name, timeout)).await {
        Ok(Ok(End::Exited(seen))) => Ok(exited(podman, seen).await),
        Ok(Ok(End::Lost(seen))) => {
            end_process(&seen);
            Ok(lost(podman, seen).await)
        }
        Ok(Err(error)) => {
            discard(podman, &id).await;
            Err(error)
        }
        Err(_) => run_out(podman, &id, began).await,
    }
}

/// After how many seconds conmon ends one that may take this long: rounded up.
fn conmon_deadline(timeout: Duration) -> u64 {
    (timeout + GRACE).as_secs() + 1
}

/// How long one might take, given when conmon ends it.
fn timeout(seen: &Inspected) -> Option<Duration> {
    seen.deadline().checked_sub(GRACE + Duration::from_secs(1))
}

/// How the wait for an init container ended.
enum End {
    Exited(Inspected),
    /// Its monitor is gone.
    Lost(Inspected),
}

async fn exited(podman: &PodmanTopology, seen: Inspected) -> Completed {
    let end = podman.evidence(&seen).await;
    let outcome = RunOutcome::Exited { exit_code: end.exit_code };
    Completed { id: seen.id, outcome, end, image_id: seen.image }
}

async fn lost(podman: &PodmanTopology, seen: Inspected) -> Completed {
    let end = podman.evidence(&seen).await;
    Completed { id: seen.id, outcome: RunOutcome::Lost, end, image_id: seen.image }
}

/// Ends the process of a container that nobody watches any more: podman takes seconds for that.
fn end_process(seen: &Inspected) {
    if let Some(pid) = Pid::from_raw(seen.state.pid).filter(|_| seen.state.pid > 1)
        && let Err(error) = kill_process(pid, Signal::KILL)
    {
        tracing::debug!(id = seen.id, %error, "the process of a lost container has ended already");
    }
}

/// Kills one whose time is up.
async fn run_out(podman: &PodmanTopology, id: &str, began: Instant) -> Result<Completed, RuntimeError> {
    // It may have ended in this very moment.
    if let Some(ended) = podman.inspect(id).await?.filter(Inspected::has_ended) {
        return Ok(exited(podman, ended).await);
    }
    let waited = began.elapsed();
    podman.kill(id).await?;
    let mut seen = podman.inspect(id).await?;
    let killed = Instant::now();
    while seen.as_ref().is_some_and(|seen| !seen.has_ended()) && killed.elapsed() < DIES {
        tokio::time::sleep(AGAIN).await;
        seen = podman.inspect(id).await?;
    }
    let (mut end, image_id) = match seen {
        Some(seen) => (podman.evidence(&seen).await, seen.image),
        None => Default::default(),
    };
    end.timed_out = true;
    end.ran_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    Ok(Completed { id: id.to_owned(), outcome: RunOutcome::TimedOut { waited }, end, image_id })
}

async fn discard(podman: &PodmanTopology, id: &str) {
    if let Err(error) = podman.remove(id).await {
        tracing::warn!(id, error = %Chain(&error), "an init container that did not start cannot be removed");
    }
}

/// Waits until a started container has ended. Ends early only when its end cannot be known any more; an error
/// means that it is gone or never ran. A
/// podman that does not answer is asked again, for the caller's deadline bounds it all.
async fn end(podman: &PodmanTopology, id: &str, name: &str, timeout: Duration) -> Result<End, RuntimeError> {
    let gone = || RuntimeError::RuntimeLost { container: name.to_owned() };
    let mut waited = false;
    loop {
        let mut seen = look(podman, id).await.ok_or_else(gone)?;
        if waited && !seen.has_ended() {
            tokio::time::sleep(AGAIN).await;
            seen = look(podman, id).await.ok_or_else(gone)?;
        }
        if seen.has_ended() {
            return Ok(End::Exited(seen));
        }
        if waited && seen.state() == ServiceState::Created {
            return Err(RuntimeError::NeverStarted { container: name.to_owned() });
        }
        match podman.conmon(seen.state.conmon_pid).await {
            Conmon::Gone if waited => return Ok(End::Lost(seen)),
            Conmon::Gone => {}
            Conmon::There(monitor) => tokio::select! {
                () = wait(podman, id, timeout) => {}
                () = monitor.ended() => {}
            },
            Conmon::Unseen => wait(podman, id, timeout).await,
        }
        waited = true;
    }
}

/// Looks at a container until podman answers; none when there is no such container.
async fn look(podman: &PodmanTopology, id: &str) -> Option<Inspected> {
    loop {
        match podman.inspect(id).await {
            Ok(seen) => return seen,
            Err(error) => tracing::debug!(id, error = %Chain(&error), "cannot look at an init container"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits as long as podman thinks it runs. What it answers is not believed: it only means "look again".
async fn wait(podman: &PodmanTopology, id: &str, timeout: Duration) {
    let call = Call {
        operation: format!("wait for container {id}"),
        method: Method::POST,
        // podman's own interval of 250 ms would tell of an end that much later.
        path: format!("/containers/{id}/wait?condition=stopped&condition=exited&interval=1ms"),
        body: Vec::new(),
        timeout: timeout + WAIT_SLACK,
    };
    if let Err(error) = podman.socket.call(call).await {
        tracing::debug!(id, error = %Chain(&error), "podman does not wait");
    }
}

/// What is there of a deployment's init containers; see the port.
pub(super) async fn list(
    podman: &PodmanTopology,
    deployment: &DeploymentName,
) -> Result<Vec<LeftOver>, RuntimeError> {
    let labels = [
        format!("{}={}", label::MANAGED_BY, label::AGENT),
        format!("{}={}", label::DEVICE, podman.device),
        format!("{}={deployment}", label::DEPLOYMENT),
        label::INIT_CONTAINER_LABEL.to_owned(),
    ];
    let filters = query(&serde_json::json!({ "label": labels }).to_string());
    let operation = "list init containers".to_owned();
    let path = format!("/containers/json?all=true&filters={filters}");
    let answer = podman.call(Method::GET, path, operation.clone()).await?;
    succeeded(&answer, &operation)?;
    let listed: Option<Vec<Listed>> = decode(&answer, &operation)?;
    let mut listed = listed.unwrap_or_default();
    listed.sort_by_key(|listed| listed.started_at);
    let mut there = Vec::new();
    for Listed { id, .. } in listed {
        let Some(seen) = podman.inspect(&id).await? else { continue };
        let name = seen.label(label::INIT_CONTAINER_LABEL).and_then(|name| ContainerName::new(name).ok());
        let Some(name) = name else { continue };
        let completed = if seen.has_ended() {
            Some(left_over(podman, seen).await)
        } else if podman.has_lost(&seen).await {
            Some(lost(podman, seen).await)
        } else {
            None
        };
        there.push(LeftOver { id, name, completed });
    }
    Ok(there)
}

/// What came of one that ended while nobody waited for it. The agent that waited may have killed it and not said so
/// any more, which podman tells as any other end.
async fn left_over(podman: &PodmanTopology, seen: Inspected) -> Completed {
    let timeout = timeout(&seen);
    let mut completed = exited(podman, seen).await;
    let ran = Duration::from_millis(completed.end.ran_ms);
    if let Some(waited) = timeout.filter(|timeout| completed.end.exit_code != 0 && ran >= *timeout) {
        completed.end.timed_out = true;
        completed.outcome = RunOutcome::TimedOut { waited };
    }
    completed
}
