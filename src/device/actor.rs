//! The task that owns a device's state and does what is asked of it, one thing at a time.

use super::DeviceParts;
use super::handle::{Answer, BootRequest, Command, DeviceError, DeviceState};
use super::ports::{BootLayer, BootOffer, ReachOutput, ReachTarget, TicketFate, TicketGrant, TicketRefusal};
use crate::journal::Receipt;
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::lease::{Fence, FencingToken};
use crate::model::power::{PowerReading, PowerState};
use crate::support::chain::Chain;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// How to log in to the device in the current attempt.
struct Keys {
    host_key: String,
    client_key: String,
}

pub(super) struct Actor {
    parts: DeviceParts,
    state: watch::Sender<DeviceState>,
    fence: Fence,
    /// Since when the device has been off, as far as this process knows.
    off_since: Option<Instant>,
    keys: Option<Keys>,
    fate: Option<watch::Receiver<TicketFate>>,
    runs: JoinSet<()>,
    /// Cancelled when the device is switched off.
    powered: CancellationToken,
}

impl Actor {
    pub(super) fn new(parts: DeviceParts, state: watch::Sender<DeviceState>) -> Self {
        Self {
            parts,
            state,
            fence: Fence::default(),
            off_since: None,
            keys: None,
            fate: None,
            runs: JoinSet::new(),
            powered: CancellationToken::new(),
        }
    }

    /// Does what is asked until all handles are gone or `token` is cancelled; what is under way is
    /// then left as it is, and the journal tells how far it came.
    pub(super) async fn run(mut self, commands: mpsc::Receiver<Command>, token: CancellationToken) {
        token.run_until_cancelled(self.serve(commands)).await;
    }

    async fn serve(&mut self, mut commands: mpsc::Receiver<Command>) {
        let reading = self.read_power().await;
        self.observe(reading);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                fate = next_fate(&mut self.fate) => self.ticket(fate).await,
                Some(_) = self.runs.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        // Whoever asked and left needs no answer; what was asked is done all the same.
        match command {
            Command::Boot(token, request, answer) => {
                let result = self.boot(token, *request).await;
                let _ = answer.send(result);
            }
            Command::Off(token, answer) => {
                let result = self.off(token).await;
                let _ = answer.send(result);
            }
            Command::Run(token, command, timeout, answer) => self.start(token, command, timeout, answer),
        }
    }

    async fn boot(&mut self, token: FencingToken, request: BootRequest) -> Result<BootAttempt, DeviceError> {
        self.admit(token).await?;
        let mut cmdline = request.cmdline;
        cmdline.extend(layer_arguments(&request.layers).await?);
        let reading = self.read_power().await;
        self.observe(reading);
        if reading != PowerReading::Off {
            self.switch_off(token).await?;
        }
        self.forget();
        let attempt = self.begin(request.image_id).await?;
        self.keys = Some(Keys { host_key: request.host_key_public, client_key: request.client_key_private });
        let (fate, watched) = watch::channel(TicketFate::Pending);
        self.fate = Some(watched);
        let grant = TicketGrant {
            device: self.parts.device.id.clone(),
            mac: self.parts.mac.clone(),
            window: request.window,
            files: (request.files)(attempt),
            fate,
        };
        let (kernel, initramfs) = (request.kernel, request.initramfs);
        let offer = BootOffer { attempt, kernel, initramfs, layers: request.layers, cmdline };
        let started = self.start_boot(token, grant, offer).await;
        if started.is_err() {
            // The first error is the one to tell.
            if let Err(error) = self.withdraw(token).await {
                tracing::warn!("after a failed boot: {}", Chain(&error));
            }
        }
        started.map(|()| attempt)
    }

