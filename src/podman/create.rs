//! The body of `POST /containers/create` (podman's `SpecGenerator`).

use super::api::HostInfo;
use crate::agent::ports::{InitSpec, ServiceSpec};
use crate::agent::score::{PortMapping, Protocol, Volume};
use crate::model::id::{ContainerName, DeploymentName, DeviceId};
use crate::model::workload::{Limits, label};
use serde::Serialize;
use std::collections::BTreeMap;

/// The period that a bound on processor time speaks of, in microseconds: the kernel's default
/// (cgroups(7), `cpu.cfs_period_us`).
const CPU_PERIOD_US: u64 = 100_000;

/// The name of a container: `<device>.<deployment>.<name>`. No part holds a dot, so no two containers
/// share a name.
pub(super) fn container_name(device: &DeviceId, deployment: &DeploymentName, name: &ContainerName) -> String {
    format!("{device}.{deployment}.{name}")
}

/// The body.
#[derive(Debug, Serialize)]
pub(super) struct Create {
    pub(super) name: String,
    pub(super) image: String,
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
    /// After how many seconds conmon ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    /// How many seconds it has to end after it was asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_limits: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthconfig: Option<Health>,
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

/// The OCI runtime specification's `LinuxResources`.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Resources {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Bound>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<Bound>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Bound {
    limit: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cpu {
    quota: u64,
    period: u64,
}

/// Times in nanoseconds. Without an interval podman makes no systemd timer: the agent runs the checks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health {
    test: Vec<String>,
    timeout: u128,
    retries: u32,
}

fn labels(device: &DeviceId, deployment: &DeploymentName, generation: u64) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (label::MANAGED_BY, label::AGENT.to_owned()),
        (label::DEVICE, device.to_string()),
        (label::DEPLOYMENT, deployment.to_string()),
        (label::GENERATION, generation.to_string()),
    ])
}

/// Makes the body that creates a service's container. Limits that the host cannot hold it to are left
/// out, for the OCI runtime would refuse to start it: they are named beside the body.
pub(super) fn service(
    device: &DeviceId,
    oci_runtime: Option<&str>,
    host: &HostInfo,
    spec: &ServiceSpec,
) -> (Create, Vec<String>) {
    let (mounts, volumes) = volumes(&spec.volumes);
    let (resource_limits, unheld) = resources(host, &spec.limits);
    let mut labels = labels(device, &spec.deployment, spec.generation);
    labels.insert(label::SERVICE, spec.name.to_string());
    labels.insert(label::SPEC_HASH, spec.hash.clone());
    let body = Create {
        name: container_name(device, &spec.deployment, &spec.name),
        image: spec.image.clone(),
        command: spec.args.clone(),
        env: spec.env.clone(),
        labels,
        // The agent starts again what ended: podman would do so without a pause, and keep no evidence.
        restart_policy: "no",
        mounts,
        volumes,
        portmappings: spec.ports.iter().map(port).collect(),
        oci_runtime: oci_runtime.map(str::to_owned),
        timeout: None,
        stop_timeout: Some(spec.stop_timeout.as_secs()),
        resource_limits,
        healthconfig: spec.health.as_ref().map(|check| Health {
            test: ["CMD".to_owned()].into_iter().chain(check.command.iter().cloned()).collect(),
            timeout: check.timeout.as_nanos(),
            retries: check.retries.max(1),
        }),
    };
    (body, unheld)
}

/// Makes the body that creates an init container, which conmon ends after `deadline` seconds should nobody else
/// do so before.
pub(super) fn init(device: &DeviceId, oci_runtime: Option<&str>, spec: &InitSpec, deadline: u64) -> Create {
    let (mounts, volumes) = volumes(&spec.volumes);
    let mut labels = labels(device, &spec.deployment, spec.generation);
    labels.insert(label::INIT_CONTAINER_LABEL, spec.name.to_string());
    Create {
        name: container_name(device, &spec.deployment, &spec.name),
        image: spec.image.clone(),
        command: spec.args.clone(),
        env: spec.env.clone(),
        labels,
        restart_policy: "no",
        mounts,
        volumes,
        portmappings: Vec::new(),
        oci_runtime: oci_runtime.map(str::to_owned),
        timeout: Some(deadline),
        stop_timeout: None,
        resource_limits: None,
        healthconfig: None,
    }
}

fn volumes(volumes: &[Volume]) -> (Vec<Mount>, Vec<NamedVolume>) {
    let (paths, named): (Vec<_>, Vec<_>) = volumes.iter().partition(|volume| volume.source.starts_with('/'));
    let mount = |volume: &Volume| Mount {
        r#type: "bind",
        source: volume.source.clone(),
        destination: volume.target.clone(),
        options: ["rbind".to_owned()].into_iter().chain(volume.options.iter().cloned()).collect(),
    };
    let name = |volume: &Volume| NamedVolume {
        name: volume.source.clone(),
        dest: volume.target.clone(),
        options: volume.options.clone(),
    };
    (paths.into_iter().map(mount).collect(), named.into_iter().map(name).collect())
}

fn port(port: &PortMapping) -> Port {
    Port {
        host_ip: port.address.map(|address| address.to_string()),
        host_port: port.host,
        container_port: port.container,
        protocol: match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        },
    }
}

/// The bounds that the host can hold a container to, and in words those that it cannot. Where podman
/// names no controllers with cgroups v1 (rootless), it warns itself.
fn resources(host: &HostInfo, limits: &Limits) -> (Option<Resources>, Vec<String>) {
    let controllers = host.cgroup_controllers.as_deref().unwrap_or_default();
    let mut unheld = Vec::new();
    let mut holds = |controller: &str| {
        let unnamed = controllers.is_empty() && host.cgroup_version != "v2";
        let holds = unnamed || controllers.iter().any(|name| name == controller);
        if !holds {
            unheld.push(format!("{controller}: the device has no {controller} cgroup controller"));
        }
        holds
    };
    let resources = Resources {
        memory: limits.memory.filter(|_| holds("memory")).map(|limit| Bound { limit }),
        cpu: limits
            .cpu_millis
            .filter(|_| holds("cpu"))
            .map(|millis| Cpu { quota: u64::from(millis) * CPU_PERIOD_US / 1000, period: CPU_PERIOD_US }),
        pids: limits.pids.filter(|_| holds("pids")).map(|limit| Bound { limit: limit.into() }),
    };
    (Some(resources).filter(|resources| *resources != Resources::default()), unheld)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raspberry_pis_missing_memory_controller_is_told_and_its_limit_left_out() {
        let host = |version: &str, controllers: &[&str]| HostInfo {
            cgroup_version: version.into(),
            cgroup_controllers: Some(controllers.iter().map(|&name| name.to_owned()).collect()),
        };
        let limits = Limits { memory: Some(1 << 20), cpu_millis: Some(1500), pids: Some(9) };
        let (held, unheld) = resources(&host("v2", &["cpu", "pids"]), &limits);
        let cpu = Some(Cpu { quota: 150_000, period: 100_000 });
        let pids = || Some(Bound { limit: 9 });
        assert_eq!(held, Some(Resources { memory: None, cpu, pids: pids() }));
        assert_eq!(unheld, ["memory: the device has no memory cgroup controller"]);
        let (held, unheld) = resources(&host("v1", &[]), &limits);
        assert_eq!((held.unwrap().memory, unheld.len()), (Some(Bound { limit: 1 << 20 }), 0));
        assert_eq!(resources(&host("v2", &[]), &Limits::default()), (None, vec![]));
    }
}
