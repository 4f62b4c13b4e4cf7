//! Keeps deployments that files describe on the devices they select: one task, level-triggered.
//!
//! It holds nothing that NATS does not: a pass reads a record and what stands on its devices, `plan`
//! decides, and it writes. So it may be stopped between any two writes. A command is answered once its record is written.

use crate::bus::connect::Bus;
use crate::bus::deployments as kept;
use crate::bus::error::BusError;
use crate::bus::provision::ProvisionError;
use crate::model::deployment::{Deleting, DeploymentReport, DeploymentSpec, RECORD_VERSION, Record};
use crate::model::device::Device;
use crate::model::id::{DeploymentName, DeviceId, LabName};
use crate::model::lease::FencingToken;
use crate::plan::operator::{Write, concerned, decide};
use crate::support::chain::Chain;
use crate::support::clock;
use crate::support::lock::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long until all is looked at again while something is under way: agents take tenths of a second.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// The same when nothing is: a key may have been changed by hand.
const IDLE_PAUSE: Duration = Duration::from_secs(5);
/// The most writes of one pass over a deployment before the others have their turn.
const PASS_WRITES: u32 = 8;
/// How many commands may wait.
const COMMANDS: usize = 16;
/// How often a command's write is tried again when the record changed in between.
const ATTEMPTS: u32 = 5;

/// Where each deployment stands.
pub type Reports = BTreeMap<DeploymentName, DeploymentReport>;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Too many commands wait.
    #[error("the operator has too much to do")]
    Busy,
    /// The operator has ended.
    #[error("the operator has ended")]
    Gone,
    /// No such deployment.
    #[error("there is no deployment {0} of a file")]
    Unknown(DeploymentName),
    /// A later lease holds it.
    #[error("deployment {name} was applied under the later fencing token {floor}, not {token}")]
    Fenced {
        /// The deployment.
        name: DeploymentName,
        /// The token of the call.
        token: FencingToken,
        /// The token of its record.
        floor: FencingToken,
    },
    /// The record cannot be read or written.
    #[error("cannot keep the record of deployment {name}")]
    Keep {
        /// The deployment.
        name: DeploymentName,
        /// Why.
        source: ProvisionError,
    },
}

type Answer = oneshot::Sender<Result<(), OperatorError>>;

enum Change {
    Apply {
        spec: Box<DeploymentSpec>,
        within: BTreeSet<DeviceId>,
    },
    Withdraw {
        force: bool,
    },
    /// The lease ends, and the device is wiped before anybody else has it.
    Release,
}

struct Command {
    name: DeploymentName,
    token: FencingToken,
    change: Change,
    answer: Answer,
}

/// The operator's handle.
#[derive(Clone)]
pub struct Operator {
    commands: mpsc::Sender<Command>,
    reports: watch::Receiver<Reports>,
    /// No await happens under this lock.
    inventory: Arc<Mutex<Vec<Device>>>,
}

