//! What is asked of one container: how it is, whether its monitor lives, its log, its health.

use super::api::HealthResult;
use super::http::{Answer, Call};
use super::inspect::Inspected;
use super::logs::{Frames, Tail};
use super::monitor::Conmon;
use super::topology::{PodmanTopology, decode, succeeded};
use crate::agent::ports::{RuntimeError, ServiceState};
use crate::model::workload::{ContainerEnd, LOG_TAIL_BYTES, LOG_TAIL_LINES};
use crate::support::chain::Chain;
use hyper::{Method, StatusCode};
use std::time::Duration;

/// How long a call may take that only adds to what is known already: a container whose lock is held by a
/// hanging call must not hold up the others.
const DETAIL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest output of a health check, in characters.
const MAX_HEALTH_OUTPUT: usize = 200;
/// The pause before a container whose monitor has ended is looked at again: podman may not know of the
/// container's end yet.
const AGAIN: Duration = Duration::from_millis(200);

impl PodmanTopology {
    /// Looks at a container by id or name; none when there is none.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Inspected>, RuntimeError> {
        let operation = format!("inspect container {id}");
        let call = Call {
            operation: operation.clone(),
            method: Method::GET,
            path: format!("/containers/{id}/json"),
            body: Vec::new(),
            timeout: DETAIL_TIMEOUT,
        };
        let answer = self.socket.call(call).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        succeeded(&answer, &operation)?;
        decode(&answer, &operation).map(Some)
    }

    /// A container's monitor, if podman's processes can be seen from here.
    pub(super) async fn conmon(&self, pid: i32) -> Conmon {
        if self.sees_processes().await { Conmon::find(pid) } else { Conmon::Unseen }
    }

    /// Whether podman's processes can be seen from here; found out once podman answers.
    pub(super) async fn sees_processes(&self) -> bool {
        let seen = self.shares_processes.get_or_try_init(|| self.socket.shares_processes()).await;
        seen.is_ok_and(|shares| *shares)
    }

    /// Whether podman calls a container running whose monitor is gone.
    pub(super) async fn has_lost(&self, seen: &Inspected) -> bool {
        seen.state() == ServiceState::Running
            && matches!(self.conmon(seen.state.conmon_pid).await, Conmon::Gone)
    }

    /// Kills a container. One that has ended is fine.
    pub(super) async fn kill(&self, id: &str) -> Result<(), RuntimeError> {
        let operation = format!("kill container {id}");
        let path = format!("/containers/{id}/kill?signal=KILL");
        let answer = self.call(Method::POST, path, operation.clone()).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Ok(()),
            _ => succeeded(&answer, &operation),
        }
    }

    /// What is known of a container's end, with the end of its log.
    pub(super) async fn evidence(&self, seen: &Inspected) -> ContainerEnd {
        let log = self.tail(&seen.id, LOG_TAIL_LINES, LOG_TAIL_BYTES, DETAIL_TIMEOUT).await;
        let log_tail = log.unwrap_or_else(|error| {
            tracing::warn!(id = seen.id, error = %Chain(&error), "cannot read the log of a container");
            String::new()
        });
        ContainerEnd { log_tail, ..seen.end() }
    }

    /// The last lines of a container's log, within bounds.
    pub(super) async fn tail(
        &self,
        id: &str,
        lines: usize,
        bytes: usize,
        timeout: Duration,
    ) -> Result<String, RuntimeError> {
        let operation = format!("read the log of container {id}");
        let call = Call {
            operation: operation.clone(),
            method: Method::GET,
            path: format!("/containers/{id}/logs?stdout=true&stderr=true&tail={lines}"),
            body: Vec::new(),
            timeout,
        };
        let (mut frames, mut tail) = (Frames::default(), Tail::new(bytes));
        let mut refusal = Vec::new();
        let read = self.socket.stream(call, |piece| {
            if refusal.len() < LOG_TAIL_BYTES {
                refusal.extend_from_slice(piece);
            }
            frames.push(piece, |_, bytes, _| tail.push(bytes));
            Ok(())
        });
        let timed_out = RuntimeError::TimedOut { operation: operation.clone(), timeout };
        let status = tokio::time::timeout(timeout, read).await.map_err(|_| timed_out)??;
        succeeded(&Answer { status, body: refusal }, &operation)?;
        Ok(tail.text(lines))
    }

    /// What a container that podman calls running really does.
    pub(super) async fn running(&self, id: &str) -> ServiceState {
        if self.monitors.lives(id) {
            return ServiceState::Running;
        }
        // A new container, one that was started again, or one whose monitor has ended.
        for last in [false, true] {
            let Ok(Some(seen)) = self.inspect(id).await else { return ServiceState::Running };
            if seen.state() != ServiceState::Running {
                return seen.state();
            }
            match self.conmon(seen.state.conmon_pid).await {
                Conmon::There(monitor) => {
                    self.monitors.insert(id, monitor);
                    return ServiceState::Running;
                }
                Conmon::Unseen => return ServiceState::Running,
                Conmon::Gone if last => return ServiceState::Lost,
                Conmon::Gone => tokio::time::sleep(AGAIN).await,
            }
        }
        ServiceState::Lost
    }
    /// Runs a container's health check once; see the port.
    pub(super) async fn health(&self, id: &str, timeout: Duration) -> Result<(bool, String), RuntimeError> {
        let operation = format!("check the health of container {id}");
        let call = Call {
            operation: operation.clone(),
            method: Method::GET,
            path: format!("/containers/{id}/healthcheck"),
            body: Vec::new(),
            timeout,
        };
        let answer = match self.socket.call(call).await {
            Err(RuntimeError::TimedOut { .. }) => {
                return Ok((false, format!("it did not end within {} s", timeout.as_secs_f32())));
            }
            answer => answer?,
        };
        succeeded(&answer, &operation)?;
        // The verdict of this run; what it printed stands in inspect alone.
        let passed = decode::<HealthResult>(&answer, &operation)?.status == "healthy";
        let log = self.inspect(id).await?.and_then(|seen| seen.state.health).and_then(|health| health.log);
        let output = log.and_then(|mut log| log.pop()).map(|last| last.output).unwrap_or_default();
        Ok((passed, output.trim().chars().take(MAX_HEALTH_OUTPUT).collect()))
    }
}
