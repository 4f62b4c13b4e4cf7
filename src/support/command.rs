//! Child processes: always with a bound on time, and with program, arguments and stderr in the error.

use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// A child process that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program.
    #[error("{program} is not installed (tried: {line})")]
    Missing {
        /// The program.
        program: String,
        /// The command line.
        line: String,
    },
    /// It could not be started or waited for.
    #[error("cannot run {line}")]
    Io {
        /// The command line.
        line: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with a failure.
    #[error("{line} ended with {status}: {stderr}")]
    Failed {
        /// The command line.
        line: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
    /// It did not end in time.
    #[error("{line} did not end within {} s", timeout.as_secs())]
    TimedOut {
        /// The command line.
        line: String,
        /// The bound.
        timeout: Duration,
    },
    /// It said more than is taken.
    #[error("{line} wrote more than {limit} bytes")]
    TooMuch {
        /// The command line.
        line: String,
        /// The most bytes of each stream.
        limit: u64,
    },
}

/// A command to run.
#[derive(Debug, Clone)]
pub struct Command {
    program: String,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    timeout: Duration,
    limit: u64,
    own_group: bool,
}

/// How much of a failed child's standard error is kept, in bytes.
const STDERR_TAIL: usize = 2000;

impl Command {
    /// A command that may take a minute.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            timeout: Duration::from_secs(60),
            limit: u64::MAX,
            own_group: false,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = T>, T: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable of the child.
    #[must_use]
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Puts the child into a process group of its own: Ctrl-C on the terminal does not reach it.
    #[must_use]
    pub fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// Sets the bound.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the most bytes that are taken of each of standard output and standard error; one that writes more
    /// is killed, and has failed.
    #[must_use]
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// The program.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The command line, for people.
    pub fn line(&self) -> String {
        let args = self.args.iter().map(|a| a.to_string_lossy().into_owned());
        std::iter::once(self.program.clone()).chain(args).collect::<Vec<_>>().join(" ")
    }

    /// A child process to be driven by the caller; killed when dropped.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes child processes")]
    pub fn build(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
        if self.own_group {
            command.process_group(0);
        }
        command
    }

    /// Turns the failure to start this command into an error that says what is missing.
    pub fn start_error(&self, source: io::Error) -> CommandError {
        if source.kind() == io::ErrorKind::NotFound {
            CommandError::Missing { program: self.program.clone(), line: self.line() }
        } else {
            CommandError::Io { line: self.line(), source }
        }
    }

    /// Runs it to the end and answers its standard output.
    pub async fn output(&self) -> Result<Vec<u8>, CommandError> {
        let mut child = self.spawn()?;
        self.outcome(&mut child).await
    }

    /// The same, until `cancel` is cancelled: then all of its process group is killed, and nothing is answered once
    /// none of it holds its output any more.
    pub async fn output_unless(&self, cancel: &CancellationToken) -> Result<Option<Vec<u8>>, CommandError> {
        let mut child = self.clone().own_group().spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let mut outcome = pin!(self.outcome(&mut child));
        tokio::select! {
            outcome = &mut outcome => outcome.map(Some),
            () = cancel.cancelled() => {
                // It may have ended by itself a moment ago: there is nobody to kill then.
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = outcome.await;
                Ok(None)
            }
        }
    }

    fn spawn(&self) -> Result<Child, CommandError> {
        let mut command = self.build();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        child.map_err(|source| self.start_error(source))
    }

    /// What it wrote, if it ended well and in time.
    async fn outcome(&self, child: &mut Child) -> Result<Vec<u8>, CommandError> {
        let ended = tokio::time::timeout(self.timeout, self.collect(child)).await;
        let (status, stdout, stderr) =
            ended.map_err(|_| CommandError::TimedOut { line: self.line(), timeout: self.timeout })??;
        if status.success() {
            return Ok(stdout);
        }
        let from = stderr.len().saturating_sub(STDERR_TAIL);
        let stderr = String::from_utf8_lossy(stderr.get(from..).unwrap_or_default()).trim().to_owned();
        Err(CommandError::Failed { line: self.line(), status, stderr })
    }

    /// How it ended, and all it wrote.
    async fn collect(&self, child: &mut Child) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), CommandError> {
        let streams = tokio::try_join!(self.read(child.stdout.take()), self.read(child.stderr.take()));
        let (stdout, stderr) = streams?;
        let status = child.wait().await.map_err(|source| self.start_error(source))?;
        Ok((status, stdout, stderr))
    }

    async fn read(&self, stream: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, CommandError> {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            let read = stream.take(self.limit.saturating_add(1)).read_to_end(&mut bytes).await;
            read.map_err(|source| self.start_error(source))?;
        }
        if bytes.len() as u64 > self.limit {
            return Err(CommandError::TooMuch { line: self.line(), limit: self.limit });
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_cancelled_is_gone_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, cancel) = (dir.path().join("pipe"), CancellationToken::new());
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        // The grandchild has the pipe open for as long as it lives.
        let script = format!("sleep 1000 > {} & wait", pipe.display());
        let command = Command::new("sh").arg("-c").arg(script).timeout(Duration::from_secs(600));
        let opened = {
            let (pipe, cancel) = (pipe.clone(), cancel.clone());
            tokio::task::spawn_blocking(move || {
                let pipe = std::fs::File::open(pipe);
                cancel.cancel();
                pipe
            })
        };
        assert!(command.output_unless(&cancel).await.unwrap().is_none());
        let mut left = Vec::new();
        std::io::Read::read_to_end(&mut opened.await.unwrap().unwrap(), &mut left).unwrap();
        assert_eq!(left, b"", "its end is closed");
    }

    #[tokio::test]
    async fn what_ends_by_itself_answers_as_ever() {
        let cancel = CancellationToken::new();
        assert_eq!(Command::new("echo").arg("hi").output_unless(&cancel).await.unwrap().unwrap(), b"hi\n");
        let failed = Command::new("false").output_unless(&cancel).await;
        assert!(matches!(failed, Err(CommandError::Failed { .. })), "{failed:?}");
    }
}
