//! The devices of a lab: each with its machine, journal, console and actor, and the tasks that
//! they consist of.

use super::failed;
use super::ground::Ground;
use super::instance::{self, Instance};
use super::lab::vm_error;
use super::netboot::Netboot;
use super::simulated::Simulated;
use crate::cli::error::CliError;
use crate::config::lab::{Lab, VmDevice};
use crate::console::port::ByteStream;
use crate::console::{self, ConsoleParts};
use crate::container::{self, ContainerDevice};
use crate::coordinator::parts::BootImage;
use crate::device::ports::{Boot, Power, Reach, TicketOffice};
use crate::device::{self, DeviceHandle, DeviceParts, Stagger};
use crate::journal::{self, JournalError};
use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::netboot::{LayerSource, Office, OfficeOptions};
use crate::plan;
use crate::ssh::SshReach;
use crate::support::lock::lock;
use crate::support::term::Term;
use crate::vm::{self, Host, Saves, VmSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause before a console's line is opened again after an error.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// How long each layer of the lab may take to end before it is left behind.
const GRACE: Duration = Duration::from_secs(10);

/// Tasks that end together, and only after those that need them.
#[derive(Default)]
pub(super) struct Layer {
    pub(super) tracker: TaskTracker,
    pub(super) token: CancellationToken,
}

impl Layer {
    /// Tasks that end with these, or by themselves before.
    pub(super) fn child(&self) -> Self {
        let (tracker, token) = (TaskTracker::new(), self.token.child_token());
        let (all, ended) = (tracker.clone(), token.clone());
        self.tracker.spawn(async move {
            ended.cancelled().await;
            all.close();
            all.wait().await;
        });
        Self { tracker, token }
    }

    /// Ends them, within a bound.
    pub(super) async fn end(&self, what: &str) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(GRACE, self.tracker.wait()).await.is_err() {
            tracing::warn!(what, "did not end in time");
        }
    }
}

/// From the first that may end to the last.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) devices: Layer,
    pub(super) journals: Layer,
    pub(super) server: Layer,
    /// What belongs to one device. No await happens under this lock.
    pub(super) own: Mutex<BTreeMap<DeviceId, Own>>,
}

/// The tasks of one device.
pub(super) struct Own {
    pub(super) device: Layer,
    pub(super) journal: Layer,
}

/// What devices are made of.
pub(super) struct Devices<'a> {
    pub(super) lab: &'a Lab,
    pub(super) instance: &'a Instance,
    pub(super) ground: &'a Ground,
    pub(super) layers: &'a Layers,
    /// What boots its real devices, where the lab does.
    pub(super) netboot: Option<&'a Netboot>,
    /// What those of its devices are that are simulated.
    pub(super) simulated: Option<&'a Simulated>,
    /// Whether they may be acted on.
    pub(super) term: Term,
}

/// The machine that a device is.
#[derive(Clone)]
pub(super) enum Machine {
    Vm(Arc<vm::VmDevice>),
    Container(Arc<ContainerDevice>),
    /// A real device, which is nobody's to make or to remove.
    Wired {
        /// Where its console is.
        console: Option<String>,
    },
}

/// The machines of a lab's devices.
pub(super) type Machines = BTreeMap<DeviceId, Machine>;
/// The devices of a lab, and the machines they are.
pub(super) type Made = BTreeMap<DeviceId, (DeviceHandle, Machine)>;

/// A device's ports, and how it may be switched on.
pub(super) struct Ports {
    pub(super) mac: String,
    pub(super) power: Arc<dyn Power>,
    pub(super) boot: Arc<dyn Boot>,
    pub(super) reach: Arc<dyn Reach>,
    pub(super) tickets: Arc<dyn TicketOffice>,
    pub(super) console: Arc<dyn ByteStream>,
    pub(super) min_off: Duration,
    pub(super) stagger: Arc<Stagger>,
}

/// What the host has, by /proc/meminfo (proc(5)): `MemTotal: 1234 kB`.
fn host_memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

