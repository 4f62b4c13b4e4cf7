//! What is told of a deployment, given all that is known of it. Pure.

use super::act::{last_words, words};
use super::effort::{Effort, target};
use super::health::Findings;
use super::intake::Intake;
use super::ledger::Ledger;
use super::ports::{InitSpec, ManagedService, ServiceSpec, ServiceState};
use super::score::{self, Reason, Refusal};
use super::store::Record;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{
    Condition, ContainerStatus, Desired, Phase, Rollback, Status, WORKLOAD_VERSION,
};
use crate::plan::health::Health;
use crate::plan::reconcile::{self, SeenService, SeenState, Standing, WantedService};

/// What is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    /// What was told.
    pub(super) intake: &'a Intake,
    /// What was last seen; none before the first look.
    pub(super) seen: Option<&'a [ManagedService]>,
    /// Whether the container runtime can be looked at.
    pub(super) runtime_answers: bool,
    /// What the health checks found.
    pub(super) findings: &'a Findings,
    /// What is being done about the deployment.
    pub(super) effort: Option<&'a Effort>,
    /// Whether what was seen is from after the last act, so that a change has been judged by it.
    pub(super) judged: bool,
    /// What was done for it.
    pub(super) ledger: Option<&'a Ledger>,
}

/// A phase, the cause when it is not `Running`, and a line for people.
type Verdict = (Phase, Option<Reason>, String);

/// The status of a deployment; none when nothing is to be said of it any more.
///
/// Generation and revision are those of the value that was taken last, also when it was rolled back: then
/// `rollback` says which generation runs.
pub(super) fn status(name: &DeploymentName, evidence: &Evidence<'_>) -> Option<Status> {
    let record = evidence.intake.records().get(name)?;
    let seen = evidence.seen.unwrap_or_default();
    let there: Vec<&ManagedService> = seen.iter().filter(|service| service.deployment == *name).collect();
    let to_go = evidence.intake.is_to_go(name, record);
    if to_go && there.is_empty() && record.accepted.is_none() {
        return None;
    }
    let target = target(record, evidence.ledger);
    let specs = target.map(|target| score::services(name, target)).unwrap_or_default();
    let rollback = rollback(record, target, evidence.ledger);
    let (phase, reason, message) = if to_go {
        (Phase::Pending, None, "is being removed".to_owned())
    } else if let Some(Refusal { reason, message }) = record.refusal.as_ref() {
        (Phase::Failed, Some(*reason), message.clone())
    } else {
        let verdict = judge(name, &specs, evidence, record);
        let (phase, reason, message) = match &rollback {
            Some(undone) => rolled_back(verdict, undone),
            None => verdict,
        };
        match evidence.intake.note(name) {
            Some(note) => (phase, reason, format!("{message}; {note}")),
            None => (phase, reason, message),
        }
    };
    let inits = record.accepted.as_ref().map(|accepted| score::inits(name, accepted)).unwrap_or_default();
    let wanted_set = record.accepted.as_ref().map(score::set).unwrap_or_default();
    Some(Status {
        version: WORKLOAD_VERSION,
        phase,
        generation: record.accepted.as_ref().map_or(0, |accepted| accepted.generation),
        revision: record.revision,
        message,
        reason: reason.map(|reason| reason.to_string()).unwrap_or_default(),
        init_containers: inits.iter().map(|spec| init_status(spec, &wanted_set, evidence.ledger)).collect(),
        services: specs.iter().map(|spec| container_status(spec, &there, evidence.ledger)).collect(),
        rollback,
        conditions: conditions(evidence.ledger),
    })
}

fn rollback(record: &Record, target: Option<&Desired>, ledger: Option<&Ledger>) -> Option<Rollback> {
    let (wanted, target) = (record.accepted.as_ref()?, target?);
    let bad = ledger?.bad(&score::set(wanted))?;
    let undone = score::set(target) != score::set(wanted);
    let (from, to) = (wanted.generation, target.generation);
    undone.then(|| Rollback { from, to, cause: bad.cause.clone() })
}

