//! `pilab verify` of what disagrees, through the program itself.

use crate::coordinator::{Bench, DEVICE};
use crate::support::program::finish;

#[tokio::test]
async fn what_is_not_as_desired_is_named_and_ends_with_a_code_of_its_own() {
    let Some(bench) = Bench::new() else { return };
    let coordinator = bench.coordinator().await;
    bench.reserve(&[DEVICE, "--for", "1h"]).await;
    bench.pilab(&["power", "on", DEVICE]).await.done();
    bench.device("its agent", |device| device["stage"] == "agent").await;
    // What cannot run disagrees, and is named.
    let broken = std::fs::read_to_string("lab/deployments/hello.toml").unwrap();
    let path = bench.dir.path().join("broken.toml");
    std::fs::write(&path, broken.replace("localhost/pilab/hello:1", "localhost/pilab/none:1")).unwrap();
    bench.pilab(&["deploy", DEVICE, path.to_str().unwrap()]).await.done();
    let behind = bench.pilab(&["verify", DEVICE]).await;
    assert_eq!(behind.code, Some(1), "{behind:?}");
    assert!(behind.stdout.contains("broken"), "{behind:?}");
    bench.pilab(&["undeploy", DEVICE, "broken"]).await.done();
    bench.pilab(&["verify", DEVICE, "--within", "30s"]).await.done();
    finish(coordinator).await;
}
