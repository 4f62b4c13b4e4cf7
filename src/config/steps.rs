//! The steps of a scenario file: one verb each, checked with the key that is wrong.

use super::deployment;
use super::raw::RawDuration;
use super::scenario::bounded;
use crate::model::boot::BootStage;
use crate::model::deployment::DeviceState;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::scenario::{Action, InitExpectation, StatusExpectation, Step};
use crate::model::workload::{Phase, Score};
use crate::support::chain::Chain;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bound of a step that does not state one.
const DEFAULT_STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// What ends the agent without a chance to clean up.
const DEFAULT_SIGNAL: &str = "KILL";

/// The verbs there are, for people.
const VERBS: &str = "ping, deploy, upgrade, delete, wait_phase, containers, verify, absent, put_raw, exec, console, \
                     power_cycle, reboot, kill_agent, cut_network, restore_network, expect_denied, apply, withdraw, wait_deployment";

/// Exactly one of the verbs must be there. A table with optional verbs, instead of an enum, so that
/// the parser knows the place of every mistake.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    name: Option<String>,
    timeout: Option<RawDuration>,
    ping: Option<RawOn>,
    deploy: Option<RawDeploy>,
    upgrade: Option<RawDeploy>,
    delete: Option<RawDelete>,
    wait_phase: Option<RawWaitPhase>,
    containers: Option<RawContainers>,
    absent: Option<RawAbsent>,
    verify: Option<RawOn>,
    put_raw: Option<RawPutRaw>,
    exec: Option<RawExec>,
    console: Option<RawConsole>,
    power_cycle: Option<RawOn>,
    kill_agent: Option<RawKillAgent>,
    reboot: Option<RawOn>,
    cut_network: Option<RawOn>,
    restore_network: Option<RawOn>,
    expect_denied: Option<RawExpectDenied>,
    apply: Option<RawApply>,
    withdraw: Option<RawWithdraw>,
    wait_deployment: Option<RawWaitDeployment>,
}

