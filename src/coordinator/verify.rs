//! The step `verify`: what NATS holds, what the agent says and what podman on the device shows must agree.

use super::containers;
use super::session::{Seat, Session};
use super::steps::STATUS_PAUSE;
use crate::bus::observe::{Observed, observe};
use crate::model::run::{Fault, FaultKind};
use crate::plan::verify::{Mismatch, View, verify};
use tokio::time::{Instant, sleep};

impl Session {
    /// Looks until there is no mismatch; at the deadline, names all that are left.
    pub(super) async fn verify(&self, seat: &Seat, deadline: Instant) -> Result<String, Fault> {
        loop {
            let view = self.view(seat, deadline).await?;
            let mismatches = verify(seat.id(), &view);
            if mismatches.is_empty() {
                let (deployments, containers) = (view.desired.len(), view.containers.len());
                return Ok(format!("{deployments} deployments and {containers} containers are as desired"));
            }
            if Instant::now() >= deadline {
                let named = mismatches.iter().map(Mismatch::to_string).collect::<Vec<_>>().join("; ");
                return Err(seat.fault(FaultKind::Expectation, named));
            }
            sleep(STATUS_PAUSE).await;
        }
    }

    async fn view(&self, seat: &Seat, deadline: Instant) -> Result<View, Fault> {
        let observed = observe(&self.parts.bus, seat.id()).await;
        let observed = observed.map_err(|e| seat.lab("read what NATS holds of the device", &e))?;
        let Observed { desired, index, receipt, statuses } = observed;
        let containers = containers::managed(&self.podman_ps(seat, deadline).await?);
        Ok(View { desired, index, receipt, statuses, containers })
    }
}
