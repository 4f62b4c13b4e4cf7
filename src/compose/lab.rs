//! The embedded lab: one run's NATS server, coordinator, ticket office and virtual machines, in this
//! process. The command line talks NATS to it as to any other lab.

use super::instance::{self, Instance};
use super::{failed, image};
use crate::bus::connect::{Bus, BusOptions};
use crate::bus::issuer::{COORDINATOR, Issuer};
use crate::bus::provision;
use crate::bus::server::{EmbeddedServer, ServerOptions};
use crate::cli::error::CliError;
use crate::cli::local::{LabOptions, LocalFuture, Preparation, Progress, RunningLab};
use crate::config::lab::{Lab, VmDevice};
use crate::console::{self, ConsoleParts};
use crate::coordinator::parts::{BootImage, KeyPair, Parts};
use crate::coordinator::service::Coordinator;
use crate::device::ports::TicketOffice;
use crate::device::{self, DeviceHandle, DeviceParts};
use crate::journal;
use crate::model::id::{DeviceId, LabName, UserName};
use crate::netboot::{LayerSource, Office, OfficeOptions};
use crate::ssh::{SshReach, generate_key};
use crate::support::atomic_file;
use crate::support::chain::Chain;
use crate::vm::{self, Host, HostOptions, VmSpec};
use crate::wire::subject;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The NATS server's files, below the instance's directory.
pub(super) const NATS_DIR: &str = "nats";
/// How long an embedded lab's own credentials are good: longer than any run.
const CREDENTIALS_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the server, which is ready, may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a console's line is opened again after an error.
const REOPEN_AFTER: Duration = Duration::from_millis(200);
/// How long each layer of the lab may take to end before it is left behind.
const GRACE: Duration = Duration::from_secs(10);

