//! The podman adapter on answers that the tests' own podman cannot give: the shapes of podman 5, a kernel without
//! the memory controller, a container out of memory, events that are lost, answers without an end.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, service};
use crate::podman::spec;
use crate::support::libpod::{Answer, Libpod, chunked, whole};
use pilab::agent::ports::{ContainerRuntime, InitSpec, RunOutcome, RuntimeError, ServiceState};
use pilab::model::id::{ContainerName, DeploymentName, DeviceId};
use pilab::model::workload::{Limits, Phase, label};
use pilab::podman::topology::{PodmanOptions, PodmanTopology};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);
const NEVER: &str = "0001-01-01T00:00:00Z";

fn topology(libpod: &Libpod) -> PodmanTopology {
    let options = PodmanOptions { socket: libpod.socket(), oci_runtime: None };
    PodmanTopology::new(DeviceId::new("lab-1").unwrap(), options)
}

fn labels(kind: &str, name: &str) -> Value {
    json!({ label::MANAGED_BY: label::AGENT, label::DEVICE: "lab-1", label::DEPLOYMENT: "shop", kind: name })
}

/// An entry of podman 5's list of containers.
fn listed(name: &str, state: &str, code: i32) -> Value {
    let labels = labels(label::SERVICE, name);
    json!({ "AutoRemove": false, "Command": ["sh"], "Created": "2026-11-24T02:03:00.123456789Z", "CreatedAt": "",
        "CIDFile": "", "Exited": state == "exited", "ExitedAt": -62_135_596_800_i64, "ExitCode": code,
        "ExposedPorts": null, "Id": format!("id-{name}"), "Image": "localhost/web:1", "ImageID": "ab",
        "IsInfra": false, "Labels": labels, "Mounts": [], "Names": [format!("lab-1.shop.{name}")],
        "Namespaces": {}, "Networks": [], "Pid": 1, "Pod": "", "PodName": "", "Ports": null, "Restarts": 0,
        "Size": null, "StartedAt": 1_795_485_780, "State": state, "Status": "" })
}

/// podman 5's answer to inspect, as 5.0 gives it under any version; later ones have a text for `Entrypoint` and a
/// number for `StopSignal` under version 4. Its monitor is this very process, so it lives.
fn inspected(name: &str, status: &str, code: i32, oom: bool) -> Value {
    let ended = ["exited", "stopped"].contains(&status);
    let finished = if ended { "2026-11-24T02:03:04.5Z" } else { NEVER };
    let state = json!({ "OciVersion": "1.2.0", "Status": status, "Running": !ended, "Paused": false,
        "Restarting": false, "OOMKilled": oom, "Dead": false, "Pid": 0, "ConmonPid": std::process::id(),
        "ExitCode": code, "Error": "", "StartedAt": "2026-11-24T03:03:00.5+01:00", "FinishedAt": finished,
        "Health": { "Status": "healthy", "FailingStreak": 0, "Log": [{ "Start": "", "End": "", "ExitCode": 0,
        "Output": "all is well" }] }, "CgroupPath": "/libpod", "CheckpointedAt": NEVER, "RestoredAt": NEVER });
    let config = json!({ "Labels": labels(label::SERVICE, name), "Entrypoint": ["/bin/sh", "-c"],
        "StopSignal": "SIGTERM", "HealthcheckOnFailureAction": "none", "HealthLogDestination": "local",
        "HealthcheckMaxLogCount": 5, "Timeout": 0, "StopTimeout": 10, "Env": null, "Annotations": null });
    json!({ "Id": format!("id-{name}"), "Created": "2026-11-24T02:03:00.1Z", "Image": "ab",
        "ImageDigest": "sha256:cd", "ImageName": "localhost/web:1", "State": state, "Config": config,
        "Name": format!("lab-1.shop.{name}"), "RestartCount": 0, "HostConfig": { "AutoRemoveImage": false } })
}

fn ok(body: &Value) -> Answer {
    whole("200 OK", &body.to_string())
}