/// What a rollback makes of the verdict on what was gone back to.
fn rolled_back((phase, reason, message): Verdict, undone: &Rollback) -> Verdict {
    let Rollback { from, to, cause } = undone;
    match phase {
        Phase::Running => (
            Phase::RolledBack,
            reason,
            format!("generation {from} failed: {cause}; generation {to} runs again"),
        ),
        _ => (
            phase,
            reason,
            format!("going back to generation {to}: {message}; generation {from} failed: {cause}"),
        ),
    }
}

fn conditions(ledger: Option<&Ledger>) -> Vec<Condition> {
    let limits = ledger.map(|ledger| ledger.limits_not_enforced.as_slice()).unwrap_or_default();
    if limits.is_empty() {
        return Vec::new();
    }
    vec![Condition { name: "LimitsNotEnforced".to_owned(), message: limits.join("; ") }]
}

fn judge(name: &DeploymentName, specs: &[ServiceSpec], evidence: &Evidence<'_>, record: &Record) -> Verdict {
    let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    if !evidence.runtime_answers {
        return (Phase::Pending, None, "the container runtime does not answer".to_owned());
    }
    let failure = evidence.effort.and_then(|effort| effort.failure.as_ref());
    if let Some(effort) = evidence.effort.filter(|effort| !effort.line.is_empty()) {
        // While it is tried again, what failed last is not overcome.
        let reason = failure.map(|failure| failure.error.refusal().reason);
        return (Phase::Pending, effort.line_reason.or(reason), effort.line.clone());
    }
    if let Some(failure) = failure {
        let Refusal { reason, message } = failure.error.refusal();
        let (tries, pause) = (failure.tries, failure.pause.as_secs());
        let message = format!("{message}; try {tries} failed, the next follows {pause} s later");
        return (Phase::Pending, Some(reason), message);
    }
    let Some(seen) = evidence.seen else {
        return (Phase::Pending, None, format!("{} to start", count(specs.len(), "service")));
    };
    if let Some(lost) =
        seen.iter().find(|service| service.deployment == *name && service.state == ServiceState::Lost)
    {
        let message = format!("the container runtime lost {}; it is made anew", lost.name);
        return (Phase::Pending, Some(Reason::RuntimeLost), message);
    }
    let sick = seen.iter().filter(|service| service.deployment == *name);
    if let Some((service, output)) =
        sick.filter_map(|s| Some((s, unhealthy(evidence.findings, &s.id)?))).next()
    {
        let message = format!("{} is unhealthy: {output}", service.name);
        return (Phase::Pending, Some(Reason::Unhealthy), message);
    }
    let inits = record.accepted.as_ref().map_or(0, |accepted| score::inits(name, accepted).len());
    let there = seen.iter().filter(|service| service.deployment == *name);
    let there: Vec<SeenService> = there.map(|service| seen_service(service, evidence.findings)).collect();
    match reconcile::standing(&wanted(specs), &there) {
        Standing::Running { running, completed } => {
            let mut parts = Vec::new();
            if inits > 0 {
                parts.push(format!("{} completed", count(inits, "init container")));
            }
            parts.push(format!("{} running", count(running, "service")));
            if completed > 0 {
                parts.push(format!("{completed} completed"));
            }
            (Phase::Running, None, parts.join(", "))
        }
        Standing::Waiting { services } => {
            let names: Vec<&str> = services.iter().map(ContainerName::as_str).collect();
            (Phase::Pending, None, format!("not running yet: {}", names.join(", ")))
        }
        Standing::Restarting { service, code } => restarting(&service, code, specs, evidence),
        Standing::Exited { service, code, .. } => {
            let message = how_it_ended(&service, code, evidence.ledger);
            // Until it is judged, it may be undone or started again; it has failed once that is told with its evidence.
            let open = !evidence.judged || evidence.effort.is_some_and(|effort| effort.busy);
            (if open { Phase::Pending } else { Phase::Failed }, Some(Reason::ServiceExited), message)
        }
    }
}

