//! What the command line needs of the machine it runs on. `compose` implements it; nothing here
//! knows how.

use super::args::LabArgs;
use super::doctor::Finding;
use super::error::CliError;
use crate::model::device::{Arch, Backend};
use crate::model::id::{DeviceId, LabName, UserName};
use crate::model::relay::{GpioPin, Level, PinState};
use crate::model::tls::TlsFiles;
use crate::plan::enroll::Enrolled;
use crate::plan::setup::Plan;
use crate::wire::lending::Reloaded;
use serde::Serialize;
use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A future of this trait's methods.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Local verbs. Each ends soon after `stop` is cancelled, with [`CliError::Cancelled`], and has then
/// undone what it began; dropping the future leaves at once and may leave that to the next start.
pub trait Local: Send + Sync {
    /// Starts an embedded lab: its NATS server, its coordinator, the image it boots if that is not there yet.
    fn start_lab<'a>(
        &'a self,
        options: LabOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<Box<dyn RunningLab>, CliError>>;

    /// The login files of the labs that have, or had, a coordinator on this machine.
    fn logins(&self) -> Result<Vec<PathBuf>, CliError>;

    /// Where this user's labs keep what outlives them.
    fn state_dir(&self) -> Result<PathBuf, CliError>;

    /// Looks at what the lab of this file needs of this machine. Nothing is switched or changed.
    fn examine<'a>(&'a self, lab: &'a Path) -> LocalFuture<'a, Vec<Finding>>;

    /// Looks at a pin of this machine. Nothing is changed.
    fn pin_look(&self, pin: &GpioPin) -> Result<PinState, CliError>;

    /// Takes a pin at the level it has, and drives it where a level is given. Answers its level, and what holds it until it
    /// is dropped.
    fn pin_hold(
        &self,
        pin: &GpioPin,
        level: Option<Level>,
    ) -> Result<(Level, Box<dyn Any + Send + Sync>), CliError>;

    /// Switches boards one after the other, and answers what each is wired to. They are all off in the end.
    fn enroll<'a>(
        &'a self,
        options: EnrollOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<Vec<Enrolled>, CliError>>;

    /// The host key of a device that boots from its own card: the one that is pinned, else what is shown there now.
    fn host_key<'a>(&'a self, options: &'a SetupOptions) -> LocalFuture<'a, Result<ShownKey, CliError>>;

    /// Logs in to such a device, if it shows this key, and looks. Nothing is changed.
    fn set_up<'a>(
        &'a self,
        options: &'a SetupOptions,
        key: &'a ShownKey,
        progress: Progress,
    ) -> LocalFuture<'a, Result<Box<dyn SetUp>, CliError>>;

    /// Builds an image, or finds it built.
    fn image_build<'a>(
        &'a self,
        options: ImageOptions,
        progress: Progress,
        stop: CancellationToken,
    ) -> LocalFuture<'a, Result<ImageInfo, CliError>>;

    /// The images of this machine, newest first.
    fn image_ls(&self) -> LocalFuture<'_, Result<Vec<ImageInfo>, CliError>>;

    /// Removes an image by its id or an unambiguous beginning of it.
    fn image_rm<'a>(&'a self, id: &'a str) -> LocalFuture<'a, Result<RemovedImage, CliError>>;

    /// Removes all but the newest `keep` images of each recipe and architecture; answers them and how many
    /// bytes that freed.
    fn image_prune(&self, keep: usize) -> LocalFuture<'_, Result<PrunedImages, CliError>>;

    /// Reads an image again and compares every file with the manifest; an error names what differs.
    fn image_verify<'a>(
        &'a self,
        id: &'a str,
        progress: Progress,
    ) -> LocalFuture<'a, Result<ImageInfo, CliError>>;
}

/// A lab that runs in this process.
pub trait RunningLab: Send + Sync {
    /// Where its NATS server is.
    fn url(&self) -> &str;
    /// How that server is known, where it speaks TLS.
    fn tls(&self) -> Option<&TlsFiles> {
        None
    }
    /// This user's NATS credentials: a creds file's text.
    fn creds(&self) -> &str;
    /// Its name.
    fn lab(&self) -> &LabName;
    /// Who the caller is in it.
    fn user(&self) -> &UserName;
    /// What its start consisted of, in order.
    fn preparation(&self) -> &[Preparation];
    /// Where the caller's login belongs, for other commands to find it; none for a lab that does not outlast this one.
    fn login(&self) -> Option<&Path>;
    /// Reads its file anew.
    fn reload(&self) -> LocalFuture<'_, Result<Reloaded, CliError>> {
        Box::pin(async { Err(CliError::local("read the lab file anew", "this lab does not last")) })
    }
    /// Done when another process has the lab.
    fn lost(&self) -> LocalFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
    /// Ends it and removes what it made, except devices that a run was told to keep and, where it is to last,
    /// what is on disk and the virtual machines that are on.
    fn shutdown(self: Box<Self>) -> LocalFuture<'static, Result<(), CliError>>;
}

