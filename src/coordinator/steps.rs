//! Does one step of a scenario. Each answers one line of what was seen, or a fault with the evidence.

use super::containers::{self, Container};
use super::expect::{Judgement, describe, judge};
use super::session::{Put, Seat, Session};
use crate::bus::provision;
use crate::console::{WaitError, WaitFrom};
use crate::model::boot::BootStage;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::run::{Fault, FaultKind};
use crate::model::scenario::{Action, StatusExpectation, Step};
use crate::model::workload::{Phase, Status};
use crate::support::chain::Chain;
use regex::bytes::Regex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the agent's report is read while a step waits for it: much shorter than what it waits for,
/// and one small message each.
pub(super) const STATUS_PAUSE: Duration = Duration::from_millis(100);
/// How long a stuck step may run beyond its own bound before it is cut off.
pub(super) const GRACE: Duration = Duration::from_secs(15);
/// What a last look by `podman ps` is given although the step's time is up: without it what is wrong in the
/// end would be told as a time-out of podman's.
const LAST_PS: Duration = Duration::from_secs(10);
/// The most of a command's output that is quoted.
const QUOTE: usize = 300;

impl Session {
    /// Does `step`. Its bound is kept by the step itself, so that the fault can say what was seen last;
    /// a step that does not keep it is cut off a little later.
    pub(super) async fn perform(&self, step: &Step) -> Result<String, Fault> {
        let deadline = Instant::now() + step.timeout;
        let bound = match step.action {
            Action::PowerCycle { .. } => self.boot_timeout + GRACE,
            _ => step.timeout + GRACE,
        };
        let seat = step.action.role().map(|role| self.seat(role)).transpose()?;
        let act = async {
            match seat {
                Some(seat) => self.act(seat, &step.action, deadline).await,
                None => self.operate(&step.action, deadline).await,
            }
        };
        tokio::time::timeout(bound, act).await.unwrap_or_else(|_| {
            let cause = format!("the step did not end within {} s", bound.as_secs());
            let device = seat.map(|seat| seat.id().clone());
            Err(Fault { kind: FaultKind::StepTimeout, cause, device })
        })
    }

    async fn act(&self, seat: &Seat, action: &Action, deadline: Instant) -> Result<String, Fault> {
        match action {
            Action::Ping { .. } => self.ping_step(seat, deadline).await,
            Action::Deploy { deployment, score, .. } => {
                let put =
                    provision::put_desired(&self.parts.bus, seat.id(), deployment, score, seat.token).await;
                let (generation, revision) = put.map_err(|e| seat.lab("put the desired state", &e))?;
                self.note_put(seat, deployment, Put { revision, generation: Some(generation) });
                Ok(format!("generation {generation} is put at revision {revision}"))
            }
            Action::PutRaw { deployment, payload, .. } => {
                let bus = &self.parts.bus;
                let raw = payload.as_bytes().to_vec();
                let put = provision::put_raw(bus, seat.id(), deployment, raw, seat.token).await;
                let (_, revision) = put.map_err(|e| seat.lab("put the raw desired state", &e))?;
                self.note_put(seat, deployment, Put { revision, generation: None });
                Ok(format!("{} bytes are put at revision {revision}", payload.len()))
            }
            Action::Delete { deployment, .. } => {
                let deleted =
                    provision::delete_desired(&self.parts.bus, seat.id(), deployment, seat.token).await;
                deleted.map_err(|e| seat.lab("delete the desired state", &e))?;
                Ok("the desired state is deleted".to_owned())
            }
            Action::WaitPhase { deployment, phase, expect, .. } => {
                self.wait_phase(seat, deployment, *phase, expect, deadline).await
            }
            Action::Containers { deployment, running, hold, .. } => {
                self.containers(seat, deployment, running, *hold, deadline).await
            }
            Action::Verify { .. } => self.verify_step(seat, deadline).await,
            Action::Absent { deployment, hold, .. } => self.absent(seat, deployment, *hold, deadline).await,
            Action::Exec { command, exit_code, matches, .. } => {
                self.exec(seat, command, *exit_code, matches.as_deref(), deadline).await
            }
            Action::Console { stage, pattern, .. } => {
                self.console(seat, *stage, pattern.as_deref(), deadline).await
            }
            Action::KillAgent { signal, .. } => self.kill_agent(seat, signal, deadline).await,
            Action::Reboot { .. } => self.reboot(seat, deadline).await,
            Action::CutNetwork { .. } => self.cut_network(seat).await,
            Action::RestoreNetwork { .. } => self.restore_network(seat).await,
            Action::ExpectDenied { publish, subscribe, .. } => {
                self.expect_denied(seat, publish, subscribe, deadline).await
            }
            Action::PowerCycle { .. } => {
                let off = seat.device.off(seat.token).await;
                off.map_err(|e| seat.lab("switch the device off", &e))?;
                Ok(format!("it came back, {}", self.bring_up(seat).await?))
            }
            Action::Apply { .. } | Action::Withdraw { .. } | Action::WaitDeployment { .. } => {
                self.operate(action, deadline).await
            }
        }
    }