fn not_found(cause: &str) -> Answer {
    let body = json!({ "cause": cause, "message": format!("it: {cause}"), "response": 404 });
    whole("404 Not Found", &body.to_string())
}

/// What all of them answer alike, to what they are not asked about here.
fn usual(asked: &str) -> Answer {
    match asked {
        _ if asked.starts_with("GET /containers/json") => ok(&json!([])),
        _ if asked.starts_with("GET /events") => Answer::Open(chunked()),
        _ if asked.contains("/logs?") => whole("200 OK", "\u{1}\0\0\0\0\0\0\u{6}begun\n"),
        _ if asked.contains("/exists") || asked.contains("/start") => whole("204 No Content", ""),
        _ if asked.starts_with("DELETE") => ok(&json!([{ "Err": null, "Id": "id", "RawInput": "id" }])),
        "GET /info" => ok(&json!({ "host": { "cgroupVersion": "v1", "cgroupControllers": [] },
            "version": { "APIVersion": "5.4.2", "Version": "5.4.2" } })),
        _ => not_found("no such container"),
    }
}

fn migrate() -> InitSpec {
    InitSpec {
        deployment: DeploymentName::new("shop").unwrap(),
        name: ContainerName::new("migrate").unwrap(),
        generation: 1,
        image: "localhost/web:1".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        volumes: Vec::new(),
        timeout: MINUTE,
    }
}

#[tokio::test]
async fn podman_5s_lists_and_states_are_understood() {
    let libpod = Libpod::start(|asked| {
        let state = |name: &str| asked.contains(&format!("/containers/id-{name}/json"));
        match asked {
            _ if asked.starts_with("GET /containers/json") => ok(&json!([listed("a", "running", 0),
                listed("b", "stopping", 0), listed("c", "stopped", 3), listed("d", "exited", -1),
                listed("e", "removing", 0), { "Id": "foreign", "Labels": null, "State": "running" }])),
            _ if state("a") => ok(&inspected("a", "running", 0, false)),
            _ if state("c") => ok(&inspected("c", "stopped", 137, true)),
            "GET /containers/id-a/healthcheck" => {
                ok(&json!({ "Status": "healthy", "FailingStreak": 0, "Log": null }))
            }
            "POST /containers/create" => not_found("image not known"),
            _ => usual(asked),
        }
    });
    let topology = topology(&libpod);
    let seen = topology.list_managed_services().await.unwrap();
    let states: Vec<_> = seen.iter().map(|seen| (seen.name.as_str(), seen.state.clone())).collect();
    let other = |word: &str| ServiceState::Other(word.to_owned());
    let exited = |code| ServiceState::Exited { code };
    let expected = [ServiceState::Running, other("stopping"), exited(3), exited(-1), other("removing")];
    assert_eq!(states, ["a", "b", "c", "d", "e"].into_iter().zip(expected).collect::<Vec<_>>());

    let end = topology.end_of("id-c").await.unwrap().unwrap();
    assert_eq!((end.exit_code, end.signal, end.oom, end.ran_ms), (137, Some(9), true, 4000));
    assert_eq!((end.image_digest.as_str(), end.log_tail.as_str()), ("sha256:cd", "begun\n"));
    let running = topology.end_of("id-a").await.unwrap().unwrap();
    assert_eq!((running.exit_code, running.log_tail.as_str()), (-1, "begun\n"), "it runs");
    let found = topology.check_health("id-a", MINUTE).await.unwrap();
    assert_eq!(found, (true, "all is well".to_owned()));
    let error = topology.create(&spec("web", &[])).await.unwrap_err();
    assert!(
        matches!(error, RuntimeError::ImageMissing { .. }),
        "status 404, where podman 4 says 500: {error}"
    );
    topology.remove("id-c").await.unwrap();
}

