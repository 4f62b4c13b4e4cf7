//! Boots that the coordinator before this one began, on devices that somebody still holds.
//!
//! A boot's ticket, and the files that a board asks for, are one process's: they went with it. A device that was on its
//! way is booted anew, and its journal says why; so is a board that was up and asks for its files again. What a user
//! booted of her own is not known any more: that is said, and the rest is hers. What follows from giving a lease on is done
//! again: `transfer`. Runs end otherwise: `recover`.

use super::booting::Boots;
use super::lending::Lending;
use super::session::{Seat, Session};
use crate::journal::{Cursor, Entry, Item, JournalError, Since};
use crate::model::boot::{BootAttempt, BootStage};
use crate::model::device::Backend;
use crate::model::event::Event;
use crate::model::id::{DeviceId, LeaseId};
use crate::model::lease::Lease;
use crate::model::netboot::NetbootFact;
use crate::model::power::PowerReading;
use crate::support::chain::Chain;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the journal says of it.
const AT: &str = "the coordinator was started anew while it booted";
const HINT: &str = "its ticket and its boot files went with the one before";

impl Lending {
    /// Goes on with the boots of all leases but those of `runs`.
    pub(super) async fn adopt(self: &Arc<Self>, runs: BTreeSet<LeaseId>) {
        let held = self.ledger.read(move |book, _| {
            let leases = book.leases().map(|(lease, _)| lease);
            leases.filter(|lease| !runs.contains(&lease.request.id)).cloned().collect::<Vec<Lease>>()
        });
        let held = match held.await {
            Ok(held) => held,
            Err(error) => {
                return tracing::warn!(error = %Chain(&error), "boots that were under way are not looked at");
            }
        };
        for lease in held {
            let session = self.session(&lease);
            if !lease.former.is_empty() {
                // The last coordinator may have died between giving it on and what follows from that.
                let (this, given) = (Arc::clone(self), lease.clone());
                self.spawn(async move { this.settle_transfer(&given, false).await });
            }
            for id in lease.devices {
                let session = Arc::clone(&session);
                self.spawn(async move { session.go_on(&id).await });
            }
        }
    }
}

impl Session {
    async fn go_on(&self, id: &DeviceId) {
        let Some(seat) = self.seats.iter().find(|seat| seat.id() == id) else { return };
        // Asked behind what the device's task begins with.
        if !seat.boots_what_is_offered() || matches!(seat.device.read_power().await, Ok(PowerReading::Off)) {
            return;
        }
        let attempt = seat.attempt();
        if let Err(error) = self.look_after(seat, attempt).await {
            tracing::warn!(device = %id, error = %Chain(&error), "its boot is not looked after");
        }
    }

    async fn look_after(&self, seat: &Seat, attempt: BootAttempt) -> Result<(), JournalError> {
        let mut begun = Begun { backend: Some(seat.device.device().backend), ..Begun::default() };
        let mut cursor = seat.device.journal().cursor(Since::Attempt(attempt));
        while let Some(item) = cursor.next_written().await? {
            begun.see(&item, attempt);
        }
        let image = self.parts.image_of(seat.id());
        let boots = (begun.image.as_ref() == Some(&image.id)).then(|| Boots::Image(image.clone()));
        match begun.stands(boots.is_some()) {
            Stands::Alone => return Ok(()),
            Stands::Lost => {}
            Stands::Up => asks_again(seat, attempt, &mut cursor).await?,
        }
        if seat.attempt() != attempt || seat.device.state().borrow().power == PowerReading::Off {
            return Ok(());
        }
        let journal = seat.device.journal();
        let Some(boots) = boots else {
            let cause = format!("{AT}: {HINT}, and they were a user's own: pilab boot {} again", seat.id());
            journal.event(attempt, Event::BootGivenUp { cause }).await?;
            return Ok(());
        };
        tracing::info!(device = %seat.id(), %attempt, "{AT}; it is booted anew");
        journal.event(attempt, Event::BootStalled { at: AT.into(), hint: HINT.into(), again: true }).await?;
        match self.begin(seat, &boots).await {
            Ok(attempt) => self.see_through(seat, &boots, attempt).await,
            Err(refusal) => {
                journal.event(seat.attempt(), Event::BootGivenUp { cause: refusal.error }).await?;
            }
        }
        Ok(())
    }
}

