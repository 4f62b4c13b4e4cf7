//! [`VmDevice`]: one device as a libvirt domain.

use super::KeepInstructions;
use super::disk;
use super::domain::{self, Boots, Owner};
use super::error::VmError;
use super::host::is_gone;
use super::parts::Parts;
use super::save::Unsaved;
use super::warm::remove_socket;
use crate::console::port::{ByteStream, Line, LineFuture};
use crate::device::ports::{Boot, BootOffer, PortError, PortFuture, Power};
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, watch};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys::{
    VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_CRASHED, VIR_DOMAIN_METADATA_ELEMENT, VIR_DOMAIN_PAUSED,
    VIR_DOMAIN_SHUTOFF, VIR_DOMAIN_START_PAUSED,
};

/// How long a new domain waits, paused, for the console's reader, which only has to connect to a socket.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);

/// What a domain is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Absent,
    Paused,
    Running,
}

/// What the console's reader must know of the domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Console {
    /// Counts the domains of this device.
    generation: u64,
    /// The generation's domain exists, as far as we know.
    present: bool,
    /// The reader has connected to this generation.
    attached: bool,
}

/// One act at a time, by who is not fenced off.
#[derive(Default)]
pub(super) struct Acts {
    fence: Fence,
    offer: Option<BootOffer>,
    /// The lease for which the data disk was made.
    disk_of: Option<FencingToken>,
    /// The save that could not be made: it is not tried at each start.
    pub(super) unsaved: Option<Unsaved>,
}

/// A device that is a virtual machine.
pub struct VmDevice {
    pub(super) parts: Parts,
    acts: Mutex<Acts>,
    console: watch::Sender<Console>,
    kept: watch::Sender<bool>,
}

impl VmDevice {
    pub(super) fn new(parts: Parts) -> Self {
        let kept = watch::Sender::new(parts.spec.lasting);
        Self { parts, acts: Mutex::default(), console: watch::Sender::default(), kept }
    }

    /// Finds a domain that an earlier process left running: its console is read from here on.
    pub(super) async fn find(&self) -> Result<(), VmError> {
        self.remove_asleep().await?;
        if self.status().await? != Status::Absent {
            self.announce(false);
        }
        Ok(())
    }

    /// Its network card's address, lower-case with colons: always the same for this instance and device.
    pub fn mac(&self) -> &str {
        &self.parts.mac
    }

    /// Its domain's name in libvirt.
    pub fn domain_name(&self) -> &str {
        &self.parts.name
    }

    /// Leaves the machine to a person: neither [`super::Host::close`] nor a sweep removes it any more.
    pub async fn keep(&self) -> Result<KeepInstructions, VmError> {
        let element = Owner { kept: true, ..self.parts.owner.clone() }.element()?;
        let kind = VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
        self.with_domain("mark as kept", move |domain| {
            domain.set_metadata(
                kind,
                Some(&element),
                Some(domain::PREFIX),
                Some(domain::NAMESPACE),
                VIR_DOMAIN_AFFECT_LIVE,
            )
        })
        .await?;
        self.kept.send_replace(true);
        Ok(self.keep_instructions())
    }

    /// How to attach to its console once nobody else is, and how to remove it.
    pub fn keep_instructions(&self) -> KeepInstructions {
        let Parts { console, uri, name, .. } = &self.parts;
        KeepInstructions {
            enter: format!("socat -,raw,echo=0,escape=0x1d unix-connect:{}", console.display()),
            remove: format!("virsh -c {uri} destroy {name}"),
        }
    }

    /// Removes the machine, unless it was kept.
    pub(super) async fn close(&self) -> Result<(), VmError> {
        if *self.kept.borrow() {
            return Ok(());
        }
        let _acts = self.acts.lock().await;
        self.destroy().await?;
        let path = self.data_disk();
        disk::remove(&path).map_err(|source| VmError::DataDisk { path, source: source.into() })
    }

    /// Beside the console: a directory that QEMU's user may enter, removed with all that is in it.
    pub(super) fn data_disk(&self) -> PathBuf {
        self.parts.console.with_extension("data")
    }

    /// A data disk for the lease of `token`, unless it has one already.
    async fn prepare_disk(&self, acts: &mut Acts, token: FencingToken) -> Result<(), VmError> {
        if let Some(mib) = self.parts.spec.data_disk_mib.filter(|_| acts.disk_of != Some(token)) {
            acts.disk_of = None;
            disk::make(&self.data_disk(), mib, self.parts.qemu_user.as_deref()).await?;
            acts.disk_of = Some(token);
        }
        Ok(())
    }

