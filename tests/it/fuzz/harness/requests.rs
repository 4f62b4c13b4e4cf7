//! Bodies of the requests that the coordinator answers, what agents read and write, and the subjects that name the caller.

use pilab::agent::score;
use pilab::model::id::DeploymentName;
use pilab::model::identity::Identity;
use pilab::model::ledger::Record;
use pilab::model::workload::{Index, Presence, Status};
use pilab::wire::boot::{Boot, EventsOf, UploadAsked, UploadPiece};
use pilab::wire::console::{ConsoleBreak, ConsoleChunk, ConsoleRead, ConsoleWrite};
use pilab::wire::deploying::{Apply, Deploy, StatusAsked, Undeploy, VerifyAsked, Withdraw};
use pilab::wire::fleet::{ExecRequest, LogsRequest, Pong};
use pilab::wire::lending::{
    DeviceAsked, Extend, HealthSaid, LeaseAsked, LeaseRef, LoginAsked, LogoutAsked, Power, Reserve, Transfer,
};
use pilab::wire::request::{BundleRead, EventsRequest, RunRef, RunRequest};
use pilab::wire::subject;
use pilab::wire::tunnel::{Admit, TunnelId, TunnelOpen, TunnelReceive, TunnelSend};
use serde::de::DeserializeOwned;
use serde_json::json;

pub(crate) fn corpus() -> Vec<Vec<u8>> {
    let token = json!({ "epoch": 1, "sequence": 3 });
    let service = json!({
        "name": "web", "image": "localhost/web:1", "args": ["-v"], "env": { "A": "b" },
        "volumes": ["/srv:/srv:ro", "data:/data"], "ports": ["127.0.0.1:8080:80/tcp", "[::1]:53:53/udp"],
        "restart": "always", "limits": { "memory": 67_108_864, "cpu_millis": 500, "pids": 20 },
        "health": { "command": ["true"], "interval": 5, "timeout": 2, "retries": 3, "start_period": 0 },
        "stop_timeout": 10, "pull": "if-missing"
    });
    let init = json!({ "name": "migrate", "image": "localhost/m:1", "timeout": 30 });
    let score = json!({ "type": "PodmanV0", "data": { "init_containers": [init], "services": [service], "probation": 10 } });
    let duration = json!({ "secs": 60, "nanos": 0 });
    let file = json!({ "sha256": "0".repeat(64), "bytes": 5 });
    let values = [
        json!({ "version": 1, "generation": 2, "token": token, "score": score }),
        json!({ "version": 1, "deployments": { "web": 2, "db": 7 } }),
        json!({ "version": 1, "device": "lab-vm-1", "attempt": 2, "nats_url": "nats://192.0.2.1:4222" }),
        json!({ "deployment": "web", "container": "hello", "cursor": "", "wait_ms": 100 }),
        json!({ "deployment": "web", "container": "hello", "command": ["id"], "timeout": 5 }),
        json!({ "version": 1, "run": "ping-1-1", "from": 3 }),
        json!({
            "version": 1, "id": "l-1", "purpose": "p", "duration": duration, "priority": "normal",
            "hold_by_process": null, "start_ms": null, "no_wait": false,
            "needs": [{ "role": "dut", "device": "lab-vm-1", "model": "vm-aarch64", "labels": { "a": "b" } }]
        }),
        json!({ "device": "lab-vm-1", "act": "cycle", "force": "why" }),
        json!({ "device": "lab-vm-1", "health": "quarantined", "reason": "why" }),
        json!({ "device": "lab-vm-1", "from": { "offset": 7 } }),
        json!({ "device": "lab-vm-1", "from": 7, "wait": duration }),
        json!({ "device": "lab-vm-1", "bytes": "AP8K" }),
        json!({ "device": "lab-vm-1", "deployment": "web", "score": score }),
        json!({
            "lease": "l-1",
            "spec": { "name": "web", "selector": { "model": "vm-aarch64", "labels": { "a": "b" } }, "score": score }
        }),
        json!({ "lease": null, "deployment": "web", "force": true }),
        json!({ "device": "lab-vm-1", "within": duration }),
        json!({ "device": "lab-vm-1", "what": { "kind": "image", "image": null } }),
        json!({ "device": "lab-vm-1", "what": { "kind": "kernel", "kernel": file, "initramfs": file, "cmdline": "a" } }),
        json!({ "device": "lab-vm-1", "what": { "kind": "tree", "files": { "overlays/../x": file }, "cmdline": "" } }),
        json!({ "device": "lab-vm-1", "files": [file, file] }),
        json!({ "file": file, "offset": 0, "bytes": "AP8K" }),
        json!({ "device": "lab-vm-1", "key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== a" }),
        json!({ "device": "lab-vm-1", "port": 22 }),
        json!({ "tunnel": u64::MAX, "offset": 3, "bytes": "AP8=", "end": false }),
        json!({ "user": "ann", "role": "admin", "ttl": duration }),
        json!({ "lease": "l-1", "to": "ann", "longer": duration, "once": 1, "wait": duration }),
        json!({ "run": "ping-1-1", "path": "../../etc/shadow", "offset": 0 }),
    ];
    let subjects = ["lab.lab.req.ann.reserve", "lab.lab.req.ann.console-read", "lab.*.req.>.x"];
    let payloads = values.iter().map(|value| value.to_string().into_bytes());
    payloads.chain(subjects.map(|subject| subject.as_bytes().to_vec())).collect()
}

