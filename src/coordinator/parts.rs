//! What a coordinator is made of; `compose` puts it together.

use super::ledger::{Clock, Hook, Revive, Silence};
use crate::bus::connect::Bus;
use crate::bus::gate::Gate;
use crate::bus::issuer::Issuer;
use crate::bus::servers::Servers;
use crate::device::DeviceHandle;
use crate::device::ports::{BootLayer, Broken};
use crate::model::device::Arch;
use crate::model::id::{DeviceId, LabName, UserName};
use crate::plan::lease::Policy;
use crate::support::term::Term;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Everything a coordinator needs from outside.
pub struct Parts {
    /// The lab.
    pub lab: LabName,
    /// Its connection to NATS, with the coordinator's rights.
    pub bus: Bus,
    /// Issues and revokes the devices' credentials.
    pub issuer: Arc<Issuer>,
    /// Where it reaches NATS itself.
    pub nats_url: Servers,
    /// It outlives its runs.
    pub lasting: bool,
    /// Who started it: an admin.
    pub owner: UserName,
    /// The rules by which it lends its devices.
    pub policy: Policy,
    /// The host's clocks.
    pub clock: Clock,
    /// Whether it may act on its devices, which have it too. The ledger renews it.
    pub term: Term,
    /// Starts its NATS server anew when that hangs.
    pub revive: Revive,
    /// The longest that an act on a device may still take effect after it was begun.
    pub longest_act: Duration,
    /// What it has seen of the one before it, if it stood by.
    pub silence: Option<Silence>,
    /// Called at each place where its ledger can be broken off; none but in tests.
    pub hook: Option<Hook>,
    /// Its own directory, where it remembers how far its ledger has come.
    pub dir: PathBuf,
    /// The devices it owns.
    pub devices: Vec<LabDevice>,
    /// Where they are made, and where the lab file is read anew; none for a lab that does not last.
    pub workshop: Option<Arc<dyn Workshop>>,
    /// What they boot.
    pub image: BootImage,
    /// What some of them boot in its place: those of another architecture, or that nothing else boots.
    pub images: BTreeMap<DeviceId, Arc<BootImage>>,
    /// Finds other images by name.
    pub find_image: FindImage,
    /// Where files lie that users have sent to be booted.
    pub uploads: PathBuf,
    /// Makes SSH keys.
    pub keys: MakeKeys,
    /// Where bundles are written, a file for each run.
    pub bundles: PathBuf,
    /// How many of them are kept, and for how long.
    pub retention: crate::model::bundle::Retention,
    /// How to enter and how to remove a device that is kept, as lines for people.
    pub keep_lines: KeepLines,
    /// Changes when what all its devices stand on breaks, to what broke.
    pub broke: watch::Receiver<Broken>,
}

impl Parts {
    /// What a device boots.
    pub fn image_of(&self, device: &DeviceId) -> &BootImage {
        self.images.get(device).map_or(&self.image, |image| image)
    }
}

/// A device that a coordinator owns.
#[derive(Clone)]
pub struct LabDevice {
    /// Its actor.
    pub handle: DeviceHandle,
    /// Its way to NATS.
    pub gate: Gate,
    /// Held from the issue of credentials for a boot to the revocation of those before: of two boots at one time the
    /// first would revoke the second's.
    pub booting: Arc<tokio::sync::Mutex<()>>,
    /// How many cycles of on and off its relay is rated for; none for what is not known to wear.
    pub rated_cycles: Option<u64>,
}

/// Finds an image that is built already: by its recipe, or by its id or the beginning of that.
pub type FindImage = Box<dyn Fn(String, Arch) -> Finding + Send + Sync>;
/// The image, or why there is none and what to try.
pub type Finding = Pin<Box<dyn Future<Output = Result<BootImage, NoImage>> + Send>>;

/// Why there is no such image.
#[derive(Debug)]
pub struct NoImage {
    /// One line.
    pub error: String,
    /// What to try.
    pub hint: Option<String>,
}

/// A future of [`Workshop`].
pub type WorkshopFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, Unusable>> + Send + 'a>>;

/// Knows the lab file, and what devices are made of.
pub trait Workshop: Send + Sync {
    /// Reads the file anew and checks it as a whole. Nothing is changed by that.
    fn read(&self) -> WorkshopFuture<'_, Wanted>;

    /// Makes a device as the file that was read last describes it.
    fn make<'a>(&'a self, device: &'a DeviceId) -> WorkshopFuture<'a, LabDevice>;

    /// Ends a device's tasks and lets go of its lines; with `gone` also of its way to NATS, which one that is made anew keeps.
    fn end<'a>(&'a self, device: &'a DeviceId, gone: bool) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// What the lab file says.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// All devices.
    pub devices: BTreeSet<DeviceId>,
    /// Those of them that are made otherwise than it says.
    pub changed: BTreeSet<DeviceId>,
    /// The rules by which they are lent.
    pub policy: Policy,
}

/// The lab file cannot be used, or a device cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Why, one line.
    pub cause: String,
    /// What to try.
    pub hint: Option<String>,
}

/// Makes an SSH key pair; the argument is the comment.
pub type MakeKeys = fn(&str) -> Result<KeyPair, Box<dyn Error + Send + Sync>>;

/// Lines that tell how to enter and how to remove a kept device, given the private SSH key that opens it.
pub type KeepLines = Box<dyn Fn(&DeviceId, &str) -> Vec<String> + Send + Sync>;

/// An SSH key pair in OpenSSH's formats.
pub struct KeyPair {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

/// An image as devices boot it.
#[derive(Debug, Clone)]
pub struct BootImage {
    /// SHA-256 of its manifest.
    pub id: String,
    /// The manifest, for bundles.
    pub manifest: String,
    /// Kernel file.
    pub kernel: PathBuf,
    /// Initramfs file.
    pub initramfs: PathBuf,
    /// Layers, bottom first.
    pub layers: Vec<BootLayer>,
    /// Kernel arguments it wants.
    pub cmdline: Vec<String>,
    /// SHA-256 of the agent in it, hex.
    pub agent_sha256: String,
}
