//! What the devices of a lab stand on: libvirt, podman on this machine, or nothing but their wires. Only
//! what the chosen devices need is looked for, so containers run where there is no libvirt, and in a build
//! without it. Real devices are there whatever the others stand on.

use super::devices::Machine;
use super::image::{self, image_error};
use super::instance::{self, Instance};
use super::{failed, lab::vm_error};
use crate::cli::error::CliError;
use crate::cli::local::Progress;
use crate::config::lab::Lab;
use crate::container::{self, ContainerError};
use crate::coordinator::parts::BootImage;
use crate::device::ports::Broken;
use crate::image::{Store, hash_file};
use crate::model::device::{Arch, Backend};
use crate::model::id::DeviceId;
use crate::vm;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The images of containers, below the instance's directory.
const IMAGES: &str = "images";
/// Stands in the instance of a lab that has real devices only, so that a sweep need not ask libvirt.
const WIRED_ONLY: &str = "wired-only";

/// What devices stand on.
#[derive(Clone)]
pub(super) enum Ground {
    Vm(Arc<vm::Host>),
    Container {
        host: Arc<container::Host>,
        agent: PathBuf,
    },
    /// There are real devices only.
    Wired,
}

impl Ground {
    /// What its start is called.
    pub(super) fn title(backend: Backend) -> &'static str {
        match backend {
            Backend::Container => "containers",
            Backend::Vm => "virtual machines",
            Backend::Pi => "real devices",
            Backend::Sim => "simulated devices",
        }
    }

    /// Sweeps what killed labs have left, and makes ready.
    pub(super) async fn open(
        lab: &Lab,
        backend: Backend,
        instance: &Instance,
        stop: &CancellationToken,
    ) -> Result<Self, CliError> {
        match backend {
            Backend::Container => Self::containers(instance).await,
            // A libvirt that hangs holds nobody up.
            Backend::Vm => {
                let machines = stop.run_until_cancelled(Self::machines(lab, instance)).await;
                machines.unwrap_or(Err(CliError::Cancelled))
            }
            Backend::Pi | Backend::Sim => {
                sweep_without_machines().await?;
                let marked = File::create(instance.dir().join(WIRED_ONLY));
                marked.map_err(|e| failed("prepare a place for the lab", None, e))?;
                Ok(Self::Wired)
            }
        }
    }

    async fn machines(lab: &Lab, instance: &Instance) -> Result<Self, CliError> {
        let mut options = vm::HostOptions::new(instance.name(), instance.run_dir());
        options.network.clone_from(&lab.network);
        let host = vm::Host::connect(options).await.map_err(vm_error("use virtual machines"))?;
        let swept = host.sweep().await.map_err(vm_error("sweep virtual machines"))?;
        for name in swept {
            tracing::info!(domain = name, "a virtual machine that a killed lab left is removed");
        }
        let wanted: BTreeSet<Arch> = lab.devices.iter().map(|device| device.arch).collect();
        for arch in wanted {
            host.can_run(arch).await.map_err(vm_error("use virtual machines"))?;
        }
        let kept = host.owner_locks().await.map_err(vm_error("list virtual machines"))?;
        sweep(|lock| kept.iter().any(|kept| kept == lock)).await?;
        Ok(Self::Vm(Arc::new(host)))
    }

    async fn containers(instance: &Instance) -> Result<Self, CliError> {
        sweep_without_machines().await?;
        if instance.is_lasting() {
            // Containers have no state of their own, so those of a coordinator that was killed are made anew.
            let left = container::sweep(instance.dir(), &instance.run_dir()).await;
            left.map_err(container_error("remove the containers of the coordinator before this one"))?;
            let places =
                [instance.dir().join(container::DIR), instance.dir().join(IMAGES), instance.run_dir()];
            for place in places.iter().filter(|place| place.exists()) {
                let removed = std::fs::remove_dir_all(place);
                removed.map_err(|e| failed(format!("remove {}", place.display()), None, e))?;
            }
        }
        let arch = Arch::host().ok_or("agents are built for aarch64 and x86_64 only");
        let arch = arch.map_err(|e| failed("use containers", None, e))?;
        let agent = image::host_agent(arch)?;
        let images = crate::image::write_container_store(&instance.dir().join(IMAGES), arch);
        let options = container::HostOptions {
            dir: instance.dir().to_owned(),
            run_dir: instance.run_dir(),
            images: images.map_err(image_error("make the images of containers"))?,
            agent: agent.clone(),
        };
        let host = container::Host::start(options).await.map_err(container_error("use containers"))?;
        Ok(Self::Container { host: Arc::new(host), agent })
    }

    /// The address at which devices reach this machine.
    pub(super) fn address(&self) -> IpAddr {
        match self {
            Self::Vm(host) => host.gateway().into(),
            Self::Container { .. } | Self::Wired => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Where files of users lie that are to be booted: QEMU's user must read them there.
    pub(super) fn uploads(&self, instance: &Instance) -> PathBuf {
        match self {
            Self::Vm(_) => Store::from_environment().root().join("uploads").join(instance.name()),
            Self::Container { .. } | Self::Wired => instance.dir().join("uploads"),
        }
    }

    /// Changes when what all devices share breaks, to what broke. libvirt's end ends no machine.
    pub(super) fn broke(&self) -> watch::Receiver<Broken> {
        match self {
            Self::Vm(_) | Self::Wired => watch::channel(Broken::default()).1,
            Self::Container { host, .. } => host.broke(),
        }
    }

    /// What devices boot: what kind of thing it is, itself, and a word on it.
    pub(super) async fn boots(
        &self,
        lab: &Lab,
        progress: Progress,
        stop: CancellationToken,
    ) -> Result<(BootImage, String), CliError> {
        match self {
            Self::Vm(_) => {
                let arch = lab.devices.first().map_or(Arch::Aarch64, |device| device.arch);
                image::ready(lab, arch, progress, stop).await
            }
            Self::Container { agent, .. } => agent_image(agent).await,
            Self::Wired => Ok((nothing(), String::new())),
        }
    }

    /// What [`Self::boots`] is called.
    pub(super) fn boots_title(&self) -> &'static str {
        match self {
            Self::Vm(_) | Self::Wired => "image",
            Self::Container { .. } => "agent",
        }
    }

    /// Leaves a device to a person.
    pub(super) async fn keep(&self, machine: &Machine) -> Result<(), CliError> {
        match (self, machine) {
            (_, Machine::Vm(machine)) => {
                machine.keep().await.map_err(vm_error("keep a virtual machine")).map(|_| ())
            }
            (Self::Container { host, .. }, Machine::Container(_)) => {
                host.keep().map_err(container_error("keep a container"))
            }
            (_, Machine::Wired { .. }) | (Self::Vm(_) | Self::Wired, Machine::Container(_)) => Ok(()),
        }
    }

    /// Whether a machine of this instance may still be on.
    pub(super) async fn is_in_use(&self, instance: &Instance) -> bool {
        let Self::Vm(host) = self else { return false };
        let lock = instance.lock_path();
        host.owner_locks().await.map_or(true, |locks| locks.contains(&lock))
    }

    /// Removes what is left of the devices. What cannot be removed is swept at the next start.
    pub(super) async fn close(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Vm(host) => host.close().await?,
            Self::Container { host, .. } => host.close().await?,
            Self::Wired => {}
        }
        Ok(())
    }
}

