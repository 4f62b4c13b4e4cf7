//! Requests from the coordinator to an agent: `fleet.<device>.<verb>`.
//!
//! Each request has one answer. That of `ping` is a [`Pong`]; those of the other verbs are a [`Reply`].

use crate::model::id::{ContainerName, DeploymentName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an agent can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Are you there, and who are you? Answer: [`Pong`].
    Ping,
    /// What do you run on? No request body. Answer: [`DeviceFacts`].
    Facts,
    /// What did a container write? [`LogsRequest`], answer: [`LogsPage`].
    Logs,
    /// Run a program in a container. [`ExecRequest`], answer: [`ExecResult`].
    Exec,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 4] = [Self::Ping, Self::Facts, Self::Logs, Self::Exec];

    /// The last token of the subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Facts => "facts",
            Self::Logs => "logs",
            Self::Exec => "exec",
        }
    }

    /// The verb of a subject's last token.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.name() == name)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Version of the answers in this file.
pub const FLEET_VERSION: u32 = 1;
/// The most bytes of log in a [`LogsPage`], and of each stream in an [`ExecResult`].
pub const MAX_OUTPUT: usize = 64 * 1024;
/// The longest that `logs` waits for something to be written, in milliseconds.
pub const MAX_WAIT_MS: u64 = 10_000;
/// The longest that a program of `exec` may take, in seconds.
pub const MAX_EXEC_SECONDS: u64 = 60;

/// The answer to [`Verb::Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// [`FLEET_VERSION`].
    pub version: u32,
    /// The device.
    pub device: String,
    /// The agent's version.
    pub agent_version: String,
    /// SHA-256 of the agent's executable, hex: must equal the image manifest's.
    pub agent_sha256: String,
    /// `/proc/sys/kernel/random/boot_id` of the device.
    pub boot_id: String,
    /// Milliseconds since the device started.
    pub uptime_ms: u64,
}

/// The answer to any verb but `ping`: `{"ok": …}` or `{"error": …}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<T> {
    /// What was asked for.
    Ok(T),
    /// Why there is none.
    Error(FleetError),
}

/// Why an agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{kind:?}: {message}")]
pub struct FleetError {
    /// For machines.
    pub kind: FleetErrorKind,
    /// For people, one line.
    pub message: String,
}

/// Kinds of [`FleetError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FleetErrorKind {
    /// The agent knows no such verb.
    UnknownVerb,
    /// The request's body is not what the verb takes.
    Malformed,
    /// Too many requests are being answered.
    Busy,
    /// `exec` is off: the agent was not started with `--enable-exec`.
    ExecDisabled,
    /// The device's agent has no such container.
    NoSuchContainer,
    /// It took too long.
    TimedOut,
    /// The container runtime refused or failed.
    RuntimeFailed,
}

/// The answer to [`Verb::Facts`]. What cannot be found out is empty or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// [`FLEET_VERSION`].
    pub version: u32,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's architecture, in the kernel's word.
    pub arch: String,
    /// `PRETTY_NAME` of os-release(5), or as near as can be.
    pub os: String,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Processors.
    pub cpus: usize,
    /// The container runtime.
    pub runtime: RuntimeFacts,
}

/// What is known of the container runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFacts {
    /// Its name and version.
    pub version: String,
    /// `v1` or `v2`.
    pub cgroup_version: String,
    /// How many images it has.
    pub images: u64,
    /// Whether `exec` is on.
    pub exec_enabled: bool,
}

/// The body of [`Verb::Logs`]. To follow a log, ask again with the cursor of the last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogsRequest {
    /// Whose container.
    pub deployment: DeploymentName,
    /// A service's or init container's name.
    pub container: ContainerName,
    /// Where to go on; empty for the beginning.
    #[serde(default)]
    pub cursor: String,
    /// How long to wait when nothing new is there, in milliseconds; at most [`MAX_WAIT_MS`].
    #[serde(default)]
    pub wait_ms: u64,
}

/// The answer to [`Verb::Logs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsPage {
    /// Lines, at most [`MAX_OUTPUT`] bytes; empty when nothing new was written. The last one may be the
    /// begin of a line that the next page goes on with.
    pub text: String,
    /// Where the next page begins. A container made anew begins from its beginning.
    pub cursor: String,
}

/// The body of [`Verb::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Whose container.
    pub deployment: DeploymentName,
    /// A running container's name.
    pub container: ContainerName,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// Seconds after which it is ended, from 1 to [`MAX_EXEC_SECONDS`].
    pub timeout: u64,
}

/// The answer to [`Verb::Exec`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecResult {
    /// The program's exit code.
    pub exit_code: i32,
    /// The first [`MAX_OUTPUT`] bytes that it wrote; what is no text is U+FFFD.
    pub stdout: String,
    /// The first [`MAX_OUTPUT`] bytes that it wrote as errors.
    pub stderr: String,
    /// More was written than is here.
    pub truncated: bool,
}
