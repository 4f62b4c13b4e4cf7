//! The lab file read anew, and real devices made and unmade while the lab goes on.

use super::devices::{Devices, Layer, Layers, Own};
use super::gates::gate;
use super::ground::Ground;
use super::instance::Instance;
use super::lab::longest_act;
use super::policy::policy;
use crate::bus::gate::{Gate, Upstream};
use crate::cli::error::CliError;
use crate::config::lab::{Lab, load};
use crate::config::wiring::WiredDevice;
use crate::coordinator::parts::{LabDevice, Unusable, Wanted, Workshop, WorkshopFuture};
use crate::model::device::Arch;
use crate::model::id::DeviceId;
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::support::term::Term;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

/// What only a restart can change.
const RESTART: &str = "restart the coordinator for that: what is lent stays lent";

/// Makes devices of a lab that runs.
pub(super) struct LabFile {
    pub(super) path: PathBuf,
    pub(super) arch: Option<Arch>,
    pub(super) image: Option<String>,
    pub(super) instance: Arc<Instance>,
    pub(super) layers: Arc<Layers>,
    pub(super) ground: Ground,
    pub(super) term: Term,
    pub(super) upstream: Upstream,
    /// The file as it was read last. No await happens under these locks.
    pub(super) file: Mutex<Lab>,
    pub(super) made: Mutex<BTreeMap<DeviceId, Made>>,
}

/// What a real device was made from, and its way to NATS.
pub(super) struct Made {
    pub(super) from: WiredDevice,
    pub(super) gate: Gate,
    pub(super) way: Layer,
}

fn unusable(error: &CliError) -> Unusable {
    Unusable { cause: Chain(error).to_string(), hint: error.hint().map(str::to_owned) }
}

/// The boards that the lab boots or logs in to, and those that are simulated.
fn fixed(lab: &Lab) -> impl Iterator<Item = &WiredDevice> {
    lab.wired
        .iter()
        .filter(|wired| wired.netboot.is_some() || wired.card.is_some() || wired.simulation.is_some())
}

impl LabFile {
    /// Refuses a file that says otherwise of what cannot be changed while the lab goes on.
    fn check(&self, now: &Lab) -> Result<(), Unusable> {
        let before = lock(&self.file);
        let same = [
            ("name", before.name == now.name),
            ("image", before.image == now.image),
            ("network", before.network == now.network),
            ("kernel_args", before.kernel_args == now.kernel_args),
            ("pools", before.devices == now.devices && before.containers == now.containers),
            ("stagger", before.stagger == now.stagger),
            ("nats", before.nats == now.nats),
            ("server", before.server_tls == now.server_tls),
            ("netboot", before.netboot == now.netboot),
            ("simulate", before.simulated == now.simulated),
            // Their servers and their rack are begun with the lab.
            ("devices[].boot", fixed(&before).eq(fixed(now))),
            // Whoever takes the lab waits for the longest act that it was told of.
            ("devices[].power.timeout", longest_act(now) <= longest_act(&before)),
        ];
        match same.iter().find(|(_, same)| !same) {
            None => Ok(()),
            Some((key, _)) => {
                let cause = format!("{}: {key}: has changed", self.path.display());
                Err(Unusable { cause, hint: Some(RESTART.to_owned()) })
            }
        }
    }

    async fn make_board(&self, id: &DeviceId) -> Result<LabDevice, CliError> {
        let mut lab = lock(&self.file).clone();
        lab.wired.retain(|wired| wired.device.id == *id);
        let missing = || super::failed(format!("make {id}"), None, "the lab file does not name it");
        let from = lab.wired.first().cloned().ok_or_else(missing)?;
        let Self { instance, ground, layers, term, .. } = self;
        let (netboot, simulated) = (None, None);
        let devices = Devices { lab: &lab, instance, ground, layers, netboot, simulated, term: term.clone() };
        let (handle, _) = devices.wired().await?.remove(id).ok_or_else(missing)?;
        let known = lock(&self.made).remove(id);
        let (gate, way) = match known {
            Some(Made { gate, way, .. }) => (gate, way),
            None => {
                let (way, address) = (layers.server.child(), ground.address());
                let opened = gate(instance, id, address, &self.upstream, &way).await;
                (opened.map_err(|e| super::failed(format!("listen on {address} for {id}"), None, e))?, way)
            }
        };
        let rated_cycles = from.rated_cycles;
        lock(&self.made).insert(id.clone(), Made { from, gate: gate.clone(), way });
        Ok(LabDevice { handle, gate, booting: Arc::default(), rated_cycles })
    }
}

impl Workshop for LabFile {
    fn read(&self) -> WorkshopFuture<'_, Wanted> {
        Box::pin(async move {
            let lab = load(&self.path, self.arch, self.image.as_deref());
            let lab = lab.map_err(|error| unusable(&CliError::Config(error)))?;
            self.check(&lab)?;
            let pools = lab.devices.iter().map(|machine| &machine.device).chain(&lab.containers);
            // Those of the backend that the lab was started with.
            let here = |id: &DeviceId| lock(&self.layers.own).contains_key(id);
            let mut devices: BTreeSet<DeviceId> =
                pools.map(|device| device.id.clone()).filter(here).collect();
            devices.extend(lab.wired.iter().map(|wired| wired.device.id.clone()));
            let changed = {
                let made = lock(&self.made);
                let is_other = |wired: &&WiredDevice| {
                    made.get(&wired.device.id).is_some_and(|made| made.from != **wired)
                };
                lab.wired.iter().filter(is_other).map(|wired| wired.device.id.clone()).collect()
            };
            let policy = policy(&lab.leases, &lab.health, true);
            *lock(&self.file) = lab;
            Ok(Wanted { devices, changed, policy })
        })
    }

    fn make<'a>(&'a self, device: &'a DeviceId) -> WorkshopFuture<'a, LabDevice> {
        Box::pin(async move { self.make_board(device).await.map_err(|error| unusable(&error)) })
    }

    fn end<'a>(&'a self, device: &'a DeviceId, gone: bool) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async move {
            let own = lock(&self.layers.own).remove(device);
            if let Some(Own { device, journal }) = own {
                device.end("a device").await;
                journal.end("a journal").await;
            }
            let made = if gone { lock(&self.made).remove(device) } else { None };
            if let Some(Made { way, .. }) = made {
                way.end("a device's way to NATS").await;
            }
        })
    }
}
