//! The task that owns a device's state and does what is asked of it, one thing at a time.

use super::DeviceParts;
use super::fence::DeviceFence;
use super::handle::{Answer, BootRequest, Command, DeviceError, DeviceState, TicketRequest};
use super::ports::{
    BootLayer, BootOffer, ReachOutput, ReachTarget, TicketFate, TicketGrant, TicketRefusal, Wake, WakeFate,
};
use super::power::Supply;
use super::way_in::{Keeper, WayIn};
use crate::model::boot::BootAttempt;
use crate::model::event::Event;
use crate::model::lease::FencingToken;
use crate::model::power::{PowerReading, PowerState};
use crate::support::chain::Chain;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) struct Actor {
    parts: DeviceParts,
    state: watch::Sender<DeviceState>,
    fence: DeviceFence,
    supply: Supply,
    /// Logs in to the device in the current attempt; OpenSSH private key format.
    client_key: Option<String>,
    keeper: Keeper,
    fate: Option<watch::Receiver<TicketFate>>,
    runs: JoinSet<()>,
    /// Cancelled when the device is switched off.
    powered: CancellationToken,
}

impl Actor {
    pub(super) fn new(parts: DeviceParts, state: watch::Sender<DeviceState>, fence: DeviceFence) -> Self {
        let supply = Supply {
            device: parts.device.id.clone(),
            switch: Arc::clone(&parts.power),
            journal: parts.journal.clone(),
            min_off: parts.min_off,
            stagger: Arc::clone(&parts.stagger),
            state: state.clone(),
            fence: fence.clone(),
            off_since: None,
        };
        let keeper = Keeper(parts.way_in.clone());
        Self {
            parts,
            state,
            fence,
            supply,
            client_key: None,
            keeper,
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
        self.supply.settle().await;
        self.find_way_in();
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
            Command::On(token, answer) => {
                let result = self.on(token).await;
                let _ = answer.send(result);
            }
            Command::Cycle(token, answer) => {
                let result = self.cycle(token).await;
                let _ = answer.send(result);
            }
            Command::Look(answer) => {
                let result = self.supply.read().await.map_err(DeviceError::Reading);
                let _ = answer.send(result);
            }
            Command::Run(token, command, timeout, answer) => self.start(token, command, timeout, answer),
        }
    }

    async fn boot(&mut self, token: FencingToken, request: BootRequest) -> Result<BootAttempt, DeviceError> {
        self.admit(token).await?;
        let BootRequest { image_id: image, mut offer, ticket } = request;
        offer.cmdline.extend(layer_arguments(&offer.layers).await?);
        if self.supply.look().await != PowerReading::Off {
            self.switch_off(token).await?;
        }
        self.forget();
        let attempt = self.begin().await?;
        offer.attempt = attempt;
        self.parts.journal.event_synced(attempt, Event::BootOffered { attempt, image }).await?;
        let (woken, started) = watch::channel(WakeFate::None);
        let grant = ticket.map(|mut ticket| {
            let (cold, cmdline) = (ticket.cold.take(), offer.cmdline.clone());
            let grant = self.grant(attempt, ticket);
            offer.wake = Some(Arc::new(Wake { cold, cmdline, files: grant.files.clone(), fate: woken }));
            grant
        });
        if let Err(error) = self.start_boot(token, grant, offer).await {
            // The first error is the one to tell.
            if let Err(error) = self.withdraw(token).await {
                tracing::warn!("after a failed boot: {}", Chain(&error));
            }
            return Err(error);
        }
        let fate = started.borrow().clone();
        self.woken(fate).await;
        Ok(attempt)
    }

    /// What its ticket brings the device, and what opens it then.
    fn grant(&mut self, attempt: BootAttempt, ticket: TicketRequest) -> TicketGrant {
        self.client_key = Some(ticket.client_key_private);
        let (key, mark) = (Some(ticket.host_key_public), Some(ticket.mark));
        self.state.send_modify(|state| (state.host_key, state.mark) = (key, mark));
        let (fate, watched) = watch::channel(TicketFate::Pending);
        self.fate = Some(watched);
        TicketGrant {
            device: self.parts.device.id.clone(),
            mac: self.parts.mac.clone(),
            window: ticket.window,
            files: (ticket.files)(attempt),
            fate,
        }
    }

    /// Everything of a boot that is undone by withdrawing.
    async fn start_boot(
        &mut self,
        token: FencingToken,
        grant: Option<TicketGrant>,
        mut offer: BootOffer,
    ) -> Result<(), DeviceError> {
        let acting = self.fence.act(token).await?;
        let ticket = match grant {
            Some(grant) => self.parts.tickets.issue(grant).await,
            // The one before is good no more.
            None => self.parts.tickets.revoke(&self.parts.device.id).await.map(|()| Vec::new()),
        };
        drop(acting);
        let mut cmdline = ticket.map_err(|error| DeviceError::port(error, DeviceError::Ticket))?;
        cmdline.append(&mut offer.cmdline);
        offer.cmdline = cmdline;
        let acting = self.fence.act(token).await?;
        let offered = self.parts.boot.offer(token, offer).await;
        drop(acting);
        offered.map_err(|error| DeviceError::port(error, DeviceError::Offer))?;
        self.power_up(token).await
    }