/// A deployment's file, its path from the scenario's directory.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApply {
    file: PathBuf,
    #[serde(default)]
    on: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWithdraw {
    deployment: DeploymentName,
    #[serde(default)]
    force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWaitDeployment {
    deployment: DeploymentName,
    devices: BTreeMap<String, DeviceState>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOn {
    on: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDeploy {
    on: String,
    deployment: DeploymentName,
    score: Score,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelete {
    on: String,
    deployment: DeploymentName,
}

/// A phase of the agent's report, or that there is no report any more.
#[derive(Deserialize)]
enum RawPhase {
    Pending,
    Running,
    Failed,
    RolledBack,
    #[serde(rename = "gone")]
    Gone,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWaitPhase {
    on: String,
    deployment: DeploymentName,
    phase: RawPhase,
    reason: Option<String>,
    message: Option<String>,
    condition: Option<String>,
    #[serde(default)]
    init_containers: Vec<InitExpectation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawContainers {
    on: String,
    deployment: DeploymentName,
    running: BTreeMap<ContainerName, String>,
    hold: Option<RawDuration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAbsent {
    on: String,
    deployment: DeploymentName,
    hold: RawDuration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPutRaw {
    on: String,
    deployment: DeploymentName,
    payload: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExec {
    on: String,
    command: Vec<String>,
    #[serde(default)]
    exit_code: i32,
    matches: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConsole {
    on: String,
    stage: Option<BootStage>,
    pattern: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKillAgent {
    on: String,
    signal: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpectDenied {
    on: String,
    #[serde(default)]
    publish: Vec<String>,
    #[serde(default)]
    subscribe: Vec<String>,
}

/// The key below the step, and what is wrong with it.
pub(super) type StepError = (&'static str, String);

/// `dir` is the scenario's directory.
pub(super) fn checked_step(raw: &RawStep, roles: &BTreeSet<&str>, dir: &Path) -> Result<Step, StepError> {
    let (verb, action) = action(raw, dir)?;
    if let Some(role) = action.roles().into_iter().find(|role| !roles.contains(role)) {
        let known = roles.iter().copied().collect::<Vec<_>>().join(", ");
        return Err((".on", format!("{role:?} is not one of the needs ({known})")));
    }
    if let Action::ExpectDenied { publish, subscribe, .. } = &action {
        for subject in publish.iter().chain(subscribe) {
            placeholders(subject, roles).map_err(|cause| (".expect_denied", cause))?;
        }
    }
    let timeout = bounded(raw.timeout.map_or(DEFAULT_STEP_TIMEOUT, |t| t.0)).map_err(|e| (".timeout", e))?;
    let hold = match &action {
        Action::Containers { hold, .. } | Action::Absent { hold, .. } => *hold,
        _ => Duration::ZERO,
    };
    if hold >= timeout {
        return Err((".hold", format!("{hold:?} does not fit into the step's timeout of {timeout:?}")));
    }
    let name = raw.name.clone().unwrap_or_else(|| format!("{verb} {}", object(&action)));
    Ok(Step { name, timeout, action })
}

/// What a step that has no name is about.
fn object(action: &Action) -> &str {
    match action {
        Action::Apply { spec, .. } => spec.name.as_str(),
        Action::Withdraw { deployment, .. } | Action::WaitDeployment { deployment, .. } => {
            deployment.as_str()
        }
        _ => action.role().unwrap_or_default(),
    }
}

/// The verbs of the operator, which act on the lab.
fn on_the_lab(raw: &RawStep, dir: &Path) -> Result<Vec<(&'static str, Action)>, StepError> {
    let mut found = Vec::new();
    if let Some(RawApply { file, on }) = &raw.apply {
        let spec = deployment::load(&dir.join(file)).map_err(|e| (".apply.file", Chain(&e).to_string()))?;
        found.push(("apply", Action::Apply { spec: Box::new(spec), on: on.clone() }));
    }
    if let Some(RawWithdraw { deployment, force }) = &raw.withdraw {
        found.push(("withdraw", Action::Withdraw { deployment: deployment.clone(), force: *force }));
    }
    if let Some(RawWaitDeployment { deployment, devices }) = &raw.wait_deployment {
        let (deployment, devices) = (deployment.clone(), devices.clone());
        found.push(("wait_deployment", Action::WaitDeployment { deployment, devices }));
    }
    Ok(found)
}

fn action(raw: &RawStep, dir: &Path) -> Result<(&'static str, Action), StepError> {
    let mut found = on_the_lab(raw, dir)?;
    if let Some(RawOn { on }) = &raw.ping {
        found.push(("ping", Action::Ping { on: on.clone() }));
    }
    for (verb, deploy) in [("deploy", &raw.deploy), ("upgrade", &raw.upgrade)] {
        if let Some(RawDeploy { on, deployment, score }) = deploy {
            let (on, deployment, score) = (on.clone(), deployment.clone(), score.clone());
            found.push((verb, Action::Deploy { on, deployment, score }));
        }
    }
    if let Some(RawDelete { on, deployment }) = &raw.delete {
        found.push(("delete", Action::Delete { on: on.clone(), deployment: deployment.clone() }));
    }
    if let Some(raw) = &raw.wait_phase {
        found.push(("wait_phase", wait_phase(raw)?));
    }
    if let Some(RawContainers { on, deployment, running, hold }) = &raw.containers {
        let (on, deployment, running) = (on.clone(), deployment.clone(), running.clone());
        let hold = hold.map_or(Duration::ZERO, |h| h.0);
        found.push(("containers", Action::Containers { on, deployment, running, hold }));
    }
    if let Some(RawAbsent { on, deployment, hold }) = &raw.absent {
        let (on, deployment) = (on.clone(), deployment.clone());
        found.push(("absent", Action::Absent { on, deployment, hold: hold.0 }));
    }
    if let Some(RawOn { on }) = &raw.verify {
        found.push(("verify", Action::Verify { on: on.clone() }));
    }
    if let Some(RawPutRaw { on, deployment, payload }) = &raw.put_raw {
        let (on, deployment, payload) = (on.clone(), deployment.clone(), payload.clone());
        found.push(("put_raw", Action::PutRaw { on, deployment, payload }));
    }
    if let Some(RawExec { on, command, exit_code, matches }) = &raw.exec {
        if command.is_empty() {
            return Err((".exec.command", "needs a program".to_owned()));
        }
        pattern(".exec.matches", matches.as_deref())?;
        let (on, command, matches) = (on.clone(), command.clone(), matches.clone());
        found.push(("exec", Action::Exec { on, command, exit_code: *exit_code, matches }));
    }
    if let Some(RawConsole { on, stage, pattern: wanted }) = &raw.console {
        if stage.is_some() == wanted.is_some() {
            return Err((".console", "needs either stage or pattern".to_owned()));
        }
        pattern(".console.pattern", wanted.as_deref())?;
        found.push(("console", Action::Console { on: on.clone(), stage: *stage, pattern: wanted.clone() }));
    }
    if let Some(RawOn { on }) = &raw.reboot {
        found.push(("reboot", Action::Reboot { on: on.clone() }));
    }
    if let Some(RawOn { on }) = &raw.cut_network {
        found.push(("cut_network", Action::CutNetwork { on: on.clone() }));
    }
    if let Some(RawOn { on }) = &raw.restore_network {
        found.push(("restore_network", Action::RestoreNetwork { on: on.clone() }));
    }
    if let Some(RawOn { on }) = &raw.power_cycle {
        found.push(("power_cycle", Action::PowerCycle { on: on.clone() }));
    }
    if let Some(RawKillAgent { on, signal }) = &raw.kill_agent {
        let signal = signal.as_deref().unwrap_or(DEFAULT_SIGNAL);
        if signal.is_empty() || !signal.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        {
            return Err((
                ".kill_agent.signal",
                format!("{signal:?} is no signal's name: KILL, SEGV, TERM ..."),
            ));
        }
        found.push(("kill_agent", Action::KillAgent { on: on.clone(), signal: signal.to_owned() }));
    }
    if let Some(RawExpectDenied { on, publish, subscribe }) = &raw.expect_denied {
        if publish.is_empty() && subscribe.is_empty() {
            return Err((".expect_denied", "names no subject: add publish or subscribe".to_owned()));
        }
        let (publish, subscribe) = (publish.clone(), subscribe.clone());
        found.push(("expect_denied", Action::ExpectDenied { on: on.clone(), publish, subscribe }));
    }
    let verbs = found.iter().map(|(verb, _)| *verb).collect::<Vec<_>>().join(" and ");
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(("", format!("has no action: add one of {VERBS}"))),
        _ => Err(("", format!("has more than one action: {verbs}"))),
    }
}

/// Each `{name}` in a subject must be a role, or `lab`.
fn placeholders(subject: &str, roles: &BTreeSet<&str>) -> Result<(), String> {
    for part in subject.split('{').skip(1) {
        let name = part.split_once('}').map(|(name, _)| name);
        if !name.is_some_and(|name| name == "lab" || roles.contains(name)) {
            let known = roles.iter().copied().collect::<Vec<_>>().join(", ");
            return Err(format!("{subject:?}: what stands in braces is neither lab nor a need ({known})"));
        }
    }
    Ok(())
}

fn wait_phase(raw: &RawWaitPhase) -> Result<Action, StepError> {
    let phase = match raw.phase {
        RawPhase::Pending => Some(Phase::Pending),
        RawPhase::Running => Some(Phase::Running),
        RawPhase::Failed => Some(Phase::Failed),
        RawPhase::RolledBack => Some(Phase::RolledBack),
        RawPhase::Gone => None,
    };
    pattern(".wait_phase.message", raw.message.as_deref())?;
    for init in &raw.init_containers {
        pattern(".wait_phase.init_containers", init.log.as_deref())?;
    }
    let expect = StatusExpectation {
        reason: raw.reason.clone(),
        message: raw.message.clone(),
        condition: raw.condition.clone(),
        init_containers: raw.init_containers.clone(),
    };
    if phase.is_none() && expect != StatusExpectation::default() {
        return Err((
            ".wait_phase",
            "a status that is gone says nothing: leave out all but the phase".to_owned(),
        ));
    }
    Ok(Action::WaitPhase { on: raw.on.clone(), deployment: raw.deployment.clone(), phase, expect })
}

fn pattern(key: &'static str, pattern: Option<&str>) -> Result<(), StepError> {
    match pattern.map(regex::bytes::Regex::new) {
        Some(Err(error)) => Err((key, error.to_string())),
        _ => Ok(()),
    }
}
