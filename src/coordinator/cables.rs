//! Serial cables that lead to another board than the lab file says.
//!
//! Each boot of an image of ours says on its console which device it is, as its ticket told it. What a console means that shows
//! another device's name, `plan::cables` decides: the name alone proves nothing, for whoever holds a device can print any.
//! Both are quarantined until somebody has looked.

use super::lending::Lending;
use crate::console::Stages;
use crate::device::DeviceHandle;
use crate::model::boot::BootStage;
use crate::model::device::Backend;
use crate::model::event::Event;
use crate::model::health::Health;
use crate::model::id::DeviceId;
use crate::plan::cables::{Named, Ruling, judge};
use crate::support::chain::Chain;
use crate::support::clock;
use std::sync::Arc;
use tokio::time::timeout;

/// Whether it is a board: other devices have no serial cable.
pub(super) fn has_cable(device: &DeviceHandle) -> bool {
    matches!(device.device().backend, Backend::Pi | Backend::Sim)
}

/// Watches a board's console for as long as it is there.
pub(super) async fn watch(lending: Arc<Lending>, device: DeviceHandle) {
    let own = device.id().clone();
    let (mut stages, mut seen) = (device.console().stages(), None);
    loop {
        let ticket = {
            let stages = stages.borrow_and_update();
            let ticket = stages.get(BootStage::Ticket).filter(|ticket| Some(ticket.offset) != seen);
            ticket.map(|ticket| (ticket.offset, stages.attempt, shown(&ticket.line)))
        };
        if let Some((offset, attempt, shown)) = ticket {
            seen = Some(offset);
            if let Some(shown) = shown.filter(|shown| *shown != own)
                && is_of(&lending, &shown).await
            {
                let crossed = Event::CablesCrossed { shows: shown.to_string() };
                if let Err(error) = device.journal().event(attempt, crossed).await {
                    tracing::warn!(device = %own, error = %Chain(&error), "the journal was not written");
                }
                let cause = format!("its console shows {shown}: serial cables are crossed");
                quarantine(&lending, &own, cause).await;
                quarantine(
                    &lending,
                    &shown,
                    format!("the console of {own} shows it: serial cables are crossed"),
                )
                .await;
            }
        }
        if stages.changed().await.is_err() {
            return;
        }
    }
}

/// The device that the line of [`BootStage::Ticket`] names, if it names one.
fn shown(line: &str) -> Option<DeviceId> {
    let (_, name) = line.split_once("pilab: ticket ok ")?;
    DeviceId::new(name.split_whitespace().next()?).ok()
}

/// Whose name a console shows.
fn names(stages: &Stages) -> Option<DeviceId> {
    shown(&stages.get(BootStage::Ticket)?.line)
}

/// Whether a console that shows this device now is the device's.
async fn is_of(lending: &Lending, id: &DeviceId) -> bool {
    let line_ns = clock::stamp().boot_ns;
    let Some(device) = lending.device(id).filter(|device| has_cable(&device.handle)) else { return false };
    let (mut state, mut stages) = (device.handle.state(), device.handle.console().stages());
    loop {
        let ticket_ns = state.borrow_and_update().arrived_at.map(|at| at.boot_ns);
        let shows = names(&stages.borrow_and_update());
        let named = Named { id, ticket_ns, shows: shows.as_ref() };
        let left = match judge(line_ns, &named, clock::stamp().boot_ns) {
            Ruling::Crossed => return true,
            Ruling::Straight => return false,
            Ruling::Look(left) => left,
        };
        let more = async {
            // Losing either loses nothing: both are looked at again.
            tokio::select! {
                changed = state.changed() => changed.is_ok(),
                changed = stages.changed() => changed.is_ok(),
            }
        };
        // A device that is gone has no console to be crossed with.
        if timeout(left, more).await == Ok(false) {
            return false;
        }
    }
}

async fn quarantine(lending: &Lending, id: &DeviceId, cause: String) {
    tracing::error!(device = %id, cause, "quarantined");
    if let Err(error) = lending.ledger.device_health(id.clone(), Health::Quarantined, cause).await {
        tracing::warn!(device = %id, error = %Chain(&error), "its health was not written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_device_or_none() {
        let name = |line| shown(line).map(|id| id.to_string());
        assert_eq!(name("pilab: ticket ok rack-pi-2").as_deref(), Some("rack-pi-2"));
        assert_eq!(name("[    3.1] pilab: ticket ok rack-pi-2  ").as_deref(), Some("rack-pi-2"));
        for line in
            ["pilab: ticket ok", "pilab: ticket ok ", "pilab: ticket ok ../x", "pilab: network 10.0.0.1"]
        {
            assert_eq!(name(line), None, "{line:?}");
        }
    }
}