    async fn console(
        &self,
        seat: &Seat,
        stage: Option<BootStage>,
        pattern: Option<&str>,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let (console, attempt) = (seat.device.console(), seat.attempt());
        let line = match (stage, pattern) {
            (Some(stage), _) => {
                console.wait_stage(attempt, stage, deadline).await.map(|reached| reached.line)
            }
            (None, pattern) => {
                let pattern = compile(seat, pattern.unwrap_or_default())?;
                let found = console.wait_pattern(WaitFrom::Attempt(attempt), &pattern, deadline).await;
                found.map(|found| found.line)
            }
        };
        match line {
            Ok(line) => Ok(format!("the console shows {line:?}")),
            Err(error) if unheard(&error) => Err(seat.lab("read the console", &error)),
            Err(error) if console.is_mute(attempt).await => {
                let cause = format!("{}; it has shown nothing at all in this boot attempt", Chain(&error));
                Err(seat.fault(FaultKind::Mute, cause))
            }
            Err(error) => Err(seat.fault(FaultKind::Unseen, Chain(&error).to_string())),
        }
    }

    async fn ping_step(&self, seat: &Seat, deadline: Instant) -> Result<String, Fault> {
        let begun = Instant::now();
        loop {
            match self.ping(seat).await {
                Ok(pong) => {
                    self.check_agent(seat, self.parts.image_of(seat.id()), &pong)?;
                    let hash: String = pong.agent_sha256.chars().take(12).collect();
                    let took = begun.elapsed().as_millis();
                    return Ok(format!("agent {} ({hash}) answered in {took} ms", pong.agent_version));
                }
                Err(cause) if Instant::now() >= deadline => {
                    return Err(self.silent(seat, FaultKind::Agent, format!("no answer to ping: {cause}")));
                }
                Err(_) => sleep(STATUS_PAUSE).await,
            }
        }
    }

    async fn status(&self, seat: &Seat, deployment: &DeploymentName) -> Result<Option<Status>, Fault> {
        let status = provision::status(&self.parts.bus, seat.id(), deployment).await;
        let status = status.map_err(|e| seat.lab("read the agent's status", &e))?;
        Ok(status.map(|(status, _)| status))
    }

    async fn wait_phase(
        &self,
        seat: &Seat,
        deployment: &DeploymentName,
        phase: Option<Phase>,
        expect: &StatusExpectation,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let put = self.last_put(seat, deployment);
        loop {
            let status = self.status(seat, deployment).await?;
            match judge(status.as_ref(), put, phase, expect) {
                Judgement::Met => return Ok(describe(status.as_ref())),
                Judgement::Never(cause) => return Err(seat.fault(FaultKind::Expectation, cause)),
                Judgement::NotYet if Instant::now() >= deadline => {
                    let wanted = phase.map_or("gone".to_owned(), |phase| phase.to_string());
                    let cause = format!(
                        "{deployment} did not become {wanted}{} in time; last: {}",
                        put.generation.map(|g| format!(" at generation {g}")).unwrap_or_default(),
                        describe(status.as_ref())
                    );
                    return Err(seat.fault(FaultKind::Awaited, cause));
                }
                Judgement::NotYet => sleep(STATUS_PAUSE).await,
            }
        }
    }

    /// What podman on the device shows.
    pub(super) async fn podman_ps(&self, seat: &Seat, deadline: Instant) -> Result<Vec<Container>, Fault> {
        let left = deadline.saturating_duration_since(Instant::now()).max(LAST_PS);
        let output = seat.device.run(seat.token, containers::command(), left).await;
        let output = output.map_err(|e| seat.unreachable("run podman ps over SSH", &e))?;
        if output.exit_code != Some(0) {
            let cause = format!("podman ps ended with {:?}: {}", output.exit_code, quote(&output.stderr));
            return Err(seat.fault(FaultKind::Expectation, cause));
        }
        containers::parse(&output.stdout).map_err(|e| seat.lab("read podman ps", &e))
    }

    /// What podman on the device says of the deployment, compared with what is wanted.
    async fn difference(
        &self,
        seat: &Seat,
        deployment: &DeploymentName,
        wanted: &BTreeMap<ContainerName, String>,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let containers = self.podman_ps(seat, deadline).await?;
        Ok(containers::difference(&containers, deployment, wanted))
    }

