//! What an admin says of a device's health, and what is kept of it.

use super::stopped::Rack;
use crate::agent::lab::installed;
use crate::support::program::finish;
use serde_json::Value;

const DEVICE: &str = "rack-pi-1";

#[tokio::test]
async fn an_admin_takes_a_device_out_of_the_pool_and_puts_it_back_and_the_reasons_are_kept() {
    if !installed("nats-server", "podman") {
        return;
    }
    let rack = Rack::new();
    let coordinator = rack.coordinator().await;
    let ann = rack.user("ann").await;
    rack.device("its first handover", |device| device["usage"]["state"] == "free").await;
    let said = |verb, reason| ["device", verb, DEVICE, "--reason", reason];
    rack.pilab(&[&said("quarantine", "x")[..], &["--login", &ann]].concat())
        .await
        .refused("takes the role admin");
    rack.pilab(&said("maintenance", " ")).await.refused("has a reason");
    rack.pilab(&["device", "show", "rack-pi-9"]).await.refused("the lab has no device rack-pi-9");

    // Whoever has it keeps it; after that it is nobody's.
    let held = rack.pilab(&["reserve", DEVICE, "--json", "--login", &ann]).await.done().json().remove(0);
    rack.pilab(&said("maintenance", "a new fan")).await.done();
    rack.pilab(&["power", "on", DEVICE, "--login", &ann]).await.done();
    // What goes wrong at its handover does not put it back among those that are lent.
    rack.break_switch(true);
    rack.pilab(&["release", held["lease"].as_str().unwrap(), "--login", &ann]).await.done();
    rack.pilab(&["reserve", DEVICE, "--no-wait", "--login", &ann]).await.refused("");
    rack.break_switch(false);
    let out = rack.device("its return", |device| device["usage"]["state"] == "free").await;
    assert_eq!((&out["health"], &out["reason"]), (&"maintenance".into(), &"a new fan (local)".into()));
    let refused = rack.pilab(&["reserve", DEVICE, "--no-wait", "--login", &ann]).await;
    refused.refused("is not lent: maintenance: a new fan (local)");

    rack.pilab(&said("release", "it turns")).await.done();
    let shown =
        rack.pilab(&["device", "show", DEVICE, "--json", "--login", &ann]).await.done().json().remove(0);
    let checkups: Vec<_> =
        shown["checkups"].as_array().unwrap().iter().map(|one| one["health"].clone()).collect();
    assert_eq!(checkups, ["good", "maintenance", "good"].map(Value::from));
    assert_eq!(shown["past"][0]["holder"], "ann");
    rack.pilab(&["reserve", DEVICE, "--no-wait", "--login", &ann]).await.done();
    finish(coordinator).await;
}