    /// Everything of a boot that is undone by withdrawing.
    async fn start_boot(
        &mut self,
        token: FencingToken,
        grant: TicketGrant,
        mut offer: BootOffer,
    ) -> Result<(), DeviceError> {
        let ticket = self.parts.tickets.issue(grant).await;
        let mut cmdline = ticket.map_err(|error| DeviceError::port(error, DeviceError::Ticket))?;
        cmdline.append(&mut offer.cmdline);
        offer.cmdline = cmdline;
        let offered = self.parts.boot.offer(token, offer).await;
        offered.map_err(|error| DeviceError::port(error, DeviceError::Offer))?;
        if let Some(since) = self.off_since {
            sleep_until(since + self.parts.min_off).await;
        }
        let intent = self.switch(token, PowerState::On).await?;
        self.state.send_modify(|state| state.powered_on_at = Some(intent.stamp));
        Ok(())
    }

    /// Numbers the next attempt, on the disk and for the console.
    async fn begin(&mut self, image: String) -> Result<BootAttempt, DeviceError> {
        let attempt = BootAttempt(self.state.borrow().attempt.0 + 1);
        self.parts.console.begin(attempt).await.map_err(|_| DeviceError::Gone)?;
        self.parts.journal.event_synced(attempt, Event::BootOffered { attempt, image }).await?;
        self.state.send_modify(|state| state.attempt = attempt);
        Ok(attempt)
    }

    async fn off(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        self.admit(token).await?;
        let off = self.switch_off(token).await;
        let withdrawn = self.withdraw(token).await;
        off.and(withdrawn)
    }

    async fn switch_off(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        self.forget();
        self.switch(token, PowerState::Off).await.map(|_| ())
    }

    /// Whatever was reached in this attempt is no more: commands end, the address is unknown.
    fn forget(&mut self) {
        self.powered.cancel();
        self.powered = CancellationToken::new();
        self.keys = None;
        self.fate = None;
        self.state.send_modify(|state| (state.address, state.powered_on_at) = (None, None));
    }

    /// Withdraws the offer and voids the ticket; tries both.
    async fn withdraw(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        self.fate = None;
        let withdrawn = self.parts.boot.withdraw(token).await;
        let revoked = self.parts.tickets.revoke(&self.parts.device.id).await;
        withdrawn.map_err(|error| DeviceError::port(error, DeviceError::Withdraw))?;
        revoked.map_err(|error| DeviceError::port(error, DeviceError::Ticket))
    }

    /// Refuses a passed lease, here and at the console.
    async fn admit(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        self.fence.admit(token)?;
        match self.parts.console.fence(token).await {
            Ok(()) => Ok(()),
            Err(crate::console::WriteError::Fenced(fenced)) => Err(fenced.into()),
            Err(_) => Err(DeviceError::Gone),
        }
    }

    /// Switches power: the intent on the disk, the act, the reading, the outcome. Answers the intent.
    async fn switch(&mut self, token: FencingToken, state: PowerState) -> Result<Receipt, DeviceError> {
        let attempt = self.state.borrow().attempt;
        let journal = self.parts.journal.clone();
        let intent = journal.event_synced(attempt, Event::PowerIntent { state, token }).await?;
        let acted = self.parts.power.set(token, state).await;
        let reading = self.read_power().await;
        self.observe(reading);
        let confirmed = reading == PowerReading::from(state) || reading == PowerReading::Unknown;
        let (event, outcome) = match acted {
            Err(error) => {
                let cause = Chain(&error).to_string();
                let power = |source| DeviceError::Power { state, source };
                (Event::PowerFailed { state, cause }, Err(DeviceError::port(error, power)))
            }
            Ok(()) if !confirmed => {
                let error = DeviceError::NotConfirmed { state, reading };
                (Event::PowerFailed { state, cause: error.to_string() }, Err(error))
            }
            Ok(()) => {
                // A switch that cannot be read back counts as done.
                self.off_since = (state == PowerState::Off).then(Instant::now);
                (Event::PowerDone { state, reading }, Ok(intent))
            }
        };
        self.note(event).await;
        outcome
    }

