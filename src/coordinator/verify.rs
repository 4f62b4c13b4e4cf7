//! What NATS holds, what the agent says and what podman on the device shows must agree: the step `verify`, and the
//! request.

use super::containers;
use super::session::{Seat, Session};
use super::steps::STATUS_PAUSE;
use crate::bus::observe::{Observed, observe};
use crate::model::run::{Fault, FaultKind};
use crate::plan::verify::{Mismatch, View, verify};
use crate::wire::deploying::Verified;
use tokio::time::{Instant, sleep};

impl Session {
    /// The step: any mismatch is a fault.
    pub(super) async fn verify_step(&self, seat: &Seat, deadline: Instant) -> Result<String, Fault> {
        let Verified { deployments, containers, mismatches } = self.verify(seat, deadline).await?;
        if mismatches.is_empty() {
            Ok(format!("{deployments} deployments and {containers} containers are as desired"))
        } else {
            Err(seat.fault(FaultKind::Expectation, mismatches.join("; ")))
        }
    }

    /// Looks until there is no mismatch; at the deadline, names all that are left.
    pub(super) async fn verify(&self, seat: &Seat, deadline: Instant) -> Result<Verified, Fault> {
        loop {
            let view = self.view(seat, deadline).await?;
            let mismatches: Vec<_> = verify(seat.id(), &view).iter().map(Mismatch::to_string).collect();
            if mismatches.is_empty() || Instant::now() >= deadline {
                let (deployments, containers) = (view.desired.len(), view.containers.len());
                return Ok(Verified { deployments, containers, mismatches });
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
