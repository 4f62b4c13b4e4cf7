//! Requests on devices and leases: who asks is checked, the ledger decides, the holder's session acts.

use super::console;
use super::findings::flakiness;
use super::ledger::LedgerError;
use super::lending::Lending;
use super::parts::LabDevice;
use super::refusal::Refusal;
use super::session::{Seat, Session};
use crate::console::WriteError;
use crate::model::event::Event;
use crate::model::health::Checkup;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{Lease, LeaseRequest};
use crate::model::ledger::DeviceRecord;
use crate::model::power::PowerReading;
use crate::plan::lease::{Blocker, Book, Caller, Now, QueueRow};
use crate::plan::warm::{Cold, Start};
use crate::support::chain::Chain;
use crate::wire::console::{ConsoleBreak, ConsolePage, ConsoleRead, ConsoleWrite};
use crate::wire::fleet::Pong;
use crate::wire::lending::{
    DeviceAsked, DeviceRow, DeviceShown, Devices, Extend, LeaseAsked, LeaseRow, LeaseState, Power, PowerAct,
    PowerDone, Queue, Reserve, Usage, WaitingRow,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The longest that an answer is held back while nothing changes.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The most devices of one request.
const MAX_NEEDS: usize = 256;

impl Lending {
    pub(super) async fn list(&self) -> Result<Devices, Refusal> {
        let told = self.ledger.read(|book, _| {
            let rows = book.devices();
            rows.map(|(record, _)| (record.clone(), usage(book, record))).collect::<Vec<_>>()
        });
        let rows = told.await?.into_iter().filter_map(|(record, usage)| self.row(&record, usage));
        Ok(Devices { devices: rows.collect() })
    }

    fn row(&self, record: &DeviceRecord, usage: Usage) -> Option<DeviceRow> {
        let LabDevice { handle, rated_cycles, .. } = self.device(&record.device.id)?;
        let state = handle.state().borrow().clone();
        let stage = handle.console().stages().borrow().last().map(|reached| reached.stage);
        let Checkup { health, reason, .. } = record.checkup.clone();
        Some(DeviceRow {
            device: record.device.clone(),
            power: state.power,
            switched: state.wear.switched,
            rated_cycles,
            attempt: state.attempt,
            stage,
            health,
            reason,
            flakiness: flakiness(&record.trust),
            usage,
            pending: self.pending(&record.device.id),
        })
    }

    pub(super) async fn show(&self, asked: DeviceAsked) -> Result<DeviceShown, Refusal> {
        let id = asked.device.clone();
        let told = self.ledger.read(move |book, _| {
            let record = book.device(&id)?;
            Some((record.clone(), usage(book, record)))
        });
        let (record, usage) = told.await?.ok_or_else(|| no_such(&asked.device))?;
        let row = self.row(&record, usage).ok_or_else(|| no_such(&asked.device))?;
        let checkups = record.earlier.into_iter().chain([record.checkup]).collect();
        Ok(DeviceShown { row, checkups, findings: record.trust.findings, past: record.past })
    }

    pub(super) async fn queue(&self) -> Result<Queue, Refusal> {
        Ok(self
            .ledger
            .read(|book, now| Queue {
                leases: book.leases().map(|(lease, _)| lease_row(book, lease, now)).collect(),
                waiting: book.queue(&now.moment).iter().map(waiting_row).collect(),
            })
            .await?)
    }

    pub(super) async fn leases_of(&self, user: UserName) -> Result<Vec<LeaseId>, Refusal> {
        let held = move |book: &Book, _: &Now| {
            let own = book.leases().filter(|(lease, _)| lease.request.holder == user);
            own.map(|(lease, _)| lease.request.id.clone()).collect()
        };
        Ok(self.ledger.read(held).await?)
    }

    pub(super) async fn reserve(&self, by: Caller, asked: Reserve) -> Result<LeaseState, Refusal> {
        bounded(&asked)?;
        let (id, no_wait) = (asked.id.clone(), asked.no_wait);
        let request = lease_request(&by, asked);
        // Dropping the wait leaves the request in the queue.
        drop(self.ledger.reserve(by.clone(), request).await?);
        let state = self.stands(&id).await?;
        match &state {
            LeaseState::Waiting(row) if no_wait && row.position.is_some() => {
                self.ledger.release(by, id).await?;
                Err(Refusal::new(format!("not now: {}", row.blocker)))
            }
            _ => Ok(state),
        }
    }

    /// What would become of it.
    pub(super) async fn estimate(&self, by: Caller, asked: Reserve) -> Result<LeaseState, Refusal> {
        bounded(&asked)?;
        let id = asked.id.clone();
        let request = lease_request(&by, asked);
        let read = move |book: &Book, now: &Now| {
            book.what_if(by, request, now).map(|book| standing(&book, &id, now))
        };
        self.ledger.read(read).await?.map_err(|refusal| LedgerError::from(refusal).into())
    }

    pub(super) async fn extend(&self, by: Caller, asked: Extend) -> Result<LeaseState, Refusal> {
        let Extend { lease, longer, once } = asked;
        let once = once.unwrap_or_else(rand::random);
        self.ledger.extend(by, lease.clone(), longer, once).await?;
        self.stands(&lease).await
    }

    pub(super) async fn release_by(&self, by: Caller, lease: LeaseId) -> Result<(), Refusal> {
        Ok(self.ledger.release(by, lease).await?)
    }

    pub(super) async fn heartbeat(&self, by: Caller, lease: LeaseId) -> Result<(), Refusal> {
        Ok(self.ledger.heartbeat(by, lease).await?)
    }

    /// How a lease stands, once that has changed or the time is up.
    pub(super) async fn watch(&self, by: &Caller, asked: LeaseAsked) -> Result<LeaseState, Refusal> {
        // Those who wait must not keep others from being heard: where too many do, it is answered at once.
        let Some(_held) = self.waits.hold(&by.user) else { return self.stands(&asked.lease).await };
        let deadline = Instant::now() + asked.wait.min(MAX_WAIT);
        let mut version = self.ledger.changes();
        let first = self.stands(&asked.lease).await?;
        let mut now = first.clone();
        while is_same(&first, &now) {
            version.borrow_and_update();
            now = self.stands(&asked.lease).await?;
            if !is_same(&first, &now) || !matches!(timeout_at(deadline, version.changed()).await, Ok(Ok(())))
            {
                break;
            }
        }
        Ok(now)
    }

    pub(super) async fn stands(&self, id: &LeaseId) -> Result<LeaseState, Refusal> {
        let id = id.clone();
        let read = move |book: &Book, now: &Now| standing(book, &id, now);
        Ok(self.ledger.read(read).await?)
    }

    /// Switches a device, as its holder, or as an admin who says why.
    pub(super) async fn power(&self, by: &Caller, asked: Power) -> Result<PowerDone, Refusal> {
        let Power { device, act, force } = asked;
        let session = self.session_on(by, &device, force.is_some()).await?;
        let seat = seat(&session, &device)?;
        if let Some(reason) = &force {
            let forced = Event::Forced { by: by.user.to_string(), reason: reason.as_str().to_owned() };
            let written = seat.device.journal().event_synced(seat.attempt(), forced).await;
            written.map_err(|e| Refusal::new(format!("the reason cannot be kept: {}", Chain(&e))))?;
        }
        let state = seat.device.state();
        let power = state.borrow().power;
        match act {
            PowerAct::On if power == PowerReading::On => {}
            // Not off first: the switch may be one that cannot tell, and the device be at work.
            PowerAct::On if !seat.boots_what_is_offered() => {
                let on = seat.device.on(seat.token).await;
                on.map_err(|e| Refusal::new(format!("{device} was not switched on: {}", Chain(&e))))?;
            }
            PowerAct::On => {
                session.start(seat, seat.start()).await.map_err(|fault| Refusal::new(fault.cause))?;
            }
            PowerAct::Cycle => {
                let start = Start::Cold(Cold::Asked);
                session.start(seat, start).await.map_err(|fault| Refusal::new(fault.cause))?;
            }
            PowerAct::Off => {
                let off = seat.device.off(seat.token).await;
                off.map_err(|e| Refusal::new(format!("{device} was not switched off: {}", Chain(&e))))?;
            }
        }
        let now = state.borrow();
        Ok(PowerDone { power: now.power, attempt: now.attempt })
    }

    /// Asks a device's agent, for its holder.
    pub(super) async fn ping(&self, by: &Caller, asked: DeviceAsked) -> Result<Pong, Refusal> {
        let session = self.session_on(by, &asked.device, false).await?;
        let seat = seat(&session, &asked.device)?;
        let pong = session.ping(seat).await;
        pong.map_err(|cause| Refusal::new(format!("the agent of {} does not answer: {cause}", asked.device)))
    }

    pub(super) async fn read_console(&self, asked: ConsoleRead) -> Result<ConsolePage, Refusal> {
        let device = self.device(&asked.device).ok_or_else(|| no_such(&asked.device))?;
        let page = console::page(&device.handle, asked.from).await;
        page.map_err(|e| Refusal::new(format!("the console cannot be read: {}", Chain(&e))))
    }

    pub(super) async fn write_console(&self, by: &Caller, asked: ConsoleWrite) -> Result<(), Refusal> {
        let session = self.session_on(by, &asked.device, false).await?;
        let seat = seat(&session, &asked.device)?;
        let written = seat.device.console().write(seat.token, asked.bytes).await;
        written.map_err(|e: WriteError| Refusal::new(Chain(&e).to_string()))
    }

    pub(super) async fn break_console(&self, by: &Caller, asked: ConsoleBreak) -> Result<(), Refusal> {
        let session = self.session_on(by, &asked.device, false).await?;
        let seat = seat(&session, &asked.device)?;
        let sent = seat.device.console().send_break(seat.token).await;
        sent.map_err(|e: WriteError| Refusal::new(Chain(&e).to_string()))
    }

    /// The session of whoever holds the device, when it is the caller's, or an admin forces it.
    pub(super) async fn session_on(
        &self,
        by: &Caller,
        device: &DeviceId,
        force: bool,
    ) -> Result<Arc<Session>, Refusal> {
        if self.device(device).is_none() {
            return Err(no_such(device));
        }
        let (id, user) = (device.clone(), by.user.clone());
        let held =
            self.ledger.read(move |book, now| (holding(book, now, &id).cloned(), book.former(&user, &id)));
        let (lease, former) = held.await?;
        if let Some(lease) = &lease
            && (lease.request.holder == by.user || (force && by.admin))
        {
            return Ok(self.session(lease));
        }
        // An admin is told how to act all the same.
        if let Some(lost) = former.filter(|_| lease.is_none() || !by.admin) {
            return Err(lost.into());
        }
        let Some(lease) = lease else {
            return Err(Refusal::hinted(format!("nobody holds {device}"), format!("pilab reserve {device}")));
        };
        let holder = &lease.request.holder;
        let hint = if by.admin {
            "--force --reason TEXT does it all the same"
        } else {
            "pilab queue shows for how long"
        };
        let error = format!("{device} is {holder}'s ({})", lease.request.id);
        Err(Refusal::hinted(error, hint))
    }
}

/// Matching takes time with the square of it.
fn bounded(asked: &Reserve) -> Result<(), Refusal> {
    let count = asked.needs.len();
    if count <= MAX_NEEDS {
        return Ok(());
    }
    Err(Refusal::new(format!("{count} devices are asked for at once; at most {MAX_NEEDS}")))
}

fn lease_request(by: &Caller, asked: Reserve) -> LeaseRequest {
    LeaseRequest {
        id: asked.id,
        holder: by.user.clone(),
        purpose: asked.purpose,
        needs: asked.needs,
        duration: asked.duration,
        priority: asked.priority,
        hold_by_process: asked.hold_by_process,
        start: asked.start_ms,
        any_health: false,
    }
}

fn standing(book: &Book, id: &LeaseId, now: &Now) -> LeaseState {
    match book.lease(id) {
        Some(lease) => LeaseState::Granted(lease_row(book, lease, now)),
        None => {
            let queue = book.queue(&now.moment);
            let row = queue.iter().find(|row| row.request.id == *id);
            row.map_or(LeaseState::Ended, |row| LeaseState::Waiting(waiting_row(row)))
        }
    }
}

/// The lease that a device is under. Where the ledger cannot be written, one that is over still stands in it.
pub(super) fn holding<'a>(book: &'a Book, now: &Now, device: &DeviceId) -> Option<&'a Lease> {
    let (lease, deadline) = book.lease_of(device)?;
    let is_over = deadline.left(&now.moment).is_some_and(|left| left.is_zero());
    (!is_over).then_some(lease)
}