    /// Switches on what boots by itself.
    async fn on(&mut self, token: FencingToken) -> Result<BootAttempt, DeviceError> {
        self.admit(token).await?;
        if self.supply.look().await == PowerReading::On {
            return Ok(self.state.borrow().attempt);
        }
        self.forget();
        let attempt = self.begin().await?;
        self.power_up(token).await?;
        Ok(attempt)
    }

    async fn cycle(&mut self, token: FencingToken) -> Result<BootAttempt, DeviceError> {
        self.admit(token).await?;
        if self.supply.look().await != PowerReading::Off {
            self.switch_off(token).await?;
        }
        self.forget();
        self.withdraw(token).await?;
        let attempt = self.begin().await?;
        self.power_up(token).await?;
        Ok(attempt)
    }

    async fn power_up(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        let intent = self.supply.switch(token, PowerState::On).await?;
        self.state.send_modify(|state| state.powered_on_at = Some(intent.stamp));
        Ok(())
    }

    /// Numbers the next attempt. The next event that is synced keeps the number.
    async fn begin(&mut self) -> Result<BootAttempt, DeviceError> {
        let attempt = BootAttempt(self.state.borrow().attempt.0 + 1);
        self.parts.console.begin(attempt).await.map_err(|_| DeviceError::Gone)?;
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
        self.supply.switch(token, PowerState::Off).await.map(|_| ())
    }

    /// A device that was up under the coordinator before is so under this one.
    fn find_way_in(&mut self) {
        let (attempt, power) = {
            let state = self.state.borrow();
            (state.attempt, state.power)
        };
        match self.keeper.find(attempt).filter(|_| power != PowerReading::Off) {
            Some(way) => {
                self.client_key = Some(way.client_key);
                self.state.send_modify(|state| {
                    (state.address, state.host_key) = (Some(way.address), Some(way.host_key));
                });
            }
            None => self.keeper.forget(),
        }
    }

    /// From now on it can be entered, also by a coordinator after this one.
    async fn arrived(&mut self, address: IpAddr) {
        let way = {
            let state = self.state.borrow();
            let keys = state.host_key.clone().zip(self.client_key.clone());
            keys.map(|(host_key, client_key)| WayIn::new(state.attempt, address, host_key, client_key))
        };
        if let Some(way) = way {
            self.keeper.keep(way).await;
        }
        self.state.send_modify(|state| state.address = Some(address));
    }

    /// Whatever was reached in this attempt is no more: commands end, the address is unknown.
    fn forget(&mut self) {
        self.keeper.forget();
        self.powered.cancel();
        self.powered = CancellationToken::new();
        self.client_key = None;
        self.fate = None;
        self.state.send_modify(|state| {
            (state.address, state.host_key, state.mark, state.powered_on_at) = Default::default();
        });
    }

    /// Withdraws the offer and voids the ticket; tries both.
    async fn withdraw(&mut self, token: FencingToken) -> Result<(), DeviceError> {
        self.fate = None;
        let turn = self.fence.act(token).await?;
        let withdrawn = self.parts.boot.withdraw(token).await;
        self.fence.still(&turn, token)?;
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
            self.supply.note(Event::TicketRedeemed { address: address.to_string() }).await;
            self.arrived(address).await;
        }
    }

    /// Tells how a device was started that could be from saved memory.
    async fn woken(&mut self, fate: WakeFate) {
        match fate {
            WakeFate::None => {}
            WakeFate::Cold { cause } => self.supply.note(Event::ColdStart { cause }).await,
            WakeFate::Woken { address, saved } => {
                // It has what its ticket would have brought it; nobody is to have it twice.
                self.fate = None;
                if let Err(error) = self.parts.tickets.revoke(&self.parts.device.id).await {
                    tracing::warn!("a ticket that was not needed is not void: {}", Chain(&error));
                }
                self.supply.note(Event::Woken { address: address.to_string(), saved }).await;
                self.arrived(address).await;
            }
        }
    }

    async fn refused(&self, address: IpAddr, cause: TicketRefusal) {
        let (address, cause) = (address.to_string(), cause.to_string());
        self.supply.note(Event::TicketRefused { address, cause }).await;
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
        let fence = self.fence.clone();
        self.runs.spawn(async move {
            let result = tokio::select! {
                biased;
                fenced = fence.passed(token) => Err(fenced.into()),
                () = powered.cancelled() => Err(DeviceError::SwitchedOff),
                ran = reach.run(token, &target, &command, timeout) => {
                    ran.map_err(|error| DeviceError::port(error, DeviceError::Run))
                }
            };
            let _ = answer.send(result);
        });
    }

    fn target(&mut self, token: FencingToken) -> Result<ReachTarget, DeviceError> {
        self.fence.admit(token)?;
        self.parts.term.check()?;
        let state = self.state.borrow();
        match (state.address, &state.host_key, &self.client_key) {
            (Some(address), Some(host_key), Some(client_key)) => {
                Ok(ReachTarget { address, host_key: host_key.clone(), client_key: client_key.clone() })
            }
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