#[tokio::test]
async fn an_init_container_is_waited_for_through_all_that_podman_5_says() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let libpod = Libpod::start(move |asked| match asked {
        "POST /containers/create" => whole("201 Created", r#"{"Id":"id-migrate","Warnings":[]}"#),
        // Its words, its success and its exit code are not to be relied on: they may be two answers in one.
        _ if asked.starts_with("POST /containers/id-migrate/wait") => whole(
            "500 Internal Server Error",
            "{\"cause\":\"no such exit code\",\"message\":\"no such exit code\",\"response\":500}\n\
             {\"cause\":\"unexpected count of reports: 0\",\"message\":\"\",\"response\":500}\n",
        ),
        _ if asked.ends_with("/containers/id-migrate/json") => {
            let words = ["initialized", "running", "running", "stopping", "stopping"];
            let word = words.get(counted.fetch_add(1, Ordering::SeqCst)).unwrap_or(&"stopped");
            ok(&inspected("migrate", word, 0, false))
        }
        _ => usual(asked),
    });
    let done = topology(&libpod).run_to_completion(&migrate(), MINUTE).await.unwrap();
    assert_eq!(done.outcome, RunOutcome::Exited { exit_code: 0 });
    assert!(looks.load(Ordering::SeqCst) > 5, "{:?}", libpod.asked());
}

/// podman's `wait` answers 0 for one that never ran.
#[tokio::test]
async fn one_that_was_started_and_never_ran_is_no_success() {
    let libpod = Libpod::start(|asked| match asked {
        "POST /containers/create" => whole("201 Created", r#"{"Id":"id-migrate","Warnings":[]}"#),
        _ if asked.contains("/wait?") => whole("200 OK", "0"),
        _ if asked.ends_with("/containers/id-migrate/json") => {
            let mut created = inspected("migrate", "created", 0, false);
            created["State"]["StartedAt"] = json!(NEVER);
            ok(&created)
        }
        _ => usual(asked),
    });
    let error = topology(&libpod).run_to_completion(&migrate(), MINUTE).await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::NeverStarted { container } if container == "lab-1.shop.migrate"),
        "{error}"
    );
    assert!(libpod.asked().iter().any(|asked| asked.starts_with("DELETE /containers/id-migrate?")));
}