    async fn read_power(&self) -> PowerReading {
        self.parts.power.get().await.unwrap_or_else(|error| {
            tracing::warn!("cannot read the power of {}: {}", self.parts.device.id, Chain(&error));
            PowerReading::Unknown
        })
    }

    fn observe(&mut self, reading: PowerReading) {
        self.off_since = match reading {
            PowerReading::Off => self.off_since.or_else(|| Some(Instant::now())),
            PowerReading::On | PowerReading::Unknown => None,
        };
        self.state.send_modify(|state| state.power = reading);
    }

    /// Journals what has happened. When it cannot, what happened stays so, and the log says it.
    async fn note(&self, event: Event) {
        let attempt = self.state.borrow().attempt;
        if let Err(error) = self.parts.journal.event(attempt, event).await {
            tracing::error!("an event of {} is lost: {}", self.parts.device.id, Chain(&error));
        }
    }

    async fn ticket(&mut self, fate: Option<TicketFate>) {
        match fate {
            None => self.fate = None,
            Some(TicketFate::Pending) => {}
            Some(TicketFate::Redeemed { address }) => self.redeemed(address).await,
            Some(TicketFate::Refused { address, cause, redeemed }) => {
                // The watch keeps the last change only: the exchange itself may have gone unseen.
                if let Some(address) = redeemed {
                    self.redeemed(address).await;
                }
                self.refused(address, cause).await;
            }
        }
    }

    async fn redeemed(&mut self, address: IpAddr) {
        if self.state.borrow().address.is_none() {
            self.note(Event::TicketRedeemed { address: address.to_string() }).await;
            self.state.send_modify(|state| state.address = Some(address));
        }
    }

    async fn refused(&self, address: IpAddr, cause: TicketRefusal) {
        let (address, cause) = (address.to_string(), cause.to_string());
        self.note(Event::TicketRefused { address, cause }).await;
    }

    /// Starts a command on the device; it goes on beside the actor until the device is switched off.
    fn start(
        &mut self,
        token: FencingToken,
        command: Vec<String>,
        timeout: Duration,
        answer: Answer<ReachOutput>,
    ) {
        let target = match self.target(token) {
            Ok(target) => target,
            Err(error) => {
                let _ = answer.send(Err(error));
                return;
            }
        };
        let (reach, powered) = (Arc::clone(&self.parts.reach), self.powered.clone());
        self.runs.spawn(async move {
            let ran = powered.run_until_cancelled(reach.run(token, &target, &command, timeout)).await;
            let result = match ran {
                Some(ran) => ran.map_err(|error| DeviceError::port(error, DeviceError::Run)),
                None => Err(DeviceError::SwitchedOff),
            };
            let _ = answer.send(result);
        });
    }

    fn target(&mut self, token: FencingToken) -> Result<ReachTarget, DeviceError> {
        self.fence.admit(token)?;
        match (self.state.borrow().address, &self.keys) {
            (Some(address), Some(keys)) => Ok(ReachTarget {
                address,
                host_key: keys.host_key.clone(),
                client_key: keys.client_key.clone(),
            }),
            _ => Err(DeviceError::NoAddress),
        }
    }
}

/// The next change of a ticket's fate; none when the office will send no more.
async fn next_fate(fate: &mut Option<watch::Receiver<TicketFate>>) -> Option<TicketFate> {
    match fate {
        Some(fate) => fate.changed().await.ok().map(|()| fate.borrow_and_update().clone()),
        None => pending().await,
    }
}

/// The kernel arguments that name the layers, bottom first: `pilab.layer=<sha256>:<bytes>`.
async fn layer_arguments(layers: &[BootLayer]) -> Result<Vec<String>, DeviceError> {
    let mut arguments = Vec::with_capacity(layers.len());
    for BootLayer { path, sha256 } in layers {
        let metadata = tokio::fs::metadata(path).await;
        let size = metadata.map_err(|source| DeviceError::Layer { path: path.clone(), source })?.len();
        arguments.push(format!("pilab.layer={sha256}:{size}"));
    }
    Ok(arguments)
}
