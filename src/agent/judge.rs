//! What is told of a deployment, given all that is known of it. Pure.

use super::intake::Intake;
use super::ports::{ManagedService, ServiceSpec, ServiceState};
use super::score::{self, Reason, Refusal};
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{ContainerStatus, Phase, Status, WORKLOAD_VERSION};
use crate::plan::reconcile::{self, SeenService, SeenState, Standing, WantedService};
use std::collections::BTreeMap;

/// What is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    /// What was told.
    pub(super) intake: &'a Intake,
    /// What was last seen; none before the first look.
    pub(super) seen: Option<&'a [ManagedService]>,
    /// Whether the container runtime can be looked at.
    pub(super) runtime_answers: bool,
    /// What the last act on the deployment failed with.
    pub(super) failure: Option<&'a Refusal>,
    /// The last line of services that ended with a failure, by container id.
    pub(super) last_words: &'a BTreeMap<String, String>,
}

/// A phase, the cause when it is `Failed`, and a line for people.
type Verdict = (Phase, Option<Reason>, String);

/// The status of a deployment; none when nothing is to be said of it any more.
pub(super) fn status(name: &DeploymentName, evidence: &Evidence<'_>) -> Option<Status> {
    let record = evidence.intake.records().get(name)?;
    let seen = evidence.seen.unwrap_or_default();
    let there: Vec<&ManagedService> = seen.iter().filter(|service| service.deployment == *name).collect();
    let to_go = evidence.intake.is_to_go(name, record);
    if to_go && there.is_empty() && record.accepted.is_none() {
        return None;
    }
    let specs = record.accepted.as_ref().map(|accepted| score::services(name, accepted)).unwrap_or_default();
    let (phase, reason, message) = if to_go {
        (Phase::Pending, None, "is being removed".to_owned())
    } else if let Some(Refusal { reason, message }) = record.refusal.as_ref().or(evidence.failure) {
        (Phase::Failed, Some(*reason), message.clone())
    } else {
        let (phase, reason, message) = judge_services(name, &specs, evidence);
        match evidence.intake.note(name) {
            Some(note) => (phase, reason, format!("{message}; {note}")),
            None => (phase, reason, message),
        }
    };
    Some(Status {
        version: WORKLOAD_VERSION,
        phase,
        generation: record.accepted.as_ref().map_or(0, |accepted| accepted.generation),
        revision: record.revision,
        message,
        reason: reason.map(|reason| reason.to_string()).unwrap_or_default(),
        init_containers: Vec::new(),
        services: specs.iter().map(|spec| container_status(spec, &there)).collect(),
        rollback: None,
        conditions: Vec::new(),
    })
}

fn judge_services(name: &DeploymentName, specs: &[ServiceSpec], evidence: &Evidence<'_>) -> Verdict {
    let count = |n: usize| if n == 1 { "1 service".to_owned() } else { format!("{n} services") };
    if !evidence.runtime_answers {
        return (Phase::Pending, None, "the container runtime does not answer".to_owned());
    }
    let Some(seen) = evidence.seen else {
        return (Phase::Pending, None, format!("{} to start", count(specs.len())));
    };
    let there: Vec<SeenService> = seen.iter().map(seen_service).collect();
    match reconcile::standing(&wanted(specs), &of(&there, name)) {
        Standing::Running { running, completed: 0 } => {
            (Phase::Running, None, format!("{} running", count(running)))
        }
        Standing::Running { running, completed } => {
            (Phase::Running, None, format!("{} running, {completed} completed", count(running)))
        }
        Standing::Waiting { services } => {
            let names: Vec<&str> = services.iter().map(ContainerName::as_str).collect();
            (Phase::Pending, None, format!("not running yet: {}", names.join(", ")))
        }
        Standing::Exited { service, id, code } => {
            let words = evidence.last_words.get(&id).filter(|line| !line.is_empty());
            let words = words.map(|line| format!(": {line}")).unwrap_or_default();
            let message = format!("{service} ended with exit code {code}{words}");
            (Phase::Failed, Some(Reason::ServiceExited), message)
        }
    }
}

/// What planning needs to know of services.
pub(super) fn wanted(specs: &[ServiceSpec]) -> Vec<WantedService> {
    let one = |spec: &ServiceSpec| WantedService {
        name: spec.name.clone(),
        hash: spec.hash.clone(),
        restart: spec.restart,
    };
    specs.iter().map(one).collect()
}

/// The containers of one deployment.
pub(super) fn of(there: &[SeenService], name: &DeploymentName) -> Vec<SeenService> {
    there.iter().filter(|service| service.deployment == *name).cloned().collect()
}

/// What planning needs to know of a container.
pub(super) fn seen_service(service: &ManagedService) -> SeenService {
    SeenService {
        id: service.id.clone(),
        deployment: service.deployment.clone(),
        service: service.name.clone(),
        hash: service.hash.clone(),
        state: match service.state {
            ServiceState::Created => SeenState::NotStarted,
            ServiceState::Running => SeenState::Running,
            ServiceState::Exited { code } => SeenState::Ended { code },
            ServiceState::Lost | ServiceState::Other(_) => SeenState::Other,
        },
    }
}

/// The container of a service as last seen: the one made from this specification, else the one before it.
fn container_status(spec: &ServiceSpec, there: &[&ManagedService]) -> ContainerStatus {
    let same = || there.iter().filter(|service| service.name == spec.name);
    let found = same().find(|service| service.hash == spec.hash).or_else(|| same().next());
    ContainerStatus {
        name: spec.name.clone(),
        id: found.map(|service| service.id.clone()).unwrap_or_default(),
        state: found.map_or("missing", |service| service.state.name()).to_owned(),
        image: found.map_or(&spec.image, |service| &service.image).clone(),
        exit_code: match found.map(|service| &service.state) {
            Some(ServiceState::Exited { code }) => Some(*code),
            _ => None,
        },
        end: None,
    }
}
