//! What the agents of a run's devices say of its deployments, as facts of the run.

use super::log::RunLog;
use crate::bus::connect::Bus;
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::report::StatusReport;
use crate::model::run::RunFact;
use crate::model::workload::Phase;
use crate::support::chain::Chain;
use crate::wire::subject;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most deployments of a device that are told of.
const MAX_DEPLOYMENTS: usize = 64;
/// The longest message that is told, in characters.
const MAX_MESSAGE: usize = 200;

/// Adds to the log each phase that a deployment of the device goes into, until it is dropped. What is missed is not read
/// again: the steps ask for themselves.
pub(super) async fn follow(bus: Bus, device: DeviceId, log: Arc<RunLog>) {
    let all = subject::key(subject::STATUS, &subject::device_keys(&device));
    let mut reports = match bus.subscribe(all).await {
        Ok(reports) => reports,
        Err(error) => {
            tracing::warn!(%device, error = %Chain(&error), "phases are not told");
            return;
        }
    };
    let prefix = subject::key(subject::STATUS, &subject::deployment_prefix(&device));
    let mut known: BTreeMap<DeploymentName, Option<(Phase, u64)>> = BTreeMap::new();
    while let Some(message) = reports.next().await {
        let name = message.subject.strip_prefix(&prefix).and_then(|name| DeploymentName::new(name).ok());
        let Some(name) = name.filter(|name| known.contains_key(name) || known.len() < MAX_DEPLOYMENTS) else {
            continue;
        };
        let status =
            serde_json::from_slice::<StatusReport>(&message.payload).ok().map(|report| report.status);
        // What is neither a status nor nothing is not the run's to judge here.
        if status.is_none() && !message.payload.is_empty() {
            continue;
        }
        let now = status.as_ref().map(|status| (status.phase, status.generation));
        if known.insert(name.clone(), now) == Some(now) {
            continue;
        }
        let message = status.map(|status| status.message).unwrap_or_default();
        log.push(RunFact::Phase {
            device: device.clone(),
            deployment: name,
            phase: now.map(|(phase, _)| phase),
            generation: now.map_or(0, |(_, generation)| generation),
            message: message.chars().take(MAX_MESSAGE).collect(),
        })
        .await;
    }
}
