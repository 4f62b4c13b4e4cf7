//! A boot that the lab makes to see how a device is: switched on, to its agent, off again.
//!
//! It has a lease like any other, of the lowest class and under a name that is nobody's. Whoever waits for the device goes
//! before it: a check that is in somebody's way ends, and says nothing.

use super::ledger::{LedgerHandle, Reserved};
use super::lending::{Grant, Lending};
use super::session::{Seat, Session};
use crate::model::event::Event;
use crate::model::id::{DeviceId, LeaseId, UserName};
use crate::model::lease::{LeaseRequest, Priority, Purpose};
use crate::model::run::Fault;
use crate::model::scenario::Need;
use crate::plan::lease::Caller;
use crate::plan::trust;
use crate::plan::warm::{Cold, Start};
use crate::support::chain::Chain;
use crate::support::clock;
use std::sync::Arc;
use std::time::Duration;

/// Under which name the lab holds what it checks. Nobody logs in under it.
pub(super) const CHECKER: &str = "health-check";
/// The longest a check's lease lasts.
const LONGEST: Duration = Duration::from_secs(600);

/// Who checks.
pub(super) fn checker() -> Option<Caller> {
    Some(Caller { user: UserName::new(CHECKER).ok()?, admin: true })
}

/// Gives back what a coordinator that died was checking.
pub(super) async fn give_back(lending: &Lending) {
    let Some(by) = checker() else { return };
    let leases = lending.leases_of(by.user.clone()).await.unwrap_or_default();
    for lease in leases {
        lending.give_back(&by.user, &lease).await;
    }
}

/// Checks a device, if it can be had at once, and tells what came of it.
pub(super) async fn check(lending: &Arc<Lending>, device: DeviceId) {
    let read = lending.ledger.read(|book, _| (book.policy().max_lease, book.policy().trust.boot_timeout));
    let Ok((max, boot_timeout)) = read.await else { return };
    let Some((lease, grant)) = acquire(lending, &device, max).await else { return };
    tracing::info!(%device, check = %lease, "a device is checked");
    let seats = grant.devices.iter().map(|own| Seat {
        first_start: Start::Cold(Cold::Asked),
        ..Seat::new("device", own, grant.held.token)
    });
    let (parts, operator) = (Arc::clone(&lending.parts), lending.operator.clone());
    let session = Session::new(parts, seats.collect(), boot_timeout, operator, grant.held.clone());
    let found = tokio::select! {
        biased;
        () = wanted(lending.ledger.clone(), device.clone()) => None,
        () = grant.lost.cancelled() => None,
        fault = session.lost() => Some(Some(fault)),
        done = boot(&session) => Some(done.err()),
    };
    match found {
        Some(fault) => {
            let (verdict, sign) = trust::checked(fault.as_ref().map(|fault| fault.kind));
            let cause = fault.map(|fault| fault.cause).unwrap_or_default();
            let event = Event::Checked {
                check: lease.to_string(),
                verdict: verdict.to_string(),
                cause: cause.clone(),
            };
            note(&session, event).await;
            lending.find(&device, lease.to_string(), (verdict, sign), &cause).await;
        }
        None => tracing::info!(%device, check = %lease, "a check gives way"),
    }
    // The handover switches it off.
    lending.release(grant).await;
}

async fn acquire(lending: &Arc<Lending>, device: &DeviceId, max: Duration) -> Option<(LeaseId, Grant)> {
    let by = checker()?;
    let id = format!("check-{}-{:08x}", clock::wall_ms() / 1000, rand::random::<u32>());
    let lease = LeaseId::new(id).ok()?;
    let need = Need { role: "device".to_owned(), device: Some(device.clone()), ..Need::default() };
    let request = LeaseRequest {
        id: lease.clone(),
        holder: by.user.clone(),
        purpose: Purpose::new("health check").unwrap_or_default(),
        needs: vec![need],
        duration: Some(max.min(LONGEST)),
        priority: Priority::Low,
        hold_by_process: Some(super::lending::RUN_BEAT),
        start: None,
        any_health: true,
    };
    match lending.ledger.reserve(by.clone(), request).await {
        Ok(Reserved::Granted(granted)) => {
            let beats = lending.beat(&by, &lease);
            Some((lease, lending.grant(by, *granted, beats)))
        }
        Ok(Reserved::Waiting(..)) => {
            lending.give_back(&by.user, &lease).await;
            None
        }
        Err(error) => {
            tracing::debug!(%device, error = %Chain(&error), "a device cannot be checked now");
            None
        }
    }
}

async fn boot(session: &Session) -> Result<(), Fault> {
    for seat in &session.seats {
        session.bring_up_bounded(seat).await?;
    }
    Ok(())
}

/// Done when somebody waits for the device.
async fn wanted(ledger: LedgerHandle, device: DeviceId) {
    let mut changes = ledger.changes();
    loop {
        changes.borrow_and_update();
        let id = device.clone();
        if ledger.read(move |book, _| book.is_wanted(&id)).await == Ok(true) {
            return;
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn note(session: &Session, event: Event) {
    for seat in &session.seats {
        if let Err(error) = seat.device.journal().event(seat.attempt(), event.clone()).await {
            tracing::warn!(device = %seat.id(), error = %Chain(&error), "the journal was not written");
        }
    }
}
