//! Child processes: always with a bound on time, and with program, arguments and stderr in the error.

use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;
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
/// How long the output of a child that has ended is read on: what it wrote is there by then, and a process that it left
/// behind may hold its output for ever.
const LEFT: Duration = Duration::from_secs(1);

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

    /// Puts the child into a process group of its own: Ctrl-C on the terminal does not reach it, and all of the group is
    /// killed when [`Self::output`] gives it up.
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

    /// Runs it to the end, and answers how it ended with all that it wrote, whether it ended well or not.
    pub async fn ended(&self) -> Result<Output, CommandError> {
        self.in_time(&mut self.spawn()?).await
    }

    /// Runs it to the end and answers its standard output.
    pub async fn output(&self) -> Result<Vec<u8>, CommandError> {
        self.outcome(&mut self.spawn()?).await
    }

    /// The same, until `cancel` is cancelled: then all of its process group is killed, and nothing is answered once
    /// none of it holds its output any more.
    pub async fn output_unless(&self, cancel: &CancellationToken) -> Result<Option<Vec<u8>>, CommandError> {
        let mut running = self.clone().own_group().spawn()?;
        tokio::select! {
            outcome = self.outcome(&mut running) => return outcome.map(Some),
            () = cancel.cancelled() => {}
        }
        let _ = timeout(self.timeout, running.end()).await;
        Ok(None)
    }

    fn spawn(&self) -> Result<Running, CommandError> {
        let mut command = self.build();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|source| self.start_error(source))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(Running { child, stdout, stderr, own_group: self.own_group })
    }

    /// What it wrote, if it ended well and in time.
    async fn outcome(&self, running: &mut Running) -> Result<Vec<u8>, CommandError> {
        let Output { status, stdout, stderr } = self.in_time(running).await?;
        if status.success() {
            return Ok(stdout);
        }
        let from = stderr.len().saturating_sub(STDERR_TAIL);
        let stderr = String::from_utf8_lossy(stderr.get(from..).unwrap_or_default()).trim().to_owned();
        Err(CommandError::Failed { line: self.line(), status, stderr })
    }

    async fn in_time(&self, running: &mut Running) -> Result<Output, CommandError> {
        let ended = timeout(self.timeout, self.collect(running)).await;
        ended.map_err(|_| CommandError::TimedOut { line: self.line(), timeout: self.timeout })?
    }

    /// How it ended, and all it wrote.
    async fn collect(&self, running: &mut Running) -> Result<Output, CommandError> {
        let Running { child, stdout, stderr, .. } = running;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = {
            let read = async { tokio::try_join!(self.read(stdout, &mut out), self.read(stderr, &mut err)) };
            let mut read = pin!(read);
            let status = tokio::select! {
                read = &mut read => {
                    read?;
                    child.wait().await
                }
                status = child.wait() => {
                    if let Ok(read) = timeout(LEFT, read).await {
                        read?;
                    }
                    status
                }
            };
            status.map_err(|source| self.start_error(source))?
        };
        Ok(Output { status, stdout: out, stderr: err })
    }

    async fn read(
        &self,
        stream: &mut Option<impl AsyncRead + Unpin>,
        bytes: &mut Vec<u8>,
    ) -> Result<(), CommandError> {
        if let Some(stream) = stream {
            let read = stream.take(self.limit.saturating_add(1)).read_to_end(bytes).await;
            read.map_err(|source| self.start_error(source))?;
        }
        if bytes.len() as u64 > self.limit {
            return Err(CommandError::TooMuch { line: self.line(), limit: self.limit });
        }
        Ok(())
    }
}

/// A child process, and what it writes. Dropped before it has ended, it takes its process group along if that is its own:
/// what it has started would do its work later, when nobody expects it any more.
struct Running {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    own_group: bool,
}