    /// Runs `call` on the domain.
    pub(super) async fn with_domain<T, F>(&self, verb: &str, call: F) -> Result<T, VmError>
    where
        T: Send + 'static,
        F: Fn(&Domain) -> Result<T, Error> + Send + 'static,
    {
        let name = self.parts.name.clone();
        let operation = format!("{verb} domain {name}");
        let call = move |connect: &Connect| call(&Domain::lookup_by_name(connect, &name)?);
        self.parts.connection.call(operation, call).await
    }

    async fn status(&self) -> Result<Status, VmError> {
        let name = self.parts.name.clone();
        let read = move |connect: &Connect| {
            let state = Domain::lookup_by_name(connect, &name).and_then(|domain| domain.get_state());
            match state {
                Ok((VIR_DOMAIN_SHUTOFF | VIR_DOMAIN_CRASHED, _)) => Ok(Status::Absent),
                Ok((VIR_DOMAIN_PAUSED, _)) => Ok(Status::Paused),
                Ok(_) => Ok(Status::Running),
                Err(error) if is_gone(&error) => Ok(Status::Absent),
                Err(error) => Err(error),
            }
        };
        self.parts.connection.call(format!("read the state of domain {}", self.parts.name), read).await
    }

    async fn switch_on(&self, acts: &mut Acts, token: FencingToken) -> Result<(), VmError> {
        self.remove_asleep().await?;
        match self.status().await? {
            Status::Running => {
                self.announce(false);
                return Ok(());
            }
            // Left by a call that was dropped half-way.
            Status::Paused => self.announce(false),
            Status::Absent => {
                self.prepare_disk(acts, token).await?;
                let offer = acts.offer.clone().ok_or(VmError::NothingOffered)?;
                if self.start_warm(acts, &offer).await {
                    return Ok(());
                }
                self.create(self.describe(&offer)?).await?;
                self.announce(true);
            }
        }
        if let Err(error) = self.attached().await {
            if let Err(error) = self.destroy().await {
                tracing::warn!(domain = self.parts.name, %error, "cannot remove a domain without console");
            }
            return Err(error);
        }
        self.resume().await
    }

    pub(super) async fn resume(&self) -> Result<(), VmError> {
        self.with_domain("resume", |domain| domain.resume().map(|_| ())).await
    }

    fn describe(&self, offer: &BootOffer) -> Result<String, VmError> {
        let boots = Boots {
            kernel: offer.kernel.as_deref(),
            initramfs: offer.initramfs.as_deref(),
            layers: &offer.layers,
            cmdline: &offer.cmdline,
        };
        let data_disk = self.data_disk();
        let data_disk = self.parts.spec.data_disk_mib.map(|_| data_disk.as_path());
        Ok(domain::Domain { data_disk, ..self.domain(boots) }.xml()?)
    }

    /// The domain as all of its starts have it.
    pub(super) fn domain<'a>(&'a self, boots: Boots<'a>) -> domain::Domain<'a> {
        let parts = &self.parts;
        domain::Domain {
            name: &parts.name,
            mac: &parts.mac,
            arch: parts.spec.arch,
            support: &parts.support,
            qemu_user: parts.qemu_user.as_deref(),
            memory_mib: parts.spec.memory_mib,
            vcpus: parts.spec.vcpus,
            network: &parts.network,
            console: &parts.console,
            owner: &parts.owner,
            data_disk: None,
            boots,
            sleeper: None,
        }
    }

    pub(super) async fn create(&self, xml: String) -> Result<(), VmError> {
        remove_socket(&self.parts.console).await;
        let create =
            move |connect: &Connect| Domain::create_xml(connect, &xml, VIR_DOMAIN_START_PAUSED).map(|_| ());
        self.parts.connection.call(format!("create domain {}", self.parts.name), create).await
    }

    /// Tells the console's reader that there is a domain: a `new` one, or one it may not know of.
    pub(super) fn announce(&self, new: bool) {
        self.console.send_if_modified(|console| {
            let changed = new || !console.present;
            if changed {
                *console = Console { generation: console.generation + 1, present: true, attached: false };
            }
            changed
        });
    }

