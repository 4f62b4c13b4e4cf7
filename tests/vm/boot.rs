//! `pilab boot` on a virtual machine: the lab's image until its agent answers, and a kernel of one's own.

use crate::pilab::Bench;
use serde_json::Value;
use std::path::Path;

const DEVICE: &str = "laptop-vm-1";

#[tokio::test]
async fn a_machine_is_booted_into_the_image_and_into_a_kernel_of_one_s_own() {
    let Some(bench) = Bench::new().await else { return };
    let coordinator = bench.coordinator().await;
    bench.call("reserve", &[DEVICE, "--for", "1h"]).await.exits(0);
    bench.call("boot", &[DEVICE]).await.exits(0).says("is up: agent ");

    // The newest image's own kernel, started as somebody else's: its initramfs finds no ticket, and says so.
    let images = bench.call("image", &["ls", "--json"]).await.exits(0).stdout;
    let image: Value = serde_json::from_str(images.lines().next().unwrap()).unwrap();
    let manifest = Path::new(image["path"].as_str().unwrap());
    let parts = manifest.parent().unwrap().parent().unwrap().join("parts");
    let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
    let part = |role: &str| parts.join(manifest[role]["sha256"].as_str().unwrap()).display().to_string();
    let (kernel, initrd) = (part("kernel"), part("initramfs"));
    let own = [DEVICE, "--kernel", &kernel, "--initrd", &initrd, "--cmdline", "mine=1"];
    bench.call("boot", &own).await.exits(0).says("is up: kernel ");
    let until = [&own[..], &["--until", "login"]].concat();
    bench.call("boot", &until).await.exits(1).says("sent 0 bytes").says("the kernel panicked");
    bench.call("boot", &[DEVICE, "--tree", "docs"]).await.exits(2).says("it has no boot ROM");
    let told = bench.call("queue", &["--json"]).await.exits(0).stdout;
    let lease: Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    bench.call("release", &[lease["lease"].as_str().unwrap()]).await.exits(0);
    bench.device(DEVICE, "its return", |row| row["usage"]["state"] == "free" && row["power"] == "off").await;
    coordinator.signal("TERM").await;
    coordinator.end().await.exits(0);
}