impl Devices<'_> {
    /// Makes them all; none is switched on.
    pub(super) async fn make(&self, images: &[&BootImage]) -> Result<Made, CliError> {
        let mut made = match self.ground {
            Ground::Vm(host) => self.machines(host, images).await?,
            Ground::Container { host, .. } => self.containers(host).await?,
            Ground::Wired => Made::new(),
        };
        made.extend(self.wired().await?);
        Ok(made)
    }

    async fn machines(&self, host: &Host, images: &[&BootImage]) -> Result<Made, CliError> {
        let gateway = IpAddr::V4(host.gateway());
        let listener = TcpListener::bind(SocketAddr::new(gateway, 0)).await;
        let listener = listener.map_err(|e| failed(format!("listen on {gateway}"), None, e))?;
        let address = listener.local_addr().map_err(|e| failed("listen for devices", None, e))?;
        let source = LayerSource::default();
        for layer in images.iter().flat_map(|image| &image.layers) {
            source.register(layer);
        }
        let options = OfficeOptions::new(format!("http://{address}"), source);
        let Layer { tracker, token } = &self.layers.devices;
        let office: Arc<dyn TicketOffice> = Office::start(listener, options, tracker, token.clone());
        let mut made = Made::new();
        let warm = self.warm();
        let saves = self.saves(&warm)?;
        for wanted in &self.lab.devices {
            let saves = warm.contains(&wanted.device.id).then(|| saves.clone());
            let machine = self.machine(host, wanted, saves).await?;
            let ports = Ports {
                mac: machine.mac().to_owned(),
                power: machine.clone(),
                boot: machine.clone(),
                reach: Arc::new(SshReach::new()),
                tickets: Arc::clone(&office),
                console: machine.clone(),
                min_off: Duration::ZERO,
                stagger: Arc::default(),
            };
            let handle = self.spawn(&wanted.device, ports, self.journal_dir(&wanted.device)).await?;
            made.insert(wanted.device.id.clone(), (handle, Machine::Vm(machine)));
        }
        for name in host.remove_unnamed().await.map_err(vm_error("remove virtual machines"))? {
            tracing::warn!(domain = name, "removed: it is of a device that the lab file names no more");
        }
        Ok(made)
    }

    /// The machines that start from saved memory: those that are wanted so, as far as their memory goes.
    fn warm(&self) -> BTreeSet<DeviceId> {
        let wanted: Vec<&VmDevice> = self.lab.devices.iter().filter(|machine| machine.warm).collect();
        let memory: Vec<u32> = wanted.iter().map(|machine| machine.memory_mib).collect();
        // A host that does not tell its memory is trusted to have enough.
        let most = self.lab.warm_memory_mib.or_else(|| Some(host_memory_mib()? / 2)).unwrap_or(u64::MAX);
        let decided = wanted.into_iter().zip(plan::warm::within(most, &memory));
        let allowed = decided.filter_map(|(machine, allowed)| {
            let id = machine.device.id.clone();
            match allowed {
                Ok(()) => Some(id),
                Err(cause) => {
                    tracing::warn!(device = %id, cause, "it boots, and does not start from saved memory");
                    None
                }
            }
        });
        allowed.collect()
    }

    /// Where memory is saved, for these machines.
    fn saves(&self, warm: &BTreeSet<DeviceId>) -> Result<Saves, CliError> {
        let root = instance::saves_root().map_err(|e| failed("find the place for saved memory", None, e))?;
        let warm = self.lab.devices.iter().filter(|machine| warm.contains(&machine.device.id));
        let memory: Vec<u32> = warm.map(|machine| machine.memory_mib).collect();
        let most_mib = self.lab.warm_disk_mib.unwrap_or_else(|| plan::warm::most_disk_mib(&memory));
        Ok(Saves { root, most_mib })
    }

    async fn machine(
        &self,
        host: &Host,
        wanted: &VmDevice,
        saves: Option<Saves>,
    ) -> Result<Arc<vm::VmDevice>, CliError> {
        let spec = VmSpec {
            id: wanted.device.id.clone(),
            arch: wanted.arch,
            memory_mib: wanted.memory_mib,
            vcpus: wanted.vcpus,
            data_disk_mib: wanted.data_disk_mib,
            owner_lock: self.instance.lock_path(),
            lasting: self.instance.is_lasting(),
            saves,
        };
        host.device(spec).await.map_err(vm_error("use a virtual machine"))
    }

    async fn containers(&self, host: &container::Host) -> Result<Made, CliError> {
        let mut made = Made::new();
        for wanted in &self.lab.containers {
            let machine = host.device(wanted.id.clone());
            let ports = Ports {
                // It shares the host's network, and nothing asks for an address of its own.
                mac: String::new(),
                power: machine.clone(),
                boot: machine.clone(),
                reach: machine.clone(),
                tickets: machine.clone(),
                console: machine.clone(),
                min_off: Duration::ZERO,
                stagger: Arc::default(),
            };
            let handle = self.spawn(wanted, ports, self.journal_dir(wanted)).await?;
            made.insert(wanted.id.clone(), (handle, Machine::Container(machine)));
        }
        Ok(made)
    }

    /// Where the journal of a device lies that is gone with this lab.
    fn journal_dir(&self, device: &Device) -> PathBuf {
        self.instance.dir().join("journal").join(device.id.as_str())
    }

    /// Starts a device's tasks; its journal lies in `dir`.
    pub(super) async fn spawn(
        &self,
        device: &Device,
        ports: Ports,
        dir: PathBuf,
    ) -> Result<DeviceHandle, CliError> {
        let opened = journal::open(&dir, journal::Options::default()).await;
        let (journal, task) = opened.map_err(|error| {
            let others = matches!(error, JournalError::InUse { .. });
            let hint = others
                .then(|| format!("{} is in use: wait for the run that has it, or stop that", device.id));
            failed("open a device's journal", hint, error)
        })?;
        let own = Own { device: self.layers.devices.child(), journal: self.layers.journals.child() };
        own.journal.tracker.spawn(task.run(own.journal.token.clone()));
        let Layer { tracker, token } = &own.device;
        let Ports { mac, power, boot, reach, tickets, console: port, min_off, stagger } = ports;
        let term = self.term.clone();
        let console = ConsoleParts { port, journal: journal.clone(), reopen_after: REOPEN_AFTER, term };
        let console = console::spawn(console, tracker, token.clone());
        let (device, term) = (device.clone(), self.term.clone());
        let way_in = self.instance.dir().join("ways-in").join(format!("{}.json", device.id));
        let parts = DeviceParts {
            device,
            mac,
            power,
            boot,
            reach,
            tickets,
            console,
            journal,
            min_off,
            stagger,
            term,
            way_in: Some(way_in),
        };
        let handle = device::spawn(parts, tracker, token.clone());
        lock(&self.layers.own).insert(handle.id().clone(), own);
        Ok(handle)
    }
}