    /// Waits until the console's reader has connected.
    pub(super) async fn attached(&self) -> Result<(), VmError> {
        let mut console = self.console.subscribe();
        let wait = console.wait_for(|console| console.attached);
        match tokio::time::timeout(ATTACH_TIMEOUT, wait).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(VmError::ConsoleNotAttached { path: self.parts.console.clone(), timeout: ATTACH_TIMEOUT })
            }
        }
    }

    pub(super) async fn destroy(&self) -> Result<(), VmError> {
        let name = self.parts.name.clone();
        let destroy = move |connect: &Connect| match Domain::lookup_by_name(connect, &name)
            .and_then(|domain| domain.destroy())
        {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(()),
        };
        self.parts.connection.call(format!("destroy domain {}", self.parts.name), destroy).await?;
        self.gone();
        Ok(())
    }

    /// Tells the console's reader that there is no domain.
    pub(super) fn gone(&self) {
        self.console.send_modify(|console| console.present = false);
    }

    /// Connects to the console of the domain of `generation`.
    async fn connect(&self, generation: u64) -> io::Result<Option<UnixStream>> {
        let this = |console: &Console| console.present && console.generation == generation;
        match UnixStream::connect(&self.parts.console).await {
            Ok(line) => {
                self.console.send_if_modified(|console| {
                    let newly = this(console) && !console.attached;
                    console.attached |= newly;
                    newly
                });
                Ok(Some(line))
            }
            // The socket listens before libvirt answers that the domain was created, so the guest has
            // ended by itself since.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                self.console.send_if_modified(|console| {
                    let gone = this(console);
                    console.present &= !gone;
                    gone
                });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Power for VmDevice {
    /// `On` makes a paused domain of the offered boot, waits until the console's reader is connected
    /// and lets it run.
    fn set(&self, token: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            let mut acts = self.acts.lock().await;
            acts.fence.admit(token)?;
            let (verb, done) = match state {
                PowerState::On => ("on", self.switch_on(&mut acts, token).await),
                PowerState::Off => ("off", self.destroy().await),
            };
            done.map_err(|error| error.into_port(format!("switch {verb} {}", self.parts.spec.id)))
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        Box::pin(async move {
            match self.status().await {
                Ok(Status::Absent) => Ok(PowerReading::Off),
                Ok(Status::Paused | Status::Running) => Ok(PowerReading::On),
                Err(error) => Err(error.into_port(format!("read the power of {}", self.parts.spec.id))),
            }
        })
    }
}

impl Boot for VmDevice {
    fn offer(&self, token: FencingToken, offer: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move { self.set_offer(token, Some(offer)).await })
    }

    fn withdraw(&self, token: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async move { self.set_offer(token, None).await })
    }
}

impl VmDevice {
    async fn set_offer(&self, token: FencingToken, offer: Option<BootOffer>) -> Result<(), PortError> {
        let mut acts = self.acts.lock().await;
        acts.fence.admit(token)?;
        acts.offer = None;
        // Whoever takes the boot away without having had the disk makes the machine ready for somebody else.
        if offer.is_none() && acts.disk_of != Some(token) {
            let path = self.data_disk();
            acts.disk_of = None;
            disk::remove(&path).map_err(|source| {
                let error = VmError::DataDisk { path, source: source.into() };
                error.into_port(format!("wipe the data disk of {}", self.parts.spec.id))
            })?;
        }
        if let Some(offer) = &offer {
            let operation = || format!("offer {} what to boot", self.parts.spec.id);
            let unfit = offer.tree.is_some() || offer.device_tree.is_some();
            let refused = match (unfit, &offer.kernel) {
                (true, _) => Some(VmError::NoBootRom),
                (_, None) => Some(VmError::NothingOffered),
                _ => None,
            };
            refused.map_or(Ok(()), |error| Err(error.into_port(operation())))?;
        }
        acts.offer = offer;
        Ok(())
    }
}

impl ByteStream for VmDevice {
    /// Waits for the next domain. While a domain is ending its socket may still take a connection, which
    /// then ends at once, without a byte.
    fn open(&self) -> LineFuture<'_> {
        Box::pin(async move {
            let mut console = self.console.subscribe();
            loop {
                let now = *console.wait_for(|console| console.present).await.map_err(io::Error::other)?;
                if let Some(line) = self.connect(now.generation).await? {
                    let line: Box<dyn Line> = Box::new(line);
                    return Ok(line);
                }
            }
        })
    }
}
