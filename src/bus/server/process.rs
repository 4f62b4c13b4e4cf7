//! The child process: how it is found, started, told from another, and ended.

use super::home::Home;
use super::{PROGRAM, READY_POLL, ServerError, file, local_ip};
use crate::support::clock;
use crate::support::command::{Command, CommandError};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// The most bytes of a server's greeting that are read: nats-server's own limit of a control line is 4096.
const MAX_GREETING: u64 = 4096;
/// Where a program may be that PATH does not show to ordinary users: Debian's nats-server is in
/// `/usr/sbin`.
const SYSTEM_PATHS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How long a server may take to end after SIGTERM. Measured: some 20 ms.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A process, told from a later one with the same pid by its start time and the host's boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessMark {
    pub(super) pid: Pid,
    /// Clock ticks after the host's boot (field 22 of /proc/pid/stat, proc(5)).
    started: u64,
    boot: String,
}

impl ProcessMark {
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The second field, the program's name in parentheses, may hold blanks and parentheses itself.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?;
        // A zombie has ended; field 22 is the 19th after the state.
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z").then(|| Self { pid, started, boot: clock::boot_id() })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
        Some(Self { pid, started: words.next()?.parse().ok()?, boot: words.next()?.to_owned() })
    }

    pub(super) fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// SIGTERM, then SIGKILL. Answers whether it lived.
    pub(super) async fn end(&self) -> io::Result<bool> {
        // The descriptor holds on to the process: what is checked next is what gets the signals.
        let process = match rustix::process::pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        if !self.lives() {
            return Ok(false);
        }
        for signal in [Signal::TERM, Signal::KILL] {
            match rustix::process::pidfd_send_signal(&process, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
            let deadline = Instant::now() + STOP_GRACE;
            while Instant::now() < deadline {
                if !self.lives() {
                    return Ok(true);
                }
                tokio::time::sleep(READY_POLL).await;
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "it is still there after SIGKILL"))
    }
}

impl std::fmt::Display for ProcessMark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.pid.as_raw_nonzero(), self.started, self.boot)
    }
}

pub(super) type Spawned = Result<Child, CommandError>;

/// Starts child processes from a thread of its own. The signal that `setpriv --pdeathsig` asks for comes
/// when the *thread* that started the child ends, and a runtime's threads may end before the process does.
#[derive(Debug)]
pub(super) struct Spawner {
    requests: mpsc::Sender<(Command, File, oneshot::Sender<Spawned>)>,
}

impl Spawner {
    pub(super) fn start(home: &Home) -> Result<Self, ServerError> {
        let (requests, mut inbox) = mpsc::channel::<(Command, File, oneshot::Sender<Spawned>)>(1);
        let runtime = tokio::runtime::Handle::current();
        let work = move || {
            let _context = runtime.enter();
            while let Some((command, log, answer)) = inbox.blocking_recv() {
                // Whoever asked may be gone; the child is then dropped, which kills it.
                let _ = answer.send(spawn(&command, &log));
            }
        };
        let thread = std::thread::Builder::new().name("nats-spawner".to_owned()).spawn(work);
        thread.map_err(|error| file("make a thread for", &home.dir, error))?;
        Ok(Self { requests })
    }

    pub(super) async fn spawn(&self, command: Command, log: File) -> Result<Child, ServerError> {
        let (answer, spawned) = oneshot::channel();
        self.requests.send((command, log, answer)).await.map_err(|_| ServerError::Gone)?;
        Ok(spawned.await.map_err(|_| ServerError::Gone)??)
    }
}

pub(super) fn spawn(command: &Command, log: &File) -> Spawned {
    let start = || -> io::Result<Child> {
        let mut process = command.build();
        process.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log.try_clone()?));
        // A group of its own: Ctrl-C on the terminal ends the coordinator, which then ends the server last.
        process.process_group(0).spawn()
    };
    start().map_err(|error| command.start_error(error))
}

pub(super) fn child_pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
}

/// SIGTERM, then SIGKILL.
pub(super) async fn stop(child: &mut Child) {
    // A child that has been waited for has no pid any more, so no other process can be hit.
    if let Some(pid) = child_pid(child) {
        if let Err(error) = rustix::process::kill_process(pid, Signal::TERM) {
            tracing::debug!(%error, "the NATS server takes no SIGTERM");
        }
        if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_ok() {
            return;
        }
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, "the NATS server takes no SIGKILL");
    }
}

/// A program by its path, or by its name in PATH and the sbin directories.
pub(super) fn find_program(named: Option<&Path>) -> Result<PathBuf, ServerError> {
    let program = named.unwrap_or(Path::new(PROGRAM));
    let missing = || ServerError::Missing { program: program.display().to_string() };
    if program.components().count() > 1 {
        return if program.is_file() { Ok(program.to_owned()) } else { Err(missing()) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATHS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(missing)
}

/// Whether a server of this name, with JetStream, listens there: each connection begins with its `INFO`.
pub(super) async fn greets(address: SocketAddr, name: &str) -> bool {
    let greeting = async {
        let stream = TcpStream::connect((local_ip(address.ip()), address.port())).await?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_GREETING)).read_line(&mut line).await?;
        io::Result::Ok(line)
    };
    let Ok(Ok(line)) = tokio::time::timeout(Duration::from_secs(1), greeting).await else { return false };
    let info =
        line.strip_prefix("INFO ").and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
    info.is_some_and(|info| info["server_name"] == name && info["jetstream"] == true)
}
