//! A device's journal becomes facts of a run.

use super::log::RunLog;
use crate::device::DeviceHandle;
use crate::journal::{Entry, Item, Record, Since};
use crate::model::event::Event;
use crate::model::power::PowerState;
use crate::model::run::RunFact;
use crate::model::time::Stamp;
use crate::support::chain::Chain;
use std::sync::Arc;

/// Adds what the device's journal says from record number `from` on to the log, until the record that
/// says that the log's run is over.
pub(super) async fn follow(device: DeviceHandle, from: u64, log: Arc<RunLog>) {
    follow_after(device, from, log, 0).await;
}

/// [`follow`], of which the first `known` facts are in the log already.
pub(super) async fn follow_after(device: DeviceHandle, from: u64, log: Arc<RunLog>, mut known: usize) {
    let mut cursor = device.journal().cursor(Since::Sequence(from));
    let mut powered_on: Option<Stamp> = None;
    loop {
        match cursor.next().await {
            Ok(Item::Record(record)) => {
                if let Some((at, fact)) = fact(&device, &record, &mut powered_on) {
                    match known {
                        0 => log.push_at(at, fact).await,
                        _ => known -= 1,
                    }
                }
                if ends(&record, log.run().as_str()) {
                    return;
                }
            }
            Ok(Item::Missing { from, to, cause }) => {
                tracing::warn!(device = %device.id(), from, to, ?cause, "records of the journal are missing");
            }
            Err(error) => {
                tracing::warn!(device = %device.id(), error = %Chain(&error), "the journal cannot be followed");
                return;
            }
        }
    }
}

fn ends(record: &Record, run: &str) -> bool {
    matches!(&record.entry, Entry::Event(Event::RunOver { run: over }) if over == run)
}

fn fact(device: &DeviceHandle, record: &Record, powered_on: &mut Option<Stamp>) -> Option<(Stamp, RunFact)> {
    let Entry::Event(event) = &record.entry else { return None };
    // Not when it was done: what starts from saved memory has shown its first stages by then.
    if let Event::PowerIntent { state: PowerState::On, .. } = event {
        *powered_on = Some(record.stamp);
    }
    let (device, attempt) = (device.id().clone(), record.attempt);
    let fact = match event {
        Event::Stage { stage, boot, line, .. } => {
            let after = powered_on.map_or(0.0, |on| record.stamp.seconds_since(&on));
            RunFact::Stage { device, attempt, stage: *stage, after, boot: *boot, line: line.clone() }
        }
        event => RunFact::Device { device, attempt, event: event.clone() },
    };
    Some((record.stamp, fact))
}
