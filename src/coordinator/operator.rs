//! Keeps deployments that files describe on the devices they select: one task, level-triggered.
//!
//! It holds nothing that NATS and the ledger do not: a pass reads a record, whose lease that is now and what stands on its
//! devices, `plan` decides, and it writes. So it may be stopped between any two writes. A command is answered once its record is written and has
//! been looked at: what is told afterwards is of what was commanded.

use super::ledger::LedgerHandle;
use crate::bus::connect::Bus;
use crate::bus::deployments as kept;
use crate::bus::error::BusError;
use crate::bus::provision::ProvisionError;
use crate::model::deployment::{Deleting, DeploymentReport, DeploymentSpec, RECORD_VERSION, Record};
use crate::model::device::Device;
use crate::model::id::{DeploymentName, DeviceId, LabName, LeaseId};
use crate::model::lease::{FencingToken, LeaseToken};
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

/// Where each deployment stands, by the lease under which it was applied; none until it has been looked at. Two leases may
/// have deployments of one name.
pub type Reports = BTreeMap<(LeaseId, DeploymentName), Option<DeploymentReport>>;

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
    /// The lease has been given on.
    #[error("deployment {name} was applied under the later fencing token {floor}, not {token}")]
    Fenced {
        /// The deployment.
        name: DeploymentName,
        /// The token of the call.
        token: FencingToken,
        /// The token of its record.
        floor: FencingToken,
    },
    /// The records cannot be read.
    #[error("cannot read the records of deployments")]
    Read(#[source] ProvisionError),
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
        held: LeaseToken,
        spec: Box<DeploymentSpec>,
        within: BTreeSet<DeviceId>,
    },
    Withdraw {
        held: LeaseToken,
        name: DeploymentName,
        force: bool,
    },
    /// The lease ends, and its devices are wiped before anybody else has them.
    Release {
        held: LeaseToken,
    },
    /// Nothing but that all is looked at now.
    Look,
}

struct Command {
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
    /// Starts the task, which ends with `stop`. `inventory` are the lab's devices; `ledger` says whose they are.
    pub fn start(
        bus: Bus,
        lab: LabName,
        inventory: Vec<Device>,
        ledger: LedgerHandle,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, reports) = watch::channel(Reports::new());
        let inventory = Arc::new(Mutex::new(inventory));
        let task = Task { bus, lab, inventory: Arc::clone(&inventory), ledger, told };
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
        held: LeaseToken,
        within: BTreeSet<DeviceId>,
    ) -> Result<(), OperatorError> {
        self.command(Change::Apply { held, spec: Box::new(spec), within }).await
    }

    /// Takes a deployment off all devices. With `force`, those that have not confirmed it are not waited for.
    pub async fn withdraw(
        &self,
        name: DeploymentName,
        held: LeaseToken,
        force: bool,
    ) -> Result<(), OperatorError> {
        self.command(Change::Withdraw { held, name, force }).await
    }

    /// Forgets what was applied under a lease that ends: its devices are wiped before anybody has them.
    pub async fn release(&self, held: LeaseToken) -> Result<(), OperatorError> {
        self.command(Change::Release { held }).await
    }

    /// Looks at all deployments now, and not only at the next turn. What was applied under a lease that has been given on is
    /// kept under its new token afterwards: the new holder finds the devices as they were.
    pub async fn look(&self) -> Result<(), OperatorError> {
        self.command(Change::Look).await
    }

    async fn command(&self, change: Change) -> Result<(), OperatorError> {
        let (answer, answered) = oneshot::channel();
        let command = Command { change, answer };
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
    ledger: LedgerHandle,
    told: watch::Sender<Reports>,
}

