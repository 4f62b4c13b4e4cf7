//! What others do with a device.

use super::DeviceParts;
use super::fence::{DeviceFence, Refused};
use super::ports::{BootOffer, PortError, ReachOutput};
use crate::console::{ConsoleHandle, WriteError};
use crate::journal::{Intent, JournalError, JournalHandle};
use crate::model::boot::BootAttempt;
use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::model::identity::Mark;
use crate::model::lease::{Fenced, FencingToken};
use crate::model::power::{PowerReading, PowerState, Wear};
use crate::model::time::Stamp;
use crate::support::term::Lapsed;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// How a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// What the power switch said last.
    pub power: PowerReading,
    /// How often it has switched, over the life of the journal.
    pub wear: Wear,
    /// The current boot attempt.
    pub attempt: BootAttempt,
    /// Where the device is, once it has exchanged its ticket.
    pub address: Option<IpAddr>,
    /// The SSH host key that its ticket brought it, OpenSSH public key format; none where nobody knows it.
    pub host_key: Option<String>,
    /// The mark of this boot attempt's ticket; none where nobody knows it.
    pub mark: Option<Mark>,
    /// When power was about to be switched on in this attempt; none when it is off, or was on before
    /// this process.
    pub powered_on_at: Option<Stamp>,
}

/// Makes the files of a ticket's answer, once the attempt has its number.
pub type FilesOf = Box<dyn FnOnce(BootAttempt) -> Vec<(String, Vec<u8>)> + Send>;

/// What a device is to boot.
pub struct BootRequest {
    /// What it is called in the journal: an image's manifest hash.
    pub image_id: String,
    /// What it finds. The attempt is set, and the kernel arguments that name layers and ticket are added.
    pub offer: BootOffer,
    /// Who it is to be; none for a system that does not ask.
    pub ticket: Option<TicketRequest>,
}

/// What a device is told of itself for its ticket.
pub struct TicketRequest {
    /// Why it must boot, where it could start from saved memory.
    pub cold: Option<String>,
    /// For how long the ticket is good.
    pub window: Duration,
    /// The SSH host key that the ticket's files carry, OpenSSH public key format.
    pub host_key_public: String,
    /// The key that the ticket's files authorise, OpenSSH private key format.
    pub client_key_private: String,
    /// The mark that the ticket's files carry.
    pub mark: Mark,
    /// The files of the ticket's answer.
    pub files: FilesOf,
}