pub(super) fn no_such(device: &DeviceId) -> Refusal {
    Refusal::hinted(format!("the lab has no device {device}"), "pilab devices lists them")
}

pub(super) fn seat<'a>(session: &'a Session, device: &DeviceId) -> Result<&'a Seat, Refusal> {
    let seat = session.seats.iter().find(|seat| seat.id() == device);
    seat.ok_or_else(|| Refusal::new(format!("{device} is no part of the lease any more")))
}

fn usage(book: &Book, record: &DeviceRecord) -> Usage {
    match book.lease_of(&record.device.id) {
        Some((lease, deadline)) => Usage::Leased {
            lease: lease.request.id.clone(),
            holder: lease.request.holder.clone(),
            until_ms: deadline.wall_ms(),
            purpose: lease.request.purpose.clone(),
        },
        None if record.handover.is_some() => Usage::Handover,
        None => Usage::Free,
    }
}

/// Estimates and remaining times change all the time: they alone are no change.
fn is_same(before: &LeaseState, now: &LeaseState) -> bool {
    match (before, now) {
        (LeaseState::Waiting(before), LeaseState::Waiting(now)) => {
            (before.position, &before.blocker) == (now.position, &now.blocker)
        }
        (LeaseState::Granted(before), LeaseState::Granted(now)) => {
            (&before.holder, before.until_ms) == (&now.holder, now.until_ms)
        }
        (before, now) => before == now,
    }
}

