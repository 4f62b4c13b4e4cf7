//! Whether a device is what its desired state says: what NATS holds, what the agent says, and what podman on
//! the device shows, laid side by side.

use super::spec;
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::workload::{Desired, Index, Phase, PodmanService, RestartPolicy, Score, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What is known of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    /// Each desired key's revision and value; no value when it is not understood.
    pub desired: BTreeMap<DeploymentName, (u64, Option<Desired>)>,
    /// The index.
    pub index: Option<Index>,
    /// The revision up to which the agent has acknowledged all that was delivered; none when the device's
    /// durable is not there.
    pub receipt: Option<u64>,
    /// What the agent says.
    pub statuses: BTreeMap<DeploymentName, Status>,
    /// What podman on the device shows of the agent's containers.
    pub containers: Vec<Container>,
}

/// A container of the agent's, as podman shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its deployment, by its label.
    pub deployment: DeploymentName,
    /// Its service or init container, by its label.
    pub name: String,
    /// podman's word for its state.
    pub state: String,
    /// Its label `SPEC_HASH`; empty when it has none.
    pub hash: String,
}

/// Something that is not as desired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// On which device.
    pub device: DeviceId,
    /// Of which deployment.
    pub deployment: DeploymentName,
    /// Where it is seen.
    pub at: Place,
    /// What should be there.
    pub expected: String,
    /// What is.
    pub found: String,
}

/// Where a mismatch is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The deployment's desired key.
    Desired,
    /// The device's index.
    Index,
    /// What the device's durable knows of its acknowledgements.
    Receipt,
    /// The agent's status.
    Status,
    /// A container, by its service's name.
    Container(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Desired => f.write_str("desired state"),
            Self::Index => f.write_str("index"),
            Self::Receipt => f.write_str("receipt"),
            Self::Status => f.write_str("status"),
            Self::Container(name) => write!(f, "container {name}"),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, deployment, at, expected, found } = self;
        write!(f, "{device}: {deployment}: {at}: expected {expected}, found {found}")
    }
}

/// Everything on the device that is not as desired; empty when it has converged.
pub fn verify(device: &DeviceId, view: &View) -> Vec<Mismatch> {
    let indexed = view.index.iter().flat_map(|index| index.deployments.keys());
    let contained = view.containers.iter().map(|container| &container.deployment);
    let names: BTreeSet<_> =
        view.desired.keys().chain(view.statuses.keys()).chain(indexed).chain(contained).collect();
    let mut found = Vec::new();
    for deployment in names {
        let check = Check { device, deployment, view };
        match view.desired.get(deployment) {
            Some((revision, Some(desired))) => check.wanted(*revision, desired, &mut found),
            Some((revision, None)) => {
                let what = format!("something else at revision {revision}");
                found.push(check.mismatch(Place::Desired, "a desired value", what));
            }
            None => check.unwanted(&mut found),
        }
    }
    found
}

/// One deployment.
struct Check<'a> {
    device: &'a DeviceId,
    deployment: &'a DeploymentName,
    view: &'a View,
}

