//! From bytes on a desired key to services that can be run, or to a typed refusal.

use super::ports::ServiceSpec;
use crate::model::id::{ContainerName, DeploymentName};
use crate::model::workload::{Desired, PodmanService, Score, WORKLOAD_VERSION};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// The largest value of a desired key, in bytes: what a NATS message may hold by default.
pub const MAX_DESIRED_BYTES: usize = 1024 * 1024;
/// The most services of one deployment.
pub const MAX_SERVICES: usize = 256;
/// The longest image reference in bytes.
const MAX_IMAGE_LEN: usize = 512;

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
    /// The score has init containers, which this agent cannot run.
    InitContainersUnsupported,
    /// An image is not on the device and cannot be had.
    ImageMissing,
    /// The container runtime refused or failed.
    RuntimeFailed,
    /// A service ended with a failure and its policy is not to start it again.
    ServiceExited,
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

fn refusal(reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
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
    let desired: Desired = serde_json::from_slice(bytes)
        .map_err(|error| refusal(Reason::MalformedDesired, format!("not a desired value: {error}")))?;
    if desired.version > WORKLOAD_VERSION {
        let message =
            format!("version {} is newer than {WORKLOAD_VERSION}, the newest known", desired.version);
        return Err(refusal(Reason::UnsupportedVersion, message));
    }
    check(&desired.score)?;
    Ok(desired)
}

fn check(score: &Score) -> Result<(), Refusal> {
    let Score::PodmanV0(score) = score;
    if score.services.len() > MAX_SERVICES {
        let message =
            format!("{} services are more than the {MAX_SERVICES} that are taken", score.services.len());
        return Err(refusal(Reason::TooLarge, message));
    }
    let names = score.init_containers.iter().map(|init| &init.name).enumerate();
    let names = names.map(|(at, name)| (format!("init_containers[{at}].name"), name));
    let services = score.services.iter().map(|service| &service.name).enumerate();
    let names = names.chain(services.map(|(at, name)| (format!("services[{at}].name"), name)));
    let mut taken: BTreeSet<&ContainerName> = BTreeSet::new();
    for (field, name) in names {
        if !taken.insert(name) {
            return Err(invalid(
                &field,
                &format!("{name:?} is the name of another container", name = name.as_str()),
            ));
        }
    }
    if let [first, rest @ ..] = score.init_containers.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let message = format!("init container {}{more}: this agent cannot run init containers", first.name);
        return Err(refusal(Reason::InitContainersUnsupported, message));
    }
    for (at, service) in score.services.iter().enumerate() {
        check_service(&format!("services[{at}]"), service)?;
    }
    Ok(())
}

fn check_service(path: &str, service: &PodmanService) -> Result<(), Refusal> {
    check_image(&service.image).map_err(|problem| invalid(&format!("{path}.image"), &problem))?;
    if service.args.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid(&format!("{path}.args"), "an argument holds a NUL character"));
    }
    for (name, value) in &service.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let problem =
                format!("{name:?} cannot be the name of a variable, or its value holds a NUL character");
            return Err(invalid(&format!("{path}.env"), &problem));
        }
    }
    for (at, volume) in service.volumes.iter().enumerate() {
        parse_volume(volume).map_err(|problem| invalid(&format!("{path}.volumes[{at}]"), &problem))?;
    }
    for (at, port) in service.ports.iter().enumerate() {
        parse_port(port).map_err(|problem| invalid(&format!("{path}.ports[{at}]"), &problem))?;
    }
    Ok(())
}

fn invalid(field: &str, problem: &str) -> Refusal {
    refusal(Reason::InvalidScore, format!("{field}: {problem}"))
}

/// The characters of an image reference; in particular none that means something in a URL's query.
fn check_image(image: &str) -> Result<(), String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b);
    let edge = image.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if edge && image.len() <= MAX_IMAGE_LEN && image.bytes().all(fits) && !image.contains("..") {
        return Ok(());
    }
    Err(format!("{:?} is not an image reference", cut(image)))
}

/// Reads `source:target[:options]`.
fn parse_volume(text: &str) -> Result<Volume, String> {
    let problem = || format!("{:?} is not source:target[:options] with an absolute target", cut(text));
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else { return Err(problem()) };
    let options: Vec<String> =
        parts.next().map(|o| o.split(',').map(str::to_owned).collect()).unwrap_or_default();
    let named = source.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    let source_fits = source.starts_with('/') || (named && !source.starts_with(['.', '-']));
    let fits = parts.next().is_none()
        && !source.is_empty()
        && source_fits
        && target.starts_with('/')
        && !text.contains('\0')
        && options.iter().all(|option| !option.is_empty());
    if !fits {
        return Err(problem());
    }
    Ok(Volume { source: source.to_owned(), target: target.to_owned(), options })
}

/// Reads `[address:]host:container[/protocol]`; an IPv6 address stands in brackets.
fn parse_port(text: &str) -> Result<PortMapping, String> {
    let problem = || format!("{:?} is not [address:]host:container[/protocol]", cut(text));
    let (rest, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some(_) => return Err(problem()),
    };
    let (rest, container) = rest.rsplit_once(':').ok_or_else(problem)?;
    let (address, host) = match rest.rsplit_once(':') {
        None => (None, rest),
        Some((address, host)) => {
            let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            let address: IpAddr = bare.parse().map_err(|_| problem())?;
            (Some(address), host)
        }
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(problem);
    Ok(PortMapping { address, host: port(host)?, container: port(container)?, protocol })
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The services of a checked value, in order.
pub fn services(deployment: &DeploymentName, desired: &Desired) -> Vec<ServiceSpec> {
    let Score::PodmanV0(score) = &desired.score;
    let spec = |service: &PodmanService| ServiceSpec {
        deployment: deployment.clone(),
        name: service.name.clone(),
        generation: desired.generation,
        hash: hash(service),
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

/// Half of a SHA-256 over the service's wire form, hex: equal services have equal hashes, whatever
/// generation they came with.
fn hash(service: &PodmanService) -> String {
    let bytes = serde_json::to_vec(service).unwrap_or_default();
    hex(Sha256::digest(bytes).get(..16).unwrap_or_default())
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::workload::{DEFAULT_INIT_CONTAINER_TIMEOUT, PodmanV0Score};
    use proptest::prelude::*;
    use serde_json::{Value, json};

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
                desired(json!({ "init_containers": [{ "name": "migrate", "image": "localhost/m:1" }] })),
                Reason::InitContainersUnsupported,
                "init container migrate",
            ),
            (with("name", json!("Web")), Reason::MalformedDesired, "container name \"Web\" is not valid"),
            (with("image", json!("")), Reason::InvalidScore, "services[0].image"),
            (with("image", json!("a?b")), Reason::InvalidScore, "services[0].image"),
            (with("env", json!({ "A=B": "" })), Reason::InvalidScore, "services[0].env"),
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
