//! The embedded nats-server: configuration, child process, supervision.
//!
//! [`EmbeddedServer::start`] takes the directory (a lock file says whose it is), ends a server that a
//! killed owner left behind, writes the configuration and waits until the new server greets. From then on
//! one task owns the child: it starts it again on the same port when it dies, and ends it on shutdown.
//!
//! ```text
//!  start ──► Running ──died──► Down ──back-off──► Running
//!               │                │
//!               └──── shutdown ──┴──► Stopped
//! ```
//!
//! The child does not outlive its owner: on shutdown it gets SIGTERM, then SIGKILL. When the owner is
//! killed, the kernel sends the child SIGTERM (where util-linux' `setpriv` is installed); failing that, the next
//! start in the same directory finds it by its pid file.

use super::issuer::{Issuer, IssuerError, Trust};
use crate::support::atomic_file;
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::command::{Command, CommandError};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The program that is looked for when none is named.
pub const PROGRAM: &str = "nats-server";

/// Where a program may be that PATH does not show to ordinary users: Debian's nats-server is in
/// `/usr/sbin`.
const SYSTEM_PATHS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How long a server may take to greet. Measured: some 50 ms; a large store on a slow disk takes longer.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How often a starting server is tried.
const READY_POLL: Duration = Duration::from_millis(5);
/// How long a server may take to end after SIGTERM. Measured: some 20 ms.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The first pause before a restart, doubled with each death in a row.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
/// The longest.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A server that ran so long has earned a quick restart again.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// The most memory for JetStream's memory streams, in bytes; all buckets are files.
const MAX_MEMORY_STORE: u64 = 16 * 1024 * 1024;
/// How much of the log an error quotes, in bytes.
const LOG_TAIL: usize = 1500;
/// The log is moved aside at a start when it is larger, in bytes.
const MAX_LOG: u64 = 4 * 1024 * 1024;
/// The most bytes of a server's greeting that are read: nats-server's own limit of a control line is 4096.
const MAX_GREETING: u64 = 4096;

/// The embedded server failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no such program.
    #[error("{program} is not installed")]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// The directory's server belongs to a living process.
    #[error("another process runs the NATS server in {}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// The port that was asked for is not free.
    #[error("port {port} of {ip} is taken")]
    PortTaken {
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
    },
    /// No port can be had on the address.
    #[error("cannot listen on {ip}")]
    Listen {
        /// The address.
        ip: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// A file of the server cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The keys that the server is to trust cannot be had.
    #[error("cannot configure the NATS server")]
    Trust(#[from] IssuerError),
    /// The child process could not be started.
    #[error("cannot start the NATS server")]
    Spawn(#[from] CommandError),
    /// The thread that starts child processes is gone.
    #[error("the NATS server's owner is shutting down")]
    Gone,
    /// The server ended before it was ready.
    #[error("the NATS server ended at its start with {status}; its log ends:\n{log}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// The server was not ready in time.
    #[error("the NATS server was not ready within {} s; its log ends:\n{log}", within.as_secs())]
    NotReady {
        /// The bound.
        within: Duration,
        /// The end of its log.
        log: String,
    },
    /// A server that a killed owner left cannot be ended.
    #[error("cannot end the NATS server with pid {pid} that an earlier run left")]
    Orphan {
        /// Its pid.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

impl ServerError {
    /// What to try, for people.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { program } => Some(format!(
                "install the package nats-server (Debian, Ubuntu, Arch), or name the program: {program} was \
                 looked for in PATH and the system's sbin directories"
            )),
            Self::PortTaken { port, .. } => {
                Some(format!("see who has it with `ss -ltnp 'sport = :{port}'`, or choose another port"))
            }
            _ => None,
        }
    }
}

/// How to run the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Where its configuration, log, port, pid and data lie; made with mode 0700.
    pub dir: PathBuf,
    /// The address to listen on: of this host, or unspecified for all.
    pub listen: IpAddr,
    /// The port; without it the one of the last start in `dir` if it is free, else a free one.
    pub port: Option<u16>,
    /// The program; without it [`PROGRAM`], looked for in PATH and the sbin directories.
    pub program: Option<PathBuf>,
}

/// How the server stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerState {
    /// It greets.
    Running {
        /// Its process.
        pid: u32,
    },
    /// It died and is about to be started again.
    Down {
        /// How it ended, or why it did not start.
        reason: String,
    },
    /// It was told to stop, and has.
    Stopped,
}

/// What [`EmbeddedServer::status`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Now.
    pub state: ServerState,
    /// How many times it died.
    pub deaths: u32,
}

