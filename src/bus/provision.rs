//! What the coordinator makes in JetStream: the buckets, a device's durable consumer, desired state.

mod fencing;

pub use fencing::{device, fence};

use super::connect::Bus;
use super::error::BusError;
use super::kv::KV_TIMEOUT;
use crate::model::id::{DeploymentName, DeviceId, LabName};
use crate::model::lease::FencingToken;
use crate::model::workload::{Desired, Index, Owner, Score, Status, WORKLOAD_VERSION};
use crate::support::chain::Chain;
use crate::wire::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;

/// How long making a durable may take in a cluster. Its copies choose who leads them; while a server is away they may have to
/// find out first that it is not that one, which takes up to 9 s. Asked again sooner, they would begin anew.
const ELECTED_WITHIN: Duration = Duration::from_secs(12);
/// How long a heartbeat counts. Agents beat some three times in it.
const PRESENCE_MAX_AGE: Duration = Duration::from_secs(60);
/// How long an agent may take to acknowledge a desired value, which it does once it is on its disk.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How many desired values may be on their way to one agent.
const MAX_ACK_PENDING: u32 = 64;
/// JetStream's `consumer not found` (errors.json of nats-server).
pub(super) const CONSUMER_NOT_FOUND: u64 = 10_014;
/// How often a write is tried again when somebody else changed the index in between.
const INDEX_ATTEMPTS: u32 = 5;

