//! Looking into a container from outside: its log by pages, and programs run in it.

use super::http::{Answer, Call};
use super::inspect::{Inspected, unix_ns};
use super::logs::Frames;
use super::topology::{PodmanTopology, decode, succeeded};
use crate::agent::ports::{Executed, LogPage, RuntimeError};
use crate::model::id::{ContainerName, DeploymentName};
use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use std::time::Duration;

/// How long reading a page of a log, or a step of running a program, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How many characters of a container's id a cursor holds.
const ID_LEN: usize = 12;
/// The most bytes of a record: twice what conmon reads at once.
const MAX_RECORD: usize = 16 * 1024;
const SECOND_NS: i64 = 1_000_000_000;

/// Finds a container of this device's agent by its names.
async fn find(
    podman: &PodmanTopology,
    deployment: &DeploymentName,
    container: &ContainerName,
) -> Result<Inspected, RuntimeError> {
    let name = super::create::container_name(&podman.device, deployment, container);
    let found = podman.inspect(&name).await?.filter(|found| found.is_of(&podman.device));
    found.ok_or(RuntimeError::NoSuchContainer { container: name })
}

/// How far a log was read: the time of the last record, and how many records of that time were read, for
/// podman tells whole seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    at_ns: i64,
    records: u64,
}

impl Position {
    /// Reads the cursor of container `id`; the beginning for that of another.
    fn parse(cursor: &str, id: &str) -> Self {
        let read = || {
            let mut parts = cursor.splitn(3, '.');
            let same = parts.next()? == id.get(..ID_LEN)?;
            let position = Self { at_ns: parts.next()?.parse().ok()?, records: parts.next()?.parse().ok()? };
            same.then_some(position)
        };
        read().unwrap_or_default()
    }

    fn cursor(self, id: &str) -> String {
        format!("{}.{}.{}", id.get(..ID_LEN).unwrap_or_default(), self.at_ns, self.records)
    }
}

/// Takes what comes after a position out of a log with times. A frame is a record: a line, or a part of
/// one when it has no end of line.
struct Page {
    from: Position,
    now: Position,
    /// How many records of the position's time have passed.
    passed: u64,
    record: Vec<u8>,
    text: String,
    most: usize,
    full: bool,
}

impl Page {
    fn new(from: Position, most: usize) -> Self {
        Self { from, now: from, passed: 0, record: Vec::new(), text: String::new(), most, full: false }
    }

    fn push(&mut self, bytes: &[u8], last: bool) {
        let room = MAX_RECORD.saturating_sub(self.record.len()).min(bytes.len());
        self.record.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if last {
            let record = std::mem::take(&mut self.record);
            self.take(&String::from_utf8_lossy(&record));
        }
    }

    fn take(&mut self, record: &str) {
        let (time, text) = record.split_once(' ').unwrap_or((record, ""));
        // A record of podman's own without a time counts as one of the last time.
        let at_ns = unix_ns(time).unwrap_or(self.now.at_ns);
        if at_ns < self.from.at_ns {
            return;
        }
        if at_ns == self.from.at_ns {
            self.passed += 1;
            if self.passed <= self.from.records {
                return;
            }
        }
        if self.full || (!self.text.is_empty() && self.text.len() + text.len() > self.most) {
            self.full = true;
            return;
        }
        self.text.push_str(text);
        let records = if at_ns == self.now.at_ns { self.now.records + 1 } else { 1 };
        self.now = Position { at_ns, records };
    }
}

