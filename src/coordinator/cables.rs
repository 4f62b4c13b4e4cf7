//! Serial cables that lead to another board than the lab file says.
//!
//! Each boot of an image of ours says on its console which device it is, and the mark that its ticket brought it. A name proves
//! nothing, for whoever holds a device can print any, and whoever reads a console can print what it has said. But nobody knows a
//! board's mark before a console has said it: one that is said first by another console than the board's own shows whose that
//! console is. Both are quarantined until somebody has looked.

use super::lending::Lending;
use crate::device::DeviceHandle;
use crate::model::boot::BootStage;
use crate::model::device::Backend;
use crate::model::event::Event;
use crate::model::health::Health;
use crate::model::id::DeviceId;
use crate::model::identity::Mark;
use crate::support::chain::Chain;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long what a console shows may take until it is known here.
const LAG: Duration = Duration::from_secs(10);

/// Who a console says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    device: DeviceId,
    mark: Mark,
}

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
            ticket.map(|ticket| (ticket.offset, stages.attempt, said(&ticket.line)))
        };
        if let Some((offset, attempt, said)) = ticket {
            seen = Some(offset);
            if let Some(said) = said.filter(|said| said.device != own)
                && is_of(&lending, &said).await
            {
                let shown = said.device;
                let crossed = Event::CablesCrossed { shows: shown.to_string() };
                if let Err(error) = device.journal().event(attempt, crossed).await {
                    tracing::warn!(device = %own, error = %Chain(&error), "the journal was not written");
                }
                let cause = format!("its console shows {shown}: serial cables are crossed");
                quarantine(&lending, &own, cause).await;
                let cause = format!("the console of {own} shows it: serial cables are crossed");
                quarantine(&lending, &shown, cause).await;
            }
        }
        if stages.changed().await.is_err() {
            return;
        }
    }
}

/// What the line of [`BootStage::Ticket`] says, if it says who it is.
fn said(line: &str) -> Option<Said> {
    let (_, words) = line.split_once("pilab: ticket ok ")?;
    let mut words = words.split_whitespace();
    Some(Said { device: DeviceId::new(words.next()?).ok()?, mark: words.next()?.parse().ok()? })
}

/// Whether another console that says this is the console of the device that it names.
async fn is_of(lending: &Lending, says: &Said) -> bool {
    let Some(named) = lending.device(&says.device).filter(|named| has_cable(&named.handle)) else {
        return false;
    };
    let was_given_it = || named.handle.state().borrow().mark == Some(says.mark);
    if !was_given_it() {
        return false;
    }
    // What is read along is read before it is looked through: who prints at once what the other's console shows is quicker.
    let mut stages = named.handle.console().stages();
    let own = stages.wait_for(|now| now.get(BootStage::Ticket).is_some());
    let own = match timeout(LAG, own).await {
        Ok(Ok(now)) => now.get(BootStage::Ticket).and_then(|ticket| said(&ticket.line)),
        // A device that is gone has no console to be crossed with.
        Ok(Err(_)) => return false,
        Err(_) => None,
    };
    // Booted anew meanwhile, its console shows that boot: nobody knows then what it has shown of this one.
    own.as_ref() != Some(says) && was_given_it()
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
    fn a_line_says_who_it_is_or_nothing() {
        let of = |line| said(line).map(|said| (said.device.to_string(), said.mark.to_string()));
        let whole = Some(("rack-pi-2".to_owned(), "00000000000000af".to_owned()));
        assert_eq!(of("pilab: ticket ok rack-pi-2 00000000000000af"), whole);
        assert_eq!(of("[    3.1] pilab: ticket ok rack-pi-2 00000000000000af  "), whole);
        for line in [
            "pilab: ticket ok",
            "pilab: ticket ok rack-pi-2",
            "pilab: ticket ok rack-pi-2 af",
            "pilab: ticket ok ../x 00000000000000af",
            "pilab: network 10.0.0.1",
        ] {
            assert_eq!(of(line), None, "{line:?}");
        }
    }
}
