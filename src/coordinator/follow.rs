//! A device's journal becomes facts of a run.

use super::log::RunLog;
use crate::device::handle::DeviceHandle;
use crate::journal::cursor::Cursor;
use crate::journal::record::{Entry, Record};
use crate::model::event::Event;
use crate::model::power::PowerState;
use crate::model::run::RunFact;
use crate::model::time::Stamp;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Adds what `cursor` reads to the log, until `stop`, and then what was written until then.
pub(super) async fn follow(
    device: DeviceHandle,
    mut cursor: Cursor,
    log: Arc<RunLog>,
    stop: CancellationToken,
) {
    let mut powered_on: Option<Stamp> = None;
    loop {
        let record = tokio::select! {
            biased;
            record = cursor.next() => record,
            () = stop.cancelled() => return,
        };
        match record {
            Ok(record) => {
                if let Some((at, fact)) = fact(&device, &record, &mut powered_on) {
                    log.push_at(at, fact).await;
                }
            }
            Err(error) => {
                tracing::warn!(device = %device.id(), %error, "the journal cannot be followed any further");
                return;
            }
        }
    }
}

fn fact(device: &DeviceHandle, record: &Record, powered_on: &mut Option<Stamp>) -> Option<(Stamp, RunFact)> {
    let Entry::Event(event) = &record.entry else { return None };
    if let Event::PowerDone { state: PowerState::On, .. } = event {
        *powered_on = Some(record.stamp);
    }
    let (device, attempt) = (device.id().clone(), record.attempt);
    let fact = match event {
        Event::Stage { stage, .. } => {
            let after = powered_on.map_or(0.0, |on| record.stamp.seconds_since(&on));
            RunFact::Stage { device, attempt, stage: *stage, after }
        }
        event => RunFact::Device { device, attempt, event: event.clone() },
    };
    Some((record.stamp, fact))
}
