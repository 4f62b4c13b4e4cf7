//! All subject, bucket and consumer names. Nothing else in the tree spells one.

use crate::model::id::{DeploymentName, DeviceId, LabName, LeaseId, RunId, UserName};

/// Bucket of desired state.
pub const DESIRED: &str = "desired";
/// Bucket of what the agents report.
pub const STATUS: &str = "status";
/// Bucket of agents' heartbeats.
pub const PRESENCE: &str = "presence";
/// Bucket of what else a lab's coordinator keeps: deployments of files, users' roles.
pub fn lab_bucket(lab: &LabName) -> String {
    format!("lab-{lab}")
}

/// Bucket of a lab's leases, its queue and its devices. It is the ledger's alone, since each write to it says
/// which sequence the whole bucket must have.
pub fn ledger_bucket(lab: &LabName) -> String {
    format!("ledger-{lab}")
}

/// Key of the ledger's epoch, in that bucket.
pub const EPOCH_KEY: &str = "epoch";

/// Key of the record of a deployment that a file describes and that was applied under a lease, in the lab's bucket.
pub fn record_key(lease: &LeaseId, deployment: &DeploymentName) -> String {
    format!("deployment.{lease}.{deployment}")
}

/// Key of the record of all credentials of a lab that its coordinators have issued and revoked, in the lab's bucket.
pub const ISSUED_KEY: &str = "issued";

/// Key of a user's role, in the lab's bucket.
pub fn user_key(user: &UserName) -> String {
    format!("user.{user}")
}

/// Key of the record of a run that has not ended, in the lab's bucket.
pub fn run_key(run: &RunId) -> String {
    format!("run.{run}")
}

/// All keys of records of runs.
pub const RUN_KEYS: &str = "run.*";

/// All keys of users' roles.
pub const USER_KEYS: &str = "user.*";

/// The user of such a key.
pub fn parse_user_key(key: &str) -> Option<UserName> {
    UserName::new(key.strip_prefix("user.")?).ok()
}

/// All keys of records of deployments.
pub const RECORD_KEYS: &str = "deployment.*.*";
/// The key, beside the deployments, that names them all.
pub const INDEX: &str = "_index";

/// The stream behind a bucket.
pub fn stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The subject of a key.
pub fn key(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Key of one deployment of a device, in `desired` and `status`.
pub fn deployment_key(device: &DeviceId, deployment: &DeploymentName) -> String {
    format!("{device}.{deployment}")
}

/// What the key of each deployment of a device begins with; the name follows.
pub fn deployment_prefix(device: &DeviceId) -> String {
    format!("{device}.")
}

/// Key of a device's index, in `desired`.
pub fn index_key(device: &DeviceId) -> String {
    format!("{device}.{INDEX}")
}

/// All keys of a device.
pub fn device_keys(device: &DeviceId) -> String {
    format!("{device}.>")
}

/// The durable consumer on `desired` that the coordinator makes for a device.
pub fn durable(device: &DeviceId) -> &str {
    device.as_str()
}

/// Inbox prefix of a device or user. The name is a whole token: nats-server replaces `{{name()}}` in a
/// permission template only there.
pub fn inbox(name: &str) -> String {
    format!("_INBOX.{name}")
}

/// Where an agent takes a request.
pub fn fleet(device: &DeviceId, verb: &str) -> String {
    format!("fleet.{device}.{verb}")
}

/// All requests to a device; `*` for those to any.
pub fn fleet_all(device: &str) -> String {
    format!("fleet.{device}.>")
}

/// The verb of a request to `device`. None for every other subject: a message that was sent to one subject
/// may be delivered under another (JetStream does it), so the subscription alone does not tell.
pub fn parse_fleet<'a>(device: &DeviceId, subject: &'a str) -> Option<&'a str> {
    let verb = subject.strip_prefix("fleet.")?.strip_prefix(device.as_str())?.strip_prefix('.')?;
    (!verb.contains('.')).then_some(verb)
}

/// Where a coordinator takes requests; the caller is read from the subject.
pub fn request(lab: &LabName, user: &UserName, verb: &str) -> String {
    format!("lab.{lab}.req.{user}.{verb}")
}

/// What a coordinator subscribes to for requests.
pub fn requests(lab: &LabName) -> String {
    format!("lab.{lab}.req.*.*")
}

/// Caller and verb of a request's subject.
pub fn parse_request(subject: &str) -> Option<(UserName, &str)> {
    let mut tokens = subject.split('.');
    let (lab, _, req, user, verb) =
        (tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?, tokens.next()?);
    if lab != "lab" || req != "req" || tokens.next().is_some() {
        return None;
    }
    Some((UserName::new(user).ok()?, verb))
}

/// Where a run's events are published.
pub fn run(lab: &LabName, run: &RunId) -> String {
    format!("lab.{lab}.run.{run}")
}

/// Where the events of all runs are published.
pub fn runs(lab: &LabName) -> String {
    format!("lab.{lab}.run.*")
}

/// Where a device's journal events are published.
pub fn event(lab: &LabName, device: &DeviceId) -> String {
    format!("lab.{lab}.event.{device}")
}

/// Where a device's console is published.
pub fn console(lab: &LabName, device: &DeviceId) -> String {
    format!("lab.{lab}.console.{device}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_a_device_is_under_its_own_name() {
        let device = DeviceId::new("lab-1").unwrap();
        assert_eq!(parse_fleet(&device, &fleet(&device, "ping")), Some("ping"));
        for bad in ["fleet.lab-12.ping", "fleet.lab-1", "fleet.lab-1.a.ping", "$KV.desired.lab-1.ping", ""] {
            assert_eq!(parse_fleet(&device, bad), None, "{bad}");
        }
    }

    #[test]
    fn the_caller_is_read_from_the_subject() {
        let lab = LabName::new("l").unwrap();
        let user = UserName::new("ann").unwrap();
        let subject = request(&lab, &user, "run");
        assert_eq!(parse_request(&subject), Some((user, "run")));
        for bad in ["lab.l.req.ann", "lab.l.req.ann.run.x", "lab.l.run.ann.x", "lab.l.req.A.run", ""] {
            assert_eq!(parse_request(bad), None, "{bad}");
        }
    }
}
