//! Writes statuses to the bus: each when it changed, and a deletion when its deployment is gone.
//!
//! Which statuses may stand on the bus is kept on disk before they are written, so that a crash between
//! a deployment's end and the deletion of its status leaves no ghost.

use super::store::Store;
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::workload::Status;
use crate::support::chain::Chain;
use crate::wire::subject;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All statuses as they should stand; none before the first look at the device.
pub type Statuses = Option<BTreeMap<DeploymentName, Status>>;

/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Reports until the agent ends.
pub async fn run(
    device: DeviceId,
    bus: Bus,
    store: Store,
    mut statuses: watch::Receiver<Statuses>,
    shutdown: CancellationToken,
) {
    let mut reporter = Reporter { device, bus, reported: store.reported(), store, written: BTreeMap::new() };
    loop {
        let wanted = statuses.borrow_and_update().clone();
        let round = async {
            match wanted {
                Some(wanted) => reporter.write(&wanted).await,
                None => Ok(()),
            }
        };
        let done = tokio::select! {
            done = round => done,
            () = shutdown.cancelled() => return,
        };
        let retry = match done {
            Ok(()) => Duration::MAX,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "cannot report");
                RETRY
            }
        };
        tokio::select! {
            changed = statuses.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(retry) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

struct Reporter {
    device: DeviceId,
    bus: Bus,
    store: Store,
    reported: BTreeSet<DeploymentName>,
    written: BTreeMap<DeploymentName, Status>,
}

impl Reporter {
    async fn write(&mut self, wanted: &BTreeMap<DeploymentName, Status>) -> Result<(), BusError> {
        let all = self.reported.iter().chain(wanted.keys()).cloned().collect();
        self.remember(all);
        for (name, status) in wanted {
            if self.written.get(name) != Some(status) {
                let body = serde_json::to_vec(status).unwrap_or_default();
                self.bus.kv_put(subject::STATUS, &subject::deployment_key(&self.device, name), body).await?;
                tracing::info!(deployment = %name, phase = %status.phase, generation = status.generation, message = status.message, "status");
                self.written.insert(name.clone(), status.clone());
            }
        }
        let gone: Vec<_> = self.reported.iter().filter(|name| !wanted.contains_key(name)).cloned().collect();
        for name in gone {
            self.bus.kv_delete(subject::STATUS, &subject::deployment_key(&self.device, &name)).await?;
            tracing::info!(deployment = %name, "gone");
            self.written.remove(&name);
            let left = self.reported.iter().filter(|other| **other != name).cloned().collect();
            self.remember(left);
        }
        Ok(())
    }

    fn remember(&mut self, names: BTreeSet<DeploymentName>) {
        if self.reported == names {
            return;
        }
        if let Err(error) = self.store.put_reported(&names) {
            tracing::error!(error = %Chain(&error), "a status may be left behind when the agent is killed now");
        }
        self.reported = names;
    }
}
