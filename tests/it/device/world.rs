//! The world around one device as a fake: it keeps state, writes down what is done to it, and fails on command.

use pilab::device::ports::{
    Boot, BootOffer, PortError, PortFuture, Power, Reach, ReachOutput, ReachTarget, TicketFate, TicketGrant,
    TicketOffice,
};
use pilab::model::id::DeviceId;
use pilab::model::lease::FencingToken;
use pilab::model::power::{PowerReading, PowerState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What is wrong with the world.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The switch answers an error.
    SwitchFails,
    /// The switch answers well and does nothing.
    SwitchSticks,
    /// The switch never answers.
    SwitchHangs,
    /// The switch shows what it did only when it is asked for the third time.
    SwitchLags,
    /// The switch works and cannot be read back.
    Blind,
    /// No boot files can be offered.
    OfferFails,
    /// Boot files stay offered.
    WithdrawFails,
    /// A ticket stays good.
    VoidFails,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) power: Option<PowerState>,
    pub(crate) fault: Fault,
    /// For so many questions more it shows that it is off.
    lag: u32,
    /// Every act, in order.
    pub(crate) acts: Vec<String>,
    /// Whether there is something to boot.
    pub(crate) offered: bool,
    pub(crate) cmdline: Vec<String>,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) fate: Option<watch::Sender<TicketFate>>,
}

/// The world around one device: power, boot files, tickets and SSH in one.
#[derive(Default)]
pub(crate) struct World {
    state: Mutex<State>,
    pub(crate) acted: Notify,
}

impl World {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn act(&self, act: impl Into<String>) {
        self.lock().acts.push(act.into());
        self.acted.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().acts)
    }
}

fn failed(operation: &str) -> PortError {
    PortError::Failed { operation: operation.to_owned(), hint: None, source: "broken".into() }
}

impl Power for World {
    fn set(&self, _: FencingToken, state: PowerState) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.act(format!("power {state:?}"));
            let fault = self.lock().fault;
            match fault {
                Fault::SwitchFails => return Err(failed("switch the relay")),
                Fault::SwitchSticks => {}
                Fault::SwitchHangs => std::future::pending().await,
                Fault::SwitchLags => {
                    let mut inside = self.lock();
                    (inside.lag, inside.power) = (2, Some(state));
                }
                _ => self.lock().power = Some(state),
            }
            Ok(())
        })
    }

    fn get(&self) -> PortFuture<'_, PowerReading> {
        let mut inside = self.lock();
        let reading = match inside.power {
            Some(_) if inside.fault == Fault::Blind => PowerReading::Unknown,
            Some(PowerState::On) if inside.lag > 0 => PowerReading::Off,
            power => power.map_or(PowerReading::Unknown, PowerReading::from),
        };
        inside.lag = inside.lag.saturating_sub(1);
        Box::pin(async move { Ok(reading) })
    }
}

impl Boot for World {
    fn offer(&self, _: FencingToken, offer: BootOffer) -> PortFuture<'_, ()> {
        Box::pin(async move {
            self.act(format!("offer {}", offer.attempt));
            self.lock().cmdline = offer.cmdline;
            if self.lock().fault == Fault::OfferFails {
                return Err(failed("write the boot tree"));
            }
            self.lock().offered = true;
            Ok(())
        })
    }

    fn withdraw(&self, _: FencingToken) -> PortFuture<'_, ()> {
        Box::pin(async {
            self.act("withdraw");
            if self.lock().fault == Fault::WithdrawFails {
                return Err(failed("remove the boot tree"));
            }
            self.lock().offered = false;
            Ok(())
        })
    }
}

impl TicketOffice for World {
    fn issue(&self, grant: TicketGrant) -> PortFuture<'_, Vec<String>> {
        Box::pin(async move {
            self.act(format!("issue {}", grant.mac));
            let mut state = self.lock();
            (state.files, state.fate) = (grant.files, Some(grant.fate));
            Ok(vec!["pilab.ticket=t".to_owned()])
        })
    }

    fn revoke<'a>(&'a self, device: &'a DeviceId) -> PortFuture<'a, ()> {
        Box::pin(async move {
            self.act(format!("revoke {device}"));
            if self.lock().fault == Fault::VoidFails {
                return Err(failed("void the ticket"));
            }
            self.lock().fate = None;
            Ok(())
        })
    }
}

impl Reach for World {
    fn run<'a>(
        &'a self,
        _: FencingToken,
        target: &'a ReachTarget,
        command: &'a [String],
        _: Duration,
    ) -> PortFuture<'a, ReachOutput> {
        Box::pin(async move {
            self.act(format!("run {} at {} as {}", command.join(" "), target.address, target.client_key));
            if command[0] == "sleep" {
                std::future::pending::<()>().await;
            }
            Ok(ReachOutput { exit_code: Some(0), stdout: b"ok".to_vec(), stderr: Vec::new() })
        })
    }
}
