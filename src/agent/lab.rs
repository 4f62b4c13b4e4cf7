//! The agent's membership in the lab: connects for ever, and then answers, reads and beats while the
//! connection comes and goes. What runs on the device does not wait for it.

use super::facts::Facts;
use super::feed::{self, Offer};
use super::pace::Pace;
use super::ports::ContainerRuntime;
use super::{fleet, presence};
use crate::bus::connect::{Bus, BusOptions, Subscription};
use crate::bus::error::BusError;
use crate::model::id::DeviceId;
use crate::model::state_note::StateNote;
use crate::plan::backoff;
use crate::support::chain::Chain;
use crate::wire::subject;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// What the tasks that need a connection are made of.
pub(super) struct Lab<R> {
    pub(super) device: DeviceId,
    pub(super) options: BusOptions,
    pub(super) facts: Arc<Facts>,
    pub(super) runtime: Arc<R>,
    pub(super) notes: watch::Receiver<Vec<StateNote>>,
    pub(super) offers: mpsc::Sender<Offer>,
    pub(super) pace: Pace,
    /// Told of the connection once there is one.
    pub(super) joined: watch::Sender<Option<Bus>>,
}

impl<R: ContainerRuntime> Lab<R> {
    /// Joins, and takes part until the agent ends.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let Some((bus, requests)) = shutdown.run_until_cancelled(self.join()).await else { return };
        let Self { device, facts, runtime, notes, offers, joined, pace, .. } = self;
        let fleet = fleet::Fleet::new(device.clone(), bus.clone(), Arc::clone(&facts), runtime);
        joined.send_replace(Some(bus.clone()));
        tokio::join!(
            fleet.run(requests, shutdown.clone()),
            feed::run(device.clone(), bus.clone(), offers, pace, shutdown.clone()),
            presence::run(device, bus, facts, notes, pace, shutdown),
        );
    }

    /// Connects and listens for requests. A server that is not there is waited for by the bus, with a pause
    /// of its own; what else fails may be mended by a person, so it is tried again too.
    async fn join(&self) -> (Bus, Subscription) {
        let mut failures = 0;
        loop {
            match self.try_join().await {
                Ok(joined) => return joined,
                Err(error) => {
                    failures += 1;
                    tracing::error!(error = %Chain(&error), failures, "cannot join the lab; what runs here goes on");
                    tokio::time::sleep(backoff::pause(failures)).await;
                }
            }
        }
    }

    async fn try_join(&self) -> Result<(Bus, Subscription), BusError> {
        // Connecting is large and done once: on the heap, it is not part of what the agent holds all its life.
        let bus = Box::pin(Bus::connect(self.options.clone(), None)).await?;
        let requests = bus.subscribe(subject::fleet(&self.device, "*")).await?;
        bus.flush().await?;
        Ok((bus, requests))
    }
}