/// What a journal says of a boot attempt.
#[derive(Debug, Default)]
struct Begun {
    backend: Option<Backend>,
    /// What was offered; none when it booted by itself.
    image: Option<String>,
    /// It has what its ticket brings.
    arrived: bool,
    /// Its kernel has shown itself.
    kernel: bool,
    /// Nobody waits for it any more.
    over: bool,
}

/// How a boot stands for a coordinator that did not begin it.
#[derive(Debug, PartialEq, Eq)]
enum Stands {
    /// It needs nothing of a coordinator.
    Alone,
    /// It waits for what is not there any more.
    Lost,
    /// It has what it needs, unless it asks for its files again.
    Up,
}

impl Begun {
    fn see(&mut self, item: &Item, attempt: BootAttempt) {
        let Item::Record(record) = item else { return };
        let Entry::Event(event) = &record.entry else { return };
        if record.attempt != attempt {
            return;
        }
        match event {
            Event::BootOffered { image, .. } => self.image = Some(image.clone()),
            Event::TicketRedeemed { .. } | Event::Woken { .. } | Event::AgentAnswered { .. } => {
                self.arrived = true;
            }
            Event::Stage { stage: BootStage::Kernel, .. } => self.kernel = true,
            Event::BootGivenUp { .. } => self.over = true,
            _ => {}
        }
    }

    /// `ours` is what the lab itself boots, by a ticket.
    fn stands(&self, ours: bool) -> Stands {
        let asks_for_files = matches!(self.backend, Some(Backend::Pi | Backend::Sim));
        if self.image.is_none() || self.over || !(ours || asks_for_files) {
            return Stands::Alone;
        }
        match (self.arrived || (!ours && self.kernel), asks_for_files) {
            (false, _) => Stands::Lost,
            (true, true) => Stands::Up,
            (true, false) => Stands::Alone,
        }
    }
}

/// Done when the device has asked for a file in vain, or is in another attempt.
async fn asks_again(seat: &Seat, attempt: BootAttempt, cursor: &mut Cursor) -> Result<(), JournalError> {
    let mut state = seat.device.state();
    let left = async move {
        // An actor that is gone has let go of the device.
        let _ = state.wait_for(|now| now.attempt != attempt || now.power == PowerReading::Off).await;
    };
    let asked = async {
        loop {
            if let Item::Record(record) = cursor.next().await?
                && let Entry::Event(Event::Netboot { fact: NetbootFact::FileRefused { .. } }) = record.entry
            {
                return Ok(());
            }
        }
    };
    tokio::select! {
        () = left => Ok(()),
        asked = asked => asked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_the_process_that_began_it_is_lost() {
        let begun = |backend, arrived, kernel| Begun {
            backend: Some(backend),
            image: Some(String::new()),
            arrived,
            kernel,
            over: false,
        };
        for (begun, ours, stands) in [
            (begun(Backend::Vm, false, true), true, Stands::Lost),
            (begun(Backend::Vm, true, true), true, Stands::Alone),
            (begun(Backend::Pi, false, true), true, Stands::Lost),
            (begun(Backend::Pi, true, true), true, Stands::Up),
            // QEMU has read a kernel of one's own; a board may not have.
            (begun(Backend::Vm, false, false), false, Stands::Alone),
            (begun(Backend::Pi, false, false), false, Stands::Lost),
            (begun(Backend::Pi, false, true), false, Stands::Up),
            (Begun { image: None, ..begun(Backend::Pi, false, false) }, true, Stands::Alone),
            (Begun { over: true, ..begun(Backend::Pi, false, false) }, true, Stands::Alone),
        ] {
            assert_eq!(begun.stands(ours), stands, "{begun:?} ours: {ours}");
        }
    }
}
