//! Devices in the tests of other projects: `pilab::testing` against a real coordinator with containers.

use crate::agent::lab::installed;
use crate::support::program::{Program, finish};
use pilab::model::boot::BootStage;
use pilab::model::id::{DeploymentName, DeviceId};
use pilab::model::workload::{Phase, Score};
use pilab::testing::{Lab, Needs, TestingError};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

const DEVICE: &str = "team-box-1";
/// A bound for what takes seconds.
const SOON: Duration = Duration::from_secs(60);

fn hello() -> Score {
    let service = json!({ "name": "hello", "image": "localhost/pilab/hello:1" });
    serde_json::from_value(json!({ "type": "PodmanV0", "data": { "services": [service] } })).unwrap()
}

async fn is_free(bench: &Program) {
    let free = |device: &Value| device["usage"]["state"] == "free" && device["power"] == "off";
    bench.device_until(DEVICE, "its return", free).await;
}

/// What a test of another project would be.
async fn its_device_runs_the_product(login: &Path) {
    let lab = Lab::open(login).await.unwrap();
    let needs =
        Needs::one("dut").device(DeviceId::new(DEVICE).unwrap()).purpose("the product's test").patience(SOON);
    let bench = lab.reserve(needs).await.unwrap();
    let dut = bench.device("dut").unwrap();
    dut.power_cycle().await.unwrap();
    dut.wait_stage(BootStage::Agent, SOON).await.unwrap();
    assert_eq!(dut.wait_console("agent st[a-z]+", SOON).await.unwrap(), "agent started");
    assert_eq!(dut.ping(SOON).await.unwrap().device, DEVICE);
    let web = DeploymentName::new("web").unwrap();
    dut.deploy(&web, hello()).await.unwrap();
    dut.wait_phase(&web, Some(Phase::Running), SOON).await.unwrap();
    let verified = dut.verify(Duration::from_secs(20)).await.unwrap();
    assert_eq!((verified.deployments, verified.mismatches.len()), (1, 0), "{verified:?}");
    dut.undeploy(&web).await.unwrap();
    dut.wait_phase(&web, None, SOON).await.unwrap();

    // What does not come says what was seen instead.
    let late = dut.wait_console("never", Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(&late, TestingError::Late { last, .. } if last.contains("gone deployment")), "{late}");
    assert!(matches!(bench.device("other"), Err(TestingError::NoRole { .. })));
    assert!(matches!(dut.wait_console("(", SOON).await, Err(TestingError::Pattern { .. })));
    bench.release().await.unwrap();
}

#[tokio::test]
async fn devices_are_used_and_go_back_whatever_becomes_of_the_test() {
    let tools = ["podman", "runc", "busybox", "nats-server"];
    if !tools.iter().all(|tool| installed(tool, "podman")) {
        return;
    }
    let text = "name = \"team\"\n[[pools]]\nname = \"box\"\nbackend = \"container\"\ncount = 1\n";
    let bench = Program::new(text);
    let coordinator = bench.coordinator().await;
    let ci = bench.login("ci", "user").await;
    its_device_runs_the_product(&ci).await;
    is_free(&bench).await;

    // A test that fails gives back as it unwinds.
    let mut tests = JoinSet::new();
    let login = ci.clone();
    tests.spawn(async move {
        let lab = Lab::open(&login).await.unwrap();
        let bench = lab.reserve(Needs::one("dut").patience(SOON)).await.unwrap();
        bench.device("dut").unwrap().power_on().await.unwrap();
        panic!("an assertion of the test");
    });
    assert!(tests.join_next().await.unwrap().unwrap_err().is_panic());
    is_free(&bench).await;

    // One that gives up waiting leaves nothing in the queue.
    let held = bench.pilab(&["reserve", DEVICE, "--json"]).await.done().json().remove(0);
    let lab = Lab::open(&ci).await.unwrap();
    let late = lab.reserve(Needs::one("dut").patience(Duration::from_millis(300))).await.unwrap_err();
    assert!(matches!(&late, TestingError::Late { last, .. } if last.contains("is local's")), "{late}");
    assert_eq!(bench.pilab(&["queue", "--json"]).await.done().json().len(), 1);
    let refused = lab.reserve(Needs::one("dut").label("camera", "yes")).await.unwrap_err();
    assert!(matches!(refused, TestingError::Refused { .. }), "{refused}");
    bench.pilab(&["release", held["lease"].as_str().unwrap()]).await.done();
    finish(coordinator).await;
}
