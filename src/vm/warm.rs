//! Starts from saved memory.
//!
//! ```text
//!   save there? ── no ──► boot to where it waits, save        once for a slot and image
//!       │ yes                        │
//!       ▼                            ▼
//!   restore paused ─► console attached, data disk plugged in ─► resume ─► told who it is ─► awake
//!       any of it fails: the save is thrown away, and the device boots
//! ```
//! What is saved has no identity and no credential, no open door and no disk that can be written. Every lease starts from
//! the same memory.

use super::device::{Acts, VmDevice};
use super::domain::{self, Boots, Sleeper};
use super::error::VmError;
use super::save::{Basis, Room, Slot, Unsaved};
use super::wake::{Channel, Wakening};
use super::{Saves, naming};
use crate::device::ports::{BootOffer, Wake, WakeFate};
use crate::support::chain::Chain;
use crate::support::command::{Command, CommandError};
use crate::support::lock::lock;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys::{VIR_DOMAIN_AFFECT_LIVE, VIR_DOMAIN_SAVE_PAUSED};

/// How long a device may take to get to where it is saved: ten seconds under emulation, several times that on a
/// busy host.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How long writing its memory may take: a second or two on a quiet host.
const SAVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a restored device may take to wake: tenths of a second.
const WAKE_TIMEOUT: Duration = Duration::from_secs(30);

impl VmDevice {
    /// Starts from saved memory, which is saved first where there is none yet. False when the device is to boot; the offer's
    /// fate says why, and nothing is left of what was tried.
    pub(super) async fn start_warm(&self, acts: &mut Acts, offer: &BootOffer) -> bool {
        let (Some(saves), Some(wake)) = (&self.parts.spec.saves, &offer.wake) else { return false };
        let cause = match &wake.cold {
            Some(cause) => cause.clone(),
            None => match self.try_warm(acts, saves, offer, wake).await {
                Ok((address, saved)) => {
                    wake.fate.send_replace(WakeFate::Woken { address, saved });
                    return true;
                }
                Err(error) => {
                    let cause = Chain(&error).to_string();
                    tracing::warn!(
                        domain = self.parts.name,
                        cause,
                        "no start from saved memory: the device boots"
                    );
                    cause
                }
            },
        };
        wake.fate.send_replace(WakeFate::Cold { cause });
        false
    }

    async fn try_warm(
        &self,
        acts: &mut Acts,
        saves: &Saves,
        offer: &BootOffer,
        wake: &Wake,
    ) -> Result<(IpAddr, bool), VmError> {
        if wake.cmdline.iter().any(|argument| argument.starts_with("systemd.unit=")) {
            return Err(VmError::OtherUnit);
        }
        // Said before the machine is booted once for nothing.
        if self.parts.qemu_user.is_some() && !rustix::process::geteuid().is_root() {
            return Err(VmError::SavesOfRoot);
        }
        let failed = |source| VmError::Saves { path: saves.root.clone(), source };
        let slot = Slot::take(&saves.root, &self.parts.name).map_err(failed)?.ok_or(VmError::SavesInUse)?;
        let slot = Arc::new(slot);
        let (xml, key) = self.sleeper(offer, wake).await?;
        if let Some(cause) = acts.unsaved.as_ref().and_then(|unsaved| unsaved.keeps_from(&key)) {
            return Err(VmError::NoSave { cause: cause.to_owned() });
        }
        let asleep = self.asleep();
        tokio::fs::write(&asleep, "").await.map_err(failed)?;
        let done = async {
            let found = in_thread(&slot, &key, |slot, key| slot.find(key)).await.map_err(failed)?;
            let (file, saved) = match found {
                Ok(file) => (file, false),
                Err(damage) => {
                    if let Some(damage) = damage {
                        tracing::warn!(domain = self.parts.name, damage, "saved memory is thrown away");
                    }
                    let saved = self.save(&slot, &key, xml, offer, saves, failed).await;
                    let saved = saved.inspect_err(|error| {
                        acts.unsaved = Some(Unsaved::now(key.clone(), Chain(error).to_string()));
                    });
                    (saved?, true)
                }
            };
            Ok((self.restore(&file, wake).await?, saved))
        };
        let done: Result<_, VmError> = done.await;
        if done.is_err() {
            self.destroy().await?;
            slot.remove(&key).map_err(failed)?;
        }
        tokio::fs::remove_file(&asleep).await.map_err(failed)?;
        done
    }

    /// Stands beside the console while the domain is one that nobody has told who it is.
    fn asleep(&self) -> PathBuf {
        self.parts.console.with_extension("asleep")
    }

    /// Removes a domain that waits for what will never come: whoever was to wake it has died, or given it up half-way.
    pub(super) async fn remove_asleep(&self) -> Result<(), VmError> {
        let path = self.asleep();
        if path.exists() {
            self.destroy().await?;
            let removed = tokio::fs::remove_file(&path).await;
            removed.map_err(|source| VmError::Saves { path, source })?;
        }
        Ok(())
    }

