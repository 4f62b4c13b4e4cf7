//! The power of one device: what is done the same way whatever switches it. Least time off, stagger, the intent
//! on the disk before the act, the reading after it, and the outcome in the journal.

use super::fence::DeviceFence;
use super::handle::{DeviceError, DeviceState};
use super::ports::{PortError, Power};
use super::stagger::Stagger;
use crate::journal::{JournalHandle, Receipt};
use crate::model::event::Event;
use crate::model::id::DeviceId;
use crate::model::lease::FencingToken;
use crate::model::power::{PowerReading, PowerState};
use crate::support::chain::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a switch that has obeyed may take to show it: a relay moves in 10 ms, a port of a network switch in
/// a second.
const CONFIRM: Duration = Duration::from_secs(2);
/// Pause between two readings meanwhile.
const CONFIRM_PAUSE: Duration = Duration::from_millis(100);

/// A device's power.
pub(super) struct Supply {
    pub(super) device: DeviceId,
    pub(super) switch: Arc<dyn Power>,
    pub(super) journal: JournalHandle,
    pub(super) min_off: Duration,
    pub(super) stagger: Arc<Stagger>,
    /// Of which only `power` and `wear` are written here.
    pub(super) state: watch::Sender<DeviceState>,
    pub(super) fence: DeviceFence,
    /// Since when the device has been off, as far as this process knows.
    pub(super) off_since: Option<Instant>,
}

impl Supply {
    /// Reads back.
    pub(super) async fn read(&mut self) -> Result<PowerReading, PortError> {
        let read = self.switch.get().await;
        let reading = *read.as_ref().unwrap_or(&PowerReading::Unknown);
        match reading {
            PowerReading::Off => self.off_since = self.off_since.or_else(|| Some(Instant::now())),
            PowerReading::On => self.off_since = None,
            PowerReading::Unknown => {}
        }
        self.state.send_if_modified(|state| std::mem::replace(&mut state.power, reading) != reading);
        read
    }

    /// Reads back; that it cannot is in the log.
    pub(super) async fn look(&mut self) -> PowerReading {
        self.read().await.unwrap_or_else(|error| {
            tracing::warn!("{}: {}", self.device, Chain(&error));
            PowerReading::Unknown
        })
    }

    /// Finds out what came of a switch that the last process had begun, and journals it: an intent is never left
    /// without an end.
    pub(super) async fn settle(&mut self) {
        let reading = self.look().await;
        if reading == PowerReading::Unknown {
            // The last process may have switched it off a moment ago.
            self.off_since = Some(Instant::now());
        }
        let Some(intent) = self.journal.recovered().intent.clone() else { return };
        let state = intent.state;
        self.note(match reading {
            PowerReading::Unknown => Event::PowerUnsettled { state },
            reading if reading == PowerReading::from(state) => Event::PowerDone { state, reading },
            reading => {
                let cause =
                    format!("the coordinator ended before it was done: power reads back as {reading}");
                Event::PowerFailed { state, cause }
            }
        })
        .await;
    }

    /// Switches: the intent on the disk, the act, the reading, the outcome. Answers the intent. Switching on waits
    /// for the least time off, and for its turn.
    pub(super) async fn switch(
        &mut self,
        token: FencingToken,
        state: PowerState,
    ) -> Result<Receipt, DeviceError> {
        if state == PowerState::On {
            if let Some(since) = self.off_since {
                sleep_until(since + self.min_off).await;
            }
            self.stagger.pass().await;
        }
        let attempt = self.state.borrow().attempt;
        let fence = self.fence.clone();
        let turn = fence.act(token).await?;
        let intent = self.journal.event_synced(attempt, Event::PowerIntent { state, token }).await?;
        // It may have been long on its way to the disk.
        let set = match fence.still(&turn, token) {
            Ok(()) => self.switch.set(token, state).await.map_err(|error| {
                let cause = Chain(&error).to_string();
                (cause, DeviceError::port(error, |source| DeviceError::Power { state, source }))
            }),
            Err(refused) => {
                let error = DeviceError::from(refused);
                Err((error.to_string(), error))
            }
        };
        drop(turn);
        let (event, outcome) = match set {
            Err((cause, error)) => {
                self.look().await;
                (Event::PowerFailed { state, cause }, Err(error))
            }
            Ok(()) => match self.confirm(state).await {
                Ok(reading) => {
                    // What cannot be read back counts as done.
                    match state {
                        PowerState::On => self.off_since = None,
                        PowerState::Off if reading == PowerReading::Unknown => {
                            self.off_since = Some(Instant::now());
                        }
                        PowerState::Off => {}
                    }
                    (Event::PowerDone { state, reading }, Ok(intent))
                }
                Err(error) => (Event::PowerFailed { state, cause: error.to_string() }, Err(error)),
            },
        };
        self.note(event).await;
        outcome
    }

    /// Reads back until it shows what was set, or that it cannot tell.
    async fn confirm(&mut self, state: PowerState) -> Result<PowerReading, DeviceError> {
        let deadline = Instant::now() + CONFIRM;
        loop {
            let reading = self.look().await;
            if reading == PowerReading::Unknown || reading == PowerReading::from(state) {
                return Ok(reading);
            }
            if Instant::now() >= deadline {
                return Err(DeviceError::NotConfirmed { state, reading });
            }
            sleep(CONFIRM_PAUSE).await;
        }
    }

    /// Journals what has happened. When it cannot, what happened stays so, and the log says it.
    pub(super) async fn note(&self, event: Event) {
        let attempt = self.state.borrow().attempt;
        // As the journal counts when it is read again.
        match &event {
            Event::PowerDone { state: done, .. } => self.state.send_modify(|state| state.wear.done(*done)),
            Event::PowerFailed { .. } | Event::PowerUnsettled { .. } => {
                self.state.send_modify(|state| state.wear.doubt());
            }
            _ => {}
        }
        if let Err(error) = self.journal.event(attempt, event).await {
            tracing::error!("an event of {} is lost: {}", self.device, Chain(&error));
        }
    }
}