#[tokio::test]
async fn a_container_out_of_memory_is_told_in_the_status() {
    let Some(lab) = Lab::start().await else { return };
    let libpod = Libpod::start(|asked| match asked {
        "POST /containers/create" => whole("201 Created", r#"{"Id":"id-hungry","Warnings":[]}"#),
        _ if asked.contains("/wait?") => whole("200 OK", "137"),
        _ if asked.ends_with("/containers/id-hungry/json") => ok(&inspected("hungry", "exited", 137, true)),
        _ => usual(asked),
    });
    let agent = lab.agent(topology(&libpod));
    let score = json!({ "init_containers": [{ "name": "hungry", "image": "localhost/web:1" }],
        "services": [service("web", "localhost/web:1")] });
    lab.deploy_score("shop", 1, score).await;
    let status = lab.status("shop", |status| status.reason == "InitContainerFailed").await;
    let end = status.init_containers[0].end.clone().unwrap();
    assert_eq!((end.exit_code, end.signal, end.oom), (137, Some(9), true), "{status:?}");
    assert!(libpod.asked().iter().any(|asked| asked.starts_with("DELETE /containers/id-hungry?")));
    agent.stop().await;
}

#[tokio::test]
async fn limits_that_podman_drops_with_a_warning_are_a_condition_of_the_status() {
    let memory = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. \
                  Limitation discarded.";
    let rootless = "Resource limits are not supported and ignored on cgroups V1 rootless systems";
    for (warning, is_told) in [(memory, true), (rootless, true), ("Some other thing is odd", false)] {
        let Some(lab) = Lab::start().await else { return };
        let made = AtomicUsize::new(0);
        let libpod = Libpod::start(move |asked| match asked {
            "POST /containers/create" => {
                made.store(1, Ordering::SeqCst);
                let body = json!({ "Id": "id-web", "Warnings": [warning] });
                whole("201 Created", &body.to_string())
            }
            _ if asked.starts_with("GET /containers/json") && made.load(Ordering::SeqCst) == 1 => {
                ok(&json!([listed("web", "running", 0)]))
            }
            _ if asked.ends_with("/containers/id-web/json") => ok(&inspected("web", "running", 0, false)),
            _ => usual(asked),
        });
        let agent = lab.agent(topology(&libpod));
        let mut limited = service("web", "localhost/web:1");
        limited["limits"] = json!(Limits { memory: Some(64 << 20), ..Limits::default() });
        lab.deploy("shop", 1, &[limited]).await;
        let status =
            lab.status("shop", |status| status.services.iter().any(|it| it.state == "running")).await;
        let told: Vec<_> =
            status.conditions.iter().map(|it| (it.name.as_str(), it.message.clone())).collect();
        let expected = is_told.then(|| ("LimitsNotEnforced", format!("web: {warning}")));
        assert_eq!(told, expected.into_iter().collect::<Vec<_>>(), "{:?}", status.phase);
        agent.stop().await;
    }
}

#[tokio::test]
async fn when_the_stream_of_events_ends_the_agent_looks_again_and_opens_it_anew() {
    let Some(lab) = Lab::start().await else { return };
    let libpod = Libpod::start(usual);
    let agent = lab.agent(topology(&libpod));
    let position = |word: &str, from: usize| {
        libpod.asked().iter().skip(from).position(|asked| asked.starts_with(word)).map(|at| from + at)
    };
    // Of its own accord it looks every 15 s: that three such looks come takes longer.
    let deadline = Instant::now() + Duration::from_secs(30);
    let wait = async |word: &str, from: usize| loop {
        if let Some(at) = position(word, from) {
            return at;
        }
        assert!(Instant::now() < deadline, "no {word} from {from} on: {:?}", libpod.asked());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let mut open = wait("GET /events", 0).await;
    for _ in 0..3 {
        let from = libpod.asked().len();
        libpod.end_streams();
        wait("GET /containers/json", from).await;
        open = wait("GET /events", open + 1).await;
    }
    lab.deploy("shop", 1, &[]).await;
    lab.phase("shop", Phase::Running).await;
    agent.stop().await;
}

#[tokio::test]
async fn answers_without_end_or_sense_are_bounded_and_typed() {
    let libpod = Libpod::start(|asked| match asked {
        _ if asked.starts_with("GET /containers/json") => Answer::Endless(chunked(), "[".repeat(64 * 1024)),
        "GET /containers/id-cut/json" => Answer::Whole(format!("{}5\r\n{{\"Id\"", chunked())),
        "GET /containers/id-odd/json" => whole("200 OK", "<html>"),
        "GET /containers/id-none/json" => Answer::Whole("220 mail.example ESMTP\r\n".to_owned()),
        "POST /images/pull?quiet=false&reference=registry.example/a:1" => {
            // The end of line is missing, as when podman dies over it.
            whole("200 OK", "{\"stream\":\"Trying to pull\"}\n{\"error\":\"no route to host\",\"id\":\"\"}")
        }
        _ if asked.contains("/exists") => not_found("no such image"),
        _ => usual(asked),
    });
    let topology = topology(&libpod);
    let error = topology.list_managed_services().await.unwrap_err();
    assert!(
        matches!(&error, RuntimeError::Malformed { problem, .. } if problem.contains("more than")),
        "{error}"
    );
    let error = topology.end_of("id-cut").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Broken { .. }), "{error}");
    let error = topology.end_of("id-odd").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Malformed { .. }), "{error}");
    let error = topology.end_of("id-none").await.unwrap_err();
    assert!(matches!(error, RuntimeError::Broken { .. }), "{error}");
    let told = std::sync::Mutex::new(Vec::new());
    let progress = |line: &str| told.lock().unwrap().push(line.to_owned());
    let pulled =
        topology.ensure_image("registry.example/a:1", Default::default(), &progress).await.unwrap_err();
    assert!(
        matches!(&pulled, RuntimeError::ImageMissing { cause, .. } if cause == "no route to host"),
        "status 200, and yet: {pulled}"
    );
    assert_eq!(told.into_inner().unwrap(), ["Trying to pull"]);
}