/// Reads a page of a container's log; see the port.
pub(super) async fn read_log(
    podman: &PodmanTopology,
    deployment: &DeploymentName,
    container: &ContainerName,
    cursor: &str,
    most: usize,
) -> Result<LogPage, RuntimeError> {
    let id = find(podman, deployment, container).await?.id;
    let operation = format!("read the log of container {id}");
    let from = Position::parse(cursor, &id);
    let since = (from.at_ns / SECOND_NS - 1).max(0);
    let call = Call {
        operation: operation.clone(),
        method: Method::GET,
        path: format!("/containers/{id}/logs?stdout=true&stderr=true&timestamps=true&since={since}"),
        body: Vec::new(),
        timeout: STEP_TIMEOUT,
    };
    let (mut frames, mut page) = (Frames::default(), Page::new(from, most));
    let reading = podman.socket.stream(call, |piece| {
        frames.push(piece, |_, bytes, last| page.push(bytes, last));
        // What is left is read with the next page.
        if page.full { Err("the page is full".to_owned()) } else { Ok(()) }
    });
    let timed_out = RuntimeError::TimedOut { operation: operation.clone(), timeout: STEP_TIMEOUT };
    let read = tokio::time::timeout(STEP_TIMEOUT, reading).await.map_err(|_| timed_out)?;
    if !page.full {
        succeeded(&Answer { status: read?, body: Vec::new() }, &operation)?;
    }
    Ok(LogPage { text: page.text, cursor: page.now.cursor(&id) })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Session {
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SessionState {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    pid: i32,
}

/// Runs a program in a container; see the port.
pub(super) async fn exec(
    podman: &PodmanTopology,
    deployment: &DeploymentName,
    container: &ContainerName,
    command: &[String],
    timeout: Duration,
    most: usize,
) -> Result<Executed, RuntimeError> {
    let id = find(podman, deployment, container).await?.id;
    let operation = format!("run a program in container {id}");
    let call = |path: String, body: serde_json::Value, timeout| Call {
        operation: operation.clone(),
        method: Method::POST,
        path,
        body: body.to_string().into_bytes(),
        timeout,
    };
    let body = serde_json::json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": command });
    let answer = podman.socket.call(call(format!("/containers/{id}/exec"), body, STEP_TIMEOUT)).await?;
    succeeded(&answer, &operation)?;
    let session: Session = decode(&answer, &operation)?;

    let (mut stdout, mut stderr, mut truncated) = (Vec::new(), Vec::new(), false);
    let mut frames = Frames::default();
    let body = serde_json::json!({ "Detach": false, "Tty": false });
    let output = podman.socket.stream(call(format!("/exec/{}/start", session.id), body, timeout), |piece| {
        frames.push(piece, |stream, bytes, _| {
            let into = if stream == 2 { &mut stderr } else { &mut stdout };
            let room = most.saturating_sub(into.len()).min(bytes.len());
            truncated |= room < bytes.len();
            into.extend_from_slice(bytes.get(..room).unwrap_or_default());
        });
        Ok(())
    });
    let done = tokio::time::timeout(timeout, output).await;
    let state = state(podman, &session, &operation).await;
    let Ok(done) = done else {
        // podman has no call that ends a program which it runs in a container.
        if let Ok(state) = &state
            && podman.sees_processes().await
            && let Some(pid) = Pid::from_raw(state.pid).filter(|_| state.pid > 1)
            && let Err(error) = kill_process(pid, Signal::KILL)
        {
            tracing::debug!(id, %error, "a program whose time was up has ended already");
        }
        return Err(RuntimeError::TimedOut { operation, timeout });
    };
    let status = done?;
    if !status.is_success() && status != hyper::StatusCode::SWITCHING_PROTOCOLS {
        return Err(RuntimeError::Refused {
            operation,
            status: status.as_u16(),
            cause: String::from_utf8_lossy(&stdout).chars().take(500).collect(),
        });
    }
    Ok(Executed { exit_code: state?.exit_code, stdout: text(stdout), stderr: text(stderr), truncated })
}

async fn state(
    podman: &PodmanTopology,
    session: &Session,
    operation: &str,
) -> Result<SessionState, RuntimeError> {
    let call = Call {
        operation: operation.to_owned(),
        method: Method::GET,
        path: format!("/exec/{}/json", session.id),
        body: Vec::new(),
        timeout: STEP_TIMEOUT,
    };
    let answer = podman.socket.call(call).await?;
    succeeded(&answer, operation)?;
    decode(&answer, operation)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef";

    #[test]
    fn pages_join_without_loss_or_repetition() {
        // Three records of one time, one of them a part of a line.
        let times = ["01", "02", "02", "02", "03.5", "04"];
        let texts = ["line 0\n", "line 1\n", "line", " 2\n", "line 3\n", "line 4\n"];
        let (mut cursor, mut all, mut pages) = (String::new(), String::new(), 0);
        loop {
            let mut page = Page::new(Position::parse(&cursor, ID), 12);
            for (time, text) in times.iter().zip(texts) {
                let (begin, end) = text.split_at(2);
                page.push(format!("2026-11-24T02:03:{time}Z {begin}").as_bytes(), false);
                page.push(end.as_bytes(), true);
            }
            if page.text.is_empty() {
                break;
            }
            all.push_str(&page.text);
            cursor = page.now.cursor(ID);
            pages += 1;
        }
        assert_eq!((all.as_str(), pages), ("line 0\nline 1\nline 2\nline 3\nline 4\n", 4));
        assert_eq!(Position::parse(&cursor, "another-container"), Position::default());
        for odd in ["", "0123456789ab", "0123456789ab.x.1", "....", "ä"] {
            assert_eq!(Position::parse(odd, ID), Position::default(), "{odd:?}");
        }
    }
}
