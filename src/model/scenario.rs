//! A scenario: what devices it needs and what is done on them. Checked by `config`, carried on the wire.

use super::boot::BootStage;
use super::deployment::{DeploymentSpec, DeviceState};
use super::device::{Backend, Capability, Model};
use super::id::{ContainerName, DeploymentName, DeviceId, ScenarioName};
use super::workload::{Phase, Score};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a fault is blamed on when an expectation does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnderTest {
    /// The device agent.
    Agent,
    /// The boot image.
    Image,
    /// The kernel.
    Kernel,
    /// The containers.
    Workload,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name: that of its file.
    pub name: ScenarioName,
    /// What it shows, one line.
    pub summary: String,
    /// What is judged.
    pub under_test: UnderTest,
    /// The bound of a device's way from power-on to the agent's first answer.
    pub boot_timeout: Duration,
    /// The devices, by role.
    pub needs: Vec<Need>,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What is done in the end, whatever happened.
    pub cleanup: Vec<Step>,
}

/// A device that a scenario or a reservation needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The scenario's name for it.
    pub role: String,
    /// This one and no other; any that fits when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Which model; any when missing.
    pub model: Option<Model>,
    /// How it must exist; in any way when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// Labels it must have.
    pub labels: BTreeMap<String, String>,
    /// What it must be able to do: what the file says and what the steps on it take.
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    /// What does as well, when no such device can be had. Leases know nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Set when this need is the fallback of another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instead: Option<Instead>,
}

/// What a need turns to when no device that it asks for can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fallback {
    /// How the device that does as well exists.
    pub backend: Backend,
    /// How long it is waited for one that was asked for.
    pub after: Duration,
}

/// A device stands in for one that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instead {
    /// What was asked for, one line.
    pub of: String,
    /// Why there was none, one line.
    pub because: String,
    /// What a device of the kind asked for would have shown, and this one cannot.
    pub unexercised: Vec<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Its bound.
    pub timeout: Duration,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// The agent answers, and is the one in the image.
    Ping {
        /// The device's role.
        on: String,
    },
    /// Put a deployment's desired state.
    Deploy {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
        /// What to run.
        score: Score,
    },
    /// Delete a deployment's desired state.
    Delete {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
    },
    /// Wait until the status says this phase of what was put last, or, without a phase, until there is no
    /// status: the deployment is gone.
    WaitPhase {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
        /// The phase; none means gone.
        phase: Option<Phase>,
        /// What the status must say besides.
        expect: StatusExpectation,
    },
    /// The device's own `podman ps`, over SSH, shows exactly these containers of the deployment.
    Containers {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
        /// Running containers: image by name. Empty means none at all.
        running: BTreeMap<ContainerName, String>,
        /// It must stay so for this long.
        hold: Duration,
    },
    /// The device is what its desired state says, in all its deployments: the agent has acknowledged each
    /// value and says that it runs, and podman on the device shows exactly its containers, by their spec hash.
    Verify {
        /// The device's role.
        on: String,
    },
    /// No status key and no container of the deployment on the device, for a stated time.
    Absent {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
        /// For how long.
        hold: Duration,
    },
    /// Put these bytes, whatever they are, on a deployment's desired key.
    PutRaw {
        /// The device's role.
        on: String,
        /// The deployment.
        deployment: DeploymentName,
        /// The bytes, UTF-8.
        payload: String,
    },
    /// Run a command over SSH.
    Exec {
        /// The device's role.
        on: String,
        /// Program and arguments; no shell.
        command: Vec<String>,
        /// The exit code it must have.
        exit_code: i32,
        /// A pattern its output must match.
        matches: Option<String>,
    },
    /// Wait until the console shows a stage or a pattern, in this boot attempt.
    Console {
        /// The device's role.
        on: String,
        /// The stage.
        stage: Option<BootStage>,
        /// A regular expression over bytes.
        pattern: Option<String>,
    },
    /// Switch the device off and on again, and wait for its agent.
    PowerCycle {
        /// The device's role.
        on: String,
    },
    /// The device restarts by itself, and boots anew with a ticket and credentials of its own. Done when its SSH
    /// server is up: whether the agent can be reached is not asked.
    Reboot {
        /// The device's role.
        on: String,
    },
    /// End the agent's process with a signal, past the agent itself, and wait until another one answers on
    /// the same boot of the device.
    KillAgent {
        /// The device's role.
        on: String,
        /// The signal's name as `kill` knows it, without `SIG`.
        signal: String,
    },
    /// From now on nothing passes between the device and NATS, and neither is told, as if a cable had been
    /// pulled. It is undone before the cleanup at the latest.
    CutNetwork {
        /// The device's role.
        on: String,
    },
    /// What passes between the device and NATS passes again.
    RestoreNetwork {
        /// The device's role.
        on: String,
    },
    /// With the device's own credentials: the NATS server must permit none of these. In a subject, `{role}`
    /// stands for the id of that role's device, and `{lab}` for the lab's name.
    ExpectDenied {
        /// The device's role.
        on: String,
        /// Subjects that it must not publish on.
        publish: Vec<String>,
        /// Subjects that it must not subscribe to.
        subscribe: Vec<String>,
    },
    /// Hand a deployment that a file describes to the operator, or change it.
    Apply {
        /// The deployment.
        spec: Box<DeploymentSpec>,
        /// The roles of the devices that its selector is to choose by id; as the file says when empty.
        on: Vec<String>,
    },
    /// Tell the operator to take such a deployment off all devices.
    Withdraw {
        /// The deployment.
        deployment: DeploymentName,
        /// Devices that do not confirm it are not waited for.
        force: bool,
    },
    /// Wait until such a deployment stands so on the devices of these roles, and concerns no other.
    WaitDeployment {
        /// The deployment.
        deployment: DeploymentName,
        /// The state by role. Empty means gone.
        devices: BTreeMap<String, DeviceState>,
    },
}

