//! What NATS holds of a device, read with the coordinator's rights: what it should run, how far it has
//! acknowledged that, and what it says of it.

use super::connect::Bus;
use super::error::BusError;
use super::provision::{self, CONSUMER_NOT_FOUND, ProvisionError};
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::workload::{Desired, Index, Status};
use crate::wire::subject;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A device's keys, one after the other: a change in between may show in one of them and not in the next.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Each desired key's revision and value; no value when it is not understood.
    pub desired: BTreeMap<DeploymentName, (u64, Option<Desired>)>,
    /// The index; none when there is none or it is not understood.
    pub index: Option<Index>,
    /// The revision up to which the agent has acknowledged everything; none when its durable is not there.
    pub receipt: Option<u64>,
    /// What the agent says of its deployments.
    pub statuses: BTreeMap<DeploymentName, Status>,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    delivered: Floor,
    ack_floor: Floor,
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Floor {
    stream_seq: u64,
}

/// Reads all of it.
pub async fn observe(bus: &Bus, device: &DeviceId) -> Result<Observed, ProvisionError> {
    let mut observed = Observed { receipt: receipt(bus, device).await?, ..Observed::default() };
    let prefix = subject::deployment_prefix(device);
    let names = async |bucket| -> Result<Vec<DeploymentName>, BusError> {
        let keys = bus.kv_keys(bucket, &subject::device_keys(device)).await?;
        // The index's key is no deployment's name.
        let names = keys.iter().filter_map(|key| DeploymentName::new(key.strip_prefix(&prefix)?).ok());
        Ok(names.collect())
    };
    for name in names(subject::DESIRED).await? {
        let key = subject::deployment_key(device, &name);
        let entry = bus.kv_get(subject::DESIRED, &key).await?.filter(|entry| !entry.deleted);
        if let Some(entry) = entry {
            observed.desired.insert(name, (entry.revision, serde_json::from_slice(&entry.value).ok()));
        }
    }
    let index = bus.kv_get(subject::DESIRED, &subject::index_key(device)).await?;
    let index = index.filter(|entry| !entry.deleted);
    observed.index = index.and_then(|entry| serde_json::from_slice(&entry.value).ok());
    for name in names(subject::STATUS).await? {
        if let Some((status, _)) = provision::status(bus, device, &name).await? {
            observed.statuses.insert(name, status);
        }
    }
    Ok(observed)
}

/// The revision up to which the agent has acknowledged everything that was delivered to it.
///
/// That is the acknowledgement floor; or, when nothing that was delivered awaits an acknowledgement, what was
/// delivered last. The floor alone does not do: nats-server 2.9 was seen to leave it at 0 for good, with all
/// acknowledged, after it was killed.
async fn receipt(bus: &Bus, device: &DeviceId) -> Result<Option<u64>, BusError> {
    let (stream, durable) = (subject::stream(subject::DESIRED), subject::durable(device));
    match bus.look::<ConsumerInfo>(&format!("CONSUMER.INFO.{stream}.{durable}"), &Value::Null).await {
        Ok(ConsumerInfo { delivered, ack_floor, num_ack_pending: 0 }) => {
            Ok(Some(ack_floor.stream_seq.max(delivered.stream_seq)))
        }
        Ok(info) => Ok(Some(info.ack_floor.stream_seq)),
        Err(BusError::Refused { err_code: CONSUMER_NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
