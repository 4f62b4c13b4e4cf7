//! The verbs of an agent on real podman, asked over a real NATS server with the device's rights.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use crate::agent::lab::{Lab, service};
use crate::podman_host::{V1, podman_or_return};
use futures_util::future::join_all;
use pilab::model::workload::Phase;
use pilab::wire::fleet::{DeviceFacts, ExecResult, FleetErrorKind, LogsPage, Reply, Verb};
use pilab::wire::subject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

async fn ask<T: DeserializeOwned>(lab: &Lab, verb: &str, body: Value) -> Reply<T> {
    let answer =
        lab.bus().request(subject::fleet(&lab.device, verb), body.to_string(), MINUTE).await.unwrap();
    serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&answer)))
}

async fn ok<T: DeserializeOwned>(lab: &Lab, verb: Verb, body: Value) -> T {
    match ask(lab, verb.name(), body).await {
        Reply::Ok(answer) => answer,
        Reply::Error(error) => panic!("{error}"),
    }
}

async fn refused(lab: &Lab, verb: &str, body: Value) -> FleetErrorKind {
    match ask::<Value>(lab, verb, body).await {
        Reply::Ok(answer) => panic!("{answer}"),
        Reply::Error(error) => error.kind,
    }
}

fn shell(script: &str) -> Value {
    let mut service = service("web", V1);
    service["args"] = json!(["sh", "-c", script]);
    service
}

#[tokio::test]
async fn logs_are_read_by_pages_and_followed() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1"));
    lab.ping().await;
    let script = "seq 1 20000; while [ ! -e /go ]; do sleep 0.1; done; echo more; sleep 1000";
    lab.deploy("shop", 1, &[shell(script)]).await;
    lab.phase("shop", Phase::Running).await;

    let at = |cursor: &str, wait_ms: u64| json!({ "deployment": "shop", "container": "web", "cursor": cursor, "wait_ms": wait_ms });
    let (mut all, mut cursor, deadline) = (String::new(), String::new(), Instant::now() + MINUTE);
    while !all.ends_with("\n20000\n") {
        let page: LogsPage = ok(&lab, Verb::Logs, at(&cursor, 1000)).await;
        assert!(page.text.len() <= 64 * 1024);
        all.push_str(&page.text);
        cursor = page.cursor;
        assert!(Instant::now() < deadline, "the last lines do not come: {:?}", all.lines().last());
    }
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    assert!(all == expected, "lines are lost or repeated");

    // A reader that waits holds up no ping, and gets what is written while it waits.
    let ping_then_write = async {
        let began = Instant::now();
        lab.ping().await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        podman.run(&["exec", "lab-1.shop.web", "sh", "-c", "echo > /go"]).await;
    };
    let (page, ()) = tokio::join!(ok::<LogsPage>(&lab, Verb::Logs, at(&cursor, 10_000)), ping_then_write);
    assert_eq!(page.text, "more\n");
    let nothing: LogsPage = ok(&lab, Verb::Logs, at(&page.cursor, 0)).await;
    assert_eq!(nothing, LogsPage { text: String::new(), cursor: page.cursor.clone() });

    // One more than are answered at once: it is told so at once, and the others get what they wait for.
    let readers = (0..=16).map(|_| ask::<LogsPage>(&lab, "logs", at(&page.cursor, 2000)));
    let answers = join_all(readers).await;
    let busy = |answer: &&Reply<LogsPage>| matches!(answer, Reply::Error(error) if error.kind == FleetErrorKind::Busy);
    let served = answers.iter().filter(|answer| matches!(answer, Reply::Ok(_))).count();
    assert_eq!((served, answers.iter().filter(busy).count()), (16, 1), "{answers:?}");

    let none = json!({ "deployment": "shop", "container": "none" });
    assert_eq!(refused(&lab, "logs", none).await, FleetErrorKind::NoSuchContainer);
    assert_eq!(refused(&lab, "logs", json!({ "deployment": "../x" })).await, FleetErrorKind::Malformed);
    assert_eq!(refused(&lab, "no-such-verb", Value::Null).await, FleetErrorKind::UnknownVerb);
    let exec = json!({ "deployment": "shop", "container": "web", "command": ["true"], "timeout": 5 });
    assert_eq!(refused(&lab, "exec", exec).await, FleetErrorKind::ExecDisabled);
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}

#[tokio::test]
async fn facts_are_told_and_programs_run_within_bounds() {
    let podman = podman_or_return!();
    let Some(lab) = Lab::start().await else { return };
    let agent = lab.agent(podman.topology("lab-1").with_exec());
    lab.ping().await;
    let facts: DeviceFacts = ok(&lab, Verb::Facts, Value::Null).await;
    assert!(facts.runtime.version.starts_with("podman ") && facts.runtime.exec_enabled, "{facts:?}");
    assert!(facts.runtime.images >= 1 && facts.memory_total > 0 && facts.cpus > 0, "{facts:?}");
    assert!(!facts.kernel.is_empty() && !facts.arch.is_empty() && !facts.os.is_empty(), "{facts:?}");

    lab.deploy("shop", 1, &[shell("sleep 1000")]).await;
    lab.phase("shop", Phase::Running).await;
    let exec = |command: &[&str], timeout: u64| json!({ "deployment": "shop", "container": "web", "command": command, "timeout": timeout });
    let done: ExecResult =
        ok(&lab, Verb::Exec, exec(&["sh", "-c", "echo out; echo err >&2; exit 7"], 20)).await;
    let expected =
        ExecResult { exit_code: 7, stdout: "out\n".into(), stderr: "err\n".into(), truncated: false };
    assert_eq!(done, expected);
    let done: ExecResult = ok(&lab, Verb::Exec, exec(&["sh", "-c", "yes | head -c 100000"], 20)).await;
    assert_eq!((done.stdout.len(), done.truncated), (64 * 1024, true));

    assert_eq!(refused(&lab, "exec", exec(&["sleep", "777"], 1)).await, FleetErrorKind::TimedOut);
    let deadline = Instant::now() + MINUTE;
    while podman.run(&["top", "lab-1.shop.web", "args"]).await.contains("777") {
        assert!(Instant::now() < deadline, "a program outlives its time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(refused(&lab, "exec", exec(&["true"], 61)).await, FleetErrorKind::Malformed);
    assert_eq!(refused(&lab, "exec", exec(&[], 1)).await, FleetErrorKind::Malformed);
    podman.run(&["run", "-d", "--name", "lab-1.shop.foreign", V1, "sleep", "1000"]).await;
    let foreign = json!({ "deployment": "shop", "container": "foreign", "command": ["true"], "timeout": 5 });
    assert_eq!(refused(&lab, "exec", foreign).await, FleetErrorKind::NoSuchContainer);
    assert_eq!(agent.denied(), 0);
    agent.stop().await;
}
