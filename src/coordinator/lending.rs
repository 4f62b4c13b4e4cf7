//! Lends devices: leases from the ledger, and for each lease the session by which its holder acts.
//!
//! ```text
//!  run ──► acquire ──► ledger ──► Grant (beats while it lives) ──► release ──► handover
//!  person ──► desk ──► ledger; session made when the holder first acts ──────► handover
//! ```

use super::cables;
use super::console;
use super::intake::Waits;
use super::ledger::{LedgerError, LedgerHandle, Reserved};
use super::operator::Operator;
use super::parts::{LabDevice, Parts};
use super::session::{Seat, Session};
use super::tunnel::Tunnels;
use super::uploads::Uploads;
use crate::model::device::Device;
use crate::model::health::Health;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{Lease, LeaseRequest, LeaseToken, Purpose};
use crate::model::scenario::Need;
use crate::plan::lease::{Caller, Refusal};
use crate::support::chain::Chain;
use crate::support::lock::lock;
use crate::wire::lending::Pending;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often a run's lease is held on to. A coordinator that dies ends its runs, and after three beats in a
/// row that are missing their leases end too.
pub(super) const RUN_BEAT: Duration = Duration::from_secs(20);
/// Pause before a run asks again for its devices.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// How long a device that a person boots may take until its ticket is void.
const BOOT_WINDOW: Duration = Duration::from_secs(180);

/// Why there are no devices for a run.
pub(super) enum Denied {
    /// There never will be.
    Never {
        role: String,
        cause: String,
    },
    /// The lab's rules, or the ledger.
    Refused(String),
    Cancelled,
}

/// The devices that can be lent, and who has them.
pub(super) struct Lending {
    pub(super) ledger: LedgerHandle,
    pub(super) parts: Arc<Parts>,
    pub(super) operator: Operator,
    /// No await happens under this lock.
    devices: Mutex<BTreeMap<DeviceId, LabDevice>>,
    /// What becomes of devices before their next holders have them. No await happens under this lock.
    pub(super) pending: Mutex<BTreeMap<DeviceId, Pending>>,
    /// Devices that were ended and could not be made anew yet: there is nothing of them to clean. No await happens under
    /// this lock.
    pub(super) unmade: Mutex<BTreeSet<DeviceId>>,
    /// Held while the lab file is read anew, and while a device is made anew.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) waits: Waits,
    pub(super) tunnels: Tunnels,
    pub(super) uploads: Uploads,
    /// What goes on beside the requests, until it is cancelled.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// No await happens under this lock.
    sessions: Mutex<BTreeMap<LeaseId, Arc<Session>>>,
}

/// Devices that belong to one run until they are released.
pub(super) struct Grant {
    pub(super) held: LeaseToken,
    /// In the order of the needs.
    pub(super) devices: Vec<LabDevice>,
    by: Caller,
    /// Cancelled when the lease ends, or is given to another, before the run does.
    pub(super) lost: CancellationToken,
    /// They end with the grant.
    _tasks: JoinSet<()>,
}