fn reads<T: DeserializeOwned>(bytes: &[u8]) {
    let _ = serde_json::from_slice::<T>(bytes);
}

/// All decoders: whatever they are given, they answer.
pub(crate) fn run(bytes: &[u8]) {
    if let Ok(desired) = score::decode(bytes) {
        // What was let through can be worked with.
        let name = DeploymentName::new("web").unwrap();
        score::services(&name, &desired);
        let again = serde_json::to_vec(&desired).unwrap();
        assert_eq!(score::decode(&again).unwrap(), desired, "what is written reads back");
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some((user, verb)) = subject::parse_request(text)
    {
        let inbox = subject::inbox(user.as_str());
        assert!(!verb.contains('.') && !user.as_str().contains(['.', '*', '>', ' ']), "{text:?} {inbox:?}");
    }
    reads::<Index>(bytes);
    reads::<Status>(bytes);
    reads::<Presence>(bytes);
    reads::<Identity>(bytes);
    reads::<Record>(bytes);
    // What agents and the coordinator say to each other.
    reads::<Pong>(bytes);
    reads::<LogsRequest>(bytes);
    reads::<ExecRequest>(bytes);
    reads::<ConsoleChunk>(bytes);
    // Requests of users.
    reads::<Admit>(bytes);
    reads::<Apply>(bytes);
    reads::<Boot>(bytes);
    reads::<BundleRead>(bytes);
    reads::<ConsoleBreak>(bytes);
    reads::<ConsoleRead>(bytes);
    reads::<ConsoleWrite>(bytes);
    reads::<Deploy>(bytes);
    reads::<DeviceAsked>(bytes);
    reads::<EventsOf>(bytes);
    reads::<EventsRequest>(bytes);
    reads::<Extend>(bytes);
    reads::<HealthSaid>(bytes);
    reads::<LeaseAsked>(bytes);
    reads::<LeaseRef>(bytes);
    reads::<LoginAsked>(bytes);
    reads::<LogoutAsked>(bytes);
    reads::<Power>(bytes);
    reads::<Reserve>(bytes);
    reads::<RunRef>(bytes);
    reads::<RunRequest>(bytes);
    reads::<StatusAsked>(bytes);
    reads::<Transfer>(bytes);
    reads::<TunnelId>(bytes);
    reads::<TunnelOpen>(bytes);
    reads::<TunnelReceive>(bytes);
    reads::<TunnelSend>(bytes);
    reads::<Undeploy>(bytes);
    reads::<UploadAsked>(bytes);
    reads::<UploadPiece>(bytes);
    reads::<VerifyAsked>(bytes);
    reads::<Withdraw>(bytes);
}
