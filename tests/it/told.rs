//! What a command that changes something tells machines of it.

use crate::coordinator::Bench;
use crate::support::program::finish;
use serde_json::{Value, json};

#[tokio::test]
async fn what_was_changed_is_told_to_machines_too() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    let device = "team-box-1";
    let lease = bench.reserve(&[device]).await;
    let said = async |args: &[&str]| -> Value {
        let args = [args, &["--json"]].concat();
        bench.pilab(&args).await.done().json().remove(0)
    };
    let told = said(&["power", "on", device]).await;
    assert_eq!(told, json!({ "device": device, "power": "on", "attempt": 1 }));
    let told = said(&["deploy", device, "lab/deployments/hello.toml"]).await;
    assert_eq!(told, json!({ "device": device, "deployment": "hello", "generation": 1 }));
    for was_there in [true, false] {
        let told = said(&["undeploy", device, "hello"]).await;
        assert_eq!(told, json!({ "device": device, "deployment": "hello", "was_there": was_there }));
    }
    let told = said(&["power", "off", device]).await;
    assert_eq!(told, json!({ "device": device, "power": "off", "attempt": 1 }));
    let told = said(&["device", "maintenance", device, "--reason", "a fan"]).await;
    assert_eq!(told, json!({ "device": device, "health": "maintenance", "reason": "a fan" }));
    assert_eq!(said(&["release", &lease]).await, json!({ "lease": lease, "state": "ended" }));
    finish(coordinator).await;
}
