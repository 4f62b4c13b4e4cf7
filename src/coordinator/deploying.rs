//! Requests on what devices run: people deploy through the coordinator, under their lease.

use super::desk::{no_such, seat};
use super::lending::Lending;
use super::refusal::Refusal;
use crate::bus::observe::observe;
use crate::bus::provision::{self, ProvisionError};
use crate::plan::lease::Caller;
use crate::support::chain::Chain;
use crate::wire::deploying::{Deploy, Deployed, StatusAsked, Statuses, Undeploy, Verified, VerifyAsked};
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a disagreement is waited out.
const MAX_WITHIN: Duration = Duration::from_secs(60);

impl Lending {
    pub(super) async fn deploy(&self, by: &Caller, asked: Deploy) -> Result<Deployed, Refusal> {
        let Deploy { device, deployment, score } = asked;
        let session = self.session_on(by, &device, false).await?;
        let token = seat(&session, &device)?.token;
        let put = provision::put_desired(&self.parts.bus, &device, &deployment, &score, token).await;
        let (generation, revision) = put.map_err(|e| refused("deployed", &e))?;
        Ok(Deployed { generation: Some(generation), revision: Some(revision) })
    }

    pub(super) async fn undeploy(&self, by: &Caller, asked: Undeploy) -> Result<Deployed, Refusal> {
        let Undeploy { device, deployment } = asked;
        let session = self.session_on(by, &device, false).await?;
        let token = seat(&session, &device)?.token;
        let deleted = provision::delete_desired(&self.parts.bus, &device, &deployment, token).await;
        Ok(Deployed { generation: None, revision: deleted.map_err(|e| refused("taken off", &e))? })
    }

    pub(super) async fn status(&self, asked: StatusAsked) -> Result<Statuses, Refusal> {
        self.device(&asked.device).ok_or_else(|| no_such(&asked.device))?;
        let observed = observe(&self.parts.bus, &asked.device).await;
        Ok(Statuses { deployments: observed.map_err(|e| refused("read", &e))?.statuses })
    }

    pub(super) async fn verify(&self, by: &Caller, asked: VerifyAsked) -> Result<Verified, Refusal> {
        let session = self.session_on(by, &asked.device, by.admin).await?;
        let deadline = Instant::now() + asked.within.min(MAX_WITHIN);
        let verified = session.verify(seat(&session, &asked.device)?, deadline).await;
        verified.map_err(|fault| Refusal::new(fault.cause))
    }
}

fn refused(what: &str, error: &ProvisionError) -> Refusal {
    Refusal::new(format!("nothing was {what}: {}", Chain(error)))
}
