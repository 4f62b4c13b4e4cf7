//! A lab in this process: its NATS server, coordinator and devices, embedded for the runs of one command or lasting.
//! The command line talks NATS to it as to any other.

use super::boots::BootImages;
use super::clock::Clock;
use super::devices::{Devices, Layers, Machines};
use super::failed;
use super::gates::{self, gate};
use super::ground::Ground;
use super::image;
use super::instance::Instance;
use super::keep;
use super::nats::Nats;
use super::netboot::Netboot;
use super::policy::policy;
use super::reload::{LabFile, Made};
use super::simulated::{self, Simulated};
use crate::bus::connect::Bus;
use crate::bus::servers::Servers;
use crate::cli::error::CliError;
use crate::cli::local::{LabOptions, LocalFuture, Preparation, Progress, RunningLab};
use crate::config::lab::Lab;
use crate::config::standby;
use crate::console;
use crate::coordinator::ledger;
use crate::coordinator::parts::{KeyPair, LabDevice, Parts, Workshop};
use crate::coordinator::service::Coordinator;
use crate::device::DeviceHandle;
use crate::model::id::{LabName, UserName};
use crate::model::time::{HostBoot, Moment};
use crate::model::tls::TlsFiles;
use crate::ssh::generate_key;
use crate::support::chain::Chain;
use crate::support::clock::{boot_id, is_synchronised, stamp};
use crate::support::term::Term;
use crate::vm;
use crate::wire::lending::Reloaded;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The caller's login, below the directory of a lab that lasts.
pub(super) const LOGIN: &str = "login.json";
/// How long the credentials of an embedded lab are good: longer than any run.
pub(super) const EMBEDDED_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long those of a lasting one are, which are made anew at each start: they never leave this user's
/// files, and a coordinator that loses its connection one day loses the lab.
const LASTING_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Starts the lab of `options`; what was begun is undone when it fails or is stopped.
pub(super) async fn start(
    options: LabOptions,
    progress: Progress,
    stop: CancellationToken,
) -> Result<Box<dyn RunningLab>, CliError> {
    let mut lab = crate::config::lab::load(&options.lab, options.arch, options.image.as_deref())?;
    if let Some(on) = options.on {
        lab.keep_wired(on);
    }
    if options.standby {
        standby::check(&lab).map_err(|e| failed("stand by for the lab", Some(e.hint().to_owned()), e))?;
    }
    let backend = lab.backend(options.on);
    let backend = backend.ok_or_else(|| failed("start the lab", None, "it has no such devices"))?;
    let mut clock = Clock::new(progress.clone());
    clock.begin(Ground::title(backend));
    simulated::check(&lab, options.simulate)?;
    let instance = Arc::new(place(&lab, options.lasting)?);
    let ground = match Ground::open(&lab, backend, &instance, &stop).await {
        Ok(ground) => ground,
        Err(error) => {
            // What holds its sockets could not be asked.
            remove(&instance, true);
            return Err(error);
        }
    };
    let rack = match simulated::start(&mut lab, &instance).await {
        Ok(rack) => rack,
        Err(error) => {
            remove(&instance, false);
            return Err(error);
        }
    };
    let layers = Arc::new(Layers::default());
    let site = Site { lab: &lab, instance: &instance, ground: &ground, rack: rack.as_ref(), layers: &layers };
    let begun = async {
        // Told to stop, not broken off: nothing that builds an image may be at work when this is done.
        let images = BootImages::ready(&lab, &ground, &mut clock, progress, &stop).await?;
        let begin = Box::pin(begin(site, &options, images, &mut clock));
        let begun = stop.run_until_cancelled(begin).await;
        begun.unwrap_or(Err(CliError::Cancelled))
    };
    match begun.await {
        Ok(begun) => {
            let login = instance.is_lasting().then(|| instance.dir().join(LOGIN));
            let (name, preparation) = (lab.name, clock.done());
            Ok(Box::new(ThisLab { begun, name, login, preparation, instance, layers, rack }))
        }
        Err(error) => {
            end(&layers, &ground, rack).await;
            let in_use = ground.is_in_use(&instance).await;
            remove(&instance, in_use);
            Err(error)
        }
    }
}

fn place(lab: &Lab, lasting: bool) -> Result<Instance, CliError> {
    let opened = if lasting { Instance::open(&lab.name) } else { Instance::create().map(Some) };
    let opened = opened.map_err(|e| failed("prepare a place for the lab", None, e))?;
    opened.ok_or_else(|| {
        let hint = "end it first, or give this lab another name".to_owned();
        let cause = format!("lab {} has a coordinator on this machine", lab.name);
        failed("start the coordinator", Some(hint), cause)
    })
}

