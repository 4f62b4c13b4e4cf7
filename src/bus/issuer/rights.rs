//! What each kind of user may do.

use super::COORDINATOR;
use crate::bus::jwt::{Export, Permissions, Share};
use crate::model::id::LabName;
use crate::wire::subject;
use std::time::Duration;

/// How long after a request a device may answer it: `exec` may take 60 s, and its answer some more.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(75);
/// The most subscriptions of a device or person: they need a handful.
const MAX_SUBSCRIPTIONS: u32 = 64;
/// The most bytes in a device's message: a status with its log tail takes a few KB.
const MAX_DEVICE_PAYLOAD: u32 = 256 * 1024;
/// The most bytes in a person's request: nats-server's default for any message.
const MAX_USER_PAYLOAD: u32 = 1024 * 1024;

/// Stands for the user's name in a template, where it is a whole token.
const NAME: &str = "{{name()}}";

/// What a device publishes, its answers apart: reading its own desired keys, pulling them through its
/// durable, and writing its own status and presence.
fn from_devices(name: &str) -> Vec<String> {
    let desired = subject::stream(subject::DESIRED);
    vec![
        format!("$JS.API.DIRECT.GET.{desired}.{}", subject::key(subject::DESIRED, &format!("{name}.>"))),
        format!("$JS.API.CONSUMER.MSG.NEXT.{desired}.{name}"),
        format!("$JS.ACK.{desired}.{name}.>"),
        subject::key(subject::STATUS, &format!("{name}.>")),
        subject::key(subject::PRESENCE, name),
    ]
}

/// What passes between the devices' account and the lab's. Devices have an account of their own because
/// JetStream answers to whatever reply subject a request names, without asking whether the requester may
/// publish there: in the lab's account such an answer would be stored over other keys. Here it ends
/// in the devices' account, which has no streams; the server takes no answer to a service through another import.
///
/// Requests come to the devices as a stream, not as a service of theirs: so the coordinator learns at once that
/// a device does not listen, and a request under way outlives a revocation.
pub(super) fn shared() -> Vec<Export> {
    let answers = format!("{}.>", subject::inbox(COORDINATOR));
    let services = from_devices("*").into_iter().chain([answers]);
    let mut shared: Vec<_> = services.map(|subject| Export::new(Share::Service, subject)).collect();
    shared.push(Export::new(Share::Stream, subject::fleet_all("*")));
    shared
}

/// What a device may do: read its own desired keys and pull them through its durable, write its own
/// status and presence, take requests and answer them.
///
/// A device answers by a right to publish once to the reply subject of a message it got, not by a right to
/// publish to the coordinator's inboxes: those are guessable from any one of them (a client's request ids
/// count up), so a device could then forge the answers that other devices or JetStream owe. Only the
/// coordinator may publish `fleet.>`, and it chooses the reply subject.
///
/// What must never be granted, with the attack each grant allows: making or deleting consumers (reading
/// or re-pointing other devices' cursors), `STREAM.INFO` (lists all keys), `DIRECT.GET` without a key (reads any
/// message by number), any read of `status`.
pub(super) fn device_template(answer_within: Duration) -> Permissions {
    Permissions::only(
        from_devices(NAME),
        vec![format!("{}.>", subject::inbox(NAME)), subject::fleet_all(NAME)],
    )
    .with_one_response(answer_within)
    .with_limits(MAX_SUBSCRIPTIONS, MAX_DEVICE_PAYLOAD)
}

/// What a person may do: ask the coordinator under her own name, and follow runs, events and consoles.
pub(super) fn user_template(lab: &LabName) -> Permissions {
    let all = |what: &str| format!("lab.{lab}.{what}.>");
    Permissions::only(
        vec![format!("lab.{lab}.req.{NAME}.>")],
        vec![format!("{}.>", subject::inbox(NAME)), all("run"), all("event"), all("console")],
    )
    .with_limits(MAX_SUBSCRIPTIONS, MAX_USER_PAYLOAD)
}
