//! What others ask of the ledger.

use super::error::LedgerError;
use crate::model::device::Device;
use crate::model::health::{Finding, Health};
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{Lease, LeaseRequest};
use crate::model::ledger::DeviceRecord;
use crate::model::time::Deadline;
use crate::plan::lease::{Blocker, Book, Caller, Input, Now, Policy, QueueRow};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// What is told to somebody once all that was sent before is stored.
pub(super) type Reply = Box<dyn FnOnce(Result<(), LedgerError>) + Send>;
/// Makes the answer from the book that has followed the decision, or from why there is none.
pub(super) type Read = Box<dyn FnOnce(Result<(&Book, &Now), LedgerError>) -> Reply + Send>;
/// Where the end of somebody's waiting is told.
pub(super) type Waiter = oneshot::Sender<Result<Lease, LedgerError>>;

/// One request to the task.
pub(super) struct Ask {
    /// What is to be decided; none for a question.
    pub(super) input: Option<Input>,
    pub(super) read: Read,
    pub(super) waiter: Option<(LeaseId, Waiter)>,
    /// The rules from now on, where they are others.
    pub(super) policy: Option<Policy>,
}

/// A request that waits, or a booking, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What is asked for.
    pub request: LeaseRequest,
    /// Its place in the queue from 1; none for a booking.
    pub position: Option<usize>,
    /// What it waits for last.
    pub blocker: Blocker,
    /// After how long it is served, as far as can be foreseen; none when nobody knows.
    pub estimate: Option<Duration>,
}

impl From<QueueRow<'_>> for Place {
    fn from(row: QueueRow<'_>) -> Self {
        let QueueRow { request, position, blocker, estimate } = row;
        Self { request: request.clone(), position, blocker, estimate }
    }
}

/// A device with its lease, if it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// The device.
    pub record: DeviceRecord,
    /// Its lease, and when that ends.
    pub lease: Option<(Lease, Deadline)>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Reserved {
    /// Here they are.
    Granted(Box<Lease>),
    /// It waits. Dropping the [`Wait`] leaves it in the queue; [`LedgerHandle::release`] withdraws it.
    Waiting(Box<Place>, Wait),
}

/// The end of a request's waiting.
#[derive(Debug)]
pub struct Wait {
    end: oneshot::Receiver<Result<Lease, LedgerError>>,
}

impl Wait {
    /// Waits for the lease. [`LedgerError::Gone`] tells that the request was withdrawn, or that the ledger was
    /// closed; [`LedgerError::Away`] that the request never was stored. Cancel safe.
    pub async fn granted(&mut self) -> Result<Lease, LedgerError> {
        (&mut self.end).await.unwrap_or(Err(LedgerError::Gone))
    }
}

/// Asks the ledger. Cheap to clone. Each answer is told once all that it follows from is stored.
#[derive(Debug, Clone)]
pub struct LedgerHandle {
    asks: mpsc::Sender<Ask>,
    stored: watch::Receiver<u64>,
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask").field("input", &self.input).finish_non_exhaustive()
    }
}

impl LedgerHandle {
    pub(super) fn new(asks: mpsc::Sender<Ask>, stored: watch::Receiver<u64>) -> Self {
        Self { asks, stored }
    }