fn lease_row(book: &Book, lease: &Lease, now: &Now) -> LeaseRow {
    let deadline = book.deadline(&lease.request.id).unwrap_or(lease.deadline);
    LeaseRow {
        lease: lease.request.id.clone(),
        holder: lease.request.holder.clone(),
        purpose: lease.request.purpose.clone(),
        devices: lease.devices.clone(),
        until_ms: deadline.wall_ms(),
        left: deadline.left(&now.moment),
    }
}

fn waiting_row(row: &QueueRow<'_>) -> WaitingRow {
    WaitingRow {
        lease: row.request.id.clone(),
        holder: row.request.holder.clone(),
        purpose: row.request.purpose.clone(),
        devices: row.request.needs.len(),
        position: row.position,
        blocker: blocker(&row.blocker),
        estimate: row.estimate,
    }
}

fn blocker(blocker: &Blocker) -> String {
    match blocker {
        Blocker::Lease { device, lease, holder } => format!("{device} is {holder}'s ({lease})"),
        Blocker::Handover { device } => format!("{device} is being made ready"),
        Blocker::Request { device, request, holder } => {
            format!("{device} goes to {holder} first ({request})")
        }
        Blocker::Booking { device, booking } => format!("{device} is booked ({booking})"),
        Blocker::Start { .. } => "its start".to_owned(),
        Blocker::Health { device, health, reason, .. } => format!("{device} is not lent: {health}: {reason}"),
        Blocker::Never { role, cause } => format!("need {role:?} cannot be met any more: {cause}"),
        Blocker::Nothing => "its turn".to_owned(),
    }
}