/// The clocks of this host, in this boot of it.
fn host_clock() -> Result<ledger::Clock, CliError> {
    let boot: HostBoot =
        boot_id().parse().map_err(|e| failed("tell this boot of the host from others", None, e))?;
    Ok(Arc::new(move || Moment { boot, at: stamp(), synchronised: is_synchronised() }))
}

/// What a switch takes at most, and a console: what acts on virtual machines and containers is on this host, where no second
/// coordinator is.
pub(super) fn longest_act(lab: &Lab) -> Duration {
    let switches = lab.wired.iter().map(|wired| wired.power.timeout());
    switches.max().unwrap_or_default().max(console::WRITE_TIMEOUT)
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
    servers: Servers,
    user: UserName,
    creds: String,
    bus: Bus,
    coordinator: Coordinator,
    ground: Ground,
    machines: Machines,
}

/// What a lab is begun on.
struct Site<'a> {
    lab: &'a Lab,
    instance: &'a Arc<Instance>,
    ground: &'a Ground,
    rack: Option<&'a Simulated>,
    layers: &'a Arc<Layers>,
}

async fn begin(
    site: Site<'_>,
    options: &LabOptions,
    images: BootImages,
    clock: &mut Clock,
) -> Result<Begun, CliError> {
    let Site { lab, instance, ground, rack: simulated, layers } = site;
    let address = ground.address();
    clock.begin("NATS server and coordinator");
    let ttl = if instance.is_lasting() { LASTING_TTL } else { EMBEDDED_TTL };
    let nats = Nats::start(lab, instance, address, &layers.server, ttl).await?;
    let Nats { issuer, bus, servers, upstream, revive } = nats;
    let (host, boot) = (host_clock()?, host_clock()?);
    let silence = if options.standby {
        clock.end("");
        clock.begin("standing by");
        Some(ledger::stand_by(&bus, &lab.name, &host).await)
    } else {
        None
    };
    let term = Term::new(Arc::new(move || boot().at.boot_ns));
    let netboot = Netboot::start(lab, &layers.devices).await?;
    let (netboot_of, term_of) = (netboot.as_ref(), term.clone());
    let devices = Devices { lab, instance, ground, layers, netboot: netboot_of, simulated, term: term_of };
    let devices = devices.make(&images.of_machines(lab)).await?;
    let handles: Vec<DeviceHandle> = devices.values().map(|(handle, _)| handle.clone()).collect();
    let machines: Machines = devices.into_iter().map(|(id, (_, machine))| (id, machine)).collect();
    let keep = keep::lines(instance.dir().to_owned(), handles.clone(), machines.clone());
    let (mut owned, mut made) = (Vec::new(), BTreeMap::new());
    for handle in &handles {
        // Where the device is: a board on a segment of its own reaches nothing else of this machine.
        let wired = lab.wired.iter().find(|wired| wired.device.id == *handle.id());
        let board = netboot.as_ref().filter(|_| wired.is_some_and(|wired| wired.netboot.is_some()));
        let card = wired.and_then(|wired| wired.card.as_ref());
        let address = match (board, card) {
            (Some(netboot), _) => netboot.address(),
            (None, Some(card)) => gates::toward(card.address).map_err(|e| {
                failed(format!("find the way to {} at {}", handle.id(), card.address), None, e)
            })?,
            (None, None) => address,
        };
        let way = layers.server.child();
        let gate = gate(instance, handle.id(), address, &upstream, &way).await;
        let gate = gate.map_err(|e| failed(format!("listen on {address} for {}", handle.id()), None, e))?;
        let gate = gate.known_as(card.and_then(|card| card.lab_address));
        let rated_cycles = wired.and_then(|wired| wired.rated_cycles);
        if let Some(wired) = wired {
            let (from, gate) = (wired.clone(), gate.clone());
            made.insert(handle.id().clone(), Made { from, gate, way });
        }
        owned.push(LabDevice { handle: handle.clone(), gate, booting: Arc::default(), rated_cycles });
    }
    if let Some(netboot) = netboot {
        netboot.tell(handles, &layers.devices);
    }
    let user = user_name();
    // One that was started on a part of its devices has no file that says which.
    let workshop = (instance.is_lasting() && options.on.is_none()).then(|| -> Arc<dyn Workshop> {
        Arc::new(LabFile {
            path: options.lab.clone(),
            arch: options.arch,
            image: options.image.clone(),
            instance: Arc::clone(instance),
            layers: Arc::clone(layers),
            ground: ground.clone(),
            term: term.clone(),
            upstream,
            file: Mutex::new(lab.clone()),
            made: Mutex::new(made),
        })
    });
    let parts = Parts {
        lab: lab.name.clone(),
        bus: bus.clone(),
        issuer: Arc::clone(&issuer),
        nats_url: servers.clone(),
        lasting: instance.is_lasting(),
        owner: user.clone(),
        clock: host,
        term,
        longest_act: longest_act(lab),
        revive,
        policy: policy(&lab.leases, &lab.health, instance.is_lasting()),
        silence,
        dir: instance.dir().to_owned(),
        devices: owned,
        workshop,
        image: images.common,
        images: images.of,
        find_image: image::finder(lab),
        uploads: ground.uploads(instance),
        keys: |comment| {
            let pair = generate_key(comment)?;
            Ok(KeyPair { private: pair.private, public: pair.public })
        },
        bundles: instance.dir().join("bundles"),
        retention: lab.bundles,
        keep_lines: Box::new(keep),
        broke: ground.broke(),
        hook: None,
    };
    let coordinator =
        Coordinator::start(parts).await.map_err(|e| failed("start the coordinator", None, e))?;
    let creds = issuer.user(&user, ttl).map_err(|e| failed("issue your credentials", None, e))?;
    clock.end("");
    Ok(Begun { servers, user, creds: creds.creds, bus, coordinator, ground: ground.clone(), machines })
}