    /// The sequence of the last stored write: when it changes, look again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.stored.clone()
    }

    /// Asks for devices. A request that comes twice under one id is one request.
    pub async fn reserve(&self, by: Caller, request: LeaseRequest) -> Result<Reserved, LedgerError> {
        let (waiter, end) = oneshot::channel();
        let id = request.id.clone();
        let read = move |book: &Book, now: &Now| {
            if let Some(lease) = book.lease(&id) {
                return Some(Reserved::Granted(Box::new(lease.clone())));
            }
            let row = book.queue(&now.moment).into_iter().find(|row| row.request.id == id)?;
            Some(Reserved::Waiting(Box::new(row.into()), Wait { end }))
        };
        let waiter = Some((request.id.clone(), waiter));
        self.ask(Some(Input::Reserve { by, request }), waiter, read).await?.ok_or(LedgerError::Gone)
    }

    /// Makes a lease last longer; answers its new deadline. An extension that comes twice with the same number `once` is
    /// one.
    pub async fn extend(
        &self,
        by: Caller,
        lease: LeaseId,
        longer: Duration,
        once: u64,
    ) -> Result<Deadline, LedgerError> {
        let id = lease.clone();
        let read = move |book: &Book, _: &Now| book.deadline(&id);
        self.ask(Some(Input::Extend { by, lease, longer, once }), None, read).await?.ok_or(LedgerError::Gone)
    }

    /// Gives a lease to another user, under a new token.
    pub async fn transfer(&self, by: Caller, lease: LeaseId, to: UserName) -> Result<Lease, LedgerError> {
        let id = lease.clone();
        let read = move |book: &Book, _: &Now| book.lease(&id).cloned();
        self.ask(Some(Input::Transfer { by, lease, to }), None, read).await?.ok_or(LedgerError::Gone)
    }

    /// Ends a lease, or withdraws a request or booking.
    pub async fn release(&self, by: Caller, lease: LeaseId) -> Result<(), LedgerError> {
        self.put(Input::Release { by, lease }).await
    }

    /// The process by which a lease is held is alive.
    pub async fn heartbeat(&self, by: Caller, lease: LeaseId) -> Result<(), LedgerError> {
        self.put(Input::Heartbeat { by, lease }).await
    }

    /// A device is ready for the next holder.
    pub async fn device_ready(&self, device: DeviceId) -> Result<(), LedgerError> {
        self.put(Input::DeviceReady { device }).await
    }

    /// A device's health has changed, with a reason of one line.
    pub async fn device_health(
        &self,
        device: DeviceId,
        health: Health,
        reason: String,
    ) -> Result<(), LedgerError> {
        self.put(Input::DeviceHealth { device, health, reason }).await
    }

    /// What a run, a check or a training says of a device.
    pub async fn device_finding(&self, device: DeviceId, finding: Finding) -> Result<(), LedgerError> {
        self.put(Input::DeviceFinding { device, finding }).await
    }

    /// The inventory as it is to be, and the health of a device that is new.
    pub async fn inventory(&self, devices: Vec<Device>, newcomers: Health) -> Result<(), LedgerError> {
        self.put(Input::Inventory { devices, newcomers }).await
    }

    /// A device is made ready anew before its next holder has it.
    pub async fn renew(&self, device: DeviceId) -> Result<(), LedgerError> {
        self.put(Input::Renew { device }).await
    }

    /// Other rules from now on.
    pub async fn rule_by(&self, policy: Policy) -> Result<(), LedgerError> {
        self.send(None, None, Some(policy), |_, _| ()).await
    }

    /// The requests in the order in which they are served, then the bookings in that of their start.
    pub async fn queue(&self) -> Result<Vec<Place>, LedgerError> {
        let read = |book: &Book, now: &Now| book.queue(&now.moment).into_iter().map(Place::from).collect();
        self.ask(None, None, read).await
    }

    /// The devices, each with its lease if it has one.
    pub async fn devices(&self) -> Result<Vec<DeviceRow>, LedgerError> {
        let read = |book: &Book, _: &Now| {
            let lease = |id: &LeaseId| Some((book.lease(id)?.clone(), book.deadline(id)?));
            let rows = book.devices();
            rows.map(|(record, id)| DeviceRow { record: record.clone(), lease: id.and_then(lease) }).collect()
        };
        self.ask(None, None, read).await
    }

    /// Asks the book itself. The answer is told once all that it follows from is stored.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Book, &Now) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.ask(None, None, read).await
    }

    async fn put(&self, input: Input) -> Result<(), LedgerError> {
        self.ask(Some(input), None, |_, _| ()).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        input: Option<Input>,
        waiter: Option<(LeaseId, Waiter)>,
        read: impl FnOnce(&Book, &Now) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        self.send(input, waiter, None, read).await
    }

    async fn send<T: Send + 'static>(
        &self,
        input: Option<Input>,
        waiter: Option<(LeaseId, Waiter)>,
        policy: Option<Policy>,
        read: impl FnOnce(&Book, &Now) -> T + Send + 'static,
    ) -> Result<T, LedgerError> {
        let (answer, answered) = oneshot::channel();
        let read: Read = Box::new(move |decided| {
            let value = decided.map(|(book, now)| read(book, now));
            // Whoever asked may have gone meanwhile.
            Box::new(move |stored| drop(answer.send(stored.and(value))))
        });
        self.asks.try_send(Ask { input, read, waiter, policy }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LedgerError::Busy,
            mpsc::error::TrySendError::Closed(_) => LedgerError::Gone,
        })?;
        answered.await.unwrap_or(Err(LedgerError::Gone))
    }
}