/// Which lab to start.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Its file.
    pub lab: PathBuf,
    /// On which of its devices; none means its virtual machines, where it has some.
    pub on: Option<Backend>,
    /// The architecture of its virtual machines, when not that of the file.
    pub arch: Option<Arch>,
    /// The image recipe, when not that of the file.
    pub image: Option<String>,
    /// What it knows, and what is lent, outlives this process.
    pub lasting: bool,
    /// Those of its devices are simulated that the file says can be.
    pub simulate: bool,
    /// Wait until the lab has no coordinator.
    pub standby: bool,
}

impl LabOptions {
    /// The lab that the arguments name.
    pub fn new(args: LabArgs, lasting: bool) -> Self {
        let LabArgs { file: lab, on, arch, image } = args;
        Self { lab, on, arch, image, lasting, simulate: false, standby: false }
    }
}

/// Which boards to look at.
#[derive(Debug, Clone)]
pub struct EnrollOptions {
    /// The lab file.
    pub lab: PathBuf,
    /// The boards, by their ids in the file; empty for all that can be switched.
    pub devices: Vec<String>,
    /// The serial lines to listen to.
    pub ttys: Vec<PathBuf>,
    /// Their speed in bits per second.
    pub baud: u32,
    /// How long each board is waited for.
    pub within: Duration,
}

/// Which device that boots from its own card is to have the agent, or no longer.
#[derive(Debug, Clone)]
pub struct SetupOptions {
    /// The lab file.
    pub lab: PathBuf,
    /// The device.
    pub device: DeviceId,
    /// How to log in this time, where that is not what the file says.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// As whom.
    pub user: Option<String>,
    /// With which key.
    pub identity: Option<PathBuf>,
    /// The agent's executable; none means where `lab/agent` puts it.
    pub agent: Option<PathBuf>,
    /// A package manager may be used.
    pub install_podman: bool,
    /// Take it off.
    pub remove: bool,
}

/// A host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownKey {
    /// OpenSSH public key format.
    pub public: String,
    /// As `ssh-keygen -l` shows it.
    pub fingerprint: String,
    /// Its owner has said before that it is the right one.
    pub pinned: bool,
}

/// A device that was looked at.
pub trait SetUp: Send + Sync {
    /// What there is to do.
    fn plan(&self) -> &Plan;
    /// What runs on it, for people.
    fn os(&self) -> &str;
    /// SHA-256 of the agent that it is to have.
    fn agent_sha256(&self) -> &str;
    /// Does it. What is broken off is mended by the next look and the next of this.
    fn apply(&self) -> LocalFuture<'_, Result<(), CliError>>;
}

/// Which image to build.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The recipe: the name of a built-in one, or a path to a file.
    pub recipe: String,
    /// For which architecture.
    pub arch: Arch,
    /// The agent's executable; none means where `lab/agent` puts it.
    pub agent: Option<PathBuf>,
    /// The archive that packages come from; none means what the environment or the recipe says, else the host's own.
    pub mirror: Option<String>,
    /// A file that says which packages exactly; none means today's.
    pub lock: Option<PathBuf>,
}

/// An image of this machine.
#[derive(Debug, Clone, Serialize)]
pub struct ImageInfo {
    /// SHA-256 of its manifest, hex.
    pub id: String,
    /// The recipe's name.
    pub recipe: String,
    /// Its architecture.
    pub arch: Arch,
    /// Bytes of all its layers.
    pub size: u64,
    /// When it was made: milliseconds since 1970-01-01 UTC.
    pub made_ms: u64,
    /// Where its manifest lies.
    pub path: PathBuf,
    /// Where its lock lies: the packages in it, exactly.
    pub lock: PathBuf,
}

/// An image that is gone.
#[derive(Debug, Clone)]
pub struct RemovedImage {
    /// SHA-256 of its manifest, hex.
    pub id: String,
    /// What it was; none when its manifest could not be read.
    pub known: Option<ImageInfo>,
}

/// Old images, and what became of them.
#[derive(Debug, Clone)]
pub struct PrunedImages {
    /// Those that are gone.
    pub removed: Vec<ImageInfo>,
    /// Those that stay because devices boot from them.
    pub in_use: Vec<ImageInfo>,
    /// How many bytes that freed.
    pub freed: u64,
}

/// A part of a lab's start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preparation {
    /// What, for example `image`.
    pub what: String,
    /// How long it took, in seconds.
    pub took: f64,
    /// What to know of it, for example `cached`; may be empty.
    pub note: String,
}

/// What is going on.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Something new begins, for example `building the base layer`.
    Begin {
        /// What.
        what: String,
    },
    /// How far it is.
    At {
        /// Done so far, in any unit.
        done: u64,
        /// All there is, in the same unit; 0 when nobody knows.
        total: u64,
    },
}

/// Where a local verb tells what is going on. Cheap to clone, never blocks for long.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(Step) + Send + Sync>);

impl Progress {
    /// Calls `show` with each step.
    pub fn new(show: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self(Arc::new(show))
    }

    /// Something new begins.
    pub fn begin(&self, what: impl Into<String>) {
        (self.0)(Step::Begin { what: what.into() });
    }

    /// It is `done` of `total` far.
    pub fn at(&self, done: u64, total: u64) {
        (self.0)(Step::At { done, total });
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}