impl Task {
    async fn run(self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let serve = async {
            let mut done: Option<(Answer, Result<(), OperatorError>)> = None;
            loop {
                let pause = match self.pass().await {
                    Ok(true) => IDLE_PAUSE,
                    Ok(false) => BUSY_PAUSE,
                    Err(error) => {
                        tracing::warn!(error = %Chain(&error), "deployments cannot be looked after");
                        IDLE_PAUSE
                    }
                };
                if let Some((answer, done)) = done.take() {
                    // Who asked may have gone; what was asked stands in the record.
                    let _ = answer.send(done);
                }
                tokio::select! {
                    command = inbox.recv() => match command {
                        Some(Command { change, answer }) => {
                            done = Some((answer, self.carry_out(change).await));
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

    async fn carry_out(&self, change: Change) -> Result<(), OperatorError> {
        match change {
            Change::Look => Ok(()),
            Change::Apply { held, spec, within } => {
                let name = spec.name.clone();
                let applied = |last: Option<Record>| {
                    let (finalizers, orphans) = last.map(|l| (l.finalizers, l.orphans)).unwrap_or_default();
                    Some(Record {
                        version: RECORD_VERSION,
                        spec: (*spec).clone(),
                        held: held.clone(),
                        within: within.clone(),
                        deleting: None,
                        finalizers,
                        orphans,
                    })
                };
                // Of what it said before nothing is true any more.
                self.told.send_modify(|told| drop(told.insert((held.lease.clone(), name.clone()), None)));
                self.rewrite(&held, &name, applied).await
            }
            Change::Withdraw { held, name, force } => {
                let withdrawn = |last: Option<Record>| {
                    let mut record = last?;
                    let since = record.deleting.map_or_else(clock::wall_ms, |deleting| deleting.since);
                    let force = force || record.deleting.is_some_and(|deleting| deleting.force);
                    record.deleting = Some(Deleting { since, force });
                    Some(record)
                };
                self.rewrite(&held, &name, withdrawn).await
            }
            Change::Release { held } => {
                let records = kept::records(&self.bus, &self.lab).await.map_err(OperatorError::Read)?;
                let own =
                    |record: &Record| record.held.lease == held.lease && record.held.token <= held.token;
                for (record, revision) in records.into_iter().filter(|(record, _)| own(record)) {
                    match kept::remove(&self.bus, &self.lab, &record, revision).await {
                        // A handover has removed it.
                        Ok(()) | Err(ProvisionError::Bus(BusError::Conflict { .. })) => {}
                        Err(source) => return Err(OperatorError::Keep { name: record.spec.name, source }),
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes a deployment's record anew, as `change` makes it of what stands there.
    async fn rewrite(
        &self,
        held: &LeaseToken,
        name: &DeploymentName,
        change: impl Fn(Option<Record>) -> Option<Record>,
    ) -> Result<(), OperatorError> {
        let keep = |source| OperatorError::Keep { name: name.clone(), source };
        let mut attempts = ATTEMPTS;
        loop {
            let (last, revision) =
                kept::record(&self.bus, &self.lab, &held.lease, name).await.map_err(keep)?;
            if let Some(last) = last.as_ref().filter(|last| held.token < last.held.token) {
                let (token, floor) = (held.token, last.held.token);
                return Err(OperatorError::Fenced { name: name.clone(), token, floor });
            }
            let Some(next) = change(last) else { return Err(OperatorError::Unknown(name.clone())) };
            match kept::write(&self.bus, &self.lab, &next, revision).await {
                Err(ProvisionError::Bus(BusError::Conflict { .. })) if attempts > 1 => attempts -= 1,
                done => return done.map(drop).map_err(keep),
            }
        }
    }

    /// Looks at every deployment once; answers whether nothing is under way.
    async fn pass(&self) -> Result<bool, ProvisionError> {
        let (mut reports, mut settled) = (Reports::new(), true);
        let tokens = self.ledger.read(|book, _| {
            let leases = book.leases().map(|(lease, _)| (lease.request.id.clone(), lease.token));
            leases.collect::<BTreeMap<LeaseId, FencingToken>>()
        });
        // One that cannot be asked now is asked in the next pass.
        let tokens = tokens.await.unwrap_or_default();
        for (record, revision) in kept::records(&self.bus, &self.lab).await? {
            let key = (record.held.lease.clone(), record.spec.name.clone());
            let token = tokens.get(&key.0).copied();
            match self.look_after(record, revision, token).await {
                Ok(Some((report, quiet))) => {
                    settled &= quiet;
                    reports.insert(key, Some(report));
                }
                Ok(None) => {}
                Err(error) => {
                    let (lease, name) = &key;
                    tracing::warn!(%lease, %name, error = %Chain(&error), "a deployment cannot be looked after");
                    let last = self.told.borrow().get(&key).cloned().flatten();
                    reports.insert(key, last);
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

    /// Writes until nothing is left to write; none when the deployment has come to its end. `token` is its lease's
    /// now: whoever it has been given to keeps what runs.
    async fn look_after(
        &self,
        mut record: Record,
        mut revision: u64,
        token: Option<FencingToken>,
    ) -> Result<Option<(DeploymentReport, bool)>, ProvisionError> {
        use crate::model::deployment::DeviceState::{Conflict, Failed, Running};
        let (bus, lab, name) = (&self.bus, &self.lab, record.spec.name.clone());
        if let Some(later) = token.filter(|token| *token > record.held.token) {
            record.held.token = later;
            revision = kept::write(bus, lab, &record, revision).await?;
        }
        let token = record.held.token;
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
                        kept::remove(bus, lab, &record, revision).await?;
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
