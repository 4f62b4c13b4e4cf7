//! What each kind of user may do.

use crate::bus::jwt::Permissions;
use crate::model::id::LabName;
use crate::wire::subject;
use std::time::Duration;

/// How long after a request a device may answer it: `exec` may take 60 s, and its answer some more.
const ANSWER_WITHIN: Duration = Duration::from_secs(75);
/// The most subscriptions of a device or person: they need a handful.
const MAX_SUBSCRIPTIONS: u32 = 64;
/// The most bytes in a device's message: a status with its log tail takes a few KB.
const MAX_DEVICE_PAYLOAD: u32 = 256 * 1024;
/// The most bytes in a person's request: nats-server's default for any message.
const MAX_USER_PAYLOAD: u32 = 1024 * 1024;

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
///
/// What one account cannot prevent: JetStream answers to any reply subject that a request names, and
/// streams store those answers, so a hostile device can spoil other keys with the server's own words. They are
/// never valid values, readers refuse them, and the next write replaces them. Keeping them out takes an
/// account for devices that imports these subjects from the lab's.
pub(super) fn device_template() -> Permissions {
    const NAME: &str = "{{name()}}";
    let desired = subject::stream(subject::DESIRED);
    Permissions::only(
        vec![
            format!("$JS.API.DIRECT.GET.{desired}.{}", subject::key(subject::DESIRED, &format!("{NAME}.>"))),
            format!("$JS.API.CONSUMER.MSG.NEXT.{desired}.{NAME}"),
            format!("$JS.ACK.{desired}.{NAME}.>"),
            subject::key(subject::STATUS, &format!("{NAME}.>")),
            subject::key(subject::PRESENCE, NAME),
        ],
        vec![format!("{}.>", subject::inbox(NAME)), format!("fleet.{NAME}.>")],
    )
    .with_one_response(ANSWER_WITHIN)
    .with_limits(MAX_SUBSCRIPTIONS, MAX_DEVICE_PAYLOAD)
}

/// What a person may do: ask the coordinator under her own name, and follow runs, events and consoles.
pub(super) fn user_template(lab: &LabName) -> Permissions {
    const NAME: &str = "{{name()}}";
    let all = |what: &str| format!("lab.{lab}.{what}.>");
    Permissions::only(
        vec![format!("lab.{lab}.req.{NAME}.>")],
        vec![format!("{}.>", subject::inbox(NAME)), all("run"), all("event"), all("console")],
    )
    .with_limits(MAX_SUBSCRIPTIONS, MAX_USER_PAYLOAD)
}
