//! From bytes on a desired key to services that can be run, or to a typed refusal.

use super::check::{self, parse_port, parse_volume};
use super::ports::{InitSpec, ServiceSpec};
use crate::model::id::DeploymentName;
use crate::model::workload::{Desired, InitContainer, PodmanService, PodmanV0Score, Score, WORKLOAD_VERSION};
use crate::plan::spec;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// The largest value of a desired key, in bytes: what a NATS message may hold by default.
pub const MAX_DESIRED_BYTES: usize = 1024 * 1024;
/// The longest message of a refusal, in characters. Errors quote what was sent, which may be all of a value.
const MAX_MESSAGE: usize = 500;
/// The most services of one deployment.
pub const MAX_SERVICES: usize = 256;

/// A name for the cause of phase `Failed`, for machines: `Status.reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// The value is not the JSON of a `Desired`.
    MalformedDesired,
    /// The value was written by a newer coordinator.
    UnsupportedVersion,
    /// The value is larger than the agent takes.
    TooLarge,
    /// A field of the score holds what cannot be run.
    InvalidScore,
    /// The device's own policy does not let it run.
    NotAllowed,
    /// An init container ended with a failure.
    InitContainerFailed,
    /// An init container did not end in its time.
    InitContainerTimedOut,
    /// The container runtime lost sight of a container.
    RuntimeLost,
    /// An image is not on the device and cannot be had.
    ImageMissing,
    /// The container runtime refused or failed.
    RuntimeFailed,
    /// A service's health check fails.
    Unhealthy,
    /// A service ended: phase `Failed` if its policy is not to start it again, else `Pending`, for a moment.
    ServiceExited,
    /// A service ends again and again; it is started again after a pause that grows.
    CrashLoop,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants' names are the wire's words.
        fmt::Debug::fmt(self, f)
    }
}

/// Why a value is not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Refusal {
    /// For machines.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

pub(super) fn refusal(reason: Reason, message: impl Into<String>) -> Refusal {
    let message = message.into().chars().take(MAX_MESSAGE).collect();
    Refusal { reason, message }
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// An absolute path of the device, or the name of a volume that the runtime keeps.
    pub source: String,
    /// An absolute path in the container.
    pub target: String,
    /// `ro`, `rw`, …: the runtime's words.
    pub options: Vec<String>,
}

/// A port of the device that leads into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The device's address; none for all.
    pub address: Option<IpAddr>,
    /// The device's port.
    pub host: u16,
    /// The container's port.
    pub container: u16,
    /// Which protocol.
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Reads a desired value and checks all of it.
pub fn decode(bytes: &[u8]) -> Result<Desired, Refusal> {
    if bytes.len() > MAX_DESIRED_BYTES {
        let message = format!("{} bytes are more than the {MAX_DESIRED_BYTES} that are taken", bytes.len());
        return Err(refusal(Reason::TooLarge, message));
    }
    let desired: Desired = serde_json::from_slice(bytes).map_err(|error| {
        let message = format!("not a desired value: {}", place(bytes).unwrap_or_else(|| error.to_string()));
        refusal(Reason::MalformedDesired, message)
    })?;
    if desired.version > WORKLOAD_VERSION {
        let message =
            format!("version {} is newer than {WORKLOAD_VERSION}, the newest known", desired.version);
        return Err(refusal(Reason::UnsupportedVersion, message));
    }
    check::check(&desired.score)?;
    Ok(desired)
}

/// The services of a checked value, in order.
pub fn services(deployment: &DeploymentName, desired: &Desired) -> Vec<ServiceSpec> {
    let Score::PodmanV0(score) = &desired.score;
    let spec = |service: &PodmanService| ServiceSpec {
        deployment: deployment.clone(),
        name: service.name.clone(),
        generation: desired.generation,
        hash: spec::hash(service),
        image: service.image.clone(),
        args: service.args.clone(),
        env: service.env.clone(),
        // All of them parse: `decode` let no other through.
        volumes: service.volumes.iter().filter_map(|volume| parse_volume(volume).ok()).collect(),
        ports: service.ports.iter().filter_map(|port| parse_port(port).ok()).collect(),
        restart: service.restart,
        limits: service.limits.clone(),
        health: service.health.clone(),
        stop_timeout: service.stop_timeout,
        pull: service.pull,
    };
    score.services.iter().map(spec).collect()
}