/// A running server. It ends with the token given at its start, not with this handle.
#[derive(Debug, Clone)]
pub struct EmbeddedServer {
    address: SocketAddr,
    status: watch::Receiver<ServerStatus>,
}

impl EmbeddedServer {
    /// Starts the server and waits until it is ready. Cancel `shutdown` last, when nothing needs NATS any
    /// more; `tracker` then waits until the child has ended.
    pub async fn start(
        options: ServerOptions,
        issuer: Arc<Issuer>,
        tracker: &TaskTracker,
        shutdown: CancellationToken,
    ) -> Result<Self, ServerError> {
        let program = find_program(options.program.as_deref())?;
        let home = Home::lock(&options.dir)?;
        home.end_orphan().await?;
        let address = home.choose_address(options.listen, options.port)?;
        let spawner = Spawner::start(&home)?;
        let mut keeper = Keeper { home, address, program, issuer, spawner };
        let child = keeper.launch().await?;
        keeper.home.write(PORT, address.port().to_string().as_bytes())?;
        let running = ServerStatus { state: running(&child), deaths: 0 };
        let (status, watched) = watch::channel(running);
        tracker.spawn(async move { keeper.keep(child, &status, shutdown).await });
        Ok(Self { address, status: watched })
    }

    /// Ends the server that a killed owner left in `dir`. Answers its pid if there was one; a server whose
    /// owner lives is left alone.
    pub async fn sweep(dir: &Path) -> Result<Option<i32>, ServerError> {
        if !dir.join(PID).exists() {
            return Ok(None);
        }
        match Home::lock(dir) {
            Ok(home) => home.end_orphan().await,
            Err(ServerError::InUse { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where it listens, for clients on this host.
    pub fn url(&self) -> String {
        let ip = self.address.ip();
        let local = match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            _ => ip,
        };
        self.url_at(local)
    }

    /// Where it listens, for clients who know this host as `ip`.
    pub fn url_at(&self, ip: IpAddr) -> String {
        format!("nats://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// The port, the same over restarts.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How it stands, now and later.
    pub fn status(&self) -> watch::Receiver<ServerStatus> {
        self.status.clone()
    }
}

const LOCK: &str = "lock";
const CONFIG: &str = "nats-server.conf";
const LOG: &str = "nats-server.log";
const PID: &str = "nats-server.pid";
const PORT: &str = "port";

/// The server's directory. The lock goes with this value, and with the process.
#[derive(Debug)]
struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    fn lock(dir: &Path) -> Result<Self, ServerError> {
        let dir = std::path::absolute(dir).map_err(|error| file("resolve", dir, error))?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| file("create", &dir, error))?;
        let path = dir.join(LOCK);
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|error| file("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(ServerError::InUse { dir }),
            Err(TryLockError::Error(error)) => Err(file("lock", &path, error)),
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), ServerError> {
        let path = self.dir.join(name);
        atomic_file::write(&path, content, 0o600).map_err(|error| file("write", &path, error))
    }

    /// The port asked for, else the last one, else a free one; each tried by listening on it for a moment.
    fn choose_address(&self, ip: IpAddr, port: Option<u16>) -> Result<SocketAddr, ServerError> {
        let listen = |port| TcpListener::bind((ip, port)).and_then(|listener| listener.local_addr());
        if let Some(port) = port {
            return listen(port).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => ServerError::PortTaken { ip, port },
                _ => ServerError::Listen { ip, source },
            });
        }
        let last = fs::read_to_string(self.dir.join(PORT)).ok().and_then(|text| text.trim().parse().ok());
        if let Some(address) = last.filter(|port| *port != 0).and_then(|port| listen(port).ok()) {
            return Ok(address);
        }
        listen(0).map_err(|source| ServerError::Listen { ip, source })
    }

    fn record_child(&self, pid: Pid) -> Result<(), ServerError> {
        let Some(mark) = ProcessMark::of(pid) else {
            return Ok(()); // It has ended already; whoever waits for it will say so.
        };
        self.write(PID, mark.to_string().as_bytes())
    }

    fn forget_child(&self) {
        if let Err(error) = fs::remove_file(self.dir.join(PID)) {
            tracing::debug!(%error, "no pid file to remove");
        }
    }

    /// Ends the process that the pid file names, if it is still the one that was started.
    async fn end_orphan(&self) -> Result<Option<i32>, ServerError> {
        let Ok(text) = fs::read_to_string(self.dir.join(PID)) else { return Ok(None) };
        let Some(mark) = ProcessMark::parse(&text) else {
            self.forget_child();
            return Ok(None);
        };
        let ended = mark
            .end()
            .await
            .map_err(|source| ServerError::Orphan { pid: mark.pid.as_raw_nonzero().get(), source })?;
        self.forget_child();
        Ok(ended.then_some(mark.pid.as_raw_nonzero().get()))
    }

    /// The log for a new child, with a large old one moved aside.
    fn open_log(&self) -> io::Result<File> {
        let path = self.dir.join(LOG);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MAX_LOG) {
            fs::rename(&path, path.with_extension("log.old"))?;
        }
        fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
    }

    fn log_tail(&self) -> String {
        let content = fs::read(self.dir.join(LOG)).unwrap_or_default();
        let from = content.len().saturating_sub(LOG_TAIL);
        String::from_utf8_lossy(content.get(from..).unwrap_or_default()).trim().to_owned()
    }
}

/// A process, told from a later one with the same pid by its start time and the host's boot.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ProcessMark {
    pid: Pid,
    /// Clock ticks after the host's boot (field 22 of /proc/pid/stat, proc(5)).
    started: u64,
    boot: String,
}

