//! Steps that hand deployments of files to the operator and wait for what comes of them.

use super::operator::OperatorError;
use super::session::Session;
use crate::model::deployment::{DeploymentReport, DeviceState};
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::run::{Fault, FaultKind};
use crate::model::scenario::Action;
use crate::support::chain::Chain;
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout_at};

impl Session {
    /// Does a step that acts on the lab.
    pub(super) async fn operate(&self, action: &Action, deadline: Instant) -> Result<String, Fault> {
        match action {
            Action::Apply { spec, on } => {
                let mut spec = (**spec).clone();
                for role in on {
                    spec.selector.devices.insert(self.seat(role)?.id().clone());
                }
                let within = self.seats.iter().map(|seat| seat.id().clone()).collect();
                let applied = self.operator.apply(spec, self.held.clone(), within).await;
                applied.map_err(|e| lab("apply the deployment", &e))?;
                Ok("the operator has it".to_owned())
            }
            Action::Withdraw { deployment, force } => {
                let withdrawn = self.operator.withdraw(deployment.clone(), self.held.clone(), *force).await;
                withdrawn.map_err(|e| lab("withdraw the deployment", &e))?;
                Ok("the operator takes it off all devices".to_owned())
            }
            Action::WaitDeployment { deployment, devices } => {
                self.wait_deployment(deployment, devices, deadline).await
            }
            _ => Err(fault(FaultKind::Lab, "this step acts on a device".to_owned())),
        }
    }

    async fn wait_deployment(
        &self,
        deployment: &DeploymentName,
        devices: &BTreeMap<String, DeviceState>,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let mut wanted: BTreeMap<DeviceId, DeviceState> = BTreeMap::new();
        for (role, state) in devices {
            wanted.insert(self.seat(role)?.id().clone(), *state);
        }
        let mut reports = self.operator.reports();
        let key = (self.held.lease.clone(), deployment.clone());
        let is_so = |report: Option<&Option<DeploymentReport>>| match report {
            Some(None) => false,
            Some(Some(report)) => {
                !wanted.is_empty()
                    && report
                        .iter()
                        .map(|(id, device)| (id, device.state))
                        .eq(wanted.iter().map(|(id, s)| (id, *s)))
            }
            None => wanted.is_empty(),
        };
        let became = timeout_at(deadline, reports.wait_for(|all| is_so(all.get(&key)))).await;
        let so = matches!(became, Ok(Ok(_)));
        drop(became);
        let seen = describe(reports.borrow().get(&key));
        if so {
            return Ok(seen);
        }
        let cause = format!("{deployment} did not become {wanted:?} in time; last: {seen}");
        Err(fault(FaultKind::Awaited, cause))
    }
}

fn describe(report: Option<&Option<DeploymentReport>>) -> String {
    let report = match report {
        None => return "gone from all devices".to_owned(),
        Some(None) => return "not looked at yet".to_owned(),
        Some(Some(report)) => report,
    };
    let devices = report.iter().map(|(id, device)| format!("{id} {:?} ({})", device.state, device.message));
    devices.collect::<Vec<_>>().join(", ")
}

fn lab(doing: &str, error: &OperatorError) -> Fault {
    fault(FaultKind::Lab, format!("cannot {doing}: {}", Chain(error)))
}

fn fault(kind: FaultKind, cause: String) -> Fault {
    Fault { kind, cause, device: None }
}
