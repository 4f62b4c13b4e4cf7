//! A device in a test's hands.

use super::error::TestingError;
use super::lab::{ANSWER, Lab};
use crate::model::boot::BootStage;
use crate::model::id::{DeploymentName, DeviceId};
use crate::model::workload::{Phase, Score};
use crate::support::command::Command;
use crate::wire::console::{
    CONSOLE_READ, CONSOLE_WRITE, ChunkKind, ConsoleFrom, ConsolePage, ConsoleRead, ConsoleWrite,
};
use crate::wire::deploying::{
    DEPLOY, Deploy, Deployed, STATUS, StatusAsked, Statuses, UNDEPLOY, Undeploy, VERIFY, Verified,
    VerifyAsked,
};
use crate::wire::fleet::Pong;
use crate::wire::lending::{
    DEVICE, DeviceAsked, DeviceRow, DeviceShown, PING, POWER, Power, PowerAct, PowerDone,
};
use regex::bytes::Regex;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long switching may take: the least time off of a board, and whoever is served before.
const SWITCH: Duration = Duration::from_secs(120);
/// Pause between two looks at what is awaited.
const LOOK: Duration = Duration::from_millis(100);
/// How much of a console an error quotes, in characters.
const QUOTED: usize = 200;
/// How long a program on the device may take, where nothing else is said.
const EXEC: Duration = Duration::from_secs(300);
/// The most bytes that are taken of each of its streams: a test's memory is not a device's to fill.
const MAX_OUTPUT: u64 = 16 << 20;

/// A device that the test holds.
#[derive(Debug, Clone, Copy)]
pub struct Device<'a> {
    lab: &'a Lab,
    id: &'a DeviceId,
}

/// What a program on the device came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it, and ssh, wrote to standard error.
    pub stderr: String,
}

impl<'a> Device<'a> {
    pub(super) fn new(lab: &'a Lab, id: &'a DeviceId) -> Self {
        Self { lab, id }
    }

    /// Its id.
    pub fn id(&self) -> &DeviceId {
        self.id
    }

    /// Boots it, off first when it is on. Done when it is switched on: see [`Self::wait_stage`].
    pub async fn power_cycle(&self) -> Result<PowerDone, TestingError> {
        self.power(PowerAct::Cycle).await
    }

    /// Boots it, if it is not on.
    pub async fn power_on(&self) -> Result<PowerDone, TestingError> {
        self.power(PowerAct::On).await
    }

    /// Switches it off.
    pub async fn power_off(&self) -> Result<PowerDone, TestingError> {
        self.power(PowerAct::Off).await
    }

    async fn power(&self, act: PowerAct) -> Result<PowerDone, TestingError> {
        self.lab.ask(POWER, &Power { device: self.id.clone(), act, force: None }, SWITCH).await
    }

    /// How it stands: power, boot attempt, stage, health.
    pub async fn state(&self) -> Result<DeviceRow, TestingError> {
        let shown: DeviceShown =
            self.lab.ask(DEVICE, &DeviceAsked { device: self.id.clone() }, ANSWER).await?;
        Ok(shown.row)
    }

    /// Waits until this boot has come to a stage, or beyond. A panic, a brown-out and the like end the waiting.
    pub async fn wait_stage(&self, stage: BootStage, within: Duration) -> Result<(), TestingError> {
        let deadline = Instant::now() + within;
        loop {
            let reached = self.state().await?.stage;
            match reached {
                Some(reached) if reached == stage => return Ok(()),
                Some(reached) if reached.is_trouble() && !stage.is_trouble() => {
                    let (device, what) = (self.id.clone(), format!("stage {stage}"));
                    return Err(TestingError::Trouble { device, stage: reached, what });
                }
                Some(reached) if reached > stage && !stage.is_trouble() => return Ok(()),
                _ => {}
            }
            let last = || reached.map_or_else(|| "no stage".to_owned(), |reached| format!("stage {reached}"));
            wait(deadline, within, || (format!("stage {stage}"), last())).await?;
        }
    }

    /// Waits until the console of this boot has shown a line that matches; answers what matched.
    pub async fn wait_console(&self, pattern: &str, within: Duration) -> Result<String, TestingError> {
        let regex = Regex::new(pattern);
        let regex = regex.map_err(|source| TestingError::Pattern {
            pattern: pattern.to_owned(),
            source: Box::new(source),
        })?;
        let deadline = Instant::now() + within;
        let (mut from, mut seen) = (ConsoleFrom::Boot, Vec::new());
        loop {
            from = self.read_console(from, &mut seen).await?;
            if let Some(found) = regex.find(&seen) {
                return Ok(String::from_utf8_lossy(found.as_bytes()).into_owned());
            }
            let last = || {
                let text = String::from_utf8_lossy(&seen).into_owned();
                let skip = text.chars().count().saturating_sub(QUOTED);
                format!("{:?}", text.chars().skip(skip).collect::<String>())
            };
            wait(deadline, within, || (format!("{pattern:?} on the console"), last())).await?;
        }
    }

    /// All that the console has shown in this boot.
    pub async fn console(&self) -> Result<String, TestingError> {
        let mut seen = Vec::new();
        self.read_console(ConsoleFrom::Boot, &mut seen).await?;
        Ok(String::from_utf8_lossy(&seen).into_owned())
    }

    /// Types on the console.
    pub async fn type_console(&self, text: &str) -> Result<(), TestingError> {
        let body = ConsoleWrite { device: self.id.clone(), bytes: text.as_bytes().to_vec() };
        self.lab.ask(CONSOLE_WRITE, &body, ANSWER).await
    }