    /// The description of the domain that is saved, and the save's key.
    async fn sleeper(&self, offer: &BootOffer, wake: &Wake) -> Result<(String, String), VmError> {
        let mut cmdline = wake.cmdline.clone();
        cmdline.extend(["pilab.warm", "systemd.unit=pilab-warm.target"].map(str::to_owned));
        let boots = Boots {
            kernel: offer.kernel.as_deref(),
            initramfs: offer.initramfs.as_deref(),
            layers: &offer.layers,
            cmdline: &cmdline,
        };
        let uuid = naming::uuid(&self.parts.name);
        let sleeper = Some(Sleeper { uuid: &uuid, channel: &self.parts.channel });
        let xml = domain::Domain { sleeper, ..self.domain(boots) }.xml()?;
        let read = |connect: &Connect| Ok((connect.get_lib_version()?, connect.get_hyp_version()?));
        let versions = self.parts.connection.call("read the versions of libvirt and QEMU", read).await?;
        let key = Basis { xml: &xml, versions, processor: &self.parts.processor }.key();
        Ok((xml, key))
    }

    /// Boots the device to where it waits, and saves it there.
    async fn save(
        &self,
        slot: &Arc<Slot>,
        key: &str,
        xml: String,
        offer: &BootOffer,
        saves: &Saves,
        failed: impl Fn(io::Error) -> VmError,
    ) -> Result<PathBuf, VmError> {
        let _turn = self.parts.saving.acquire().await.map_err(|_| VmError::Abandoned)?;
        let mut needs: Vec<PathBuf> = offer.kernel.iter().chain(&offer.initramfs).cloned().collect();
        needs.extend(offer.layers.iter().map(|layer| layer.path.clone()));
        let room = Arc::new(Room {
            root: saves.root.clone(),
            most: saves.most_mib.saturating_mul(1 << 20),
            slots: lock(&self.parts.slots).clone(),
            needs: needs.clone(),
        });
        let before = Arc::clone(&room);
        in_thread(slot, key, move |slot, _| before.before(slot)).await.map_err(&failed)?;
        let part = slot.begin(key, u64::from(self.parts.spec.memory_mib) << 20).map_err(&failed)?;
        tracing::info!(domain = self.parts.name, "boots once, to be saved");
        remove_socket(&self.parts.channel).await;
        self.create(xml).await?;
        self.announce(true);
        self.attached().await?;
        let mut channel = Channel::connect(&self.parts.channel).await?;
        self.resume().await?;
        channel.ready(READY_TIMEOUT).await?;
        self.save_to(&part).await.map_err(|source| VmError::Save { source: source.into() })?;
        self.gone();
        let finish = move |slot: &Slot, key: &str| {
            let file = slot.finish(key, needs)?;
            room.after(slot).map(|()| file)
        };
        in_thread(slot, key, finish).await.map_err(failed)
    }

    /// By virsh: the crate that binds libvirt leaves `virDomainSave` out.
    async fn save_to(&self, file: &Path) -> Result<(), CommandError> {
        let virsh = Command::new("virsh").args(["-q", "-c", &self.parts.uri, "save", &self.parts.name]);
        virsh.arg(file).timeout(SAVE_TIMEOUT).own_group().output().await.map(|_| ())
    }

    /// Restores the device and wakes it.
    async fn restore(&self, file: &Path, wake: &Wake) -> Result<IpAddr, VmError> {
        remove_socket(&self.parts.console).await;
        remove_socket(&self.parts.channel).await;
        let from = file.to_string_lossy().into_owned();
        let restore = move |connect: &Connect| {
            Domain::domain_restore_flags(connect, &from, None, VIR_DOMAIN_SAVE_PAUSED)
        };
        self.parts.connection.call(format!("restore domain {}", self.parts.name), restore).await?;
        self.announce(true);
        self.attached().await?;
        let data_disk = self.parts.spec.data_disk_mib.is_some();
        if data_disk {
            let disk = domain::data_disk(&self.data_disk())?;
            let attach = move |domain: &Domain| domain.attach_device_flags(&disk, VIR_DOMAIN_AFFECT_LIVE);
            self.with_domain("plug the data disk into", attach).await?;
        }
        let mut channel = Channel::connect(&self.parts.channel).await?;
        self.resume().await?;
        let told = Wakening { device: &self.parts.spec.id, data_disk, files: &wake.files };
        channel.wake(&told, WAKE_TIMEOUT).await
    }
}

/// libvirt leaves the socket of a domain that crashed, and cannot bind it again.
pub(super) async fn remove_socket(path: &Path) {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(socket = %path.display(), %error, "cannot remove an old socket");
        }
        _ => {}
    }
}

/// Reading a save takes tenths of a second.
async fn in_thread<T: Send + 'static>(
    slot: &Arc<Slot>,
    key: &str,
    act: impl FnOnce(&Slot, &str) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (slot, key) = (Arc::clone(slot), key.to_owned());
    tokio::task::spawn_blocking(move || act(&slot, &key)).await.unwrap_or_else(|error| Err(error.into()))
}