impl Running {
    /// Kills it and waits until none of its group holds its output.
    async fn end(&mut self) -> io::Result<()> {
        if self.child.id().is_none() {
            return Ok(());
        }
        self.kill();
        let (mut out, mut err) = (tokio::io::sink(), tokio::io::sink());
        if let Some(stdout) = &mut self.stdout {
            tokio::io::copy(stdout, &mut out).await?;
        }
        if let Some(stderr) = &mut self.stderr {
            tokio::io::copy(stderr, &mut err).await?;
        }
        self.child.wait().await.map(drop)
    }

    fn kill(&self) {
        // None once it has been waited for: its number may be another's by then.
        let group = self.child.id().filter(|_| self.own_group).and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::warn!(%error, "a process group was not killed");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A script that gives a child PIPE to hold for as long as it lives, and a task that is done when the pipe is open.
    fn watched(dir: &std::path::Path, script: &str) -> (Command, tokio::task::JoinHandle<std::fs::File>) {
        let pipe = dir.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let command = sh(&script.replace("PIPE", pipe.to_str().unwrap()));
        (command, tokio::task::spawn_blocking(move || std::fs::File::open(pipe).unwrap()))
    }

    fn sh(script: &str) -> Command {
        Command::new("sh").arg("-c").arg(script).timeout(Duration::from_secs(600))
    }

    /// Returns when no process has the other end of the pipe.
    fn until_it_is_gone(mut opened: std::fs::File) {
        assert_eq!(std::io::Read::read_to_end(&mut opened, &mut Vec::new()).unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_cancelled_is_gone_with_its_children() {
        let (dir, cancel) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let (command, opened) = watched(dir.path(), "sleep 1000 > PIPE & wait");
        let opened = async {
            let opened = opened.await.unwrap();
            cancel.cancel();
            opened
        };
        let (output, opened) = tokio::join!(command.output_unless(&cancel), opened);
        assert!(output.unwrap().is_none());
        until_it_is_gone(opened);
    }

    #[tokio::test]
    async fn what_is_given_up_is_gone_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (command, opened) = watched(dir.path(), "sleep 1000 > PIPE & wait");
        let command = command.own_group();
        let opened = tokio::select! {
            output = command.output() => panic!("{output:?}"),
            opened = opened => opened.unwrap(),
        };
        until_it_is_gone(opened);
    }

    #[tokio::test]
    async fn what_says_too_much_is_gone_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (command, opened) = watched(dir.path(), "exec 3> PIPE; sleep 1000 & yes");
        let output = command.own_group().limit(1000).output().await;
        assert!(matches!(output, Err(CommandError::TooMuch { limit: 1000, .. })), "{output:?}");
        until_it_is_gone(opened.await.unwrap());
    }

    /// The clock stands still while the blocking task waits for the script, and leaps to the bound when that is done.
    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_gone_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (command, opened) = watched(dir.path(), "sleep 1000 > PIPE & wait");
        let output = command.own_group().output().await;
        assert!(matches!(output, Err(CommandError::TimedOut { .. })), "{output:?}");
        until_it_is_gone(opened.await.unwrap());
    }

    /// A program may start a daemon, which stays, and whose standard output is the program's.
    #[tokio::test]
    async fn what_has_ended_is_done_whoever_holds_its_output() {
        let started = sh("sleep 1000 & echo $!").own_group().output().await.unwrap();
        let daemon = String::from_utf8(started).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL).expect("it stays");
        let failed = sh("sleep 1000 & echo $! >&2; exit 3").output().await;
        let Err(CommandError::Failed { stderr, .. }) = failed else { panic!("{failed:?}") };
        let daemon = Pid::from_raw(stderr.parse().unwrap()).unwrap();
        rustix::process::kill_process(daemon, Signal::KILL).expect("it stays");
    }

    #[tokio::test]
    async fn what_ends_by_itself_answers_as_ever() {
        let cancel = CancellationToken::new();
        assert_eq!(Command::new("echo").arg("hi").output_unless(&cancel).await.unwrap().unwrap(), b"hi\n");
        let failed = Command::new("false").output_unless(&cancel).await;
        assert!(matches!(failed, Err(CommandError::Failed { .. })), "{failed:?}");
    }
}
