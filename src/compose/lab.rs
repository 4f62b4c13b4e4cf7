//! The embedded lab: one run's NATS server, coordinator and devices, in this process. The command line talks NATS to it as to any other lab.

use super::devices::{Devices, Layer, Layers, Machines, keep_lines};
use super::failed;
use super::ground::Ground;
use super::instance::Instance;
use crate::bus::connect::{Bus, BusOptions};
use crate::bus::gate::Gate;
use crate::bus::issuer::{COORDINATOR, Issuer};
use crate::bus::provision;
use crate::bus::server::{EmbeddedServer, ServerOptions};
use crate::cli::error::CliError;
use crate::cli::local::{LabOptions, LocalFuture, Preparation, Progress, RunningLab};
use crate::config::lab::Lab;
use crate::coordinator::parts::{KeyPair, LabDevice, Parts};
use crate::coordinator::service::Coordinator;
use crate::device::DeviceHandle;
use crate::model::device::Backend;
use crate::model::id::{LabName, UserName};
use crate::ssh::generate_key;
use crate::support::chain::Chain;
use crate::vm;
use crate::wire::subject;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The NATS server's files, below the instance's directory.
pub(super) const NATS_DIR: &str = "nats";
/// How long an embedded lab's own credentials are good: longer than any run.
const CREDENTIALS_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the server, which is ready, may take to accept a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Starts the lab of `options`; what was begun is undone when it fails or is stopped.
pub(super) async fn start(
    options: LabOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Box<dyn RunningLab>, CliError> {
    let mut lab = crate::config::lab::load(&options.lab, options.arch, options.image.as_deref())?;
    if options.on.is_some_and(|backend| backend != Backend::Pi) {
        lab.wired.clear();
    }
    let backend = lab.backend(options.on);
    let backend = backend.ok_or_else(|| failed("start the lab", None, "it has no such devices"))?;
    let mut clock = Clock { progress: progress.clone(), done: Vec::new(), began: Instant::now() };
    clock.begin(Ground::title(backend));
    let instance = Instance::create().map_err(|e| failed("prepare a place for the lab", None, e))?;
    let ground = match Ground::open(&lab, backend, &instance).await {
        Ok(ground) => ground,
        Err(error) => {
            remove(instance);
            return Err(error);
        }
    };
    let layers = Layers::default();
    let begun = begin(&lab, &instance, &ground, &layers, &mut clock, progress, &stop);
    let begun = tokio::select! {
        begun = begun => begun,
        () = stop.cancelled() => Err(CliError::Cancelled),
    };
    match begun {
        Ok(begun) => {
            Ok(Box::new(EmbeddedLab { begun, name: lab.name, preparation: clock.done, instance, layers }))
        }
        Err(error) => {
            end(&layers, &ground).await;
            remove(instance);
            Err(error)
        }
    }
}

/// A fault of the virtual machines, in the command line's terms.
pub(super) fn vm_error(doing: &'static str) -> impl Fn(vm::VmError) -> CliError {
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
    ground: Ground,
    machines: Machines,
}

async fn begin(
    lab: &Lab,
    instance: &Instance,
    ground: &Ground,
    layers: &Layers,
    clock: &mut Clock,
    progress: Progress,
    stop: &CancellationToken,
) -> Result<Begun, CliError> {
    let address = ground.address();
    clock.end("");
    clock.begin(ground.boots_title());
    let (found, note) = ground.boots(lab, progress, stop.clone()).await?;
    clock.end(note);
    clock.begin("NATS server and coordinator");
    let keys = instance.dir().join("keys");
    let issuer = Issuer::open(keys, &lab.name).map_err(|e| failed("make the lab's NATS keys", None, e))?;
    let issuer = Arc::new(issuer);
    let server =
        ServerOptions { dir: instance.dir().join(NATS_DIR), listen: address, port: None, program: None };
    let Layer { tracker, token } = &layers.server;
    let server = EmbeddedServer::start(server, Arc::clone(&issuer), tracker, token.clone()).await;
    let server = server.map_err(|e| {
        let hint = e.hint();
        failed("start the NATS server", hint, e)
    })?;
    let bus = coordinator_bus(&issuer, &server).await?;
    provision::buckets(&bus, &lab.name).await.map_err(|e| failed("make the NATS buckets", None, e))?;
    let devices = Devices { lab, instance, ground, layers }.make(&found).await?;
    let handles: Vec<DeviceHandle> = devices.values().map(|(handle, _)| handle.clone()).collect();
    let machines: Machines = devices.into_iter().map(|(id, (_, machine))| (id, machine)).collect();
    let keep = keep_lines(instance.dir().to_owned(), handles.clone(), machines.clone());
    let mut owned = Vec::new();
    for handle in handles {
        let gate = Gate::open(address, server.address(), tracker, token.clone()).await;
        let gate = gate.map_err(|e| failed(format!("listen on {address} for {}", handle.id()), None, e))?;
        owned.push(LabDevice { handle, gate });
    }
    let parts = Parts {
        lab: lab.name.clone(),
        bus: bus.clone(),
        issuer: Arc::clone(&issuer),
        nats_url: server.url(),
        devices: owned,
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
        ground: ground.clone(),
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
            let kept = begun.coordinator.shutdown().await;
            let mut done = Ok(());
            for machine in kept.iter().filter_map(|id| begun.machines.get(id)) {
                done = done.and(begun.ground.keep(machine).await);
            }
            // The coordinator was the last to use the connection.
            let _ = begun.bus.close().await;
            end(&layers, &begun.ground).await;
            if kept.is_empty() {
                remove(instance);
            }
            done
        })
    }
}

async fn end(layers: &Layers, ground: &Ground) {
    if let Err(error) = ground.close().await {
        tracing::warn!(error = %Chain(&*error), "a device is left behind; the next start removes it");
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