impl Operator {
    /// Starts the task, which ends with `stop`. `inventory` are the lab's devices.
    pub fn start(
        bus: Bus,
        lab: LabName,
        inventory: Vec<Device>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, reports) = watch::channel(Reports::new());
        let inventory = Arc::new(Mutex::new(inventory));
        let task = Task { bus, lab, inventory: Arc::clone(&inventory), told };
        tracker.spawn(task.run(inbox, stop));
        Self { commands, reports, inventory }
    }

    /// The lab has these devices from now on.
    pub(super) fn know(&self, devices: Vec<Device>) {
        *lock(&self.inventory) = devices;
    }

    /// Where each deployment stands, as last seen.
    pub fn reports(&self) -> watch::Receiver<Reports> {
        self.reports.clone()
    }

    /// Puts a deployment on those of the lease's devices `within` that it selects, in place of what was
    /// applied under its name before.
    pub async fn apply(
        &self,
        spec: DeploymentSpec,
        token: FencingToken,
        within: BTreeSet<DeviceId>,
    ) -> Result<(), OperatorError> {
        let name = spec.name.clone();
        self.command(name, token, Change::Apply { spec: Box::new(spec), within }).await
    }

    /// Takes a deployment off all devices. With `force`, those that have not confirmed it are not waited for.
    pub async fn withdraw(
        &self,
        name: DeploymentName,
        token: FencingToken,
        force: bool,
    ) -> Result<(), OperatorError> {
        self.command(name, token, Change::Withdraw { force }).await
    }

    /// Forgets what was applied under a lease that ends: its devices are wiped before anybody has them.
    pub async fn release(&self, token: FencingToken) -> Result<(), OperatorError> {
        let names: Vec<_> = self.reports.borrow().keys().cloned().collect();
        for name in names {
            match self.command(name, token, Change::Release).await {
                Ok(()) | Err(OperatorError::Unknown(_) | OperatorError::Fenced { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn command(
        &self,
        name: DeploymentName,
        token: FencingToken,
        change: Change,
    ) -> Result<(), OperatorError> {
        let (answer, answered) = oneshot::channel();
        let command = Command { name, token, change, answer };
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OperatorError::Busy,
            mpsc::error::TrySendError::Closed(_) => OperatorError::Gone,
        })?;
        answered.await.unwrap_or(Err(OperatorError::Gone))
    }
}

struct Task {
    bus: Bus,
    lab: LabName,
    inventory: Arc<Mutex<Vec<Device>>>,
    told: watch::Sender<Reports>,
}

impl Task {
    async fn run(self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let serve = async {
            loop {
                let pause = match self.pass().await {
                    Ok(true) => IDLE_PAUSE,
                    Ok(false) => BUSY_PAUSE,
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "deployments cannot be looked after");
                        IDLE_PAUSE
                    }
                };
                tokio::select! {
                    command = inbox.recv() => match command {
                        Some(Command { name, token, change, answer }) => {
                            let done = self.carry_out(&name, token, &change).await;
                            // So that a listing after the answer knows of it.
                            if done.is_ok() && matches!(change, Change::Apply { .. }) {
                                self.told.send_modify(|told| drop(told.insert(name, DeploymentReport::new())));
                            }
                            // Who asked may have gone; what was asked stands in the record.
                            let _ = answer.send(done);
                        }
                        None => return,
                    },
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = stop.cancelled() => {}
        }
    }

    async fn carry_out(
        &self,
        name: &DeploymentName,
        token: FencingToken,
        change: &Change,
    ) -> Result<(), OperatorError> {
        let keep = |source| OperatorError::Keep { name: name.clone(), source };
        let mut attempts = ATTEMPTS;
        loop {
            let (last, revision) = kept::record(&self.bus, &self.lab, name).await.map_err(keep)?;
            if let Some(last) = last.as_ref().filter(|last| token < last.token) {
                return Err(OperatorError::Fenced { name: name.clone(), token, floor: last.token });
            }
            let written = match (change, last) {
                (Change::Apply { spec, within }, last) => {
                    let (finalizers, orphans) = last.map(|l| (l.finalizers, l.orphans)).unwrap_or_default();
                    let record = Record {
                        version: RECORD_VERSION,
                        spec: (**spec).clone(),
                        token,
                        within: within.clone(),
                        deleting: None,
                        finalizers,
                        orphans,
                    };
                    kept::write(&self.bus, &self.lab, &record, revision).await.map(drop)
                }
                (_, None) => return Err(OperatorError::Unknown(name.clone())),
                (Change::Withdraw { force }, Some(mut record)) => {
                    let since = record.deleting.map_or_else(clock::wall_ms, |deleting| deleting.since);
                    let force = *force || record.deleting.is_some_and(|deleting| deleting.force);
                    record.deleting = Some(Deleting { since, force });
                    kept::write(&self.bus, &self.lab, &record, revision).await.map(drop)
                }
                (Change::Release, Some(record)) if record.token != token => return Ok(()),
                (Change::Release, Some(_)) => kept::remove(&self.bus, &self.lab, name, revision).await,
            };
            match written {
                Err(ProvisionError::Bus(BusError::Conflict { .. })) if attempts > 1 => attempts -= 1,
                done => return done.map_err(keep),
            }
        }
    }

    /// Looks at every deployment once; answers whether nothing is under way.
    async fn pass(&self) -> Result<bool, ProvisionError> {
        let (mut reports, mut settled) = (Reports::new(), true);
        for (record, revision) in kept::records(&self.bus, &self.lab).await? {
            let name = record.spec.name.clone();
            match self.look_after(record, revision).await {
                Ok(Some((report, quiet))) => {
                    settled &= quiet;
                    reports.insert(name, report);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%name, error = %Chain(&error), "a deployment cannot be looked after");
                    let last = self.told.borrow().get(&name).cloned().unwrap_or_default();
                    reports.insert(name, last);
                    settled = false;
                }
            }
        }
        self.told.send_if_modified(|told| {
            let changed = *told != reports;
            *told = reports;
            changed
        });
        Ok(settled)
    }

    /// Writes until nothing is left to write; none when the deployment has come to its end.
    async fn look_after(
        &self,
        mut record: Record,
        mut revision: u64,
    ) -> Result<Option<(DeploymentReport, bool)>, ProvisionError> {
        use crate::model::deployment::DeviceState::{Conflict, Failed, Running};
        let (bus, lab, name, token) = (&self.bus, &self.lab, record.spec.name.clone(), record.token);
        let inventory = lock(&self.inventory).clone();
        let mut writes_left = PASS_WRITES;
        loop {
            let mut observed = BTreeMap::new();
            for id in concerned(&record, &inventory) {
                observed.insert(id.clone(), kept::observe(bus, &id, &name).await?);
            }
            let (writes, report) = decide(&record, &inventory, &observed, clock::wall_ms());
            if writes.is_empty() || writes_left == 0 {
                let still = |state| matches!(state, Running | Failed | Conflict);
                let quiet = writes.is_empty() && report.values().all(|device| still(device.state));
                return Ok(Some((report, quiet)));
            }
            writes_left -= 1;
            let mut first = Ok(());
            for write in writes {
                let done = match write {
                    Write::Record(next) => {
                        revision = kept::write(bus, lab, &next, revision).await?;
                        record = *next;
                        Ok(())
                    }
                    Write::Finish => {
                        kept::remove(bus, lab, &name, revision).await?;
                        return Ok(None);
                    }
                    Write::Put(id) => kept::put(bus, &id, &name, &record.spec.score, token).await,
                    Write::Delete(id) => kept::delete(bus, &id, &name, token).await,
                };
                // What is wrong on one device holds up no other.
                first = first.and(done);
            }
            first?;
        }
    }
}
