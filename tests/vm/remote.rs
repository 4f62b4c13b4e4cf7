//! Devices from afar: a user whose network leads to the lab's NATS server and nowhere else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::guest::skip;
use crate::pilab::Bench;
use ::pilab::support::command::Command;

const DEVICE: &str = "laptop-vm-1";

/// A network of its own, a pair of virtual cables long, from which one address of this machine can be reached.
struct Far {
    name: String,
    cable: String,
}

impl Far {
    async fn reaching(address: &str) -> Self {
        let number = std::process::id();
        let far = Self { name: format!("pilab-far-{number}"), cable: format!("pf{number}") };
        let Self { name, cable } = &far;
        let (inner, route) = (format!("{cable}i"), format!("{address}/32"));
        ip(&["netns", "add", name]).await;
        ip(&["link", "add", cable, "type", "veth", "peer", "name", &inner, "netns", name]).await;
        ip(&["addr", "add", "198.18.79.1/30", "dev", cable]).await;
        ip(&["link", "set", cable, "up"]).await;
        ip(&["-n", name, "addr", "add", "198.18.79.2/30", "dev", &inner]).await;
        ip(&["-n", name, "link", "set", &inner, "up"]).await;
        ip(&["-n", name, "route", "add", &route, "via", "198.18.79.1"]).await;
        far
    }
}

impl Drop for Far {
    #[expect(clippy::disallowed_methods, reason = "there is no waiting in a drop")]
    fn drop(&mut self) {
        for args in [["link", "del", &self.cable], ["netns", "del", &self.name]] {
            let _ = std::process::Command::new("ip").args(args).status();
        }
    }
}

async fn ip(args: &[&str]) {
    Command::new("ip").args(args.iter().copied()).output().await.unwrap();
}

#[tokio::test]
async fn a_device_is_entered_from_where_nats_alone_can_be_reached() {
    if !rustix::process::geteuid().is_root() {
        return skip("a network namespace is root's to make");
    }
    let Some(bench) = Bench::new().await else { return };
    let coordinator = bench.coordinator().await;
    bench.call("reserve", &[DEVICE, "--for", "1h"]).await.exits(0);
    bench.call("power", &["on", DEVICE]).await.exits(0);
    bench.device(DEVICE, "its agent", |row| row["stage"] == "agent" || row["stage"] == "login").await;

    let login = std::fs::read(bench.path("state/labs/laptop/login.json")).unwrap();
    let login: serde_json::Value = serde_json::from_slice(&login).unwrap();
    let server = login["url"].as_str().unwrap().strip_prefix("nats://").unwrap();
    let far = Far::reaching(server.rsplit_once(':').unwrap().0).await;
    let call = async |args: &[&str]| bench.call_from(&far.name, args).await;

    call(&["ssh", DEVICE, "--", "cat", "/run/pilab/identity.json"]).await.exits(0).says(DEVICE);
    call(&["ssh", DEVICE, "exit 7"]).await.exits(7);
    let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (out, back) = (bench.path("with: colon"), bench.path("back"));
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("data"), &sent).unwrap();
    call(&["put", DEVICE, out.to_str().unwrap(), "/run/sent"]).await.exits(0);
    call(&["get", DEVICE, "/run/sent", back.to_str().unwrap()]).await.exits(0);
    assert!(std::fs::read(back.join("data")).unwrap() == sent, "the file came back as another");
    call(&["ssh", DEVICE, "-i", "/nonexistent"]).await.exits(4).says("/nonexistent.pub");
    let banner = ["forward", "--stdio", DEVICE, "22"];
    call(&banner).await.says("SSH-2.0-OpenSSH");

    // The key that was let in does not outlast the lease, nor does the right to come in at all.
    let told = bench.call("queue", &["--json"]).await.exits(0).stdout;
    let lease: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    bench.call("release", &[lease["lease"].as_str().unwrap()]).await.exits(0);
    call(&["ssh", DEVICE, "true"]).await.exits(2).says("the lease has ended");
    bench.device(DEVICE, "its return", |row| row["usage"]["state"] == "free" && row["power"] == "off").await;
    coordinator.signal("TERM").await;
    coordinator.end().await.exits(0);
    bench.is_clean().await;
}
