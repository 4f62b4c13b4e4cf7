//! A boot as it goes on: the agent is waited for, and a board whose boot ROM stands still is told of, and cut.

use super::parts::BootImage;
use super::refusal::Refusal;
use super::session::{Seat, Session};
use crate::device::ports::{BootOffer, PortError};
use crate::device::{BootRequest, DeviceError, DeviceState};
use crate::journal::{Entry, Item, Since};
use crate::model::boot::BootAttempt;
use crate::model::device::{Backend, Model};
use crate::model::event::Event;
use crate::model::power::PowerState;
use crate::model::run::{Fault, FaultKind};
use crate::model::time::Stamp;
use crate::plan::boot::{MAX_CYCLES, Stall, Watch};
use crate::plan::warm::{Cold, Start};
use crate::support::chain::Chain;
use crate::support::clock;
use std::future::pending;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// What a person boots.
#[derive(Clone)]
pub(super) enum Boots {
    /// An image, and the agent in it.
    Image(BootImage),
    /// Files of their own.
    Own(Own),
}

/// Files of one's own.
#[derive(Clone)]
pub(super) struct Own {
    /// What they are called in the journal.
    pub(super) name: String,
    pub(super) offer: BootOffer,
}

impl Own {
    /// The file after which the kernel should show itself; what a tree of one's own calls it nobody knows.
    fn kernel(&self, model: Model) -> Option<&'static str> {
        self.offer.tree.is_none().then_some(model.kernel_file())
    }
}

impl Session {
    /// Boots a device into what a person chose. Done when it is on.
    pub(super) async fn begin(&self, seat: &Seat, boots: &Boots) -> Result<BootAttempt, Refusal> {
        match boots {
            Boots::Image(image) => {
                // Who asks for a boot wants to see one.
                let start = Start::Cold(Cold::Asked);
                self.boot_image(seat, image, start).await.map_err(|fault| Refusal::new(fault.cause))
            }
            Boots::Own(own) => self.boot_own(seat, own).await,
        }
    }

    async fn boot_own(&self, seat: &Seat, own: &Own) -> Result<BootAttempt, Refusal> {
        let _booting = seat.booting.lock().await;
        let request = BootRequest { image_id: own.name.clone(), offer: own.offer.clone(), ticket: None };
        let attempt = seat.device.boot(seat.token, request).await.map_err(|error| Refusal {
            error: format!("{} was not booted: {}", seat.id(), Chain(&error)),
            hint: hint(&error),
            lost: None,
        })?;
        // It is nobody to NATS: the credentials of the boot before are over with it.
        self.revoke(seat, None).await.map_err(|fault| Refusal::new(fault.cause))?;
        Ok(attempt)
    }

    /// Goes on with a boot that has begun, until its end is in the journal: the agent's first answer, or why not.
    /// One that is over, because the device was switched off or booted anew, has no other.
    pub(super) async fn see_through(&self, seat: &Seat, boots: &Boots, mut attempt: BootAttempt) {
        let deadline = Instant::now() + self.boot_timeout;
        let done = match boots {
            Boots::Image(image) => self.see_up(seat, image, &mut attempt, deadline).await.map(drop),
            Boots::Own(own) => {
                let started = timeout_at(deadline, self.see_started(seat, own, &mut attempt)).await;
                // Nobody but its owner knows what it should come to.
                started.unwrap_or(Ok(()))
            }
        };
        let Err(fault) = done else { return };
        if is_over(&seat.device.state().borrow(), attempt) {
            return;
        }
        let given_up = Event::BootGivenUp { cause: fault.cause };
        if let Err(error) = seat.device.journal().event(attempt, given_up).await {
            tracing::warn!(device = %seat.id(), error = %Chain(&error), "the journal was not written");
        }
    }

    /// Waits for the agent of the image and writes its first answer to the journal. A board that stands still before its
    /// kernel is booted anew, a bounded number of times; `attempt` is then the new one.
    pub(super) async fn see_up(
        &self,
        seat: &Seat,
        image: &BootImage,
        attempt: &mut BootAttempt,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let mut cycles = 0;
        let mut stood = String::new();
        let kernel = seat.device.device().model.kernel_file();
        // Where it stood still is what a time-out has to tell, also of the attempts before.
        let late = |fault: Fault, stood: &str| Fault { cause: format!("{}{stood}", fault.cause), ..fault };
        let pong = loop {
            let stall = tokio::select! {
                pong = self.first_pong(seat, *attempt, deadline) => break pong.map_err(|e| late(e, &stood))?,
                stall = standing_still(seat, *attempt, Some(kernel)) => stall,
                fault = over(seat, *attempt) => return Err(fault),
            };
            let again = self.note_stall(seat, *attempt, &stall, cycles).await;
            stood = format!("; boot attempt {attempt} stood still: {} ({})", stall.at, stall.hint);
            if again {
                cycles += 1;
                *attempt = self.boot_image(seat, image, seat.start()).await?;
                continue;
            }
            // What a cut does not cure may yet pass.
            break tokio::select! {
                pong = self.first_pong(seat, *attempt, deadline) => pong.map_err(|e| late(e, &stood))?,
                fault = over(seat, *attempt) => return Err(fault),
            };
        };
        let event =
            Event::AgentAnswered { version: pong.agent_version.clone(), sha256: pong.agent_sha256.clone() };
        let written = seat.device.journal().event(*attempt, event).await;
        written.map_err(|e| seat.lab("write the journal", &e))?;
        self.check_agent(seat, image, &pong)?;
        Ok(format!("agent {}", pong.agent_version))
    }