/// Which field of the score is wrong. The score's enum keeps serde from telling, so the part below it is read
/// again by itself.
fn place(bytes: &[u8]) -> Option<String> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    let data = value.get_mut("score")?.get_mut("data")?.take();
    let wrong = serde_path_to_error::deserialize::<_, PodmanV0Score>(data).err()?;
    let path = wrong.path().to_string();
    // Its values may be secrets, and serde's words quote them.
    if path.split('.').any(|part| part == "env") {
        return Some(format!("score.data.{path}: not a map of texts"));
    }
    Some(format!("score.data.{path}: {}", wrong.inner()))
}

/// The init containers of a checked value, in order.
pub(super) fn inits(deployment: &DeploymentName, desired: &Desired) -> Vec<InitSpec> {
    let Score::PodmanV0(score) = &desired.score;
    let spec = |init: &InitContainer| InitSpec {
        deployment: deployment.clone(),
        name: init.name.clone(),
        generation: desired.generation,
        image: init.image.clone(),
        args: init.args.clone(),
        env: init.env.clone(),
        volumes: init.volumes.iter().filter_map(|volume| parse_volume(volume).ok()).collect(),
        timeout: init.timeout,
    };
    score.init_containers.iter().map(spec).collect()
}

/// How long the services must run before a change counts as good.
pub(super) fn probation(desired: &Desired) -> Duration {
    let Score::PodmanV0(score) = &desired.score;
    score.probation
}

