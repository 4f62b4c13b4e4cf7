//! The forms of requests and answers, and which role each request takes.

use super::refusal::Refusal;
use crate::model::role::Role;
use crate::wire::boot::EVENTS_OF;
use crate::wire::console::CONSOLE_READ;
use crate::wire::deploying::{DEPLOYMENTS, STATUS};
use crate::wire::lending::{DEVICE, DEVICES, HEALTH, LEASE, LOGIN, LOGOUT, QUEUE, RELOAD};
use crate::wire::request::{BUNDLE, BUNDLE_READ, EVENTS, HELLO, REQUEST_VERSION, Reply};
use crate::wire::training::TRAIN;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The least role that a request takes. One that is not named here acts on something, and is no viewer's.
pub(super) fn needed(verb: &str) -> Role {
    match verb {
        HELLO | DEVICES | DEVICE | QUEUE | LEASE | CONSOLE_READ | EVENTS_OF | STATUS | DEPLOYMENTS
        | EVENTS | BUNDLE | BUNDLE_READ => Role::Viewer,
        LOGIN | LOGOUT | HEALTH | TRAIN | RELOAD => Role::Admin,
        _ => Role::User,
    }
}

pub(super) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(payload).map_err(|e| Refusal::new(format!("the request cannot be read: {e}")))
}

pub(super) fn ok<T: Serialize>(body: T) -> Vec<u8> {
    json(&Reply::Ok { body })
}

/// The replies are structs of strings and numbers, which always have a JSON form.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

pub(super) fn same_version(version: u32) -> Result<(), Refusal> {
    if version == REQUEST_VERSION {
        return Ok(());
    }
    Err(Refusal::hinted(
        format!("the request has version {version}; known is {REQUEST_VERSION}"),
        "use the same version of pilab as the coordinator's",
    ))
}