/// Desired state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// NATS refused or did not answer.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A key holds something else than it should.
    #[error("key {key} of bucket {bucket} at revision {revision} is not understood")]
    Malformed {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        key: String,
        /// The revision.
        revision: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// A value does not become JSON.
    #[error("cannot write key {key} as JSON")]
    Encode {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A holder whose lease has passed.
    #[error("{key} is fenced off by the later token {floor}: the lease with token {token} has passed")]
    Fenced {
        /// The key.
        key: String,
        /// The token of the call.
        token: FencingToken,
        /// The token of the value that stands there, or the floor in the device's index.
        floor: FencingToken,
    },
    /// The operator does not touch what was deployed by hand.
    #[error("{key} was deployed by hand")]
    ByHand {
        /// The key.
        key: String,
    },
}

/// Makes the buckets of a lab. Those that exist are left as they are.
///
/// Made by hand and not by async-nats' `create_key_value`: that one asks for account information which
/// nats-server 2.9 does not give, and it allows rollup headers, with which a single message of one device
/// wipes the whole `status` bucket.
pub async fn buckets(bus: &Bus, lab: &LabName) -> Result<(), ProvisionError> {
    let presence = u64::try_from(PRESENCE_MAX_AGE.as_nanos()).unwrap_or(u64::MAX);
    bucket(bus, subject::DESIRED, 0).await?;
    bucket(bus, subject::STATUS, 0).await?;
    bucket(bus, subject::PRESENCE, presence).await?;
    bucket(bus, &subject::lab_bucket(lab), 0).await
}

/// Makes the bucket of a lab's ledger, if it is not there. Its deletion marks can be removed: each lease leaves some.
pub async fn ledger_bucket(bus: &Bus, lab: &LabName) -> Result<(), ProvisionError> {
    make(bus, &subject::ledger_bucket(lab), 0, false).await
}

async fn bucket(bus: &Bus, name: &str, max_age: u64) -> Result<(), ProvisionError> {
    make(bus, name, max_age, true).await
}

/// `max_age` in nanoseconds, 0 for ever. Creating a stream again with the same configuration is no error.
async fn make(bus: &Bus, name: &str, max_age: u64, deny_delete: bool) -> Result<(), ProvisionError> {
    let stream = subject::stream(name);
    let config = json!({
        "name": stream,
        "subjects": [subject::key(name, ">")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": bus.replicas(),
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": max_age,
        "max_msgs_per_subject": 1,
        "max_consumers": -1,
        "allow_rollup_hdrs": false,
        "deny_delete": deny_delete,
        "allow_direct": true,
    });
    bus.api::<Value>(&format!("STREAM.CREATE.{stream}"), &config).await?;
    Ok(())
}

/// Makes a device's durable where there is none: one that was lost begins at the last value of each key, all
/// of which the agent acknowledges again. One that is there is left as it is.
pub async fn ensure_durable(bus: &Bus, device: &DeviceId) -> Result<(), ProvisionError> {
    let (stream, durable) = (subject::stream(subject::DESIRED), subject::durable(device));
    let config = json!({
        "stream_name": stream,
        "config": {
            "durable_name": durable,
            "filter_subject": subject::key(subject::DESIRED, &subject::device_keys(device)),
            "deliver_policy": "last_per_subject",
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(ACK_WAIT.as_nanos()).unwrap_or(u64::MAX),
            "max_ack_pending": MAX_ACK_PENDING,
            "max_deliver": -1,
            "replay_policy": "instant",
        },
    });
    let call = format!("CONSUMER.DURABLE.CREATE.{stream}.{durable}");
    let (mut attempts, within) = if bus.replicas() > 1 { (3, ELECTED_WITHIN) } else { (1, KV_TIMEOUT) };
    loop {
        attempts -= 1;
        match bus.api_within::<Value>(&call, &config, within).await {
            // Nobody led the cluster when it was asked.
            Err(BusError::TimedOut { .. } | BusError::NoResponders { .. }) if attempts > 0 => {}
            made => return made.map(drop).map_err(ProvisionError::from),
        }
    }
}

/// Puts a deployment on a device; answers its generation, which grows with each change, and revision.
///
/// The value goes before the index. A crash between the two leaves a value whose generation the index
/// does not know: the agent, which goes by the index, keeps what it had, and the next put writes both. In
/// the other order the index would promise a value that never came. The generation is taken from
/// both, so it grows whichever of them is ahead.
pub async fn put_desired(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    score: &Score,
    token: FencingToken,
) -> Result<(u64, u64), ProvisionError> {
    put_as(bus, device, deployment, score, token, Owner::Hand).await
}

/// [`put_desired`] for an owner.
pub(super) async fn put_as(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    score: &Score,
    token: FencingToken,
    owner: Owner,
) -> Result<(u64, u64), ProvisionError> {
    let key = subject::deployment_key(device, deployment);
    let desired = |generation| {
        let desired = Desired { version: WORKLOAD_VERSION, generation, token, owner, score: score.clone() };
        encode(&key, &desired)
    };
    write(bus, device, deployment, token, owner, desired).await
}

/// Puts bytes, whatever they are, on a deployment's key, and its name into the index, as [`put_desired`] does; answers
/// generation and revision. For showing what an agent makes of them.
pub async fn put_raw(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    payload: Vec<u8>,
    token: FencingToken,
) -> Result<(u64, u64), ProvisionError> {
    write(bus, device, deployment, token, Owner::Hand, |_| Ok(payload.clone())).await
}

/// Writes what `value` makes of the next generation; answers that and the revision.
async fn write(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    token: FencingToken,
    owner: Owner,
    value: impl Fn(u64) -> Result<Vec<u8>, ProvisionError>,
) -> Result<(u64, u64), ProvisionError> {
    let key = subject::deployment_key(device, deployment);
    let mut attempts = INDEX_ATTEMPTS;
    loop {
        let last = read_desired(bus, &key).await?;
        let index = read_index(bus, device).await?;
        fencing::admit(&key, last.value.as_ref(), index.value.as_ref(), token, owner)?;
        let known = index.value.as_ref().and_then(|index| index.deployments.get(deployment)).copied();
        // A deletion took the generation away with the value, and bytes that are none have none. The revision goes on from
        // there: a generation is never greater than the revision at which it was written.
        let last_generation = last.value.map_or(last.revision, |desired| desired.generation);
        let generation = last_generation.max(known.unwrap_or(0)) + 1;
        let written = async {
            let revision = bus.kv_put_if(subject::DESIRED, &key, value(generation)?, last.revision).await?;
            let mut next = index.value.unwrap_or_default();
            next.deployments.insert(deployment.clone(), generation);
            fencing::write_index(bus, device, next, token, index.revision).await?;
            // Devices may not make it, and without it they learn of this only at their next reading.
            ensure_durable(bus, device).await?;
            Ok((generation, revision))
        };
        match written.await {
            Err(ProvisionError::Bus(BusError::Conflict { .. })) if attempts > 1 => attempts -= 1,
            done => return done,
        }
    }
}

/// Takes a deployment off a device; answers the revision of its deletion mark, none when it was not there.
///
/// The index goes before the value: a crash between the two leaves a value that no index names, which
/// the agent removes like one that was deleted, and a repeated call deletes. In the other order the index would
/// name a value that is gone.
pub async fn delete_desired(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    token: FencingToken,
) -> Result<Option<u64>, ProvisionError> {
    delete_as(bus, device, deployment, token, Owner::Hand).await
}

/// [`delete_desired`] for an owner.
pub(super) async fn delete_as(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
    token: FencingToken,
    owner: Owner,
) -> Result<Option<u64>, ProvisionError> {
    let key = subject::deployment_key(device, deployment);
    let mut attempts = INDEX_ATTEMPTS;
    loop {
        let last = read_desired(bus, &key).await?;
        let index = read_index(bus, device).await?;
        fencing::admit(&key, last.value.as_ref(), index.value.as_ref(), token, owner)?;
        let removed = async {
            if let Some(mut next) = index.value
                && next.deployments.remove(deployment).is_some()
            {
                fencing::write_index(bus, device, next, token, index.revision).await?;
            }
            if !last.present {
                return Ok(None);
            }
            let revision = bus.kv_delete_if(subject::DESIRED, &key, last.revision).await?;
            ensure_durable(bus, device).await?;
            Ok(Some(revision))
        };
        match removed.await {
            Err(ProvisionError::Bus(BusError::Conflict { .. })) if attempts > 1 => attempts -= 1,
            done => return done,
        }
    }
}

/// What a device says of a deployment, and the revision at which it said so.
pub async fn status(
    bus: &Bus,
    device: &DeviceId,
    deployment: &DeploymentName,
) -> Result<Option<(Status, u64)>, ProvisionError> {
    let last = read::<Status>(bus, subject::STATUS, &subject::deployment_key(device, deployment)).await?;
    Ok(last.value.map(|status| (status, last.revision)))
}

/// A key as it stands.
pub(super) struct Last<T> {
    /// None when it was deleted or never written.
    pub(super) value: Option<T>,
    /// Neither deleted nor never written.
    pub(super) present: bool,
    /// 0 when never written.
    pub(super) revision: u64,
}

pub(super) async fn read<T: DeserializeOwned>(
    bus: &Bus,
    bucket: &'static str,
    key: &str,
) -> Result<Last<T>, ProvisionError> {
    let Some(entry) = bus.kv_get(bucket, key).await? else {
        return Ok(Last { value: None, present: false, revision: 0 });
    };
    let revision = entry.revision;
    if entry.deleted {
        return Ok(Last { value: None, present: false, revision });
    }
    let value = serde_json::from_slice(&entry.value).map_err(|source| ProvisionError::Malformed {
        bucket,
        key: key.to_owned(),
        revision,
        source,
    })?;
    Ok(Last { value: Some(value), present: true, revision })
}

/// A value that is not understood must not stand in the way of its replacement or deletion, so it counts
/// as a present value of unknown content. (An index does stand in the way: to guess it would remove deployments.)
pub(super) async fn read_desired(bus: &Bus, key: &str) -> Result<Last<Desired>, ProvisionError> {
    match read(bus, subject::DESIRED, key).await {
        Err(error @ ProvisionError::Malformed { revision, .. }) => {
            tracing::warn!(error = %Chain(&error), "replacing a desired value");
            Ok(Last { value: None, present: true, revision })
        }
        other => other,
    }
}

pub(super) async fn read_index(bus: &Bus, device: &DeviceId) -> Result<Last<Index>, ProvisionError> {
    read(bus, subject::DESIRED, &subject::index_key(device)).await
}

pub(super) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, ProvisionError> {
    serde_json::to_vec(value).map_err(|source| ProvisionError::Encode { key: key.to_owned(), source })
}
