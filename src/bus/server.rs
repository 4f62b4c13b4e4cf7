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

mod error;
mod home;
mod process;
mod reviver;

pub use self::error::ServerError;
use self::home::{CONFIG, Home, LOG, PID, PORT, config};
pub use self::reviver::Reviver;

use self::process::{Spawner, child_pid, find_program, greets, stop};
use self::reviver::backoff;
use super::issuer::Issuer;
use super::tls::client_config;
use crate::model::tls::ServedTls;
use crate::support::chain::Chain;
use crate::support::command::Command;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The program that is looked for when none is named.
pub const PROGRAM: &str = "nats-server";

/// How long a server may take to greet. Measured: some 50 ms; a large store on a slow disk takes longer.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How often a starting server is tried.
const READY_POLL: Duration = Duration::from_millis(5);
/// A server that ran so long has earned a quick restart again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// The program that a lab starts: in `PATH` or in the system's sbin directories, which are not in everybody's.
pub fn program() -> Result<PathBuf, ServerError> {
    find_program(None)
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
    /// How it speaks TLS, if it does.
    pub tls: Option<ServedTls>,
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
    scheme: &'static str,
    status: watch::Receiver<ServerStatus>,
    reviver: Reviver,
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
        if let Some(tls) = &options.tls {
            // Read here too, so that what is wrong is told by name.
            client_config(&tls.files)?;
        }
        let home = Home::lock(&options.dir)?;
        home.end_orphan().await?;
        let address = home.choose_address(options.listen, options.port)?;
        let spawner = Spawner::start(&home)?;
        let reviver = Reviver::new(&options.dir);
        let tls = options.tls;
        let scheme = if tls.is_some() { "tls" } else { "nats" };
        let mut keeper = Keeper { home, address, program, tls, issuer, spawner, reviver: reviver.clone() };
        let child = keeper.launch().await?;
        keeper.home.write(PORT, address.port().to_string().as_bytes())?;
        let running = ServerStatus { state: running(&child), deaths: 0 };
        let (status, watched) = watch::channel(running);
        tracker.spawn(async move { keeper.keep(child, &status, shutdown).await });
        Ok(Self { address, scheme, status: watched, reviver })
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
        self.url_at(local_ip(self.address.ip()))
    }

    /// Where it listens, for clients who know this host as `ip`.
    pub fn url_at(&self, ip: IpAddr) -> String {
        format!("{}://{}", self.scheme, SocketAddr::new(ip, self.address.port()))
    }

    /// Where this host reaches it.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(local_ip(self.address.ip()), self.address.port())
    }

    /// The port, the same over restarts.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Starts it anew when it hangs.
    pub fn reviver(&self) -> Reviver {
        self.reviver.clone()
    }

    /// How it stands, now and later.
    pub fn status(&self) -> watch::Receiver<ServerStatus> {
        self.status.clone()
    }
}

/// Owns the child.
#[derive(Debug)]
struct Keeper {
    home: Home,
    address: SocketAddr,
    program: PathBuf,
    tls: Option<ServedTls>,
    issuer: Arc<Issuer>,
    spawner: Spawner,
    reviver: Reviver,
}

impl Keeper {
    /// Writes the configuration, starts the server and waits until it greets.
    async fn launch(&mut self) -> Result<Child, ServerError> {
        let began = Instant::now();
        let trust = self.issuer.trust().await?;
        // Unlike the name of whoever else might hold the port by now.
        let name = format!("pilab-{}", &trust.lab_account);
        let text = config(&self.home.dir, self.address, &name, &trust, self.tls.as_ref());
        self.home.write(CONFIG, text.as_bytes())?;
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
                ended = self.reviver.ended(&mut child) => ended,
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
            let deaths = status.borrow().deaths.saturating_add(1);
            let restarted = loop {
                tracing::warn!(reason, "the NATS server is down");
                let state = ServerState::Down { reason: reason.clone() };
                status.send_replace(ServerStatus { state, deaths });
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

/// How this host itself reaches a server that listens on `ip`.
fn local_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn file(action: &'static str, path: &Path, source: io::Error) -> ServerError {
    ServerError::File { action, path: path.to_owned(), source }
}