    /// The same for files of one's own, until a kernel shows itself.
    async fn see_started(&self, seat: &Seat, own: &Own, attempt: &mut BootAttempt) -> Result<(), Fault> {
        for cycles in 0.. {
            let stall = tokio::select! {
                stall = standing_still(seat, *attempt, own.kernel(seat.device.device().model)) => stall,
                fault = over(seat, *attempt) => return Err(fault),
            };
            if !self.note_stall(seat, *attempt, &stall, cycles).await {
                let cause = format!("{}: {}", stall.at, stall.hint);
                return Err(seat.fault(FaultKind::BootTimeout, cause));
            }
            let again = self.boot_own(seat, own).await;
            *attempt = again.map_err(|refusal| seat.fault(FaultKind::Lab, refusal.error))?;
        }
        Ok(())
    }

    /// Writes to the journal that it stands still; answers whether it is to be booted anew.
    async fn note_stall(&self, seat: &Seat, attempt: BootAttempt, stall: &Stall, cycles: u32) -> bool {
        let again = stall.cure && cycles < MAX_CYCLES;
        let Stall { at, hint, .. } = stall.clone();
        tracing::warn!(device = %seat.id(), %attempt, at, hint, again, "a boot stands still");
        let stalled = Event::BootStalled { at, hint, again };
        if let Err(error) = seat.device.journal().event(attempt, stalled).await {
            tracing::warn!(device = %seat.id(), error = %Chain(&error), "the journal was not written");
        }
        again
    }
}

/// Whether the device boots no more in this attempt.
fn is_over(state: &DeviceState, attempt: BootAttempt) -> bool {
    state.attempt != attempt || state.powered_on_at.is_none()
}

/// Done when it was switched off, or booted anew by somebody: nothing of that boot is waited for, or cut, any more.
async fn over(seat: &Seat, attempt: BootAttempt) -> Fault {
    let mut state = seat.device.state();
    if state.wait_for(|state| is_over(state, attempt)).await.is_err() {
        // The device is gone, and so is this soon.
        return pending().await;
    }
    seat.fault(FaultKind::Lab, format!("boot attempt {attempt} is over: it was switched off, or booted anew"))
}

/// Done when the board stands still in this attempt before its kernel shows itself; never for a virtual machine, nor for
/// one that boots from its own card.
async fn standing_still(seat: &Seat, attempt: BootAttempt, kernel: Option<&str>) -> Stall {
    let asks_the_lab = matches!(seat.device.device().backend, Backend::Pi | Backend::Sim) && !seat.has_card();
    if !asks_the_lab {
        return pending().await;
    }
    let mut watch = Watch::new(kernel).of(seat.device.device().model);
    let mut cursor = seat.device.journal().cursor(Since::Attempt(attempt));
    let mut power_on: Option<Stamp> = None;
    loop {
        let due = power_on.zip(watch.due());
        let judge = async {
            match due {
                Some((on, due)) => sleep(due.saturating_sub(between(&on, &clock::stamp()))).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            item = cursor.next() => match item {
                Ok(Item::Record(record)) if record.attempt == attempt => {
                    let Entry::Event(event) = &record.entry else { continue };
                    // A quick board asks before its switch has been read back.
                    if let Event::PowerIntent { state: PowerState::On, .. } = event {
                        power_on = Some(record.stamp);
                    }
                    if let Some(on) = &power_on {
                        watch.see(event, between(on, &record.stamp));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(device = %seat.id(), error = %Chain(&error), "its boot is not watched any more");
                    return pending().await;
                }
            },
            () = judge => {
                let now = power_on.map(|on| between(&on, &clock::stamp())).unwrap_or_default();
                if let Some(stall) = watch.judge(now) {
                    return stall;
                }
            }
        }
    }
}

/// Within one boot of the host, which a coordinator does not outlive.
fn between(from: &Stamp, to: &Stamp) -> Duration {
    Duration::from_nanos(to.boot_ns.saturating_sub(from.boot_ns))
}

fn hint(error: &DeviceError) -> Option<String> {
    match error {
        DeviceError::Offer(PortError::Failed { hint, .. })
        | DeviceError::Power { source: PortError::Failed { hint, .. }, .. } => hint.clone(),
        _ => None,
    }
}