/// Of labs with virtual machines only libvirt knows whether they are still in use.
async fn sweep_without_machines() -> Result<(), CliError> {
    let without = |dir: &Path| container::is_here(dir) || dir.join(WIRED_ONLY).exists();
    sweep(|lock| !lock.parent().is_some_and(without)).await
}

async fn sweep(in_use: impl Fn(&Path) -> bool) -> Result<(), CliError> {
    instance::sweep(in_use).await.map_err(|e| failed("prepare a place for the lab", None, e))
}

/// A fault of containers, in the command line's terms.
pub(super) fn container_error(doing: &'static str) -> impl Fn(ContainerError) -> CliError {
    move |error| {
        let hint = error.hint();
        failed(doing, hint, error)
    }
}

/// Real devices boot what they find by themselves, or what is theirs alone.
fn nothing() -> BootImage {
    BootImage {
        id: "none".to_owned(),
        manifest: "{}".to_owned(),
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        layers: Vec::new(),
        cmdline: Vec::new(),
        agent_sha256: String::new(),
    }
}

/// What devices run that boot from their own cards: the agent that is installed on them, which must be this one.
pub(super) async fn of_cards(lab: &Lab) -> Result<BTreeMap<DeviceId, Arc<BootImage>>, CliError> {
    let cards = lab.wired.iter().filter(|wired| wired.card.is_some());
    let cards: Vec<DeviceId> = cards.map(|wired| wired.device.id.clone()).collect();
    if cards.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (image, _) = agent_image(&image::find_agent(Arch::Aarch64)?).await?;
    let image = Arc::new(image);
    Ok(cards.into_iter().map(|card| (card, Arc::clone(&image))).collect())
}

/// A container boots nothing but the agent's executable. Its hash is what the agent must answer with.
async fn agent_image(agent: &Path) -> Result<(BootImage, String), CliError> {
    let read = agent.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash_file(&read)).await;
    let sha256 = hashed.map_err(|e| failed(format!("read {}", agent.display()), None, e))?;
    let sha256 = sha256.map_err(image_error("identify the agent"))?;
    let manifest = serde_json::json!({ "agent": agent, "agent_sha256": sha256 }).to_string();
    let image = BootImage {
        id: sha256.clone(),
        manifest,
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        layers: Vec::new(),
        cmdline: Vec::new(),
        agent_sha256: sha256,
    };
    Ok((image, agent.display().to_string()))
}