/// Tasks that end together, and only after those that need them.
#[derive(Default)]
struct Layer {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Layer {
    async fn end(&self, what: &str) {
        self.token.cancel();
        self.tracker.close();
        if tokio::time::timeout(GRACE, self.tracker.wait()).await.is_err() {
            tracing::warn!(what, "did not end in time");
        }
    }
}

/// From the first that may end to the last.
#[derive(Default)]
struct Layers {
    devices: Layer,
    journals: Layer,
    server: Layer,
}

/// Starts the lab of `options`; what was begun is undone when it fails or is stopped.
pub(super) async fn start(
    options: LabOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Box<dyn RunningLab>, CliError> {
    let lab = crate::config::lab::load(&options.lab, options.arch, options.image.as_deref())?;
    let mut clock = Clock { progress: progress.clone(), done: Vec::new(), began: Instant::now() };
    clock.begin("virtual machines");
    let host = connect(&lab).await?;
    let Place { instance, host } = host;
    let layers = Layers::default();
    let begun = begin(&lab, &instance, &host, &layers, &mut clock, progress, &stop);
    let begun = tokio::select! {
        begun = begun => begun,
        () = stop.cancelled() => Err(CliError::Cancelled),
    };
    match begun {
        Ok(begun) => {
            Ok(Box::new(EmbeddedLab { begun, name: lab.name, preparation: clock.done, instance, layers }))
        }
        Err(error) => {
            end(&layers, &host).await;
            remove(instance);
            Err(error)
        }
    }
}

/// An instance and the libvirt it uses, with leftovers of killed labs swept.
struct Place {
    instance: Instance,
    host: Arc<Host>,
}

async fn connect(lab: &Lab) -> Result<Place, CliError> {
    let io = |error| failed("prepare a place for the lab", None, error);
    let instance = Instance::create().map_err(io)?;
    let mut options = HostOptions::new(instance.name(), instance.run_dir());
    options.network.clone_from(&lab.network);
    let place = async {
        let host = Host::connect(options).await.map_err(vm_error("use virtual machines"))?;
        let swept = host.sweep().await.map_err(vm_error("sweep virtual machines"))?;
        for name in swept {
            tracing::info!(domain = name, "a virtual machine that a killed lab left is removed");
        }
        let kept = host.owner_locks().await.map_err(vm_error("list virtual machines"))?;
        instance::sweep(|lock| kept.iter().any(|kept| kept == lock)).await.map_err(io)?;
        Ok(host)
    };
    match place.await {
        Ok(host) => Ok(Place { instance, host: Arc::new(host) }),
        Err(error) => {
            remove(instance);
            Err(error)
        }
    }
}

fn vm_error(doing: &'static str) -> impl Fn(vm::VmError) -> CliError {
    move |error| {
        let hint = error.hint();
        failed(doing, hint, error)
    }
}

/// What `begin` has made.
struct Begun {
    url: String,
    user: UserName,
    creds: String,
    bus: Bus,
    coordinator: Coordinator,
    host: Arc<Host>,
    machines: Machines,
}

async fn begin(
    lab: &Lab,
    instance: &Instance,
    host: &Arc<Host>,
    layers: &Layers,
    clock: &mut Clock,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<Begun, CliError> {
    let gateway = IpAddr::V4(host.gateway());
    clock.end("");
    clock.begin("image");
    let (found, note) = image::ready(lab, progress, stop.clone()).await?;
    clock.end(note);
    clock.begin("NATS server and coordinator");
    let keys = instance.dir().join("keys");
    let issuer = Issuer::open(keys, &lab.name).map_err(|e| failed("make the lab's NATS keys", None, e))?;
    let issuer = Arc::new(issuer);
    let server =
        ServerOptions { dir: instance.dir().join(NATS_DIR), listen: gateway, port: None, program: None };
    let Layer { tracker, token } = &layers.server;
    let server = EmbeddedServer::start(server, Arc::clone(&issuer), tracker, token.clone()).await;
    let server = server.map_err(|e| {
        let hint = e.hint();
        failed("start the NATS server", hint, e)
    })?;
    let bus = coordinator_bus(&issuer, &server).await?;
    provision::buckets(&bus, &lab.name).await.map_err(|e| failed("make the NATS buckets", None, e))?;
    let devices = Devices { lab, instance, host, layers }.make(gateway, &found).await?;
    let handles: Vec<DeviceHandle> = devices.values().map(|(handle, _)| handle.clone()).collect();
    let machines: Machines = devices.into_iter().map(|(id, (_, machine))| (id, machine)).collect();
    let keep = keep_lines(instance.dir().to_owned(), handles.clone(), machines.clone());
    let parts = Parts {
        lab: lab.name.clone(),
        bus: bus.clone(),
        issuer: Arc::clone(&issuer),
        nats_url: server.url(),
        devices: handles,
        image: found,
        keys: |comment| {
            let pair = generate_key(comment)?;
            Ok(KeyPair { private: pair.private, public: pair.public })
        },
        bundles: instance.dir().join("bundles"),
        keep_lines: Box::new(keep),
    };
    let coordinator =
        Coordinator::start(parts).await.map_err(|e| failed("start the coordinator", None, e))?;
    let user = user_name();
    let creds = issuer.user(&user, CREDENTIALS_TTL).map_err(|e| failed("issue your credentials", None, e))?;
    clock.end("");
    Ok(Begun {
        url: server.url(),
        user,
        creds: creds.creds,
        bus,
        coordinator,
        host: Arc::clone(host),
        machines,
    })
}

async fn coordinator_bus(issuer: &Issuer, server: &EmbeddedServer) -> Result<Bus, CliError> {
    let creds = issuer.coordinator(CREDENTIALS_TTL);
    let creds = creds.map_err(|e| failed("issue the coordinator's credentials", None, e))?;
    let options = BusOptions {
        url: server.url(),
        creds: creds.creds,
        name: COORDINATOR.to_owned(),
        inbox_prefix: subject::inbox(COORDINATOR),
    };
    let bus = Bus::connect(options, Some(CONNECT_PATIENCE)).await;
    bus.map_err(|e| failed("connect to the NATS server", None, e))
}

/// What devices are made of.
struct Devices<'a> {
    lab: &'a Lab,
    instance: &'a Instance,
    host: &'a Host,
    layers: &'a Layers,
}

type Made = BTreeMap<DeviceId, (DeviceHandle, Arc<vm::VmDevice>)>;

impl Devices<'_> {
    async fn make(&self, gateway: IpAddr, image: &BootImage) -> Result<Made, CliError> {
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

type Machines = BTreeMap<DeviceId, Arc<vm::VmDevice>>;

/// How to enter and to remove a device; its SSH key is written to `dir` for that.
fn keep_lines(
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

/// Who the caller is to the lab: `USER`, where that is a name a subject may hold.
fn user_name() -> UserName {
    let user = std::env::var("USER").ok().and_then(|user| UserName::new(user).ok());
    user.or_else(|| UserName::new("local").ok()).unwrap_or_else(|| unreachable!("a constant that is a name"))
}

struct EmbeddedLab {
    begun: Begun,
    name: LabName,
    preparation: Vec<Preparation>,
    instance: Instance,
    layers: Layers,
}

impl RunningLab for EmbeddedLab {
    fn url(&self) -> &str {
        &self.begun.url
    }

    fn creds(&self) -> &str {
        &self.begun.creds
    }

    fn lab(&self) -> &LabName {
        &self.name
    }

    fn user(&self) -> &UserName {
        &self.begun.user
    }

    fn preparation(&self) -> &[Preparation] {
        &self.preparation
    }

    fn shutdown(self: Box<Self>) -> LocalFuture<'static, Result<(), CliError>> {
        Box::pin(async move {
            let Self { begun, instance, layers, .. } = *self;
            let kept = begun.coordinator.kept();
            for machine in kept.iter().filter_map(|id| begun.machines.get(id)) {
                machine.keep().await.map_err(vm_error("keep a virtual machine"))?;
            }
            begun.coordinator.shutdown().await;
            // The coordinator was the last to use the connection.
            let _ = begun.bus.close().await;
            end(&layers, &begun.host).await;
            if kept.is_empty() {
                remove(instance);
            }
            Ok(())
        })
    }
}

async fn end(layers: &Layers, host: &Host) {
    if let Err(error) = host.close().await {
        tracing::warn!(error = %Chain(&error), "a virtual machine is left behind; the next start removes it");
    }
    layers.devices.end("devices").await;
    layers.journals.end("journals").await;
    layers.server.end("NATS server").await;
}

fn remove(instance: Instance) {
    if let Err(error) = instance.remove() {
        tracing::warn!(%error, "the lab's files are left behind; the next start removes them");
    }
}

/// Tells and times what is being prepared.
struct Clock {
    progress: Progress,
    done: Vec<Preparation>,
    began: Instant,
}

impl Clock {
    fn begin(&mut self, what: &str) {
        self.progress.begin(what);
        self.began = Instant::now();
        self.done.push(Preparation { what: what.to_owned(), took: 0.0, note: String::new() });
    }

    fn end(&mut self, note: impl Into<String>) {
        if let Some(last) = self.done.last_mut() {
            last.took = self.began.elapsed().as_secs_f64();
            last.note = note.into();
        }
    }
}
