//! Whether a score can be run: every field, with the name of the one that cannot.

use super::score::{MAX_SERVICES, PortMapping, Protocol, Reason, Refusal, Volume, refusal};
use crate::model::id::ContainerName;
use crate::model::workload::{HealthCheck, InitContainer, Limits, PodmanService, Score};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// The longest image reference in bytes.
const MAX_IMAGE_LEN: usize = 512;
/// The longest time an init container may be given: what takes a day is no initialisation.
const MAX_INIT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// The longest probation of an upgrade.
const MAX_PROBATION: Duration = Duration::from_secs(3600);
/// The longest time a service may be given to end.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(3600);
/// The longest of the times of a health check.
const MAX_HEALTH_TIME: Duration = Duration::from_secs(3600);
/// The smallest bound on memory: an OCI runtime itself takes some MiB to start a container in.
const MIN_MEMORY: u64 = 4 * 1024 * 1024;

pub(super) fn check(score: &Score) -> Result<(), Refusal> {
    let Score::PodmanV0(score) = score;
    for (count, what) in
        [(score.services.len(), "services"), (score.init_containers.len(), "init containers")]
    {
        if count > MAX_SERVICES {
            let message = format!("{count} {what} are more than the {MAX_SERVICES} that are taken");
            return Err(refusal(Reason::TooLarge, message));
        }
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
    for (at, init) in score.init_containers.iter().enumerate() {
        check_init(&format!("init_containers[{at}]"), init)?;
    }
    within("probation", score.probation, MAX_PROBATION)?;
    for (at, service) in score.services.iter().enumerate() {
        check_service(&format!("services[{at}]"), service)?;
    }
    Ok(())
}

fn check_init(path: &str, init: &InitContainer) -> Result<(), Refusal> {
    check_process(path, &init.image, &init.args, &init.env, &init.volumes)?;
    within(&format!("{path}.timeout"), init.timeout, MAX_INIT_TIMEOUT)
}

fn check_service(path: &str, service: &PodmanService) -> Result<(), Refusal> {
    check_process(path, &service.image, &service.args, &service.env, &service.volumes)?;
    for (at, port) in service.ports.iter().enumerate() {
        parse_port(port).map_err(|problem| invalid(&format!("{path}.ports[{at}]"), &problem))?;
    }
    if service.stop_timeout > MAX_STOP_TIMEOUT {
        let problem = format!("more than {} s", MAX_STOP_TIMEOUT.as_secs());
        return Err(invalid(&format!("{path}.stop_timeout"), &problem));
    }
    let Limits { memory, cpu_millis, pids } = &service.limits;
    if memory.is_some_and(|bytes| bytes < MIN_MEMORY) {
        return Err(invalid(&format!("{path}.limits.memory"), &format!("less than {MIN_MEMORY} bytes")));
    }
    for (name, limit) in [("cpu_millis", cpu_millis), ("pids", pids)] {
        if *limit == Some(0) {
            return Err(invalid(&format!("{path}.limits.{name}"), "0 would let nothing run"));
        }
    }
    match &service.health {
        Some(health) => check_health(&format!("{path}.health"), health),
        None => Ok(()),
    }
}

fn check_health(path: &str, health: &HealthCheck) -> Result<(), Refusal> {
    if health.command.is_empty() || health.command.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid(&format!("{path}.command"), "it is empty or holds a NUL character"));
    }
    within(&format!("{path}.interval"), health.interval, MAX_HEALTH_TIME)?;
    within(&format!("{path}.timeout"), health.timeout, MAX_HEALTH_TIME)?;
    if health.start_period > MAX_HEALTH_TIME || health.retries == 0 {
        return Err(invalid(path, "start_period is more than an hour, or retries are 0"));
    }
    Ok(())
}

/// What init containers and services have in common.
fn check_process(
    path: &str,
    image: &str,
    args: &[String],
    env: &BTreeMap<String, String>,
    volumes: &[String],
) -> Result<(), Refusal> {
    check_image(image).map_err(|problem| invalid(&format!("{path}.image"), &problem))?;
    if args.iter().any(|arg| arg.contains('\0')) {
        return Err(invalid(&format!("{path}.args"), "an argument holds a NUL character"));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let problem =
                format!("{name:?} cannot be the name of a variable, or its value holds a NUL character");
            return Err(invalid(&format!("{path}.env"), &problem));
        }
    }
    for (at, volume) in volumes.iter().enumerate() {
        parse_volume(volume).map_err(|problem| invalid(&format!("{path}.volumes[{at}]"), &problem))?;
    }
    Ok(())
}

/// A time of at least a second: podman takes 0 for "no bound".
fn within(field: &str, time: Duration, longest: Duration) -> Result<(), Refusal> {
    if (Duration::from_secs(1)..=longest).contains(&time) {
        return Ok(());
    }
    let problem = format!("{} s is not between 1 and {} s", time.as_secs(), longest.as_secs());
    Err(invalid(field, &problem))
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
pub(super) fn parse_volume(text: &str) -> Result<Volume, String> {
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
pub(super) fn parse_port(text: &str) -> Result<PortMapping, String> {
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
