//! [`Host`]: this machine's podman for one lab, where devices are made and swept.

use super::device::{ContainerDevice, Parts};
use super::error::{ContainerError, prepare};
use super::podman::Podman;
use super::root;
use crate::model::id::DeviceId;
use crate::support::lock::lock;
use rustix::process::{Pid, PidfdFlags, Signal};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::Instant;

/// Below the lab's directory: configuration, containers and logs of its podman.
pub const DIR: &str = "podman";
/// Its service's socket, below the directory for sockets.
const SOCKET: &str = "podman.sock";
/// What its service says.
const LOG: &str = "service.log";
/// There when a person wants the containers to stay.
const KEPT: &str = "kept";
/// How long podman's service may take to listen: a tenth of a second on a quiet host.
const SERVICE_PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked.
const SERVICE_POLL: Duration = Duration::from_millis(10);
/// How long it may take to end when it is killed.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How to use podman.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The lab's directory.
    pub dir: PathBuf,
    /// Its directory for sockets and for what must not outlive a boot of the host.
    pub run_dir: PathBuf,
    /// A read-only image store with the images that all devices have.
    pub images: PathBuf,
    /// The agent's executable.
    pub agent: PathBuf,
}

/// How to use and to remove a device that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// A shell command that enters the agent's container.
    pub enter: String,
    /// A shell command that removes all containers of the lab.
    pub remove: String,
}

/// A podman for one lab.
pub struct Host {
    podman: Podman,
    options: HostOptions,
    /// The host's directories that agents need.
    mounts: Vec<PathBuf>,
    service: Mutex<Option<Child>>,
    devices: Mutex<Vec<Arc<ContainerDevice>>>,
}

impl Host {
    /// Makes the store and starts its service.
    pub async fn start(options: HostOptions) -> Result<Self, ContainerError> {
        let dir = options.dir.join(DIR);
        let podman = Podman::create(&dir, &options.run_dir.join(DIR), &options.images)?;
        let mounts = root::make(&dir.join("root"), Path::new("/"))?;
        let service = start_service(&podman, &dir.join(LOG), &options.run_dir.join(SOCKET)).await?;
        let (service, devices) = (Mutex::new(Some(service)), Mutex::default());
        Ok(Self { podman, options, mounts, service, devices })
    }

    /// A device of this host; nothing of it exists before it is switched on.
    pub fn device(&self, id: DeviceId) -> Arc<ContainerDevice> {
        let device = Arc::new(ContainerDevice::new(Parts {
            dir: self.options.run_dir.join("devices").join(id.as_str()),
            root: self.options.dir.join(DIR).join("root"),
            mounts: self.mounts.clone(),
            socket: self.options.run_dir.join(SOCKET),
            agent: self.options.agent.clone(),
            podman: self.podman.clone(),
            id,
        }));
        lock(&self.devices).push(Arc::clone(&device));
        device
    }

    /// Leaves the lab's devices to a person: neither [`Self::close`] nor a sweep removes those that are on.
    pub fn keep(&self) -> Result<(), ContainerError> {
        let path = self.options.dir.join(DIR).join(KEPT);
        fs::write(&path, b"").map_err(prepare(path))
    }

    /// Removes every container, unless some are kept, and ends the service. Dropping the host removes no
    /// container, as a destructor cannot wait: what is left then is swept at the next start.
    pub async fn close(&self) -> Result<(), ContainerError> {
        let kept = self.options.dir.join(DIR).join(KEPT).exists();
        let removed = if kept { Ok(()) } else { self.podman.remove_all().await };
        let service = lock(&self.service).take();
        if let Some(mut service) = service
            && let Err(error) = service.kill().await
        {
            tracing::debug!(%error, "podman's service had ended by itself");
        }
        removed
    }
}

async fn start_service(podman: &Podman, log: &Path, socket: &Path) -> Result<Child, ContainerError> {
    let file = File::create(log).map_err(prepare(log))?;
    let again = file.try_clone().map_err(prepare(log))?;
    // It ends with the lab, not after a time without requests.
    let command = podman.command(["system", "service", "--time=0", &format!("unix://{}", socket.display())]);
    let child = command.build().stdout(Stdio::from(file)).stderr(Stdio::from(again)).spawn();
    let mut child = child.map_err(|source| ContainerError::Podman {
        doing: "start podman's service",
        source: command.start_error(source),
    })?;
    let deadline = Instant::now() + SERVICE_PATIENCE;
    while UnixStream::connect(socket).await.is_err() {
        let ended = child.try_wait().ok().flatten().is_some();
        if ended || Instant::now() >= deadline {
            let log = fs::read(log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim().to_owned();
            return Err(ContainerError::NoService {
                socket: socket.to_owned(),
                timeout: SERVICE_PATIENCE,
                log,
            });
        }
        tokio::time::sleep(SERVICE_POLL).await;
    }
    Ok(child)
}

/// Whether a person wants the containers of the lab in `dir` to stay, and some are there. Where that cannot
/// be known, they stay.
pub async fn is_kept(dir: &Path) -> bool {
    let dir = dir.join(DIR);
    if !dir.join(KEPT).exists() {
        return false;
    }
    Podman::at(&dir).names(&[]).await.map_or(true, |names| !names.is_empty())
}

/// Whether the lab in `dir` had containers for devices.
pub fn is_here(dir: &Path) -> bool {
    dir.join(DIR).exists()
}

/// Removes the containers of a lab whose process is gone, and ends its podman service. Its files are left to
/// the caller.
pub async fn sweep(dir: &Path, run_dir: &Path) -> Result<(), ContainerError> {
    let podman = Podman::at(&dir.join(DIR));
    if !podman.exists() {
        return Ok(());
    }
    // First what would make containers anew: the service, and with it the agents' way to podman.
    end_service(&run_dir.join(SOCKET)).await?;
    podman.remove_all().await
}

/// Kills whoever listens on the socket: the kernel knows who that is, so no other process can be hit.
async fn end_service(socket: &Path) -> Result<(), ContainerError> {
    let Ok(stream) = UnixStream::connect(socket).await else { return Ok(()) };
    let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else { return Ok(()) };
    let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
    let kill = || -> io::Result<()> {
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        rustix::process::pidfd_send_signal(&process, Signal::KILL)?;
        Ok(())
    };
    if let Err(source) = kill() {
        return Err(ContainerError::Orphan { pid, source });
    }
    drop(stream);
    let deadline = Instant::now() + KILL_PATIENCE;
    while UnixStream::connect(socket).await.is_ok() {
        if Instant::now() >= deadline {
            let source = io::Error::new(io::ErrorKind::TimedOut, "it still listens after SIGKILL");
            return Err(ContainerError::Orphan { pid, source });
        }
        tokio::time::sleep(SERVICE_POLL).await;
    }
    Ok(())
}