impl ProcessMark {
    fn of(pid: Pid) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        // The second field, the program's name in parentheses, may hold blanks and parentheses itself.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        let state = fields.next()?;
        // A zombie has ended; field 22 is the 19th after the state.
        let started = fields.nth(18)?.parse().ok()?;
        (state != "Z").then(|| Self { pid, started, boot: clock::boot_id() })
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let pid = Pid::from_raw(words.next()?.parse().ok()?)?;
        Some(Self { pid, started: words.next()?.parse().ok()?, boot: words.next()?.to_owned() })
    }

    fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// SIGTERM, then SIGKILL. Answers whether it lived.
    async fn end(&self) -> io::Result<bool> {
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

type Spawned = Result<Child, CommandError>;

/// Starts child processes from a thread of its own. The signal that `setpriv --pdeathsig` asks for comes
/// when the *thread* that started the child ends, and a runtime's threads may end before the process does.
#[derive(Debug)]
struct Spawner {
    requests: mpsc::Sender<(Command, File, oneshot::Sender<Spawned>)>,
}

impl Spawner {
    fn start(home: &Home) -> Result<Self, ServerError> {
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

    async fn spawn(&self, command: Command, log: File) -> Result<Child, ServerError> {
        let (answer, spawned) = oneshot::channel();
        self.requests.send((command, log, answer)).await.map_err(|_| ServerError::Gone)?;
        Ok(spawned.await.map_err(|_| ServerError::Gone)??)
    }
}

fn spawn(command: &Command, log: &File) -> Spawned {
    let start = || -> io::Result<Child> {
        let mut process = command.build();
        process.stdout(Stdio::from(log.try_clone()?)).stderr(Stdio::from(log.try_clone()?));
        // A group of its own: Ctrl-C on the terminal ends the coordinator, which then ends the server last.
        process.process_group(0).spawn()
    };
    start().map_err(|error| command.start_error(error))
}

/// Owns the child.
#[derive(Debug)]
struct Keeper {
    home: Home,
    address: SocketAddr,
    program: PathBuf,
    issuer: Arc<Issuer>,
    spawner: Spawner,
}

impl Keeper {
    /// Writes the configuration, starts the server and waits until it greets.
    async fn launch(&mut self) -> Result<Child, ServerError> {
        let began = Instant::now();
        let trust = self.issuer.trust().await?;
        // Unlike the name of whoever else might hold the port by now.
        let name = format!("pilab-{}", &trust.account);
        self.home.write(CONFIG, config(&self.home.dir, self.address, &name, &trust).as_bytes())?;
        let log = self.home.open_log().map_err(|error| file("open", &self.home.dir.join(LOG), error))?;
        let mut child = self.spawner.spawn(self.command(), log).await?;
        if let Some(pid) = child_pid(&child) {
            self.home.record_child(pid)?;
        }
        match self.wait_ready(&mut child, &name).await {
            Ok(()) => {
                let ms = began.elapsed().as_millis();
                tracing::debug!(pid = child.id(), address = %self.address, ms, "the NATS server is ready");
                Ok(child)
            }
            Err(error) => {
                stop(&mut child).await;
                self.home.forget_child();
                Err(error)
            }
        }
    }

    fn command(&self) -> Command {
        let server = [self.program.clone().into_os_string(), "-c".into(), self.home.dir.join(CONFIG).into()];
        match find_program(Some(Path::new("setpriv"))) {
            Ok(setpriv) => {
                Command::new(setpriv.to_string_lossy()).args(["--pdeathsig", "TERM", "--"]).args(server)
            }
            Err(_) => {
                let [program, rest @ ..] = server;
                Command::new(program.to_string_lossy()).args(rest)
            }
        }
    }

    async fn wait_ready(&self, child: &mut Child, name: &str) -> Result<(), ServerError> {
        let greeted = async {
            while !greets(self.address, name).await {
                tokio::time::sleep(READY_POLL).await;
            }
        };
        tokio::select! {
            ended = child.wait() => {
                let status = ended.map_err(|error| file("wait for", &self.program, error))?;
                Err(ServerError::Ended { status, log: self.home.log_tail() })
            }
            ready = tokio::time::timeout(READY_WITHIN, greeted) => {
                ready.map_err(|_| ServerError::NotReady { within: READY_WITHIN, log: self.home.log_tail() })
            }
        }
    }

    /// Starts the server again whenever it dies, until told to stop.
    async fn keep(
        mut self,
        mut child: Child,
        status: &watch::Sender<ServerStatus>,
        shutdown: CancellationToken,
    ) {
        let mut failures = 0;
        let mut since = Instant::now();
        loop {
            let ended = tokio::select! {
                ended = child.wait() => ended,
                () = shutdown.cancelled() => {
                    stop(&mut child).await;
                    break;
                }
            };
            if since.elapsed() > STABLE_AFTER {
                failures = 0;
            }
            let mut reason = match ended {
                Ok(exit) => format!("it ended with {exit}"),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            status.send_modify(|status| status.deaths += 1);
            let restarted = loop {
                tracing::warn!(reason, "the NATS server is down");
                status.send_modify(|status| status.state = ServerState::Down { reason: reason.clone() });
                let pause = backoff(failures);
                failures += 1;
                let relaunched = async {
                    tokio::time::sleep(pause).await;
                    self.launch().await
                };
                tokio::select! {
                    launched = relaunched => match launched {
                        Ok(child) => break Some(child),
                        Err(error) => reason = Chain(&error).to_string(),
                    },
                    // A child that was being started is dropped here, and so killed.
                    () = shutdown.cancelled() => break None,
                }
            };
            let Some(restarted) = restarted else { break };
            child = restarted;
            since = Instant::now();
            status.send_modify(|status| status.state = running(&child));
        }
        self.home.forget_child();
        status.send_modify(|status| status.state = ServerState::Stopped);
    }
}

fn running(child: &Child) -> ServerState {
    ServerState::Running { pid: child.id().unwrap_or_default() }
}

fn child_pid(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
}

/// SIGTERM, then SIGKILL.
async fn stop(child: &mut Child) {
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

fn backoff(failures: u32) -> Duration {
    MIN_BACKOFF.saturating_mul(1_u32 << failures.min(10)).min(MAX_BACKOFF)
}

/// Whether a server of this name, with JetStream, listens there: each connection begins with its `INFO`.
async fn greets(address: SocketAddr, name: &str) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let greeting = async {
        let stream = TcpStream::connect((ip, address.port())).await?;
        let mut line = String::new();
        BufReader::new(stream.take(MAX_GREETING)).read_line(&mut line).await?;
        io::Result::Ok(line)
    };
    let Ok(Ok(line)) = tokio::time::timeout(Duration::from_secs(1), greeting).await else { return false };
    let info =
        line.strip_prefix("INFO ").and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok());
    info.is_some_and(|info| info["server_name"] == name && info["jetstream"] == true)
}

/// The configuration. It holds public keys and signed claims, no secret.
fn config(dir: &Path, address: SocketAddr, name: &str, trust: &Trust) -> String {
    let path = |name: &str| serde_json::Value::from(dir.join(name).to_string_lossy()).to_string();
    let Trust { operator_jwt, system_account, system_jwt, account, account_jwt } = trust;
    format!(
        "# Written at each start; changes are lost.\n\
         listen: \"{address}\"\n\
         server_name: {name}\n\
         operator: {operator_jwt}\n\
         system_account: {system_account}\n\
         resolver: {{ type: full, dir: {resolver}, allow_delete: false }}\n\
         resolver_preload: {{\n  {system_account}: {system_jwt}\n  {account}: {account_jwt}\n}}\n\
         jetstream: {{ store_dir: {store}, max_memory_store: {MAX_MEMORY_STORE} }}\n",
        resolver = path("accounts"),
        store = path("store"),
    )
}

/// A program by its path, or by its name in PATH and the sbin directories.
fn find_program(named: Option<&Path>) -> Result<PathBuf, ServerError> {
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

fn file(action: &'static str, path: &Path, source: io::Error) -> ServerError {
    ServerError::File { action, path: path.to_owned(), source }
}