    async fn containers(
        &self,
        seat: &Seat,
        deployment: &DeploymentName,
        wanted: &BTreeMap<ContainerName, String>,
        hold: Duration,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let mut since: Option<Instant> = None;
        let mut last: Option<String> = None;
        loop {
            let looked = self.difference(seat, deployment, wanted, deadline).await;
            let now = Instant::now();
            let difference = match (looked, &last) {
                // A look that ran out of time says less than the one before it.
                (Err(_), Some(last)) if now >= deadline => Some(last.clone()),
                (looked, _) => looked?,
            };
            last.clone_from(&difference);
            match difference {
                None => {
                    let since = *since.get_or_insert(now);
                    if now.duration_since(since) >= hold {
                        let names = wanted.iter().map(|(name, image)| format!("{name} ({image})"));
                        let names = names.collect::<Vec<_>>().join(", ");
                        let names = if names.is_empty() { "no container".to_owned() } else { names };
                        return Ok(format!("podman ps shows {names}"));
                    }
                }
                Some(cause) if now >= deadline || since.is_some() => {
                    return Err(seat.fault(FaultKind::Expectation, format!("{deployment}: {cause}")));
                }
                Some(_) => {}
            }
            sleep(STATUS_PAUSE).await;
        }
    }

    async fn absent(
        &self,
        seat: &Seat,
        deployment: &DeploymentName,
        hold: Duration,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let until = Instant::now() + hold;
        let nothing = BTreeMap::new();
        loop {
            if let Some(status) = self.status(seat, deployment).await? {
                let cause =
                    format!("{deployment} must not be here and has a status: {}", describe(Some(&status)));
                return Err(seat.fault(FaultKind::Expectation, cause));
            }
            let over = Instant::now() >= until;
            if let Some(cause) = self.difference(seat, deployment, &nothing, deadline).await? {
                let cause = format!("{deployment} must not be here: {cause}");
                return Err(seat.fault(FaultKind::Expectation, cause));
            }
            if over {
                return Ok(format!("no status and no container for {} s", hold.as_secs()));
            }
            sleep(STATUS_PAUSE).await;
        }
    }

    async fn exec(
        &self,
        seat: &Seat,
        command: &[String],
        exit_code: i32,
        matches: Option<&str>,
        deadline: Instant,
    ) -> Result<String, Fault> {
        let left = deadline.saturating_duration_since(Instant::now());
        let output = seat.device.run(seat.token, command.to_vec(), left).await;
        let output = output.map_err(|e| seat.unreachable("run a command over SSH", &e))?;
        if output.exit_code != Some(exit_code) {
            let code = output.exit_code.map_or("a signal".to_owned(), |code| code.to_string());
            let cause = format!("{command:?} ended with {code}, not {exit_code}: {}", quote(&output.stderr));
            return Err(seat.fault(FaultKind::Expectation, cause));
        }
        if let Some(matches) = matches {
            let pattern =
                regex::bytes::Regex::new(matches).map_err(|e| seat.lab("compile the pattern", &e))?;
            if !pattern.is_match(&output.stdout) {
                // As it is, line ends too: they may be what does not match.
                let printed: String = String::from_utf8_lossy(&output.stdout).chars().take(QUOTE).collect();
                let cause = format!("{command:?} printed {printed:?}, which {matches:?} does not match");
                return Err(seat.fault(FaultKind::Expectation, cause));
            }
        }
        Ok(format!("{command:?} ended with {exit_code}"))
    }
}

/// Whether it may have shown all the same: what was not recorded, or cannot be read, says nothing against the product.
fn unheard(error: &WaitError) -> bool {
    match error {
        WaitError::Journal { .. } | WaitError::Gone | WaitError::Unrecorded { .. } => true,
        WaitError::Deadline { .. } | WaitError::Panic { .. } | WaitError::Superseded { .. } => false,
    }
}

fn compile(seat: &Seat, pattern: &str) -> Result<Regex, Fault> {
    Regex::new(pattern).map_err(|e| seat.lab("compile the pattern", &e))
}

pub(super) fn quote(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().chars().take(QUOTE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_console_that_was_heard_speaks_against_the_product() {
        let (what, cause) = ("pattern \"ok\"".to_owned(), "No space left on device".to_owned());
        let late = WaitError::Deadline { what: what.clone(), last: None };
        for (error, ours) in [
            (late, false),
            (WaitError::Journal { cause: cause.clone() }, true),
            (WaitError::Unrecorded { what, cause }, true),
            (WaitError::Gone, true),
        ] {
            assert_eq!(unheard(&error), ours, "{error}");
        }
    }
}