impl Check<'_> {
    fn mismatch(&self, at: Place, expected: impl Into<String>, found: impl Into<String>) -> Mismatch {
        Mismatch {
            device: self.device.clone(),
            deployment: self.deployment.clone(),
            at,
            expected: expected.into(),
            found: found.into(),
        }
    }

    fn indexed(&self) -> Option<u64> {
        self.view.index.as_ref()?.deployments.get(self.deployment).copied()
    }

    fn containers(&self) -> impl Iterator<Item = &Container> {
        self.view.containers.iter().filter(|container| container.deployment == *self.deployment)
    }

    fn wanted(&self, revision: u64, desired: &Desired, found: &mut Vec<Mismatch>) {
        let generation = desired.generation;
        if self.indexed() != Some(generation) {
            let seen = self.indexed().map_or("no entry".to_owned(), |seen| format!("generation {seen}"));
            found.push(self.mismatch(Place::Index, format!("generation {generation}"), seen));
        }
        if self.view.receipt.is_none_or(|receipt| receipt < revision) {
            let seen = self.view.receipt.map_or("no durable".to_owned(), |seen| format!("revision {seen}"));
            found.push(self.mismatch(Place::Receipt, format!("revision {revision} or later"), seen));
        }
        let expected = format!("{} at generation {generation}, revision {revision}", Phase::Running);
        match self.view.statuses.get(self.deployment) {
            None => found.push(self.mismatch(Place::Status, expected, "no status")),
            Some(Status { phase, generation: of, revision: at, reason, message, .. }) => {
                if *phase != Phase::Running || *of != generation || *at != revision {
                    let cause = if *phase == Phase::Running { "" } else { message.as_str() };
                    let cause = [reason, cause].into_iter().filter(|part| !part.is_empty());
                    let cause = cause.map(|part| format!(": {part}")).collect::<String>();
                    let seen = format!("{phase} at generation {of}, revision {at}{cause}");
                    found.push(self.mismatch(Place::Status, expected, seen));
                }
            }
        }
        let Score::PodmanV0(score) = &desired.score;
        for service in &score.services {
            found.extend(self.service(service));
        }
        let known = |container: &&Container| score.services.iter().any(|s| s.name.as_str() == container.name);
        found.extend(self.containers().filter(|container| !known(container)).map(|extra| self.extra(extra)));
    }

    /// What of a service is not as desired. The hashes themselves are not told: they are of the values of `env` too, which are
    /// short enough to be guessed from one, and a mismatch stands in events and bundles.
    fn service(&self, service: &PodmanService) -> Option<Mismatch> {
        let hash = spec::hash(service);
        let mut seen = self.containers().filter(|container| container.name == service.name.as_str());
        let expected = "one, running, with the desired spec hash";
        let at = Place::Container(service.name.to_string());
        let Some(one) = seen.next() else { return Some(self.mismatch(at, expected, "none")) };
        let more = seen.count();
        if more > 0 {
            return Some(self.mismatch(at, expected, format!("{} of them", more + 1)));
        }
        // One that need not run for ever may have ended.
        let lives =
            one.state == "running" || (one.state == "exited" && service.restart != RestartPolicy::Always);
        if lives && one.hash == hash {
            return None;
        }
        let label = match one.hash.as_str() {
            "" => "without a spec hash",
            same if same == hash => "with the desired spec hash",
            _ => "with another spec hash",
        };
        Some(self.mismatch(at, expected, format!("{} {label}", one.state)))
    }

    fn unwanted(&self, found: &mut Vec<Mismatch>) {
        if let Some(generation) = self.indexed() {
            found.push(self.mismatch(Place::Index, "no entry", format!("generation {generation}")));
        }
        if let Some(Status { phase, generation, .. }) = self.view.statuses.get(self.deployment) {
            let seen = format!("{phase} at generation {generation}");
            found.push(self.mismatch(Place::Status, "no status", seen));
        }
        found.extend(self.containers().map(|extra| self.extra(extra)));
    }

    fn extra(&self, container: &Container) -> Mismatch {
        self.mismatch(Place::Container(container.name.clone()), "none", container.state.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn web() -> DeploymentName {
        DeploymentName::new("web").unwrap()
    }

    fn desired() -> Desired {
        let services = json!([
            { "name": "hello", "image": "i:1" },
            { "name": "once", "image": "i:1", "restart": "no" },
        ]);
        let score = json!({ "type": "PodmanV0", "data": { "services": services } });
        let token = json!({ "epoch": 1, "sequence": 1 });
        let desired = json!({ "version": 1, "generation": 3, "token": token, "score": score });
        serde_json::from_value(desired).unwrap()
    }

    fn hashes() -> Vec<String> {
        let Score::PodmanV0(score) = desired().score;
        score.services.iter().map(spec::hash).collect()
    }

    fn status() -> Status {
        let status =
            json!({ "version": 1, "phase": "Running", "generation": 3, "revision": 7, "message": "m" });
        serde_json::from_value(status).unwrap()
    }

    fn container(name: &str, state: &str, hash: &str) -> Container {
        let (name, state, hash) = (name.to_owned(), state.to_owned(), hash.to_owned());
        Container { deployment: web(), name, state, hash }
    }

    fn converged() -> View {
        View {
            desired: [(web(), (7, Some(desired())))].into(),
            index: Some(Index { version: 1, deployments: [(web(), 3)].into(), floor: None }),
            receipt: Some(8),
            statuses: [(web(), status())].into(),
            containers: vec![
                container("hello", "running", &hashes()[0]),
                container("once", "exited", &hashes()[1]),
            ],
        }
    }

    fn told(view: &View) -> Vec<String> {
        let device = DeviceId::new("lab-1").unwrap();
        verify(&device, view).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_device_that_has_converged_has_no_mismatch() {
        assert_eq!(told(&converged()), [""; 0]);
        assert_eq!(told(&View::default()), [""; 0]);
    }

    #[test]
    fn each_mismatch_is_named_with_what_was_expected_and_found() {
        type Change = fn(&mut View);
        let table: &[(Change, &[&str])] = &[
            (|view| view.index = None, &["lab-1: web: index: expected generation 3, found no entry"]),
            (
                |view| view.index.as_mut().unwrap().deployments = [(web(), 4)].into(),
                &["lab-1: web: index: expected generation 3, found generation 4"],
            ),
            (
                |view| view.receipt = Some(6),
                &["lab-1: web: receipt: expected revision 7 or later, found revision 6"],
            ),
            (
                |view| view.receipt = None,
                &["lab-1: web: receipt: expected revision 7 or later, found no durable"],
            ),
            (
                |view| view.statuses.clear(),
                &["lab-1: web: status: expected Running at generation 3, revision 7, found no status"],
            ),
            (
                |view| view.statuses.get_mut(&web()).unwrap().generation = 2,
                &["lab-1: web: status: expected Running at generation 3, revision 7, \
                   found Running at generation 2, revision 7"],
            ),
            (
                |view| view.statuses.get_mut(&web()).unwrap().revision = 5,
                &["lab-1: web: status: expected Running at generation 3, revision 7, \
                   found Running at generation 3, revision 5"],
            ),
            (
                |view| {
                    let status = view.statuses.get_mut(&web()).unwrap();
                    (status.phase, status.reason) = (Phase::Failed, "ServiceExited".to_owned());
                },
                &["lab-1: web: status: expected Running at generation 3, revision 7, \
                   found Failed at generation 3, revision 7: ServiceExited: m"],
            ),
            (
                |view| view.containers.truncate(1),
                &[
                    "lab-1: web: container once: expected one, running, with the desired spec hash, found none",
                ],
            ),
            (
                |view| view.containers[0].hash = "other".to_owned(),
                &["lab-1: web: container hello: expected one, running, with the desired spec hash, \
                   found running with another spec hash"],
            ),
            (
                |view| view.containers[0].hash.clear(),
                &["lab-1: web: container hello: expected one, running, with the desired spec hash, \
                   found running without a spec hash"],
            ),
            (
                |view| view.containers[0].state = "exited".to_owned(),
                &["lab-1: web: container hello: expected one, running, with the desired spec hash, \
                   found exited with the desired spec hash"],
            ),
            (
                |view| view.containers.push(container("hello", "running", "x")),
                &[
                    "lab-1: web: container hello: expected one, running, with the desired spec hash, found 2 of them",
                ],
            ),
            (
                |view| view.containers.push(container("stray", "running", "x")),
                &["lab-1: web: container stray: expected none, found running"],
            ),
            (
                |view| view.desired.get_mut(&web()).unwrap().1 = None,
                &["lab-1: web: desired state: expected a desired value, found something else at revision 7"],
            ),
            (
                |view| {
                    view.desired.clear();
                    view.containers.truncate(1);
                },
                &[
                    "lab-1: web: index: expected no entry, found generation 3",
                    "lab-1: web: status: expected no status, found Running at generation 3",
                    "lab-1: web: container hello: expected none, found running",
                ],
            ),
        ];
        for (change, expected) in table {
            let mut view = converged();
            change(&mut view);
            assert_eq!(told(&view), *expected);
        }
    }
}