    async fn read_console(
        &self,
        mut from: ConsoleFrom,
        seen: &mut Vec<u8>,
    ) -> Result<ConsoleFrom, TestingError> {
        loop {
            let body = ConsoleRead { device: self.id.clone(), from };
            let page: ConsolePage = self.lab.ask(CONSOLE_READ, &body, ANSWER).await?;
            for chunk in page.chunks {
                if let ChunkKind::Bytes(bytes) = chunk.what {
                    seen.extend(bytes);
                }
            }
            from = ConsoleFrom::Offset(page.next);
            if page.end {
                return Ok(from);
            }
        }
    }

    /// Asks its agent until it answers: it says that it has started before it can be asked.
    pub async fn ping(&self, within: Duration) -> Result<Pong, TestingError> {
        let deadline = Instant::now() + within;
        loop {
            let body = DeviceAsked { device: self.id.clone() };
            let cause = match self.lab.ask(PING, &body, ANSWER).await {
                Err(TestingError::Refused { cause, .. }) => cause,
                answered => return answered,
            };
            wait(deadline, within, || ("the agent's answer".to_owned(), cause)).await?;
        }
    }

    /// Puts a deployment on it; [`Self::wait_phase`] tells what came of it.
    pub async fn deploy(&self, deployment: &DeploymentName, score: Score) -> Result<Deployed, TestingError> {
        let body = Deploy { device: self.id.clone(), deployment: deployment.clone(), score };
        self.lab.ask(DEPLOY, &body, ANSWER).await
    }

    /// Takes a deployment off it.
    pub async fn undeploy(&self, deployment: &DeploymentName) -> Result<Deployed, TestingError> {
        let body = Undeploy { device: self.id.clone(), deployment: deployment.clone() };
        self.lab.ask(UNDEPLOY, &body, ANSWER).await
    }

    /// Waits until its agent says this phase of the deployment, or with none, until it says nothing: it is gone.
    pub async fn wait_phase(
        &self,
        deployment: &DeploymentName,
        phase: Option<Phase>,
        within: Duration,
    ) -> Result<(), TestingError> {
        let deadline = Instant::now() + within;
        loop {
            let body = StatusAsked { device: self.id.clone() };
            let Statuses { deployments } = self.lab.ask(STATUS, &body, ANSWER).await?;
            let status = deployments.get(deployment);
            if status.map(|status| status.phase) == phase {
                return Ok(());
            }
            let word =
                |phase: Option<Phase>| phase.map_or_else(|| "gone".to_owned(), |phase| phase.to_string());
            let told =
                || status.map_or_else(|| "no status".to_owned(), |s| format!("{}: {}", s.phase, s.message));
            wait(deadline, within, || (format!("{deployment} {}", word(phase)), told())).await?;
        }
    }

    /// Whether what is desired, what the agent says and what podman on the device shows agree, at the latest `within` this.
    pub async fn verify(&self, within: Duration) -> Result<Verified, TestingError> {
        let body = VerifyAsked { device: self.id.clone(), within };
        self.lab.ask(VERIFY, &body, ANSWER + within).await
    }

    /// Runs a program on it by `pilab ssh`, where it can be entered so. The program `pilab` is that of `PILAB_BIN`, else of
    /// `PATH`. The command is a shell's line on the device, as with ssh. It may take 5 minutes, and write 16 MiB.
    pub async fn exec(&self, command: &str) -> Result<Output, TestingError> {
        self.exec_within(command, EXEC).await
    }

    /// The same for one that may take as long as this.
    pub async fn exec_within(&self, command: &str, within: Duration) -> Result<Output, TestingError> {
        let program = std::env::var("PILAB_BIN").unwrap_or_else(|_| "pilab".to_owned());
        let login = self.lab.login().to_string_lossy().into_owned();
        let ssh = Command::new(program).args(["ssh", self.id.as_str(), "--login", &login, "--", command]);
        run(ssh, within).await
    }
}

async fn run(ssh: Command, within: Duration) -> Result<Output, TestingError> {
    let output = ssh.timeout(within).limit(MAX_OUTPUT).ended().await?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A pause, or at the deadline what was awaited and what was seen.
async fn wait(
    deadline: Instant,
    within: Duration,
    told: impl FnOnce() -> (String, String),
) -> Result<(), TestingError> {
    if Instant::now() >= deadline {
        let (what, last) = told();
        return Err(TestingError::Late { what, within, last });
    }
    sleep(LOOK).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::command::CommandError;

    #[tokio::test]
    async fn a_program_that_does_not_end_or_writes_without_end_is_an_error_and_one_that_fails_is_not() {
        let shell = |line: &str, within| run(Command::new("sh").args(["-c", line]), within);
        let hangs = shell("exec sleep 1000", Duration::from_millis(10)).await;
        assert!(matches!(hangs, Err(TestingError::Program(CommandError::TimedOut { .. }))), "{hangs:?}");
        let floods = shell("exec yes", EXEC).await;
        assert!(matches!(floods, Err(TestingError::Program(CommandError::TooMuch { .. }))), "{floods:?}");
        let fails = shell("echo out; echo err >&2; exit 3", EXEC).await.unwrap();
        assert_eq!(fails, Output { code: Some(3), stdout: "out\n".to_owned(), stderr: "err\n".to_owned() });
    }
}
