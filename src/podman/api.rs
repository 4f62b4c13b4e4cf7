//! The parts of libpod's JSON that are used. Every field is optional where podman's versions differ, and
//! states that are not known are kept as words.

use crate::agent::ports::{ManagedService, ServiceState};
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::label;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Answer to `POST /containers/create`.
#[derive(Debug, Deserialize)]
pub(super) struct Created {
    #[serde(rename = "Id")]
    pub(super) id: String,
    #[serde(rename = "Warnings", default)]
    pub(super) warnings: Option<Vec<String>>,
}

/// An entry of `GET /containers/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    /// Empty when no name of the image is left.
    #[serde(default)]
    image: String,
    #[serde(default, rename = "ImageID")]
    image_id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    exit_code: i32,
    /// Seconds since 1970; before it when it never ran.
    #[serde(default)]
    pub(super) started_at: i64,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Listed {
    /// The service that this container is; none when a label is missing or cannot be understood.
    pub(super) fn managed(self) -> Option<ManagedService> {
        let labels = self.labels.unwrap_or_default();
        let label = |name: &str| labels.get(name).cloned();
        Some(ManagedService {
            deployment: DeploymentName::new(label(label::DEPLOYMENT)?).ok()?,
            name: ContainerName::new(label(label::SERVICE)?).ok()?,
            hash: label(label::SPEC_HASH).unwrap_or_default(),
            id: self.id,
            image: if self.image.is_empty() { self.image_id.clone() } else { self.image },
            image_id: self.image_id,
            state: state(&self.state, self.exit_code),
            started_at: u64::try_from(self.started_at).unwrap_or(0),
        })
    }
}

/// podman's words. `stopped` is an end too: the exit is known, its cleanup is under way.
pub(super) fn state(word: &str, code: i32) -> ServiceState {
    match word {
        "created" | "configured" | "initialized" => ServiceState::Created,
        "running" => ServiceState::Running,
        "exited" | "stopped" => ServiceState::Exited { code },
        other => ServiceState::Other(other.chars().take(40).collect()),
    }
}

/// What podman says when it refuses.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Problem {
    #[serde(default)]
    pub(super) cause: String,
    #[serde(default)]
    pub(super) message: String,
}

/// Answer to `GET /info`, as far as it is used.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) host: HostInfo,
    #[serde(default)]
    pub(super) store: StoreInfo,
    #[serde(default)]
    pub(super) version: VersionInfo,
}

/// What podman knows of its storage.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoreInfo {
    #[serde(default)]
    pub(super) image_store: ImageStore,
}

/// What podman knows of its images.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ImageStore {
    #[serde(default)]
    pub(super) number: u64,
}

/// podman's version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct VersionInfo {
    #[serde(default)]
    pub(super) version: String,
}

/// What podman knows of its host.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HostInfo {
    /// `v1` or `v2`.
    #[serde(default)]
    pub(super) cgroup_version: String,
    /// The cgroup controllers that containers can be given; none with cgroups v1 and rootless.
    #[serde(default)]
    pub(super) cgroup_controllers: Option<Vec<String>>,
}

/// Answer to `GET /containers/<id>/healthcheck`.
#[derive(Debug, Deserialize)]
pub(super) struct HealthResult {
    /// `healthy` or `unhealthy`, of this one run.
    #[serde(rename = "Status", default)]
    pub(super) status: String,
}

/// What inspect tells of a container's health checks.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct HealthLog {
    #[serde(rename = "Log", default)]
    pub(super) log: Option<Vec<HealthRun>>,
}

/// One run of a health check.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct HealthRun {
    #[serde(rename = "Output", default)]
    pub(super) output: String,
}

/// A line of the answer to `POST /images/pull`: a failure is an ordinary answer with an error in it.
#[derive(Debug, Deserialize)]
pub(super) struct PullLine {
    #[serde(default)]
    pub(super) stream: String,
    #[serde(default)]
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_states_are_no_end() {
        assert_eq!(state("stopped", 3), ServiceState::Exited { code: 3 });
        assert_eq!(state("stopping", 0), ServiceState::Other("stopping".into()));
        assert_eq!(state("", 0), ServiceState::Other(String::new()));
    }

    #[test]
    fn a_listed_container_without_labels_is_not_ours() {
        let listed: Listed = serde_json::from_str(r#"{"Id":"x","State":"running","Labels":null}"#).unwrap();
        assert_eq!(listed.managed(), None);
    }
}
