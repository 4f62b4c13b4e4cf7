//! The parts of libpod's JSON that are used. Every field is optional where podman's versions differ, and
//! states that are not known are kept as words.

use crate::agent::ports::{ManagedService, ServiceSpec, ServiceState};
use crate::agent::score::Protocol;
use crate::model::id::{ContainerName, DeploymentName, DeviceId};
use crate::model::workload::{RestartPolicy, label};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of a service's container: `<device>.<deployment>.<service>`. No part holds a dot, so no two
/// services share a name.
pub fn container_name(device: &DeviceId, deployment: &DeploymentName, service: &ContainerName) -> String {
    format!("{device}.{deployment}.{service}")
}

/// Body of `POST /containers/create` (podman's `SpecGenerator`).
#[derive(Debug, Serialize)]
pub(super) struct Create {
    name: String,
    image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    env: BTreeMap<String, String>,
    labels: BTreeMap<&'static str, String>,
    restart_policy: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<Mount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volumes: Vec<NamedVolume>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    portmappings: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oci_runtime: Option<String>,
}

#[derive(Debug, Serialize)]
struct Mount {
    r#type: &'static str,
    source: String,
    destination: String,
    options: Vec<String>,
}

/// libpod's `NamedVolume` has no JSON names of its own: Go's field names are the wire's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NamedVolume {
    name: String,
    dest: String,
    options: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Port {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_ip: Option<String>,
    host_port: u16,
    container_port: u16,
    protocol: &'static str,
}

/// Makes the body that creates a service's container.
pub(super) fn create(device: &DeviceId, oci_runtime: Option<&str>, spec: &ServiceSpec) -> Create {
    let (paths, named): (Vec<_>, Vec<_>) =
        spec.volumes.iter().partition(|volume| volume.source.starts_with('/'));
    Create {
        name: container_name(device, &spec.deployment, &spec.name),
        image: spec.image.clone(),
        command: spec.args.clone(),
        env: spec.env.clone(),
        labels: BTreeMap::from([
            (label::MANAGED_BY, label::AGENT.to_owned()),
            (label::DEVICE, device.to_string()),
            (label::DEPLOYMENT, spec.deployment.to_string()),
            (label::SERVICE, spec.name.to_string()),
            (label::GENERATION, spec.generation.to_string()),
            (label::SPEC_HASH, spec.hash.clone()),
        ]),
        restart_policy: match spec.restart {
            RestartPolicy::Always => "always",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::No => "no",
        },
        mounts: paths
            .into_iter()
            .map(|volume| Mount {
                r#type: "bind",
                source: volume.source.clone(),
                destination: volume.target.clone(),
                options: ["rbind".to_owned()].into_iter().chain(volume.options.iter().cloned()).collect(),
            })
            .collect(),
        volumes: named
            .into_iter()
            .map(|volume| NamedVolume {
                name: volume.source.clone(),
                dest: volume.target.clone(),
                options: volume.options.clone(),
            })
            .collect(),
        portmappings: spec
            .ports
            .iter()
            .map(|port| Port {
                host_ip: port.address.map(|address| address.to_string()),
                host_port: port.host,
                container_port: port.container,
                protocol: match port.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                },
            })
            .collect(),
        oci_runtime: oci_runtime.map(str::to_owned),
    }
}

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
    id: String,
    #[serde(default)]
    image: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    exit_code: i32,
    /// Seconds since 1970; before it when it never ran.
    #[serde(default)]
    started_at: i64,
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
            image: self.image,
            state: state(&self.state, self.exit_code),
            started_at: u64::try_from(self.started_at).unwrap_or(0),
        })
    }
}

/// podman's words. `stopped` is an end too: the exit is known, its cleanup is under way.
fn state(word: &str, code: i32) -> ServiceState {
    match word {
        "created" | "configured" | "initialized" => ServiceState::Created,
        "running" => ServiceState::Running,
        "exited" | "stopped" => ServiceState::Exited { code },
        other => ServiceState::Other(other.chars().take(40).collect()),
    }
}

/// Answer to `GET /containers/<name>/json`, as far as it is used.
#[derive(Debug, Deserialize)]
pub(super) struct Inspected {
    #[serde(rename = "Id")]
    pub(super) id: String,
    #[serde(rename = "Config", default)]
    config: InspectedConfig,
}

#[derive(Debug, Default, Deserialize)]
struct InspectedConfig {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Inspected {
    /// Whether `device`'s agent made it.
    pub(super) fn is_of(&self, device: &DeviceId) -> bool {
        let labels = self.config.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
        label(label::MANAGED_BY) == Some(label::AGENT) && label(label::DEVICE) == Some(device.as_str())
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

/// A line of the answer to `POST /images/pull`: a failure is an ordinary answer with this in it.
#[derive(Debug, Deserialize)]
pub(super) struct PullLine {
    #[serde(default)]
    pub(super) error: String,
}

/// The text in the frames of `GET /containers/<id>/logs`: each begins with a byte for the stream, three
/// zeros and its length, big-endian. What does not fit that form is taken as it is (a container with a
/// terminal has no frames).
pub(super) fn log_text(mut bytes: &[u8]) -> String {
    let mut text = Vec::new();
    while let [0..=2, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        let (frame, next) = rest.split_at(length.min(rest.len()));
        text.extend_from_slice(frame);
        bytes = next;
    }
    text.extend_from_slice(bytes);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    #[test]
    fn log_frames_are_joined() {
        let frames = b"\x01\0\0\0\0\0\0\x03ab\n\x02\0\0\0\0\0\0\x02c\n";
        assert_eq!(log_text(frames), "ab\nc\n");
        assert_eq!(log_text(b"plain"), "plain");
    }

    proptest! {
        #[test]
        fn any_log_is_text(bytes in proptest::collection::vec(0..4u8, 0..64)) {
            let _ = log_text(&bytes);
        }
    }
}
