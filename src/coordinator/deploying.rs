//! Requests on what devices run: people deploy through the coordinator, under their lease. By hand on one device, or as files
//! that the operator keeps on those devices of the lease that they select.

use super::desk::{no_such, seat};
use super::lending::Lending;
use super::refusal::Refusal;
use super::session::Session;
use crate::bus::observe::observe;
use crate::bus::provision::{self, ProvisionError};
use crate::model::deployment::DeploymentReport;
use crate::model::id::{DeploymentName, LeaseId};
use crate::model::lease::Lease;
use crate::plan::lease::{Book, Caller, Now};
use crate::support::chain::Chain;
use crate::wire::deploying::{
    Applied, Apply, Deploy, Deployed, DeploymentRow, Deployments, StatusAsked, Statuses, Undeploy, Verified,
    VerifyAsked, Withdraw,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a disagreement is waited out.
const MAX_WITHIN: Duration = Duration::from_secs(60);
/// How many deployments of files a lease may have: the operator looks at each every few seconds.
const MAX_DEPLOYMENTS: usize = 256;

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

    pub(super) async fn apply(&self, by: &Caller, asked: Apply) -> Result<Applied, Refusal> {
        let Apply { lease, spec } = asked;
        let (lease, session) = self.session_of(by, lease).await?;
        let name = spec.name.clone();
        let others = {
            let reports = self.operator.reports();
            let reports = reports.borrow();
            reports.keys().filter(|(of, other)| *of == lease && *other != name).count()
        };
        if others >= MAX_DEPLOYMENTS {
            return Err(Refusal::new(format!("{lease} has {MAX_DEPLOYMENTS} deployments of files already")));
        }
        let within = session.seats.iter().map(|seat| seat.id().clone()).collect();
        let applied = self.operator.apply(spec, session.held.clone(), within).await;
        applied.map_err(|e| Refusal::new(Chain(&e).to_string()))?;
        Ok(Applied { devices: self.report_on(&lease, &name), lease })
    }

    pub(super) async fn withdraw(&self, by: &Caller, asked: Withdraw) -> Result<Applied, Refusal> {
        let Withdraw { lease, deployment, force } = asked;
        let (lease, session) = self.session_of(by, lease).await?;
        let withdrawn = self.operator.withdraw(deployment.clone(), session.held.clone(), force).await;
        withdrawn
            .map_err(|e| Refusal::hinted(Chain(&e).to_string(), "pilab deployments lists those of files"))?;
        Ok(Applied { devices: self.report_on(&lease, &deployment), lease })
    }

    fn report_on(&self, lease: &LeaseId, name: &DeploymentName) -> Option<DeploymentReport> {
        self.operator.reports().borrow().get(&(lease.clone(), name.clone())).cloned().flatten()
    }

    /// Those of leases that stand: a lease's end is known here before the operator has looked.
    pub(super) async fn deployments(&self) -> Result<Deployments, Refusal> {
        let leases =
            |book: &Book, _: &Now| book.leases().map(|(lease, _)| lease.request.id.clone()).collect();
        let leases: BTreeSet<LeaseId> = self.ledger.read(leases).await?;
        let reports = self.operator.reports();
        let mut reports = reports.borrow().clone();
        reports.retain(|(lease, _), _| leases.contains(lease));
        let row = |((lease, deployment), devices)| DeploymentRow { lease, deployment, devices };
        Ok(Deployments { deployments: reports.into_iter().map(row).collect() })
    }

    /// The session of one of the caller's leases: the one that is named, or the only one.
    async fn session_of(
        &self,
        by: &Caller,
        asked: Option<LeaseId>,
    ) -> Result<(LeaseId, Arc<Session>), Refusal> {
        let user = by.user.clone();
        let own = move |book: &Book, now: &Now| {
            let stands = book.leases().filter(|(lease, deadline)| {
                let is_over = deadline.left(&now.moment).is_some_and(|left| left.is_zero());
                lease.request.holder == user && !is_over
            });
            stands.map(|(lease, _)| lease.clone()).collect::<Vec<Lease>>()
        };
        let mut own = self.ledger.read(own).await?;
        if let Some(asked) = &asked {
            own.retain(|lease| lease.request.id == *asked);
        }
        match (&own[..], asked) {
            ([lease], _) => Ok((lease.request.id.clone(), self.session(lease))),
            (_, Some(asked)) => Err(Refusal::hinted(
                format!("{asked} is no lease of yours"),
                "pilab queue shows who has what",
            )),
            ([], None) => Err(Refusal::hinted("you hold no device", "pilab reserve asks for one")),
            (several, None) => {
                let ids: Vec<_> = several.iter().map(|lease| lease.request.id.as_str()).collect();
                let error = format!("you have several leases: {}", ids.join(", "));
                Err(Refusal::hinted(error, "--lease says which"))
            }
        }
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