/// What is told of a service that ended and is to be started again.
fn restarting(service: &ContainerName, code: i32, specs: &[ServiceSpec], evidence: &Evidence<'_>) -> Verdict {
    let restarts = evidence.ledger.and_then(|ledger| ledger.restarts.get(service));
    let hash = specs.iter().find(|spec| spec.name == *service).map_or("", |spec| spec.hash.as_str());
    let ends = restarts.map_or(0, |restarts| restarts.ends(hash));
    let reason = if ends > 1 { Reason::CrashLoop } else { Reason::ServiceExited };
    let pause = evidence.effort.and_then(|effort| effort.resting.get(service)).map(|rest| rest.pause);
    let Some(pause) = pause else {
        return (Phase::Pending, Some(reason), format!("{service} ended with exit code {code}"));
    };
    let message = how_it_ended(service, code, evidence.ledger);
    let message = match pause.as_secs() {
        0 => format!("{message}; it is started again"),
        seconds => format!("{message}; restart {ends} follows in {seconds} s"),
    };
    (Phase::Pending, Some(reason), message)
}

fn how_it_ended(service: &ContainerName, code: i32, ledger: Option<&Ledger>) -> String {
    // It may be the end of the container before this one.
    let end = ledger.and_then(|ledger| ledger.ends.get(service)).filter(|end| end.exit_code == code);
    let memory = if end.is_some_and(|end| end.oom) { ", out of memory" } else { "" };
    let last = end.map(last_words).unwrap_or_default();
    format!("{service} ended with exit code {code}{memory}{}", words(&last))
}

/// An init container as the ledger has it.
fn init_status(spec: &InitSpec, set: &str, ledger: Option<&Ledger>) -> ContainerStatus {
    let ledger = ledger.filter(|ledger| ledger.inits.set == set || ledger.bad(set).is_some());
    let end = ledger.and_then(|ledger| ledger.ends.get(&spec.name)).cloned();
    let inits = ledger.map(|ledger| &ledger.inits);
    let running = inits.is_some_and(|it| {
        it.running.as_ref() == Some(&spec.name) && it.failed.is_none() && !it.has_done(&spec.name)
    });
    let state = match (&end, running) {
        (_, true) => "running",
        (Some(_), false) => "exited",
        (None, false) => "waiting",
    };
    ContainerStatus {
        name: spec.name.clone(),
        id: String::new(),
        state: state.to_owned(),
        image: spec.image.clone(),
        exit_code: end.as_ref().map(|end| end.exit_code),
        end,
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
pub(super) fn seen_service(service: &ManagedService, findings: &Findings) -> SeenService {
    SeenService {
        id: service.id.clone(),
        deployment: service.deployment.clone(),
        service: service.name.clone(),
        hash: service.hash.clone(),
        state: match service.state {
            ServiceState::Created => SeenState::NotStarted,
            ServiceState::Running if is_unhealthy(findings, &service.id) => SeenState::Unhealthy,
            ServiceState::Running => SeenState::Running,
            ServiceState::Exited { code } => SeenState::Ended { code },
            ServiceState::Lost => SeenState::Lost,
            ServiceState::Other(_) => SeenState::Other,
        },
    }
}

/// Whether a container's health check fails.
pub(super) fn is_unhealthy(findings: &Findings, id: &str) -> bool {
    unhealthy(findings, id).is_some()
}

/// What the failing health check of a container printed.
fn unhealthy<'a>(findings: &'a Findings, id: &str) -> Option<&'a str> {
    match findings.get(id)? {
        Health::Unhealthy { output } => Some(output),
        Health::Starting | Health::Healthy => None,
    }
}

/// The container of a service as last seen: the one made from this specification, else the one before it.
fn container_status(
    spec: &ServiceSpec,
    there: &[&ManagedService],
    ledger: Option<&Ledger>,
) -> ContainerStatus {
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
        end: ledger.and_then(|ledger| ledger.ends.get(&spec.name)).cloned(),
    }
}
