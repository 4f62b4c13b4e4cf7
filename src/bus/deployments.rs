//! The records of deployments that files describe, and what NATS holds of one on a device.

use super::connect::Bus;
use super::error::BusError;
use super::provision::{self, CONSUMER_NOT_FOUND, ProvisionError};
use crate::model::deployment::{Observed, Record};
use crate::model::id::{DeploymentName, DeviceId, LabName, LeaseId};
use crate::model::lease::FencingToken;
use crate::model::workload::{Owner, Score};
use crate::support::chain::Chain;
use crate::wire::subject;
use serde::Deserialize;
use serde_json::Value;

/// A record, and the revision at which it stands.
pub type Kept = (Record, u64);

/// All records. One that is not understood is passed over, and told.
pub async fn records(bus: &Bus, lab: &LabName) -> Result<Vec<Kept>, ProvisionError> {
    let bucket = subject::lab_bucket(lab);
    let mut kept = Vec::new();
    for key in bus.kv_keys(&bucket, subject::RECORD_KEYS).await? {
        let Some(entry) = bus.kv_get(&bucket, &key).await?.filter(|entry| !entry.deleted) else { continue };
        match serde_json::from_slice(&entry.value) {
            Ok(record) => kept.push((record, entry.revision)),
            Err(error) => tracing::warn!(key, %error, "a deployment's record is not understood"),
        }
    }
    Ok(kept)
}

/// A deployment's record, and the revision of its key: 0 when it was never written.
pub async fn record(
    bus: &Bus,
    lab: &LabName,
    lease: &LeaseId,
    name: &DeploymentName,
) -> Result<(Option<Record>, u64), ProvisionError> {
    let key = subject::record_key(lease, name);
    let Some(entry) = bus.kv_get(&subject::lab_bucket(lab), &key).await? else {
        return Ok((None, 0));
    };
    if entry.deleted {
        return Ok((None, entry.revision));
    }
    let record = serde_json::from_slice(&entry.value).map_err(|source| ProvisionError::Malformed {
        bucket: "lab",
        key,
        revision: entry.revision,
        source,
    })?;
    Ok((Some(record), entry.revision))
}

/// Writes a record if its key stands at `expected`; [`BusError::Conflict`] otherwise.
pub async fn write(bus: &Bus, lab: &LabName, record: &Record, expected: u64) -> Result<u64, ProvisionError> {
    let key = subject::record_key(&record.held.lease, &record.spec.name);
    let value = provision::encode(&key, record)?;
    Ok(bus.kv_put_if(&subject::lab_bucket(lab), &key, value, expected).await?)
}

/// Removes a record if its key stands at `expected`; [`BusError::Conflict`] otherwise.
pub async fn remove(bus: &Bus, lab: &LabName, record: &Record, expected: u64) -> Result<(), ProvisionError> {
    let key = subject::record_key(&record.held.lease, &record.spec.name);
    bus.kv_delete_if(&subject::lab_bucket(lab), &key, expected).await?;
    Ok(())
}

/// Puts a deployment on a device for the operator; one that was put by hand is left alone.
pub async fn put(
    bus: &Bus,
    device: &DeviceId,
    name: &DeploymentName,
    score: &Score,
    token: FencingToken,
) -> Result<(), ProvisionError> {
    provision::put_as(bus, device, name, score, token, Owner::Operator).await.map(drop)
}

/// Takes a deployment of the operator off a device; one that was put by hand is left alone.
pub async fn delete(
    bus: &Bus,
    device: &DeviceId,
    name: &DeploymentName,
    token: FencingToken,
) -> Result<(), ProvisionError> {
    provision::delete_as(bus, device, name, token, Owner::Operator).await.map(drop)
}

/// What NATS holds of a deployment on a device.
///
/// What the agent has received is read before what it says: a status that is missing afterwards was not
/// written by an agent that knew less.
pub async fn observe(
    bus: &Bus,
    device: &DeviceId,
    name: &DeploymentName,
) -> Result<Observed, ProvisionError> {
    let desired = provision::read_desired(bus, &subject::deployment_key(device, name)).await?;
    let index = provision::read_index(bus, device).await?;
    let received = received(bus, device, desired.revision).await?;
    let status = provision::status(bus, device, name).await?.map(|(status, _)| status);
    let presence = bus.kv_get(subject::PRESENCE, device.as_str()).await?;
    Ok(Observed {
        desired: desired.value,
        indexed: index.value.and_then(|index| index.deployments.get(name).copied()),
        status,
        received,
        present: presence.is_some_and(|entry| !entry.deleted),
    })
}

/// Whether the device's agent has acknowledged what stands at `revision`: it does so once it is on its disk.
/// A device without a durable has no agent that could have been told anything.
async fn received(bus: &Bus, device: &DeviceId, revision: u64) -> Result<bool, ProvisionError> {
    #[derive(Deserialize)]
    struct Info {
        ack_floor: Floor,
        num_ack_pending: u64,
        num_pending: u64,
    }
    #[derive(Deserialize)]
    struct Floor {
        stream_seq: u64,
    }
    let call = format!("CONSUMER.INFO.{}.{}", subject::stream(subject::DESIRED), subject::durable(device));
    match bus.look::<Info>(&call, &Value::Null).await {
        Ok(info) => {
            let all = info.num_pending == 0 && info.num_ack_pending == 0;
            Ok(all || info.ack_floor.stream_seq >= revision)
        }
        Err(BusError::Refused { err_code: CONSUMER_NOT_FOUND, .. }) => Ok(true),
        Err(error) => {
            tracing::debug!(%device, error = %Chain(&error), "the receipt cannot be read");
            Err(error.into())
        }
    }
}