/// A device did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Others wait for the device already.
    #[error("the device is busy")]
    Busy,
    /// The device's actor has ended.
    #[error("the device is gone: its coordinator is shutting down")]
    Gone,
    /// The lease has passed.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// This coordinator may not act.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    /// A layer of the image cannot be read.
    #[error("cannot read image layer {path}")]
    Layer {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The journal does not take what must be recorded before acting, so nothing was done.
    #[error("cannot record what was about to be done")]
    Journal(#[from] JournalError),
    /// The ticket could not be issued or voided.
    #[error("cannot manage the boot ticket")]
    Ticket(#[source] PortError),
    /// The boot files could not be offered.
    #[error("cannot offer what to boot")]
    Offer(#[source] PortError),
    /// The boot files could not be withdrawn.
    #[error("cannot withdraw what to boot")]
    Withdraw(#[source] PortError),
    /// Power could not be switched.
    #[error("cannot switch power {state}")]
    Power {
        /// Wanted.
        state: PowerState,
        /// Why.
        source: PortError,
    },
    /// Power could not be read back.
    #[error("cannot read power back")]
    Reading(#[source] PortError),
    /// Power was switched and did not change.
    #[error("power was switched {state} but reads back as {reading}")]
    NotConfirmed {
        /// Wanted.
        state: PowerState,
        /// Read back.
        reading: PowerReading,
    },
    /// The device has not exchanged its ticket, so nobody knows where it is.
    #[error("the device has no address yet: it has not exchanged its boot ticket")]
    NoAddress,
    /// A command could not be run.
    #[error("cannot run a command on the device")]
    Run(#[source] PortError),
    /// The device was switched off, or booted anew, while the command ran.
    #[error("the device was switched off while the command ran")]
    SwitchedOff,
}

impl DeviceError {
    /// Says which operation a port failed in; that a lease has passed is said as such.
    pub(super) fn port(error: PortError, operation: impl FnOnce(PortError) -> Self) -> Self {
        match error {
            PortError::Fenced(fenced) => Self::Fenced(fenced),
            other => operation(other),
        }
    }
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, DeviceError>>;

/// What is asked of the actor.
pub(super) enum Command {
    Boot(FencingToken, Box<BootRequest>, Answer<BootAttempt>),
    Off(FencingToken, Answer<()>),
    On(FencingToken, Answer<BootAttempt>),
    Cycle(FencingToken, Answer<BootAttempt>),
    Look(Answer<PowerReading>),
    Run(FencingToken, Vec<String>, Duration, Answer<ReachOutput>),
}

/// A device.
#[derive(Clone)]
pub struct DeviceHandle {
    device: Arc<Device>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<DeviceState>,
    console: ConsoleHandle,
    journal: JournalHandle,
    fence: DeviceFence,
}

impl From<Refused> for DeviceError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Fenced(fenced) => Self::Fenced(fenced),
            Refused::Lapsed(lapsed) => Self::Lapsed(lapsed),
        }
    }
}

impl DeviceHandle {
    /// Its id.
    pub fn id(&self) -> &DeviceId {
        &self.device.id
    }

    pub(super) fn new(
        parts: &DeviceParts,
        commands: mpsc::Sender<Command>,
        state: watch::Receiver<DeviceState>,
        fence: DeviceFence,
    ) -> Self {
        let device = Arc::new(parts.device.clone());
        let (console, journal) = (parts.console.clone(), parts.journal.clone());
        Self { device, commands, state, console, journal, fence }
    }

    /// The device as the inventory describes it.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its console.
    pub fn console(&self) -> &ConsoleHandle {
        &self.console
    }

    /// Its journal.
    pub fn journal(&self) -> &JournalHandle {
        &self.journal
    }

    /// How it is.
    pub fn state(&self) -> watch::Receiver<DeviceState> {
        self.state.clone()
    }

    /// The power switch that was begun, and perhaps not done, when the last coordinator ended. The actor
    /// begins with asking the switch, and journals what came of it.
    pub fn unfinished_intent(&self) -> Option<&Intent> {
        self.journal.recovered().intent.as_ref()
    }

    /// Refuses all holders before this one from now on, at the console too, also halfway in what they have asked for;
    /// commands of theirs that run end. Done when nothing of theirs is under way. [`DeviceError::Fenced`] when
    /// another has come after this one.
    pub async fn fence(&self, token: FencingToken) -> Result<(), DeviceError> {
        self.fence.admit(token)?;
        match self.console.fence(token).await {
            Ok(()) => Ok(self.fence.raise(token).await?),
            Err(WriteError::Fenced(fenced)) => Err(fenced.into()),
            Err(_) => Err(DeviceError::Gone),
        }
    }

    /// Boots the device: off first when it is on, then on with what is requested. Done when power is
    /// on; the console tells how the boot goes on.
    pub async fn boot(&self, token: FencingToken, request: BootRequest) -> Result<BootAttempt, DeviceError> {
        self.ask(|answer| Command::Boot(token, Box::new(request), answer)).await
    }

    /// Switches the device off; it then boots nothing, its ticket is void, and its console refuses
    /// earlier holders.
    pub async fn off(&self, token: FencingToken) -> Result<(), DeviceError> {
        self.ask(|answer| Command::Off(token, answer)).await
    }

    /// Switches the device on, with nothing offered: it boots what it finds by itself, as a new boot attempt.
    /// Waits for the least time off, and for its turn among the lab's devices. One that reads back as on is
    /// left alone, and so is its attempt.
    pub async fn on(&self, token: FencingToken) -> Result<BootAttempt, DeviceError> {
        self.ask(|answer| Command::On(token, answer)).await
    }

    /// Switches the device off, if it is not, and on again, as [`Self::on`] does; what was offered is withdrawn.
    pub async fn cycle(&self, token: FencingToken) -> Result<BootAttempt, DeviceError> {
        self.ask(|answer| Command::Cycle(token, answer)).await
    }

    /// Asks the switch, for the state that others see too.
    pub async fn read_power(&self) -> Result<PowerReading, DeviceError> {
        self.ask(Command::Look).await
    }

    /// Runs a program on the device, without going through its agent.
    pub async fn run(
        &self,
        token: FencingToken,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ReachOutput, DeviceError> {
        self.ask(|answer| Command::Run(token, command, timeout, answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, DeviceError> {
        let (answer, result) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => DeviceError::Busy,
            mpsc::error::TrySendError::Closed(_) => DeviceError::Gone,
        })?;
        result.await.unwrap_or(Err(DeviceError::Gone))
    }
}