/// Hash of a whole desired value: [`spec::set`].
pub(super) fn set(desired: &Desired) -> String {
    spec::set(&desired.score)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::DEFAULT_INIT_CONTAINER_TIMEOUT;
    use proptest::prelude::*;
    use serde_json::json;

    fn desired(score: Value) -> Vec<u8> {
        let token = json!({ "epoch": 1, "sequence": 1 });
        json!({ "version": 1, "generation": 1, "token": token, "score": { "type": "PodmanV0", "data": score } })
            .to_string()
            .into_bytes()
    }

    fn score(bytes: &[u8]) -> PodmanV0Score {
        let Score::PodmanV0(score) = serde_json::from_slice::<Desired>(bytes).unwrap().score;
        score
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let web = json!({ "name": "web", "image": "localhost/web:1" });
        let with = |key: &str, value: Value| {
            let mut service = web.clone();
            service[key] = value;
            desired(json!({ "services": [service] }))
        };
        let with_init = |key: &str, value: Value| {
            let mut init = json!({ "name": "migrate", "image": "localhost/m:1" });
            init[key] = value;
            desired(json!({ "init_containers": [init] }))
        };
        let cases: Vec<(Vec<u8>, Reason, &str)> = vec![
            (b"{".to_vec(), Reason::MalformedDesired, "EOF while parsing"),
            (b"{}".to_vec(), Reason::MalformedDesired, "missing field `version`"),
            (vec![b' '; MAX_DESIRED_BYTES + 1], Reason::TooLarge, "1048577 bytes"),
            (desired(json!({ "services": vec![web.clone(); 257] })), Reason::TooLarge, "257 services"),
            (
                desired(json!({ "services": [web.clone(), web.clone()] })),
                Reason::InvalidScore,
                "services[1].name: \"web\" is the name of another container",
            ),
            (
                desired(json!({ "init_containers": [web.clone()], "services": [web.clone()] })),
                Reason::InvalidScore,
                "services[0].name: \"web\" is the name of another container",
            ),
            (
                with_init("timeout", json!(0)),
                Reason::InvalidScore,
                "init_containers[0].timeout: 0 s is not between",
            ),
            (
                with_init("timeout", json!(86_401)),
                Reason::InvalidScore,
                "init_containers[0].timeout: 86401 s",
            ),
            (with_init("timeout", json!(u64::MAX)), Reason::InvalidScore, "init_containers[0].timeout"),
            (
                with_init("timeout", json!(1.5)),
                Reason::MalformedDesired,
                "score.data.init_containers[0].timeout: invalid type",
            ),
            (
                with_init("timeout", json!(-1)),
                Reason::MalformedDesired,
                "score.data.init_containers[0].timeout: invalid value",
            ),
            (with_init("image", json!("a b")), Reason::InvalidScore, "init_containers[0].image"),
            (with_init("volumes", json!(["x"])), Reason::InvalidScore, "init_containers[0].volumes[0]"),
            (with("stop_timeout", json!(3601)), Reason::InvalidScore, "services[0].stop_timeout"),
            (with("limits", json!({ "memory": 1 })), Reason::InvalidScore, "services[0].limits.memory"),
            (with("limits", json!({ "pids": 0 })), Reason::InvalidScore, "services[0].limits.pids"),
            (with("limits", json!({ "disk": 1 })), Reason::MalformedDesired, "unknown field `disk`"),
            (with("health", json!({ "command": [] })), Reason::InvalidScore, "services[0].health.command"),
            (
                with("health", json!({ "command": ["true"], "interval": 0 })),
                Reason::InvalidScore,
                "services[0].health.interval",
            ),
            (
                desired(json!({ "services": [web.clone()], "probation": 0 })),
                Reason::InvalidScore,
                "probation: 0 s is not between",
            ),
            (with("name", json!("Web")), Reason::MalformedDesired, "container name \"Web\" is not valid"),
            (with("image", json!("")), Reason::InvalidScore, "services[0].image"),
            (with("image", json!("a?b")), Reason::InvalidScore, "services[0].image"),
            (with("env", json!({ "A=B": "" })), Reason::InvalidScore, "services[0].env"),
            (with("env", json!({ "A": "a\0b" })), Reason::InvalidScore, "services[0].env"),
            (with("env", json!("secret")), Reason::MalformedDesired, "services[0].env: not a map of texts"),
            (with("name", json!("../x")), Reason::MalformedDesired, "services[0].name"),
            (with("name", json!("a=b")), Reason::MalformedDesired, "services[0].name"),
            (with("name", json!("a\nb")), Reason::MalformedDesired, "services[0].name"),
            (desired(json!({ "services": vec![web.clone(); 10_000] })), Reason::TooLarge, "10000 services"),
            (with("volumes", json!(["/a"])), Reason::InvalidScore, "services[0].volumes[0]"),
            (with("volumes", json!(["/a:b"])), Reason::InvalidScore, "services[0].volumes[0]"),
            (with("ports", json!(["80:80", "80"])), Reason::InvalidScore, "services[0].ports[1]"),
            (with("ports", json!(["0:80"])), Reason::InvalidScore, "services[0].ports[0]"),
            (with("ports", json!(["1:2/sctp"])), Reason::InvalidScore, "services[0].ports[0]"),
            (with("restart", json!("sometimes")), Reason::MalformedDesired, "unknown variant `sometimes`"),
        ];
        for (bytes, reason, words) in cases {
            let refused = decode(&bytes).unwrap_err();
            assert_eq!(refused.reason, reason, "{refused}");
            assert!(refused.message.contains(words), "{refused} should say {words}");
        }
        assert!(decode(&with("args", json!(["sleep", "1"]))).is_ok());
    }

    #[test]
    fn a_refusal_is_short_and_tells_no_secret() {
        let huge = "x".repeat(MAX_DESIRED_BYTES / 2);
        for service in [
            json!({ "name": huge, "image": "i" }),
            json!({ "name": "web", "image": "i", "restart": huge }),
            json!({ "name": "web", "image": "i", "ports": huge }),
            json!({ "name": "web", "image": "i", "env": { huge.as_str(): "\0" } }),
        ] {
            let refused = decode(&desired(json!({ "services": [service] }))).unwrap_err();
            assert!(refused.message.chars().count() <= MAX_MESSAGE, "{} bytes", refused.message.len());
        }
        for env in [json!("hush"), json!(["hush"]), json!({ "A": ["hush"] }), json!({ "A": { "B": "hush" } })]
        {
            let service = json!({ "name": "web", "image": "i", "env": env });
            let refused = decode(&desired(json!({ "services": [service] }))).unwrap_err();
            assert!(refused.message.contains("env") && !refused.message.contains("hush"), "{refused}");
        }
    }

    #[test]
    fn deep_nesting_and_a_huge_value_are_refused() {
        let deep = [b"[".repeat(500_000), b"]".repeat(500_000)].concat();
        assert_eq!(decode(&deep).unwrap_err().reason, Reason::MalformedDesired);
        let inside =
            String::from_utf8(desired(json!(0))).unwrap().replace(":0", &format!(":{}", "[".repeat(9_000)));
        assert_eq!(decode(inside.as_bytes()).unwrap_err().reason, Reason::MalformedDesired);
        let refused = decode(&vec![b' '; 100 * 1024 * 1024]).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge);
    }

    #[test]
    fn a_newer_version_is_refused_as_such() {
        let text = String::from_utf8(desired(json!({}))).unwrap().replace("\"version\":1", "\"version\":2");
        assert_eq!(decode(text.as_bytes()).unwrap_err().reason, Reason::UnsupportedVersion);
    }

    #[test]
    fn volumes_and_ports_are_read() {
        let volume = parse_volume("data:/var/data:ro,nosuid").unwrap();
        assert_eq!((volume.source.as_str(), volume.options.len()), ("data", 2));
        let port = |address: Option<&str>, host, container, protocol| PortMapping {
            address: address.map(|address| address.parse().unwrap()),
            host,
            container,
            protocol,
        };
        for (text, expected) in [
            ("8080:80", port(None, 8080, 80, Protocol::Tcp)),
            ("127.0.0.1:53:5353/udp", port(Some("127.0.0.1"), 53, 5353, Protocol::Udp)),
            ("[::1]:1:2/tcp", port(Some("::1"), 1, 2, Protocol::Tcp)),
        ] {
            assert_eq!(parse_port(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn the_wire_form_goes_there_and_back() {
        let data = json!({
            "init_containers": [
                { "name": "two", "image": "i", "args": ["b", "a"], "env": { "K": "V" }, "volumes": ["/s:/d:ro"], "timeout": 7 },
                { "name": "one", "image": "i", "args": [], "env": {}, "volumes": [], "timeout": 300 } ],
            "services": [
                { "name": "z", "image": "i", "args": [], "env": {}, "volumes": [], "ports": ["8080:80"], "restart": "on-failure" },
                { "name": "a", "image": "i", "args": [], "env": {}, "volumes": [], "ports": [], "restart": "always" } ] });
        let bytes = desired(data.clone());
        let value: Desired = serde_json::from_slice(&bytes).unwrap();
        let again = serde_json::to_value(&value).unwrap();
        assert_eq!(
            again["score"],
            json!({ "type": "PodmanV0", "data": data }),
            "order and all fields are kept"
        );
    }

    #[test]
    fn missing_fields_take_their_defaults() {
        let legacy = score(&desired(json!({ "services": [{ "name": "web", "image": "i" }] })));
        assert!(legacy.init_containers.is_empty());
        let init = json!({ "init_containers": [{ "name": "m", "image": "i" }] });
        assert_eq!(score(&desired(init)).init_containers[0].timeout, DEFAULT_INIT_CONTAINER_TIMEOUT);
    }

    #[test]
    fn a_timeout_is_whole_seconds_from_nought() {
        for bad in [json!(1.5), json!(-1), json!("3"), json!(null)] {
            let init = json!({ "init_containers": [{ "name": "m", "image": "i", "timeout": bad }] });
            assert_eq!(decode(&desired(init)).unwrap_err().reason, Reason::MalformedDesired, "{bad}");
        }
    }

    #[test]
    fn the_hash_tells_services_apart_and_nothing_else() {
        let name = DeploymentName::new("d").unwrap();
        let hash = |score: Value| {
            services(&name, &decode(&desired(score)).unwrap()).into_iter().map(|s| s.hash).collect::<Vec<_>>()
        };
        let one = json!({ "services": [{ "name": "w", "image": "i" }] });
        let spelled = json!({ "services": [{ "name": "w", "image": "i", "args": [], "restart": "always" }] });
        let other = json!({ "services": [{ "name": "w", "image": "i", "env": { "A": "1" } }] });
        assert_eq!(hash(one.clone()), hash(spelled));
        assert_ne!(hash(one), hash(other));
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn any_texts_are_understood_or_refused(
            image in "\\PC{0,20}", volume in "[a/:,é]{0,12}", port in "[0-9:/tcpud\\[\\].]{0,14}",
        ) {
            let service = json!({ "name": "w", "image": image, "volumes": [volume], "ports": [port] });
            if let Ok(desired) = decode(&desired(json!({ "services": [service] }))) {
                let specs = services(&DeploymentName::new("d").unwrap(), &desired);
                prop_assert_eq!(specs[0].volumes.len() + specs[0].ports.len(), 2, "what was checked is run");
            }
        }
    }
}
