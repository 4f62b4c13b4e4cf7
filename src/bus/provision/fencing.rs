//! Who may still write a device's desired state: the floor in its index, which outlives its holders' keys.
//!
//! ```text
//!  put, delete:  read key and index ─ token ≥ both floors? ─ write, each if it still stands as read
//!  fence:        read index ─ floor := token, if it still stands as read
//!  handover:     fence, with no deployment named ─ purge what was written before that very write
//! ```
//!
//! Each write of the index says at which revision it must stand, so of a holder that stops between its look and
//! its write and of the fence that is raised meanwhile, one fails: the holder's, which looks again and is refused.
//! What it has already written under a deployment's key is named by no index, and an agent runs nothing below
//! the floor that the index does not name at its generation.

use super::{CONSUMER_NOT_FOUND, INDEX_ATTEMPTS};
use super::{Last, ProvisionError, encode, ensure_durable, read_index};
use crate::bus::connect::Bus;
use crate::bus::error::BusError;
use crate::model::id::DeviceId;
use crate::model::lease::FencingToken;
use crate::model::workload::{Desired, Index, Owner, WORKLOAD_VERSION};
use crate::wire::subject;
use serde_json::{Value, json};

/// From now on writes under tokens before this one are refused; [`ProvisionError::Fenced`] when it is itself
/// one of those. What the index names stays.
pub async fn fence(bus: &Bus, device: &DeviceId, token: FencingToken) -> Result<(), ProvisionError> {
    raise(bus, device, token, false).await.map(drop)
}

/// A fresh start for a device: nothing of its last holder is left, holders before `token` are fenced off, and its
/// durable begins anew. [`ProvisionError::Fenced`], and nothing done, when a later token has come before.
///
/// The durable comes back last, so that no agent is told of the last holder's keys in between. Only what was
/// written before the index is purged: if this stands still for long, what a later holder has written stays.
pub async fn device(bus: &Bus, device: &DeviceId, token: FencingToken) -> Result<(), ProvisionError> {
    let index = raise(bus, device, token, true).await?;
    bus.may_write()?;
    let (stream, durable) = (subject::stream(subject::DESIRED), subject::durable(device));
    match bus.api::<Value>(&format!("CONSUMER.DELETE.{stream}.{durable}"), &Value::Null).await {
        Ok(_) | Err(BusError::Refused { err_code: CONSUMER_NOT_FOUND, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let keys = subject::device_keys(device);
    purge(bus, subject::DESIRED, &keys, index).await?;
    for (bucket, keys) in [(subject::STATUS, keys), (subject::PRESENCE, device.to_string())] {
        let last = bus.kv_last(bucket).await?;
        purge(bus, bucket, &keys, last + 1).await?;
    }
    ensure_durable(bus, device).await
}

/// Removes what was written of `keys` before the write with the sequence `before`.
async fn purge(bus: &Bus, bucket: &str, keys: &str, before: u64) -> Result<(), ProvisionError> {
    // Nothing was. A sequence of 1 would be no bound to the server: it would purge that very write as well (seen on 2.9.10).
    if before <= 1 {
        return Ok(());
    }
    let body = json!({ "filter": subject::key(bucket, keys), "seq": before });
    bus.api::<Value>(&format!("STREAM.PURGE.{}", subject::stream(bucket)), &body).await?;
    Ok(())
}

/// Writes the floor into the index; answers at which revision it stands. With `anew` the index names no deployment
/// any more, and is written in any case.
async fn raise(bus: &Bus, device: &DeviceId, token: FencingToken, anew: bool) -> Result<u64, ProvisionError> {
    let key = subject::index_key(device);
    let mut attempts = INDEX_ATTEMPTS;
    loop {
        let Last { value, revision, .. } = match read_index(bus, device).await {
            // A fresh start is the way out of an index that nobody understands.
            Err(ProvisionError::Malformed { revision, .. }) if anew => {
                Last { value: None, present: true, revision }
            }
            read => read?,
        };
        if let Some(floor) = value.as_ref().and_then(|index| index.floor).filter(|floor| token < *floor) {
            return Err(ProvisionError::Fenced { key, token, floor });
        }
        if !anew && value.as_ref().is_some_and(|index| index.floor == Some(token)) {
            return Ok(revision);
        }
        let next = value.filter(|_| !anew).unwrap_or_default();
        match write_index(bus, device, next, token, revision).await {
            Err(ProvisionError::Bus(BusError::Conflict { .. })) if attempts > 1 => attempts -= 1,
            done => return done,
        }
    }
}

/// Writes the index if it stands at `expected`, with a floor of at least `token`; answers its revision.
pub(super) async fn write_index(
    bus: &Bus,
    device: &DeviceId,
    index: Index,
    token: FencingToken,
    expected: u64,
) -> Result<u64, ProvisionError> {
    let key = subject::index_key(device);
    let index = Index { version: WORKLOAD_VERSION, floor: index.floor.max(Some(token)), ..index };
    Ok(bus.kv_put_if(subject::DESIRED, &key, encode(&key, &index)?, expected).await?)
}

/// Refuses a token that has passed, and the operator where somebody has deployed by hand.
pub(super) fn admit(
    key: &str,
    last: Option<&Desired>,
    index: Option<&Index>,
    token: FencingToken,
    owner: Owner,
) -> Result<(), ProvisionError> {
    if last.is_some_and(|last| owner == Owner::Operator && last.owner == Owner::Hand) {
        return Err(ProvisionError::ByHand { key: key.to_owned() });
    }
    let floor = last.map(|last| last.token).max(index.and_then(|index| index.floor));
    match floor.filter(|floor| token < *floor) {
        Some(floor) => Err(ProvisionError::Fenced { key: key.to_owned(), token, floor }),
        None => Ok(()),
    }
}