/// Who the caller is to the lab: `USER`, else the name of the process's user (passwd(5)), where that is a name a
/// subject may hold.
fn user_name() -> UserName {
    let user = std::env::var("USER").ok().or_else(|| {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        let line = passwd.lines().find(|line| line.split(':').nth(2) == Some(&uid))?;
        line.split(':').next().map(str::to_owned)
    });
    let user = user.and_then(|user| UserName::new(user).ok());
    user.or_else(|| UserName::new("local").ok()).unwrap_or_else(|| unreachable!("a constant that is a name"))
}

struct ThisLab {
    begun: Begun,
    name: LabName,
    login: Option<PathBuf>,
    preparation: Vec<Preparation>,
    instance: Arc<Instance>,
    layers: Arc<Layers>,
    rack: Option<Simulated>,
}

impl RunningLab for ThisLab {
    fn url(&self) -> &str {
        self.begun.servers.urls()
    }

    fn tls(&self) -> Option<&TlsFiles> {
        self.begun.servers.tls()
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

    fn login(&self) -> Option<&Path> {
        self.login.as_deref()
    }

    fn reload(&self) -> LocalFuture<'_, Result<Reloaded, CliError>> {
        Box::pin(async move {
            let done = self.begun.coordinator.reload().await;
            done.map_err(|cause| failed("read the lab file anew", None, cause))
        })
    }

    fn lost(&self) -> LocalFuture<'_, ()> {
        Box::pin(self.begun.coordinator.deposed())
    }

    fn shutdown(self: Box<Self>) -> LocalFuture<'static, Result<(), CliError>> {
        Box::pin(async move {
            let Self { begun, instance, layers, rack, .. } = *self;
            let kept = begun.coordinator.shutdown().await;
            let mut done = Ok(());
            for machine in kept.iter().filter_map(|id| begun.machines.get(id)) {
                done = done.and(begun.ground.keep(machine).await);
            }
            // The coordinator was the last to use the connection.
            let _ = begun.bus.close().await;
            end(&layers, &begun.ground, rack).await;
            if kept.is_empty() {
                let in_use = begun.ground.is_in_use(&instance).await;
                remove(&instance, in_use);
            }
            done
        })
    }
}

async fn end(layers: &Layers, ground: &Ground, rack: Option<Simulated>) {
    if let Err(error) = ground.close().await {
        tracing::warn!(error = %Chain(&*error), "a device is left behind; the next start removes it");
    }
    layers.devices.end("devices").await;
    if let Some(rack) = rack {
        rack.end().await;
    }
    layers.journals.end("journals").await;
    layers.server.end("NATS server").await;
}

fn remove(instance: &Instance, in_use: bool) {
    if let Err(error) = instance.remove(in_use) {
        tracing::warn!(%error, "the lab's files are left behind; the next start removes them");
    }
}