/// What a status must say beside its phase. Empty, it may say anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusExpectation {
    /// Its `reason`, exactly.
    pub reason: Option<String>,
    /// A regular expression that its `message` must match.
    pub message: Option<String>,
    /// A condition that it must have, by name.
    pub condition: Option<String>,
    /// The init containers whose end it must tell, in this order; others may stand between them.
    pub init_containers: Vec<InitExpectation>,
}

/// How an init container must have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitExpectation {
    /// Its name.
    pub name: ContainerName,
    /// The exit code that it must have; any when missing.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// Whether its time must have been up.
    #[serde(default)]
    pub timed_out: bool,
    /// A regular expression that the end of its log must match.
    #[serde(default)]
    pub log: Option<String>,
}

impl Action {
    /// The role of the device it acts on; none when it acts on the lab.
    pub fn role(&self) -> Option<&str> {
        match self {
            Self::Ping { on }
            | Self::Verify { on }
            | Self::Deploy { on, .. }
            | Self::Delete { on, .. }
            | Self::WaitPhase { on, .. }
            | Self::Containers { on, .. }
            | Self::Absent { on, .. }
            | Self::PutRaw { on, .. }
            | Self::Exec { on, .. }
            | Self::Console { on, .. }
            | Self::KillAgent { on, .. }
            | Self::ExpectDenied { on, .. }
            | Self::Reboot { on }
            | Self::CutNetwork { on }
            | Self::RestoreNetwork { on }
            | Self::PowerCycle { on } => Some(on),
            Self::Apply { .. } | Self::Withdraw { .. } | Self::WaitDeployment { .. } => None,
        }
    }

    /// The roles of all devices that it names.
    pub fn roles(&self) -> Vec<&str> {
        match self {
            Self::Apply { on, .. } => on.iter().map(String::as_str).collect(),
            Self::WaitDeployment { devices, .. } => devices.keys().map(String::as_str).collect(),
            _ => self.role().into_iter().collect(),
        }
    }

    /// Whether it asks no more of a device than its power and its console, whatever that has booted.
    pub fn is_outside(&self) -> bool {
        match self {
            Self::Console { stage, .. } => !stage.is_some_and(BootStage::is_ours),
            Self::PowerCycle { .. } => true,
            _ => false,
        }
    }

    /// What the device must be able to do for it, beyond what every device can.
    pub fn capability(&self) -> Option<Capability> {
        match self {
            Self::Exec { .. } | Self::KillAgent { .. } => Some(Capability::Ssh),
            Self::Console { .. } => Some(Capability::Console),
            Self::PowerCycle { .. } => Some(Capability::Power),
            Self::Reboot { .. } => Some(Capability::Reboot),
            Self::Deploy { score, .. } => publishes(score).then_some(Capability::Network),
            Self::Apply { spec, .. } => publishes(&spec.score).then_some(Capability::Network),
            Self::Ping { .. }
            | Self::Verify { .. }
            | Self::Delete { .. }
            | Self::WaitPhase { .. }
            | Self::Containers { .. }
            | Self::Absent { .. }
            | Self::CutNetwork { .. }
            | Self::RestoreNetwork { .. }
            | Self::ExpectDenied { .. }
            | Self::Withdraw { .. }
            | Self::WaitDeployment { .. }
            | Self::PutRaw { .. } => None,
        }
    }
}

fn publishes(Score::PodmanV0(score): &Score) -> bool {
    score.services.iter().any(|service| !service.ports.is_empty())
}
