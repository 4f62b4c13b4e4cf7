//! [`Host`]: this machine's podman for one lab, where devices are made and swept.

use super::device::{ContainerDevice, Parts};
use super::error::{ContainerError, prepare};
use super::podman::Podman;
use super::service::Service;
use super::{root, service};
use crate::device::ports::Broken;
use crate::model::id::DeviceId;
use crate::support::lock::lock;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Below the lab's directory: configuration, containers and logs of its podman.
pub const DIR: &str = "podman";
/// Its service's socket, below the directory for sockets.
const SOCKET: &str = "podman.sock";
/// What its service says.
const LOG: &str = "service.log";
/// There when a person wants the containers to stay.
const KEPT: &str = "kept";

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
    service: Service,
    devices: Mutex<Vec<Arc<ContainerDevice>>>,
}

impl Host {
    /// Makes the store and starts its service.
    pub async fn start(options: HostOptions) -> Result<Self, ContainerError> {
        let dir = options.dir.join(DIR);
        let podman = Podman::create(&dir, &options.run_dir.join(DIR), &options.images)?;
        let mounts = root::make(&dir.join("root"), Path::new("/"))?;
        let (log, socket) = (dir.join(LOG), options.run_dir.join(SOCKET));
        let service = Service::start(podman.clone(), log, socket).await?;
        Ok(Self { podman, options, mounts, service, devices: Mutex::default() })
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

    /// Changes when what all devices stand on breaks, to what broke.
    pub fn broke(&self) -> watch::Receiver<Broken> {
        self.service.broke()
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
        self.service.end().await;
        removed
    }
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
    service::end_left_over(&run_dir.join(SOCKET)).await?;
    podman.remove_all().await
}