impl Lending {
    /// Lends the devices of `parts` from now on.
    pub(super) async fn start(
        ledger: LedgerHandle,
        parts: Arc<Parts>,
        operator: Operator,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, LedgerError> {
        let inventory: Vec<Device> =
            parts.devices.iter().map(|device| device.handle.device().clone()).collect();
        ledger.inventory(inventory, Health::Good).await?;
        let (tunnels, sessions) = (Tunnels::default(), Mutex::default());
        let uploads = Uploads::new(parts.uploads.clone());
        let (devices, pending, reloading) =
            (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        let this = Arc::new(Self {
            ledger,
            parts,
            operator,
            devices,
            pending,
            unmade: Mutex::default(),
            reloading,
            waits: Waits::default(),
            tunnels,
            uploads,
            tasks,
            stop,
            sessions,
        });
        this.parts.devices.iter().for_each(|device| this.put_device(device.clone()));
        let sweeping = Arc::clone(&this);
        this.spawn(async move { sweeping.uploads.keep_swept().await });
        Ok(this)
    }

    /// Does something beside the requests, until it is done or the coordinator ends.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled_owned(task).await;
        });
    }

    pub(super) fn device(&self, id: &DeviceId) -> Option<LabDevice> {
        lock(&self.devices).get(id).cloned()
    }

    /// Those that are there now.
    pub(super) fn devices(&self) -> impl Iterator<Item = LabDevice> + use<> {
        let all: Vec<_> = lock(&self.devices).values().cloned().collect();
        all.into_iter()
    }

    /// A device that is new, or made anew: its console is published from now on.
    pub(super) fn put_device(self: &Arc<Self>, device: LabDevice) {
        let (bus, lab) = (self.parts.bus.clone(), self.parts.lab.clone());
        self.spawn(console::publish(bus, lab, device.handle.clone()));
        if cables::has_cable(&device.handle) {
            self.spawn(cables::watch(Arc::clone(self), device.handle.clone()));
        }
        lock(&self.devices).insert(device.handle.id().clone(), device);
    }

    /// A device that is there no more.
    pub(super) fn take_device(&self, id: &DeviceId) {
        lock(&self.devices).remove(id);
    }

    /// Waits for devices that meet a run's needs. The lease bears the run's name.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        holder: &UserName,
        lease: LeaseId,
        needs: &[Need],
        cancel: &CancellationToken,
    ) -> Result<Grant, Denied> {
        self.ask_for(holder, lease, needs, false, cancel).await
    }

    /// [`Self::acquire`], for an admin, whatever the health of the devices that are named.
    pub(super) async fn acquire_any(
        self: &Arc<Self>,
        holder: &UserName,
        lease: LeaseId,
        needs: &[Need],
        cancel: &CancellationToken,
    ) -> Result<Grant, Denied> {
        self.ask_for(holder, lease, needs, true, cancel).await
    }

    async fn ask_for(
        self: &Arc<Self>,
        holder: &UserName,
        lease: LeaseId,
        needs: &[Need],
        any_health: bool,
        cancel: &CancellationToken,
    ) -> Result<Grant, Denied> {
        let by = Caller { user: holder.clone(), admin: any_health };
        let max = self.ledger.read(|book, _| book.policy().max_lease).await.map_err(refused)?;
        let request = LeaseRequest {
            id: lease.clone(),
            holder: holder.clone(),
            purpose: Purpose::new(format!("run {lease}")).unwrap_or_default(),
            needs: needs.to_vec(),
            // Nobody knows how long a run takes: it gives back what it no longer needs.
            duration: Some(max),
            priority: crate::model::lease::Priority::Normal,
            hold_by_process: Some(RUN_BEAT),
            start: None,
            any_health,
        };
        let beats = self.beat(&by, &lease);
        let granted = tokio::select! {
            granted = self.granted(&by, request) => granted,
            () = cancel.cancelled() => Err(Denied::Cancelled),
        };
        match granted {
            Ok(granted) => Ok(self.grant(by, granted, beats)),
            Err(denied) => {
                drop(beats);
                self.end(&by, &lease).await;
                Err(denied)
            }
        }
    }

    /// The devices of a lease, watched until they are released.
    pub(super) fn grant(&self, by: Caller, granted: Lease, mut tasks: JoinSet<()>) -> Grant {
        let devices = granted.devices.iter().filter_map(|id| self.device(id)).collect();
        let (held, lost) = (granted.held(), CancellationToken::new());
        let (over, lost_now) = (over(self.ledger.clone(), held.clone()), lost.clone());
        tasks.spawn(async move {
            if over.await {
                lost_now.cancel();
            }
        });
        Grant { held, devices, by, lost, _tasks: tasks }
    }

    /// While NATS is away it is asked for again: under one id it is one request. So it is when as many of the user's wait
    /// as may: whoever starts thirty runs wants all of them.
    async fn granted(&self, by: &Caller, request: LeaseRequest) -> Result<Lease, Denied> {
        let mut changes = self.ledger.changes();
        loop {
            changes.borrow_and_update();
            let answer = match self.ledger.reserve(by.clone(), request.clone()).await {
                Ok(Reserved::Granted(lease)) => Ok(*lease),
                Ok(Reserved::Waiting(_, mut wait)) => wait.granted().await,
                Err(error) => Err(error),
            };
            match answer {
                Err(LedgerError::Away | LedgerError::Busy) => tokio::time::sleep(ASK_AGAIN).await,
                // A ledger that is gone says so when it is asked.
                Err(LedgerError::Refused(Refusal::RequestQuota { .. })) => {
                    let _ = changes.changed().await;
                }
                answered => return answered.map_err(refused),
            }
        }
    }

    /// Gives a run's devices back.
    pub(super) async fn release(&self, grant: Grant) {
        self.end(&grant.by, &grant.held.lease).await;
    }

    /// Gives back what a run holds whose coordinator died.
    pub(super) async fn give_back(&self, owner: &UserName, lease: &LeaseId) {
        self.end(&Caller { user: owner.clone(), admin: false }, lease).await;
    }

    async fn end(&self, by: &Caller, lease: &LeaseId) {
        if let Err(error) = self.ledger.release(by.clone(), lease.clone()).await {
            tracing::warn!(%lease, error = %Chain(&error), "a lease is not given back, and ends by itself");
        }
    }

    pub(super) fn beat(&self, by: &Caller, lease: &LeaseId) -> JoinSet<()> {
        let (ledger, by, lease) = (self.ledger.clone(), by.clone(), lease.clone());
        let mut beats = JoinSet::new();
        beats.spawn(async move {
            loop {
                tokio::time::sleep(RUN_BEAT).await;
                if let Err(error) = ledger.heartbeat(by.clone(), lease.clone()).await {
                    tracing::debug!(%lease, error = %Chain(&error), "a beat was not heard");
                }
            }
        });
        beats
    }

    /// The session by which the holder of a lease acts.
    pub(super) fn session(&self, lease: &Lease) -> Arc<Session> {
        let mut sessions = lock(&self.sessions);
        // One from before a transfer acts under a token that has passed.
        let known = sessions.get(&lease.request.id).filter(|session| session.held.token == lease.token);
        if let Some(session) = known {
            return Arc::clone(session);
        }
        let seats = lease.request.needs.iter().zip(&lease.devices);
        let seats =
            seats.filter_map(|(need, id)| Some(Seat::new(&need.role, &self.device(id)?, lease.token)));
        let (parts, operator) = (Arc::clone(&self.parts), self.operator.clone());
        let session = Arc::new(Session::new(parts, seats.collect(), BOOT_WINDOW, operator, lease.held()));
        sessions.insert(lease.request.id.clone(), Arc::clone(&session));
        session
    }

    /// Forgets the sessions of leases that are no more.
    pub(super) fn forget(&self, is_over: impl Fn(&LeaseId) -> bool) {
        lock(&self.sessions).retain(|lease, _| !is_over(lease));
    }
}

/// True once the lease is no longer that of `token`; false when the ledger ends first.
pub(super) async fn over(ledger: LedgerHandle, held: LeaseToken) -> bool {
    let mut changes = ledger.changes();
    loop {
        changes.borrow_and_update();
        let LeaseToken { lease, token } = held.clone();
        let stands = ledger.read(move |book, _| book.lease(&lease).is_some_and(|lease| lease.token == token));
        if stands.await == Ok(false) {
            return true;
        }
        if changes.changed().await.is_err() {
            return false;
        }
    }
}

fn refused(error: LedgerError) -> Denied {
    match error {
        LedgerError::Refused(Refusal::Never { role, cause }) => Denied::Never { role, cause },
        other => Denied::Refused(Chain(&other).to_string()),
    }
}
