//! The devices of an embedded lab: each with its machine, journal, console and actor, and the tasks that
//! they consist of.

use super::failed;
use super::instance::Instance;
use super::lab::vm_error;
use crate::cli::error::CliError;
use crate::config::lab::{Lab, VmDevice};
use crate::console::{self, ConsoleParts};
use crate::coordinator::parts::BootImage;
use crate::device::ports::TicketOffice;
use crate::device::{self, DeviceHandle, DeviceParts};
use crate::journal;
use crate::model::id::DeviceId;
use crate::netboot::{LayerSource, Office, OfficeOptions};
use crate::ssh::SshReach;
use crate::support::atomic_file;
use crate::vm::{self, Host, VmSpec};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
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
}

/// What devices are made of.
pub(super) struct Devices<'a> {
    pub(super) lab: &'a Lab,
    pub(super) instance: &'a Instance,
    pub(super) host: &'a Host,
    pub(super) layers: &'a Layers,
}

/// The devices of a lab, and the machines they are.
pub(super) type Made = BTreeMap<DeviceId, (DeviceHandle, Arc<vm::VmDevice>)>;

impl Devices<'_> {
    /// Makes them all; none is switched on.
    pub(super) async fn make(&self, gateway: IpAddr, image: &BootImage) -> Result<Made, CliError> {
        let listener = TcpListener::bind(SocketAddr::new(gateway, 0)).await;
        let listener = listener.map_err(|e| failed(format!("listen on {gateway}"), None, e))?;
        let address = listener.local_addr().map_err(|e| failed("listen for devices", None, e))?;
        let source = LayerSource::default();
        for layer in &image.layers {
            source.register(layer);
        }
        let options = OfficeOptions::new(format!("http://{address}"), source);
        let Layer { tracker, token } = &self.layers.devices;
        let office: Arc<dyn TicketOffice> = Office::start(listener, options, tracker, token.clone());
        let mut made = Made::new();
        for device in &self.lab.devices {
            let (id, one) = self.one(device, &office).await?;
            made.insert(id, one);
        }
        Ok(made)
    }

    async fn one(
        &self,
        wanted: &VmDevice,
        office: &Arc<dyn TicketOffice>,
    ) -> Result<(DeviceId, (DeviceHandle, Arc<vm::VmDevice>)), CliError> {
        let id = wanted.device.id.clone();
        let spec = VmSpec {
            id: id.clone(),
            arch: wanted.device.model.arch(),
            memory_mib: wanted.memory_mib,
            vcpus: wanted.vcpus,
            owner_lock: self.instance.lock_path(),
        };
        let machine = self.host.device(spec).await.map_err(vm_error("use a virtual machine"))?;
        let dir = self.instance.dir().join("journal").join(id.as_str());
        let opened = journal::open(&dir, journal::Options::default()).await;
        let (journal, task) = opened.map_err(|e| failed("open a device's journal", None, e))?;
        self.layers.journals.tracker.spawn(task.run(self.layers.journals.token.clone()));
        let Layer { tracker, token } = &self.layers.devices;
        let console =
            ConsoleParts { port: machine.clone(), journal: journal.clone(), reopen_after: REOPEN_AFTER };
        let console = console::spawn(console, tracker, token.clone());
        let parts = DeviceParts {
            device: wanted.device.clone(),
            mac: machine.mac().to_owned(),
            power: machine.clone(),
            boot: machine.clone(),
            reach: Arc::new(SshReach::new()),
            tickets: Arc::clone(office),
            console,
            journal,
            min_off: Duration::ZERO,
        };
        Ok((id, (device::spawn(parts, tracker, token.clone()), machine)))
    }
}

/// The machines of a lab's devices.
pub(super) type Machines = BTreeMap<DeviceId, Arc<vm::VmDevice>>;

/// How to enter and to remove a device; its SSH key is written to `dir` for that.
pub(super) fn keep_lines(
    dir: PathBuf,
    handles: Vec<DeviceHandle>,
    machines: Machines,
) -> impl Fn(&DeviceId, &str) -> Vec<String> {
    move |id, key| {
        let Some(machine) = machines.get(id) else { return Vec::new() };
        let keep = machine.keep_instructions();
        let handle = handles.iter().find(|handle| handle.id() == id);
        let address = handle.and_then(|handle| handle.state().borrow().address);
        let mut lines = vec![format!("{id}: console: {}", keep.enter)];
        if let Some(address) = address {
            let file = dir.join(format!("{id}.ssh-key"));
            match atomic_file::write(&file, key.as_bytes(), 0o600) {
                Ok(()) => lines.push(format!("{id}: shell:   ssh -i {} root@{address}", file.display())),
                Err(error) => tracing::warn!(%error, path = %file.display(), "the SSH key was not written"),
            }
        }
        lines.push(format!("{id}: remove:  {}", keep.remove));
        lines
    }
}
