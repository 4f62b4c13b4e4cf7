//! What is to be written for a deployment that a file describes, so that it is on the devices it selects and
//! on no other.
//!
//! ```text
//!  selected:      finalizer ──► desired put ──► status Running
//!  not selected:  desired deleted ──► receipt, no status ──► finalizer gone
//!                                └─(forced)─► orphan ──► receipt, no status ──► orphan gone
//! ```
//!
//! Each write is decided from what NATS holds alone, and is right whatever was written before it. So the
//! operator may end between any two.

use crate::model::deployment::{DeploymentReport, DeviceReport, DeviceState, Observed, Orphaned, Record};
use crate::model::device::Device;
use crate::model::id::DeviceId;
use crate::model::workload::{Owner, Phase};
use std::collections::{BTreeMap, BTreeSet};

/// A write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The record as it is to stand.
    Record(Box<Record>),
    /// The record goes: nothing of the deployment is left anywhere.
    Finish,
    /// Put it on this device, at a new generation.
    Put(DeviceId),
    /// Take it off this device.
    Delete(DeviceId),
}

/// The devices that a record's deployment is to be on.
pub fn selected(record: &Record, inventory: &[Device]) -> BTreeSet<DeviceId> {
    if record.deleting.is_some() {
        return BTreeSet::new();
    }
    let chosen = inventory.iter().filter(|device| record.spec.selector.matches(device));
    chosen.map(|device| device.id.clone()).filter(|id| record.within.contains(id)).collect()
}

/// All devices that a record concerns: what is there must be observed.
pub fn concerned(record: &Record, inventory: &[Device]) -> BTreeSet<DeviceId> {
    let mut all = selected(record, inventory);
    all.extend(record.finalizers.keys().chain(record.orphans.keys()).cloned());
    all
}

/// Decides. A change of the record is alone, since what follows hangs on it. `now` in milliseconds since
/// 1970-01-01 UTC.
pub fn decide(
    record: &Record,
    inventory: &[Device],
    observed: &BTreeMap<DeviceId, Observed>,
    now: u64,
) -> (Vec<Write>, DeploymentReport) {
    let selected = selected(record, inventory);
    let (mut next, mut writes, mut report) = (record.clone(), Vec::new(), DeploymentReport::new());
    let nothing = Observed::default();
    for id in concerned(record, inventory) {
        let seen = observed.get(&id).unwrap_or(&nothing);
        let said = if selected.contains(&id) {
            wanted(record, &mut next, &mut writes, &id, seen)
        } else {
            unwanted(record, &mut next, &mut writes, &id, seen, now)
        };
        if let Some((state, message)) = said {
            report.insert(id, DeviceReport { state, message });
        }
    }
    if next.deleting.is_some() && next.finalizers.is_empty() && next.orphans.is_empty() {
        writes = vec![Write::Finish];
    } else if next != *record {
        writes = vec![Write::Record(Box::new(next))];
    }
    (writes, report)
}

type Said = Option<(DeviceState, String)>;

fn wanted(
    record: &Record,
    next: &mut Record,
    writes: &mut Vec<Write>,
    id: &DeviceId,
    seen: &Observed,
) -> Said {
    if !is_free(record, seen) {
        // What stands there is somebody else's, whatever was there before.
        next.finalizers.remove(id);
        next.orphans.remove(id);
        let message = format!("a deployment of this name was put on {id} by somebody else");
        return Some((DeviceState::Conflict, message));
    }
    next.orphans.remove(id);
    let generation = seen.desired.as_ref().map_or(0, |desired| desired.generation);
    let finalizer = next.finalizers.entry(id.clone()).or_default();
    *finalizer = generation.max(*finalizer);
    let done = seen.desired.as_ref().is_some_and(|desired| {
        desired.score == record.spec.score
            && desired.token == record.held.token
            && seen.indexed == Some(desired.generation)
    });
    if !done {
        writes.push(Write::Put(id.clone()));
    }
    let status = seen.status.as_ref().filter(|status| done && status.generation == generation);
    Some(match status {
        Some(status) => {
            let state = match status.phase {
                Phase::Pending => DeviceState::Pending,
                Phase::Running => DeviceState::Running,
                Phase::Failed | Phase::RolledBack => DeviceState::Failed,
            };
            (state, status.message.clone())
        }
        None => (DeviceState::Pending, waits(id, seen)),
    })
}

fn unwanted(
    record: &Record,
    next: &mut Record,
    writes: &mut Vec<Write>,
    id: &DeviceId,
    seen: &Observed,
    now: u64,
) -> Said {
    if !is_free(record, seen) {
        next.finalizers.remove(id);
        next.orphans.remove(id);
        return None;
    }
    // The index counts too: a put or a deletion that was broken off leaves one without the other.
    let there = seen.desired.is_some() || seen.indexed.is_some();
    if there {
        writes.push(Write::Delete(id.clone()));
    } else if seen.received && seen.status.is_none() {
        next.finalizers.remove(id);
        next.orphans.remove(id);
        return None;
    } else if record.deleting.is_some_and(|deleting| deleting.force)
        && let Some(generation) = next.finalizers.remove(id)
    {
        let reported = seen.status.as_ref().map_or(0, |status| status.generation);
        let orphan = Orphaned { since: now, generation: generation.max(reported) };
        next.orphans.insert(id.clone(), orphan);
    }
    Some(if next.orphans.contains_key(id) {
        (DeviceState::Orphaned, format!("it may still run on {id}, which was not waited for"))
    } else {
        (DeviceState::Removing, waits(id, seen))
    })
}

/// Whether the operator may write here for this record: nothing stands there, or what it put itself under
/// this lease or an earlier one.
fn is_free(record: &Record, seen: &Observed) -> bool {
    seen.desired
        .as_ref()
        .is_none_or(|desired| desired.owner == Owner::Operator && desired.token <= record.held.token)
}

fn waits(id: &DeviceId, seen: &Observed) -> String {
    let offline = if seen.present { "" } else { ", which is offline" };
    format!("waits for {id}{offline}")
}

#[cfg(test)]
mod tests;
