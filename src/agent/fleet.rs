//! Answers the coordinator's requests: `fleet.<device>.<verb>`, each in a task of its own, so that a slow
//! one holds up no other.

use super::facts::{Facts, uptime_ms};
use super::ports::{ContainerRuntime, RuntimeError, RuntimeFacts};
use crate::bus::connect::{Bus, Message, Subscription};
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use crate::wire;
use crate::wire::fleet::{
    DeviceFacts, ExecRequest, ExecResult, FLEET_VERSION, FleetError, FleetErrorKind, LogsPage, LogsRequest,
    MAX_EXEC_SECONDS, MAX_OUTPUT, MAX_WAIT_MS, Pong, Reply, Verb,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use sysinfo::System;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most requests beside pings that are answered at once.
const AT_ONCE: usize = 16;
/// The largest request, in bytes.
const MAX_REQUEST: usize = 64 * 1024;
/// The most bytes that a text of an answer may have as JSON, where control characters grow sixfold: two of
/// them fit into a device's largest message (256 KiB).
const MAX_ENCODED: usize = 100 * 1024;
/// The longest message of an error, in characters.
const MAX_MESSAGE: usize = 500;
/// How often a log that is followed is looked at.
const FOLLOW: Duration = Duration::from_millis(200);

/// What requests are answered from.
#[derive(Debug)]
pub struct Fleet<R> {
    device: DeviceId,
    bus: Bus,
    facts: Arc<Facts>,
    runtime: Arc<R>,
}

impl<R: ContainerRuntime> Fleet<R> {
    /// Nothing is answered before [`Fleet::run`].
    pub fn new(device: DeviceId, bus: Bus, facts: Arc<Facts>, runtime: Arc<R>) -> Self {
        Self { device, bus, facts, runtime }
    }

    /// Answers until the connection or the agent ends; what is being answered then is broken off.
    pub async fn run(self, mut requests: Subscription, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = shutdown.cancelled() => break,
            };
            let Some(request) = request else { break };
            let (this, slots, shutdown) = (Arc::clone(&this), Arc::clone(&slots), shutdown.clone());
            tasks.spawn(async move {
                tokio::select! {
                    () = this.answer(request, &slots) => {}
                    () = shutdown.cancelled() => {}
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn answer(&self, request: Message, slots: &Semaphore) {
        let Message { subject, reply, payload } = request;
        let Some(reply) = reply else {
            tracing::warn!(subject, "a request without reply subject");
            return;
        };
        let Some(verb) = wire::subject::parse_fleet(&self.device, &subject) else {
            tracing::warn!(subject, "not a request to this device");
            return;
        };
        let verb = Verb::parse(verb);
        // Pings are answered however busy the agent is.
        let body = match verb {
            Some(Verb::Ping) => serde_json::to_vec(&self.pong().await),
            _ => match slots.try_acquire() {
                Ok(_slot) => self.work(verb, &payload).await,
                Err(_) => {
                    let message = format!("{AT_ONCE} requests are being answered");
                    serde_json::to_vec(&Reply::<()>::Error(error(FleetErrorKind::Busy, message)))
                }
            },
        };
        let sent = match body {
            Ok(body) => self.bus.publish(reply, body).await,
            Err(error) => {
                tracing::error!(subject, %error, "cannot write an answer");
                return;
            }
        };
        if let Err(error) = sent {
            tracing::warn!(subject, error = %Chain(&error), "cannot answer");
        }
    }

    async fn work(&self, verb: Option<Verb>, payload: &[u8]) -> serde_json::Result<Vec<u8>> {
        match verb {
            Some(Verb::Facts) => write(Ok(self.device_facts().await)),
            Some(Verb::Logs) => write(match read(payload) {
                Ok(request) => self.logs(request).await,
                Err(error) => Err(error),
            }),
            Some(Verb::Exec) => write(match read(payload) {
                Ok(request) => self.exec(request).await,
                Err(error) => Err(error),
            }),
            Some(Verb::Ping) | None => {
                write::<()>(Err(error(FleetErrorKind::UnknownVerb, "this agent knows no such verb")))
            }
        }
    }

    async fn pong(&self) -> Pong {
        Pong {
            version: FLEET_VERSION,
            device: self.device.to_string(),
            agent_version: Facts::VERSION.to_owned(),
            agent_sha256: self.facts.sha256().await.to_owned(),
            boot_id: self.facts.boot_id().await.to_owned(),
            uptime_ms: uptime_ms(),
        }
    }

    async fn device_facts(&self) -> DeviceFacts {
        let runtime = self.runtime.facts().await.unwrap_or_else(|error| {
            tracing::debug!(error = %Chain(&error), "nothing is known of the container runtime");
            RuntimeFacts::default()
        });
        let memory_total = System::new().map_or(0, |mut system| {
            system.refresh_memory();
            system.total_memory()
        });
        DeviceFacts {
            version: FLEET_VERSION,
            kernel: System::kernel_version().unwrap_or_default(),
            arch: System::cpu_arch(),
            os: System::long_os_version().unwrap_or_default(),
            memory_total,
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            runtime,
        }
    }

    /// Reads a page, asking again until something is there or the wait is over.
    async fn logs(&self, request: LogsRequest) -> Result<LogsPage, FleetError> {
        let LogsRequest { deployment, container, cursor, wait_ms } = request;
        let until = Instant::now() + Duration::from_millis(wait_ms.min(MAX_WAIT_MS));
        loop {
            let read = |most| self.runtime.read_log(&deployment, &container, &cursor, most);
            let mut page = read(MAX_OUTPUT).await.map_err(|error| failed(&error))?;
            if encoded(&page.text) > MAX_ENCODED {
                page = read(MAX_OUTPUT / 8).await.map_err(|error| failed(&error))?;
            }
            let next = Instant::now() + FOLLOW;
            if !page.text.is_empty() || next > until {
                return Ok(LogsPage { text: page.text, cursor: page.cursor });
            }
            tokio::time::sleep_until(next).await;
        }
    }

    async fn exec(&self, request: ExecRequest) -> Result<ExecResult, FleetError> {
        let ExecRequest { deployment, container, command, timeout } = request;
        if command.is_empty() || !(1..=MAX_EXEC_SECONDS).contains(&timeout) {
            let message = format!("command: one program at least; timeout: 1 to {MAX_EXEC_SECONDS} s");
            return Err(error(FleetErrorKind::Malformed, message));
        }
        tracing::info!(%deployment, %container, program = command.first(), "runs a program as it was asked");
        let timeout = Duration::from_secs(timeout);
        let done = self.runtime.exec(&deployment, &container, &command, timeout, MAX_OUTPUT).await;
        let done = done.map_err(|error| match error {
            RuntimeError::NotEnabled { .. } => {
                let message = "the agent was not started with --enable-exec".to_owned();
                FleetError { kind: FleetErrorKind::ExecDisabled, message }
            }
            other => failed(&other),
        })?;
        let (stdout, stderr) = (clip(&done.stdout), clip(&done.stderr));
        let truncated = done.truncated || stdout != done.stdout || stderr != done.stderr;
        Ok(ExecResult {
            exit_code: done.exit_code,
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            truncated,
        })
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FleetError> {
    if payload.len() > MAX_REQUEST {
        let message = format!("{} bytes are more than the {MAX_REQUEST} that are taken", payload.len());
        return Err(error(FleetErrorKind::Malformed, message));
    }
    serde_json::from_slice(payload).map_err(|problem| error(FleetErrorKind::Malformed, problem.to_string()))
}

fn write<T: Serialize>(result: Result<T, FleetError>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&match result {
        Ok(answer) => Reply::Ok(answer),
        Err(error) => Reply::Error(error),
    })
}

fn encoded(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |json| json.len())
}

/// The begin of a text that fits into an answer.
fn clip(text: &str) -> &str {
    if encoded(text) <= MAX_ENCODED {
        return text;
    }
    text.get(..text.floor_char_boundary(MAX_ENCODED / 6)).unwrap_or_default()
}

fn failed(cause: &RuntimeError) -> FleetError {
    let kind = match cause {
        RuntimeError::NoSuchContainer { .. } => FleetErrorKind::NoSuchContainer,
        RuntimeError::TimedOut { .. } => FleetErrorKind::TimedOut,
        _ => FleetErrorKind::RuntimeFailed,
    };
    error(kind, Chain(cause).to_string())
}

fn error(kind: FleetErrorKind, message: impl Into<String>) -> FleetError {
    FleetError { kind, message: message.into().chars().take(MAX_MESSAGE).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_in_json_is_cut_to_fit_a_message() {
        assert_eq!(clip("ä\n"), "ä\n");
        let wild = "\u{1}".repeat(MAX_OUTPUT);
        let cut = clip(&wild);
        assert!(encoded(cut) <= MAX_ENCODED + 2 && cut.len() > 10_000, "{}", cut.len());
    }

    #[test]
    fn a_request_that_is_too_large_or_nonsense_is_refused() {
        for bad in [vec![b' '; MAX_REQUEST + 1], b"{".to_vec(), br#"{"deployment":"a","more":1}"#.to_vec()] {
            assert_eq!(read::<LogsRequest>(&bad).unwrap_err().kind, FleetErrorKind::Malformed);
        }
    }
}
