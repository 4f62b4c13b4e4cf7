//! What the lab does with devices that nobody has: it checks those that are doubted, and switches off those that are on.
//!
//! ```text
//!  free ──(doubted, suspect or quarantined by rule; quiet; nobody waits)──► check ──► handover ──► free
//!    └──(on for too long: somebody switched it on beside the lab)─────────────────► handover ──► free
//! ```
//!
//! `plan::trust` decides both. What is switched off goes through the handover, so whoever is granted the device in that moment
//! is not in its way, and the least time off is kept.

use super::check;
use super::lending::Lending;
use crate::device::DeviceHandle;
use crate::model::boot::BootAttempt;
use crate::model::device::Capability;
use crate::model::event::Event;
use crate::model::health::Health;
use crate::model::id::DeviceId;
use crate::model::power::PowerReading;
use crate::plan::trust::Care;
use crate::support::chain::Chain;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How many devices are checked at a time.
const MAX_CHECKS: usize = 2;
/// How long a device is left alone before it is checked: whoever had it may try again.
const QUIET: Duration = Duration::from_secs(60);
/// How often switches are asked at most whether somebody has switched them beside the lab.
const ASK_POWER: Duration = Duration::from_secs(60);
/// The shortest and the longest pause between two looks.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// A device that nobody has.
struct Free {
    id: DeviceId,
    health: Health,
    /// How long until it is to be checked.
    check_in: Option<Duration>,
}

/// What is known of a device since nobody has it.
struct Idle {
    since: Instant,
    asked: Instant,
    /// In which boot attempt it was switched off for the last time: a switch that cannot tell is not worn out by that.
    let_off: Option<BootAttempt>,
}

/// Looks after the devices until `stop`.
pub(super) async fn run(lending: Arc<Lending>, stop: CancellationToken) {
    check::give_back(&lending).await;
    let mut idle: BTreeMap<DeviceId, Idle> = BTreeMap::new();
    let mut checks: JoinSet<DeviceId> = JoinSet::new();
    let mut checked: BTreeSet<DeviceId> = BTreeSet::new();
    loop {
        let pause = match look(&lending).await {
            Some((care, free)) => {
                let ids: BTreeSet<&DeviceId> = free.iter().map(|free| &free.id).collect();
                // Who has had it meanwhile begins the time anew; what a blind switch was told last stays known.
                for (_, idle) in idle.iter_mut().filter(|(id, _)| !ids.contains(id)) {
                    (idle.since, idle.asked) = (Instant::now(), Instant::now());
                }
                let quiet = care.recheck.unwrap_or(QUIET).min(QUIET);
                for free in &free {
                    let now = Instant::now();
                    let fresh = Idle { since: now, asked: now, let_off: None };
                    let idle = idle.entry(free.id.clone()).or_insert(fresh);
                    let due = free.check_in.is_some_and(|pause| pause.is_zero());
                    if due && idle.since.elapsed() >= quiet && checks.len() < MAX_CHECKS {
                        if checked.insert(free.id.clone()) {
                            let (lending, id) = (Arc::clone(&lending), free.id.clone());
                            checks.spawn(async move {
                                check::check(&lending, id.clone()).await;
                                id
                            });
                        }
                    } else {
                        rest(&lending, &care, free, idle).await;
                    }
                }
                pause(&care)
            }
            None => LOOKS.1,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
            Some(done) = checks.join_next() => match done {
                Ok(id) => {
                    checked.remove(&id);
                }
                Err(error) => {
                    tracing::error!(%error, "a check broke off");
                    checked.clear();
                }
            },
        }
    }
}

/// A quarter of the shortest time that matters.
fn pause(care: &Care) -> Duration {
    let shortest = care.recheck.into_iter().chain(care.idle_off).min().unwrap_or(LOOKS.1);
    (shortest / 4).clamp(LOOKS.0, LOOKS.1)
}

/// The devices that nobody has and that nobody waits for.
async fn look(lending: &Lending) -> Option<(Care, Vec<Free>)> {
    let read = lending.ledger.read(|book, now| {
        let care = book.policy().care.clone();
        let free = book.devices().filter_map(|(record, lease)| {
            let id = &record.device.id;
            let is_free = lease.is_none() && record.handover.is_none() && !record.removed;
            let check_in = care.check_in(record.checkup.health, &record.trust, &now.moment);
            let check_in = check_in.filter(|_| !book.is_wanted(id));
            is_free.then(|| Free { id: id.clone(), health: record.checkup.health, check_in })
        });
        let free = free.collect();
        (care, free)
    });
    read.await.ok().filter(|(care, _)| *care != Care::default())
}

/// Switches off what is on and should not be.
async fn rest(lending: &Arc<Lending>, care: &Care, free: &Free, idle: &mut Idle) {
    let Some(device) = lending.device(&free.id).map(|device| device.handle) else { return };
    let capabilities = &device.device().capabilities;
    let switched = capabilities.contains(&Capability::Boot) || capabilities.contains(&Capability::Power);
    let age = idle.since.elapsed();
    if !switched || !care.switches_off(&free.id, free.health, age) {
        return;
    }
    if idle.asked.elapsed() >= care.idle_off.unwrap_or(ASK_POWER).min(ASK_POWER) {
        idle.asked = Instant::now();
        // One that is busy, or does not answer, is asked again.
        let _ = device.read_power().await;
    }
    let (power, attempt) = {
        let state = device.state();
        let state = state.borrow();
        (state.power, state.attempt)
    };
    let off = match power {
        PowerReading::Off => false,
        PowerReading::On => true,
        PowerReading::Unknown => idle.let_off != Some(attempt),
    };
    if !off {
        return;
    }
    note(&device, attempt, Event::Idle { seconds: age.as_secs() }).await;
    tracing::info!(device = %free.id, seconds = age.as_secs(), "nobody has it, and it is on: it is switched off");
    match lending.ledger.renew(free.id.clone()).await {
        Ok(()) => idle.let_off = Some(attempt),
        Err(error) => tracing::warn!(device = %free.id, error = %Chain(&error), "it stays on for now"),
    }
}

async fn note(device: &DeviceHandle, attempt: BootAttempt, event: Event) {
    if let Err(error) = device.journal().event(attempt, event).await {
        tracing::warn!(device = %device.id(), error = %Chain(&error), "the journal was not written");
    }
}
